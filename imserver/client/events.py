"""The bounded queue of events between the connection and the application."""

from __future__ import annotations

from collections import deque
from typing import Final

from .pushes import Event, EventsLost

#: Events that wait for the application. Arbitrary: an event is small, and late ones are worth little.
MAX_EVENTS: Final = 1024


class EventQueue:
    """First in, first out; never blocks. What has no room is counted, and shown as one `EventsLost`."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._events: deque[Event] = deque()
        self._max_events = max_events
        self._lost = 0

    @property
    def has_room(self) -> bool:
        """One more event fits."""
        return len(self._events) < self._max_events

    @property
    def has_events(self) -> bool:
        """An event waits for the application."""
        return bool(self._events) or self._lost > 0

    def put(self, event: Event) -> None:
        """Queue an event, or count it as lost."""
        if self.has_room:
            self._events.append(event)
        else:
            self._lost += 1

    def take(self) -> Event | None:
        """Return the next event; after the last of a full queue, how many were lost behind it."""
        if self._events:
            return self._events.popleft()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        return None
