"""Whose credentials came with a request or a handshake: a token, an API key or a client certificate."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve

from imserver.plugin import Identity, InvalidBody, NotAuthenticated, NotFound, PermissionDenied, RateLimited, auth
from imserver_plugins.user import keys, store
from imserver_plugins.user.bearer import DISABLED, identity_of
from imserver_plugins.user.state import session_id_of_certificate, session_id_of_key
from imserver_plugins.user.store.api_keys import ApiKey

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Credentials
    from imserver_plugins.user.state import State

_USER_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")  # wire protocol, section 3
_WRONG_KEY = "the API key is not valid, or no longer"


async def authenticate(state: State, ctx: AppContext, credentials: Credentials) -> Identity | None:
    """Whose these are; None: there are none. Of several the first of token, key and certificate counts.

    Raises:
        NotAuthenticated: they are nobody's.
        RateLimited: and this address has shown many such tokens or keys.
        PermissionDenied: the account is disabled, or these credentials cannot act for somebody.
        NotFound: there is no such user to act for.
    """
    if credentials.token is not None:
        _refuse_acting(credentials)
        try:
            return await identity_of(state, ctx, credentials.token)
        except NotAuthenticated as exc:
            raise refused_token(state, ctx, credentials.token, credentials.address, exc) from exc
    if credentials.api_key is not None:
        return await _by_key(state, ctx, credentials.api_key, credentials)
    if credentials.certificate is not None:
        return await _by_certificate(state, ctx, credentials.certificate, credentials)
    return None


async def _by_key(state: State, ctx: AppContext, text: str, credentials: Credentials) -> Identity:
    shown = keys.read(text)
    key = await store.api_keys.find_key(ctx.db, shown.key_id) if shown is not None else None
    if shown is None or key is None or not shown.opens(key):
        raise _wrong_key(state, ctx, credentials.address)
    return await _of_key(state, ctx, key, credentials)


async def _of_key(state: State, ctx: AppContext, key: ApiKey, credentials: Credentials) -> Identity:
    now_ms = ctx.clock.now_ms()
    if not key.is_good(now_ms):
        refusal = _wrong_key(state, ctx, credentials.address)
        if isinstance(refusal, NotAuthenticated):  # beyond the limit not even a line of the log
            ctx.log.info("authn_key_fail", key=key.name, address=credentials.address, revoked=key.revoked_at is not None)
            ctx.emit("audit", what="authn_key_fail", key=key.name, address=credentials.address)
        raise refusal
    user_id = credentials.acting_for
    if user_id is not None:
        if not _USER_ID.fullmatch(user_id):
            raise InvalidBody(
                "X-IM-User must be a user id: 1 to 64 characters out of A-Z a-z 0-9 _ - . @", field="X-IM-User"
            )
        account = await store.accounts.find_account(ctx.db, user_id)
        if account is None:
            raise NotFound(f"there is no user {user_id} to act for", field="X-IM-User")
        if account.disabled:
            raise PermissionDenied(DISABLED)
    state.key_uses.add(key.key_id, now_ms)
    return Identity(
        user_id=user_id,
        session_id=session_id_of_key(key.name),
        roles=frozenset({"admin"} & key.scopes),
        scopes=key.scopes,
        expires_at_ms=key.expires_at,
    )


def refused_token(
    state: State, ctx: AppContext, token: str, address: str, refusal: NotAuthenticated
) -> NotAuthenticated | RateLimited:
    """The refusal of a token. One that we have signed, and that has expired or was revoked, is no guess: a hundred devices
    behind one address may come back with such.
    """
    try:
        state.tokens.verify(token, now_ms=0)
    except NotAuthenticated:
        return _charged(state, ctx, state.forged_tokens, "tokens", address, refusal)
    return refusal


def _wrong_key(state: State, ctx: AppContext, address: str) -> NotAuthenticated | RateLimited:
    return _charged(state, ctx, state.wrong_keys, "API keys", address, NotAuthenticated(_WRONG_KEY))


def _charged(
    state: State, ctx: AppContext, limit: auth.Gcra, what: str, address: str, refusal: NotAuthenticated
) -> NotAuthenticated | RateLimited:
    """The refusal. Charged afterwards, so that good credentials from the same address are never refused: 256 bits cannot be
    guessed, and what is to be spared is the server.
    """
    limited = state.limited_address(address)
    wait_s = 0.0 if limited is None else limit.take(limited, ctx.clock.monotonic())
    if wait_s > 0:
        return RateLimited(f"too many wrong {what} from this address", retry_after_ms=math.ceil(wait_s * 1000))
    return refusal


async def _by_certificate(
    state: State, ctx: AppContext, certificate: Mapping[str, Any], credentials: Credentials
) -> Identity:
    name = _common_name(certificate)
    tls = ctx.config.tls
    if tls is not None and tls.client_identity == "api_key":
        key = await store.api_keys.find_key_by_name(ctx.db, name)
        if key is None:
            raise NotAuthenticated(
                "the commonName of the client certificate is no API key's name; see imserver token key add"
            )
        identity = await _of_key(state, ctx, key, credentials)
    else:
        _refuse_acting(credentials)
        account = await store.accounts.find_account(ctx.db, name)
        if account is None:
            raise NotAuthenticated("the commonName of the client certificate is no user of this server")
        if account.disabled:
            raise PermissionDenied(DISABLED)
        session_id = session_id_of_certificate(str(certificate.get("serialNumber", "")))
        identity = Identity(user_id=account.user_id, session_id=session_id, roles=account.roles)
    return _until_certificate_ends(identity, certificate)


def _common_name(certificate: Mapping[str, Any]) -> str:
    """The one commonName of the subject, which `getpeercert` gives as a tuple of tuples of (name, value) pairs.

    Raises:
        NotAuthenticated: there is none, or more than one.
    """
    subject = certificate.get("subject", ())
    names = [value for relative_name in subject for kind, value in relative_name if kind == "commonName"]
    if len(names) != 1:
        raise NotAuthenticated(f"the subject of the client certificate has {len(names)} commonNames; it needs one")
    return str(names[0])


def _until_certificate_ends(identity: Identity, certificate: Mapping[str, Any]) -> Identity:
    """What was found out at a handshake holds no longer than the certificate."""
    not_after = certificate.get("notAfter")
    if not_after is None:
        return identity
    ends_at_ms = ssl.cert_time_to_seconds(not_after) * 1000
    if identity.expires_at_ms is not None:
        ends_at_ms = min(ends_at_ms, identity.expires_at_ms)
    return evolve(identity, expires_at_ms=ends_at_ms)


def _refuse_acting(credentials: Credentials) -> None:
    if credentials.acting_for is not None:
        raise PermissionDenied("X-IM-User is for API keys; these credentials are one user's own")
