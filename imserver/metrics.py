"""Prometheus metrics, read at scrape time from plain integers in the objects that count: a message pays nothing for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import imserver

if TYPE_CHECKING:
    from imserver.directory import Directory
    from imserver.journal import Journal
    from imserver.shard import Shard


class ServerCollector(Collector):
    """One server's figures."""

    def __init__(self, shards: list[Shard], journal: Journal, directory: Directory) -> None:
        self._shards = shards
        self._journal = journal
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        info = GaugeMetricFamily("imserver_info", "Always 1; the version is the label.", labels=["version"])
        info.add_metric([imserver.__version__], 1)
        yield info
        yield GaugeMetricFamily("imserver_connections", "Open TCP connections.", value=self._directory.connections)
        yield GaugeMetricFamily("imserver_users_online", "Users with a live session.", value=len(self._directory.by_user))
        requests = CounterMetricFamily("imserver_requests", "Frames dispatched.", labels=["shard"])
        sessions = GaugeMetricFamily("imserver_sessions", "Connections by shard.", labels=["shard"])
        for shard in self._shards:
            requests.add_metric([str(shard.index)], shard.router.requests)
            sessions.add_metric([str(shard.index)], len(shard.sessions))
        yield requests
        yield sessions
        journal = self._journal
        yield CounterMetricFamily("imserver_commits", "Commits that are durable.", value=journal.commits)
        yield CounterMetricFamily("imserver_commit_failures", "Commits that failed.", value=journal.failures)
        yield CounterMetricFamily("imserver_messages_stored", "Messages that are durable.", value=journal.messages)
        yield CounterMetricFamily("imserver_commit_seconds", "Time spent in commits.", value=journal.commit_s)


class Metrics:
    """Renders a server's metrics.

    Args: as `ServerCollector`.
    """

    def __init__(self, shards: list[Shard], journal: Journal, directory: Directory) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._registry.register(ServerCollector(shards, journal, directory))

    def render(self) -> tuple[bytes, str]:
        """The text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
