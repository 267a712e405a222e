"""Which conversation a request means, and whether its sender belongs to it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from imserver.plugin import (
    AppContext,
    Context,
    Conversation,
    InvalidBody,
    Member,
    NotFound,
    NotLoaded,
    PermissionDenied,
    direct_conversation_id,
    parties_of,
)

GET_USER = 1006

_T = TypeVar("_T")

_USER_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")  # wire protocol, section 3

#: How long a user who was not found is taken for absent; the event `user.created` ends it at once.
_ABSENT_FOR_MS = 1000


def conversation_for_send(ctx: Context, to: str | None, conversation_id: str | None) -> Conversation:
    """The conversation that a SEND goes to; a direct one begins with its first message.

    Raises:
        InvalidBody: neither or contradicting `to` and `conversation_id`.
        NotFound: no such user or group.
        PermissionDenied: the sender does not belong to it.
        NotLoaded: for the router.
    """
    user_id = user_of(ctx)
    if to is not None:
        named = direct_conversation_id(user_id, to)
        if conversation_id is not None and conversation_id != named:
            raise InvalidBody("`to` and `conversation_id` name different conversations; give one of them", field="to")
        conversation_id = named
    elif conversation_id is None:
        raise InvalidBody("give `to` (a user id) or `conversation_id`", field="to")
    found = ctx.conversations.require(conversation_id)
    if found is not None:
        if user_id not in found.members:
            raise PermissionDenied("you are not part of this conversation")
        return found
    if conversation_id.startswith("g:"):
        raise NotFound("there is no such group")
    if to is not None and not _USER_ID.fullmatch(to):
        raise InvalidBody("a user id has 1–64 of the characters A–Z a–z 0–9 _ - . @", field="to")
    parties = parties_of(conversation_id)
    if user_id not in parties:
        raise PermissionDenied("you are not part of this conversation")
    peer = parties[1] if parties[0] == user_id else parties[0]
    exists = ctx.cache.get(("user", peer))
    if exists is None or (exists is not True and exists < ctx.clock.now_ms()):
        raise NotLoaded(lambda: _look_for_user(ctx, peer), ("peer", peer))
    if exists is not True:
        raise NotFound("there is no such user", field="to")
    return ctx.conversations.open_direct(conversation_id, parties)


async def _look_for_user(ctx: Context, user_id: str) -> None:
    """Remember that this user exists or, for a moment, that it does not."""
    answer = await ctx.call(GET_USER, {"user_ids": [user_id]})
    ctx.cache.put(("user", user_id), True if answer["users"] else ctx.clock.now_ms() + _ABSENT_FOR_MS)


def conversation_for_read(ctx: Context, found: Conversation | None, conversation_id: str) -> Member | None:
    """The sender's membership in a conversation; None for a direct one that has not begun.

    Raises:
        NotFound: no such group.
        PermissionDenied: the sender does not belong to it.
        InvalidBody: no conversation id at all.
    """
    if found is not None:
        return member_of(ctx, found)
    if conversation_id.startswith("g:"):
        raise NotFound("there is no such group")
    if user_of(ctx) not in parties_of(conversation_id):
        raise PermissionDenied("you are not part of this conversation")
    return None


async def read_as_member(ctx: Context, conversation_id: str, read: Callable[[int], Awaitable[_T]]) -> _T | None:
    """What `read(first_visible)` gives of a conversation; None for a direct one that has not begun.

    Who is removed while it is read gets nothing: what was read may be from after that.

    Raises:
        NotFound, PermissionDenied, InvalidBody: see `conversation_for_read`.
    """
    member = conversation_for_read(ctx, await ctx.conversations.fetch(conversation_id), conversation_id)
    while member is not None:
        first_visible = member.first_visible
        found = await read(first_visible)
        # What is committed is in memory already: if they were still a member at the read, they are one here.
        member = conversation_for_read(ctx, await ctx.conversations.fetch(conversation_id), conversation_id)
        if member is not None and member.first_visible == first_visible:
            return found
    return None


def member_of(ctx: Context, conversation: Conversation) -> Member:
    """The sender's membership.

    Raises:
        PermissionDenied: there is none.
    """
    member = conversation.members.get(user_of(ctx))
    if member is None:
        raise PermissionDenied("you are not part of this conversation")
    return member


def user_of(ctx: Context) -> str:
    """The user who asks; the router has seen to it that there is one."""
    user_id = ctx.session.user_id
    assert user_id is not None
    return user_id


def others_of(ctx: AppContext, conversation: Conversation, user_id: str) -> list[str]:
    """The members beside this one."""
    return [other for other in conversation.recipients if other != user_id]
