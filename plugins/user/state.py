"""What the commands of this plugin share: one object for the whole process, used from every shard's thread."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, TypeVar

import trio
from attrs import define, field, frozen

from imserver.plugin import auth
from imserver_plugins.user.store.sessions import Seen
from imserver_plugins.user.watches import Watches

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context

_T = TypeVar("_T")

_WRONG_KEYS_PER_MINUTE = 60  # as many as wrong passwords
_FORGED_TOKENS_PER_MINUTE = 60
_CERTIFICATE = "certificate:"
_TOKEN_SESSION_ID = re.compile(r"[0-9a-f]{64}")


class Revocations:
    """Counts revocations, so that a login that races with one notices.

    A revocation is durable first, then counted, then closes what is in the directory. A login remembers the count,
    reads the database, enters the directory, and compares the count: whichever way the two interleave, one of them sees
    the other.
    """

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count

    def add(self) -> None:
        """One more, which is durable already."""
        with self._lock:
            self._count += 1


class LastSeen:
    """When sessions were last connected: collected here, written by the background task many at once."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()

    def connected(self, session_id: str, now_ms: int, address: str) -> None:
        """A session was bound to a connection."""
        with self._lock:
            self._seen[session_id] = Seen(session_id, now_ms, now_ms, address)

    def disconnected(self, session_id: str, now_ms: int) -> None:
        """A session's connection is gone."""
        with self._lock:
            known = self._seen.get(session_id)
            connected_at, address = (None, None) if known is None else (known.connected_at, known.address)
            self._seen[session_id] = Seen(session_id, now_ms, connected_at, address)

    def take(self) -> list[Seen]:
        """What has been collected since the last call."""
        with self._lock:
            seen, self._seen = self._seen, {}
            return list(seen.values())

    def put_back(self, seen: list[Seen]) -> None:
        """It could not be written: keep it for the next time, unless there is something newer."""
        with self._lock:
            self._seen = {one.session_id: one for one in seen} | self._seen


class UsersSeen:
    """When users were last seen: what is not in the table yet. The background task writes it, many at once."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, user_id: str, now_ms: int) -> None:
        """A device of the user came or went."""
        with self._lock:
            self._seen[user_id] = now_ms

    def peek(self, user_ids: Iterable[str]) -> dict[str, int]:
        """What is newer than the table of these users."""
        with self._lock:
            return {user_id: self._seen[user_id] for user_id in user_ids if user_id in self._seen}

    def unwritten(self) -> list[tuple[str, int]]:
        """(user_id, ms) of all; they stay until `written`."""
        with self._lock:
            return list(self._seen.items())

    def written(self, seen: Iterable[tuple[str, int]]) -> None:
        """These are in the table: forget them, unless there is something newer."""
        with self._lock:
            for user_id, at_ms in seen:
                if self._seen.get(user_id) == at_ms:
                    del self._seen[user_id]


class KeyUses:
    """When API keys were last used: collected here, written once a minute."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, key_id: str, now_ms: int) -> None:
        """A key was shown, and is good."""
        with self._lock:
            self._used[key_id] = now_ms

    def take(self) -> list[tuple[str, int]]:
        """(key_id, ms) of those used since the last call."""
        with self._lock:
            used, self._used = self._used, {}
            return list(used.items())

    def put_back(self, used: list[tuple[str, int]]) -> None:
        """It could not be written: keep it for the next time, unless there is something newer."""
        with self._lock:
            self._used = dict(used) | self._used


@frozen
class ForeignToken:
    """The integrator's token that a live session came by."""

    token_hash: bytes
    expires_at_ms: int
    issued_at_ms: int | None

    def is_older_than(self, tokens_from_ms: int) -> bool:
        """Whether its user has logged out everywhere since it was issued; `iat` has whole seconds."""
        return self.issued_at_ms is not None and self.issued_at_ms + 999 < tokens_from_ms


@define
class State:
    """See the module."""

    tokens: auth.AccessTokens
    passwords: auth.PasswordHasher
    guesses: auth.GuessThrottle
    #: Registrations per address; None: no limit.
    registrations: auth.Gcra | None
    #: Addresses without limits per address.
    exempt: auth.AddressSet
    token_ttl_ms: int
    refresh_ttl_ms: int
    heartbeat_ms: int
    #: 0: no limit.
    sessions_per_user: int
    is_registration_open: bool
    revocations: Revocations = field(factory=Revocations)
    last_seen: LastSeen = field(factory=LastSeen)
    users_seen: UsersSeen = field(factory=UsersSeen)
    watches: Watches = field(factory=Watches)
    key_uses: KeyUses = field(factory=KeyUses)
    #: API keys that were wrong, per address.
    wrong_keys: auth.Gcra = field(factory=lambda: auth.Gcra(_WRONG_KEYS_PER_MINUTE, 60))
    #: Tokens that were signed by somebody else, or never were any, per address.
    forged_tokens: auth.Gcra = field(factory=lambda: auth.Gcra(_FORGED_TOKENS_PER_MINUTE, 60))
    #: By session_id; live sessions alone.
    foreign_tokens: dict[str, ForeignToken] = field(factory=dict)

    def limited_address(self, address: str) -> str | None:
        """The address as the limits per address count it; None: exempt."""
        return None if address in self.exempt else auth.address_key(address)

    def is_foreign_and_good(self, session_id: str, connected_at_ms: int, tokens_from_ms: int) -> bool:
        """Whether a live session came by an integrator's token or a certificate, and since its user last logged out
        everywhere.
        """
        if is_of_certificate(session_id):
            return connected_at_ms >= tokens_from_ms
        token = self.foreign_tokens.get(session_id)
        if token is None or token.is_older_than(tokens_from_ms):
            return False
        return token.issued_at_ms is not None or connected_at_ms >= tokens_from_ms


def make_state(ctx: AppContext) -> State:
    """Read the configuration and the secret.

    Raises:
        ConfigError, StartError: the secret is none; see `auth.load_secret`.
    """
    config = ctx.config
    per_hour = config.limits.registrations_per_hour
    return State(
        tokens=auth.AccessTokens(auth.load_secret(config.auth.secret_file)),
        passwords=auth.PasswordHasher(),
        guesses=auth.GuessThrottle(),
        registrations=auth.Gcra(per_hour, 3600) if per_hour else None,
        exempt=auth.AddressSet(config.limits.exempt_addresses),
        token_ttl_ms=round(config.auth.token_ttl_s * 1000),
        refresh_ttl_ms=round(config.auth.refresh_ttl_s * 1000),
        heartbeat_ms=round(config.tcp.heartbeat_s * 1000),
        sessions_per_user=config.limits.sessions_per_user,
        is_registration_open=config.auth.registration == "open",
    )


async def durable(write: Awaitable[_T]) -> _T:
    """Wait for a write even if the request is cancelled (its client has gone): what follows from it must be done."""
    with trio.CancelScope(shield=True):
        result = await write
    return result


# A session has 32 hexadecimal digits. What is none has an id in its place that is told apart from one: the log has it, and
# connections have one each.


def session_id_of_token(token_hash: bytes) -> str:
    """Of a request over HTTP by an integrator's token: the token itself is its session."""
    return token_hash.hex()


def token_of_session_id(session_id: str) -> bytes | None:
    """The hash of the integrator's token that such an id stands for; None: it is another session's."""
    return bytes.fromhex(session_id) if _TOKEN_SESSION_ID.fullmatch(session_id) else None


def session_id_of_key(name: str) -> str:
    """Of a request by an API key."""
    return f"key:{name}"


def session_id_of_certificate(serial_number: str) -> str:
    """Of a connection or a request by a client certificate of a user; its number has 40 hexadecimal digits at most."""
    return f"{_CERTIFICATE}{serial_number}"[:64]


def is_of_certificate(session_id: str) -> bool:
    """Whether a session came by a client certificate."""
    return session_id.startswith(_CERTIFICATE)


def user_of(ctx: Context) -> str:
    """The user of a session that is logged in."""
    user_id = ctx.session.user_id
    assert user_id is not None  # the router lets nobody else in
    return user_id
