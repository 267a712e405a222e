"""RECALL, EDIT and REACT: a stored message changes, and everybody who sees it is told (wire protocol, push 5003)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from imserver.plugin import InvalidBody, NotFound, PermissionDenied, Unavailable, check_body
from imserver_plugins.message.access import conversation_for_read, user_of

if TYPE_CHECKING:
    from imserver.plugin import Context, Conversation, Draft, Message
    from imserver_plugins.message.requests import Edit, React, Recall

GROUP_PLUGIN: Final = "group"
GET_GROUP = 4002
MESSAGE_CHANGED: Final = 5003

#: What `before_send` hooks see as the types of a reaction and of typing: who may not write may do neither. No message has
#: one of these types, so that no hook takes one for what it lets pass.
REACTION: Final = "reaction"
TYPING: Final = "typing"

#: How often the roles in a group may change under a RECALL.
_MAX_LOOKS: Final = 8


async def recall(ctx: Context, request: Recall, window_s: float) -> dict[str, Any]:
    """2005: by the sender within the window, or by a group's owner or admin at any time."""
    for _ in range(_MAX_LOOKS):
        found = await ctx.conversations.fetch(request.conversation_id)
        conversation_for_read(ctx, found, request.conversation_id)  # before anything is said of the group
        roles = None if found is None else ctx.conversations.peek_fact(found, GROUP_PLUGIN)
        moderates = await _moderates(ctx, request.conversation_id)
        if await ctx.conversations.transact(partial(_recall, request, window_s, moderates, roles)):
            return {}
    raise Unavailable("the roles in this group change too fast; try again")


def _recall(request: Recall, window_s: float, moderates: bool, roles: object, ctx: Context) -> bool:
    """False: the roles may be others than when the group was asked for them, and matter here."""
    conversation, message = visible_message(ctx, request.conversation_id, request.seq)
    is_own = message.sender == user_of(ctx)
    is_late = not message.recalled and ctx.messages.age_ms(message) > window_s * 1000
    if not is_own or is_late:
        if not moderates:
            if not is_own:
                raise PermissionDenied("only its sender may recall a message, or the group's owner or an admin")
            raise PermissionDenied(f"a message can be recalled for {window_s:g} s", error="recall_window")
        if roles is None or ctx.conversations.peek_fact(conversation, GROUP_PLUGIN) is not roles:
            return False
    recalled = ctx.messages.recall(conversation, request.seq)
    if recalled is not None:
        _tell(ctx, conversation, recalled, "recalled", {"recalled": True})
    return True


async def _moderates(ctx: Context, conversation_id: str) -> bool:
    """Whether the user who asks is a group's owner or admin."""
    if not conversation_id.startswith("g:"):
        return False
    try:
        answer = await ctx.call(GET_GROUP, {"group_id": conversation_id[2:]})
    except NotFound:
        return False  # the plugin group is not enabled: there are no roles
    return answer["group"].get("role") in ("owner", "admin")


def edit(ctx: Context, request: Edit) -> dict[str, Any]:
    """2006: by the sender. The hooks of SEND judge the new body as they did the first."""
    ctx.conversations.hold()
    conversation, message = visible_message(ctx, request.conversation_id, request.seq)
    if message.sender != user_of(ctx):
        raise PermissionDenied("only its sender may edit a message")
    check_content(message.type, request.body)
    edited = ctx.messages.edit(conversation, request.seq, request.body)
    if edited is None:
        return {"edited_at": message.edited_at}
    _tell(ctx, conversation, edited, "edited", {"body": edited.body, "edited_at": edited.edited_at})
    return {"edited_at": edited.edited_at}


def react(ctx: Context, request: React, draft: Draft) -> dict[str, Any]:
    """2007: by everybody who sees the message and may write here; taking a reaction back is always allowed."""
    ctx.conversations.hold()
    conversation, _ = visible_message(ctx, request.conversation_id, request.seq)
    if not request.remove:
        ctx.messages.check(draft)
    user_id = user_of(ctx)
    reacted = ctx.messages.react(conversation, request.seq, user_id, request.emoji, remove=request.remove)
    if reacted is not None:
        more = {"emoji": request.emoji, "removed": True} if request.remove else {"emoji": request.emoji}
        _tell(ctx, conversation, reacted, "reacted", {"reactions": reacted.reactions or {}, **more})
    return {}


def visible_message(ctx: Context, conversation_id: str, seq: int) -> tuple[Conversation, Message]:
    """A stored message that the user who asks may see, as it is now.

    Raises:
        NotFound: there is no such message, or the user came after it or has hidden it.
        PermissionDenied: the user does not belong to its conversation.
        NotLoaded: for the router.
    """
    conversation = ctx.conversations.require(conversation_id)
    member = conversation_for_read(ctx, conversation, conversation_id)
    if conversation is not None and member is not None and seq > member.first_visible:
        message = ctx.messages.require(conversation, seq)
        if message is not None:
            return conversation, message
    raise NotFound("there is no such message", field="seq")


def check_content(message_type: str, body: Any) -> None:
    """A message's body must be one of its type.

    Raises:
        InvalidBody: a text that is no string, or what no wire encoding can carry.
    """
    if type(body) is not str:
        if message_type == "text":
            raise InvalidBody("the body of a text message is a string", field="body")
        check_body(body)


def _tell(ctx: Context, conversation: Conversation, message: Message, change: str, state: dict[str, Any]) -> None:
    """Push the new state to all who see the message, and tell other plugins."""
    by = user_of(ctx)
    what = {"conversation_id": conversation.conversation_id, "seq": message.seq, "by": by, **state}
    # Who came later than the message does not see it, nor what becomes of it.
    seq = message.seq
    told = [one.user_id for one in conversation.members.values() if one.joined_seq < seq and one.hidden_seq < seq]
    ctx.push(told, MESSAGE_CHANGED, {**what, "rev": message.rev, "change": change}, except_session=ctx.session)
    ctx.emit(f"message.{change}", message_id=message.message_id, type=message.type, **what)
