"""A timer wheel: the deadlines of all sessions of a shard, at the price of one task."""

from __future__ import annotations

import math
from typing import Protocol

SLOTS = 256
RESOLUTION_S = 0.1


class Timed(Protocol):
    """Something with deadlines."""

    def check_deadlines(self, now: float) -> float | None:
        """Act on what is due; return when to look again (monotonic seconds), or None for never."""


class Wheel:
    """Looks at each item when its next deadline has come, at most `RESOLUTION_S` late.

    A deadline that moved on in the meantime costs one look; nothing is done when it moves.
    """

    def __init__(self, now: float) -> None:
        self._slots: list[set[Timed]] = [set() for _ in range(SLOTS)]
        self._slot_of: dict[Timed, int] = {}
        self._position = math.floor(now / RESOLUTION_S)

    def __len__(self) -> int:
        return len(self._slot_of)

    def schedule(self, item: Timed, at: float) -> None:
        """Look at `item` at this time (monotonic seconds), instead of at any other."""
        self.cancel(item)
        # Beyond the wheel's horizon it is looked at early and put on again.
        steps = min(max(1, math.ceil(at / RESOLUTION_S) - self._position), SLOTS - 1)
        slot = (self._position + steps) % SLOTS
        self._slots[slot].add(item)
        self._slot_of[item] = slot

    def cancel(self, item: Timed) -> None:
        """Never look at `item` again."""
        slot = self._slot_of.pop(item, None)
        if slot is not None:
            self._slots[slot].discard(item)

    def advance(self, now: float) -> None:
        """Look at everything whose time has come."""
        target = math.floor(now / RESOLUTION_S)
        # After a standstill longer than the wheel each slot is looked at once, and what is put on again lies right.
        self._position = max(self._position, target - SLOTS)
        for _ in range(target - self._position):
            self._position += 1
            slot = self._position % SLOTS
            due, self._slots[slot] = self._slots[slot], set()
            for item in due:
                if self._slot_of.get(item) != slot:
                    continue  # one before it has cancelled or moved it
                del self._slot_of[item]
                again = item.check_deadlines(now)
                if again is not None and item not in self._slot_of:
                    self.schedule(item, again)
