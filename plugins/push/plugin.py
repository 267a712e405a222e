"""PUSH_ACK, NOTIFY and the tokens of devices; the feed of devices that ask for what they missed; and offline push."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from imserver.plugin import (
    AppContext,
    Context,
    InvalidBody,
    NotLoaded,
    PermissionDenied,
    Plugin,
    StorageError,
    TooLarge,
    command,
    load_all,
    on_event,
    role,
)
from imserver_plugins.push import notices, store, tokens
from imserver_plugins.push.feed import Feed
from imserver_plugins.push.notices import NOTIFY, Notification
from imserver_plugins.push.offline import Follower
from imserver_plugins.push.requests import MAX_ACKS, Notify, PushAck, RemovePushToken, SetPushToken
from imserver_plugins.push.sending import Lane
from imserver_plugins.push.settings import Settings

if TYPE_CHECKING:
    from imserver_plugins.push.seam import Provider

#: Confirmations without a `rid` are gathered this long before they are written; a crash repeats those frames.
_GATHER_S = 1.0
#: How often the log says how offline push does, if there is anything new.
_FIGURES_EVERY_S = 60.0


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
    """What a device has confirmed, what it gets for it, and pushes to devices that are away."""

    name = "push"
    requires = ("message",)
    Settings = Settings
    migrations: ClassVar[Sequence[str]] = store.MIGRATIONS

    def __init__(self) -> None:
        self._app: AppContext | None = None
        self._lanes: dict[str, Lane] = {}
        self._providers: dict[str, Provider] = {}
        self._follower: Follower | None = None

    async def on_start(self, ctx: AppContext) -> None:
        """Begin to look for what to push. Without a provider nothing is looked at."""
        self._app = ctx
        self._follower = Follower(ctx, self._confirmed, lambda: list(self._providers), self._ring)
        await self._follower.start()
        ctx.start_soon(self._follower.run)
        ctx.start_soon(self._tell_figures, ctx)

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

    # ------------------------------------------------------------ confirmations

    @command(5002, request=PushAck)
    def push_ack(self, ctx: Context, request: PushAck) -> dict[str, Any]:
        """Confirm messages, cumulatively by conversation; never backwards, never beyond what exists."""
        if request.conversation_id is not None and request.seq is not None:
            acks: Collection[tuple[str, int]] = ((request.conversation_id, request.seq),)
        elif request.acks is not None:
            if len(request.acks) > MAX_ACKS:
                raise TooLarge(f"at most {MAX_ACKS} conversations in one PUSH_ACK", field="acks")
            acks = request.acks.items()
        else:
            missing = "seq" if request.conversation_id is not None else "conversation_id"
            raise InvalidBody("give conversation_id and seq, or acks", field=missing)
        confirmed = []
        wanted: list[NotLoaded] = []
        for conversation_id, seq in acks:
            try:
                conversation = ctx.conversations.require(conversation_id)
            except NotLoaded as exc:
                wanted.append(exc)
                continue
            if conversation is not None and ctx.session.user_id in conversation.members:
                confirmed.append((conversation, min(seq, conversation.last_seq)))
        if wanted:  # all at once: a handler may ask a few times only
            raise NotLoaded(lambda: load_all(wanted), tuple(exc.key for exc in wanted))
        if not confirmed and acks:
            # Of several one may have been left meanwhile: the others are confirmed all the same.
            raise PermissionDenied("you are not part of this conversation")
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
            ctx.conversations.confirm(ctx.session, list(state.unwritten.items()), is_first=not state.has_written)
            # Behind the write: another thread that finds nothing here finds it in the journal.
            state.unwritten = {}
            state.has_written = True

    def _confirmed(self, user_id: str, number: int) -> int:
        """What a user's live devices have confirmed of a conversation and is not on its way to the disk yet."""
        assert self._app is not None
        states = [session.data.get(self.name) for session in self._app.directory.sessions(user_id)]
        return max((state.unwritten.get(number, 0) for state in states if state is not None), default=0)

    # ------------------------------------------------------------ word from the owner

    @command(5009, request=Notify, name="NOTIFY", allow=role("admin"))
    def notify_command(self, ctx: Context, request: Notify) -> dict[str, Any]:
        """Push something to the live devices of users, of a group, or of all."""
        return notices.notify(ctx, request)

    @on_event("notify")
    def notify(self, ctx: AppContext, *, user_ids: Iterable[str], topic: str, body: Any) -> None:
        """`ctx.emit("notify", user_ids=…, topic=…, body=…)`: NOTIFY for these users' live devices."""
        ctx.push(user_ids, NOTIFY, Notification(topic, body))

    # ------------------------------------------------------------ devices

    @command(5010, request=SetPushToken)
    def set_push_token(self, ctx: Context, request: SetPushToken) -> dict[str, Any]:
        """Let this device be pushed to while it is away."""
        return tokens.set_token(ctx, request, self._providers)

    @command(5011, request=RemovePushToken)
    def remove_push_token(self, ctx: Context, request: RemovePushToken) -> dict[str, Any]:
        """Push to this device, or to one of the user's, no more."""
        return tokens.remove_token(ctx, request, self._providers)

    @on_event("session.ended")
    def session_ended(self, ctx: AppContext, *, user_id: str, session_ids: AbstractSet[str] | None) -> None:
        """Devices that were logged out are pushed to no more; None: all of the user's."""
        ended = [] if session_ids is None else [s for s in ctx.directory.sessions(user_id) if s.session_id in session_ids]
        devices = {session.device_id for session in ended if session.has_own_device}
        statements = store.end_sessions(user_id, session_ids, devices)
        if statements:
            ctx.db.write_all(statements)

    @on_event("user.disabled")
    def user_disabled(self, ctx: AppContext, *, user_id: str) -> None:
        """None of the user's devices is pushed to any more."""
        ctx.db.write_all(store.end_sessions(user_id, None))

    # ------------------------------------------------------------ providers

    @on_event("push.provider")
    def provider_is_there(self, ctx: AppContext, *, provider: Provider) -> None:
        """A plugin can push from now on; see `imserver_plugins.push.seam`. One that was reloaded takes its old place."""
        name = provider.provider
        self._providers[name] = provider
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(ctx, provider, self._confirmed)
            ctx.start_soon(lane.run)
        lane.provider = provider

    def _ring(self, providers: set[str]) -> None:
        for name in providers & self._lanes.keys():
            self._lanes[name].ring()

    async def _tell_figures(self, ctx: AppContext) -> None:
        told: dict[str, dict[str, int]] = {}
        await trio.sleep(_FIGURES_EVERY_S)
        await self._drop_what_nobody_pushes(ctx)
        while True:
            for name, lane in self._lanes.items():
                figures = lane.counts.as_dict()
                if figures != told.get(name):
                    told[name] = figures
                    ctx.log.info("push_figures", provider=name, **figures)
            await trio.sleep(_FIGURES_EVERY_S)

    async def _drop_what_nobody_pushes(self, ctx: AppContext) -> None:
        """Pushes that wait for a provider that is not enabled any more; there come no new ones."""
        before_ms = ctx.clock.now_ms() - round(ctx.settings.give_up_after_s * 1000)
        try:
            await ctx.db.write_all([store.drop_of_others(list(self._providers), before_ms)])
        except StorageError as exc:
            ctx.log.warning("push_storage_failed", error=str(exc))
