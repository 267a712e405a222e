"""The operators' routes over HTTP: users, their sessions, locking out, ending sessions, roles.

Each change acts at once, as the command line's does within seconds, and is logged with who made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from imserver.plugin import Conflict, InvalidBody, NotFound, PermissionDenied, invalid_body
from imserver_plugins.user import store
from imserver_plugins.user.roles import with_role
from imserver_plugins.user.sessions import after_revocation, end_sessions, ending, sessions_of, take_roles
from imserver_plugins.user.state import durable
from imserver_plugins.user.store.accounts import Account
from imserver_plugins.user.store.columns import roles_from, search_key

if TYPE_CHECKING:
    from starlette.requests import Request

    from imserver.plugin import Context
    from imserver_plugins.user.requests import DisableUser, KickUser, ListUsers, SetRole
    from imserver_plugins.user.state import State

T = TypeVar("T")

# Two who change one user's roles at once: the loser reads them again.
_ROLE_ATTEMPTS = 5


def query_of(request: Request, kind: type[T]) -> T:
    """The parameters behind the path's question mark.

    Raises:
        InvalidBody: one is not as `kind` wants it.
    """
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as exc:
        raise invalid_body(exc) from exc


async def body_of(request: Request, kind: type[T]) -> T:
    """The request's body, a JSON object; none at all is an empty one.

    Raises:
        InvalidBody: it is no JSON, or not as `kind` wants it.
    """
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except msgspec.ValidationError as exc:
        raise invalid_body(exc) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidBody(f"the body must be a JSON object: {exc}") from exc


async def list_users(ctx: Context, request: ListUsers) -> dict[str, Any]:
    """GET /v1/admin/users."""
    rows = await store.profiles.list_users(ctx.db, search_key(request.query), request.cursor, request.limit + 1)
    users = [
        {
            "user_id": user_id,
            "nickname": nickname,
            "created_at": created_at,
            "disabled": bool(disabled),
            "roles": sorted(roles_from(roles)),
            "online": len(ctx.directory.sessions(user_id)),
        }
        for user_id, nickname, created_at, disabled, roles in rows[: request.limit]
    ]
    if len(rows) > request.limit:
        return {"users": users, "next_cursor": users[-1]["user_id"]}
    return {"users": users}


async def list_sessions(ctx: Context, user_id: str) -> dict[str, Any]:
    """GET /v1/admin/users/{user_id}/sessions."""
    await _existing(ctx, user_id)
    return {"sessions": await sessions_of(ctx, user_id)}


async def disable(state: State, ctx: Context, user_id: str, request: DisableUser) -> dict[str, Any]:
    """POST /v1/admin/users/{user_id}/disable."""
    if request.disabled and user_id == ctx.session.user_id:
        raise Conflict("you cannot lock yourself out; ask another administrator")
    await _subordinate(ctx, user_id)
    statements = [store.accounts.set_disabled(user_id, request.disabled)]
    if request.disabled:
        statements += ending(state, ctx, user_id, session_ids=None)
    found, *_ = await durable(ctx.db.write_all(statements))
    if not found:
        raise _unknown(user_id)
    if request.disabled:
        after_revocation(state, ctx, user_id, "this account was disabled")
        ctx.emit("user.disabled", user_id=user_id)
    _log(ctx, "user_disabled" if request.disabled else "user_enabled", user_id=user_id)
    return {"user_id": user_id, "disabled": request.disabled}


async def kick(state: State, ctx: Context, user_id: str, request: KickUser) -> dict[str, Any]:
    """POST /v1/admin/users/{user_id}/kick."""
    await _subordinate(ctx, user_id)
    session_ids = None if request.session_id is None else {request.session_id}
    message = "this session was ended by an administrator; log in again"
    ended = await end_sessions(state, ctx, user_id, message, session_ids=session_ids)
    if session_ids is not None and not ended:
        raise NotFound("the user has no session with this id", field="session_id")
    _log(ctx, "user_kicked", user_id=user_id, session=request.session_id, ended=len(ended))
    return {"user_id": user_id, "ended": len(ended)}


async def set_role(state: State, ctx: Context, user_id: str, request: SetRole) -> dict[str, Any]:
    """POST /v1/admin/users/{user_id}/role."""
    if not ctx.session.outranks({request.role}):
        raise PermissionDenied(f"the role {request.role} may more than you: an administrator can give it and take it away")
    if request.role == "admin" and not request.present and user_id == ctx.session.user_id:
        raise Conflict("you cannot take the role admin from yourself; ask another administrator")
    for _ in range(_ROLE_ATTEMPTS):
        old = (await _subordinate(ctx, user_id)).roles
        new = with_role(old, request.role, request.present)
        sql, params = store.accounts.change_roles(user_id, old=old, new=new)
        if await durable(ctx.db.write(sql, params)):
            take_roles(state, ctx, user_id, new)
            _log(ctx, "user_role_changed", user_id=user_id, role=request.role, present=request.present)
            return {"user_id": user_id, "roles": sorted(new)}
    raise Conflict("others change the roles of this user at the same moment; try again")


async def _existing(ctx: Context, user_id: str) -> Account:
    account = await store.accounts.find_account(ctx.db, user_id)
    if account is None:
        raise _unknown(user_id)
    return account


async def _subordinate(ctx: Context, user_id: str) -> Account:
    """The account of somebody who may no more than the caller does.

    Raises:
        NotFound: there is no such user.
        PermissionDenied: the user may more.
    """
    account = await _existing(ctx, user_id)
    if user_id != ctx.session.user_id and not ctx.session.outranks(account.roles):
        raise PermissionDenied(f"{user_id} may more than you: only an administrator can do this to them")
    return account


def _unknown(user_id: str) -> NotFound:
    return NotFound(f"there is no user {user_id}", field="user_id")


def _log(ctx: Context, event: str, **fields: Any) -> None:
    # The session tells an API key's name where there is no user.
    by = {"by": ctx.session.user_id, "by_session": ctx.session.session_id, "address": ctx.session.address}
    ctx.log.info(event, **by, **fields)
    ctx.emit("audit", what="authz_admin", action=event, **by, **fields)
