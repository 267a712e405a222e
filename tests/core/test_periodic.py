"""Periodic work of plugins: its rounds, its small steps, and what it survives."""

import pytest
import trio

from imserver.context.periodic import repeat
from imserver.errors import StorageUnavailable, Unavailable


class Log:
    """Keeps what it is told."""

    def __init__(self):
        self.warnings = []

    def warning(self, event, **fields):
        self.warnings.append((event, fields))


async def times_of(results, *, periods, log):
    """When the steps began that end in these results, one after another, then in None; seconds from the start."""
    began, times = trio.current_time(), []

    async def step(first, second):
        assert (first, second) == (1, 2)
        times.append(round(trio.current_time() - began, 3))
        result = results.pop(0) if results else None
        if isinstance(result, Exception):
            raise result
        return result

    with trio.move_on_after(60 * periods + 1):
        await repeat(log, step, 1, 2, period_s=60, name="test_cleanup")
    return times


async def test_a_round_is_as_many_steps_as_it_takes(autojump_clock):
    """True: the next step follows shortly; anything else, a number too, ends the round."""
    times = await times_of([True, True, False, 500], periods=3, log=Log())
    assert times == [60, 60.1, 60.2, 120.2, 180.2]


@pytest.mark.parametrize("failure", [StorageUnavailable("the disk is full"), Unavailable("too many loads")])
async def test_a_failure_is_told_and_the_next_round_comes(autojump_clock, failure):
    """Also in the middle of a round."""
    log = Log()
    times = await times_of([failure, True, failure], periods=3, log=log)
    assert times == [60, 120, 120.1, 180.1]
    assert log.warnings == [("test_cleanup_failed", {"error": str(failure)})] * 2


async def test_a_fault_ends_it(autojump_clock):
    """What nobody has foreseen goes to whoever started it, which tells of the task's end."""
    with pytest.raises(ZeroDivisionError):
        await times_of([ZeroDivisionError()], periods=2, log=Log())
