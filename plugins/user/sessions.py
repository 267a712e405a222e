"""The sessions of a user: how many there may be, LIST_DEVICES, KICK_DEVICE, LOGOUT, and how a session ends.

A session that was opened by a password has a row; one that came by an integrator's token exists as long as its
connection, and what is remembered when it is ended is its token.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, NotFound
from imserver_plugins.user import store
from imserver_plugins.user.state import State, durable, is_of_certificate, token_of_session_id, user_of
from imserver_plugins.user.store.statements import Statement

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Caller, Context, Session
    from imserver_plugins.user.requests import KickDevice, Logout


def refuse_if_too_many_live(state: State, ctx: Context, user_id: str, device_id: str | None) -> None:
    """Bound the connections of a user; one that takes its own device's place is always let in, and a request over HTTP is
    none.

    Raises:
        Conflict: `too_many_sessions`.
    """
    if state.sessions_per_user == 0 or not ctx.session.is_live:
        return
    live = ctx.directory.sessions(user_id)
    if sum(session.device_id != device_id for session in live) >= state.sessions_per_user:
        raise _too_many(state)


def end_if_too_many_live(state: State, ctx: Context) -> None:
    """The same for a connection that its certificate has logged in, which no command of ours could refuse."""
    session = ctx.connection
    if state.sessions_per_user == 0 or not is_of_certificate(session.session_id):
        return
    if len(ctx.directory.sessions(user_of(ctx))) > state.sessions_per_user:
        refusal = _too_many(state)
        session.revoke(refusal.error, refusal.message)


async def room_for(state: State, ctx: AppContext, user_id: str, device_id: str) -> list[str]:
    """The stored sessions that must go so that one more may be stored: the longest unseen first, no live one.

    Raises:
        Conflict: `too_many_sessions`: all are live.
    """
    if state.sessions_per_user == 0:
        return []
    others = [row for row in await store.sessions.list_sessions(ctx.db, user_id) if row.device_id != device_id]
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
    state: State, ctx: Context, user_id: str, *, session_ids: AbstractSet[str] | None = None, keep: str | None = None
) -> list[tuple[bytes, int]]:
    """(hash, expires_at) of the integrators' tokens of a user's sessions: of all but `keep`, or of those named.

    These are the live ones, and the one that a request over HTTP came by.
    """
    ids = {session.session_id for session in ctx.directory.sessions(user_id)}
    if session_ids is not None:
        ids &= session_ids
    ids.discard(keep or "")
    found = [token for token in map(state.foreign_tokens.get, ids) if token is not None]
    tokens = {token.token_hash: token.expires_at_ms for token in found}
    caller = ctx.session
    own = token_of_session_id(caller.session_id)
    if own is not None and caller.user_id == user_id and caller.expires_at_ms is not None:
        if session_ids is None or caller.session_id in session_ids:
            tokens[own] = caller.expires_at_ms
        if caller.session_id == keep:
            tokens.pop(own, None)
    return list(tokens.items())


def after_revocation(
    state: State,
    ctx: AppContext,
    user_id: str,
    message: str,
    *,
    error: str = "kicked",
    session_ids: AbstractSet[str] | None = None,
    keep: Caller | None = None,
    spared: AbstractSet[str] = frozenset(),
) -> None:
    """What follows when a revocation is durable: live connections are closed, racing logins will notice.

    Args:
        session_ids: of those that end; None: of all, but for `keep` and the sessions in `spared`.
    """
    state.revocations.add()
    if spared and session_ids is None:
        # Looked up after the count: a login that comes later has counted it, and looks at the database again.
        session_ids = {session.session_id for session in ctx.directory.sessions(user_id)} - spared
    ctx.directory.close(user_id, error, message, session_ids=session_ids, except_session=keep)


def take_roles(state: State, ctx: AppContext, user_id: str, roles: frozenset[str]) -> None:
    """What follows when a change of a user's roles is durable: live sessions have them from now on."""
    state.revocations.add()  # a login that read the old ones reads them again
    ctx.directory.invalidate()
    for session in ctx.directory.sessions(user_id):
        session.roles = roles


async def end_sessions(
    state: State, ctx: Context, user_id: str, message: str, *, session_ids: AbstractSet[str] | None
) -> set[str]:
    """End some of a user's sessions, or (None) all, with all that lets them come back.

    Returns:
        The ids of those that there were. The connection that asks goes on: `ctx.logout_after_answer`.
    """
    live = {session.session_id for session in ctx.directory.sessions(user_id)}
    revoked, *_ = await durable(ctx.db.write_all(ending(state, ctx, user_id, session_ids=session_ids)))
    ended = {row[0] for row in revoked} | (live if session_ids is None else live & session_ids)
    # Also where nothing was found, as long as it is all: a request over HTTP may have been under way.
    if ended or session_ids is None or ctx.session.session_id in session_ids:
        after_revocation(state, ctx, user_id, message, session_ids=session_ids, keep=ctx.session)
        ctx.emit("session.ended", user_id=user_id, session_ids=session_ids)
    return ended


def ending(state: State, ctx: Context, user_id: str, *, session_ids: AbstractSet[str] | None) -> list[Statement]:
    """What is written to end sessions; the first statement returns the ids of those that were stored."""
    statements = [store.sessions.revoke(user_id, session_ids=None if session_ids is None else tuple(session_ids))]
    statements += store.sessions.revoke_tokens(tokens_of(state, ctx, user_id, session_ids=session_ids))
    if session_ids is None:
        statements.append(store.accounts.refuse_older_tokens(user_id, ctx.clock.now_ms()))
    return statements


async def log_out(state: State, ctx: Context, request: Logout) -> dict[str, Any]:
    """1005 LOGOUT."""
    user_id, session = user_of(ctx), ctx.session
    has_session = session.is_live or not (session.scopes is not None or is_of_certificate(session.session_id))
    if not (request.all or has_session):
        raise Conflict("an API key or a certificate has no session to end; all=true ends the user's", field="all")
    session_ids = None if request.all else with_its_token(state, ctx, session.session_id)
    await end_sessions(state, ctx, user_id, "logged out", session_ids=session_ids)
    ctx.logout_after_answer("kicked", "logged out")
    ctx.log.info("session_logout", user_id=user_id, session=session.session_id, all=request.all)
    ctx.emit("audit", what="session_logout", user_id=user_id, session=session.session_id, address=session.address)
    return {}


async def kick_device(state: State, ctx: Context, request: KickDevice) -> dict[str, Any]:
    """1011 KICK_DEVICE: one's own sessions alone; another's is as unknown as one that never was."""
    user_id, is_own = user_of(ctx), request.session_id == ctx.session.session_id
    session_ids = with_its_token(state, ctx, request.session_id) if is_own else {request.session_id}
    message = "this device was logged out from another one"
    ended = await end_sessions(state, ctx, user_id, message, session_ids=session_ids)
    if not ended and not (is_own and token_of_session_id(request.session_id)):
        raise NotFound("you have no session with this id", field="session_id")
    if is_own:
        ctx.logout_after_answer("kicked", "logged out")
    ctx.log.info("authn_token_revoked", user_id=user_id, session=request.session_id)
    ctx.emit("audit", what="authn_token_revoked", user_id=user_id, session=request.session_id)
    return {}


def with_its_token(state: State, ctx: Context, session_id: str) -> set[str]:
    """The caller's session; of a request over HTTP by an integrator's token also the connections that came by it."""
    token_hash = token_of_session_id(session_id)
    if token_hash is None:
        return {session_id}
    live = {session.session_id for session in ctx.directory.sessions(user_of(ctx))}
    tokens = {live_id: state.foreign_tokens.get(live_id) for live_id in live}
    return {session_id} | {
        live_id for live_id, token in tokens.items() if token is not None and token.token_hash == token_hash
    }


async def list_devices(state: State, ctx: Context) -> dict[str, Any]:
    """1010 LIST_DEVICES: what is stored, and what is connected by an integrator's token."""
    return {"devices": await sessions_of(ctx, user_of(ctx))}


async def sessions_of(ctx: AppContext, user_id: str) -> list[dict[str, Any]]:
    """A user's sessions: those that are stored and good, and those that are connected."""
    now_ms = ctx.clock.now_ms()
    rows = await store.sessions.list_sessions(ctx.db, user_id)
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
    return devices


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
