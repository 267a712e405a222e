"""The plugin: requests to FCM's HTTP v1 API, and what its answers mean.

Source: Google, "REST resource: projects.messages" and "ErrorCode" of FCM.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from attrs import frozen

from imserver.plugin import (
    HttpAnswer,
    HttpClient,
    ImError,
    InvalidBody,
    Meta,
    NotFound,
    Plugin,
    PluginError,
    RateLimited,
    Unavailable,
)
from imserver_plugins.push_fcm.oauth import AccessToken, load_account

if TYPE_CHECKING:
    from imserver.plugin import AppContext
    from imserver_plugins.push.seam import Push

#: What FCM calls the refusal of one push, or of the device's own app.
_OF_THE_PUSH: Final = frozenset({"INVALID_ARGUMENT", "SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"})
_GONE: Final = "UNREGISTERED"
#: Google asks to wait a minute where it does not say for how long.
_QUOTA_WAIT_MS: Final = 60_000
#: FCM keeps a push for 28 days at most.
_MAX_TTL_S: Final = 28 * 86400


@frozen
class Settings:
    """`[plugins.push_fcm]`

    service_account_file: the JSON file of a service account that may send messages, as the Firebase console gives it.
    url: of FCM.
    ca_file: certificates to trust beside the system's, PEM.
    connections: to FCM at once at most.
    """

    service_account_file: Path | None = None
    url: Annotated[str, Meta(pattern=r"\Ahttps://[^\s/]+\Z")] = "https://fcm.googleapis.com"
    ca_file: Path | None = None
    connections: Annotated[int, Meta(ge=1, le=500)] = 16


class PushFcmPlugin(Plugin):
    """Offline push by Google's service."""

    name = "push_fcm"
    requires = ("push",)
    Settings = Settings
    #: See `Provider` of the plugin push.
    provider = "fcm"

    def __init__(self) -> None:
        self._client: HttpClient | None = None
        self._token: AccessToken | None = None
        self._ctx: AppContext | None = None
        self._url = ""

    async def on_start(self, ctx: AppContext) -> None:
        """Check what is configured, and announce the provider."""
        settings: Settings = ctx.settings
        if settings.service_account_file is None:
            raise PluginError("plugins.push_fcm.service_account_file is missing: the JSON file of a service account")
        try:
            account, key = await ctx.run_sync_in_thread(load_account, settings.service_account_file)
        except ValueError as exc:
            raise PluginError(f"plugins.push_fcm: {exc}") from exc
        self._client = await ctx.run_sync_in_thread(HttpClient.make, self.name, settings.ca_file, settings.connections)
        self._token = AccessToken(account, key, self._client)
        self._url = f"{settings.url}/v1/projects/{account.project_id}/messages:send"
        self._ctx = ctx
        ctx.emit("push.provider", provider=self)

    async def on_stop(self, ctx: AppContext) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def check_token(self, token: str, app: str) -> None:
        """FCM's may be any text; what is none it refuses itself."""

    async def send(self, push: Push) -> None:
        """Hand one push to Google. See `Provider.send` of the plugin push."""
        assert self._client is not None
        assert self._ctx is not None
        assert self._token is not None
        now_ms = self._ctx.clock.now_ms()
        token = await self._token.get(now_ms)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        answer = await self._client.post(self._url, headers, message_of(push, now_ms))
        if answer.status == 200:
            return
        error = error_of(answer)
        if answer.status == 401 and error not in _OF_THE_PUSH:
            self._token.refused(token)
        raise refusal_of(answer, error)


def message_of(push: Push, now_ms: int) -> bytes:
    """The JSON of a push. All values of `data` are strings: FCM has no others."""
    ttl_s = min(max(0, (push.expires_at - now_ms) // 1000), _MAX_TTL_S)
    message: dict[str, Any] = {
        "token": push.token,
        "notification": {"title": push.title, "body": push.text},
        "data": {
            "conversation_id": push.conversation_id,
            "seq": str(push.seq),
            "message_id": push.message_id,
            "sender": push.sender,  # `from` is FCM's own
            "type": push.type,
            "unread": str(push.unread),
            "badge": str(push.badge),
        },
        "android": {
            "collapse_key": push.collapse_id,
            "priority": "high",
            "ttl": f"{ttl_s}s",
            "notification": {"tag": push.collapse_id, "notification_count": push.badge},
        },
        "apns": {
            "headers": {"apns-collapse-id": push.collapse_id, "apns-expiration": str(push.expires_at // 1000)},
            "payload": {
                "aps": {"badge": push.badge, "thread-id": push.conversation_id, "mutable-content": 1, "sound": "default"}
            },
        },
    }
    return msgspec.json.encode({"message": message})


class _Detail(msgspec.Struct, rename="camel"):
    error_code: str = ""


class _Error(msgspec.Struct):
    status: str = ""
    details: list[_Detail] = []


class _Refusal(msgspec.Struct):
    error: _Error


def error_of(answer: HttpAnswer) -> str:
    """What FCM calls the refusal: its own code, or else that of all Google APIs; "" where it says nothing."""
    try:
        error = msgspec.json.decode(answer.body, type=_Refusal).error
    except msgspec.DecodeError:
        return ""
    return next((detail.error_code for detail in error.details if detail.error_code), error.status)


def refusal_of(answer: HttpAnswer, error: str) -> ImError:
    """What an answer other than 200 means, as the plugin push wants to know it."""
    said = f"FCM answered HTTP {answer.status} {error}".rstrip()
    if error == _GONE:
        return NotFound(said)
    if answer.status == 429:
        return RateLimited(said, retry_after_ms=answer.retry_after_ms or _QUOTA_WAIT_MS)
    if answer.status == 400 or error in _OF_THE_PUSH:
        return InvalidBody(said)
    return Unavailable(said, retry_after_ms=answer.retry_after_ms or 0)
