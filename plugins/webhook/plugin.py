"""The plugin: who is told of what, and the hooks that notice it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from imserver.plugin import Plugin, PluginError, StorageError
from imserver_plugins.webhook import cli, events, store
from imserver_plugins.webhook.client import Client
from imserver_plugins.webhook.delivery import Courier, Lane, Way
from imserver_plugins.webhook.gate import Gate
from imserver_plugins.webhook.guard import Refused, place_of
from imserver_plugins.webhook.settings import Settings
from imserver_plugins.webhook.signing import keys_from

if TYPE_CHECKING:
    import click

    from imserver.plugin import AppContext, Context, Draft
    from imserver_plugins.webhook.settings import BeforeSend, Target

#: The lanes are woken when what a listener has written is durable; they look by themselves, too, if that takes longer.
_DURABLE_S = 5.0
_SAY_AGAIN_S = 60.0
_COUNT_EVERY_S = 10.0


class WebhookPlugin(Plugin):
    """Tells other systems what happens, and asks one before a message is accepted."""

    name = "webhook"
    wants = ("user", "message", "friend", "group", "bot")
    Settings = Settings
    migrations: ClassVar[Sequence[str]] = store.MIGRATIONS
    cli_commands: ClassVar[Sequence[click.Command]] = cli.COMMANDS

    def __init__(self) -> None:
        self._courier: Courier | None = None
        self._gate: Gate | None = None
        self._lock = threading.Lock()
        #: By target, about: what a handler took back is counted until the next look at the table.
        self._waiting: dict[str, int] = {}
        self._dropped = 0
        self._said_at_s = -_SAY_AGAIN_S
        self._wakers: set[trio.lowlevel.TrioToken] = set()

    async def on_start(self, ctx: AppContext) -> None:
        """Check what is configured, and begin to deliver."""
        settings: Settings = ctx.settings
        if not settings.targets and settings.before_send is None:
            return
        client = await _client_of(settings, ctx)
        names = [target.name for target in settings.targets]
        if len(set(names)) != len(names):
            raise PluginError("plugins.webhook.targets: two targets have the same name")
        if settings.before_send is not None:
            keys = await _checked_keys(settings, settings.before_send, "before_send", ctx)
            self._gate = Gate(settings.before_send, keys, client)
        lanes = []
        for target in settings.targets:
            keys = await _checked_keys(settings, target, f"target {target.name}", ctx)
            lanes += await _lanes_of(ctx, Way(target, settings, keys, client, partial(self._settled, target.name)))
        await self._count(ctx)
        self._courier = Courier(lanes)
        for lane in lanes:
            ctx.start_soon(lane.run)
        if lanes:
            ctx.start_soon(self._keep_count, ctx)

    # ------------------------------------------------------------ what happens

    def before_send(self, ctx: AppContext, draft: Draft) -> None:
        """Ask whether a message may be sent, if somebody is to be asked."""
        if self._gate is not None:
            self._gate.check(ctx, draft)

    def after_commit(self, ctx: AppContext, messages: Sequence[Any]) -> None:
        """There is something to deliver; it is found in the table of messages."""
        if self._courier is not None:
            self._courier.ring_soon()

    def on_login(self, ctx: Context) -> None:
        """A device has logged in; if it is the first, the user is online."""
        if not ctx.settings.targets:
            return
        session = ctx.session
        fields = {
            "user_id": session.user_id,
            "session_id": session.session_id,
            "device_id": session.device_id,
            "platform": session.platform,
            "address": session.address,
        }
        self.tell(ctx, events.LOGIN, fields)
        if session.user_id is not None and len(ctx.directory.sessions(session.user_id)) == 1:
            self.tell(ctx, events.ONLINE, {"user_id": session.user_id})

    def on_disconnect(self, ctx: Context) -> None:
        """The user is offline, if this was the last device."""
        user_id = ctx.session.user_id
        if ctx.settings.targets and user_id is not None and not ctx.directory.sessions(user_id):
            self.tell(ctx, events.OFFLINE, {"user_id": user_id})

    message_recalled = events.listener("message.recalled")
    message_edited = events.listener("message.edited")
    message_reacted = events.listener("message.reacted")
    user_created = events.listener("user.created")
    user_disabled = events.listener("user.disabled")
    friend_requested = events.listener("friend.requested")
    friend_added = events.listener("friend.added")
    friend_removed = events.listener("friend.removed")
    friend_blocked = events.listener("friend.blocked")
    group_created = events.listener("group.created")
    group_updated = events.listener("group.updated")
    group_dismissed = events.listener("group.dismissed")
    group_joined = events.listener("group.joined")
    group_left = events.listener("group.left")
    group_removed = events.listener("group.removed")
    group_role = events.listener("group.role")
    group_muted = events.listener("group.muted")
    group_join_requested = events.listener("group.join_requested")
    bot_command = events.listener("bot.command")

    def tell(self, ctx: AppContext, event: str, fields: Mapping[str, Any]) -> None:
        """Let an event wait for all targets that want it; in the commit of the handler that runs, if one does."""
        # Not what `on_start` has made: another plugin's first event may come before it.
        wanting = [target.name for target in ctx.settings.targets if events.is_wanted(event, target.events)]
        names = [name for name in wanting if self._has_room(ctx, name)]
        if not names:
            return
        given = dict(fields)
        waiting = events.waiting_event(event, given, ctx.clock.now_ms(), given.pop("event_id", None))
        ctx.db.write_all([store.put(name, waiting) for name in names])
        self._wake_when_durable(ctx)

    def _wake_when_durable(self, ctx: AppContext) -> None:
        """Once for all that a shard writes in one go."""
        waker = trio.lowlevel.current_trio_token()
        if waker in self._wakers:
            return
        self._wakers.add(waker)

        async def wake() -> None:
            self._wakers.discard(waker)
            with trio.move_on_after(_DURABLE_S):
                try:
                    await ctx.wait_durable()
                except StorageError as exc:
                    ctx.log.warning("webhook_event_lost", error=str(exc))
            if self._courier is not None:
                self._courier.ring_soon()

        ctx.start_soon(wake)

    # ------------------------------------------------------------ how much waits

    def _has_room(self, ctx: AppContext, name: str) -> bool:
        with self._lock:
            count = self._waiting.get(name, 0)
            if count < ctx.settings.max_waiting:
                self._waiting[name] = count + 1
                return True
            self._dropped += 1
            now_s = ctx.clock.monotonic()
            if now_s - self._said_at_s < _SAY_AGAIN_S:
                return False
            self._said_at_s, dropped, self._dropped = now_s, self._dropped, 0
        ctx.log.error("webhook_outbox_full", target=name, dropped=dropped, max_waiting=ctx.settings.max_waiting)
        return False

    def _settled(self, name: str, count: int) -> None:
        with self._lock:
            self._waiting[name] = max(0, self._waiting.get(name, 0) - count)

    async def _keep_count(self, ctx: AppContext) -> None:
        while True:
            await trio.sleep(_COUNT_EVERY_S)
            try:
                await self._count(ctx)
            except StorageError as exc:
                ctx.log.warning("webhook_storage_failed", error=str(exc))

    async def _count(self, ctx: AppContext) -> None:
        counts = await ctx.db.read_transaction(store.count_waiting)
        with self._lock:
            self._waiting = counts


async def _client_of(settings: Settings, ctx: AppContext) -> Client:
    try:
        return await ctx.run_sync_in_thread(Client.make, settings.schemes, settings.allowed_networks, settings.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise PluginError(f"plugins.webhook.ca_file {settings.ca_file} cannot be used: {exc}") from exc


async def _checked_keys(settings: Settings, where: Target | BeforeSend, name: str, ctx: AppContext) -> tuple[bytes, ...]:
    try:
        place_of(where.url, settings.schemes)
        return await ctx.run_sync_in_thread(keys_from, where.secret, where.secret_file)
    except (Refused, ValueError) as exc:
        raise PluginError(f"plugins.webhook, {name}: {exc}") from exc


async def _lanes_of(ctx: AppContext, way: Way) -> list[Lane]:
    target = way.target
    if not events.is_wanted(events.MESSAGE, target.events):
        # It has no place among the messages: should it want them later, it begins with what is new then.
        await ctx.db.write_all([store.end_lanes(target.name)])
        return [Lane(ctx, way, index, 0) for index in range(target.concurrency)]
    statements, begins = await ctx.db.read_transaction(lambda read: store.begin_lanes(read, target.name, target.concurrency))
    if statements:
        await ctx.db.write_all(statements)
    return [Lane(ctx, way, index, through) for index, through in enumerate(begins)]
