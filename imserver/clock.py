"""The two clocks. A seam: tests put their own in."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the server knows of time."""

    def now_ms(self) -> int:
        """Wall time: milliseconds since the Unix epoch, UTC. May step; never used for durations."""

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start: for durations and deadlines."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall time in milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()
