"""PUSH_ACK and NOTIFY, and the feed of devices that ask for what they missed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import trio
from attrs import frozen

from imserver.plugin import (
    AppContext,
    Context,
    ConversationId,
    InvalidBody,
    Meta,
    PermissionDenied,
    Plugin,
    Struct,
    TooLarge,
    command,
    on_event,
)
from imserver_plugins.push.feed import Feed

NOTIFY = 5009
MAX_ACKS = 500

#: Confirmations without a `rid` are gathered this long before they are written; a crash repeats those frames.
_GATHER_S = 1.0

Seq = Annotated[int, Meta(ge=0, le=2**62)]


class PushAck(Struct, kw_only=True):
    """5002: one conversation, or several."""

    conversation_id: ConversationId | None = None
    seq: Seq | None = None
    acks: dict[ConversationId, Seq] | None = None


@frozen
class Notification:
    """5009"""

    topic: str
    body: Any


class _DeviceState:
    """What the plugin keeps at a session."""

    __slots__ = ("feed", "has_written", "is_flush_due", "unwritten")

    def __init__(self) -> None:
        self.feed: Feed | None = None
        #: conversation number -> confirmed seq, not yet on the way to the disk
        self.unwritten: dict[int, int] = {}
        self.is_flush_due = False
        self.has_written = False


class PushPlugin(Plugin):
    """What a device has confirmed, and what it gets for it."""

    name = "push"
    requires = ("message",)

    def _state(self, ctx: Context) -> _DeviceState:
        state = ctx.session.data.get(self.name)
        if state is None:
            state = ctx.session.data[self.name] = _DeviceState()
        return state

    def on_login(self, ctx: Context) -> None:
        """A device that asked for it first gets what it missed."""
        if ctx.session.deliver == "missed":
            feed = self._state(ctx).feed = Feed(ctx)
            ctx.start_soon(feed.run)

    def on_disconnect(self, ctx: Context) -> None:
        """What it confirmed last is written now."""
        if ctx.session.user_id is not None:
            self._flush(ctx)

    @command(5002, request=PushAck)
    def push_ack(self, ctx: Context, request: PushAck) -> dict[str, Any]:
        """Confirm messages, cumulatively by conversation; never backwards, never beyond what exists."""
        if request.conversation_id is not None and request.seq is not None:
            acks: Iterable[tuple[str, int]] = ((request.conversation_id, request.seq),)
        elif request.acks is not None:
            if len(request.acks) > MAX_ACKS:
                raise TooLarge(f"at most {MAX_ACKS} conversations in one PUSH_ACK", field="acks")
            acks = request.acks.items()
        else:
            missing = "seq" if request.conversation_id is not None else "conversation_id"
            raise InvalidBody("give conversation_id and seq, or acks", field=missing)
        confirmed = []
        for conversation_id, seq in acks:
            conversation = ctx.conversations.require(conversation_id)
            if conversation is None or ctx.session.user_id not in conversation.members:
                raise PermissionDenied("you are not part of this conversation")
            confirmed.append((conversation, min(seq, conversation.last_seq)))
        state = self._state(ctx)
        for conversation, seq in confirmed:
            if state.feed is not None:
                state.feed.confirm(conversation.conversation_id, seq)
            if conversation.number is not None and seq > state.unwritten.get(conversation.number, 0):
                state.unwritten[conversation.number] = seq
        if request.rid or not ctx.session.is_live:  # type: ignore[attr-defined]
            self._flush(ctx)
        elif not state.is_flush_due:
            state.is_flush_due = True
            ctx.start_soon(self._flush_later, ctx)
        return {}

    async def _flush_later(self, ctx: Context) -> None:
        await trio.sleep(_GATHER_S)
        self._state(ctx).is_flush_due = False
        self._flush(ctx)

    def _flush(self, ctx: Context) -> None:
        state = self._state(ctx)
        if state.unwritten and ctx.session.user_id is not None:
            rows = list(state.unwritten.items())
            state.unwritten = {}
            ctx.conversations.confirm(ctx.session, rows, is_first=not state.has_written)
            state.has_written = True

    @on_event("notify")
    def notify(self, ctx: AppContext, *, user_ids: Iterable[str], topic: str, body: Any) -> None:
        """`ctx.emit("notify", user_ids=…, topic=…, body=…)`: NOTIFY for these users' live devices."""
        ctx.push(user_ids, NOTIFY, Notification(topic, body))
