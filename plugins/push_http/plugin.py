"""The plugin: what it posts, and what the answers mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from attrs import frozen

from imserver.plugin import (
    HttpAnswer,
    HttpClient,
    InvalidBody,
    Meta,
    NotFound,
    Plugin,
    PluginError,
    RateLimited,
    Unavailable,
)
from imserver_plugins.push_http.signing import read_keys, signed_headers

if TYPE_CHECKING:
    from imserver.plugin import AppContext
    from imserver_plugins.push.seam import Push

#: Answers by which a gateway refuses what is in the post; all others refuse its way, or the moment.
_REFUSALS: Final = frozenset({400, 405, 406, 409, 411, 412, 413, 414, 415, 416, 422, 431, 451})
_GONE: Final = 410
_TOO_MANY: Final = 429


@frozen
class Settings:
    """`[plugins.push_http]`

    url: where the pushes are posted to; "http://" is for a gateway on the same machine or network.
    secret, secret_file: what the posts are signed with; a file may have several keys, one a line.
    ca_file: certificates to trust beside the system's, PEM.
    connections: to the gateway at once at most.
    """

    url: Annotated[str, Meta(pattern=r"\A(https?://[^\s]+)?\Z", max_length=2048)] = ""
    secret: str = ""
    secret_file: Path | None = None
    ca_file: Path | None = None
    connections: Annotated[int, Meta(ge=1, le=500)] = 16


class PushHttpPlugin(Plugin):
    """Offline push by a gateway of one's own."""

    name = "push_http"
    requires = ("push",)
    Settings = Settings
    #: See `Provider` of the plugin push.
    provider = "http"

    def __init__(self) -> None:
        self._client: HttpClient | None = None
        self._keys: tuple[bytes, ...] = ()
        self._ctx: AppContext | None = None

    async def on_start(self, ctx: AppContext) -> None:
        """Check what is configured, and announce the provider."""
        settings: Settings = ctx.settings
        if not settings.url:
            raise PluginError("plugins.push_http.url is missing: the URL that pushes are posted to")
        try:
            self._keys = await ctx.run_sync_in_thread(read_keys, settings.secret, settings.secret_file)
        except ValueError as exc:
            raise PluginError(f"plugins.push_http: {exc}") from exc
        self._client = await ctx.run_sync_in_thread(HttpClient.make, self.name, settings.ca_file, settings.connections)
        self._ctx = ctx
        ctx.emit("push.provider", provider=self)

    async def on_stop(self, ctx: AppContext) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def check_token(self, token: str, app: str) -> None:
        """Any is good: the gateway knows what it means."""

    async def send(self, push: Push) -> None:
        """Post one push. See `Provider.send` of the plugin push."""
        assert self._client is not None
        assert self._ctx is not None
        body = body_of(push, self._ctx.config.server.name)
        headers = {"Content-Type": "application/json", "User-Agent": "imserver-push"}
        headers |= signed_headers(self._keys, body, self._ctx.clock.now_ms())
        judge(await self._client.post(self._ctx.settings.url, headers, body))


def body_of(push: Push, server: str) -> bytes:
    """The JSON of a post."""
    fields: dict[str, Any] = {
        "server": server,
        "user_id": push.user_id,
        "token": push.token,
        "app": push.app,
        "title": push.title,
        "text": push.text,
        "badge": push.badge,
        "unread": push.unread,
        "conversation_id": push.conversation_id,
        "seq": push.seq,
        "message_id": push.message_id,
        "from": push.sender,
        "type": push.type,
        "sent_at": push.sent_at,
        "collapse_id": push.collapse_id,
        "expires_at": push.expires_at,
    }
    return msgspec.json.encode(fields)


def judge(answer: HttpAnswer) -> None:
    """Raise what an answer means; 2xx: nothing."""
    if 200 <= answer.status < 300:
        return
    said = f"the gateway answered HTTP {answer.status}"
    if answer.status == _GONE:
        raise NotFound(said)
    if answer.status == _TOO_MANY:
        raise RateLimited(said, retry_after_ms=answer.retry_after_ms)
    if answer.status in _REFUSALS:
        raise InvalidBody(said)
    raise Unavailable(said, retry_after_ms=answer.retry_after_ms or 0)
