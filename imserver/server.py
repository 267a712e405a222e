"""The composition root: builds, starts and stops everything, in one readable order.

start: settings → plugins → database → journal → shards → the plugins' `on_start` → listeners → "ready"
stop:  listeners → GOAWAY → what is in flight → the plugins' `on_stop` → shards → journal → database
"""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from imserver.auth import load_secret
from imserver.cache import Cache
from imserver.clock import Clock, SystemClock
from imserver.clock_alarm import ClockAlarm
from imserver.commands import CommandTable
from imserver.config import Config
from imserver.connection import add_connection_commands
from imserver.control import serve_control
from imserver.conversations import Conversations
from imserver.descriptors import raise_descriptors
from imserver.directory import Directory
from imserver.doors import HttpDoors, frames_door
from imserver.errors import FAULTS, ConfigError, ImserverError, StartError
from imserver.figures import Figures
from imserver.http.app import build_app
from imserver.http.asgi import ASGIApp
from imserver.http.discover import Endpoints
from imserver.journal import Journal
from imserver.listeners import Door, Listener, bind, shown_address
from imserver.log import flush, get_logger
from imserver.metrics import Metrics
from imserver.plugin_loader import Classes, Registry, load_plugins
from imserver.reload import Reloader
from imserver.session import LINGER_S
from imserver.shard import Shard
from imserver.snowflake import Snowflakes
from imserver.storage.database import Database
from imserver.storage.stores import Stores
from imserver.tls import ServerTls
from imserver.watch import CommitWatch

#: How often read cursors that ran ahead by own messages are written; a crash makes the next start work them out.
_FOLD_INTERVAL_S = 1.0
#: How often the drain looks whether all is done.
_DRAIN_LOOK_S = 0.02
#: How long the end waits for the commit that is under way, and for the last one.
_JOURNAL_STOP_S = 5.0
#: A commit that lasts longer makes the server not ready: the disk hangs.
_COMMIT_STALLED_S = 5.0
#: A shard whose loop has not come round for so long serves nobody; it does ten times a second.
_STALLED_S = 5.0


def run(config: Config, *, reread: Callable[[], Config] | None = None, watches_plugins: bool = False) -> int:
    """Run the server until SIGTERM or SIGINT; the exit status. See `Server`.

    Raises:
        ConfigError: a plugin's settings are wrong (exit status 2).
        StartError: it cannot start (exit status 3).
    """
    _tune_interpreter()
    try:
        server = Server(config, reread=reread, watches_plugins=watches_plugins)
        raise_descriptors(config.limits.max_connections)
        status = trio.run(server.serve)
        if server.is_stuck:
            # Its thread stands in a call to the disk, for which the interpreter's end would wait.
            flush()
            os._exit(status)
        return status
    except BaseExceptionGroup as group:
        wanted, rest = group.split(ImserverError)
        if wanted is not None and rest is None:
            raise _first(wanted) from group
        raise
    finally:
        flush()  # before whatever the caller has to say


def _first(group: BaseExceptionGroup[ImserverError]) -> ImserverError:
    exc: BaseException = group
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    assert isinstance(exc, ImserverError)
    return exc


def _tune_interpreter() -> None:
    # Collections find next to nothing here (no cycles on the way of a message) and walk all that lives: make them rare.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # The writer's thread asks for the GIL a few times a commit, and what waits for its commit waits for that too. Measured
    # at 100 pairs x 32 in flight: 84,000 messages/s at 50 us, 75,000 at 500 us, 73,000 at the default of 5 ms.
    sys.setswitchinterval(0.00005)


def shard_count(config: Config) -> int:
    """`server.shards`; "auto" is one a core where threads run in parallel, else one."""
    if config.server.shards != "auto":
        return int(config.server.shards)
    is_gil_enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return 1 if is_gil_enabled() else max(1, os.cpu_count() or 1)


class Server:
    """One server. `serve` once.

    Args:
        plugins: classes by name that need not be found; for tests.
        reread: reads the configuration again, for the settings of a plugin that is reloaded.
        watches_plugins: reload plugins whose files change.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        plugins: Classes | None = None,
        reread: Callable[[], Config] | None = None,
        watches_plugins: bool = False,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._reread = reread
        self._watches_plugins = watches_plugins
        self._log = get_logger("server")
        self._registry: Registry = load_plugins(config, plugins or {})
        self._table = CommandTable()
        add_connection_commands(self._table)
        self._table.add(self._registry.commands)
        self.directory = Directory()
        self.shards: list[Shard] = []
        self._frame_listeners: list[tuple[Shard, Listener]] = []
        #: host:port of each listener, once it is ready.
        self.tcp_addresses: list[str] = []
        self.http_addresses: list[str] = []
        self.is_ready = False
        #: It has ended with a commit under way that did not return.
        self.is_stuck = False

    # ------------------------------------------------------------ start

    def _build(self) -> tuple[Database, Journal]:
        config = self._config
        self._tls = None if config.tls is None else ServerTls(config.tls)
        load_secret(config.auth.secret_file)
        database = Database(config.server.data_dir, self._registry.migrations)
        stores = Stores(database, self._clock)
        self.conversations: Conversations
        journal = Journal(database, lambda batches: self.conversations.forget(batches))
        self.conversations = Conversations(
            snowflakes=Snowflakes(config.server.node, stores.conversations.last_snowflake(), self._clock.now_ms),
            clock=self._clock,
            load=stores.conversations.load,
            last_number=stores.conversations.last_conversation(),
            first_seq=stores.conversations.first_seq(),
            lock=journal.lock,
            open_batch=journal.open_batch,
        )
        self._caches = caches = {plugin.name: Cache(plugin.name) for plugin in self._registry.plugins}
        self.shards = [
            Shard(
                index,
                config=config,
                clock=self._clock,
                journal=journal,
                conversations=self.conversations,
                directory=self.directory,
                database=database,
                stores=stores,
                registry=self._registry,
                table=self._table,
                caches=caches,
            )
            for index in range(shard_count(config))
        ]
        self._figures = Figures(self.shards, journal, self.directory, self._clock, self._registry.plugins)
        self._figures.database = database.path
        if self._tls is not None:
            self._figures.certificate_expires_at_ms = partial(_expires_at_ms, self._tls)
        for shard in self.shards:
            shard.figures = self._figures
        journal.start(self.shards)
        return database, journal

    async def serve(
        self, *, stop: trio.Event | None = None, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
    ) -> int:
        """Serve until `stop` is set or, without it, until SIGTERM or SIGINT. Returns the exit status.

        Raises:
            StartError: it cannot start.
        """
        database, journal = self._build()
        threads: list[_ShardThread] = []
        try:
            first, *others = self.shards
            async with trio.open_nursery() as nursery:
                await nursery.start(first.run)
                threads += [_ShardThread(shard) for shard in others]
                try:
                    with _stop_requests(stop) as wait_for_stop:
                        await self._start_plugins(first)
                        self._listen(journal)
                        nursery.start_soon(self._fold_cursors, first)
                        nursery.start_soon(CommitWatch(journal).run)
                        if stop is None:  # else it is inside another program, whose signals are not ours
                            nursery.start_soon(self._reload)
                            await nursery.start(serve_control, self._config.server.data_dir, self.reloader.handle)
                        if self._watches_plugins:
                            nursery.start_soon(self.reloader.watch)
                        self.is_ready = True
                        self._log.info(
                            "ready",
                            tcp=self.tcp_addresses,
                            http=self.http_addresses,
                            shards=len(self.shards),
                            plugins=[plugin.name for plugin in self._registry.plugins],
                            data_dir=str(self._config.server.data_dir),
                        )
                        task_status.started(self)
                        reason = await wait_for_stop()
                    # From here on a second signal finds the default handler and ends the process at once.
                    self._log.info("stopping", reason=reason, drain_s=self._config.server.drain_s)
                    with trio.move_on_after(self._config.server.drain_s + LINGER_S, shield=True):
                        await self._drain(first, journal)
                finally:
                    for thread in threads:
                        thread.stop()
                    with trio.CancelScope(shield=True):
                        for thread in threads:
                            await trio.to_thread.run_sync(thread.join)
                    nursery.cancel_scope.cancel()
        finally:
            for shard in self.shards:
                shard.lose_sessions()
            self.is_stuck = not journal.stop(_JOURNAL_STOP_S)
            for shard in self.shards:
                shard.close()
            if not self.is_stuck:  # else its writer is in use
                database.close()
        if self.is_stuck:
            return 1
        self._log.info("stopped")
        return 1 if any(thread.has_crashed for thread in threads) else 0

    async def _start_plugins(self, shard: Shard) -> None:
        for plugin in self._registry.plugins:
            try:
                await plugin.on_start(shard.router.app_context(plugin.name))
            except (ConfigError, StartError):
                raise
            except Exception as exc:
                self._log.exception("plugin_start_fault", plugin=plugin.name)
                raise StartError(f"plugin {plugin.name} cannot start: {exc!r}") from exc

    def _listen(self, journal: Journal) -> None:
        config = self._config
        frames = frames_door(config, self._tls)
        doors = HttpDoors(config, self.shards, lambda shard: self._app(shard, journal))
        self.doors = doors
        self._figures.http_connections = lambda index: doors.servers[index].connections
        self._figures.http_refused = lambda index: doors.servers[index].refused
        self.reloader = Reloader(
            config,
            self.shards,
            self.directory,
            self._figures,
            self._registry,
            self._caches,
            doors.renew,
            self._reread,
        )
        http = doors.door(self._tls)
        bound: list[tuple[Door, list[socket.socket]]] = []
        for door, addresses, shown in (
            (frames, config.tcp.listen, self.tcp_addresses),
            (http, config.http.listen, self.http_addresses),
        ):
            for address in addresses:
                sockets = bind(address, len(self.shards))
                bound.append((door, sockets))
                shown.append(shown_address(sockets[0]))
                self._warn_of_plaintext(sockets[0])
        # Only now: the application tells clients where the listeners are.
        for door, sockets in bound:
            for shard, sock in zip(self.shards, sockets, strict=True):
                shard.post(partial(self._add_listener, shard, sock, door))

    def _add_listener(self, shard: Shard, sock: socket.socket, door: Door) -> None:
        listener = Listener(shard, sock, door)
        if not door.is_http:  # a draining server still answers /readyz
            self._frame_listeners.append((shard, listener))

    def _warn_of_plaintext(self, sock: socket.socket) -> None:
        host = sock.getsockname()[0].partition("%")[0]
        if self._tls is None and not ipaddress.ip_address(host).is_loopback:
            self._log.warning(
                "plaintext",
                address=shown_address(sock),
                advice="passwords and messages travel unencrypted: set [tls], or listen on loopback behind a TLS proxy",
            )

    async def _reload(self) -> None:
        """Read the certificate again at SIGHUP."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                if self._tls is None:
                    self._log.info("nothing_to_reload", advice="SIGHUP reads the files of [tls] again; there is none")
                else:
                    await trio.to_thread.run_sync(self._tls.reload)

    def _app(self, shard: Shard, journal: Journal) -> ASGIApp:
        return build_app(
            shard, checks=self._checks(journal), metrics=Metrics(self._figures).render, endpoints=self._endpoints
        )

    def _endpoints(self) -> Endpoints:
        server = self._config.server
        return Endpoints(server.name, server.node, self.tcp_addresses, self.http_addresses, self._tls is not None)

    def _checks(self, journal: Journal) -> dict[str, Callable[[], bool]]:
        return {
            "listening": lambda: self.is_ready,
            "storage": lambda: journal.is_healthy and journal.commit_age_s <= _COMMIT_STALLED_S,
            # A handler that blocks its shard stops that shard's clock: seen from here when it is another thread's.
            "shards": lambda: all(self._clock.monotonic() - shard.now < _STALLED_S for shard in self.shards),
        }

    async def _fold_cursors(self, shard: Shard) -> None:
        """Write the read cursors that own messages moved, a second's worth at a time."""
        alarm = ClockAlarm(self.conversations, self._clock)
        while True:
            alarm.look()
            shard.fold_cursors()
            await trio.sleep(_FOLD_INTERVAL_S)

    # ------------------------------------------------------------ stop

    async def _drain(self, first: Shard, journal: Journal) -> None:
        """Stop accepting, tell the clients, finish and commit what is in flight."""
        self.is_ready = False
        for shard, listener in self._frame_listeners:
            shard.post(listener.close)
        for shard in self.shards:
            shard.post(shard.begin_drain)
        with trio.move_on_after(self._config.server.drain_s) as scope:
            # Looked at, not signalled: it spans threads, and happens once.
            while not (journal.is_quiet and all(shard.is_quiet for shard in self.shards)):  # noqa: ASYNC110
                await trio.sleep(_DRAIN_LOOK_S)
        if scope.cancelled_caught:
            self._log.warning("drain_timeout", drain_s=self._config.server.drain_s)
        for shard in self.shards:
            shard.post(shard.go_away)
        for plugin in reversed(self.reloader.registry.plugins):
            try:
                await plugin.on_stop(first.router.app_context(plugin.name))
            except FAULTS:
                self._log.exception("plugin_stop_fault", plugin=plugin.name)
        first.fold_cursors()
        with trio.move_on_after(LINGER_S):
            while not (journal.is_quiet and not any(shard.sessions for shard in self.shards)):  # noqa: ASYNC110
                await trio.sleep(_DRAIN_LOOK_S)


def _expires_at_ms(tls: ServerTls) -> int:
    return int(tls.expires_at.timestamp() * 1000)


@contextmanager
def _stop_requests(stop: trio.Event | None) -> Iterator[Callable[[], Awaitable[str]]]:
    """Listen for the reason to stop: the event or, without one, SIGTERM and SIGINT."""
    if stop is not None:
        event = stop

        async def wait_for_event() -> str:
            await event.wait()
            return "asked to"

        yield wait_for_event
        return
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def wait_for_signal() -> str:
            return signal.Signals(await anext(signals)).name

        yield wait_for_signal


class _ShardThread:
    """A shard beside the first: its own thread and its own trio.run."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self.has_crashed = False
        self._started = threading.Event()
        self._log = get_logger("server")
        self._thread = threading.Thread(target=self._main, name=f"shard-{shard.index}", daemon=True)
        self._thread.start()
        self._started.wait()

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except Exception:
            # It serves nobody any more: better to stop, and be started again, than to lose a part of the users.
            self._log.exception("shard_fault", shard=self._shard.index)
            self.has_crashed = True
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            self._started.set()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._shard.run)
                self._started.set()

    def stop(self) -> None:
        """Cancel the shard's tasks; from the main thread."""
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._scope.cancel)
            except trio.RunFinishedError:
                self._token = None

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()
