"""Messages that grow: begun, added to, and stored once when they are whole.

While one grows it is in memory alone: members who are online see it by pushes, everybody else finds the whole one. What
was added and not ended is stored as it is when nothing more comes; a crash of the server loses what was not ended.
"""

from __future__ import annotations

import secrets
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import trio
from attrs import define, field

from imserver.plugin import (
    ClientId,
    Conflict,
    ConversationId,
    Draft,
    ImError,
    Meta,
    NotFound,
    PermissionDenied,
    StorageError,
    Struct,
    TooLarge,
    Unavailable,
)
from imserver_plugins.bot.hooks import append

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Conversation
    from imserver_plugins.bot.settings import Settings

MESSAGE, CHANGED = 5001, 5003
_SWEEP_S: Final = 1.0

StreamId = Annotated[str, Meta(min_length=1, max_length=64)]


class Begin(Struct, kw_only=True):
    """2021"""

    conversation_id: ConversationId
    client_id: ClientId


class Append(Struct, kw_only=True):
    """2022"""

    stream_id: StreamId
    text: Annotated[str, Meta(min_length=1)]


class End(Struct, kw_only=True):
    """2023"""

    stream_id: StreamId


@define
class _Stream:
    sender: str
    conversation_id: str
    client_id: str
    message_id: str
    touched_s: float
    parts: list[str] = field(factory=list)
    bytes: int = 0
    #: What END has answered; kept for a client that asks again.
    answer: dict[str, Any] | None = None


class Streams:
    """The messages that grow, of all shards."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}

    def begin(self, ctx: Context, request: Begin) -> dict[str, Any]:
        """Announce a message that will grow."""
        sender = _user_of(ctx)
        conversation = _conversation(ctx, request.conversation_id, sender)
        fleeting = ctx.messages.fleeting(Draft(conversation.conversation_id, sender, request.client_id, "text", ""))
        stream_id = secrets.token_hex(16)
        stream = _Stream(
            sender, conversation.conversation_id, request.client_id, fleeting["message_id"], ctx.clock.monotonic()
        )
        with self._lock:
            own = sum(other.sender == sender and other.answer is None for other in self._streams.values())
            if own >= self._settings.streams_per_user or len(self._streams) >= self._settings.streams:
                raise TooLarge("too many messages grow at once; end one first", error="too_many_streams")
            self._streams[stream_id] = stream
        ctx.push(conversation.recipients, MESSAGE, {**fleeting, "streaming": True}, except_session=ctx.session)
        return {"stream_id": stream_id, "message_id": stream.message_id}

    def append(self, ctx: Context, request: Append) -> dict[str, Any]:
        """Add a chunk; members who are online see it at once."""
        size = len(request.text.encode())
        if size > self._settings.chunk_bytes:
            raise TooLarge(f"a chunk has {self._settings.chunk_bytes} bytes at most", field="text")
        stream = self._own(ctx, request.stream_id)
        conversation = _conversation(ctx, stream.conversation_id, stream.sender)
        with self._lock:
            if stream.answer is not None:
                raise Conflict("this message is ended", field="stream_id")
            if stream.bytes + size > self._settings.stream_bytes:
                raise TooLarge(f"a message may grow to {self._settings.stream_bytes} bytes; end it", field="text")
            offset = sum(map(len, stream.parts))
            stream.parts = [*stream.parts, request.text] if len(stream.parts) < 64 else ["".join(stream.parts), request.text]
            stream.bytes += size
            stream.touched_s = ctx.clock.monotonic()
        ctx.push(
            conversation.recipients,
            CHANGED,
            {**_named(stream), "change": "appended", "offset": offset, "text": request.text},
            except_session=ctx.session,
        )
        return {"length": offset + len(request.text)}

    def end(self, ctx: Context, request: End) -> dict[str, Any]:
        """Store the message; it has a `seq` from now on."""
        stream = self._own(ctx, request.stream_id)
        if stream.answer is not None:
            return {**stream.answer, "duplicate": True}
        answer = _store(ctx, stream)
        with self._lock:
            stream.answer, stream.touched_s = answer, ctx.clock.monotonic()
        return answer

    def _own(self, ctx: Context, stream_id: str) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender != ctx.session.user_id:
            raise NotFound("you have no message with this stream_id that grows", field="stream_id")
        return stream

    # ------------------------------------------------------------ those that were left

    async def run(self, ctx: AppContext) -> None:
        """The background task: store what nobody adds to any more."""
        while True:
            await trio.sleep(_SWEEP_S)
            await self.sweep(ctx)

    async def sweep(self, ctx: AppContext, *, is_all: bool = False) -> None:
        """Store the messages that were left; `is_all`: every one, for the stop."""
        oldest_s = ctx.clock.monotonic() - self._settings.stream_idle_s
        with self._lock:
            left = [key for key, stream in self._streams.items() if is_all or stream.touched_s <= oldest_s]
        for stream_id in left:
            try:
                await self._finish(ctx, self._streams[stream_id])
            except (StorageError, Unavailable) as exc:
                ctx.log.warning("bot_stream_kept", error=str(exc))
                continue  # until the disk takes it, or whoever is asked about messages answers
            with self._lock:
                del self._streams[stream_id]

    async def _finish(self, ctx: AppContext, stream: _Stream) -> None:
        """Store what there is; where there is nothing, or it is refused, who saw it grow is told that it is none."""
        if stream.answer is not None:
            return
        if stream.parts:
            try:
                await ctx.conversations.transact(partial(_store, stream=stream))
                return
            except Unavailable:
                raise
            except ImError as exc:
                ctx.log.info("bot_stream_refused", error=exc.error, sender=stream.sender)
        await ctx.conversations.transact(partial(_abort, stream=stream))


def _store(ctx: AppContext, stream: _Stream) -> dict[str, Any]:
    text = "".join(stream.parts)
    draft = Draft(stream.conversation_id, stream.sender, stream.client_id, "text", text)
    stored = append(ctx, draft, is_begun=True)
    return {
        "conversation_id": stored.conversation_id,
        "seq": stored.seq,
        "message_id": stored.message_id,
        "sent_at": stored.sent_at,
    }


def _abort(ctx: AppContext, stream: _Stream) -> None:
    conversation = ctx.conversations.require(stream.conversation_id)
    if conversation is not None:
        ctx.push(conversation.recipients, CHANGED, {**_named(stream), "change": "aborted"})


def _named(stream: _Stream) -> dict[str, Any]:
    return {
        "conversation_id": stream.conversation_id,
        "message_id": stream.message_id,
        "client_id": stream.client_id,
        "from": stream.sender,
    }


def _conversation(ctx: AppContext, conversation_id: str, sender: str) -> Conversation:
    conversation = ctx.conversations.require(conversation_id)
    if conversation is None:
        raise NotFound("there is no such conversation, or nothing was said in it yet", field="conversation_id")
    if sender not in conversation.members:
        raise PermissionDenied("you are not part of this conversation")
    return conversation


def _user_of(ctx: Context) -> str:
    user_id = ctx.session.user_id
    assert user_id is not None  # the router lets nobody else in
    return user_id
