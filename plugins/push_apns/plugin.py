"""The plugin: requests to Apple's HTTP/2 API, and what its answers mean.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

from __future__ import annotations

import re
from functools import partial
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
from imserver_plugins.push_apns.signing import ProviderToken, load_key

if TYPE_CHECKING:
    from imserver.plugin import AppContext
    from imserver_plugins.push.seam import Push

#: Apple's are 64 hex digits today, and may grow.
_TOKEN: Final = re.compile(r"[0-9A-Fa-f]{64,200}")
#: These are about the one push; others are about the account, the key, or Apple.
_OF_THE_PUSH: Final = frozenset({400, 404, 405, 413})
_STALE: Final = "ExpiredProviderToken"
_GONE: Final = frozenset({"Unregistered", "ExpiredToken"})
_TOO_MANY_TOKENS: Final = "TooManyProviderTokenUpdates"
#: It comes with 400, and is about the connection.
_IDLE: Final = "IdleTimeout"
#: One connection carries many requests at once.
_CONNECTIONS: Final = 2

Id = Annotated[str, Meta(pattern=r"\A([A-Z0-9]{10})?\Z", description="10 capital letters and digits")]
Topic = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.-]{1,255}\Z", description="a bundle id")]


@frozen
class Settings:
    """`[plugins.push_apns]`

    team_id, key_id: of the Apple developer account, and of its key for APNs.
    key_file: that key, as Apple gives it: AuthKey_….p8.
    topics: the bundle ids of the apps; a device that names none has the first.
    url: Apple's other one is https://api.sandbox.push.apple.com, for apps that are run from Xcode.
    ca_file: certificates to trust beside the system's, PEM.
    sound: that a push makes; empty: none.
    """

    team_id: Id = ""
    key_id: Id = ""
    key_file: Path | None = None
    topics: tuple[Topic, ...] = ()
    url: Annotated[str, Meta(pattern=r"\Ahttps://[^\s/]+\Z")] = "https://api.push.apple.com"
    ca_file: Path | None = None
    sound: Annotated[str, Meta(max_length=100)] = "default"


class PushApnsPlugin(Plugin):
    """Offline push by Apple's service."""

    name = "push_apns"
    requires = ("push",)
    Settings = Settings
    #: See `Provider` of the plugin push.
    provider = "apns"

    def __init__(self) -> None:
        self._client: HttpClient | None = None
        self._token: ProviderToken | None = None
        self._ctx: AppContext | None = None

    async def on_start(self, ctx: AppContext) -> None:
        """Check what is configured, and announce the provider."""
        settings: Settings = ctx.settings
        missing = [name for name in ("team_id", "key_id", "key_file", "topics") if not getattr(settings, name)]
        if missing:
            raise PluginError(f"plugins.push_apns: {', '.join(missing)} must be set")
        try:
            key = await ctx.run_sync_in_thread(load_key, settings.key_file)
        except ValueError as exc:
            raise PluginError(f"plugins.push_apns: {exc}") from exc
        self._token = ProviderToken(key, settings.key_id, settings.team_id)
        make = partial(HttpClient.make, self.name, settings.ca_file, _CONNECTIONS, http2=True)
        self._client = await ctx.run_sync_in_thread(make)
        self._ctx = ctx
        ctx.emit("push.provider", provider=self)

    async def on_stop(self, ctx: AppContext) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def check_token(self, token: str, app: str) -> str:
        """See `Provider.check_token` of the plugin push. Hex digits in capitals are the same device."""
        assert self._ctx is not None
        if not _TOKEN.fullmatch(token):
            raise InvalidBody("the device token of APNs is 64 hex digits or more", field="token")
        if app and app not in self._ctx.settings.topics:
            raise InvalidBody("this server pushes to no app of this bundle id", field="app")
        return token.lower()

    async def send(self, push: Push) -> None:
        """Hand one push to Apple. See `Provider.send` of the plugin push."""
        assert self._client is not None
        assert self._ctx is not None
        assert self._token is not None
        settings: Settings = self._ctx.settings
        token = self._token.get(self._ctx.clock.now_ms())
        headers = {
            "authorization": f"bearer {token}",
            "apns-topic": push.app or settings.topics[0],
            "apns-push-type": "alert",
            "apns-priority": "10",
            "apns-collapse-id": push.collapse_id,
            "apns-expiration": str(push.expires_at // 1000),
            "content-type": "application/json",
        }
        answer = await self._client.post(f"{settings.url}/3/device/{push.token}", headers, payload_of(push, settings.sound))
        if answer.status == 200:
            return
        reason = reason_of(answer)
        if reason == _STALE:
            self._token.refused(token, self._ctx.clock.now_ms())
        raise refusal_of(answer, reason)


def payload_of(push: Push, sound: str) -> bytes:
    """The JSON of a push: an alert, and what the app needs to open the conversation."""
    aps: dict[str, Any] = {
        "alert": {"title": push.title, "body": push.text},
        "badge": push.badge,
        "thread-id": push.conversation_id,
        "mutable-content": 1,  # an app may put a group's name in, or fetch the message, before it is shown
    }
    if sound:
        aps["sound"] = sound
    im = {
        "conversation_id": push.conversation_id,
        "seq": push.seq,
        "message_id": push.message_id,
        "from": push.sender,
        "type": push.type,
        "unread": push.unread,
    }
    return msgspec.json.encode({"aps": aps, "im": im})


class _Reason(msgspec.Struct):
    reason: str = ""


def reason_of(answer: HttpAnswer) -> str:
    """What Apple calls the refusal; "" where it says nothing."""
    try:
        return msgspec.json.decode(answer.body, type=_Reason).reason
    except msgspec.DecodeError:
        return ""


def refusal_of(answer: HttpAnswer, reason: str) -> ImError:
    """What an answer other than 200 means, as the plugin push wants to know it."""
    said = f"APNs answered HTTP {answer.status} {reason}".rstrip()
    if answer.status == 410 and reason in _GONE:
        return NotFound(said)
    if answer.status == 429 and reason != _TOO_MANY_TOKENS:
        return RateLimited(said, retry_after_ms=answer.retry_after_ms)
    if (answer.status in _OF_THE_PUSH and reason != _IDLE) or answer.status == 410:
        return InvalidBody(said)
    return Unavailable(said, retry_after_ms=answer.retry_after_ms or 0)
