"""Snowflakes: always larger, whatever the clock does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver import snowflake as module
from imserver.snowflake import EPOCH_MS, TOLERATED_MS, Snowflakes, first_at, sent_at_ms


class Steps:
    """A clock that says what it is told, one reading after the other."""

    def __init__(self, readings):
        self.readings = list(readings)
        self.position = -1

    def __call__(self):
        self.position = min(self.position + 1, len(self.readings) - 1)
        return self.readings[self.position]


NOW = EPOCH_MS + 50_000_000_000


@given(
    st.lists(st.integers(-5000, 5000), min_size=1, max_size=60),
    st.integers(0, 1023),
    st.one_of(st.just(0), st.integers(0, (50_000_010_000 << 22) | 0x3FFFFF)),
)
def test_strictly_rising_under_any_clock(offsets, node, last):
    """Steps back, standstill and leaps: each id is larger than the one before and than the last of the past life."""
    snowflakes = Snowflakes(node, last, Steps(NOW + offset for offset in offsets))
    ids = [snowflakes.next() for _ in range(2 * len(offsets))]
    assert all(earlier < later for earlier, later in zip([last, *ids], ids, strict=False))
    assert {(one >> 12) & 0x3FF for one in ids} == {node}
    assert all(0 < one < 2**63 for one in ids)


def test_ten_thousand_in_a_millisecond():
    """More than the counter holds: ids borrow from the milliseconds to come and stay unique and in order."""
    snowflakes = Snowflakes(3, 0, lambda: NOW)
    ids = [snowflakes.next() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert [sent_at_ms(one) - NOW for one in ids] == [index // 4096 for index in range(10_000)]


def test_the_clock_catches_up():
    """Once the clock is past the borrowed time, ids tell the time again."""
    clock = Steps([NOW] * 5000 + [NOW + 10])
    snowflakes = Snowflakes(3, 0, clock)
    for _ in range(5000):
        snowflakes.next()
    assert sent_at_ms(snowflakes.next()) == NOW + 10


@given(st.integers(-100_000, 100_000), st.integers(0, 1023), st.integers(0, 1023), st.integers(1, 5000))
def test_across_a_restart(step_ms, node_before, node_after, count):
    """A restart with a clock that stepped, even as another node, goes on behind the last id."""
    before = Snowflakes(node_before, 0, lambda: NOW)
    last = [before.next() for _ in range(count)][-1]
    after = Snowflakes(node_after, last, lambda: NOW + step_ms)
    assert after.next() > last


def test_the_layout():
    """41 bits of milliseconds since 2024-01-01T00:00Z, 10 of node, 12 of counter."""
    snowflakes = Snowflakes(0x2AB, 0, lambda: 1_704_067_200_000 + 0x123)
    assert snowflakes.next() == 0x123 << 22 | 0x2AB << 12
    assert snowflakes.next() == 0x123 << 22 | 0x2AB << 12 | 1


@given(st.integers(EPOCH_MS, EPOCH_MS + 2**41 - 1), st.integers(0, 1023))
def test_first_at_is_the_smallest_of_its_millisecond(unix_ms, node):
    """The bound of a time range: nothing made at that time is below it, all made before is."""
    made = Snowflakes(node, 0, lambda: unix_ms).next() if unix_ms > EPOCH_MS else node << 12
    assert first_at(unix_ms) <= made
    assert sent_at_ms(first_at(unix_ms)) == unix_ms
    assert first_at(unix_ms) - 1 < first_at(unix_ms) <= first_at(unix_ms + 1)
    assert first_at(EPOCH_MS - 5) == 0


@pytest.mark.parametrize("node", [-1, 1024])
def test_a_node_out_of_range(node):
    """It would write over the time or the counter."""
    with pytest.raises(ValueError, match="0–1023"):
        Snowflakes(node, 0, lambda: NOW)


class Told:
    """A clock that stands where it was put."""

    def __init__(self, now_ms):
        self.now_ms = now_ms

    def __call__(self):
        return self.now_ms


def test_when_an_id_was_made_though_the_clock_was_ahead():
    """What the marks say, before the clock has caught up and after it; where the clock is right, the time in the id."""
    clock = Told(NOW)
    snowflakes = Snowflakes(3, 0, clock)
    early = snowflakes.next()
    assert snowflakes.mark() == 0
    clock.now_ms = NOW - TOLERATED_MS
    assert snowflakes.mark() == 0
    clock.now_ms = NOW - 86_400_000
    assert snowflakes.mark() == 86_400_000
    made = []
    for second in range(100):
        clock.now_ms = NOW - 86_400_000 + 1000 * second
        made.append(snowflakes.next())
        snowflakes.mark()
    for second, one in enumerate(made):
        assert sent_at_ms(one) == NOW
        assert snowflakes.made_at_ms(one) == NOW - 86_400_000 + 1000 * second
    clock.now_ms = NOW + 5000
    assert snowflakes.mark() == 0
    late = snowflakes.next()
    clock.now_ms = NOW + 9000
    assert snowflakes.made_at_ms(late) == NOW + 5000
    assert snowflakes.made_at_ms(made[7]) == NOW - 86_400_000 + 7000
    assert snowflakes.made_at_ms(early) <= NOW


def test_marks_are_bounded_and_only_made_of_what_is_new():
    """A clock that is behind for good does not fill the memory; the newest marks stay."""
    clock = Told(NOW)
    snowflakes = Snowflakes(3, 0, clock)
    snowflakes.next()
    clock.now_ms = NOW - 10 * 86_400_000
    for _ in range(100):
        snowflakes.mark()
    assert len(snowflakes._marks) == 1
    for _ in range(module._MAX_MARKS + 10):
        clock.now_ms += 1
        last = snowflakes.next()
        snowflakes.mark()
    assert len(snowflakes._marks) == module._MAX_MARKS
    assert snowflakes.made_at_ms(last) == clock.now_ms
