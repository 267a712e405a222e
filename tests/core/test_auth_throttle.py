"""The limits on registrations and guesses, without a clock."""

from __future__ import annotations

import threading
from collections import OrderedDict
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from imserver.auth.throttle import AddressSet, Attempt, Gcra, GuessRules, GuessThrottle, address_key

MS = Fraction(1, 1000)


class Bucket:
    """The reference: a token bucket in exact fractions, with the same bound on keys."""

    def __init__(self, limit: int, period_s: int, burst: int, max_keys: int) -> None:
        self.per_s = Fraction(limit, period_s)
        self.burst = burst
        self.max_keys = max_keys
        self.levels: OrderedDict[str, tuple[Fraction, Fraction]] = OrderedDict()

    def level(self, key: str, now_s: Fraction) -> Fraction:
        """The tokens in the bucket."""
        level, since_s = self.levels.get(key, (Fraction(self.burst), now_s))
        return min(Fraction(self.burst), level + (now_s - since_s) * self.per_s)

    def take(self, key: str, now_s: Fraction) -> Fraction:
        """As `Gcra.take`."""
        level = self.level(key, now_s)
        if level < 1:
            self.levels.move_to_end(key)
            return (1 - level) / self.per_s
        self.levels[key] = (level - 1, now_s)
        self.levels.move_to_end(key)
        if len(self.levels) > self.max_keys:
            self.levels.popitem(last=False)
        return Fraction(0)

    def give_back(self, key: str) -> None:
        """As `Gcra.give_back`: what is over the brim is cut off when the level is next asked for."""
        if key in self.levels:
            level, since_s = self.levels[key]
            self.levels[key] = (level + 1, since_s)


class GcraMachine(RuleBasedStateMachine):
    """Any order of events on a few keys: the limiter and the bucket decide alike."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = Fraction(1000)
        # 8 a second: an interval of 125 ms, so that milliseconds hit its edges exactly.
        self.limiter = Gcra(8, 1, burst=3, max_keys=4)
        self.model = Bucket(8, 1, 3, 4)

    @rule(ms=st.sampled_from([0, 1, 124, 125, 126, 250, 375, 1000]))
    def time_passes(self, ms: int) -> None:
        """The clock moves."""
        self.now_s += ms * MS

    @rule(key=st.sampled_from("abcdef"))
    def take(self, key: str) -> None:
        """The same answer, to the nanosecond."""
        wait_s = self.limiter.take(key, float(self.now_s))
        assert wait_s == pytest.approx(float(self.model.take(key, self.now_s)), abs=1e-9)

    @rule(key=st.sampled_from("abcdef"))
    def take_when_told(self, key: str) -> None:
        """What is promised to pass does pass then."""
        wait_s = self.model.take(key, self.now_s)
        assert self.limiter.take(key, float(self.now_s)) == pytest.approx(float(wait_s), abs=1e-9)
        if wait_s > 0:
            self.now_s += wait_s
            assert self.model.take(key, self.now_s) == self.limiter.take(key, float(self.now_s)) == 0

    @rule(key=st.sampled_from("abcdef"))
    def give_back(self, key: str) -> None:
        """One charge is undone."""
        self.limiter.give_back(key)
        self.model.give_back(key)

    @rule()
    def bounded(self) -> None:
        """It never has more keys than it may, and the same as the bucket."""
        assert len(self.limiter) == len(self.model.levels) <= 4


TestGcra = GcraMachine.TestCase


@given(st.lists(st.integers(0, 400), max_size=200))
def test_no_period_sees_more_than_burst_and_limit(gaps_ms: list[int]) -> None:
    """However the events fall: in any window of one period at most burst + limit pass."""
    limiter = Gcra(5, 1, burst=3)
    now_ms, passed = 0, []
    for gap_ms in gaps_ms:
        now_ms += gap_ms
        if limiter.take("key", now_ms / 1000) == 0:
            passed.append(now_ms)
    for start_ms in passed:
        assert sum(start_ms <= at_ms < start_ms + 1000 for at_ms in passed) <= 3 + 5


@pytest.mark.parametrize(("limit", "period_s", "burst", "keys"), [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_a_limit_of_nothing_is_a_mistake(limit: int, period_s: float, burst: int, keys: int) -> None:
    """Zero means "no limit" in the configuration; whoever passes it on is told."""
    with pytest.raises(ValueError, match="positive"):
        Gcra(limit, period_s, burst=burst, max_keys=keys)


def test_threads_share_one_limit() -> None:
    """Eight threads at one key get what one would get."""
    limiter = Gcra(1, 3600, burst=500)
    passed: list[int] = []

    def take() -> None:
        passed.append(sum(limiter.take("key", 0.0) == 0 for _ in range(200)))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 500


# ---------------------------------------------------------------- guesses


def guess(throttle: GuessThrottle, now_s: float, *, device: str | None = None, address: str | None = None) -> float:
    """One wrong password for alice; 0.0: it was compared, else how long to wait."""
    outcome = throttle.begin("alice", known_device=device, address=address, now_s=now_s)
    if isinstance(outcome, Attempt):
        throttle.failed(outcome, now_s)
        return 0.0
    assert outcome > 0
    return outcome


@pytest.mark.parametrize("addresses", [1, 200])
def test_no_minute_sees_more_than_twenty_guesses(addresses: int) -> None:
    """10,000 guesses at one account within ten minutes, from one or 200 addresses: 20 comparisons a minute at most."""
    throttle = GuessThrottle()
    compared = [
        now_s
        for now_s, number in ((number * 0.06, number) for number in range(10_000))
        if guess(throttle, now_s, address=f"192.0.2.{number % addresses}") == 0
    ]
    for start_s in compared:
        assert sum(start_s <= at_s < start_s + 60 for at_s in compared) <= 20
    assert 10 <= len(compared) < 50  # and it goes on slowing down


def test_all_at_once_is_not_a_way_around() -> None:
    """Guesses that are under way count before they have failed."""
    throttle = GuessThrottle()
    admitted = [
        outcome
        for _ in range(500)
        if isinstance(outcome := throttle.begin("alice", known_device=None, address=None, now_s=0.0), Attempt)
    ]
    assert len(admitted) == 10
    assert throttle.is_undecided("alice", known_device=None)
    for attempt in admitted:
        throttle.failed(attempt, 0.03)
    assert not throttle.is_undecided("alice", known_device=None)
    assert guess(throttle, 0.04) > 0


def test_failures_slow_down_exponentially() -> None:
    """After ten failures in five minutes the waits double; after five quiet minutes all is forgotten."""
    throttle = GuessThrottle(GuessRules(account_per_minute=6000, account_burst=1000))
    for number in range(10):
        assert guess(throttle, number * 0.1) == 0
    now_s, waits = 1.0, []
    for _ in range(5):
        wait_s = guess(throttle, now_s)
        waits.append(round(wait_s))
        now_s += wait_s + 0.001
        assert guess(throttle, now_s) == 0
    assert waits == [2, 4, 8, 16, 32]
    assert guess(throttle, now_s + 301) == 0


def test_a_known_device_is_not_locked_out_by_strangers() -> None:
    """Its own bucket has room while the strangers' is shut; and it has its own limit."""
    throttle = GuessThrottle()
    while guess(throttle, 0.0) == 0:
        pass
    assert guess(throttle, 0.0) > 0
    for _ in range(10):
        assert guess(throttle, 0.0, device="phone") == 0
    assert guess(throttle, 0.0, device="phone") > 0
    assert guess(throttle, 0.0, device="tablet") == 0


def test_right_passwords_cost_nothing() -> None:
    """A thousand logins of one user in a second are no guesses; one success forgets the failures."""
    throttle = GuessThrottle()
    for _ in range(9):
        assert guess(throttle, 0.0, address="192.0.2.1") == 0
    for number in range(1000):
        attempt = throttle.begin("alice", known_device=None, address="192.0.2.1", now_s=number / 1000)
        assert isinstance(attempt, Attempt)
        throttle.succeeded(attempt)
    # The nine before have left the failures, but not the minute's account: one more, then the rate rules.
    assert guess(throttle, 1.0, address="192.0.2.1") == 0
    assert guess(throttle, 1.0, address="192.0.2.1") > 0


def test_what_was_not_compared_costs_nothing() -> None:
    """An overloaded server's refusals use up nobody's guesses."""
    throttle = GuessThrottle()
    for _ in range(100):
        attempt = throttle.begin("alice", known_device=None, address="192.0.2.1", now_s=0.0)
        assert isinstance(attempt, Attempt)
        throttle.abandoned(attempt)
    assert guess(throttle, 0.0, address="192.0.2.1") == 0


def test_an_address_is_limited_over_all_accounts() -> None:
    """One address that tries a password each on many accounts is stopped; an exempt one (None) is not."""
    throttle = GuessThrottle(GuessRules(address_burst=5, address_per_minute=5))

    def spray(address: str | None) -> int:
        outcomes = [throttle.begin(f"user{n}", known_device=None, address=address, now_s=0.0) for n in range(50)]
        return sum(isinstance(outcome, Attempt) for outcome in outcomes)

    assert spray("192.0.2.1") == 5
    assert spray(None) == 50
    assert spray("192.0.2.2") == 5


def test_a_refused_account_does_not_charge_the_address() -> None:
    """Who knocks at a shut account can still log in to another one."""
    throttle = GuessThrottle(GuessRules(address_burst=20, address_per_minute=1))
    for _ in range(500):  # under way, not failed: it is the account's limit that refuses, not the delay
        throttle.begin("alice", known_device=None, address="192.0.2.1", now_s=0.0)
    assert isinstance(throttle.begin("bob", known_device=None, address="192.0.2.1", now_s=0.0), Attempt)


def test_the_number_of_keys_is_bounded() -> None:
    """Accounts that nobody has: as many guesses as you like, so much memory and no more."""
    throttle = GuessThrottle(max_keys=10)
    for number in range(1000):
        attempt = throttle.begin(f"nobody{number}", known_device=None, address=f"10.0.{number}.1", now_s=0.0)
        assert isinstance(attempt, Attempt)
        throttle.failed(attempt, 0.0)
    assert len(throttle._buckets) == len(throttle._accounts) == len(throttle._addresses) == 10


# ---------------------------------------------------------------- addresses


def test_addresses_and_networks() -> None:
    """IPv4, IPv6, IPv4 in IPv6, zones, and what is no address at all."""
    exempt = AddressSet(["127.0.0.0/8", "::1", "10.1.2.3"])
    assert all(address in exempt for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.1.2.3"))
    assert not any(address in exempt for address in ("10.1.2.4", "::2", "fe80::1%eth0", "", "unix", None, 7))
    with pytest.raises(ValueError, match="nonsense"):
        AddressSet(["nonsense"])


def test_an_ipv6_customer_counts_as_one_address() -> None:
    """All addresses of a /64 are one; IPv4 addresses are one each, in either spelling."""
    assert address_key("2001:db8:1:2::1") == address_key("2001:db8:1:2:ffff::9") != address_key("2001:db8:1:3::1")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1") == "192.0.2.1" != address_key("192.0.2.2")
    assert address_key("unix") == "unix"
