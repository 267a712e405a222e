"""TYPING: who is told, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver_plugins.message.access import user_of
from imserver_plugins.message.hiding import told_of

if TYPE_CHECKING:
    from imserver.plugin import Context, Conversation

TYPING = 5005

#: Requests of one connection; a client that tells of every key is within it.
TYPINGS_PER_SECOND = 20
#: "Still typing" is handed on once in so long for a user and conversation, however often it is said.
REPEAT_S = 1.0
#: In a larger group nobody is told: each who types there would cost a push to everybody.
MAX_MEMBERS = 500


def tell_typing(ctx: Context, conversation: Conversation, *, on: bool) -> None:
    """Push 5005 to the other members, unless they have just been told the same.

    What was told last is kept by user and conversation, so that several devices and requests over HTTP, which have no
    session of their own, are one. A change goes out at once, but at most three in `REPEAT_S`, the last of them an "off".
    """
    user_id = user_of(ctx)
    others = told_of(ctx, conversation, user_id)
    if not others or len(conversation.recipients) > MAX_MEMBERS:
        return
    key = ("typing", conversation.conversation_id, user_id)
    now = ctx.clock.monotonic()
    was_on, since, changes = ctx.cache.get(key, (False, -REPEAT_S, 0))
    is_recent = now - since < REPEAT_S
    if on == was_on and (is_recent or not on):
        return
    if is_recent:
        if on and changes:
            return  # on, off, on: shown again with the next one
        changes += 1
    else:
        since, changes = now, 0
    ctx.cache.put(key, (on, since, changes))
    told = {"conversation_id": conversation.conversation_id, "user_id": user_id, "on": on}
    ctx.push(others, TYPING, told)
