"""Comparing a password, under the limits on guessing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from imserver.plugin import RateLimited, auth

if TYPE_CHECKING:
    from imserver.plugin import Context
    from imserver_plugins.user.state import State

# While attempts of the same bucket are being compared, others wait for their outcome: a user's forty devices that come
# back at once all know the password, and need not be told to try again.
_PATIENCE_S = 5.0
_LOOK_AGAIN_S = 0.05


async def compare(
    state: State, ctx: Context, *, user_id: str, stored: str | None, password: str, known_device: str | None
) -> auth.Verdict:
    """Compare a password with the stored hash (None: there is none; it costs the same).

    Args:
        known_device: the device's id, if the account has logged in from it before: it has limits of its own.

    Raises:
        RateLimited: too many wrong ones lately, for this account or from this address.
        Unavailable: too many passwords are being compared.
    """
    attempt = await _admit(state, ctx, user_id, known_device)
    try:
        verdict = await state.passwords.verify(stored, password)
    except BaseException:
        # Overload, or cancelled in line: nothing was compared. A comparison that has begun cannot be cancelled.
        state.guesses.abandoned(attempt)
        raise
    if verdict.is_right:
        state.guesses.succeeded(attempt)
    else:
        state.guesses.failed(attempt, ctx.clock.monotonic())
        ctx.log.info("authn_login_fail", user_id=user_id, address=ctx.session.address)
        ctx.emit("audit", what="authn_login_fail", user_id=user_id, address=ctx.session.address)
    return verdict


async def _admit(state: State, ctx: Context, user_id: str, known_device: str | None) -> auth.Attempt:
    address = state.limited_address(ctx.session.address)
    give_up_at_s = ctx.clock.monotonic() + _PATIENCE_S
    while True:
        now_s = ctx.clock.monotonic()
        outcome = state.guesses.begin(user_id, known_device=known_device, address=address, now_s=now_s)
        if isinstance(outcome, auth.Attempt):
            return outcome
        if now_s >= give_up_at_s or not state.guesses.is_undecided(user_id, known_device=known_device):
            # Not `info`: the log would grow at the guesser's speed. The failures before this one are there.
            ctx.log.debug("authn_login_fail_max", user_id=user_id, address=ctx.session.address)
            ctx.emit("audit", what="authn_login_fail_max", user_id=user_id, address=ctx.session.address)
            raise RateLimited("too many wrong passwords; wait, then try again", retry_after_ms=math.ceil(outcome * 1000))
        await trio.sleep(_LOOK_AGAIN_S)
