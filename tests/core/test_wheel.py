"""The timer wheel against the plain model: a dictionary of deadlines."""

import math

from hypothesis import example, given, settings
from hypothesis import strategies as st

from imserver.wheel import RESOLUTION_S, SLOTS, Wheel

#: Floats: a deadline on the edge of a slot may fall to either side of it.
EPSILON_S = 1e-6
HORIZON_S = SLOTS * RESOLUTION_S


class Item:
    """Acts when its deadline has come; early looks only tell when to come again, as sessions do."""

    def __init__(self, at, repeat_s=None):
        self.at = at
        self.repeat_s = repeat_s
        self.acted_at = []
        self.looks = 0
        self.on_act = None

    def check_deadlines(self, now):
        self.looks += 1
        if self.at is None:
            return None
        if now < self.at:
            return self.at
        self.acted_at.append((self.at, now))
        self.at = None if self.repeat_s is None else now + self.repeat_s
        if self.on_act is not None:
            self.on_act()
        return self.at


moments = st.floats(0, 3 * HORIZON_S, allow_nan=False)
steps = st.one_of(st.floats(0, 0.5), st.floats(0, 5), st.floats(0, 2.5 * HORIZON_S))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("schedule"), st.integers(0, 5), moments),
        st.tuples(st.just("postpone"), st.integers(0, 5), moments),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0.0)),
        st.tuples(st.just("advance"), st.just(0), steps),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1e5), actions)
@example(0.0, [("schedule", 0, 1.0), ("postpone", 0, 100.5), ("advance", 0, 100.0), ("advance", 0, 0.7)])
def test_nobody_acts_early_and_nobody_late(start, script):
    """After each advance: no item that is due for longer than the resolution is left, and none acted too soon."""
    now = start
    wheel = Wheel(now)
    items = [Item(None) for _ in range(6)]
    scheduled = set()
    for action, index, seconds in script:
        item = items[index]
        if action == "schedule":
            item.at = now + seconds
            wheel.schedule(item, item.at)
            scheduled.add(item)
        elif action == "postpone" and item in scheduled and item.at is not None:
            item.at = max(item.at, now + seconds)  # a deadline that moves on tells nobody
        elif action == "cancel":
            wheel.cancel(item)
            scheduled.discard(item)
            item.at = None
        elif action == "advance":
            now += seconds
            wheel.advance(now)
            scheduled = {item for item in scheduled if item.at is not None}
            for item in scheduled:
                assert item.at > now - RESOLUTION_S - EPSILON_S, f"late by {now - item.at}"
        for item in items:
            assert all(acted_at >= at for at, acted_at in item.acted_at)
        assert len(wheel) == len(scheduled)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 40), st.floats(0, 1000))
def test_ticking_at_the_resolution(delay_s, start):
    """Driven as the shard drives it, an item acts within one resolution of its time, once."""
    wheel = Wheel(start)
    item = Item(start + delay_s)
    wheel.schedule(item, item.at)
    for tick in range(1, math.ceil(delay_s / RESOLUTION_S) + 3):
        wheel.advance(start + tick * RESOLUTION_S)
    ((at, acted_at),) = item.acted_at
    assert at <= acted_at <= at + 2 * RESOLUTION_S + EPSILON_S
    assert item.looks <= 2 + delay_s // HORIZON_S
    assert len(wheel) == 0


def test_an_item_that_repeats():
    """What `check_deadlines` returns is the next appointment."""
    wheel = Wheel(0.0)
    item = Item(1.0, repeat_s=1.0)
    wheel.schedule(item, 1.0)
    for tick in range(101):
        wheel.advance(tick * RESOLUTION_S)
    assert 8 <= len(item.acted_at) <= 10


def test_after_a_long_standstill_deadlines_are_kept():
    """A process that was stopped for minutes looks at all once and keeps what is scheduled then in time."""
    wheel = Wheel(0.0)
    late = [Item(at) for at in (1.0, 20.0, 25.0)]
    for item in late:
        wheel.schedule(item, item.at)
    again = Item(2.0, repeat_s=0.5)
    wheel.schedule(again, again.at)
    now = 10 * HORIZON_S + 3.3
    wheel.advance(now)
    assert all(len(item.acted_at) == 1 for item in [*late, again])
    for tick in range(1, 8):
        wheel.advance(now + tick * RESOLUTION_S)
    assert len(again.acted_at) == 2


def test_items_that_change_others_while_they_are_looked_at():
    """One that cancels or moves another of the same slot: the cancelled is not looked at, the moved one once, in time."""
    for is_first in (True, False):
        wheel = Wheel(0.0)
        cancelled, moved = Item(1.0), Item(1.0)
        actor = Item(1.0)

        def act(wheel=wheel, cancelled=cancelled, moved=moved):
            wheel.cancel(cancelled)
            moved.at = 3.0
            wheel.schedule(moved, 3.0)

        actor.on_act = act
        for item in (actor, cancelled, moved) if is_first else (cancelled, moved, actor):
            wheel.schedule(item, 1.0)
        wheel.advance(1.1)
        wheel.cancel(cancelled)
        for tick in range(1, 40):
            wheel.advance(1.1 + tick * RESOLUTION_S)
        assert len(actor.acted_at) == 1
        assert len(cancelled.acted_at) <= 1
        assert moved.acted_at[-1][0] == 3.0
        assert moved.looks <= 3
        assert len(wheel) == 0
        assert not any(wheel._slots), "a slot still holds what is on no schedule"
