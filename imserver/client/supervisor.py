"""One live, logged-in connection at a time: connects, authenticates, heeds GOAWAY, and does it all again.

    wait until a connection is wanted ─▶ connect ─▶ HELLO, AUTH (REFRESH when the token is dead) ─▶ serve
          ▲                                                                                          │
          └───────────── back-off with full jitter, at least what the server asks for ◀── lost, or GOAWAY

A connection is wanted while there are credentials, or while a request waits for one: the server closes
connections that do not log in, so none is held for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from attrs import evolve, field, frozen

from . import commands
from .backoff import Backoff
from .bell import Bell
from .connection import Connection, OnPush
from .errors import (
    AuthenticationLost,
    BadRequest,
    CannotConnect,
    ClientError,
    ConnectionLost,
    RateLimited,
    RemoteProtocolError,
    ServerError,
    ServerTimeout,
    SessionKicked,
    SessionReplaced,
    Unauthenticated,
    Unavailable,
)
from .state import State
from .taking import take
from .tls import why_broken
from .transport import Opener
from .types import Credentials, SyncPage

log = logging.getLogger("imserver.client")

#: Answers after which the same request may well succeed.
RETRIABLE: Final = (RateLimited, Unavailable, ServerTimeout)

RenewToken = Callable[[], Awaitable[str]]


@frozen
class Device:
    """How this client presents itself at login."""

    device_id: str
    platform: str = "python"
    extra: dict[str, Any] = field(factory=dict)


@frozen
class Timing:
    """The supervisor's patience, in seconds.

    Attributes:
        connect_timeout_s: for a transport to open.
        login_timeout_s: for the server to answer AUTH or REFRESH on a new connection.
        goaway_grace_s: for the answers that are still due when the server has said GOAWAY.
        stable_s: a connection that lived so long was a success: the back-off begins anew.
    """

    connect_timeout_s: float = 10.0
    login_timeout_s: float = 10.0
    goaway_grace_s: float = 5.0
    stable_s: float = 5.0


class Supervisor:
    """Keeps the connection.

    Args:
        open_stream: opens a transport.
        state: for the cursor and the user.
        on_push: every push but GOAWAY.
        on_sync: SYNC's answer that came with the login.
        changed: rung whenever a wait of the application may be over.
    """

    def __init__(
        self,
        open_stream: Opener,
        state: State,
        *,
        on_push: OnPush,
        on_sync: Callable[[SyncPage], None],
        changed: Bell,
        backoff: Backoff,
        timing: Timing,
        client_version: str,
    ) -> None:
        self.credentials: Credentials | None = None
        self.device = Device(device_id="")
        self.renew_token: RenewToken | None = None
        self.ended: ClientError | None = None
        self.last_failure = "not connected yet"
        self._open_stream = open_stream
        self._state = state
        self._on_push = on_push
        self._on_sync = on_sync
        self._changed = changed
        self._backoff = backoff
        self._timing = timing
        self._client_version = client_version
        self._current: Connection | None = None
        self._user_of_current: str | None = None
        self._waiting = 0
        self._is_token_dead = False
        self._retry_after_s = 0.0

    @property
    def is_authenticated(self) -> bool:
        """There is a live connection, and it is logged in."""
        return self._current is not None and self._current.is_usable and self._user_of_current is not None

    async def connection(self, *, logged_in: bool) -> Connection:
        """Wait for a usable connection; with `logged_in`, for one that has logged in.

        Raises:
            ClientError: the client has ended.
        """
        self._waiting += 1
        try:
            while True:
                if self.ended is not None:
                    raise self.ended
                current = self._current
                if current is not None and current.is_usable and (self._user_of_current or not logged_in):
                    return current
                self._changed.ring()
                await self._changed.wait()
        finally:
            self._waiting -= 1

    def tell(self, command: int, body: dict[str, Any]) -> bool:
        """Send what wants no answer and is worth nothing later; returns whether it went out."""
        return self.is_authenticated and self._current is not None and self._current.tell(command, body)

    async def login(self, command: int, body: dict[str, Any], device: Device) -> Credentials:
        """Make one LOGIN or AUTH on the present connection.

        Raises:
            ServerError, ConnectionLost, ClientError: see `Client.login`.
        """
        connection = await self.connection(logged_in=False)
        request = {**body, **self._login_fields(device)}
        token = body.get("token", "")

        def on_answer(answer: dict[str, Any]) -> None:
            self.credentials = Credentials(
                user_id=take(answer, "user_id", str),
                token=take(answer, "token", str, token),
                refresh_token=take(answer, "refresh_token", str, "") or body.get("refresh_token"),
                expires_at=take(answer, "expires_at", int, 0),
            )
            self.device = device
            self._is_token_dead = False
            self._logged_in(connection, answer)

        request.pop("refresh_token", None)
        try:
            await connection.request(command, request, on_answer=on_answer)
        except trio.Cancelled:
            connection.lose("the login was given up")  # the server may log this connection in all the same
            raise
        if self.credentials is None:
            raise self.ended or ConnectionLost("logged out meanwhile")
        return self.credentials

    async def refresh(self, connection: Connection) -> Credentials:
        """Exchange the refresh token (or ask the application) for a new access token.

        Raises:
            AuthenticationLost: there is nothing to refresh with, or the server refuses it.
            ServerError, ConnectionLost: not now.
        """
        old = self.credentials
        if old is None:
            raise AuthenticationLost("unauthenticated", "not logged in")
        if self.renew_token is not None:
            self.credentials = evolve(old, token=await self.renew_token(), expires_at=0)
        elif old.refresh_token is None:
            raise AuthenticationLost("token_expired", "the access token is dead and there is no refresh token; log in again")
        else:

            def on_answer(answer: dict[str, Any]) -> None:
                # At once, before anything else can happen to this connection: the old refresh token is dead from here on.
                self.credentials = Credentials(
                    old.user_id,
                    take(answer, "token", str),
                    take(answer, "refresh_token", str),
                    take(answer, "expires_at", int, 0),
                )

            try:
                await connection.request(commands.REFRESH, {"refresh_token": old.refresh_token}, on_answer=on_answer)
            except ServerError as error:
                if isinstance(error, RETRIABLE) or error.code == 500:
                    raise
                raise AuthenticationLost(error.error, f"the refresh token is refused: {error.message}") from error
        self._is_token_dead = False
        assert self.credentials is not None
        return self.credentials

    def logged_out(self) -> None:
        """Forget the credentials; the connection, if any, is no longer used."""
        self.credentials = None
        if self._current is not None:
            self._current.lose("logged out")
        self._changed.ring()

    def end(self, error: ClientError) -> None:
        """End for good: every wait, now and later, ends with this error."""
        if self.ended is None:
            self.ended = error
        if self._current is not None:
            self._current.lose(str(error))
        self._changed.ring()

    # -------------------------------------------------------------- the loop

    async def run(self) -> None:
        """Keep a connection while one is wanted; returns when the client has ended."""
        while self.ended is None:
            if self.credentials is None and not self._waiting:
                await self._changed.wait()
                continue
            self._retry_after_s = 0.0
            began = trio.current_time()
            await self._serve_once()
            if self.ended is not None:
                return
            if trio.current_time() - began >= self._timing.stable_s:
                self._backoff.reset()
            delay_s = self._backoff.next_delay_s(self._retry_after_s)
            log.info("no connection (%s); the next attempt is in %.2f s", self.last_failure, delay_s)
            await trio.sleep(delay_s)

    async def _serve_once(self) -> None:
        """Open one connection and serve it to its end."""
        async with trio.open_nursery() as nursery:
            stream = await self._open(nursery)
            if stream is not None:
                await self._serve(stream, nursery)
            nursery.cancel_scope.cancel()
        self._current = None
        self._user_of_current = None
        self._changed.ring()

    async def _open(self, nursery: trio.Nursery) -> trio.abc.Stream | None:
        """Open a transport; None with the reason noted when that fails."""
        try:
            with trio.move_on_after(self._timing.connect_timeout_s):
                return await self._open_stream(nursery)
        except (OSError, trio.BrokenResourceError) as error:
            self.last_failure = f"cannot connect: {why_broken(error)}"
            if isinstance(error, CannotConnect):
                self._retry_after_s = error.retry_after_s
        else:
            self.last_failure = f"cannot connect: no answer for {self._timing.connect_timeout_s:g} s"
        return None

    async def _serve(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        """Log in on an open transport, if there are credentials, and serve it until it is lost."""
        connection = Connection(stream, lambda command, body: self._pushed(connection, command, body))
        nursery.start_soon(connection.run)
        nursery.start_soon(self._hello, connection)
        self._user_of_current = None
        if self.credentials is None or await self._authenticate(connection):
            self._current = connection
            self._changed.ring()
            await connection.leaving.wait()
            self._changed.ring()
            with trio.move_on_after(self._timing.goaway_grace_s):
                await connection.lost.wait()
        connection.lose("left")
        self.last_failure = connection.lost_reason

    async def _hello(self, connection: Connection) -> None:
        """Learn the server's limits; runs beside AUTH, and the connection works without it."""

        def on_answer(answer: dict[str, Any]) -> None:
            connection.max_frame_bytes = take(answer, "max_frame", int, connection.max_frame_bytes)
            _heed_heartbeat(connection, answer)

        try:
            await connection.request(
                commands.HELLO, {"client": "imserver-python", "version": self._client_version}, on_answer=on_answer
            )
        except (ServerError, ConnectionLost) as error:
            log.debug("no HELLO: %s", error)

    async def _authenticate(self, connection: Connection) -> bool:
        """Log the new connection in with the token; False if it must be left, with the reason noted."""
        try:
            with trio.move_on_after(self._timing.login_timeout_s):
                if self._is_token_dead:
                    await self.refresh(connection)
                try:
                    await self._auth(connection)
                except Unauthenticated:
                    await self.refresh(connection)
                    await self._auth(connection)
                return self.ended is None
            connection.lose("the server does not answer AUTH")
        except AuthenticationLost as error:
            self.end(error)
        except ConnectionLost as error:
            connection.lose(str(error))
        except ServerError as error:
            if not isinstance(error, RETRIABLE) and error.code != 500:
                self.end(AuthenticationLost(error.error, error.message))
            self._retry_after_s = (error.retry_after_ms or 0) / 1000
            connection.lose(f"login refused: {error}")
        return False

    async def _auth(self, connection: Connection) -> None:
        assert self.credentials is not None
        body = {"token": self.credentials.token, **self._login_fields(self.device)}

        def on_answer(answer: dict[str, Any]) -> None:
            self._logged_in(connection, answer)

        try:
            await connection.request(commands.AUTH, body, on_answer=on_answer)
        except BadRequest as error:
            if error.field not in ("sync", "cursor") or not self._state.cursor:
                raise
            self._state.cursor = ""  # the server has forgotten it: see everything, the marks of the conversations stand
            await self._auth(connection)

    def _login_fields(self, device: Device) -> dict[str, Any]:
        return {
            "device_id": device.device_id,
            "platform": device.platform,
            "deliver": "new",
            "sync": self._state.cursor,
            **device.extra,
        }

    def _logged_in(self, connection: Connection, answer: dict[str, Any]) -> None:
        """Take in the answer to LOGIN or AUTH, before any push behind it."""
        user_id = take(answer, "user_id", str)
        if self._state.user_id not in (None, user_id):
            self.end(AuthenticationLost("wrong_user", f"the state is {self._state.user_id!r}'s, the token {user_id!r}'s"))
            connection.lose("another user")
            return
        self._state.user_id = user_id
        self._user_of_current = user_id
        _heed_heartbeat(connection, answer)
        sync = answer.get("sync")
        if isinstance(sync, dict):
            self._on_sync(SyncPage.from_wire(sync))
        else:
            self._on_sync(SyncPage((), "", more=True))  # an older server: it is asked with SYNC
        self._changed.ring()

    def _pushed(self, connection: Connection, command: int, body: dict[str, Any]) -> None:
        if command != commands.GOAWAY:
            self._on_push(command, body)
            return
        error = take(body, "error", str, "")
        message = take(body, "message", str, "")
        self.last_failure = f"the server said goaway: {error}"
        log.info("the server said goaway: %s %s", error, message)
        if self._user_of_current is not None and self.credentials is not None:
            if error == "replaced":
                self.end(SessionReplaced(error, message or "another connection logged in with this device_id"))
            elif error == "kicked":
                self.end(SessionKicked(error, message or "this session was ended"))
            elif error == "token_expired":
                self._is_token_dead = True
        self._retry_after_s = take(body, "retry_after_ms", int, 0) / 1000
        connection.leaving.set()


def _heed_heartbeat(connection: Connection, answer: dict[str, Any]) -> None:
    heartbeat_ms = take(answer, "heartbeat_ms", int, 0)
    if heartbeat_ms < 0:
        raise RemoteProtocolError(f"a heartbeat of {heartbeat_ms} ms")
    if heartbeat_ms:
        connection.set_heartbeat(heartbeat_ms / 1000)
