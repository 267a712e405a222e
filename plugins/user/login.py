"""LOGIN, AUTH and REFRESH: how a connection becomes a user's."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, ImError, NotAuthenticated, PermissionDenied, auth
from imserver_plugins.user import store
from imserver_plugins.user.bearer import DISABLED, INVALID, account_of, foreign_token
from imserver_plugins.user.guesses import compare
from imserver_plugins.user.sessions import after_revocation, refuse_if_too_many_live, room_for
from imserver_plugins.user.state import State, durable, session_id_of_token
from imserver_plugins.user.store.accounts import Account

if TYPE_CHECKING:
    from imserver.plugin import Context
    from imserver_plugins.user.requests import Auth, Login, Refresh

SYNC = 2003

# Another login of the same user may take the place that was made; whoever loses so often is told to try again.
_PLACE_ATTEMPTS = 5

_WRONG = "the user id or the password is wrong"


async def log_in(state: State, ctx: Context, request: Login) -> dict[str, Any]:
    """1002 LOGIN."""
    with _alone(ctx):
        if ctx.session.user_id is not None:
            raise _bound_already()
        account, is_known = await store.accounts.find_account_and_device(ctx.db, request.user_id, request.device_id)
        verdict = await compare(
            state,
            ctx,
            user_id=request.user_id,
            stored=None if account is None else account.password,
            password=request.password,
            known_device=request.device_id if is_known else None,
        )
        if account is None or account.password is None or not verdict.is_right:
            raise NotAuthenticated(_WRONG)
        if account.disabled:
            raise PermissionDenied(DISABLED)
        password = account.password
        if verdict.needs_rehash:
            password = await state.passwords.hash(request.password)
            sql, params = store.accounts.change_password(account.user_id, old=account.password, new=password)
            await ctx.db.write(sql, params)

        revocations = state.revocations.count
        now_ms = ctx.clock.now_ms()
        device_id = request.device_id or f"dev-{secrets.token_hex(8)}"
        refuse_if_too_many_live(state, ctx, account.user_id, device_id)
        refresh = auth.new_refresh_token()
        session_id = secrets.token_hex(16)
        await _store_session(
            state,
            ctx,
            store.sessions.NewSession(
                session_id=session_id,
                user_id=account.user_id,
                device_id=device_id,
                platform=request.platform,
                address=ctx.session.address,
                now_ms=now_ms,
                family_hash=refresh.family_hash,
                member_hash=refresh.member_hash,
                expires_at=now_ms + state.refresh_ttl_ms,
            ),
            password,
        )
        token, expires_at = state.tokens.issue(account.user_id, session_id, now_ms=now_ms, ttl_ms=state.token_ttl_ms)

        async def check_again() -> Account:
            found = await store.accounts.find_account_of_session(ctx.db, session_id, account.user_id)
            if found is not None:
                return found
            if await store.sessions.session_exists(ctx.db, session_id):
                raise NotAuthenticated(_WRONG)  # revoked: what it was opened with is good no more
            raise _too_many_at_once()  # others' logins needed its place before it was online

        await _bind(state, ctx, request, account, session_id, device_id, expires_at, revocations, check_again)
        ctx.log.info("authn_login_success", user_id=account.user_id, session=session_id, address=ctx.session.address)
        who = {"user_id": account.user_id, "session": session_id, "address": ctx.session.address}
        ctx.emit("audit", what="authn_login_success", **who)
        return {
            **await _welcome(state, ctx, request, expires_at),
            "token": token,
            "refresh_token": refresh.text,
        }


async def authenticate(state: State, ctx: Context, request: Auth) -> dict[str, Any]:
    """1003 AUTH: one's own token or an integrator's; on a connection that is logged in it renews the expiry."""
    with _alone(ctx):
        claims = state.tokens.verify(request.token, now_ms=ctx.clock.now_ms())
        bound_to = ctx.session.user_id
        if bound_to is not None and bound_to != claims.user_id:
            raise _bound_already()
        revocations = state.revocations.count
        account = await account_of(ctx, claims, request.token)
        if bound_to is None:
            refuse_if_too_many_live(state, ctx, claims.user_id, request.device_id)
            is_foreign, is_live = claims.session_id is None, ctx.session.is_live
            session_id = claims.session_id or _foreign_session_id(ctx, request.token)
            # Entered before the binding, so that whoever ends the session from now on finds the token, too.
            if is_foreign and is_live:
                state.foreign_tokens[session_id] = foreign_token(claims, request.token)
            try:
                expires_at, check_again = claims.expires_at_ms, partial(account_of, ctx, claims, request.token)
                await _bind(
                    state, ctx, request, account, session_id, request.device_id, expires_at, revocations, check_again
                )
            except BaseException:
                state.foreign_tokens.pop(session_id, None)
                raise
            if is_live and not is_foreign:
                state.last_seen.connected(session_id, ctx.clock.now_ms(), ctx.session.address)
        else:
            if claims.session_id is None and ctx.session.session_id in state.foreign_tokens:
                state.foreign_tokens[ctx.session.session_id] = foreign_token(claims, request.token)
            ctx.session.expires_at_ms = claims.expires_at_ms
        return await _welcome(state, ctx, request, claims.expires_at_ms)


async def refresh(state: State, ctx: Context, request: Refresh) -> dict[str, Any]:
    """1004 REFRESH: the old token dies; whoever shows one that has died ends the session."""
    read = auth.read_refresh_token(request.refresh_token)
    if read is None:
        raise NotAuthenticated(INVALID)
    presented, family = read
    # Whoever guesses costs a read, not a write.
    if not await store.sessions.family_exists(ctx.db, presented.family_hash):
        raise NotAuthenticated(INVALID)
    now_ms = ctx.clock.now_ms()
    fresh = auth.new_refresh_token(family)
    exchanged, reused = await durable(
        ctx.db.write_all(
            store.sessions.rotate(
                presented.family_hash,
                presented.member_hash,
                fresh.member_hash,
                now_ms=now_ms,
                expires_at=now_ms + state.refresh_ttl_ms,
            )
        )
    )
    if reused:
        session_id, user_id = reused[0]
        message = "a refresh token of this session was used twice; log in again"
        after_revocation(state, ctx, user_id, message, session_ids={session_id})
        ctx.log.warning("authn_token_reuse", user_id=user_id, session=session_id, address=ctx.session.address)
        ctx.emit("audit", what="authn_token_reuse", user_id=user_id, session=session_id, address=ctx.session.address)
    if not exchanged:
        raise NotAuthenticated(INVALID)
    session_id, user_id = exchanged[0]
    token, expires_at = state.tokens.issue(user_id, session_id, now_ms=now_ms, ttl_ms=state.token_ttl_ms)
    if ctx.session.user_id == user_id and ctx.session.session_id == session_id:
        ctx.session.expires_at_ms = expires_at
    return {"token": token, "refresh_token": fresh.text, "expires_at": expires_at}


def _foreign_session_id(ctx: Context, token: str) -> str:
    # A connection is a session of its own. A request over HTTP is nothing that lasts: the token itself is its session.
    return secrets.token_hex(16) if ctx.session.is_live else session_id_of_token(auth.token_hash(token))


async def _store_session(state: State, ctx: Context, session: store.sessions.NewSession, password: str) -> None:
    """Make the session's row durable; sessions that had to make room, or were this device's, end."""
    for _ in range(_PLACE_ATTEMPTS):
        evict = await room_for(state, ctx, session.user_id, session.device_id)
        replaced, evicted, stored = await durable(
            ctx.db.write_all(
                store.sessions.open_session(session, password=password, evict=evict, max_sessions=state.sessions_per_user)
            )
        )
        for error, message, rows in (
            ("replaced", "this device has logged in anew", replaced),
            ("kicked", "another device has taken this one's place", evicted),
        ):
            if rows:
                ended = {row[0] for row in rows}
                after_revocation(state, ctx, session.user_id, message, error=error, session_ids=ended)
        if stored:
            return
        account = await store.accounts.find_account(ctx.db, session.user_id)
        if account is None or account.disabled or account.password != password:
            raise NotAuthenticated(_WRONG)  # changed while it was being compared
    raise _too_many_at_once()


def _too_many_at_once() -> Conflict:
    return Conflict("too many logins of this user at once; try again", error="too_many_sessions")


async def _bind(
    state: State,
    ctx: Context,
    request: Login | Auth,
    account: Account,
    session_id: str,
    device_id: str | None,
    expires_at_ms: int,
    revocations: int,
    check_again: Callable[[], Awaitable[Account]],
) -> None:
    """Enter the session in the directory, then make sure that it was not ended meanwhile (see `Revocations`).

    Args:
        revocations: their count before the session was looked at.
        check_again: reads the account again; raises what the client is to be told if the session has ended.
    """
    ctx.login(
        user_id=account.user_id,
        session_id=session_id,
        device_id=device_id,
        platform=request.platform,
        roles=account.roles,
        compress=request.compress,
        deliver=request.deliver,
        expires_at_ms=expires_at_ms,
    )
    if state.revocations.count == revocations:
        return
    try:
        ctx.session.roles = (await check_again()).roles
    except ImError:
        ctx.directory.close(account.user_id, "kicked", INVALID, session_ids={session_id})
        raise


async def _welcome(state: State, ctx: Context, request: Login | Auth, expires_at_ms: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "user_id": ctx.session.user_id,
        "expires_at": expires_at_ms,
        "session_id": ctx.session.session_id,
        "heartbeat_ms": state.heartbeat_ms,
        "server_time": ctx.clock.now_ms(),
    }
    if request.sync is not None:
        answer["sync"] = await _sync(ctx, request.sync)
    return answer


async def _sync(ctx: Context, cursor: str) -> Mapping[str, Any]:
    """SYNC's answer. A refusal (of the cursor, say) is part of ours: the tokens must reach the client all the same."""
    try:
        answer = await ctx.call(SYNC, {"cursor": cursor or None})
    except ImError as exc:
        return exc.answer()
    return {name: value for name, value in answer.items() if name not in ("code", "rid")}


@contextmanager
def _alone(ctx: Context) -> Iterator[None]:
    """One LOGIN or AUTH at a time on a connection."""
    notes = ctx.session.data.setdefault("user", {})
    if notes.get("is_logging_in"):
        raise Conflict("a login is under way on this connection", error="already_logged_in")
    notes["is_logging_in"] = True
    try:
        yield
    finally:
        notes["is_logging_in"] = False


def _bound_already() -> Conflict:
    return Conflict("this connection is logged in already; LOGOUT or open another", error="already_logged_in")
