"""How long to wait before the next attempt: exponential, with full jitter, bounded."""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field


@define
class Backoff:
    """Delays between 0 and a ceiling that doubles from `min_s` to `max_s`.

    Full jitter (any delay below the ceiling) spreads the clients of a restarted server best; the first delay is
    therefore short more often than not.

    Attributes:
        min_s: the first ceiling, in seconds.
        max_s: the last one.
        uniform: draws a delay between two bounds; a test gives its own.
    """

    min_s: float = 0.1
    max_s: float = 30.0
    uniform: Callable[[float, float], float] = random.uniform
    _attempt: int = field(default=0, init=False)

    def next_delay_s(self, at_least_s: float = 0.0) -> float:
        """Return the next delay; never less than `at_least_s`, on which the jitter comes on top."""
        ceiling_s = min(self.max_s, self.min_s * 2.0 ** min(self._attempt, 60))
        self._attempt += 1
        return at_least_s + self.uniform(0.0, ceiling_s)

    def reset(self) -> None:
        """Begin anew: the last attempt was a success."""
        self._attempt = 0
