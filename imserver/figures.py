"""How the server is doing: what /metrics renders and the admin page draws.

All of it is read from plain integers in the objects that count, when somebody asks: a message pays nothing for it.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

import imserver
from imserver.commands import commands_of, routes_of
from imserver.log import lines_dropped

if TYPE_CHECKING:
    from imserver.clock import Clock
    from imserver.directory import Directory
    from imserver.journal import Journal
    from imserver.plugin import Plugin
    from imserver.shard import Shard


@attrs.frozen
class ShardFigures:
    """One shard.

    Attributes:
        lag_s: how long ago its loop last came round: it does ten times a second.
        worst_lag_s: the latest that it came within the last minute.
        stalls: how often it was held up.
        slow_consumers: clients that were cut off because they did not read.
        refused: connections that found no place, by the limit that was reached.
        http_refused: HTTP connections that found no place in the shard.
    """

    index: int
    sessions: int
    http_connections: int
    requests: int
    lag_s: float
    worst_lag_s: float
    stalls: int
    slow_consumers: int
    refused: Mapping[str, int]
    http_refused: int


@attrs.frozen
class CommandFigures:
    """One command, or with the ID 0 all that there are not: requests, and refusals and failures by code."""

    command_id: int
    name: str
    requests: int
    errors: Mapping[int, int]


@attrs.frozen
class Snapshot:
    """The figures of one moment. Counts are since the start; times in seconds."""

    version: str
    started_at_ms: int
    time_ms: int
    connections: int
    users_online: int
    messages: int
    commits: int
    commit_failures: int
    commit_s: float
    #: The newest commits' durations: median, 99th percentile, longest; None before the first.
    commit_p50_s: float | None
    commit_p99_s: float | None
    commit_max_s: float | None
    shards: Sequence[ShardFigures]
    commands: Sequence[CommandFigures]
    #: How long the commit that is under way has lasted; 0 without one.
    commit_age_s: float
    log_lines_dropped: int
    database_bytes: int
    wal_bytes: int
    #: When the TLS certificate ends; None without TLS.
    certificate_expires_at_ms: int | None


@attrs.frozen
class CommandInfo:
    """A command that a plugin brings."""

    command: int
    name: str
    allow: str


@attrs.frozen
class RouteInfo:
    """A path that a plugin answers over HTTP."""

    method: str
    path: str
    allow: str


@attrs.frozen
class PluginInfo:
    """A plugin that runs."""

    name: str
    summary: str
    module: str
    commands: Sequence[CommandInfo]
    routes: Sequence[RouteInfo]


def _described(plugin: Plugin) -> PluginInfo:
    return PluginInfo(
        name=plugin.name,
        summary=(inspect.getdoc(plugin) or "").partition("\n")[0],
        module=type(plugin).__module__,
        commands=[CommandInfo(row.command_id, row.name, row.allow) for row in commands_of(plugin)],
        routes=[RouteInfo(row.method, row.path, row.allow) for row in routes_of(plugin)],
    )


class Figures:
    """One server's figures.

    Attributes:
        plugins: those that run, in the order of their start.
        http_connections: how many a shard has, by its index; set when the HTTP listeners are there.
        http_refused: how many it has refused, likewise.
        database: the file; None where there is none.
        certificate_expires_at_ms: asks the TLS certificate; None without TLS.
    """

    def __init__(
        self, shards: Sequence[Shard], journal: Journal, directory: Directory, clock: Clock, plugins: Sequence[Plugin]
    ) -> None:
        self._shards = shards
        self._journal = journal
        self._directory = directory
        self._clock = clock
        self._started_at_ms = clock.now_ms()
        self.take_plugins(plugins)
        self.http_connections: Callable[[int], int] = lambda index: 0
        self.http_refused: Callable[[int], int] = lambda index: 0
        self.database: Path | None = None
        self.certificate_expires_at_ms: Callable[[], int] | None = None

    def take_plugins(self, plugins: Sequence[Plugin]) -> None:
        """These are the plugins that run from now on."""
        self.plugins = [_described(plugin) for plugin in plugins]

    def snapshot(self) -> Snapshot:
        """How things stand now. From any thread."""
        journal = self._journal
        recent_s = sorted(journal.recent_commits_s.copy())
        expires_at_ms = self.certificate_expires_at_ms
        return Snapshot(
            version=imserver.__version__,
            started_at_ms=self._started_at_ms,
            time_ms=self._clock.now_ms(),
            connections=self._directory.connections,
            users_online=len(self._directory.by_user),
            messages=journal.messages,
            commits=journal.commits,
            commit_failures=journal.failures,
            commit_s=journal.commit_s,
            commit_p50_s=_quantile(recent_s, 0.5),
            commit_p99_s=_quantile(recent_s, 0.99),
            commit_max_s=recent_s[-1] if recent_s else None,
            shards=[self._shard(shard) for shard in self._shards],
            commands=self._commands(),
            commit_age_s=journal.commit_age_s,
            log_lines_dropped=lines_dropped(),
            database_bytes=_size_of(self.database),
            wal_bytes=_size_of(None if self.database is None else Path(f"{self.database}-wal")),
            certificate_expires_at_ms=None if expires_at_ms is None else expires_at_ms(),
        )

    def _shard(self, shard: Shard) -> ShardFigures:
        return ShardFigures(
            index=shard.index,
            sessions=len(shard.sessions),
            http_connections=self.http_connections(shard.index),
            requests=shard.router.requests,
            lag_s=max(0.0, self._clock.monotonic() - shard.now),
            worst_lag_s=shard.loop_watch.lag_s,
            stalls=shard.loop_watch.stalls,
            slow_consumers=shard.slow_consumers,
            refused=dict(shard.connections_refused),
            http_refused=self.http_refused(shard.index),
        )

    def _commands(self) -> list[CommandFigures]:
        requests: Counter[int] = Counter()
        errors: dict[int, Counter[int]] = {}
        for shard in self._shards:
            requests.update(shard.router.requests_by_command())
            for (command_id, code), count in list(shard.router.errors.items()):
                errors.setdefault(command_id, Counter())[code] += count
        names = {command.command_id: command.name for command in self._shards[0].table}
        if 0 in errors:
            names[0] = "unknown"
        return [
            CommandFigures(command_id, name, requests[command_id], errors.get(command_id, {}))
            for command_id, name in sorted(names.items())
        ]


def _size_of(path: Path | None) -> int:
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:  # there is no WAL yet
        return 0


def _quantile(ascending: Sequence[float], quantile: float) -> float | None:
    return ascending[min(len(ascending) - 1, int(len(ascending) * quantile))] if ascending else None
