"""Limits on what strangers may try: registrations, and guesses at passwords.

All of it is in memory, thread-safe and bounded: each limiter keeps so many keys and drops the one that was not used for
longest. Times are passed in (monotonic seconds), so that a test needs no clock.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable

from attrs import define, field, frozen

# About 20 MB at most. Whoever wants to push a key out has to make the server run argon2 for each of as many others.
MAX_KEYS = 100_000

_NS = 1_000_000_000


class Gcra:
    """The generic cell rate algorithm: at most `burst` at once, and `limit` per period in the long run.

    A key costs one number, the theoretical arrival time (TAT) of its next event. In any period at most `burst + limit`
    pass.

    Source: ITU-T I.371, annex A; the same decisions as a token bucket of `burst` tokens.
    """

    def __init__(self, limit: int, period_s: float, *, burst: int | None = None, max_keys: int = MAX_KEYS) -> None:
        """`burst`: by default `limit`."""
        if limit < 1 or period_s <= 0 or max_keys < 1 or (burst is not None and burst < 1):
            raise ValueError("limit, period_s, burst and max_keys must be positive")
        self._interval_ns = max(1, round(period_s * _NS / limit))
        self._tolerance_ns = self._interval_ns * ((limit if burst is None else burst) - 1)
        self._max_keys = max_keys
        self._arrivals_ns: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Hashable, now_s: float) -> float:
        """0.0: it passes, and is charged. Otherwise the seconds until one would pass; nothing is charged."""
        now_ns = round(now_s * _NS)
        with self._lock:
            arrival_ns = max(self._arrivals_ns.get(key, now_ns), now_ns)
            wait_ns = arrival_ns - self._tolerance_ns - now_ns
            if wait_ns > 0:
                self._arrivals_ns.move_to_end(key)
                return wait_ns / _NS
            self._arrivals_ns[key] = arrival_ns + self._interval_ns
            self._arrivals_ns.move_to_end(key)
            if len(self._arrivals_ns) > self._max_keys:
                self._arrivals_ns.popitem(last=False)
            return 0.0

    def give_back(self, key: Hashable) -> None:
        """Undo one charge: what it was for did not count after all."""
        with self._lock:
            arrival_ns = self._arrivals_ns.get(key)
            if arrival_ns is not None:
                self._arrivals_ns[key] = arrival_ns - self._interval_ns

    def __len__(self) -> int:
        """How many keys it keeps."""
        return len(self._arrivals_ns)


@frozen
class GuessRules:
    """How many guesses are allowed; by default as few as nobody notices who merely mistypes (OWASP, ASVS 6.3.1)."""

    #: argon2 runs with a wrong password, per account: `account_burst` at once, `account_per_minute` then, so that any
    #: minute sees the sum of both at most.
    account_burst: int = 10
    account_per_minute: int = 10
    #: The same per address, over all accounts; more, because a whole office may share one.
    address_burst: int = 60
    address_per_minute: int = 60
    #: After so many failures within `failure_window_s` an account's next guess waits 2 s, then 4, 8 …
    free_failures: int = 10
    failure_window_s: float = 300.0
    max_delay_s: float = 300.0


@define
class Attempt:
    """One admitted guess; say how it went by `succeeded`, `failed` or `abandoned`, exactly once."""

    #: The account's bucket: of strangers, or of one device that it knows.
    bucket: Hashable
    #: None: exempt.
    address: str | None


@define
class _Bucket:
    #: Attempts whose result is not known yet.
    pending: int = 0
    #: When it failed, the newest last, monotonic seconds; as many as the longest delay needs.
    failures_s: deque[float] = field(factory=lambda: deque(maxlen=64))


class GuessThrottle:
    """Decides whether a password may be tried, for accounts that exist and those that do not alike.

    An account has one bucket for all strangers together, from however many addresses, and one for each device that has
    logged in to it before: so strangers cannot lock the account's owner out.
    """

    def __init__(self, rules: GuessRules | None = None, *, max_keys: int = MAX_KEYS) -> None:
        self._rules = rules if rules is not None else GuessRules()
        self._max_keys = max_keys
        self._accounts = Gcra(self._rules.account_per_minute, 60, burst=self._rules.account_burst, max_keys=max_keys)
        self._addresses = Gcra(self._rules.address_per_minute, 60, burst=self._rules.address_burst, max_keys=max_keys)
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, account: str, *, known_device: str | None, address: str | None, now_s: float) -> Attempt | float:
        """Ask for one attempt.

        Args:
            account: the user id, whether there is one or not.
            known_device: the device's id, if the account has logged in from it before.
            address: the peer's; None: exempt from the limits per address.
            now_s: monotonic seconds.

        Returns:
            The attempt, or the seconds to wait before asking again.
        """
        key: Hashable = (account, known_device)
        source = None if address is None else address_key(address)
        with self._lock:
            bucket = self._bucket(key)
            wait_s = self._delay_s(bucket, now_s)
            if wait_s <= 0 and source is not None:
                wait_s = self._addresses.take(source, now_s)
            if wait_s <= 0:
                wait_s = self._accounts.take(key, now_s)
                if wait_s > 0 and source is not None:
                    self._addresses.give_back(source)
            if wait_s > 0:
                return wait_s
            bucket.pending += 1
            return Attempt(key, source)

    def is_undecided(self, account: str, *, known_device: str | None) -> bool:
        """Whether attempts of this bucket are under way: if they succeed there is room again at once."""
        with self._lock:
            bucket = self._buckets.get((account, known_device))
            return bucket is not None and bucket.pending > 0

    def succeeded(self, attempt: Attempt) -> None:
        """The password was right: the attempt costs nothing, and the bucket's failures are forgotten."""
        self.abandoned(attempt)
        with self._lock:
            bucket = self._buckets.get(attempt.bucket)
            if bucket is not None:
                bucket.failures_s.clear()

    def failed(self, attempt: Attempt, now_s: float) -> None:
        """The password was wrong."""
        with self._lock:
            bucket = self._bucket(attempt.bucket)
            bucket.pending = max(0, bucket.pending - 1)
            bucket.failures_s.append(now_s)

    def abandoned(self, attempt: Attempt) -> None:
        """It was not compared at all (the server was too busy): it costs nothing."""
        with self._lock:
            self._accounts.give_back(attempt.bucket)
            if attempt.address is not None:
                self._addresses.give_back(attempt.address)
            bucket = self._buckets.get(attempt.bucket)
            if bucket is not None:
                bucket.pending = max(0, bucket.pending - 1)

    def _bucket(self, key: Hashable) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket()
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def _delay_s(self, bucket: _Bucket, now_s: float) -> float:
        """Seconds until the next guess, from the failures of the window."""
        failures_s = bucket.failures_s
        while failures_s and failures_s[0] <= now_s - self._rules.failure_window_s:
            failures_s.popleft()
        excess = len(failures_s) - self._rules.free_failures
        if excess < 0:
            return 0.0
        delay_s = min(2.0 ** (excess + 1), self._rules.max_delay_s)
        return failures_s[-1] + delay_s - now_s


class AddressSet:
    """Networks, e.g. those that are exempt from the limits per address."""

    def __init__(self, networks: Iterable[str | ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
        """`networks`: as such, in CIDR notation, or single addresses.

        Raises:
            ValueError: one is neither.
        """
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __contains__(self, address: object) -> bool:
        """Whether an address (a string) is in one of the networks; what is no IP address (a UNIX socket's) is not."""
        parsed = _parse(address) if isinstance(address, str) else None
        return parsed is not None and any(parsed in network for network in self._networks)


def address_key(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 network that one IPv6 customer has."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed if mapped is None else mapped
