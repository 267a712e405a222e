"""The plugin: its commands and its route, each one line to where it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from imserver.plugin import ANYONE, Plugin, command, route
from imserver_plugins.bot import cli, store, streams
from imserver_plugins.bot.commands import Follower
from imserver_plugins.bot.hooks import Entrance
from imserver_plugins.bot.settings import Settings

if TYPE_CHECKING:
    import click
    from starlette.requests import Request

    from imserver.plugin import AppContext, Context


class BotPlugin(Plugin):
    """Commands for bots, URLs that post, and messages that grow."""

    name = "bot"
    requires = ("user", "message")
    Settings = Settings
    migrations: ClassVar[Sequence[str]] = store.MIGRATIONS
    cli_commands: ClassVar[Sequence[click.Command]] = cli.COMMANDS

    _follower: Follower
    _entrance: Entrance
    _streams: streams.Streams

    async def on_start(self, ctx: AppContext) -> None:
        """Begin to look for commands."""
        self._entrance = Entrance(ctx.settings)
        self._streams = streams.Streams(ctx.settings)
        self._follower = Follower(ctx)
        ctx.start_soon(self._follower.run)
        ctx.start_soon(self._streams.run, ctx)

    async def on_stop(self, ctx: AppContext) -> None:
        """Messages that grow are stored as they are."""
        await self._streams.sweep(ctx, is_all=True)

    def after_commit(self, ctx: AppContext, messages: Sequence[Any]) -> None:
        """There may be a command among these messages."""
        if any(message.type == "text" and isinstance(message.body, str) and message.body[:1] == "/" for message in messages):
            self._follower.ring_soon()

    @route("POST", "/v1/hooks/{hook_id}/{secret}", allow=ANYONE)
    async def post(self, ctx: Context, request: Request) -> dict[str, Any]:
        """Post into the conversation of an incoming webhook."""
        return await self._entrance.post(ctx, request)

    @command(2021, request=streams.Begin, name="STREAM_BEGIN")
    def stream_begin(self, ctx: Context, request: streams.Begin) -> dict[str, Any]:
        """Begin a message that grows."""
        return self._streams.begin(ctx, request)

    @command(2022, request=streams.Append, name="STREAM_APPEND")
    def stream_append(self, ctx: Context, request: streams.Append) -> dict[str, Any]:
        """Add to it."""
        return self._streams.append(ctx, request)

    @command(2023, request=streams.End, name="STREAM_END")
    def stream_end(self, ctx: Context, request: streams.End) -> dict[str, Any]:
        """Store it."""
        return self._streams.end(ctx, request)
