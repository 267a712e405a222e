"""The public face: `Client`. What it can ask by service is in users.py, conversations.py, friends.py and groups.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import trio

from . import commands
from .asking import Asking
from .attachments import FileCalls
from .backoff import Backoff
from .bell import Bell
from .catchup import CatchUp
from .changes import Changes
from .conversations import ConversationCalls
from .delivery import Delivery, History
from .errors import ClientClosed, ConnectionLost, ServerError
from .events import EventQueue
from .files import Files
from .friends import Friends
from .groups import Groups
from .http import Site
from .pushes import Event
from .receiving import Incoming
from .sending import Outgoing
from .state import State
from .supervisor import Device, RenewToken, Supervisor, Timing
from .transport import Opener
from .types import Credentials, Draft, Message, Sent
from .users import UserCalls

CLIENT_VERSION: Final = "1"  # of this client, as told in HELLO
FLUSH_TIMEOUT_S: Final = 2.0  # for the last confirmations when the block ends


class Client(UserCalls, ConversationCalls, FileCalls):
    """A logged-in user on one device. Made by `open_client`; every method is for the Trio run that made it.

    Every call ends in one of four ways: its result, a `ServerError` (definitely refused), a `RequestTimeout` or
    `ConnectionLost` (not known), a `SessionEnded`. Calls may be cancelled at any time; one that was cancelled may
    have been carried out.
    """

    def __init__(
        self,
        open_stream: Opener,
        *,
        site: Site | None,
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
        self._files = None if site is None else Files(site, self._token, self.refresh)
        #: Friends and blocks.
        self.friends = Friends(self.request)
        #: Groups.
        self.groups = Groups(self.request)

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

    @property
    def last_failure(self) -> str:
        """For a person: what the last attempt to connect, or the last connection, came to."""
        return self._supervisor.last_failure

    async def wait_connected(self, is_connected: bool = True) -> None:
        """Return when `is_connected` is that; at once if it is so already.

        Raises:
            SessionEnded, ClientClosed: the client has ended.
        """
        await trio.lowlevel.checkpoint()
        while self.is_connected != is_connected:
            if self._supervisor.ended is not None:
                raise self._supervisor.ended
            await self._changed.wait()

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

    def _tell(self, command: int, body: dict[str, Any]) -> bool:
        return self._supervisor.tell(command, body)

    # -------------------------------------------------------------- sessions

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

    # -------------------------------------------------------------- sending

    async def send(
        self,
        to: str,
        body: Any,
        *,
        type: str = "text",
        client_id: str | None = None,
        reply_to: int | None = None,
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

    # -------------------------------------------------------------- life

    def _http_files(self) -> Files:
        if self._files is None:
            raise ValueError('files go over HTTP: give open_client the server\'s page, http="http://host:port/"')
        return self._files

    def _token(self) -> str:
        if self.credentials is None:
            raise ClientClosed("not logged in")
        return self.credentials.token

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
