"""What the application takes: messages and events, each handed out once, and taken when the next one is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

import trio

from . import commands
from .bell import Bell
from .catchup import CatchUp
from .changes import Changes
from .delivery import Delivery
from .errors import ClientError
from .events import EventQueue
from .pushes import Event, MessageChanged, event_from_push
from .types import Message

T = TypeVar("T")


class Incoming:
    """Takes pushes in on one side, and hands messages and events out on the other.

    Args:
        ended: gives the error that has ended the client, if it has.
        changed: rung when an iteration has something to look at, and when what was taken makes room.
    """

    def __init__(
        self,
        delivery: Delivery,
        changes: Changes,
        events: EventQueue,
        catch_up: CatchUp,
        changed: Bell,
        ended: Callable[[], ClientError | None],
    ) -> None:
        #: How often the client has logged out: iterations from before end.
        self.logouts = 0
        self._delivery = delivery
        self._changes = changes
        self._events = events
        self._catch_up = catch_up
        self._changed = changed
        self._ended = ended
        self._handed: Message | None = None  # the message that the application is at
        self._handed_event: Event | None = None
        self._iterating: set[str] = set()

    def messages(self) -> AsyncIterator[Message]:
        """See `Client.messages`."""
        return _Iteration(self, self._next_message)

    def events(self) -> AsyncIterator[Event]:
        """See `Client.events`."""
        self._changes.is_wanted = True
        return _Iteration(self, self._next_event)

    def ack(self, message: Message) -> None:
        """See `Client.ack`."""
        if self._handed is not None and self._handed is message:
            self._handed = None
            self._delivery.taken(message)
            self._changed.ring()

    def take_last(self) -> None:
        """The application is at its good end: what it was given last is taken."""
        if self._handed is not None:
            self.ack(self._handed)
        self._event_taken()

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
                if (ended := self._ended()) is not None:
                    raise ended
                if self.logouts != logouts:
                    raise StopAsyncIteration
                await self._changed.wait()
            return item
        finally:
            self._iterating.discard(next_item.__name__)

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

    def pushed(self, command: int, body: dict[str, Any]) -> None:
        """Take in one push; called by the connection's reader, must not block."""
        # A message that grows is none yet: the whole of it comes as one.
        if command == commands.MESSAGE and not body.get("streaming"):
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


class _Iteration(Generic[T]):
    """The iterator behind `messages()` and `events()`; no generator, so that a `break` leaves nothing to clean up."""

    def __init__(self, incoming: Incoming, next_item: Callable[[], T | None]) -> None:
        self._incoming = incoming
        self._next_item = next_item
        self._logouts = incoming.logouts

    def __aiter__(self) -> _Iteration[T]:
        return self

    async def __anext__(self) -> T:
        return await self._incoming._next(self._next_item, self._logouts)
