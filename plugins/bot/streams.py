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
from imserver_plugins.bot import bots
from imserver_plugins.bot.growing import Growing
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
    #: Characters before it: the `length` of the answer before. With it a chunk may be sent again.
    offset: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class End(Struct, kw_only=True):
    """2023"""

    stream_id: StreamId


class Streams:
    """The messages that grow, of all shards."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._streams: dict[str, Growing] = {}

    def begin(self, ctx: Context, request: Begin) -> dict[str, Any]:
        """Announce a message that will grow. The same again is answered with the one that there is."""
        sender = _user_of(ctx)
        bots.require(ctx, sender)
        conversation = _conversation(ctx, request.conversation_id, sender)
        conversation_id = conversation.conversation_id
        fleeting = ctx.messages.fleeting(Draft(conversation_id, sender, request.client_id, "text", ""))
        stream_id = secrets.token_hex(16)
        now_s = ctx.clock.monotonic()
        stream = Growing(sender, conversation_id, request.client_id, fleeting["message_id"], now_s)
        with self._lock:
            known = self._find(stream)
            if known is not None:
                self._streams[known].touched_s = now_s
                return {"stream_id": known, "message_id": self._streams[known].message_id, "duplicate": True}
            self._make_sure_of_room(sender)
            self._streams[stream_id] = stream
        ctx.push(conversation.recipients, MESSAGE, {**fleeting, "streaming": True}, except_session=ctx.session)
        return {"stream_id": stream_id, "message_id": stream.message_id}

    def _find(self, new: Growing) -> str | None:
        """The id of the one that was begun by the same request before. Hold the lock."""
        for stream_id, other in self._streams.items():
            if (other.client_id, other.sender, other.conversation_id) == (new.client_id, new.sender, new.conversation_id):
                return stream_id
        return None

    def _make_sure_of_room(self, sender: str) -> None:
        """Hold the lock.

        Raises:
            TooLarge: as many grow as may.
        """
        unsettled = [other for other in self._streams.values() if other.answer is None]
        growing = [other for other in unsettled if not other.is_ended]
        own = sum(other.sender == sender for other in growing)
        most = self._settings.streams
        # While the disk is slow those that are ended are in memory still: there may be as many of them again.
        if own >= self._settings.streams_per_user or len(growing) >= most or len(unsettled) >= 2 * most:
            raise TooLarge("too many messages grow at once; end one first", error="too_many_streams")

    def append(self, ctx: Context, request: Append) -> dict[str, Any]:
        """Add a chunk; members who are online see it at once, if the hooks let the text so far pass as it is."""
        if len(request.text.encode()) > self._settings.chunk_bytes:
            raise TooLarge(f"a chunk has {self._settings.chunk_bytes} bytes at most", field="text")
        ctx.conversations.hold()  # what the hooks see is what is added to, whatever other shards do
        stream = self._own(ctx, request.stream_id)
        conversation = _conversation(ctx, stream.conversation_id, stream.sender)
        with self._lock:
            _require_growing(stream)
            so_far, rest = stream.text, stream.rest_of(request.text, request.offset)
            if not rest:
                stream.touched_s = ctx.clock.monotonic()
                return {"length": len(so_far), "duplicate": True}
        if stream.bytes + len(rest.encode()) > self._settings.stream_bytes:
            raise TooLarge(f"a message may grow to {self._settings.stream_bytes} bytes; end it", field="text")
        whole = so_far + rest
        draft = Draft(stream.conversation_id, stream.sender, stream.client_id, "text", whole)
        ctx.messages.check(draft)
        with self._lock:
            _require_growing(stream)
            stream.text = whole
            stream.bytes += len(rest.encode())
            stream.touched_s = ctx.clock.monotonic()
        # What a hook would change is not shown as it is: members get it at the end, or with a chunk that it lets pass.
        if draft.type == "text" and draft.body == whole:
            shown, stream.shown = stream.shown, len(whole)
            chunk = {**stream.names(), "change": "appended", "offset": shown, "text": whole[shown:]}
            ctx.push(conversation.recipients, CHANGED, chunk, except_session=ctx.session)
        return {"length": len(whole)}

    def end(self, ctx: Context, request: End) -> dict[str, Any]:
        """Store the message; it has a `seq` from now on."""
        ctx.conversations.hold()
        stream = self._own(ctx, request.stream_id)
        with self._lock:
            if stream.answer is not None:
                return {**stream.answer, "duplicate": True}
            # Before its text is looked at: a chunk that comes behind that is refused, and not in no message.
            stream.storing += 1
            stream.touched_s = ctx.clock.monotonic()
        try:
            # Asked again before it is durable, or after that has failed, it is stored again: its client_id lets it be once.
            answer, is_new = _store(ctx, stream)
            durable = ctx.db.write("SELECT 1")  # of the same commit: whether that succeeds is seen here
        except BaseException:
            self._reopen(stream)
            raise
        ctx.start_soon(self._settle, ctx, stream, answer, durable)
        return answer if is_new else {**answer, "duplicate": True}

    def _reopen(self, stream: Growing) -> None:
        """It could not be stored."""
        with self._lock:
            stream.storing -= 1

    async def _settle(self, ctx: Context, stream: Growing, answer: dict[str, Any], durable: Awaitable[object]) -> None:
        """Behind END: what it has answered counts when it is durable."""
        try:
            await durable
        except StorageError as exc:
            # Whoever waits for the answer hears of it, and asks again.
            ctx.log.warning("bot_stream_kept", error=str(exc))
            self._reopen(stream)
            return
        with self._lock:
            stream.settle(answer)
            self._forget_ended()

    def _forget_ended(self) -> None:
        """Of those that are stored, as many are remembered as may grow: the oldest go. Hold the lock."""
        ended = [key for key, stream in self._streams.items() if stream.answer is not None]
        for key in ended[: max(0, len(ended) - self._settings.streams)]:
            del self._streams[key]

    def _own(self, ctx: Context, stream_id: str) -> Growing:
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
                continue
            if is_over:
                with self._lock:
                    self._streams.pop(stream_id, None)

    def _is_left(self, ctx: AppContext, stream: Growing) -> bool:
        return stream.touched_s <= ctx.clock.monotonic() - self._settings.stream_idle_s

    async def _finish(self, ctx: AppContext, stream: Growing, *, is_all: bool) -> bool:
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
            stream.storing += 1  # what is added from here on would be in no message
        try:
            if not (stream.text and await self._store_left(ctx, stream)):
                await ctx.conversations.transact(partial(_abort, stream=stream))
        except (StorageError, ImError):
            self._reopen(stream)
            raise
        return True

    async def _store_left(self, ctx: AppContext, stream: Growing) -> bool:
        """Whether it is stored; False: it is refused.

        Raises:
            Unavailable, StorageError: not now.
        """
        try:
            await ctx.conversations.transact(partial(_store, stream=stream))
        except Unavailable:
            raise
        except ImError as exc:
            ctx.log.info("bot_stream_refused", error=exc.error, sender=stream.sender)
            return False
        return True


def _store(ctx: AppContext, stream: Growing) -> tuple[dict[str, Any], bool]:
    """Store the whole: what END answers, and whether it is new."""
    text = stream.text  # before the look whether it is stored already: then it is gone
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


def _abort(ctx: AppContext, stream: Growing) -> None:
    conversation = ctx.conversations.require(stream.conversation_id)
    if conversation is not None and stream.answer is None:
        ctx.push(conversation.recipients, CHANGED, {**stream.names(), "change": "aborted"})


def _require_growing(stream: Growing) -> None:
    if stream.is_ended:
        raise Conflict("this message is ended", field="stream_id")


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
