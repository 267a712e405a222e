"""Who is told of what happens to a group: its members by a message of the server's, all whom it concerns by push 5008."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Conversation

MESSAGE, GROUP = 5001, 5008


def tell(
    ctx: AppContext,
    conversation: Conversation,
    event: str,
    by: str,
    *,
    user_ids: Sequence[str] = (),
    also: Iterable[str] = (),
    **more: Any,
) -> None:
    """Say what has happened. It has its place in the order behind the change, in the same commit.

    Args:
        by: the user who did it.
        user_ids: those to whom it was done.
        also: whom to push to beside the members: those who are none any more, or not yet.
        more: what else is to be known of it.
    """
    what: dict[str, Any] = {"event": event, "by": by}
    if user_ids:
        what["user_ids"] = list(user_ids)
    what.update(more)
    stored = ctx.messages.append_system(conversation, what)
    ctx.push(conversation.recipients, MESSAGE, stored.message)
    tell_only(ctx, conversation, [*conversation.recipients, *also], what)


def tell_only(ctx: AppContext, conversation: Conversation, told: Sequence[str], what: dict[str, Any]) -> None:
    """Push 5008 alone, and tell other plugins."""
    group_id = conversation.conversation_id[2:]
    ctx.push(told, GROUP, {"group_id": group_id, **what})
    ctx.emit(f"group.{what['event']}", group_id=group_id, **{key: value for key, value in what.items() if key != "event"})
