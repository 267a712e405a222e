"""Snowflake ids: 41 bits of milliseconds since 2024-01-01T00:00Z, 10 of node, 12 of counter (wire protocol, section 3).

They are also the change numbers of the journal, so each is larger than the one before, whatever the clock does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable

EPOCH_MS = 1_704_067_200_000
_TIME_SHIFT = 22
_NODE_SHIFT = 12
_COUNTER_MASK = (1 << _NODE_SHIFT) - 1

#: The clock may be behind the ids by so much, and nothing is said of it: bursts and small steps back.
TOLERATED_MS = 10_000
#: Marks are a second apart; those of more seconds would not make the age of a message any more useful.
_MAX_MARKS = 10_000


def sent_at_ms(snowflake: int) -> int:
    """When the id was made, in milliseconds since the Unix epoch."""
    return (snowflake >> _TIME_SHIFT) + EPOCH_MS


def first_at(unix_ms: int) -> int:
    """The smallest id that could have been made at this time."""
    return max(0, unix_ms - EPOCH_MS) << _TIME_SHIFT


class Snowflakes:
    """Makes ids. Not thread-safe: the journal's lock guards it.

    Args:
        node: 0–1023, unique in a cluster.
        last: the largest id handed out before a restart; every new one is larger.
        now_ms: the wall clock, in milliseconds since the Unix epoch.

    A clock that steps back, or more than 4,096 ids in one millisecond, borrows from the future: the time in the ids
    then stands at, or runs ahead of, the last one until the clock has caught up. `mark`, called now and then, notes what the
    clock said meanwhile, so that `made_at_ms` tells when an id was made all the same.
    """

    def __init__(self, node: int, last: int, now_ms: Callable[[], int]) -> None:
        if not 0 <= node < 1024:
            raise ValueError(f"node {node} is not in 0–1023")
        self._node_bits = node << _NODE_SHIFT
        self._now_ms = now_ms
        self._tick = last >> _TIME_SHIFT
        # Another node's counter says nothing about ours: go on behind the whole millisecond.
        self._counter = _COUNTER_MASK if last else -1
        #: (an id, what the clock said when it was the last one)
        self._marks: deque[tuple[int, int]] = deque(maxlen=_MAX_MARKS)

    def next(self) -> int:
        """The next id."""
        now = self._now_ms() - EPOCH_MS
        if now > self._tick:
            self._tick = now
            self._counter = 0
        elif self._counter < _COUNTER_MASK:
            self._counter += 1
        else:
            self._tick += 1
            self._counter = 0
        return self._tick << _TIME_SHIFT | self._node_bits | self._counter

    def mark(self) -> int:
        """Note what the clock says if it is behind the ids by more than `TOLERATED_MS`. Returns by how much, else 0."""
        now_ms = self._now_ms()
        behind_ms = self._tick + EPOCH_MS - now_ms
        if behind_ms <= TOLERATED_MS:
            return 0
        last = self._tick << _TIME_SHIFT | self._node_bits | self._counter
        if not self._marks or self._marks[-1][0] < last:
            self._marks.append((last, now_ms))
        return behind_ms

    def made_at_ms(self, snowflake: int) -> int:
        """What the clock said when an id was made: at most this, and within what lies between two marks of it."""
        sent_at = sent_at_ms(snowflake)
        position = bisect_left(self._marks, (snowflake, 0))
        said_ms = self._marks[position][1] if position < len(self._marks) else self._now_ms()
        return min(sent_at, said_ms)
