"""Incoming webhooks: whoever knows the URL posts into one conversation, as its bot."""

from __future__ import annotations

import hmac
import math
import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from imserver.plugin import (
    Draft,
    InvalidBody,
    Meta,
    NotFound,
    PermissionDenied,
    RateLimited,
    Struct,
    TooLarge,
    auth,
    check_body,
    invalid_body,
    parties_of,
)
from imserver_plugins.bot import store

if TYPE_CHECKING:
    from starlette.requests import Request

    from imserver.plugin import AppContext, Context, Conversation, Stored
    from imserver_plugins.bot.settings import Settings

MESSAGE: Final = 5001
#: URLs that lead nowhere, of one address.
_MISSES_PER_MINUTE: Final = 60
_MAX_CLIENT_ID_BYTES: Final = 64
#: What no post may be: the server's own messages, and what `before_send` hooks see of somebody who types or reacts.
_NO_TYPES: Final = frozenset({"system", "typing", "reaction"})


class Post(Struct):
    """What may be posted: a text, or a type and its body."""

    text: str | None = None
    type: Annotated[str, Meta(min_length=1, max_length=32)] = "text"
    body: Any = None
    client_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


_decode = msgspec.json.Decoder(Post).decode


class Entrance:
    """Where the posts come in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._misses = auth.Gcra(_MISSES_PER_MINUTE, 60.0)
        self._posts = auth.Gcra(settings.posts_per_minute, 60.0)

    async def post(self, ctx: Context, request: Request) -> dict[str, Any]:
        """Carry out `POST /v1/hooks/{hook_id}/{secret}`.

        Raises:
            NotFound: no such hook, or another secret; never says which.
            RateLimited: too many.
            ImError: the message is refused.
        """
        hook_id, secret = request.path_params["hook_id"], request.path_params["secret"]
        hook = await ctx.db.read_transaction(lambda read: store.hook(read, hook_id))
        if hook is None or not hmac.compare_digest(hook.secret_hash, store.hash_of(secret)):
            self._miss(ctx)
            raise NotFound("there is no such webhook, or no longer")
        wait_s = self._posts.take(hook_id, ctx.clock.monotonic())
        if wait_s > 0:
            raise RateLimited("too many posts to this webhook", retry_after_ms=math.ceil(wait_s * 1000))
        post = await self._read(request)
        draft = _draft(hook, post, request.headers.get("idempotency-key"))
        stored = await ctx.conversations.transact(lambda inner: append(inner, draft, is_begun=False))
        answer = {"conversation_id": stored.conversation_id, "seq": stored.seq, "message_id": stored.message_id}
        return answer if stored.message is not None else {**answer, "duplicate": True}

    def _miss(self, ctx: Context) -> None:
        wait_s = self._misses.take(auth.address_key(ctx.session.address), ctx.clock.monotonic())
        if wait_s > 0:
            raise RateLimited("too many wrong webhooks from this address", retry_after_ms=math.ceil(wait_s * 1000))

    async def _read(self, request: Request) -> Post:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self._settings.post_bytes:
                raise TooLarge(f"a post has {self._settings.post_bytes} bytes at most")
        try:
            return _decode(body)
        except msgspec.ValidationError as exc:
            raise invalid_body(exc) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise InvalidBody(f"the body is no JSON: {exc}") from exc


def _draft(hook: store.Hook, post: Post, idempotency_key: str | None) -> Draft:
    client_id = post.client_id or idempotency_key or f"hook-{secrets.token_hex(12)}"
    if len(client_id.encode()) > _MAX_CLIENT_ID_BYTES:
        raise InvalidBody(f"client_id has over {_MAX_CLIENT_ID_BYTES} bytes", field="client_id")
    body = post.text if post.text is not None else post.body
    kind = "text" if post.text is not None else post.type
    if kind in _NO_TYPES:
        raise InvalidBody(f"{kind} is no type of a message that can be posted", field="type")
    if kind == "text" and not (isinstance(body, str) and body):
        raise InvalidBody("give `text`, or `type` and `body`", field="text")
    check_body(body)
    return Draft(hook.conversation_id, hook.user_id, client_id, kind, body)


def append(ctx: AppContext, draft: Draft, *, is_begun: bool) -> Stored:
    """Store a bot's message and push it; for `transact` and `def` handlers.

    Args:
        is_begun: the conversation must be there; else a direct one begins.
    """
    conversation: Conversation | None = ctx.conversations.require(draft.conversation_id)
    if conversation is None and not is_begun and draft.conversation_id.startswith("d:"):
        conversation = ctx.conversations.open_direct(draft.conversation_id, parties_of(draft.conversation_id))
    if conversation is None:
        raise NotFound("there is no such conversation", field="conversation_id")
    if draft.sender not in conversation.members:
        raise PermissionDenied("the sender is not part of this conversation")
    stored = ctx.messages.append(conversation, draft)
    if stored.message is not None:
        ctx.push(conversation.recipients, MESSAGE, stored.message)
    return stored
