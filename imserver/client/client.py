"""The public face: `open_client` and `Client`."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import trio

from . import commands
from .asking import Asking
from .backoff import Backoff
from .bell import Bell
from .catchup import CatchUp
from .changes import Changes
from .delivery import Delivery, History
from .errors import ClientClosed, ConnectionLost, ServerError
from .events import EventQueue
from .receiving import Incoming
from .sending import Outgoing
from .state import State
from .supervisor import Device, RenewToken, Supervisor, Timing
from .transport import Connector, Opener, opener_for, opener_of
from .types import (
    Credentials,
    Draft,
    Event,
    Message,
    MessagePage,
    Sent,
    SyncPage,
    User,
    take,
    take_maps,
)
from .types import Device as DeviceInfo

CLIENT_VERSION: Final = "1"  # of this client, as told in HELLO
MAX_SENDS_IN_FLIGHT: Final = 256
FLUSH_TIMEOUT_S: Final = 2.0  # for the last confirmations when the block ends


@asynccontextmanager
async def open_client(
    address: str | Connector,
    *,
    ssl_context: ssl.SSLContext | None = None,
    state: State | None = None,
    history: Literal["undelivered", "unread", "new", "all"] = "undelivered",
    timeout_s: float = 15.0,
    max_sends_in_flight: int = MAX_SENDS_IN_FLIGHT,
    backoff_min_s: float = 0.1,
    backoff_max_s: float = 30.0,
    uniform: Callable[[float, float], float] = random.uniform,
    timing: Timing | None = None,
) -> AsyncIterator[Client]:
    """Open a client; it connects when it is first asked for something, and keeps its connection from the login on.

    Args:
        address: `host:port` or `tcp://host:port` (TCP), `tls://host:port` (TCP with TLS), `ws://host:port/ws`,
            `wss://host/ws` (WebSocket), `http://…` and `https://…` (the WebSocket of the server with this page), or an
            async function that opens a `trio.abc.Stream`.
        ssl_context: for `tls://`, `wss://` and `https://`: which authorities are trusted, and a client certificate;
            by default the system's authorities and none.
        state: where an earlier run of this program stopped; changed in place (`client.state`).
        history: where to begin in each conversation without a saved state: after what this device has confirmed
            (`undelivered`), after what the user has read (`unread`), with what comes from now on (`new`), or at
            the beginning (`all`).
        timeout_s: the deadline of each call, unless the call is given its own; seconds.
        max_sends_in_flight: how many `send` may wait for the server at once; more wait in line.
        backoff_min_s, backoff_max_s: the ceiling of the delay between two attempts to connect doubles from one to
            the other; each delay is drawn between 0 and the ceiling by `uniform`.
        timing: the finer patience; see `Timing`.

    Raises:
        SessionEnded: the server ended the session for good (`SessionReplaced`, `SessionKicked`,
            `AuthenticationLost`); the block is cancelled and this comes out of it.
        ValueError: the address is none, or `ssl_context` is given for one without TLS.

    Whatever the block raises comes out as it is, never in an exception group of this client's.

    Source: docs/reference/client.md.
    """
    if isinstance(address, str):
        open_stream = opener_for(address, ssl_context)
    elif ssl_context is None:
        open_stream = opener_of(address)
    else:
        raise ValueError("ssl_context is for addresses; your own function is to do TLS itself")
    client = Client(
        open_stream,
        state=State() if state is None else state,
        history=History(history),
        timeout_s=timeout_s,
        max_sends_in_flight=max_sends_in_flight,
        backoff=Backoff(backoff_min_s, backoff_max_s, uniform),
        timing=timing or Timing(),
    )
    # Which error comes out, of those that may be there at once: the block's own, else that of a background task (a bug of
    # ours, or KeyboardInterrupt), freed of the nurseries' groups where it is alone, else the one that ended the client.
    from_block: BaseException | None = None
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client._run, nursery.cancel_scope)
            try:
                yield client
                await client._finish()
            except trio.Cancelled:
                raise
            except BaseException as error:
                from_block = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = from_block or _unwrap(group)
    finally:
        ended = client._supervisor.ended
        client._supervisor.end(ClientClosed("this client's `async with` block has ended"))
    if failure is not None or ended is not None:
        raise failure or ended or AssertionError


class Client:
    """A logged-in user on one device. Made by `open_client`; every method is for the Trio run that made it.

    Every call ends in one of four ways: its result, a `ServerError` (definitely refused), a `RequestTimeout` or
    `ConnectionLost` (not known), a `SessionEnded`. Calls may be cancelled at any time; one that was cancelled may
    have been carried out.
    """

    def __init__(
        self,
        open_stream: Opener,
        *,
        state: State,
        history: History,
        timeout_s: float,
        max_sends_in_flight: int,
        backoff: Backoff,
        timing: Timing,
    ) -> None:
        self._state = state
        self._changed = Bell()
        self._delivery = Delivery(state, history=history)
        changes = Changes(state)
        events = EventQueue()
        # A circle: what a push shows to be missing is fetched by requests, which need the connection that pushes.
        self._supervisor: Supervisor
        self._asking: Asking
        self._catch_up = CatchUp(
            lambda command, body: self._asking.ask_logged_in(command, body),
            self._delivery,
            changes,
            events,
            self._changed,
            lambda: state.cursor,
        )
        self._incoming = Incoming(
            self._delivery, changes, events, self._catch_up, self._changed, lambda: self._supervisor.ended
        )
        self._supervisor = Supervisor(
            open_stream,
            state,
            on_push=self._incoming.pushed,
            on_sync=self._catch_up.synced,
            changed=self._changed,
            backoff=backoff,
            timing=timing,
            client_version=CLIENT_VERSION,
        )
        self._asking = Asking(self._supervisor, timeout_s)
        self._outgoing = Outgoing(
            self._asking,
            self._supervisor,
            state,
            self._delivery,
            changes,
            self._changed,
            max_in_flight=max_sends_in_flight,
        )

    # -------------------------------------------------------------- what is

    @property
    def state(self) -> State:
        """Where this client stands; persist `state.to_dict()` after `ack()`."""
        return self._state

    @property
    def credentials(self) -> Credentials | None:
        """The session's tokens, as of the last refresh; None before the login."""
        return self._supervisor.credentials

    @property
    def user_id(self) -> str | None:
        """The user who is logged in."""
        return None if self.credentials is None else self.credentials.user_id

    @property
    def is_connected(self) -> bool:
        """There is a live connection, logged in."""
        return self._supervisor.is_authenticated

    # -------------------------------------------------------------- requests

    async def request(
        self,
        command: int,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        is_repeatable: bool | None = None,
    ) -> dict[str, Any]:
        """Make any request of the protocol, also one that this client has no method for.

        Args:
            command: the command ID.
            body: the fields of the request, without `rid`.
            timeout_s: the deadline; `math.inf` for none.
            is_repeatable: carrying it out twice does no harm: it is asked again on a new connection, and when the
                server is busy. By default as the protocol says of the command; False for commands of plugins.

        Returns:
            The fields of the answer (with `code` and `rid`).

        Raises:
            ServerError: the answer is an error.
            RequestTimeout: no answer before the deadline; it may have been carried out.
            ConnectionLost: the same, and the command cannot be repeated blindly.
            FrameTooLarge: over the server's limit, not sent.
            SessionEnded, ClientClosed: the client has ended.
        """
        return await self._asking.request(command, body, timeout_s=timeout_s, is_repeatable=is_repeatable)

    # -------------------------------------------------------------- users and sessions

    async def register(self, user_id: str, password: str, nickname: str | None = None) -> None:
        """Make an account. It does not log in.

        Raises:
            Conflict: the user id is taken.
            ConnectionLost: not known; try to log in, or register again and take Conflict for a success.
        """
        body = {"user_id": user_id, "password": password}
        await self.request(commands.REGISTER, body if nickname is None else {**body, "nickname": nickname})

    async def login(
        self,
        user_id: str,
        password: str,
        *,
        device_id: str | None = None,
        platform: str = "python",
        compress: bool = False,
        timeout_s: float | None = None,
    ) -> Credentials:
        """Log in; from here on the client stays connected, and receives.

        Args:
            device_id: one connection lives per user and device; another login with it ends this one
                (`SessionReplaced`). By default a name out of the state, so one per saved state.
            platform: free text that one's other devices see.
            compress: let the server compress large bodies.

        Returns:
            When the first overview (SYNC) is complete: what others send from now on will be received.

        Raises:
            Unauthenticated: wrong user or password.
            RequestTimeout: no server, or no answer, before the deadline.
            ValueError: the state is another user's.
        """
        if self._state.user_id not in (None, user_id):
            raise ValueError(f"the state is {self._state.user_id!r}'s; give open_client the state of {user_id!r}, or none")
        body = {"user_id": user_id, "password": password}
        return await self._login(commands.LOGIN, body, self._device(device_id, platform, compress), timeout_s)

    async def auth(
        self,
        token: str,
        *,
        refresh_token: str | None = None,
        renew_token: RenewToken | None = None,
        device_id: str | None = None,
        platform: str = "python",
        compress: bool = False,
        timeout_s: float | None = None,
    ) -> Credentials:
        """Log in with a token: one's own of an earlier login, or one that the integrating system made.

        Args:
            refresh_token: that of the same login, so that the client can renew the token.
            renew_token: instead: an async function that returns a new token when this one has expired.
            device_id, platform, compress: as for `login`.

        Raises:
            Unauthenticated: the token is not, or no longer, good.
            RequestTimeout: no server, or no answer, before the deadline.
        """
        self._supervisor.renew_token = renew_token
        body = {"token": token, "refresh_token": refresh_token}
        return await self._login(commands.AUTH, body, self._device(device_id, platform, compress), timeout_s)

    async def _login(self, command: int, body: dict[str, Any], device: Device, timeout_s: float | None) -> Credentials:
        timeout_s = self._asking.timeout_s if timeout_s is None else timeout_s
        with trio.move_on_after(timeout_s):
            while True:
                try:
                    credentials = await self._supervisor.login(command, body, device)
                    break
                except ConnectionLost:
                    if self._supervisor.ended is not None:
                        raise self._supervisor.ended from None
            while not self._state.has_synced:
                await self._changed.wait()
                if self._supervisor.ended is not None:
                    raise self._supervisor.ended
            return credentials
        raise self._asking.timed_out("the login", timeout_s)

    def _device(self, device_id: str | None, platform: str, compress: bool) -> Device:
        name = f"py-{self._state.sender}" if device_id is None else device_id
        return Device(name, platform, {"compress": True} if compress else {})

    async def refresh(self) -> Credentials:
        """Renew the access token now; the client does it by itself when the server says that it has expired.

        Raises:
            AuthenticationLost: there is nothing to renew it with, or the server refuses.
            ConnectionLost: not known; if the server did it, the old refresh token is dead and a login is needed.
        """
        with trio.move_on_after(self._asking.timeout_s):
            return await self._supervisor.refresh(await self._supervisor.connection(logged_in=False))
        raise self._asking.timed_out("the refresh", self._asking.timeout_s)

    async def logout(self, *, everywhere: bool = False) -> None:
        """End this session (or, `everywhere`, all of this user's). `messages()` and `events()` end."""

        def on_answer(_answer: dict[str, Any]) -> None:
            self._incoming.logouts += 1
            self._supervisor.logged_out()

        with trio.move_on_after(self._asking.timeout_s):
            body = {"all": True} if everywhere else {}
            await self._asking.ask(commands.LOGOUT, body, repeat=False, logged_in=True, on_answer=on_answer)
            return
        raise self._asking.timed_out("the logout", self._asking.timeout_s)

    async def change_password(self, old_password: str, new_password: str) -> None:
        """Change the password; the user's other sessions end.

        Raises:
            Unauthenticated: the old password is wrong.
            ConnectionLost: not known.
        """
        await self.request(commands.CHANGE_PASSWORD, {"old_password": old_password, "new_password": new_password})

    async def update_profile(
        self, *, nickname: str | None = None, avatar: str | None = None, bio: str | None = None
    ) -> None:
        """Set the fields that are given; the others stay."""
        fields = {"nickname": nickname, "avatar": avatar, "bio": bio}
        await self.request(commands.UPDATE_PROFILE, {name: value for name, value in fields.items() if value is not None})

    async def get_users(self, user_ids: Iterable[str]) -> list[User]:
        """Return the profiles of those users that exist."""
        answer = await self.request(commands.GET_USER, {"user_ids": list(user_ids)})
        return [User.from_wire(entry) for entry in take_maps(answer, "users")]

    async def search_users(self, query: str, *, limit: int = 50, cursor: str | None = None) -> tuple[list[User], str | None]:
        """Return one page of users, and the cursor of the next page (None at the end)."""
        body: dict[str, Any] = {"query": query, "limit": limit}
        answer = await self.request(commands.SEARCH_USERS, body if cursor is None else {**body, "cursor": cursor})
        users = [User.from_wire(entry) for entry in take_maps(answer, "users")]
        return users, take(answer, "next_cursor", str, "") or None

    async def list_devices(self) -> list[DeviceInfo]:
        """Return the user's sessions."""
        answer = await self.request(commands.LIST_DEVICES)
        return [DeviceInfo.from_wire(entry) for entry in take_maps(answer, "devices")]

    async def kick_device(self, session_id: str) -> None:
        """End another of the user's sessions; its client gets `SessionKicked`."""
        await self.request(commands.KICK_DEVICE, {"session_id": session_id})

    # -------------------------------------------------------------- sending

    async def send(
        self,
        to: str,
        body: Any,
        *,
        type: str = "text",
        client_id: str | None = None,
        reply_to: Any = None,
        mentions: Sequence[str] = (),
        expires_in_ms: int | None = None,
        store: bool = True,
        timeout_s: float | None = None,
    ) -> Sent:
        """Send one message; returns when it is on the server's disk.

        Messages to one conversation are sequenced in the order of these calls: each waits for the one before it.
        Without an answer the message is sent again, with the same `client_id`, on the next connection; the server
        stores it once.

        Args:
            to: a user id, or a conversation id (`d:…`, `g:…`).
            body: a string for `text`; otherwise anything that MessagePack can hold.
            type: `text`, `image`, `custom`, …
            client_id: the idempotency key, 1–64 bytes; by default a new one. Give your own to send the same message
                again after a restart of your program.
            store: False: to online devices alone, with no place in the conversation.
            timeout_s: the deadline, waiting in line included; `math.inf` for none.

        Raises:
            ServerError: refused, not stored. `Conflict` `idempotency_conflict`: this `client_id` was used for
                another message.
            RequestTimeout: not known; send it again with the same `client_id`.
            FrameTooLarge: over the server's limit, not sent.
        """
        draft = Draft(to, body, type, client_id, reply_to, tuple(mentions))
        return await self._outgoing.send(draft, expires_in_ms=expires_in_ms, store=store, timeout_s=timeout_s)

    async def send_batch(self, drafts: Sequence[Draft], *, timeout_s: float | None = None) -> list[Sent | ServerError]:
        """Send several messages in one request; in order per conversation.

        Returns:
            For each draft what became of it. A `ServerError` is in the list, not raised: those after it in the same
            conversation may have been accepted.

        Raises:
            ServerError: the whole batch is refused.
            RequestTimeout: not known; send it again with the same `client_id`s.
        """
        return await self._outgoing.send_batch(drafts, timeout_s=timeout_s)

    # -------------------------------------------------------------- receiving

    def messages(self) -> AsyncIterator[Message]:
        """Iterate over the messages of all conversations: each once, in `seq` order within a conversation.

        A message is *taken*, that is, confirmed to the server and counted in `state`, when the loop asks for the
        next one, at `ack(message)`, or when the `async with` block of the client ends without an exception. One's own
        messages from this client are not among them; those from one's other devices are. Ends after `logout()`.

        Raises:
            SessionEnded: the server ended the session.
            trio.BusyResourceError: another task waits for the next message already.
        """
        return self._incoming.messages()

    def ack(self, message: Message) -> None:
        """Say that this message, the last that `messages()` gave, is dealt with: `state` moves past it.

        Call it before you persist `state` within the loop. Earlier messages were taken already: nothing happens.
        """
        self._incoming.ack(message)

    def events(self) -> AsyncIterator[Event]:
        """Iterate over everything else: changes of messages, read marks, presence, notices.

        Call it before the login to miss none. Changes of messages (`MessageChanged`) are never lost: those that were
        missed while away, or had no room, are fetched. Others that have no room are counted in `EventsLost`.
        An event is taken when the loop asks for the next. Ends after `logout()`.

        Raises:
            SessionEnded: the server ended the session.
            trio.BusyResourceError: another task waits for the next event already.
        """
        return self._incoming.events()

    # -------------------------------------------------------------- reading

    async def pull(
        self, conversation_id: str, *, after_seq: int | None = None, before_seq: int | None = None, limit: int = 50
    ) -> MessagePage:
        """Return a page of history, ascending by `seq`; the newest without a bound. It moves no mark of `messages()`."""
        body: dict[str, Any] = {"conversation_id": conversation_id, "limit": limit}
        if after_seq is not None:
            body["after_seq"] = after_seq
        if before_seq is not None:
            body["before_seq"] = before_seq
        return MessagePage.from_wire(await self.request(commands.PULL, body))

    async def sync(self, cursor: str | None = None, *, limit: int = 50) -> SyncPage:
        """Return a page of conversations: those that changed since `cursor`; all without one.

        For showing a list of conversations; `messages()` does not need it, and it moves nothing of its own.
        """
        body: dict[str, Any] = {"limit": limit}
        if cursor:
            body["cursor"] = cursor
        return SyncPage.from_wire(await self.request(commands.SYNC, body))

    async def mark_read(self, conversation_id: str, seq: int) -> int:
        """Move the user's read mark up to `seq`; returns how many messages are still unread."""
        answer = await self.request(commands.MARK_READ, {"conversation_id": conversation_id, "seq": seq})
        return take(answer, "unread", int, 0)

    # -------------------------------------------------------------- life

    async def _run(self, scope: trio.CancelScope) -> None:
        """Run the background tasks; when the server ends the session, cancel the application's block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._catch_up.fetch)
            nursery.start_soon(self._catch_up.confirm)
            await self._supervisor.run()
            nursery.cancel_scope.cancel()
        scope.cancel()

    async def _finish(self) -> None:
        """The block ended well: its last message is taken, and the confirmations are given a moment to get through."""
        self._incoming.take_last()
        self._delivery.hurry()
        self._changed.ring()
        with trio.move_on_after(FLUSH_TIMEOUT_S):
            while self._catch_up.has_unconfirmed and self.is_connected:
                await self._changed.wait()


def _unwrap(error: BaseException) -> BaseException:
    """Take an exception out of the groups that hold nothing else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
