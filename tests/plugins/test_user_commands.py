"""The user plugin's commands on an in-memory database, the real directory and a clock that stands still.

What needs sockets, several shards or a process is tested through a running server.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import attrs
import jwt
import msgspec
import pytest
import trio
import trio.testing

from imserver.config import Config
from imserver.config import Limits as LimitsSection
from imserver.directory import Directory
from imserver.plugin import (
    Conflict,
    ConstraintViolated,
    ImError,
    InvalidBody,
    NotAuthenticated,
    NotFound,
    PermissionDenied,
    PluginError,
    RateLimited,
    StorageUnavailable,
    TooLarge,
    auth,
)
from imserver_plugins.user import UserPlugin, background, requests, store
from imserver_plugins.user.store.statements import Statement

PASSWORD = "correct horse battery"
OTHER_PASSWORD = "staple correct horse"
START_MS = 1_800_000_000_000


class Done:
    """A write that is durable already."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        await trio.lowlevel.checkpoint()
        return self._result


class Database:
    """`ctx.db`, at once and in memory; `writes` counts, `fail` makes the next ones fail."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        for script in UserPlugin.migrations:
            self.connection.execute(script)
        self.writes = 0
        self.fail = False

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement."""
        return list(self.connection.execute(sql, params))

    async def read(self, sql: str, params: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        """See `imserver.context.database.PluginDatabase`."""
        await trio.lowlevel.checkpoint()
        return self.rows(sql, params)

    def write(self, sql: str, params: Sequence[Any] = (), /) -> Awaitable[Any]:
        """See `imserver.context.database.PluginDatabase`."""
        return self._unit([(sql, params)], single=True)

    def write_all(self, statements: Sequence[Statement], /) -> Awaitable[Any]:
        """See `imserver.context.database.PluginDatabase`."""
        return self._unit(statements, single=False)

    def _unit(self, statements: Sequence[Statement], *, single: bool) -> Done:
        if self.fail:
            raise StorageUnavailable("the disk is full")
        self.writes += 1
        try:
            with self.connection:
                results = [self.rows(sql, params) for sql, params in statements]
        except apsw.ConstraintError as exc:
            raise ConstraintViolated(str(exc)) from exc
        return Done(results[0] if single else results)


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, event: str, **fields: Any) -> None:
        """One line."""
        self.lines.append(f"{event} {fields!r}")

    warning = debug = info


@attrs.define(eq=False)
class Session:
    """What the plugin sees of a connection, and how it ended."""

    address: str
    user_id: str | None = None
    session_id: str = ""
    device_id: str = ""
    platform: str = ""
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] | None = None
    is_live: bool = True
    expires_at_ms: int | None = None
    connected_at_ms: int = START_MS
    deliver: str = "new"
    data: dict[str, Any] = attrs.field(factory=dict)
    ended: str | None = None
    after_answer: bool = False

    def revoke(self, error: str, message: str) -> None:
        """See `imserver.session.Session`."""
        self.ended = error


class Context:
    """What the plugin sees of the server."""

    def __init__(self, server: Server, session: Session) -> None:
        self.server = server
        self.session = session
        self.config = server.config
        self.settings = None
        self.db = server.db
        self.log = server.log
        self.clock = server
        self.directory = server.directory
        self.random = random.Random(1)

    def login(self, **fields: Any) -> str:
        """See `imserver.context.Context.login`."""
        session = self.session
        if session.user_id is not None:
            raise Conflict("bound", error="already_logged_in")
        self.server.before_login()
        session.user_id = fields["user_id"]
        session.session_id = fields["session_id"]
        session.device_id = fields["device_id"] or f"dev-{next(self.server.numbers)}"
        session.platform = fields["platform"]
        session.roles = frozenset(fields["roles"])
        session.expires_at_ms = fields["expires_at_ms"]
        session.deliver = fields["deliver"]
        replaced = self.directory.enter(session)  # type: ignore[arg-type]
        if replaced is not None:
            replaced.revoke("replaced", "")
        return session.device_id

    def logout_after_answer(self, error: str, message: str) -> None:
        """See `imserver.context.Context`."""
        self.session.ended = error
        self.session.after_answer = True

    def emit(self, event: str, **fields: Any) -> None:
        """See `imserver.context.Context`."""
        self.server.events.append((event, fields))

    async def call(self, command_id: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """See `imserver.context.Context`; stands for SYNC."""
        assert command_id == 2003
        if body["cursor"] == "bad":
            raise InvalidBody("no cursor", field="cursor")
        assert self.session.user_id is not None  # SYNC comes after the directory was entered
        return {"code": 0, "conversations": [], "next_cursor": body["cursor"] or "first", "more": False}

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """The background task is run by hand."""
        self.server.background = (task, args)


class Server:
    """A plugin and what it runs on."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.config = attrs.evolve(
            Config(),
            auth=attrs.evolve(Config().auth, secret_file=folder / "secret"),
            limits=attrs.evolve(LimitsSection(), **limits),
        )
        self.db = Database()
        self.log = Log()
        self.directory = Directory()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.background: Any = None
        self.numbers = itertools.count()
        self.ms = 0
        self.before_login: Callable[[], None] = lambda: None
        self.plugin = UserPlugin()

    def now_ms(self) -> int:
        """The wall clock."""
        return START_MS + self.ms

    def monotonic(self) -> float:
        """The other clock."""
        return self.ms / 1000

    async def start(self, **config: Any) -> Server:
        """Run the plugin's start; `config` changes `[auth]`."""
        self.config = attrs.evolve(self.config, auth=attrs.evolve(self.config.auth, **config))
        await self.plugin.on_start(Context(self, Session("127.0.0.1")))  # type: ignore[arg-type]
        return self

    @property
    def secret(self) -> bytes:
        """The key that signs tokens."""
        return self.config.auth.secret_file.read_bytes().strip()

    def connect(self, address: str = "127.0.0.1") -> Client:
        """A new connection."""
        return Client(self, Session(address, connected_at_ms=self.now_ms()))

    async def user(self, user_id: str, device_id: str | None = None) -> Client:
        """A registered user who is logged in."""
        client = self.connect()
        await client.register(user_id=user_id, password=PASSWORD)
        await client.login(user_id=user_id, password=PASSWORD, device_id=device_id)
        return client

    def foreign_token(self, user_id: str, **claims: Any) -> str:
        """A token as an integrating system signs it."""
        return jwt.encode({"sub": user_id, "exp": self.now_ms() // 1000 + 600} | claims, self.secret, algorithm="HS256")

    async def changed_by_cli(self, user_id: str, *statements: tuple[str, Sequence[Any]]) -> None:
        """What `admin.py` does in another process, and the background task's next look."""
        before = await store.changes.last_change(self.db)
        for sql, params in statements:
            self.db.rows(sql, params)
        self.db.rows("INSERT INTO user_changes (user_id, changed_at) VALUES (?, ?)", (user_id, self.now_ms()))
        context: Any = Context(self, Session(""))
        assert await background.follow_changes(self.plugin.state, context, before) == before + 1


class Client:
    """One connection; its methods are the commands, decoded as from the wire."""

    def __init__(self, server: Server, session: Session) -> None:
        self.server = server
        self.session = session
        self.context: Any = Context(server, session)
        self.answer: dict[str, Any] = {}

    def _request(self, kind: type, fields: dict[str, Any]) -> Any:
        given = {name: value for name, value in fields.items() if value is not None}
        return msgspec.convert(given, kind)

    async def register(self, **fields: Any) -> dict[str, Any]:
        """1001."""
        return await self.server.plugin.register(self.context, self._request(requests.Register, fields))

    async def login(self, **fields: Any) -> dict[str, Any]:
        """1002."""
        self.answer = await self.server.plugin.login(self.context, self._request(requests.Login, fields))
        return self.answer

    async def auth(self, token: str, **fields: Any) -> dict[str, Any]:
        """1003."""
        request = self._request(requests.Auth, {"token": token, **fields})
        return await self.server.plugin.auth(self.context, request)

    async def refresh(self, refresh_token: str) -> dict[str, Any]:
        """1004."""
        return await self.server.plugin.refresh(self.context, requests.Refresh(refresh_token))

    async def logout(self, *, everywhere: bool = False) -> dict[str, Any]:
        """1005."""
        return await self.server.plugin.logout(self.context, requests.Logout(everywhere))

    async def change_password(self, old: str, new: str) -> dict[str, Any]:
        """1008."""
        return await self.server.plugin.change_password(self.context, requests.ChangePassword(old, new))

    async def search(self, query: str, **fields: Any) -> dict[str, Any]:
        """1009."""
        request = self._request(requests.SearchUsers, {"query": query, **fields})
        return await self.server.plugin.search_users(self.context, request)

    async def devices(self) -> list[dict[str, Any]]:
        """1010."""
        answer = await self.server.plugin.list_devices(self.context, None)
        return list(answer["devices"])

    async def kick(self, session_id: str) -> dict[str, Any]:
        """1011."""
        return await self.server.plugin.kick_device(self.context, requests.KickDevice(session_id))

    def hang_up(self) -> None:
        """The connection is gone."""
        self.server.directory.leave(self.session)  # type: ignore[arg-type]
        self.server.plugin.on_disconnect(self.context)


@pytest.fixture
async def server(tmp_path: Path) -> Server:
    """A started one with the default configuration."""
    return await Server(tmp_path).start()


# ---------------------------------------------------------------- register


async def test_nobody_is_called_everybody(server: Server) -> None:
    """`@all` mentions all members of a group; it is nobody's name."""
    with pytest.raises(InvalidBody) as refused:
        await server.connect().register(user_id="@all", password=PASSWORD)
    assert refused.value.field == "user_id"


async def test_register_and_login_answer_as_the_protocol_says(server: Server) -> None:
    """The fields of 1001 and 1002, no more and no less; the password is stored as a hash alone."""
    client = server.connect()
    assert await client.register(user_id="alice", password=PASSWORD, nickname="Alice") == {"user_id": "alice"}
    answer = await client.login(user_id="alice", password=PASSWORD, device_id="phone", platform="ios", deliver="missed")
    assert set(answer) == {
        "user_id", "token", "refresh_token", "expires_at", "session_id", "heartbeat_ms", "server_time",
    }  # fmt: skip
    assert answer["user_id"] == "alice"
    assert answer["heartbeat_ms"] == 30_000
    assert answer["server_time"] == START_MS
    assert answer["expires_at"] == START_MS + 86_400_000 == client.session.expires_at_ms
    assert (client.session.device_id, client.session.platform, client.session.deliver) == ("phone", "ios", "missed")
    stored = str(server.db.rows("SELECT * FROM users")) + str(server.db.rows("SELECT * FROM user_sessions"))
    assert PASSWORD not in stored
    assert answer["refresh_token"] not in stored
    assert answer["token"] not in stored


async def test_a_user_id_is_taken_once(server: Server) -> None:
    """Also by two at the same moment: one gets it, the other 409."""
    outcomes: list[str] = []

    async def register() -> None:
        try:
            await server.connect().register(user_id="alice", password=PASSWORD)
        except Conflict:
            outcomes.append("conflict")
        else:
            outcomes.append("registered")

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(register)
    await register()
    assert sorted(outcomes) == ["conflict"] * 4 + ["registered"]


async def test_closed_registration_is_forbidden(tmp_path: Path) -> None:
    """`auth.registration = "closed"`: 403, and nobody is made."""
    server = await Server(tmp_path).start(registration="closed")
    with pytest.raises(PermissionDenied):
        await server.connect().register(user_id="alice", password=PASSWORD)
    assert server.db.rows("SELECT * FROM users") == []


async def test_registrations_are_limited_by_address(tmp_path: Path) -> None:
    """So many an hour from one address, exempt ones excepted; a refusal says when to come back."""
    server = await Server(tmp_path, registrations_per_hour=2).start()
    for number in range(2):
        await server.connect("192.0.2.1").register(user_id=f"a{number}", password=PASSWORD)
    with pytest.raises(RateLimited) as caught:
        await server.connect("192.0.2.1").register(user_id="a2", password=PASSWORD)
    assert caught.value.retry_after_ms == 1_800_000
    await server.connect("192.0.2.2").register(user_id="b", password=PASSWORD)
    for number in range(4):
        await server.connect("127.0.0.1").register(user_id=f"c{number}", password=PASSWORD)
    server.ms += 1_800_000
    await server.connect("192.0.2.1").register(user_id="a2", password=PASSWORD)


async def test_weak_passwords_are_refused(server: Server) -> None:
    """400 with the field, at REGISTER and at CHANGE_PASSWORD."""
    with pytest.raises(InvalidBody) as caught:
        await server.connect().register(user_id="alice", password="12345678")
    assert caught.value.field == "password"
    alice = await server.user("alice")
    with pytest.raises(InvalidBody) as caught:
        await alice.change_password(PASSWORD, "short")
    assert caught.value.field == "new_password"


# ---------------------------------------------------------------- login


async def test_unknown_user_and_wrong_password_look_alike(server: Server) -> None:
    """The same 401, word for word; also for a user without a password."""
    await server.user("alice")
    await server.connect().auth(server.foreign_token("shopper"))
    answers = []
    for user_id in ("alice", "nobody", "shopper"):
        with pytest.raises(NotAuthenticated) as caught:
            await server.connect().login(user_id=user_id, password="wrong password")
        answers.append(caught.value.answer())
    assert answers[0] == answers[1] == answers[2]


async def test_a_connection_is_logged_in_once(server: Server) -> None:
    """A second LOGIN is 409 and leaves the session as it was."""
    alice = await server.user("alice")
    session_id = alice.session.session_id
    await server.user("bob")
    for user_id in ("alice", "bob"):
        with pytest.raises(Conflict) as caught:
            await alice.login(user_id=user_id, password=PASSWORD)
        assert caught.value.error == "already_logged_in"
    assert (alice.session.user_id, alice.session.session_id) == ("alice", session_id)


async def test_two_logins_at_once_on_one_connection(server: Server) -> None:
    """One goes through, the other is told; no session is left over."""
    await server.connect().register(user_id="alice", password=PASSWORD)
    client = server.connect()
    errors: list[str] = []

    async def login() -> None:
        try:
            await client.login(user_id="alice", password=PASSWORD)
        except Conflict as exc:
            errors.append(exc.error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(login)
        nursery.start_soon(login)
    assert errors == ["already_logged_in"]
    assert len(server.db.rows("SELECT * FROM user_sessions")) == 1


async def test_the_same_device_logs_in_anew(server: Server) -> None:
    """The old connection is replaced and its tokens die; another device's do not."""
    phone = await server.user("alice", "phone")
    tablet = server.connect()
    await tablet.login(user_id="alice", password=PASSWORD, device_id="tablet")
    again = server.connect()
    await again.login(user_id="alice", password=PASSWORD, device_id="phone")
    assert (phone.session.ended, tablet.session.ended, again.session.ended) == ("replaced", None, None)
    with pytest.raises(NotAuthenticated):
        await server.connect().auth(phone.answer["token"])
    with pytest.raises(NotAuthenticated):
        await server.connect().refresh(phone.answer["refresh_token"])
    await server.connect().auth(tablet.answer["token"])


async def test_without_a_device_id_any_number_may_be_open(server: Server) -> None:
    """Thirty logins at once of one user, all with the right password: none is taken for a guess."""
    await server.connect().register(user_id="alice", password=PASSWORD)
    clients = [server.connect("192.0.2.1") for _ in range(30)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(partial(client.login, user_id="alice", password=PASSWORD))
    assert len(server.directory.sessions("alice")) == 30
    assert len({client.session.device_id for client in clients}) == 30


async def test_sync_comes_with_the_login(server: Server) -> None:
    """`sync`: SYNC's answer without code; its refusal does not cost the tokens; left out, there is none."""
    await server.connect().register(user_id="alice", password=PASSWORD)
    answers = [
        await server.connect().login(user_id="alice", password=PASSWORD, sync=cursor) for cursor in ("", "c7", "bad", None)
    ]
    assert answers[0]["sync"] == {"conversations": [], "next_cursor": "first", "more": False}
    assert answers[1]["sync"]["next_cursor"] == "c7"
    assert answers[2]["sync"] == {"code": 400, "error": "bad_request", "message": "no cursor", "field": "cursor"}
    assert answers[2]["token"]
    assert "sync" not in answers[3]


async def test_a_password_changed_while_it_is_compared(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The login that has compared the old one comes too late: no session is stored."""
    alice = await server.user("alice", "phone")
    compare = server.plugin.state.passwords.verify

    async def compare_then_change(stored: str | None, password: str) -> auth.Verdict:
        verdict = await compare(stored, password)
        server.db.rows("UPDATE users SET password = ? WHERE user_id = 'alice'", (auth.hash_password(OTHER_PASSWORD),))
        return verdict

    monkeypatch.setattr(server.plugin.state.passwords, "verify", compare_then_change)
    with pytest.raises(NotAuthenticated):
        await server.connect().login(user_id="alice", password=PASSWORD, device_id="phone")
    rows = server.db.rows("SELECT session_id FROM user_sessions")
    assert rows == [(alice.session.session_id,)]


async def test_old_hashes_are_renewed_at_login(server: Server) -> None:
    """A hash with weaker parameters is replaced, and the password stays the same."""
    import argon2

    await server.connect().register(user_id="alice", password=PASSWORD)
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    server.db.rows("UPDATE users SET password = ?", (weak,))
    await server.connect().login(user_id="alice", password=PASSWORD)
    ((stored,),) = server.db.rows("SELECT password FROM users")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    await server.connect().login(user_id="alice", password=PASSWORD)


# ---------------------------------------------------------------- guessing


async def test_guessing_is_slowed_down_but_the_owner_gets_in(server: Server) -> None:
    """Ten wrong ones from many addresses, then 429, also with the right one; a device that alice used still gets in."""
    phone = await server.user("alice", "phone")
    phone.hang_up()
    for number in range(10):
        with pytest.raises(NotAuthenticated):
            await server.connect(f"192.0.2.{number}").login(user_id="alice", password="wrong password")
    for password in ("wrong password", PASSWORD):
        with pytest.raises(RateLimited) as caught:
            await server.connect("192.0.2.99").login(user_id="alice", password=password, device_id="other")
        assert caught.value.retry_after_ms
    await server.connect("192.0.2.99").login(user_id="alice", password=PASSWORD, device_id="phone")


async def test_an_unknown_user_is_slowed_down_the_same(server: Server) -> None:
    """429 tells nobody that there is such an account."""
    outcomes = []
    for _ in range(11):
        with pytest.raises(ImError) as caught:
            await server.connect().login(user_id="nobody", password="wrong password")
        outcomes.append(caught.value.code)
    assert outcomes == [401] * 10 + [429]


async def test_a_stolen_token_does_not_help_to_guess(server: Server) -> None:
    """CHANGE_PASSWORD's old password counts as a guess, on whatever device the token is used."""
    alice = await server.user("alice")
    outcomes = []
    for number in range(11):
        thief = server.connect()
        await thief.auth(alice.answer["token"], device_id=f"d{number}")
        with pytest.raises(ImError) as caught:
            await thief.change_password("wrong password", OTHER_PASSWORD)
        outcomes.append(caught.value.code)
    assert outcomes == [401] * 10 + [429]


# ---------------------------------------------------------------- tokens


async def test_auth_binds_by_ones_own_token(server: Server) -> None:
    """As LOGIN without the tokens; several connections may share the session."""
    alice = await server.user("alice", "phone")
    client = server.connect()
    answer = await client.auth(alice.answer["token"], device_id="tablet", sync="")
    assert set(answer) == {"user_id", "expires_at", "session_id", "heartbeat_ms", "server_time", "sync"}
    assert answer["session_id"] == alice.session.session_id
    assert client.session.device_id == "tablet"
    assert alice.session.ended is None
    await server.connect().auth(alice.answer["token"], device_id="phone")
    assert alice.session.ended == "replaced"


async def test_auth_again_renews_the_expiry(server: Server) -> None:
    """By the same user's token; another user's is 409."""
    alice, bob = await server.user("alice"), await server.user("bob")
    server.ms += 3_600_000
    fresh = await alice.refresh(alice.answer["refresh_token"])
    assert alice.session.expires_at_ms == fresh["expires_at"] == START_MS + 90_000_000
    alice.session.expires_at_ms = 0
    answer = await alice.auth(fresh["token"])
    assert answer["session_id"] == alice.session.session_id
    assert alice.session.expires_at_ms == fresh["expires_at"] == answer["expires_at"]
    with pytest.raises(Conflict) as caught:
        await alice.auth(bob.answer["token"])
    assert caught.value.error == "already_logged_in"
    assert alice.session.user_id == "alice"


async def test_an_expired_token_is_refused(server: Server) -> None:
    """By the server's clock, to the millisecond."""
    alice = await server.user("alice")
    server.ms = 86_400_000 - 1
    await server.connect().auth(alice.answer["token"])
    server.ms += 1
    with pytest.raises(NotAuthenticated):
        await server.connect().auth(alice.answer["token"])


async def test_integrators_users_are_made_at_first_sight(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand at once: no argon2, one write each, none the second time."""

    async def no_argon2(*_: object) -> auth.Verdict:
        raise AssertionError("argon2 for a token")

    monkeypatch.setattr(server.plugin.state.passwords, "verify", no_argon2)
    monkeypatch.setattr(server.plugin.state.passwords, "hash", no_argon2)
    for writes in (1000, 0):
        server.db.writes = 0
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(server.connect().auth, server.foreign_token(f"shopper{number}"))
        assert server.db.writes == writes
    assert server.db.rows("SELECT count(*), max(password) FROM users") == [(1000, None)]
    answer = await server.connect().auth(server.foreign_token("shopper1"))
    assert (answer["user_id"], answer["expires_at"]) == ("shopper1", START_MS + 600_000)


async def test_an_integrators_user_has_no_password_to_change(server: Server) -> None:
    """403, and nothing was compared."""
    client = server.connect()
    await client.auth(server.foreign_token("shopper"))
    with pytest.raises(PermissionDenied):
        await client.change_password(PASSWORD, OTHER_PASSWORD)


async def test_refresh_rotates(server: Server) -> None:
    """New tokens of the same session, before a login too; the chain goes on as long as one likes."""
    alice = await server.user("alice")
    alice.hang_up()
    token = alice.answer["refresh_token"]
    for _ in range(3):
        answer = await server.connect().refresh(token)
        assert set(answer) == {"token", "refresh_token", "expires_at"}
        assert answer["refresh_token"] != token
        token = answer["refresh_token"]
    assert (await server.connect().auth(answer["token"]))["session_id"] == alice.answer["session_id"]


@pytest.mark.parametrize("generation", [0, 1])
async def test_reuse_of_a_refresh_token_ends_the_family(server: Server, generation: int) -> None:
    """Whichever of the used ones: live connections are closed, the good one and the access tokens are dead."""
    alice = await server.user("alice")
    other = server.connect()
    await other.login(user_id="alice", password=PASSWORD)
    used = [alice.answer["refresh_token"]]
    for _ in range(2):
        answer = await alice.refresh(used[-1])
        used.append(answer["refresh_token"])
    with pytest.raises(NotAuthenticated):
        await server.connect().refresh(used[generation])
    assert (alice.session.ended, other.session.ended) == ("kicked", None)
    with pytest.raises(NotAuthenticated):
        await server.connect().refresh(used[2])
    with pytest.raises(NotAuthenticated):
        await server.connect().auth(answer["token"])
    await server.connect().refresh(other.answer["refresh_token"])


async def test_two_who_refresh_at_once(server: Server) -> None:
    """One token, two uses: that is reuse, whoever was first."""
    alice = await server.user("alice")
    outcomes: list[bool] = []

    async def refresh() -> None:
        try:
            await server.connect().refresh(alice.answer["refresh_token"])
        except NotAuthenticated:
            outcomes.append(False)
        else:
            outcomes.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refresh)
        nursery.start_soon(refresh)
    assert sorted(outcomes) == [False, True]
    assert alice.session.ended == "kicked"


async def test_refresh_tokens_that_never_were_cost_no_write(server: Server) -> None:
    """Random ones, access tokens, garbage, and an expired one: 401, the session lives on."""
    alice = await server.user("alice")
    server.db.writes = 0
    for token in (auth.new_refresh_token().text, alice.answer["token"], "", "é", "AAAA"):
        with pytest.raises(NotAuthenticated):
            await server.connect().refresh(token)
    assert server.db.writes == 0
    server.ms += 30 * 86_400_000
    with pytest.raises(NotAuthenticated):
        await server.connect().refresh(alice.answer["refresh_token"])
    assert alice.session.ended is None


# ---------------------------------------------------------------- sessions end


async def test_logout_ends_the_session(server: Server) -> None:
    """Its other connections at once, this one after the answer; its tokens are dead; other sessions live."""
    alice = await server.user("alice")
    shared, other = server.connect(), server.connect()
    await shared.auth(alice.answer["token"])
    await other.login(user_id="alice", password=PASSWORD)
    assert await alice.logout() == {}
    assert (alice.session.ended, alice.session.after_answer) == ("kicked", True)
    assert (shared.session.ended, shared.session.after_answer) == ("kicked", False)
    assert other.session.ended is None
    with pytest.raises(NotAuthenticated):
        await server.connect().auth(alice.answer["token"])
    with pytest.raises(NotAuthenticated):
        await server.connect().refresh(alice.answer["refresh_token"])
    await server.connect().auth(other.answer["token"])


async def test_logout_everywhere(server: Server) -> None:
    """All sessions, and the integrator's tokens that were issued before, seen or not."""
    alice = await server.user("alice")
    seen = server.foreign_token("alice")
    unseen = server.foreign_token("alice", iat=server.now_ms() // 1000 - 1)
    foreign, bob = server.connect(), await server.user("bob")
    await foreign.auth(seen)
    server.ms += 1
    await alice.logout(everywhere=True)
    assert (alice.session.ended, foreign.session.ended, bob.session.ended) == ("kicked", "kicked", None)
    for token in (alice.answer["token"], seen, unseen):
        with pytest.raises(NotAuthenticated):
            await server.connect().auth(token)
    await server.connect().auth(server.foreign_token("alice", iat=server.now_ms() // 1000))


async def test_logout_of_an_integrators_session_ends_its_token(server: Server) -> None:
    """The token is refused from now on; another of the same user is not."""
    token, other = server.foreign_token("shopper"), server.foreign_token("shopper", jti="other")
    client = server.connect()
    await client.auth(token)
    await client.logout()
    client.hang_up()
    with pytest.raises(NotAuthenticated):
        await server.connect().auth(token)
    await server.connect().auth(other)


async def test_a_failed_logout_has_not_happened(server: Server) -> None:
    """The disk is full: an error, and the session goes on."""
    alice = await server.user("alice")
    server.db.fail = True
    with pytest.raises(StorageUnavailable):
        await alice.logout()
    server.db.fail = False
    assert alice.session.ended is None
    await server.connect().auth(alice.answer["token"])


async def test_change_password_ends_the_other_sessions(server: Server) -> None:
    """This one stays; the old password is worth nothing."""
    alice = await server.user("alice")
    other, foreign = server.connect(), server.connect()
    await other.login(user_id="alice", password=PASSWORD)
    token = server.foreign_token("alice")
    await foreign.auth(token)
    assert await alice.change_password(PASSWORD, OTHER_PASSWORD) == {}
    assert (alice.session.ended, other.session.ended, foreign.session.ended) == (None, "kicked", "kicked")
    await server.connect().auth(alice.answer["token"])
    for dead in (other.answer["token"], token):
        with pytest.raises(NotAuthenticated):
            await server.connect().auth(dead)
    with pytest.raises(NotAuthenticated):
        await server.connect().login(user_id="alice", password=PASSWORD)
    await server.connect().login(user_id="alice", password=OTHER_PASSWORD)


async def test_change_password_wants_the_old_one(server: Server) -> None:
    """401, and nothing ends."""
    alice = await server.user("alice")
    other = server.connect()
    await other.login(user_id="alice", password=PASSWORD)
    with pytest.raises(NotAuthenticated):
        await alice.change_password("wrong password", OTHER_PASSWORD)
    assert other.session.ended is None
    await server.connect().login(user_id="alice", password=PASSWORD)


async def test_kick_device(server: Server) -> None:
    """One's own sessions, live or not; another's and unknown ones are 404 and live on."""
    alice, bob = await server.user("alice"), await server.user("bob")
    live, gone, foreign = server.connect(), server.connect(), server.connect()
    await live.login(user_id="alice", password=PASSWORD)
    await gone.login(user_id="alice", password=PASSWORD)
    gone.hang_up()
    token = server.foreign_token("alice")
    await foreign.auth(token)
    for kicked in (live, gone, foreign):
        assert await alice.kick(kicked.session.session_id) == {}
    assert (live.session.ended, foreign.session.ended, alice.session.ended) == ("kicked", "kicked", None)
    for dead in (live.answer["token"], gone.answer["token"], token):
        with pytest.raises(NotAuthenticated):
            await server.connect().auth(dead)
    for session_id in (bob.session.session_id, gone.session.session_id, "0" * 32):
        with pytest.raises(NotFound):
            await alice.kick(session_id)
    assert bob.session.ended is None
    await alice.kick(alice.session.session_id)
    assert alice.session.after_answer


async def test_list_devices(server: Server) -> None:
    """Stored sessions and integrators' live ones, with what the protocol lists; ended ones are not there."""
    alice = await server.user("alice", "phone")
    server.ms = 1000
    tablet, foreign, ended = (server.connect("192.0.2.1") for _ in range(3))
    await tablet.login(user_id="alice", password=PASSWORD, device_id="tablet", platform="android")
    await ended.login(user_id="alice", password=PASSWORD)
    await foreign.auth(server.foreign_token("alice"), device_id="web")
    await ended.logout()
    for client in (tablet, ended):
        client.hang_up()
    await server.connect().auth(alice.answer["token"], device_id="the phone's second connection")
    devices = {device["device_id"]: device for device in await alice.devices()}
    assert set(devices) == {"phone", "tablet", "web"}
    assert devices["tablet"] == {
        "session_id": tablet.session.session_id,
        "device_id": "tablet",
        "platform": "android",
        "address": "192.0.2.1",
        "connected_at": START_MS + 1000,
        "online": False,
    }
    assert {name: device["online"] for name, device in devices.items()} == {"phone": True, "tablet": False, "web": True}


# ---------------------------------------------------------------- bounds


async def test_a_users_sessions_are_bounded(tmp_path: Path) -> None:
    """The longest unseen makes room, revoked ones first; if all are online, 409; the same device always gets in."""
    server = await Server(tmp_path, sessions_per_user=3).start()
    await server.connect().register(user_id="alice", password=PASSWORD)
    clients: dict[str, Client] = {}
    for device in "abc":
        server.ms += 1000
        clients[device] = server.connect()
        await clients[device].login(user_id="alice", password=PASSWORD, device_id=device)
    with pytest.raises(Conflict) as caught:
        await server.connect().login(user_id="alice", password=PASSWORD, device_id="d")
    assert caught.value.error == "too_many_sessions"
    with pytest.raises(Conflict):
        await server.connect().auth(clients["a"].answer["token"], device_id="d")
    await server.connect().login(user_id="alice", password=PASSWORD, device_id="c")
    clients["b"].hang_up()
    server.ms += 1000
    clients["a"].hang_up()
    context: Any = clients["a"].context
    await background.write_last_seen(server.plugin.state, context)
    await server.connect().login(user_id="alice", password=PASSWORD, device_id="d")
    rows = server.db.rows("SELECT device_id FROM user_sessions ORDER BY device_id")
    assert rows == [("a",), ("c",), ("d",)]
    with pytest.raises(NotAuthenticated):
        await server.connect().auth(clients["b"].answer["token"])


async def test_revoked_sessions_make_room_first(tmp_path: Path) -> None:
    """A device that has logged out goes before one that is merely away for longer."""
    server = await Server(tmp_path, sessions_per_user=2).start()
    away = await server.user("alice", "away")
    away.hang_up()
    server.ms += 1000
    out = server.connect()
    await out.login(user_id="alice", password=PASSWORD, device_id="out")
    await out.logout()
    out.hang_up()
    await server.connect().login(user_id="alice", password=PASSWORD, device_id="new")
    assert server.db.rows("SELECT device_id FROM user_sessions ORDER BY 1") == [("away",), ("new",)]


@pytest.mark.parametrize(("max_sessions", "is_stored"), [(0, True), (1, False), (2, True)])
async def test_the_bound_is_kept_by_the_write_itself(server: Server, max_sessions: int, is_stored: bool) -> None:
    """Two logins that have both seen room: the one that is written second finds none."""
    await server.user("alice", "phone")
    ((password,),) = server.db.rows("SELECT password FROM users")
    session = store.sessions.NewSession("s", "alice", "tablet", "", "", START_MS, b"family", b"member", START_MS + 1)
    statements = store.sessions.open_session(session, password=password, evict=(), max_sessions=max_sessions)
    *_, stored = await server.db.write_all(statements)
    assert bool(stored) is is_stored


async def test_the_bound_holds_for_many_at_once(tmp_path: Path) -> None:
    """Ten logins of one user at the same moment: three get in, the others are told."""
    server = await Server(tmp_path, sessions_per_user=3).start()
    await server.connect().register(user_id="alice", password=PASSWORD)
    outcomes: list[str] = []

    async def login() -> None:
        try:
            await server.connect().login(user_id="alice", password=PASSWORD)
        except Conflict as exc:
            outcomes.append(exc.error)
        else:
            outcomes.append("in")

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(login)
    live = [session for session in server.directory.sessions("alice") if session.ended is None]  # type: ignore[attr-defined]
    assert len(live) <= 3
    assert len(server.db.rows("SELECT * FROM user_sessions")) <= 3
    assert set(outcomes) == {"in", "too_many_sessions"}


async def test_what_has_expired_is_dropped(server: Server) -> None:
    """Sessions whose refresh token is over, and revoked tokens that no longer need to be known."""
    await server.user("alice")
    foreign = server.connect()
    await foreign.auth(server.foreign_token("alice"))
    await foreign.logout()
    await server.db.write_all(store.sessions.forget_expired(server.now_ms()))
    counts = "SELECT (SELECT count(*) FROM user_sessions), (SELECT count(*) FROM user_revoked_tokens)"
    assert server.db.rows(counts) == [(1, 1)]
    await server.db.write_all(store.sessions.forget_expired(server.now_ms() + 31 * 86_400_000))
    assert server.db.rows(counts) == [(0, 0)]


# ---------------------------------------------------------------- races


@pytest.mark.parametrize("kind", ["own", "foreign", "password"])
async def test_a_session_that_ends_while_it_is_being_bound(server: Server, kind: str) -> None:
    """The revocation falls between the look at the database and the directory: the connection is closed."""
    alice = await server.user("alice", "phone")
    state: Any = server.plugin.state

    def revoke() -> None:
        server.before_login = lambda: None
        server.db.rows("UPDATE user_sessions SET revoked = 1")
        server.db.rows("UPDATE users SET tokens_from_ms = ?", (server.now_ms() + 1000,))
        state.revocations.add()
        server.directory.close("alice", "kicked", "")

    server.before_login = revoke
    client = server.connect()
    if kind == "password":
        attempt = client.login(user_id="alice", password=PASSWORD)
    elif kind == "own":
        attempt = client.auth(alice.answer["token"])
    else:
        attempt = client.auth(server.foreign_token("alice", iat=server.now_ms() // 1000))
    with pytest.raises(NotAuthenticated):
        await attempt
    assert client.session.ended == "kicked"
    assert not state.foreign_tokens


async def test_a_login_that_is_pushed_out_before_it_is_online(server: Server) -> None:
    """Others' logins took the place of its stored session before the directory knew of it: 409, not "wrong password"."""
    await server.user("alice", "phone")

    def push_out() -> None:
        server.before_login = lambda: None
        server.db.rows("DELETE FROM user_sessions")
        server.plugin.state.revocations.add()  # type: ignore[attr-defined]

    server.before_login = push_out
    client = server.connect()
    with pytest.raises(Conflict) as refusal:
        await client.login(user_id="alice", password=PASSWORD)
    assert refusal.value.error == "too_many_sessions"
    assert client.session.ended == "kicked"


async def test_a_logout_between_the_look_and_the_directory(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTH has read that the session lives, LOGOUT ends it and closes what is online, AUTH enters: and is refused."""
    alice = await server.user("alice")
    read = server.db.read

    async def read_then_log_out(sql: str, params: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        rows = await read(sql, params)
        monkeypatch.setattr(server.db, "read", read)
        await alice.logout()
        return rows

    monkeypatch.setattr(server.db, "read", read_then_log_out)
    late = server.connect()
    with pytest.raises(NotAuthenticated):
        await late.auth(alice.answer["token"])
    assert late.session.ended == "kicked"


async def test_two_who_change_the_password_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes second is told, and ends no sessions: its password is not the account's."""
    alice = await server.user("alice")
    other = server.connect()
    await other.login(user_id="alice", password=PASSWORD)
    hashing = server.plugin.state.passwords.hash

    async def hash_while_another_is_faster(password: str) -> str:
        monkeypatch.setattr(server.plugin.state.passwords, "hash", hashing)
        hashed = await hashing(password)
        server.db.rows("UPDATE users SET password = 'another'")
        return hashed

    monkeypatch.setattr(server.plugin.state.passwords, "hash", hash_while_another_is_faster)
    with pytest.raises(Conflict):
        await alice.change_password(PASSWORD, OTHER_PASSWORD)
    assert other.session.ended is None
    assert server.db.rows("SELECT DISTINCT revoked FROM user_sessions") == [(0,)]


async def test_a_login_beside_an_unrelated_revocation_goes_through(server: Server) -> None:
    """Somebody else's logout costs one more look, nothing else."""
    alice = await server.user("alice", "phone")

    def revoke() -> None:
        server.plugin.state.revocations.add()

    server.before_login = revoke
    for token in (alice.answer["token"], server.foreign_token("alice")):
        client = server.connect()
        await client.auth(token)
        assert client.session.ended is None


async def test_a_cancelled_login_has_ended_the_old_session_all_the_same(server: Server) -> None:
    """The client goes away during the commit: the device's old connection, whose row is gone, does not live on."""
    alice = await server.user("alice", "phone")
    write_all = server.db.write_all
    with trio.CancelScope() as scope:

        def cancel_then_write(statements: Sequence[Statement], /) -> Awaitable[Any]:
            scope.cancel()
            return write_all(statements)

        server.db.write_all = cancel_then_write  # type: ignore[method-assign]
        await server.connect().login(user_id="alice", password=PASSWORD, device_id="phone")
    assert alice.session.ended == "replaced"


# ---------------------------------------------------------------- the command line beside a running server


async def test_a_disabled_user_is_out_at_once(server: Server) -> None:
    """Live sessions are closed, the event is told, no password or token helps; enabled again, the password does."""
    alice = await server.user("alice", "phone")
    foreign = server.connect()
    token = server.foreign_token("alice")
    await foreign.auth(token)
    await server.changed_by_cli(
        "alice",
        ("UPDATE users SET disabled = 1 WHERE user_id = 'alice'", ()),
        ("UPDATE user_sessions SET revoked = 1 WHERE user_id = 'alice'", ()),
    )
    assert (alice.session.ended, foreign.session.ended) == ("kicked", "kicked")
    assert [event for event in server.events if event[0] not in ("user.created", "audit")] == [
        ("user.disabled", {"user_id": "alice"})
    ]
    with pytest.raises(PermissionDenied):
        await server.connect().login(user_id="alice", password=PASSWORD)
    with pytest.raises(NotAuthenticated):
        await server.connect().login(user_id="alice", password="wrong password")
    with pytest.raises(PermissionDenied):
        await server.connect().auth(token)
    with pytest.raises(NotAuthenticated):
        await server.connect().auth(alice.answer["token"])
    await server.changed_by_cli("alice", ("UPDATE users SET disabled = 0 WHERE user_id = 'alice'", ()))
    await server.connect().login(user_id="alice", password=PASSWORD)
    with pytest.raises(NotAuthenticated):
        await server.connect().refresh(alice.answer["refresh_token"])


async def test_roles_reach_live_sessions(server: Server) -> None:
    """Given and taken on a running server, for live sessions and the next logins; nobody is closed."""
    alice = await server.user("alice")
    foreign = server.connect()
    await foreign.auth(server.foreign_token("alice"))
    await server.changed_by_cli("alice", ("UPDATE users SET roles = '[\"admin\"]'", ()))
    for client in (alice, foreign):
        assert client.session.roles == {"admin"}
        assert client.session.ended is None
    later = server.connect()
    await later.auth(alice.answer["token"])
    assert later.session.roles == {"admin"}
    await server.changed_by_cli("alice", ("UPDATE users SET roles = '[]'", ()))
    assert later.session.roles == alice.session.roles == frozenset()


async def test_a_password_set_by_the_operator_ends_all_sessions(server: Server) -> None:
    """Those by password and those by tokens from before; a token from after is good."""
    alice = await server.user("alice")
    old, undated, bob = server.connect(), server.connect(), await server.user("bob")
    await old.auth(server.foreign_token("alice", iat=server.now_ms() // 1000))
    await undated.auth(server.foreign_token("alice"))
    server.ms += 5000
    fresh = server.connect()
    await server.changed_by_cli("nobody")
    cut_ms = server.now_ms()
    server.ms += 100
    await fresh.auth(server.foreign_token("alice", iat=server.now_ms() // 1000))
    await server.changed_by_cli(
        "alice",
        ("UPDATE users SET tokens_from_ms = ? WHERE user_id = 'alice'", (cut_ms,)),
        ("UPDATE user_sessions SET revoked = 1 WHERE user_id = 'alice'", ()),
    )
    ended = [client.session.ended for client in (alice, old, undated, fresh, bob)]
    assert ended == ["kicked", "kicked", "kicked", None, None]


async def test_the_background_task_outlives_a_full_disk(server: Server, autojump_clock: trio.testing.MockClock) -> None:
    """It goes on every second, loses nothing that it was to write, and says so."""
    alice = await server.user("alice")
    server.ms += 7000
    alice.hang_up()
    task, args = server.background
    server.db.fail = True
    with trio.move_on_after(3.5):
        await task(*args)
    assert sum("user_background_failed" in line for line in server.log.lines) == 3
    server.db.fail = False
    with trio.move_on_after(1.5):
        await task(*args)
    assert server.db.rows("SELECT last_seen_at FROM user_sessions") == [(START_MS + 7000,)]


async def test_last_seen_is_written_at_the_stop(server: Server) -> None:
    """What the last second collected is not lost; a reconnect is remembered with its address."""
    alice = await server.user("alice")
    alice.hang_up()
    server.ms += 5000
    again = server.connect("192.0.2.7")
    await again.auth(alice.answer["token"])
    server.ms += 1000
    again.hang_up()
    await server.plugin.on_stop(again.context)
    rows = server.db.rows("SELECT connected_at, last_seen_at, address FROM user_sessions")
    assert rows == [(START_MS + 5000, START_MS + 6000, "192.0.2.7")]


# ---------------------------------------------------------------- profiles


async def test_profiles(server: Server) -> None:
    """GET_USER in the order asked for, without who does not exist; UPDATE_PROFILE changes what is given."""
    alice = await server.user("alice")
    await server.connect().register(user_id="bob", password=PASSWORD, nickname="Bobby")

    async def get(*user_ids: str) -> list[dict[str, Any]]:
        answer = await server.plugin.get_user(alice.context, requests.GetUser(list(user_ids)))
        return list(answer["users"])

    bob = {"user_id": "bob", "nickname": "Bobby", "created_at": START_MS}
    assert await get("bob", "nobody", "alice", "bob") == [
        bob,
        {"user_id": "alice", "nickname": "alice", "created_at": START_MS},
    ]
    assert await get() == []
    for fields, profile in (
        ({"nickname": "爱丽丝", "avatar": "https://a/b.png"}, {"nickname": "爱丽丝", "avatar": "https://a/b.png"}),
        ({"bio": "hello"}, {"nickname": "爱丽丝", "avatar": "https://a/b.png", "bio": "hello"}),
        ({"avatar": None}, {"nickname": "爱丽丝", "bio": "hello"}),
        ({}, {"nickname": "爱丽丝", "bio": "hello"}),
    ):
        request = msgspec.convert(fields, requests.UpdateProfile)
        assert server.plugin.update_profile(alice.context, request) == {}
        assert await get("alice") == [{"user_id": "alice", "created_at": START_MS} | profile]
    assert await get("bob") == [bob]
    assert (await alice.search("爱丽"))["users"][0]["user_id"] == "alice"


async def test_a_page_of_profiles_is_bounded(server: Server) -> None:
    """500 ids are answered, 501 are 413."""
    alice = await server.user("alice")
    ids = [f"u{number}" for number in range(499)]
    answer = await server.plugin.get_user(alice.context, requests.GetUser([*ids, "alice"]))
    assert [user["user_id"] for user in answer["users"]] == ["alice"]
    with pytest.raises(TooLarge):
        await server.plugin.get_user(alice.context, requests.GetUser([*ids, "alice", "bob"]))


@pytest.mark.parametrize(
    ("kind", "fields", "bad"),
    [
        (requests.UpdateProfile, {"nickname": "x" * 65}, "nickname"),
        (requests.UpdateProfile, {"nickname": ""}, "nickname"),
        (requests.UpdateProfile, {"nickname": None}, "nickname"),
        (requests.UpdateProfile, {"avatar": "x" * 1025}, "avatar"),
        (requests.UpdateProfile, {"bio": "x" * 501}, "bio"),
        (requests.Register, {"user_id": "a b", "password": PASSWORD}, "user_id"),
        (requests.Register, {"user_id": "alice\n", "password": PASSWORD}, "user_id"),
        (requests.Register, {"user_id": "x" * 65, "password": PASSWORD}, "user_id"),
        (requests.Login, {"user_id": "alice", "password": PASSWORD, "deliver": "all"}, "deliver"),
        (requests.Login, {"user_id": "alice", "password": PASSWORD, "device_id": ""}, "device_id"),
        (requests.Login, {"user_id": "alice", "password": PASSWORD, "sync": 1}, "sync"),
        (requests.SearchUsers, {"query": ""}, "query"),
        (requests.SearchUsers, {"query": "a", "limit": 501}, "limit"),
    ],
)
def test_bounds_of_fields(kind: type, fields: dict[str, Any], bad: str) -> None:
    """What is too long or out of its set is refused, and the message names the field."""
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{bad}"):
        msgspec.convert(fields, kind)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
async def test_search_pages_through_everybody_once(server: Server, limit: int) -> None:
    """By the beginning of the id, then of the nickname, in any case; LIKE's characters are ordinary; each user once."""
    people = {
        "ann": "Zoe",
        "Anna": "Anna",
        "anne_b": "Beth",
        "bert": "Annabel",
        "carl": "ANNE",
        "dora": "Dora",
        "a.n": "x",
    }
    for user_id, nickname in people.items():
        statement = store.accounts.insert_user(user_id, None, nickname=nickname, now_ms=START_MS, or_ignore=False)
        server.db.rows(*statement)
    server.db.rows("UPDATE users SET disabled = 1 WHERE user_id = 'dora'")
    client = server.connect()

    async def search(query: str) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        for _ in range(20):
            answer = await client.search(query, limit=limit, cursor=cursor)
            assert len(answer["users"]) <= limit
            found += [user["user_id"] for user in answer["users"]]
            cursor = answer.get("next_cursor")
            if cursor is None:
                return found
        raise AssertionError("pages without end")

    assert await search("aNN") == ["ann", "Anna", "anne_b", "bert", "carl"]
    assert await search("a") == ["a.n", "ann", "Anna", "anne_b", "bert", "carl"]
    assert await search("anne_") == ["anne_b"]
    assert await search("dora") == []
    assert await search("%") == []


@pytest.mark.parametrize("limit", [1, 2, 500])
@pytest.mark.parametrize("scanned", [1, 3, 20_000])
async def test_search_looks_inside_of_nicknames_last(
    server: Server, monkeypatch: pytest.MonkeyPatch, limit: int, scanned: int
) -> None:
    """Behind those that begin with it, each user once, however few users one request looks at."""
    monkeypatch.setattr(store.profiles, "SCANNED_USERS", scanned)
    people = {
        "lee.anna": "Mary Anna",
        "anna": "Banana 50%_off",
        "bo": "Anna Bo",
        "cy": "Joanna",
        "di": "SUSANNA",
        "ed": "Ed",
        "fy": "anna anna",
        "gone": "Joanna",
        "小": "王爱丽",
    }
    for user_id, nickname in people.items():
        server.db.rows(*store.accounts.insert_user(user_id, None, nickname=nickname, now_ms=START_MS, or_ignore=False))
    server.db.rows("UPDATE users SET disabled = 1 WHERE user_id = 'gone'")
    client = server.connect()

    async def search(query: str) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        for _ in range(40):
            answer = await client.search(query, limit=limit, cursor=cursor)
            assert len(answer["users"]) <= limit
            found += [user["user_id"] for user in answer["users"]]
            cursor = answer.get("next_cursor")
            if cursor is None:
                return found
        raise AssertionError("pages without end")

    assert await search("ANNA") == ["anna", "fy", "bo", "cy", "di", "lee.anna"]
    assert await search("50%_") == ["anna"]
    assert await search("0__o") == []
    assert await search("爱丽") == ["小"]


@pytest.mark.parametrize("cursor", ["x", "n", "i", "nabc", "\0"])
async def test_a_cursor_that_was_never_given_is_refused(server: Server, cursor: str) -> None:
    """400, and the field."""
    with pytest.raises(InvalidBody) as caught:
        await server.connect().search("a", cursor=cursor)
    assert caught.value.field == "cursor"


# ---------------------------------------------------------------- secrets


async def test_no_secret_is_ever_logged_or_shown(server: Server) -> None:
    """Passwords and tokens are in no log line and in no request's repr."""
    alice = await server.user("alice")
    fresh = await alice.refresh(alice.answer["refresh_token"])
    with pytest.raises(NotAuthenticated):
        await server.connect().login(user_id="alice", password="wrong password")
    await alice.change_password(PASSWORD, OTHER_PASSWORD)
    with pytest.raises(NotAuthenticated):
        await server.connect().refresh(alice.answer["refresh_token"])
    shown = [
        *server.log.lines,
        repr(requests.Register("alice", PASSWORD)),
        repr(requests.Login("alice", PASSWORD)),
        repr(requests.Auth(fresh["token"])),
        repr(requests.Refresh(fresh["refresh_token"])),
        repr(requests.ChangePassword(PASSWORD, OTHER_PASSWORD)),
    ]
    secrets = [PASSWORD, OTHER_PASSWORD, "wrong password", *(alice.answer[name] for name in ("token", "refresh_token"))]
    secrets += [fresh["token"], fresh["refresh_token"], server.secret.decode()]
    assert len(server.log.lines) >= 4
    text = json.dumps(shown)
    assert [secret for secret in secrets if secret in text] == []


def test_the_plugin_refuses_to_work_unstarted() -> None:
    """A command before `on_start` is a mistake of the server's, and says so."""
    with pytest.raises(PluginError, match="not started"):
        _ = UserPlugin().state
