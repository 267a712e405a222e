"""The figures in Prometheus's text format."""

from __future__ import annotations

from collections import Counter
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
        yield from _of_storage(now)
        yield CounterMetricFamily(
            "imserver_log_lines_dropped", "Log lines dropped because their reader was slow.", value=now.log_lines_dropped
        )
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
    lag = GaugeMetricFamily(
        "imserver_loop_lag_seconds", "The latest that the shard's loop came within a minute.", labels=["shard"]
    )
    stalls = CounterMetricFamily("imserver_loop_stalls", "How often the shard's loop was held up.", labels=["shard"])
    slow = CounterMetricFamily(
        "imserver_slow_consumers", "Clients that were cut off because they did not read.", labels=["shard"]
    )
    for shard in now.shards:
        labels = [str(shard.index)]
        requests.add_metric(labels, shard.requests)
        sessions.add_metric(labels, shard.sessions)
        http.add_metric(labels, shard.http_connections)
        lag.add_metric(labels, shard.worst_lag_s)
        stalls.add_metric(labels, shard.stalls)
        slow.add_metric(labels, shard.slow_consumers)
    yield from (requests, sessions, http, lag, stalls, slow, _of_refusals(now))


def _of_refusals(now: Snapshot) -> Metric:
    refused = CounterMetricFamily(
        "imserver_connections_refused", "Connections that found no place, by the limit.", labels=["limit"]
    )
    by_limit = Counter({"limits.max_connections": 0, "limits.connections_per_address": 0, "http": 0})
    for shard in now.shards:
        by_limit.update(shard.refused)
        by_limit["http"] += shard.http_refused
    for limit, count in by_limit.items():
        refused.add_metric([limit], count)
    return refused


def _of_storage(now: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("imserver_commit_age_seconds", "Age of the commit under way; 0: none.", value=now.commit_age_s)
    yield GaugeMetricFamily("imserver_database_bytes", "Size of the database file.", value=now.database_bytes)
    yield GaugeMetricFamily("imserver_wal_bytes", "Size of the write-ahead log.", value=now.wal_bytes)


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
