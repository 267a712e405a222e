"""What this plugin does of its own accord, once a second: notice what the command line has changed, write down when
sessions were last connected, and drop what has expired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from imserver.plugin import StorageError
from imserver_plugins.user import presence, store
from imserver_plugins.user.sessions import after_revocation, take_roles
from imserver_plugins.user.state import State

if TYPE_CHECKING:
    from imserver.plugin import AppContext

# `imserver user disable` takes effect on a running server within two seconds.
PERIOD_S = 1.0
_FORGET_EVERY = 60  # periods; so many rows a minute expire that one bounded statement keeps up


async def run(state: State, ctx: AppContext, last_change: int) -> None:
    """The background task; `last_change` was the newest when the server started."""
    periods = 0
    while True:
        await trio.sleep(PERIOD_S)
        periods += 1
        try:
            last_change = await follow_changes(state, ctx, last_change)
            await write_last_seen(state, ctx)
            await presence.write_users_seen(state, ctx)
            if periods % _FORGET_EVERY == 0:
                await write_key_uses(state, ctx)
                await ctx.db.write_all(store.sessions.forget_expired(ctx.clock.now_ms()))
        except StorageError as exc:
            # The disk is full, say: that has its own alarm, and the next round may find it mended.
            ctx.log.warning("user_background_failed", error=str(exc))


async def follow_changes(state: State, ctx: AppContext, last_change: int) -> int:
    """Act on what another process has changed since; returns the number of the newest change."""
    changes = await store.changes.changes_after(ctx.db, last_change)
    for user_id in dict.fromkeys(user_id for _, user_id in changes):
        if user_id == store.changes.KEYS_CHANGED:
            ctx.directory.invalidate()
        else:
            await _follow(state, ctx, user_id)
    return changes[-1][0] if changes else last_change


async def write_last_seen(state: State, ctx: AppContext) -> None:
    """Write what was collected since the last time; kept for the next time if that fails."""
    seen = state.last_seen.take()
    if not seen:
        return
    try:
        await ctx.db.write_all(store.sessions.mark_seen(seen))
    except StorageError:
        state.last_seen.put_back(seen)
        raise


async def write_key_uses(state: State, ctx: AppContext) -> None:
    """Write when API keys were last used; kept for the next time if that fails.

    Whose a key is, is remembered where requests come in: that is forgotten here, so that a key in use is seen again.
    """
    used = state.key_uses.take()
    if not used:
        return
    ctx.directory.invalidate()
    try:
        await ctx.db.write_all(store.api_keys.mark_keys_used(used))
    except StorageError:
        state.key_uses.put_back(used)
        raise


async def _follow(state: State, ctx: AppContext, user_id: str) -> None:
    # Counted first: a login that looked at the database before this change was made looks again.
    state.revocations.add()
    account = await store.accounts.find_account(ctx.db, user_id)
    if account is None:
        return
    if account.disabled:
        after_revocation(state, ctx, user_id, "this account was disabled")
        ctx.emit("user.disabled", user_id=user_id)
        ctx.log.info("user_disabled", user_id=user_id)
        return
    alive = {row.session_id for row in await store.sessions.list_sessions(ctx.db, user_id) if not row.revoked}
    live = ctx.directory.sessions(user_id)
    ended = {
        session.session_id
        for session in live
        if session.session_id not in alive
        and not state.is_foreign_and_good(session.session_id, session.connected_at_ms, account.tokens_from_ms)
    }
    if ended:
        after_revocation(state, ctx, user_id, "this session was ended; log in again", session_ids=ended)
    take_roles(state, ctx, user_id, account.roles)
