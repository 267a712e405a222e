"""The reactor: one Trio task that drives all sockets of a shard through one epoll.

Trio waits for the epoll's own descriptor; once it is readable, plain non-blocking calls handle whatever is ready. With
one Trio task and stream a connection this machine echoed 26,000 frames a second, this way 75,000, and 850,000 with 16 in
flight on each connection: the cost of a wakeup is shared by all that is ready.

One **tick** is one pass: fetch ready descriptors, let each source read or write once, then `end_tick`. After a bounded
time Trio's other tasks get their turn.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import trio

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
BROKEN = select.EPOLLERR | select.EPOLLHUP

#: Ready descriptors fetched for one tick; how long a tick may last, after which the rest is fetched again, behind what has
#: become ready meanwhile; and how long Trio's other tasks may have to wait. Arbitrary, small against a second.
_EVENTS_PER_TICK = 512
_TICK_S = 0.005
_TURN_S = 0.010


class Source(Protocol):
    """Something with a descriptor. Must not raise."""

    def ready(self, events: int) -> None:
        """Read or write once; more is fetched again in the next tick (level-triggered)."""


class Socket(Protocol):
    """As much of a socket as the reactor needs."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Reactor:
    """The epoll of one shard. Everything but `wake` belongs to the shard's thread.

    Args:
        begin_tick: called before the sources of a tick.
        end_tick: called after them; hands on what the tick made.
        is_paused: while true no source is served, only wakeups are (back-pressure).
        on_fault: told, inside the `except`, of a source that has raised.
    """

    def __init__(
        self,
        begin_tick: Callable[[], None],
        end_tick: Callable[[], None],
        is_paused: Callable[[], bool],
        on_fault: Callable[[Source], None],
    ) -> None:
        self._begin_tick = begin_tick
        self._end_tick = end_tick
        self._is_paused = is_paused
        self._on_fault = on_fault
        self._epoll = select.epoll()
        self._sources: dict[int, Source] = {}
        self._closing: list[Socket] = []
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_woken = False
        self._epoll.register(self._wake_fd, READ)

    def add(self, fd: int, source: Source, events: int) -> None:
        """Watch a descriptor."""
        self._sources[fd] = source
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Watch it for these events from now on."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching; events already fetched for it are dropped."""
        del self._sources[fd]
        self._epoll.unregister(fd)

    def close_socket(self, sock: Socket) -> None:
        """Stop watching a socket and close it at the end of the tick: until then its number cannot be given away again."""
        self.remove(sock.fileno())
        self._closing.append(sock)
        self.wake()

    def wake(self) -> None:
        """Run a tick soon. From any thread; many wakeups before a tick are one. Nothing happens once it is closed."""
        if not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._wake_fd, 1)

    def _take_wakeup(self) -> None:
        """Before `begin_tick` looks: what comes from now on wakes again."""
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return  # whoever woke us is between its two lines; the second one makes another tick
        self._is_woken = False

    async def run(self) -> None:
        """Serve until cancelled."""
        poll = self._epoll.poll
        left: list[tuple[int, int]] = []  # fetched, and not yet served when the tick's time was over
        while True:
            await trio.lowlevel.wait_readable(self._wake_fd if self._is_paused() else self._epoll.fileno())
            turn_ends = monotonic() + _TURN_S
            while True:
                is_paused = self._is_paused()
                events = poll(0, 1) if is_paused else left or poll(0, _EVENTS_PER_TICK)
                if not events:
                    break
                # Also unasked: of two wakers at once the second may have written after we read.
                if self._is_woken or events[0][0] == self._wake_fd:
                    self._take_wakeup()
                self._begin_tick()
                if not is_paused:
                    left = self._serve(events)
                self._end_tick()
                if self._closing:
                    for sock in self._closing:
                        sock.close()
                    self._closing.clear()
                if monotonic() > turn_ends or self._is_paused():
                    await trio.lowlevel.checkpoint()
                    break

    def _serve(self, events: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Let ready sources read or write; returns those that the tick has no time for."""
        sources = self._sources
        tick_ends = monotonic() + _TICK_S
        for index, (fd, mask) in enumerate(events):
            source = sources.get(fd)
            if source is not None:
                try:
                    source.ready(mask)
                except Exception:
                    self._on_fault(source)
                if monotonic() > tick_ends:
                    return events[index + 1 :]
        return []

    def close(self) -> None:
        """Close what is left. The loop has ended."""
        for sock in self._closing:
            sock.close()
        self._closing.clear()
        self._is_woken = True  # from here on `wake` finds nothing to do
        self._epoll.close()
        os.close(self._wake_fd)
