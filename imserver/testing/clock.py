"""The time of a server under test: it stands still until the test moves it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio.testing

#: Where the wall clock begins: 15 June 2025.
START_MS = 1_750_000_000_000
#: So many deadlines of one `advance` have a step of their own; the rest of the time goes in so many equal ones.
MAX_STEPS = 2000
#: What sums of floats are off by, and how close two times are that were meant to be the same.
_ROUNDING_S = 1e-9
_SAME_S = 1e-6
#: How often worker threads are looked at that a step waits for.
_LOOK_S = 0.001

T = TypeVar("T")
#: Runs an async function in the server's thread and gives its result.
InServer = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class ServerTime:
    """The clock as the server sees it (`imserver.clock.Clock`): wall time and monotonic time are one."""

    def __init__(self, mock: trio.testing.MockClock) -> None:
        self._mock = mock

    def now_ms(self) -> int:
        """Wall time: milliseconds since the Unix epoch."""
        return START_MS + round(self._mock.current_time() * 1000)

    def monotonic(self) -> float:
        """Seconds since the server's start."""
        return self._mock.current_time()


class Clock:
    """`Server.clock`: the server's time, for the test to read and to move.

    Trio's own deadlines in the server (`trio.sleep`, `trio.move_on_after`) follow it as well. Those of the test do not:
    the test runs in another loop, in real time.
    """

    def __init__(
        self,
        mock: trio.testing.MockClock,
        in_server: InServer,
        is_busy: Callable[[], bool],
        before_step: Callable[[float], None],
    ) -> None:
        self._mock = mock
        self._in_server = in_server
        self._is_busy = is_busy
        self._before_step = before_step
        self._time = ServerTime(mock)

    def now_ms(self) -> int:
        """The server's wall time: milliseconds since the Unix epoch, as in `sent_at`."""
        return self._time.now_ms()

    async def advance(self, seconds: float) -> None:
        """Let so much time pass for the server. When this returns, all that was due has been done.

        Time goes from deadline to deadline, and what each one brings about is waited for (commits and worker threads
        too), so that a task that does something each second does it as often as it would. After 2000 deadlines the rest
        goes in 2000 equal steps.

        Raises:
            ValueError: time does not go backwards.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"time goes forward by a number of seconds, not by {seconds}")

        async def in_server() -> None:
            await self.settle_here()
            end = self._mock.current_time() + seconds
            shortest_s = _ROUNDING_S
            for steps in itertools.count(1):
                left_s = end - self._mock.current_time()
                due_s = trio.lowlevel.current_statistics().seconds_to_next_deadline
                if left_s <= 0 and due_s > _SAME_S:
                    return
                if steps == MAX_STEPS:
                    shortest_s = max(left_s / MAX_STEPS, _ROUNDING_S)
                step_s = max(due_s, shortest_s)
                if step_s > left_s + _SAME_S:
                    step_s = left_s
                self._before_step(step_s)
                self._mock.jump(step_s)
                await self.settle_here()

        await self._in_server(in_server)

    async def settle(self) -> None:
        """Wait until the server has nothing to do at this moment of its time: all is committed, answered and pushed."""
        await self._in_server(self.settle_here)

    async def settle_here(self) -> None:
        """As `settle`, in the server's thread."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if not (self._is_busy() or _has_threads()):
                return
            # Real time: a worker thread or the disk is waited for, and the server's own time stands.
            await trio.to_thread.run_sync(time.sleep, _LOOK_S)


def _has_threads() -> bool:
    """Whether a task of this loop waits for a worker thread."""
    root = trio.lowlevel.current_root_task()
    tasks = [] if root is None else [root]
    while tasks:
        task = tasks.pop()
        if any(frame.f_code.co_name == "to_thread_run_sync" for frame, _ in task.iter_await_frames()):
            return True
        for nursery in task.child_nurseries:
            tasks += nursery.child_tasks
    return False
