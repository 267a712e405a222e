"""The server of a test: the whole of it in a thread of its own, with its own loop and clock, and no listeners."""

from __future__ import annotations

import json as json_module
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import trio
import trio.testing

from imserver.auth import AccessTokens
from imserver.auth.secret import load_secret
from imserver.cli.toml import to_toml
from imserver.client.errors import ServerError
from imserver.config import Config, load_config
from imserver.errors import ConfigError
from imserver.plugin import AppContext, Credentials, Identity, Plugin
from imserver.server import Server as RealServer
from imserver.session import Session
from imserver.testing import http as http_module
from imserver.testing.client import Client
from imserver.testing.clock import Clock, ServerTime
from imserver.testing.http import HttpAnswer

#: What nearly every plugin stands on; `settings={"plugins.enabled": […]}` says otherwise.
DEFAULT_PLUGINS = ("user", "message", "push")
#: The kit's own.
OPERATOR = "testing"
#: How long the start and the stop may take, in real seconds.
PATIENCE_S = 30.0
#: Where clients come from.
_ADDRESS = "127.0.0.1"
_GET_USER = 1006
_TOKEN_TTL_MS = 10 * 365 * 24 * 3600 * 1000

T = TypeVar("T")


@asynccontextmanager
async def running(
    plugins: Sequence[str | Path | type[Plugin]] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
) -> AsyncIterator[Server]:
    """A server that runs while the block does.

    Args:
        plugins: those under test, beside `user`, `message` and `push`: a name (an installed plugin, or one in
            `plugins.paths`), the path of a module or a package, or a class.
        settings: as in the configuration file, with dotted keys: `{"plugins.dice.sides": 6, "limits.in_flight": 2}`.
            `server.shards` is 1 and nothing listens, whatever it says. By default there is no rate limit.
        folder: keeps the database, so that a second server can go on with it; made if it is missing. By default a new one
            that is removed.

    Raises:
        ConfigError, PluginError, StartError: the server does not start.
    """
    if folder is not None:
        async with _running(plugins, settings, folder) as server:
            yield server
    else:
        with tempfile.TemporaryDirectory(prefix="imserver-test-") as made:
            async with _running(plugins, settings, Path(made)) as server:
                yield server


@asynccontextmanager
async def _running(
    plugins: Sequence[str | Path | type[Plugin]], settings: Mapping[str, Any] | None, folder: Path
) -> AsyncIterator[Server]:
    config, classes = _configuration(plugins, settings or {}, folder)
    server = Server(config, classes)
    try:
        await server._start()
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server._stop()
    server._raise_failure()


class _Operator(Plugin):
    """Lets the kit itself in as an operator, to give users their roles."""

    name = OPERATOR
    key: ClassVar[str]

    async def authenticate(self, ctx: AppContext, credentials: Credentials) -> Identity | None:
        """See `Plugin`."""
        if credentials.api_key != self.key:
            return None
        return Identity(user_id=None, roles=frozenset({"admin"}), scopes=frozenset({"*", "admin"}))


def _operator() -> type[_Operator]:
    return type("Operator", (_Operator,), {"key": secrets.token_hex(16)})


class Server:
    """A running server; `running` makes it.

    Attributes:
        clock: its time.
        config: its configuration.
    """

    def __init__(self, config: Config, classes: Mapping[str, type[Plugin]]) -> None:
        self.config = config
        self._operator = _operator()
        self._classes = {**classes, OPERATOR: self._operator}
        self._mock = trio.testing.MockClock()
        self.clock = Clock(self._mock, self._in_server, self._is_busy, self._send_heartbeats)
        self._time = ServerTime(self._mock)
        self._real: RealServer | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stopping: trio.Event | None = None
        self._ended: trio.Event | None = None
        self._failure: BaseException | None = None
        self._clients: list[tuple[Client, list[Session]]] = []
        self._roles: dict[str, frozenset[str]] = {}

    # ------------------------------------------------------------ clients

    def connect(self) -> Client:
        """A new connection, on which nobody has logged in."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        sessions: list[Session] = []

        def accept() -> None:
            shard = self._server.shards[0]
            shard.directory.count(_ADDRESS)
            session = Session(shard, theirs, _ADDRESS)
            sessions.append(session)
            shard.accept(session)

        self._server.shards[0].post(accept)
        client = Client(ours, self.token)
        self._clients.append((client, sessions))
        return client

    async def login(self, user: str, *, roles: Iterable[str] = (), **fields: Any) -> Client:
        """A new connection of this user, who is made if there is none; see `Client.login`."""
        client = self.connect()
        await client.login(user, roles=roles, **fields)
        return client

    async def token(self, user: str, roles: Iterable[str] = ()) -> str:
        """An access token of this user, who is made if there is none.

        Args:
            roles: of a user that this makes.

        Raises:
            ValueError: the user has been made with other roles, or the plugin `user` is not enabled.
        """
        wanted = frozenset(roles)
        if "user" not in self.config.plugins.enabled:
            raise ValueError('logging in needs the plugin "user" in plugins.enabled')
        if wanted and self._roles.get(user, wanted) != wanted:
            raise ValueError(f"{user} was made with the roles {sorted(self._roles[user])}; name them at the first login")
        tokens = AccessTokens(load_secret(self.config.auth.secret_file))
        token = tokens.issue_foreign(user, now_ms=self.clock.now_ms(), ttl_ms=_TOKEN_TTL_MS)
        if user not in self._roles:
            # Whoever shows such a token is made at first sight.
            await self._must("POST", f"/v1/commands/{_GET_USER}", token=token, json={"user_ids": [user]})
            for role in sorted(wanted):
                path = f"/v1/admin/users/{user}/role"
                headers = {"X-API-Key": self._operator.key}
                await self._must("POST", path, headers=headers, json={"role": role, "present": True})
            self._roles[user] = wanted
        return token

    async def _must(self, method: str, path: str, **options: Any) -> None:
        answer = await self.http(method, path, **options)
        if answer.status != 200:
            raise ServerError.from_answer(answer.json())

    async def http(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Any = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """One request over HTTP, on a connection of its own.

        Args:
            path: with its query: "/v1/dice/6?times=2".
            token: of `Client.token` or `Server.token`; None: nobody asks.
            json: a value to send as JSON; else `body` is sent as it is.
        """
        sent = {**(headers or {}), "Connection": "close"}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if json is not None:
            body = json_module.dumps(json).encode()
            sent["Content-Type"] = "application/json"
        if body:
            sent["Content-Length"] = str(len(body))
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)

        def accept() -> None:
            shard = self._server.shards[0]
            shard.directory.count(_ADDRESS)
            self._server.doors.door(None).open(shard, theirs, _ADDRESS, "127.0.0.1:8080")

        self._server.shards[0].post(accept)
        return await http_module.ask(ours, method, path, sent, body)

    # ------------------------------------------------------------ looking, and moving on

    async def settle(self) -> None:
        """Wait until the server has nothing to do at this moment of its time: all is committed, answered and pushed."""
        await self.clock.settle()

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a SELECT, on what is committed."""
        return await self._in_server(partial(self._server.shards[0].database.read, sql, params))

    async def reload(self, plugin: str) -> str:
        """Reload a plugin from its file, as `imserver plugins reload` does.

        Raises:
            ReloadError: the old one goes on; the message says why.
        """
        return await self._in_server(partial(self._server.reloader.reload, plugin))

    # ------------------------------------------------------------ the thread

    @property
    def _server(self) -> RealServer:
        if self._real is None or self._token is None:
            raise RuntimeError("the server does not run")
        return self._real

    async def _start(self) -> None:
        here = trio.lowlevel.current_trio_token()
        started = trio.Event()
        ended = self._ended = trio.Event()

        async def serve() -> None:
            self._token = trio.lowlevel.current_trio_token()
            self._stopping = trio.Event()
            self._real = RealServer(self.config, clock=self._time, plugins=self._classes)
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(self._real.serve, stop=self._stopping))
                here.run_sync_soon(started.set)

        async def serve_in_thread() -> None:
            try:
                await trio.to_thread.run_sync(partial(trio.run, serve, clock=self._mock), limiter=trio.CapacityLimiter(1))
            except BaseException as exc:
                self._failure = exc
            finally:
                self._token = None
                started.set()
                ended.set()

        # No nursery around the test: it would put what the test raises into a group.
        trio.lowlevel.spawn_system_task(serve_in_thread)
        with trio.move_on_after(PATIENCE_S) as patience:
            await started.wait()
        if patience.cancelled_caught:
            raise RuntimeError(
                f"the server did not start in {PATIENCE_S:g} s; does an on_start wait for time to pass? It stands still then"
            )
        self._raise_failure()

    async def _stop(self) -> None:
        for client, _ in self._clients:
            client.close()
        token, stopping, ended = self._token, self._stopping, self._ended
        if ended is None:
            return
        if token is not None:

            def stop() -> None:
                self._mock.rate = 1.0  # what the stop waits for passes by itself
                if stopping is not None:
                    stopping.set()

            try:
                token.run_sync_soon(stop)
            except trio.RunFinishedError:
                self._token = None  # it ended by itself; the failure says why
        with trio.move_on_after(PATIENCE_S) as patience:
            await ended.wait()
        if patience.cancelled_caught:
            raise RuntimeError(f"the server did not stop in {PATIENCE_S:g} s")

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
            failure = failure.exceptions[0]
        if failure is not None:
            raise failure

    async def _in_server(self, call: Callable[[], Awaitable[T]]) -> T:
        """What an async function gives that runs in the server's thread."""
        token = self._token
        if token is None:
            self._raise_failure()
            raise RuntimeError("the server does not run")
        return await trio.to_thread.run_sync(partial(trio.from_thread.run, call, trio_token=token), abandon_on_cancel=True)

    def _is_busy(self) -> bool:
        """Something is on its way that no task of the server's loop shows."""
        shard = self._server.shards[0]
        return not (shard.journal.is_quiet and shard.is_settled)

    def _send_heartbeats(self, step_s: float) -> None:
        """Clients that are not silent are heard from however long a step is."""
        then = self._mock.current_time() + step_s
        for client, sessions in self._clients:
            if not client.is_silent:
                for session in sessions:
                    session.heard_at = then


def _configuration(
    plugins: Sequence[str | Path | type[Plugin]], settings: Mapping[str, Any], folder: Path
) -> tuple[Config, dict[str, type[Plugin]]]:
    """The configuration, and the plugins that are given as classes."""
    classes: dict[str, type[Plugin]] = {}
    names: list[str] = []
    paths: list[str] = []
    for plugin in plugins:
        if isinstance(plugin, Path):
            names.append(plugin.stem)
            paths.append(str(plugin.absolute().parent))
        elif isinstance(plugin, str):
            names.append(plugin)
        else:
            names.append(plugin.name)
            classes[plugin.name] = plugin
    tree: dict[str, Any] = {}
    enabled = [*DEFAULT_PLUGINS, *(name for name in names if name not in DEFAULT_PLUGINS)]
    defaults = {"plugins.enabled": enabled, "limits.requests_per_second": 0}
    forced = {"server.data_dir": str(folder / "data"), "server.shards": 1}
    for key, value in {**defaults, **_dotted(settings), **forced}.items():
        _put(tree, key, value)
    # First, since it is asked first who somebody is.
    tree["plugins"]["enabled"] = [OPERATOR, *tree["plugins"]["enabled"]]
    tree["plugins"]["paths"] = [*paths, *tree["plugins"].get("paths", [])]
    file = folder / "imserver.toml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(to_toml(_plain(tree)))
    # Without addresses: `load_config` wants one, and nobody is to find this server.
    config = load_config(file, environ={})
    return attrs.evolve(
        config, tcp=attrs.evolve(config.tcp, listen=()), http=attrs.evolve(config.http, listen=()), tls=None
    ), classes


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables as dotted keys: both may be given."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": each for inner, each in _dotted(value).items()}
        else:
            flat[key] = value
    return flat


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"settings: {key} is below a key that has a value")
    tree[last] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
