"""Passwords: what is accepted, and argon2id in worker threads.

A hash costs 30 ms and 19 MiB (the OWASP minimum), so it never runs in a shard's thread, and only as many run at once as
there are CPUs. An unknown user costs the same work as a known one: nobody learns from the clock who has an account.
"""

from __future__ import annotations

import os
import unicodedata

import trio
from argon2 import PasswordHasher as Argon2
from argon2 import Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from attrs import frozen

from imserver.auth.common_passwords import COMMON_PASSWORDS
from imserver.errors import InternalError, InvalidBody, Unavailable

MIN_PASSWORD_BYTES = 8  # ASVS 6.2.1
MAX_PASSWORD_BYTES = 1024  # a bound on the work, far above any pass phrase (ASVS 6.2.9 wants 64 characters at least)

# OWASP's minimum for argon2id; argon2-cffi's own default takes four times as long.
_ARGON2 = Argon2(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
# What a connection that has not logged in waits at most is 10 s, and a hash takes 30 ms: whoever would wait longer is
# told to come back at once.
_MAX_WAITING_PER_CPU = 300

_cpus = os.cpu_count() or 1
# A CapacityLimiter belongs to one trio.run, and every shard has its own.
_limiters: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("imserver_password_limiter")


@frozen
class Verdict:
    """What comparing a password with a stored hash gave."""

    is_right: bool
    #: The stored hash has older parameters: hash the password anew and store that.
    needs_rehash: bool = False


def normalised(password: str) -> bytes:
    """The bytes that are hashed: in NFC (RFC 8265, OpaqueString), so that every keyboard's "é" is the same."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def check_new_password(password: str, *, user_id: str, field: str = "password") -> None:
    """Refuse a new password that is too short, too long or among the first that a guesser tries.

    Raises:
        InvalidBody: with `field`; the message never repeats the password.
    """
    size_bytes = len(normalised(password))
    if size_bytes < MIN_PASSWORD_BYTES:
        raise InvalidBody(f"the password needs {MIN_PASSWORD_BYTES} bytes at least", field=field)
    if size_bytes > MAX_PASSWORD_BYTES:
        raise InvalidBody(f"the password may have {MAX_PASSWORD_BYTES} bytes at most", field=field)
    folded = password.casefold()
    if folded in COMMON_PASSWORDS or len(set(folded)) == 1:
        raise InvalidBody("this password is among the first that a guesser tries; choose another", field=field)
    if folded == user_id.casefold():
        raise InvalidBody("the password must differ from the user id", field=field)


def hash_password(password: str) -> str:
    """The argon2id hash as a PHC string. Blocks for 30 ms: for the command line; a handler uses `PasswordHasher`."""
    return _ARGON2.hash(normalised(password))


def verify_password(stored: str, password: str) -> Verdict:
    """Compare a password with a PHC string. Blocks for 30 ms, see `hash_password`.

    Raises:
        InternalError: `stored` is not an argon2 hash: the database was changed by hand.
    """
    try:
        _ARGON2.verify(stored, normalised(password))
    except VerifyMismatchError:
        return Verdict(is_right=False)
    except (InvalidHashError, VerificationError) as exc:
        raise InternalError("a stored password is no argon2 hash; set it anew: imserver user passwd") from exc
    return Verdict(is_right=True, needs_rehash=_ARGON2.check_needs_rehash(stored))


class PasswordHasher:
    """argon2id for handlers: in worker threads, as many at once as there are CPUs, the rest waits in line."""

    def __init__(self, *, max_waiting: int | None = None) -> None:
        """`max_waiting`: how many may wait for a thread, per trio.run; by default what ten seconds take."""
        self._max_waiting = _MAX_WAITING_PER_CPU * _cpus if max_waiting is None else max_waiting
        self._dummy = hash_password("no user has this password: " + os.urandom(16).hex())

    async def hash(self, password: str) -> str:
        """The hash of a new password as a PHC string; check it with `check_new_password` first.

        Raises:
            Unavailable: too many wait already.
        """
        return await trio.to_thread.run_sync(hash_password, password, limiter=self._limiter())

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """Compare a password with the user's hash; None (no such user, or one without a password) costs the same work.

        Raises:
            Unavailable: too many wait already.
            InternalError: `stored` is not an argon2 hash.
        """
        limiter = self._limiter()
        if stored is None or len(normalised(password)) > MAX_PASSWORD_BYTES:
            await trio.to_thread.run_sync(verify_password, self._dummy, "", limiter=limiter)
            return Verdict(is_right=False)
        return await trio.to_thread.run_sync(verify_password, stored, password, limiter=limiter)

    def _limiter(self) -> trio.CapacityLimiter:
        try:
            limiter = _limiters.get()
        except LookupError:
            limiter = trio.CapacityLimiter(_cpus)
            _limiters.set(limiter)
        if limiter.statistics().tasks_waiting >= self._max_waiting:
            raise Unavailable("too many log in at this moment; try again", retry_after_ms=5000)
        return limiter
