"""The two background tasks of receiving: fetch what is missing, confirm what was taken.

They work only while the client is logged in, one request at a time each, and never give up on a fault that can pass.
What to fetch is decided in delivery.py and changes.py; here are only the requests and what their errors mean.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from . import commands
from .backoff import Backoff
from .bell import Bell
from .changes import Changes
from .delivery import Delivery, Pull
from .errors import BadRequest, Forbidden, FrameTooLarge, NotFound, RemoteProtocolError, ServerError
from .events import EventQueue
from .pushes import MessageChanged
from .taking import take, take_maps
from .types import MessagePage, SyncPage

log = logging.getLogger("imserver.client")

PAGE: Final = 200  # messages per PULL or CHANGES; the protocol allows 500. Arbitrary.
SYNC_PAGE: Final = 500
ACKS: Final = 500  # conversations per PUSH_ACK: about 20 kB. Arbitrary.

#: Makes a request on a logged-in connection, however often it must be repeated.
Ask = Callable[[int, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class CatchUp:
    """Fetches and confirms for one client. `changed` is rung by whoever gives it work, and by it for who waits."""

    def __init__(
        self, ask: Ask, delivery: Delivery, changes: Changes, events: EventQueue, changed: Bell, cursor: Callable[[], str]
    ) -> None:
        self._ask = ask
        self._delivery = delivery
        self._changes = changes
        self._events = events
        self._changed = changed
        self._cursor = cursor
        self._is_confirming = False

    @property
    def has_unconfirmed(self) -> bool:
        """A confirmation is due or under way."""
        return self._delivery.has_acks or self._is_confirming

    # -------------------------------------------------------------- fetch

    async def fetch(self) -> None:
        """Fetch what is missing, for as long as the client lives."""
        backoff = Backoff()
        while True:
            try:
                has_worked = await self._fetch_one()
            except (ServerError, RemoteProtocolError) as error:
                retry_after_ms = error.retry_after_ms if isinstance(error, ServerError) else None
                log.warning("catching up failed, and is tried again: %s", error)
                await trio.sleep(backoff.next_delay_s((retry_after_ms or 0) / 1000))
                continue
            backoff.reset()
            if not has_worked:
                await self._changed.wait()

    async def _fetch_one(self) -> bool:
        """Make one request if one is wanted. Changes go before messages, so that they find the old ones only."""
        if self._delivery.wants_sync:
            await self._sync()
        elif self._events.has_room and (fetch := self._changes.next_fetch()) is not None:
            await self._fetch_changes(*fetch)
        elif (pull := self._delivery.next_pull(PAGE)) is not None:
            await self._pull(pull)
        else:
            return False
        self._changed.ring()
        return True

    async def _sync(self) -> None:
        self._delivery.sync_asked()
        cursor = self._cursor()
        body: dict[str, Any] = {"limit": SYNC_PAGE}
        if cursor:
            body["cursor"] = cursor
        try:
            page = SyncPage.from_wire(await self._ask(commands.SYNC, body))
        except BadRequest as error:
            if not cursor or error.field != "cursor":
                raise
            log.warning("the server does not take the sync cursor any more: everything is looked through")
            self._delivery.forget_cursor()
            return
        self.synced(page)

    def synced(self, page: SyncPage) -> None:
        """Take in a page of SYNC, asked for here or come with the login."""
        if page.more and page.next_cursor == self._cursor() and page.conversations:
            raise RemoteProtocolError("SYNC has more pages, and its cursor does not move")
        self._delivery.synced(page.conversations, page.next_cursor, more=page.more)
        for entry in page.conversations:
            self._changes.known(entry.conversation_id, entry.last_rev)

    async def _pull(self, pull: Pull) -> None:
        body = {"conversation_id": pull.conversation_id, "after_seq": pull.after_seq, "limit": pull.limit}
        try:
            page = MessagePage.from_wire(await self._ask(commands.PULL, body))
        except (Forbidden, NotFound) as error:
            log.info("%s is not to be read any more: %s", pull.conversation_id, error)
            self._delivery.unavailable(pull)
            return
        self._delivery.pulled(pull, page.messages, page.last_seq)

    async def _fetch_changes(self, conversation_id: str, since_rev: int) -> None:
        body = {"conversation_id": conversation_id, "since_rev": since_rev, "limit": PAGE}
        try:
            answer = await self._ask(commands.CHANGES, body)
        except (Forbidden, NotFound) as error:
            log.info("the changes of %s are not to be had: %s", conversation_id, error)
            self._changes.fetched(conversation_id, since_rev, more=False)
            return
        upto_rev = since_rev
        for state in sorted(take_maps(answer, "messages"), key=lambda state: take(state, "rev", int)):
            if not self._events.has_room:
                self._changes.fetched(conversation_id, upto_rev, more=True)
                return
            upto_rev = take(state, "rev", int)
            self._show_fetched(conversation_id, upto_rev, state)
        more = take(answer, "more", bool, False)
        # The last page reaches the end of the conversation, also where its last changes are not for this user.
        self._changes.fetched(
            conversation_id, upto_rev if more else max(upto_rev, take(answer, "last_rev", int, 0)), more=more
        )

    def _show_fetched(self, conversation_id: str, rev: int, state: dict[str, Any]) -> None:
        seq = take(state, "seq", int)
        if self._delivery.update(conversation_id, seq, state):
            return  # the application has not seen the message: it will, in this state
        if not self._changes.is_change(conversation_id, seq, state):
            return
        change = "recalled" if state.get("recalled") else "edited" if state.get("edited_at") else "reacted"
        self.show_change(MessageChanged(conversation_id, seq, rev, change, state))

    def show_change(self, event: MessageChanged) -> None:
        """Queue the event of a change; the caller has seen that there is room."""
        self._events.put(event)
        self._changes.queued(event.conversation_id)

    # -------------------------------------------------------------- confirm

    async def confirm(self) -> None:
        """Send PUSH_ACK for what the application has taken, for as long as the client lives."""
        backoff = Backoff()
        while True:
            if not self._delivery.has_acks:
                await self._changed.wait()
                continue
            acks = self._delivery.due_acks(ACKS)
            self._is_confirming = True
            try:
                await self._confirm(acks)
                backoff.reset()
            except ServerError as error:
                self._delivery.owe(acks)
                log.warning("confirming failed, and is tried again: %s", error)
                await trio.sleep(backoff.next_delay_s((error.retry_after_ms or 0) / 1000))
            finally:
                self._is_confirming = False
                self._changed.ring()

    async def _confirm(self, acks: dict[str, int]) -> None:
        try:
            await self._ask(commands.PUSH_ACK, {"acks": acks})
        except FrameTooLarge:
            if len(acks) == 1:
                raise  # no server takes so little
            half = len(acks) // 2
            await self._confirm(dict(list(acks.items())[:half]))
            await self._confirm(dict(list(acks.items())[half:]))
        except (BadRequest, Forbidden, NotFound) as error:
            if len(acks) == 1:
                # Nothing that repeating can mend (one has left the group); SYNC knows without it.
                log.info("a confirmation is refused: %s", error)
                return
            for name, seq in acks.items():
                await self._confirm({name: seq})
