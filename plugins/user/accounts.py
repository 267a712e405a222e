"""REGISTER and CHANGE_PASSWORD."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, ConstraintViolated, InvalidBody, NotAuthenticated, PermissionDenied, RateLimited, auth
from imserver_plugins.user import store
from imserver_plugins.user.guesses import compare
from imserver_plugins.user.sessions import after_revocation, tokens_of, with_its_token
from imserver_plugins.user.state import State, durable, user_of

if TYPE_CHECKING:
    from imserver.plugin import Context
    from imserver_plugins.user.requests import ChangePassword, Register

# The bucket of guesses of all who are logged in to the account: not to be filled by strangers. A device id it is not:
# those have 64 characters at most, and AUTH takes any, so it would be a new bucket at each connection.
_LOGGED_IN = "logged in".ljust(65)

#: Stands for all members among the mentions of a message to a group.
_EVERYBODY = "@all"

_EXISTS = "this user id is taken; choose another"


async def register(state: State, ctx: Context, request: Register) -> dict[str, Any]:
    """1001 REGISTER."""
    # A back end whose key may make users has been let in by the operator; its users are not one person at one address.
    is_back_end = ctx.session.scopes is not None
    if not (state.is_registration_open or is_back_end):
        raise PermissionDenied("this server takes no registrations")
    if request.user_id == _EVERYBODY:
        raise InvalidBody("this id stands for everybody in mentions; choose another one", field="user_id")
    auth.check_new_password(request.password, user_id=request.user_id)
    address = state.limited_address(ctx.session.address)
    if state.registrations is not None and address is not None and not is_back_end:
        wait_s = state.registrations.take(address, ctx.clock.monotonic())
        if wait_s > 0:
            raise RateLimited("too many registrations from this address", retry_after_ms=math.ceil(wait_s * 1000))
    if await store.accounts.find_account(ctx.db, request.user_id) is not None:
        raise Conflict(_EXISTS, field="user_id")
    password = await state.passwords.hash(request.password)
    sql, params = store.accounts.insert_user(
        request.user_id, password, nickname=request.nickname, now_ms=ctx.clock.now_ms(), or_ignore=False
    )
    try:
        await ctx.db.write(sql, params)
    except ConstraintViolated as exc:
        raise Conflict(_EXISTS, field="user_id") from exc
    ctx.log.info("user_created", user_id=request.user_id, address=ctx.session.address)
    ctx.emit("user.created", user_id=request.user_id)
    return {"user_id": request.user_id}


async def change_password(state: State, ctx: Context, request: ChangePassword) -> dict[str, Any]:
    """1008 CHANGE_PASSWORD: the user's other sessions end with it."""
    user_id, session = user_of(ctx), ctx.session
    auth.check_new_password(request.new_password, user_id=user_id, field="new_password")
    account = await store.accounts.find_account(ctx.db, user_id)
    if account is None or account.password is None:
        raise PermissionDenied("this account has no password: its tokens come from elsewhere")
    verdict = await compare(
        state,
        ctx,
        user_id=user_id,
        stored=account.password,
        password=request.old_password,
        known_device=_LOGGED_IN,
    )
    if not verdict.is_right:
        raise NotAuthenticated("the old password is wrong", field="old_password")
    password = await state.passwords.hash(request.new_password)
    changed, _revoked, *_ = await durable(
        ctx.db.write_all(
            [
                store.accounts.change_password(user_id, old=account.password, new=password),
                store.sessions.revoke_if_password(user_id, password, keep=session.session_id),
                *store.sessions.revoke_tokens(tokens_of(state, ctx, user_id, keep=session.session_id)),
            ]
        )
    )
    if not changed:
        raise Conflict("the password was changed by another session at the same moment")
    message, spared = "the password was changed; log in again", with_its_token(state, ctx, session.session_id)
    after_revocation(state, ctx, user_id, message, keep=session, spared=spared)
    ctx.log.info("authn_password_change", user_id=user_id, address=session.address)
    ctx.emit("audit", what="authn_password_change", user_id=user_id, address=session.address)
    return {}
