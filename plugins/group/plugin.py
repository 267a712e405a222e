"""The plugin itself: its commands, each one line to where it is done, and the hook that refuses messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from imserver.plugin import Plugin, command
from imserver_plugins.group import cleanup, gate, groups, joining, members, requests, store
from imserver_plugins.group.seats import Seats
from imserver_plugins.group.settings import Settings

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Draft


class GroupPlugin(Plugin):
    """Groups: commands 4001 to 4013."""

    name = "group"
    before_send_kinds = ("group",)
    requires = ("user", "message")
    Settings = Settings
    migrations: ClassVar[Sequence[str]] = store.MIGRATIONS

    def __init__(self) -> None:
        self._seats = Seats()

    async def on_start(self, ctx: AppContext) -> None:
        """Begin to drop expired requests."""
        ctx.start_periodic(cleanup.drop_expired, ctx, period_s=cleanup.PERIOD_S, name="group_cleanup")

    def before_send(self, ctx: Context, draft: Draft) -> None:
        """Refuse a message to a group of which its sender is no member, or is muted."""
        gate.check(ctx, draft)

    @command(4001, request=requests.CreateGroup)
    async def create_group(self, ctx: Context, request: requests.CreateGroup) -> dict[str, Any]:
        """Begin a group, as its owner."""
        return await groups.create(self._seats, ctx, request)

    @command(4002, request=requests.GetGroup)
    async def get_group(self, ctx: Context, request: requests.GetGroup) -> dict[str, Any]:
        """What a group is."""
        return await groups.get(ctx, request)

    @command(4003, request=requests.UpdateGroup)
    def update_group(self, ctx: Context, request: requests.UpdateGroup) -> dict[str, Any]:
        """Change a group's name, settings, announcement, or mute all."""
        return groups.update(ctx, request)

    @command(4004, request=requests.DismissGroup)
    def dismiss_group(self, ctx: Context, request: requests.DismissGroup) -> dict[str, Any]:
        """End a group."""
        return groups.dismiss(ctx, request)

    @command(4005, request=requests.AddMembers)
    async def add_members(self, ctx: Context, request: requests.AddMembers) -> dict[str, Any]:
        """Let users belong to a group."""
        return await members.add(self._seats, ctx, request)

    @command(4006, request=requests.RemoveMembers)
    def remove_members(self, ctx: Context, request: requests.RemoveMembers) -> dict[str, Any]:
        """End others' memberships."""
        return members.remove(ctx, request)

    @command(4007, request=requests.LeaveGroup)
    def leave_group(self, ctx: Context, request: requests.LeaveGroup) -> dict[str, Any]:
        """End one's own membership."""
        return members.leave(ctx, request)

    @command(4008, request=requests.ListMembers, bulk=True)
    async def list_members(self, ctx: Context, request: requests.ListMembers) -> dict[str, Any]:
        """Who belongs to a group."""
        return await members.list_(ctx, request)

    @command(4009, request=requests.SetRole)
    def set_role(self, ctx: Context, request: requests.SetRole) -> dict[str, Any]:
        """Make a member an admin, a plain member, or the owner."""
        return members.set_role(ctx, request)

    @command(4010, request=requests.MuteMember)
    def mute_member(self, ctx: Context, request: requests.MuteMember) -> dict[str, Any]:
        """Let a member not write for a time."""
        return members.mute(ctx, request)

    @command(4011, request=requests.ListGroups)
    async def list_groups(self, ctx: Context, request: requests.ListGroups) -> dict[str, Any]:
        """One's own groups."""
        return await groups.list_own(ctx, request)

    @command(4012, request=requests.JoinGroup)
    async def join_group(self, ctx: Context, request: requests.JoinGroup) -> dict[str, Any]:
        """Join a group, or ask to."""
        return await joining.join(self._seats, ctx, request)

    @command(4013, request=requests.AnswerJoin)
    async def answer_join(self, ctx: Context, request: requests.AnswerJoin) -> dict[str, Any]:
        """Accept or decline who asks to join."""
        return await joining.answer(self._seats, ctx, request)
