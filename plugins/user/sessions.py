"""The sessions of a user: how many there may be, LIST_DEVICES, KICK_DEVICE, LOGOUT, and how a session ends.

A session that was opened by a password has a row; one that came by an integrator's token exists as long as its
connection, and what is remembered when it is ended is its token.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, NotFound
from imserver_plugins.user import store
from imserver_plugins.user.state import State, durable, user_of

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Session
    from imserver_plugins.user.requests import KickDevice, Logout


def refuse_if_too_many_live(state: State, ctx: AppContext, user_id: str, device_id: str | None) -> None:
    """Bound the connections of a user; one that takes its own device's place is always let in.

    Raises:
        Conflict: `too_many_sessions`.
    """
    if state.sessions_per_user == 0:
        return
    live = ctx.directory.sessions(user_id)
    if sum(session.device_id != device_id for session in live) >= state.sessions_per_user:
        raise _too_many(state)


async def room_for(state: State, ctx: AppContext, user_id: str, device_id: str) -> list[str]:
    """The stored sessions that must go so that one more may be stored: the longest unseen first, no live one.

    Raises:
        Conflict: `too_many_sessions`: all are live.
    """
    if state.sessions_per_user == 0:
        return []
    others = [row for row in await store.list_sessions(ctx.db, user_id) if row.device_id != device_id]
    excess = len(others) + 1 - state.sessions_per_user
    if excess <= 0:
        return []
    live = {session.session_id for session in ctx.directory.sessions(user_id)}
    offline = [row for row in others if row.session_id not in live]
    if len(offline) < excess:
        raise _too_many(state)
    offline.sort(key=lambda row: not row.revoked)  # stable: the revoked ones first, each kind as it was
    return [row.session_id for row in offline[:excess]]


def tokens_of(
    state: State, ctx: AppContext, user_id: str, *, session_ids: AbstractSet[str] | None = None, keep: str | None = None
) -> list[tuple[bytes, int]]:
    """(hash, expires_at) of the integrators' tokens of a user's live sessions: of all but `keep`, or of those named."""
    ids = {session.session_id for session in ctx.directory.sessions(user_id)}
    if session_ids is not None:
        ids &= session_ids
    ids.discard(keep or "")
    tokens = [token for token in map(state.foreign_tokens.get, ids) if token is not None]
    return [(token.token_hash, token.expires_at_ms) for token in tokens]


def after_revocation(
    state: State,
    ctx: AppContext,
    user_id: str,
    message: str,
    *,
    error: str = "kicked",
    session_ids: AbstractSet[str] | None = None,
    keep: Session | None = None,
) -> None:
    """What follows when a revocation is durable: live connections are closed, racing logins will notice."""
    state.revocations.add()
    ctx.directory.close(user_id, error, message, session_ids=session_ids, except_session=keep)


async def log_out(state: State, ctx: Context, request: Logout) -> dict[str, Any]:
    """1005 LOGOUT."""
    user_id, session = user_of(ctx), ctx.session
    session_ids = None if request.all else {session.session_id}
    statements = [store.revoke(user_id, session_ids=None if session_ids is None else tuple(session_ids))]
    statements += store.revoke_tokens(tokens_of(state, ctx, user_id, session_ids=session_ids))
    if request.all:
        statements.append(store.refuse_older_tokens(user_id, ctx.clock.now_ms()))
    await durable(ctx.db.write_all(statements))
    after_revocation(state, ctx, user_id, "logged out", session_ids=session_ids, keep=session)
    ctx.logout_after_answer("kicked", "logged out")
    ctx.log.info("session_logout", user_id=user_id, session=session.session_id, all=request.all)
    return {}


async def kick_device(state: State, ctx: Context, request: KickDevice) -> dict[str, Any]:
    """1011 KICK_DEVICE: one's own sessions alone; another's is as unknown as one that never was."""
    user_id, session = user_of(ctx), ctx.session
    session_ids = {request.session_id}
    live = {one.session_id for one in ctx.directory.sessions(user_id)}
    revoked, *_ = await durable(
        ctx.db.write_all(
            [
                store.revoke(user_id, session_ids=(request.session_id,)),
                *store.revoke_tokens(tokens_of(state, ctx, user_id, session_ids=session_ids)),
            ]
        )
    )
    if not revoked and request.session_id not in live:
        raise NotFound("you have no session with this id", field="session_id")
    after_revocation(
        state, ctx, user_id, "this device was logged out from another one", session_ids=session_ids, keep=session
    )
    if request.session_id == session.session_id:
        ctx.logout_after_answer("kicked", "logged out")
    ctx.log.info("authn_token_revoked", user_id=user_id, session=request.session_id)
    return {}


async def list_devices(state: State, ctx: Context) -> dict[str, Any]:
    """1010 LIST_DEVICES: what is stored, and what is connected by an integrator's token."""
    user_id, now_ms = user_of(ctx), ctx.clock.now_ms()
    rows = await store.list_sessions(ctx.db, user_id)
    # Several connections may share a session (AUTH by one token from several places): the one with the session's own
    # device id stands for them, or else the newest.
    own_device = {row.session_id: row.device_id for row in rows}
    live: dict[str, Session] = {}
    for session in ctx.directory.sessions(user_id):
        shown = live.get(session.session_id)
        if shown is None or shown.device_id != own_device.get(session.session_id):
            live[session.session_id] = session
    devices = []
    for row in rows:
        online = live.pop(row.session_id, None)
        if online is not None:
            devices.append(_device(online))
        elif not row.revoked and row.expires_at > now_ms:
            devices.append(
                {
                    "session_id": row.session_id,
                    "device_id": row.device_id,
                    "platform": row.platform,
                    "address": row.address,
                    "connected_at": row.connected_at,
                    "online": False,
                }
            )
    devices += [_device(session) for session in live.values()]
    return {"devices": devices}


def _device(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "device_id": session.device_id,
        "platform": session.platform,
        "address": session.address,
        "connected_at": session.connected_at_ms,
        "online": True,
    }


def _too_many(state: State) -> Conflict:
    return Conflict(
        f"this user has {state.sessions_per_user} devices online, which is the most; log one out (KICK_DEVICE) first",
        error="too_many_sessions",
    )
