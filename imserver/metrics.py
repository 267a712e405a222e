"""The figures in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imserver.figures import Figures, Snapshot


class ServerCollector(Collector):
    """One server's figures, read at scrape time."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        now = self._figures.snapshot()
        info = GaugeMetricFamily("imserver_info", "Always 1; the version is the label.", labels=["version"])
        info.add_metric([now.version], 1)
        yield info
        yield GaugeMetricFamily("imserver_connections", "Open connections of all kinds.", value=now.connections)
        yield GaugeMetricFamily("imserver_users_online", "Users with a live session.", value=now.users_online)
        yield from _of_shards(now)
        yield from _of_commands(now)
        yield CounterMetricFamily("imserver_commits", "Commits that are durable.", value=now.commits)
        yield CounterMetricFamily("imserver_commit_failures", "Commits that failed.", value=now.commit_failures)
        yield CounterMetricFamily("imserver_messages_stored", "Messages that are durable.", value=now.messages)
        yield CounterMetricFamily("imserver_commit_seconds", "Time spent in commits.", value=now.commit_s)
        if now.certificate_expires_at_ms is not None:
            yield GaugeMetricFamily(
                "imserver_certificate_expires_at_seconds",
                "When the TLS certificate ends, in seconds since the Unix epoch.",
                value=now.certificate_expires_at_ms / 1000,
            )


def _of_shards(now: Snapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily("imserver_requests", "Requests, by whatever door.", labels=["shard"])
    sessions = GaugeMetricFamily("imserver_sessions", "TCP and WebSocket connections by shard.", labels=["shard"])
    http = GaugeMetricFamily("imserver_http_connections", "HTTP connections by shard.", labels=["shard"])
    for shard in now.shards:
        labels = [str(shard.index)]
        requests.add_metric(labels, shard.requests)
        sessions.add_metric(labels, shard.sessions)
        http.add_metric(labels, shard.http_connections)
    yield requests
    yield sessions
    yield http


def _of_commands(now: Snapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily("imserver_command_requests", "Requests by command.", labels=["command"])
    errors = CounterMetricFamily(
        "imserver_command_errors", "Requests that were refused or failed, by command and code.", labels=["command", "code"]
    )
    for command in now.commands:
        requests.add_metric([command.name], command.requests)
        for code, count in command.errors.items():
            errors.add_metric([command.name, str(code)], count)
    yield requests
    yield errors


class Metrics:
    """Renders a server's metrics."""

    def __init__(self, figures: Figures) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._registry.register(ServerCollector(figures))

    def render(self) -> tuple[bytes, str]:
        """The text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
