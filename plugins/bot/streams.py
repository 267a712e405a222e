"""Messages that grow: begun, added to, and stored once when they are whole.

While one grows it is in memory alone: members who are online see it by pushes, everybody else finds the whole one. What
was added and not ended is stored as it is when nothing more comes; a crash of the server loses what was not ended.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Awaitable
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
    #: It is being stored, or was: nothing is added any more.
    is_ended: bool = False
    #: What END has answered, once that is durable; kept for a client that asks again.
    answer: dict[str, Any] | None = None

    def reopen(self) -> None:
        """It could not be stored."""
        self.is_ended = self.answer is not None

    def settle(self, answer: dict[str, Any]) -> None:
        """It is stored: its text is not needed any more."""
        self.answer = answer
        self.parts = []


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
            unsettled = [other for other in self._streams.values() if other.answer is None]
            growing = [other for other in unsettled if not other.is_ended]
            own = sum(other.sender == sender for other in growing)
            most = self._settings.streams
            # While the disk is slow those that are ended are in memory still: there may be as many of them again.
            if own >= self._settings.streams_per_user or len(growing) >= most or len(unsettled) >= 2 * most:
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
        # Who was muted or blocked since it began adds nothing: the hooks see what they see of somebody who types.
        ctx.messages.check(Draft(stream.conversation_id, stream.sender, "typing", "typing", None))
        with self._lock:
            if stream.is_ended:
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
        # Asked again before it is durable, or after that has failed, it is stored again: its client_id lets it be once.
        answer, is_new = _store(ctx, stream)
        durable = ctx.db.write("SELECT 1")  # of the same commit: whether that succeeds is seen here
        with self._lock:
            stream.is_ended, stream.touched_s = True, ctx.clock.monotonic()
        ctx.start_soon(self._settle, ctx, stream, answer, durable)
        return answer if is_new else {**answer, "duplicate": True}

    async def _settle(self, ctx: Context, stream: _Stream, answer: dict[str, Any], durable: Awaitable[object]) -> None:
        """Behind END: what it has answered counts when it is durable."""
        try:
            await durable
        except StorageError as exc:
            # Whoever waits for the answer hears of it, and asks again.
            ctx.log.warning("bot_stream_kept", error=str(exc))
            with self._lock:
                stream.reopen()
            return
        with self._lock:
            stream.settle(answer)
            self._forget_ended()

    def _forget_ended(self) -> None:
        """Of those that are stored, as many are remembered as may grow: the oldest go. Hold the lock."""
        ended = [key for key, stream in self._streams.items() if stream.answer is not None]
        for key in ended[: max(0, len(ended) - self._settings.streams)]:
            del self._streams[key]

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
        with self._lock:
            left = [(key, stream) for key, stream in self._streams.items() if is_all or self._is_left(ctx, stream)]
        for stream_id, stream in left:
            try:
                is_over = await self._finish(ctx, stream, is_all=is_all)
            except (StorageError, ImError) as exc:
                # Until the disk takes it, or whoever is asked about messages answers.
                ctx.log.warning("bot_stream_kept", error=str(exc))
                with self._lock:
                    stream.reopen()
                continue
            if is_over:
                with self._lock:
                    self._streams.pop(stream_id, None)

    def _is_left(self, ctx: AppContext, stream: _Stream) -> bool:
        return stream.touched_s <= ctx.clock.monotonic() - self._settings.stream_idle_s

    async def _finish(self, ctx: AppContext, stream: _Stream, *, is_all: bool) -> bool:
        """Store what there is; where there is nothing, or it is refused, who saw it grow is told that it is none.

        Returns whether it is over: False if something was added meanwhile.

        Raises:
            ImError, StorageError: not now.
        """
        if stream.answer is not None:
            return True
        with self._lock:
            if not (is_all or self._is_left(ctx, stream)):
                return False
            stream.is_ended = True  # what is added from here on would be in no message
        if stream.parts:
            try:
                await ctx.conversations.transact(partial(_store, stream=stream))
                return True
            except Unavailable:
                raise
            except ImError as exc:
                ctx.log.info("bot_stream_refused", error=exc.error, sender=stream.sender)
        await ctx.conversations.transact(partial(_abort, stream=stream))
        return True


def _store(ctx: AppContext, stream: _Stream) -> tuple[dict[str, Any], bool]:
    """Store the whole: what END answers, and whether it is new."""
    text = "".join(stream.parts)  # before the look whether it is stored already: then they are gone
    if stream.answer is not None:
        return stream.answer, False
    draft = Draft(stream.conversation_id, stream.sender, stream.client_id, "text", text)
    stored = append(ctx, draft, is_begun=True)
    answer = {
        "conversation_id": stored.conversation_id,
        "seq": stored.seq,
        "message_id": stored.message_id,
        "sent_at": stored.sent_at,
    }
    return answer, stored.message is not None


def _abort(ctx: AppContext, stream: _Stream) -> None:
    conversation = ctx.conversations.require(stream.conversation_id)
    if conversation is not None and stream.answer is None:
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
