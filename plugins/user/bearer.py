"""Tokens: whose one is. AUTH asks here to bind a connection, `authenticate` to carry out a request over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.plugin import Identity, NotAuthenticated, PermissionDenied, auth
from imserver_plugins.user import store
from imserver_plugins.user.state import ForeignToken, State, session_id_of_token
from imserver_plugins.user.store.accounts import Account

if TYPE_CHECKING:
    from imserver.plugin import AppContext

INVALID = "the token is not valid, or no longer"
DISABLED = "this account is disabled"


async def identity_of(state: State, ctx: AppContext, token: str) -> Identity:
    """Who shows a token; nothing is remembered of it.

    Raises:
        NotAuthenticated, PermissionDenied: as AUTH.
    """
    claims = state.tokens.verify(token, now_ms=ctx.clock.now_ms())
    account = await account_of(ctx, claims, token)
    return Identity(
        user_id=account.user_id,
        session_id=claims.session_id or session_id_of_token(auth.token_hash(token)),
        device_id=account.device_id,
        roles=account.roles,
        expires_at_ms=claims.expires_at_ms,
    )


async def account_of(ctx: AppContext, claims: auth.Claims, token: str) -> Account:
    """The account that a token speaks for, now.

    Raises:
        NotAuthenticated: its session has ended, or it was issued before the user logged out everywhere.
        PermissionDenied: the account is disabled.
    """
    if claims.session_id is not None:
        account = await store.accounts.find_account_of_session(ctx.db, claims.session_id, claims.user_id)
        if account is None:
            raise NotAuthenticated(INVALID)
    else:
        account, is_revoked = await store.accounts.find_foreign_account(ctx.db, claims.user_id, auth.token_hash(token))
        if is_revoked:
            raise NotAuthenticated(INVALID)
        if account is None:
            # The integrating system's word is enough: the user is made at first sight.
            sql, params = store.accounts.insert_user(
                claims.user_id, None, nickname=None, now_ms=ctx.clock.now_ms(), or_ignore=True
            )
            await ctx.db.write(sql, params)
            ctx.emit("user.created", user_id=claims.user_id)
            account = Account(claims.user_id, None, disabled=False, roles=frozenset(), tokens_from_ms=0)
        if foreign_token(claims, token).is_older_than(account.tokens_from_ms):
            raise NotAuthenticated(INVALID)
    if account.disabled:
        raise PermissionDenied(DISABLED)
    return account


def foreign_token(claims: auth.Claims, token: str) -> ForeignToken:
    """What is remembered of an integrator's token while a connection lives by it."""
    return ForeignToken(auth.token_hash(token), claims.expires_at_ms, claims.issued_at_ms)
