"""What lasts too long, said in the log: a commit that the disk does not end, a loop that does not come round."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from imserver.log import get_logger

if TYPE_CHECKING:
    from imserver.endpoint import Endpoint
    from imserver.journal import Journal

#: From here on a commit is told of, and then again and again while it lasts.
_SLOW_COMMIT_S = 1.0
_SLOW_AGAIN_S = 10.0
_LOOK_S = 0.25

#: A loop that comes so much too late was held up; one line a second tells it.
STALL_S = 0.1
_STALL_AGAIN_S = 1.0
#: How far back `LoopWatch.lag_s` looks, so that a scrape sees what was between it and the one before.
LAG_WINDOW_S = 60.0


class CommitWatch:
    """Tells of commits that last long."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._log = get_logger("journal")
        self._say_at_s = _SLOW_COMMIT_S

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await trio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Say so if the commit that is under way has lasted for long, or longer again."""
        age_s = self._journal.commit_age_s
        if age_s < _SLOW_COMMIT_S:
            self._say_at_s = _SLOW_COMMIT_S
        elif age_s >= self._say_at_s:
            self._say_at_s = (age_s // _SLOW_AGAIN_S + 1) * _SLOW_AGAIN_S
            self._log.warning(
                "commit_slow", seconds=round(age_s, 1), advice="the disk does not answer; messages wait for it"
            )


class LoopWatch:
    """How late a shard's loop comes round: what a handler that computes, or blocks, makes everybody wait.

    Args:
        log: the shard's.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._said_at = -_STALL_AGAIN_S
        self._unsaid = 0
        #: (when, how late) of what may be the latest of the time looked back on: later ones are less late.
        self._worst: deque[tuple[float, float]] = deque()
        #: How often it came later than `STALL_S`.
        self.stalls = 0

    def came(self, now: float, late_s: float, last: Endpoint | None) -> None:
        """The loop has come round.

        Args:
            now: monotonic seconds.
            late_s: by how much it comes too late.
            last: the command that was dispatched last; it need not be to blame, for tasks compute, too.
        """
        worst = self._worst
        while worst and worst[0][0] < now - LAG_WINDOW_S:
            worst.popleft()
        while worst and worst[-1][1] <= late_s:
            worst.pop()
        worst.append((now, late_s))
        if late_s <= STALL_S:
            return
        self.stalls += 1
        self._unsaid += 1
        if now - self._said_at >= _STALL_AGAIN_S:
            self._said_at = now
            command = None if last is None else last.command.name
            self._log.warning("loop_stalled", seconds=round(late_s, 3), stalls=self._unsaid, last_command=command)
            self._unsaid = 0

    @property
    def lag_s(self) -> float:
        """The latest that it came within the last `LAG_WINDOW_S`. From any thread."""
        try:
            return max(0.0, self._worst[0][1])
        except IndexError:  # it has not come yet
            return 0.0
