"""Who may send to a group, from memory. It runs for each message, inside the tick."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.plugin import NotFound, PermissionDenied
from imserver_plugins.group.state import MEMBER, find

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Draft

#: Among `mentions`: everybody.
ALL = "@all"


def check(ctx: AppContext, draft: Draft) -> None:
    """Let a message to anything but a group pass, and those of members who are not muted.

    Raises:
        NotFound: there is no such group any more.
        PermissionDenied: why not.
        NotLoaded: it is not in memory.
    """
    if not draft.conversation_id.startswith("g:"):
        return
    try:
        conversation, group = find(ctx, draft.conversation_id[2:])
    except NotFound:
        if ctx.conversations.require(draft.conversation_id) is None:
            raise
        raise PermissionDenied("this group was dismissed", error="dismissed") from None
    sender = draft.sender
    if sender not in conversation.members:
        raise PermissionDenied("you are no member of this group", error="not_a_member")
    until = group.muted_until.get(sender)
    if until is not None and until > ctx.clock.now_ms():
        raise PermissionDenied("you are muted in this group", error="muted", retry_after_ms=until - ctx.clock.now_ms())
    if group.role_of(sender) != MEMBER:
        return
    if group.muted:
        raise PermissionDenied("only the owner and the admins may write: this group is muted", error="group_muted")
    if draft.mentions and ALL in draft.mentions:
        raise PermissionDenied(f"only the owner and the admins may mention {ALL}", field="mentions")
