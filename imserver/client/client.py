"""The public face: `open_client` and `Client`."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final, Generic, Literal, TypeVar

import trio

from . import commands
from .backoff import Backoff
from .bell import Bell
from .catchup import CatchUp
from .changes import Changes
from .connection import OnAnswer
from .delivery import Delivery, History
from .errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    RequestTimeout,
    ServerError,
    Unauthenticated,
)
from .events import EventQueue
from .lines import Lines
from .state import State
from .supervisor import RETRIABLE, Device, RenewToken, Supervisor, Timing
from .transport import Connector, connector_for
from .types import (
    Credentials,
    Draft,
    Event,
    Message,
    MessageChanged,
    MessagePage,
    Sent,
    SyncPage,
    User,
    event_from_push,
    take,
    take_maps,
)
from .types import Device as DeviceInfo

T = TypeVar("T")

CLIENT_VERSION: Final = "1"  # of this client, as told in HELLO
MAX_SENDS_IN_FLIGHT: Final = 256
FLUSH_TIMEOUT_S: Final = 2.0  # for the last confirmations when the block ends


@asynccontextmanager
async def open_client(
    address: str | Connector,
    *,
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
        address: `host:port`, `tcp://host:port`, or an async function that opens a `trio.abc.Stream`.
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
        ValueError: the address is none.

    Whatever the block raises comes out as it is, never in an exception group of this client's.

    Source: docs/reference/client.md.
    """
    connect = connector_for(address) if isinstance(address, str) else address
    client = Client(
        connect,
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
        connect: Connector,
        *,
        state: State,
        history: History,
        timeout_s: float,
        max_sends_in_flight: int,
        backoff: Backoff,
        timing: Timing,
    ) -> None:
        self._state = state
        self._timeout_s = timeout_s
        self._changed = Bell()
        self._delivery = Delivery(state, history=history)
        self._changes = Changes(state)
        self._events = EventQueue()
        self._catch_up = CatchUp(
            self._ask_logged_in, self._delivery, self._changes, self._events, self._changed, lambda: state.cursor
        )
        self._supervisor = Supervisor(
            connect,
            state,
            on_push=self._pushed,
            on_sync=self._catch_up.synced,
            changed=self._changed,
            backoff=backoff,
            timing=timing,
            client_version=CLIENT_VERSION,
        )
        self._send_slots = trio.Semaphore(max_sends_in_flight)
        self._lines = Lines()
        self._handed: Message | None = None  # the message that the application is at
        self._handed_event: Event | None = None
        self._logouts = 0
        self._iterating: set[str] = set()

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
        repeat = command in commands.REPEATABLE if is_repeatable is None else is_repeatable
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        with trio.move_on_after(timeout_s):
            return await self._ask(command, body or {}, repeat=repeat, logged_in=self.credentials is not None)
        raise self._timed_out(f"command {command}", timeout_s)

    async def _ask(
        self,
        command: int,
        body: Mapping[str, Any],
        *,
        repeat: bool,
        logged_in: bool,
        on_answer: OnAnswer | None = None,
    ) -> dict[str, Any]:
        """Make a request, again and again if it may be repeated. The caller sets the deadline."""
        backoff = Backoff()
        while True:
            connection = await self._supervisor.connection(logged_in=logged_in)
            try:
                return await connection.request(command, body, on_answer=on_answer)
            except ConnectionLost:
                if self._supervisor.ended is not None:
                    raise self._supervisor.ended from None
                if not repeat:
                    raise
            except RETRIABLE as error:
                delay_s = backoff.next_delay_s((error.retry_after_ms or 0) / 1000)
                if not repeat or trio.current_time() + delay_s >= trio.current_effective_deadline():
                    raise  # the refusal says more than a timeout would
                await trio.sleep(delay_s)

    async def _ask_logged_in(self, command: int, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._ask(command, body, repeat=True, logged_in=True)

    def _timed_out(self, what: str, timeout_s: float) -> RequestTimeout:
        why = "" if self._supervisor.is_authenticated else f" (not connected: {self._supervisor.last_failure})"
        return RequestTimeout(f"no answer to {what} in {timeout_s:g} s{why}; it may or may not have been carried out")

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
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
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
        raise self._timed_out("the login", timeout_s)

    def _device(self, device_id: str | None, platform: str, compress: bool) -> Device:
        name = f"py-{self._state.sender}" if device_id is None else device_id
        return Device(name, platform, {"compress": True} if compress else {})

    async def refresh(self) -> Credentials:
        """Renew the access token now; the client does it by itself when the server says that it has expired.

        Raises:
            AuthenticationLost: there is nothing to renew it with, or the server refuses.
            ConnectionLost: not known; if the server did it, the old refresh token is dead and a login is needed.
        """
        with trio.move_on_after(self._timeout_s):
            return await self._supervisor.refresh(await self._supervisor.connection(logged_in=False))
        raise self._timed_out("the refresh", self._timeout_s)

    async def logout(self, *, everywhere: bool = False) -> None:
        """End this session (or, `everywhere`, all of this user's). `messages()` and `events()` end."""

        def on_answer(_answer: dict[str, Any]) -> None:
            self._logouts += 1
            self._supervisor.logged_out()

        with trio.move_on_after(self._timeout_s):
            body = {"all": True} if everywhere else {}
            await self._ask(commands.LOGOUT, body, repeat=False, logged_in=True, on_answer=on_answer)
            return
        raise self._timed_out("the logout", self._timeout_s)

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
        fields = self._send_fields(draft)
        if expires_in_ms is not None:
            fields["expires_in_ms"] = expires_in_ms
        if not store:
            fields["store"] = False
        sent: list[Sent] = []

        def on_answer(answer: dict[str, Any]) -> None:
            sent.append(self._note_sent(answer, fields["client_id"]))

        await self._send(commands.SEND, fields, [fields], on_answer, timeout_s)
        return sent[-1]

    async def send_batch(self, drafts: Sequence[Draft], *, timeout_s: float | None = None) -> list[Sent | ServerError]:
        """Send several messages in one request; in order per conversation.

        Returns:
            For each draft what became of it. A `ServerError` is in the list, not raised: those after it in the same
            conversation may have been accepted.

        Raises:
            ServerError: the whole batch is refused.
            RequestTimeout: not known; send it again with the same `client_id`s.
        """
        fields = [self._send_fields(draft) for draft in drafts]
        results: list[Sent | ServerError] = []

        def on_answer(answer: dict[str, Any]) -> None:
            results.clear()
            for entry, item in zip(take_maps(answer, "results"), fields, strict=False):
                if take(entry, "code", int, 0):
                    results.append(ServerError.from_answer(entry, commands.SEND))
                else:
                    results.append(self._note_sent(entry, item["client_id"]))

        await self._send(commands.SEND_BATCH, {"messages": fields}, fields, on_answer, timeout_s)
        if len(results) != len(fields):
            raise ClientError(f"the server answered {len(results)} of the batch's {len(fields)} messages")
        return results

    def _send_fields(self, draft: Draft) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "conversation_id" if _is_conversation(draft.to) else "to": draft.to,
            "client_id": draft.client_id or f"{self._state.sender}.{secrets.token_hex(12)}",
            "body": draft.body,
            "type": draft.type,
        }
        if draft.reply_to is not None:
            fields["reply_to"] = draft.reply_to
        if draft.mentions:
            fields["mentions"] = list(draft.mentions)
        return fields

    async def _send(
        self,
        command: int,
        body: Mapping[str, Any],
        messages: Sequence[dict[str, Any]],
        on_answer: OnAnswer,
        timeout_s: float | None,
    ) -> None:
        """Carry a SEND or SEND_BATCH through, in line with the others to the same conversations."""
        user_id = self.user_id
        if user_id is None:
            raise Unauthenticated(401, "unauthenticated", "log in before you send", command=command)
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        lines = sorted({_conversation_of(user_id, message) for message in messages})
        with trio.move_on_after(timeout_s):
            async with self._lines.all_of(lines), self._send_slots:
                with ExitStack() as marks:
                    for message in messages:
                        self._delivery.sending.add(message["client_id"])
                        marks.callback(self._delivery.sending.discard, message["client_id"])
                    await self._ask(command, body, repeat=True, logged_in=True, on_answer=on_answer)
            return
        raise self._timed_out("the message", timeout_s)

    def _note_sent(self, answer: Mapping[str, Any], client_id: str) -> Sent:
        """Take in an answer before any push behind it, so that one's own place is no gap."""
        sent = Sent.from_wire(answer, client_id)
        if sent.seq is not None:
            self._delivery.sent(sent.conversation_id, sent.seq)
            self._changes.sent(sent.conversation_id, sent.seq)
            if self._delivery.wants_sync or self._delivery.is_behind:
                self._changed.ring()
        return sent

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
        return _Iteration(self, self._next_message)

    def _next_message(self) -> Message | None:
        if self._handed is not None:
            self.ack(self._handed)
        if self._delivery.has_ready:
            self._handed = self._delivery.next_message()
            if self._delivery.is_behind:
                self._changed.ring()  # there is room for a pull
        return self._handed

    async def _next(self, next_item: Callable[[], T | None], logouts: int) -> T:
        """Wait for the next message or event; one task at a time for each."""
        if next_item.__name__ in self._iterating:
            raise trio.BusyResourceError("another task waits for the next one already")
        self._iterating.add(next_item.__name__)
        try:
            await trio.lowlevel.checkpoint()  # before anything is handed out, so that cancellation loses nothing
            while (item := next_item()) is None:
                if self._supervisor.ended is not None:
                    raise self._supervisor.ended
                if self._logouts != logouts:
                    raise StopAsyncIteration
                await self._changed.wait()
            return item
        finally:
            self._iterating.discard(next_item.__name__)

    def ack(self, message: Message) -> None:
        """Say that this message, the last that `messages()` gave, is dealt with: `state` moves past it.

        Call it before you persist `state` within the loop. Earlier messages were taken already: nothing happens.
        """
        if self._handed is not None and self._handed is message:
            self._handed = None
            self._delivery.taken(message)
            self._changed.ring()

    def events(self) -> AsyncIterator[Event]:
        """Iterate over everything else: changes of messages, read marks, presence, notices.

        Call it before the login to miss none. Changes of messages (`MessageChanged`) are never lost: those that were
        missed while away, or had no room, are fetched. Others that have no room are counted in `EventsLost`.
        An event is taken when the loop asks for the next. Ends after `logout()`.

        Raises:
            SessionEnded: the server ended the session.
            trio.BusyResourceError: another task waits for the next event already.
        """
        self._changes.is_wanted = True
        return _Iteration(self, self._next_event)

    def _next_event(self) -> Event | None:
        self._event_taken()
        had_room = self._events.has_room
        self._handed_event = self._events.take()
        if not had_room:
            self._changed.ring()  # there is room for fetched changes
        return self._handed_event

    def _event_taken(self) -> None:
        if isinstance(self._handed_event, MessageChanged):
            self._changes.taken(self._handed_event.conversation_id, self._handed_event.rev)
        self._handed_event = None

    def _pushed(self, command: int, body: dict[str, Any]) -> None:
        """Take in one push; called by the connection's reader, must not block."""
        if command == commands.MESSAGE:
            message = Message.from_wire(body)
            self._delivery.pushed(message)
            if message.seq:
                self._changes.pushed(message.conversation_id, message.rev)
        else:
            event = event_from_push(command, body)
            if isinstance(event, MessageChanged):
                self._change_pushed(event)
            elif self._changes.is_wanted:
                self._events.put(event)
            else:
                return
        self._changed.ring()

    def _change_pushed(self, event: MessageChanged) -> None:
        is_unseen = self._delivery.update(event.conversation_id, event.seq, event.state)
        wants_room = self._changes.is_wanted and not is_unseen
        has_room = self._events.has_room or not wants_room
        if self._changes.pushed(event.conversation_id, event.rev, has_room=has_room) and wants_room:
            self._catch_up.show_change(event)

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
        if self._handed is not None:
            self.ack(self._handed)
        self._event_taken()
        self._delivery.hurry()
        self._changed.ring()
        with trio.move_on_after(FLUSH_TIMEOUT_S):
            while self._catch_up.has_unconfirmed and self.is_connected:
                await self._changed.wait()


class _Iteration(Generic[T]):
    """The iterator behind `messages()` and `events()`; no generator, so that a `break` leaves nothing to clean up."""

    def __init__(self, client: Client, next_item: Callable[[], T | None]) -> None:
        self._client = client
        self._next_item = next_item
        self._logouts = client._logouts

    def __aiter__(self) -> _Iteration[T]:
        return self

    async def __anext__(self) -> T:
        return await self._client._next(self._next_item, self._logouts)


def _unwrap(error: BaseException) -> BaseException:
    """Take an exception out of the groups that hold nothing else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_conversation(to: str) -> bool:
    return to.startswith(("d:", "g:"))  # a user id holds no colon


def _conversation_of(user_id: str, fields: Mapping[str, Any]) -> str:
    """Return the conversation id of a SEND, so that both ways to name it are one line."""
    to = fields.get("to")
    if to is None:
        return str(fields["conversation_id"])
    return "d:" + ":".join(sorted((user_id, to), key=str.encode))
