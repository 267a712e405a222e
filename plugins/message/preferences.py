"""What a member wants of a conversation, seen by that member alone: DELETE_CONVERSATION and CONVERSATION_SETTINGS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imserver.plugin import NotFound
from imserver_plugins.message.access import conversation_for_read

if TYPE_CHECKING:
    from imserver.plugin import Context, Conversation, Member
    from imserver_plugins.message.requests import ConversationSettings


def own_conversation(ctx: Context, conversation_id: str) -> tuple[Conversation, Member]:
    """A conversation that has begun, and the membership of the user who asks.

    Raises:
        NotFound: it has not begun.
        PermissionDenied: it is not the user's.
        NotLoaded: for the router.
    """
    conversation = ctx.conversations.require(conversation_id)
    member = conversation_for_read(ctx, conversation, conversation_id)
    if conversation is None or member is None:
        raise NotFound("this conversation has no messages yet", field="conversation_id")
    return conversation, member


def hide(ctx: Context, conversation_id: str) -> dict[str, Any]:
    """2010: its past is gone for this user; it comes back with the next message."""
    conversation, member = own_conversation(ctx, conversation_id)
    ctx.conversations.hide(conversation, member)
    return {}


def set_settings(ctx: Context, request: ConversationSettings) -> dict[str, Any]:
    """2013: muted (devices make no noise of it) and pinned (on top of the list)."""
    conversation, member = own_conversation(ctx, request.conversation_id)
    ctx.conversations.set_settings(conversation, member, muted=request.muted, pinned=request.pinned)
    return {"conversation_id": conversation.conversation_id, "muted": member.muted, "pinned": member.pinned}
