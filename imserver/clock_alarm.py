"""Says that the clock is behind the ids: it was ahead once, and until it has caught up `sent_at` stands ahead of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.log import get_logger

if TYPE_CHECKING:
    from imserver.clock import Clock
    from imserver.conversations import Conversations

_SAY_AGAIN_S = 3600.0


class ClockAlarm:
    """One for the server; `look` at the start and once a second."""

    def __init__(self, conversations: Conversations, clock: Clock) -> None:
        self._conversations = conversations
        self._clock = clock
        self._log = get_logger("clock")
        self._said_at: float | None = None

    def look(self) -> None:
        """Let the ids be marked with the time, and say it if they are ahead; once an hour while it lasts."""
        behind_ms = self._conversations.mark_clock()
        if not behind_ms:
            self._said_at = None
            return
        now = self._clock.monotonic()
        if self._said_at is None or now - self._said_at >= _SAY_AGAIN_S:
            self._said_at = now
            self._log.warning(
                "clock_behind",
                seconds=round(behind_ms / 1000),
                advice="the clock was ahead before, or is wrong now: until it has caught up the sent_at of messages stands"
                " still; compare this machine's clock with another one",
            )
