"""SET_PUSH_TOKEN and REMOVE_PUSH_TOKEN: which devices are pushed to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imserver.plugin import InvalidBody
from imserver_plugins.push import store
from imserver_plugins.push.requests import RemovePushToken, SetPushToken

if TYPE_CHECKING:
    from imserver.plugin import Context
    from imserver_plugins.push.seam import Provider


def set_token(ctx: Context, request: SetPushToken, providers: Mapping[str, Provider]) -> dict[str, Any]:
    """Register this device with a provider; it belongs to the user, and to the session until that is ended."""
    provider = providers.get(request.provider)
    if provider is None:
        known = ", ".join(sorted(providers)) or "none"
        raise InvalidBody(f"this server does not push by {request.provider}; it does by: {known}", field="provider")
    text = provider.check_token(request.token, request.app) or request.token
    token = store.Token(request.provider, text, request.app, ctx.clock.now_ms())
    user_id, session_id, device_id = _device_of(ctx)
    ctx.db.write_all(store.set_token(user_id, session_id, device_id, token, ctx.settings.max_devices))
    return {}


def remove_token(ctx: Context, request: RemovePushToken, providers: Mapping[str, Provider]) -> dict[str, Any]:
    """Forget one of the user's devices, or what this one has registered. It is no error if there was nothing."""
    user_id, session_id, device_id = _device_of(ctx)
    if request.token is not None:
        texts = {request.token}
        for provider in providers.values():
            with suppress(InvalidBody):  # it is another provider's
                texts.add(provider.check_token(request.token, "") or request.token)
        ctx.db.write_all([store.remove_token(user_id, text) for text in texts])
    elif not session_id:
        raise InvalidBody("an API key is no device: say which token", field="token")
    else:
        ctx.db.write_all([store.remove_tokens_of(user_id, session_id, device_id)])
    return {}


def _device_of(ctx: Context) -> tuple[str, str, str]:
    """(user_id, session_id, device_id). An API key has no session: it speaks for all of a user's devices."""
    session = ctx.session
    assert session.user_id is not None, "the router has seen to it that there is one"
    session_id = "" if session.scopes is not None else session.session_id
    return session.user_id, session_id, session.device_id if session.has_own_device else ""
