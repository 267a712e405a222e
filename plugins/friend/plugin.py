"""The plugin itself: its commands, each one line to where it is done, and the hook that refuses messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from imserver.plugin import Plugin, PluginError, command
from imserver_plugins.friend import blocks, cleanup, friendships, requests, store
from imserver_plugins.friend.gate import Gate
from imserver_plugins.friend.settings import Settings

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Draft


class FriendPlugin(Plugin):
    """Friends and blocks: commands 3001 to 3009."""

    name = "friend"
    before_send_kinds = ("direct",)
    requires = ("user",)
    wants = ("message",)
    Settings = Settings
    migrations: ClassVar[Sequence[str]] = store.MIGRATIONS

    def __init__(self) -> None:
        self._gate: Gate | None = None

    @property
    def gate(self) -> Gate:
        """Who may write to whom; there from `on_start` on."""
        if self._gate is None:
            raise PluginError("the friend plugin was not started")
        return self._gate

    async def on_start(self, ctx: AppContext) -> None:
        """Read the message plugin's `require_friendship`, and begin to drop expired requests."""
        friends_only = False
        if "message" in ctx.config.plugins.enabled:
            friends_only = getattr(ctx.of("message").settings, "require_friendship", False)
        self._gate = Gate(friends_only=friends_only)
        ctx.start_periodic(cleanup.drop_expired, ctx, period_s=cleanup.PERIOD_S, name="friend_cleanup")

    def before_send(self, ctx: Context, draft: Draft) -> None:
        """Refuse a message to somebody who blocks its sender or, where only friends write, to a stranger."""
        (self._gate or self.gate).check(ctx, draft)

    async def hidden_from(self, ctx: AppContext, reader: str, user_ids: Sequence[str]) -> list[str]:
        """Who blocks `reader` hides from that user."""
        return await store.blockers_of(ctx.db, reader, user_ids)

    @command(3001, request=requests.FriendRequest)
    async def friend_request(self, ctx: Context, request: requests.FriendRequest) -> dict[str, Any]:
        """Ask for a friendship."""
        return await friendships.ask(self.gate, ctx, request)

    @command(3002, request=requests.FriendAnswer)
    async def friend_answer(self, ctx: Context, request: requests.FriendAnswer) -> None:
        """Accept or decline a request."""
        await friendships.answer(self.gate, ctx, request)

    @command(3003, request=requests.ListFriends, bulk=True)
    async def list_friends(self, ctx: Context, request: requests.ListFriends) -> dict[str, Any]:
        """One's own friends."""
        return await friendships.list_friends(ctx, request)

    @command(3004, request=requests.ListFriendRequests)
    async def list_friend_requests(self, ctx: Context, request: requests.ListFriendRequests) -> dict[str, Any]:
        """The requests that one was sent, or has sent."""
        return await friendships.list_requests(ctx, request)

    @command(3005, request=requests.DeleteFriend)
    async def delete_friend(self, ctx: Context, request: requests.DeleteFriend) -> None:
        """End a friendship, on both sides."""
        await friendships.delete(self.gate, ctx, request)

    @command(3006, request=requests.Block)
    async def block(self, ctx: Context, request: requests.Block) -> None:
        """Take no messages from a user."""
        await blocks.block(self.gate, ctx, request)

    @command(3007, request=requests.Unblock)
    async def unblock(self, ctx: Context, request: requests.Unblock) -> None:
        """Take messages again."""
        await blocks.unblock(self.gate, ctx, request)

    @command(3008, request=requests.ListBlocked)
    async def list_blocked(self, ctx: Context, request: requests.ListBlocked) -> dict[str, Any]:
        """Those whom one blocks."""
        return await blocks.list_blocked(ctx, request)

    @command(3009, request=requests.SetRemark)
    async def set_remark(self, ctx: Context, request: requests.SetRemark) -> None:
        """What one calls a friend."""
        await friendships.set_remark(ctx, request)
