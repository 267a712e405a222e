"""Whose turn it is to read: a few readers, and many who ask, of whom one may ask for very much.

Each asker has a queue of its own; a place that becomes free goes to the asker whose turn it is, and nobody has all places.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from imserver.caller import Caller

#: For whom this task reads; None: for the server itself.
_asker: ContextVar[str | None] = ContextVar("asker", default=None)


def read_for(caller: Caller) -> None:
    """What this task reads from now on, and what tasks that it starts read, is read for this caller."""
    _asker.set(caller.user_id or caller.address)


def read_for_all() -> None:
    """What this task reads from now on is nobody's alone."""
    _asker.set(None)


class _Waiter:
    """Somebody in a queue."""

    __slots__ = ("borrower", "event")

    def __init__(self, borrower: object) -> None:
        self.borrower = borrower
        self.event = trio.Event()


class Turns:
    """Limits how many read at once; as `trio.to_thread.run_sync` wants its `limiter`. It belongs to one loop.

    Args:
        places: how many may read at once, 2 at least; one asker has one place less at most.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._most = places - 1
        #: Who has a place, and for whom; how many places each asker has.
        self._borrowers: dict[object, str | None] = {}
        self._taken: Counter[str | None] = Counter()
        #: Who waits, by asker; the asker whose turn is next stands first.
        self._waiting: OrderedDict[str | None, deque[_Waiter]] = OrderedDict()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a place, in the turn of whom this task reads for."""
        await trio.lowlevel.checkpoint_if_cancelled()
        asker = _asker.get()
        if self._free and self._may_have(asker):
            # Those who wait have all they may have: else the place would be theirs.
            self._give(borrower, asker)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        waiter = _Waiter(borrower)
        self._waiting.setdefault(asker, deque()).append(waiter)
        try:
            await waiter.event.wait()
        except trio.Cancelled:
            if borrower in self._borrowers:
                self.release_on_behalf_of(borrower)  # its turn has come at the same moment
            else:
                self._leave_queue(asker, waiter)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give a place back; it goes to the next asker whose turn it is."""
        asker = self._borrowers.pop(borrower)
        self._taken[asker] -= 1
        if not self._taken[asker]:
            del self._taken[asker]
        self._free += 1
        for waiting in list(self._waiting):
            if self._may_have(waiting):
                queue = self._waiting[waiting]
                waiter = queue.popleft()
                if queue:
                    self._waiting.move_to_end(waiting)
                else:
                    del self._waiting[waiting]
                self._give(waiter.borrower, waiting)
                waiter.event.set()
                return

    def _may_have(self, asker: str | None) -> bool:
        return self._taken[asker] < self._most

    def _give(self, borrower: object, asker: str | None) -> None:
        self._free -= 1
        self._borrowers[borrower] = asker
        self._taken[asker] += 1

    def _leave_queue(self, asker: str | None, waiter: _Waiter) -> None:
        queue = self._waiting[asker]
        queue.remove(waiter)
        if not queue:
            del self._waiting[asker]
