"""JOIN_GROUP and ANSWER_JOIN."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, NotFound, PermissionDenied
from imserver_plugins.group import requests, store
from imserver_plugins.group.members import enter
from imserver_plugins.group.notes import tell_only
from imserver_plugins.group.seats import Seats
from imserver_plugins.group.state import ADMIN, Group, find, find_own, require_room
from imserver_plugins.group.users import durable, user_of

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Conversation


async def join(seats: Seats, ctx: Context, request: requests.JoinGroup) -> dict[str, Any]:
    """4012 JOIN_GROUP: at once where the group is open, else its owner and admins are asked."""
    user_id = user_of(ctx)

    def look(inner: AppContext) -> tuple[Conversation, Group]:
        conversation, group = find(inner, request.group_id)
        if user_id in conversation.members:
            raise Conflict("you are a member of this group", error="already_member")
        if group.join == "invite":
            raise PermissionDenied("one joins this group by invitation alone", error="invite_only")
        require_room(conversation, 1, inner.settings.max_members)
        return conversation, group

    _, group = await ctx.conversations.transact(look)
    with seats.taking([user_id]):
        if await seats.full(ctx, [user_id]):
            raise _too_many_groups(ctx)
        if group.join == "open":

            def write(inner: AppContext) -> bool:
                conversation, group = look(inner)
                if group.join == "open":
                    enter(inner, conversation, group, [user_id], user_id)
                return group.join == "open"

            if await durable(ctx.conversations.transact(write)):
                return {"joined": True}
    return {"request_id": await _ask(ctx, request, user_id, look)}


async def _ask(ctx: Context, request: requests.JoinGroup, user_id: str, look: Callable[[AppContext], object]) -> str:
    """Store the request, if it is one still."""
    now_ms = ctx.clock.now_ms()
    new = store.Request(
        f"{now_ms:012x}{ctx.random.getrandbits(64):016x}", request.group_id, user_id, request.message, now_ms
    )
    expires_at = now_ms + round(ctx.settings.request_ttl_s * 1000)

    def write(inner: AppContext) -> Awaitable[list[Any]]:
        look(inner)
        return inner.db.write_all(store.ask(new, expires_at, ctx.settings.max_requests))

    *_, found = await durable(await durable(ctx.conversations.transact(write)))
    if not found:
        raise Conflict("too many requests to join this group wait for an answer; try again later", error="request_limit")
    request_id: str = found[0][0]
    if request_id == new.request_id:
        await durable(ctx.conversations.transact(lambda inner: _tell_those_in_charge(inner, new)))
    return request_id


def _tell_those_in_charge(ctx: AppContext, asked: store.Request) -> None:
    conversation, group = find(ctx, asked.group_id)
    what = {"event": "join_requested", "by": asked.user_id, "request_id": asked.request_id}
    if asked.message:
        what["message"] = asked.message
    tell_only(ctx, conversation, [group.owner, *group.admins], what)


async def answer(seats: Seats, ctx: Context, request: requests.AnswerJoin) -> dict[str, Any]:
    """4013 ANSWER_JOIN: by the owner or an admin; the first answer counts."""
    with seats.answering(request.request_id) as is_first:
        if not is_first:
            raise Conflict("somebody else answers this request just now", error="answered")
        return await _answer(seats, ctx, request)


async def _answer(seats: Seats, ctx: Context, request: requests.AnswerJoin) -> dict[str, Any]:
    user_id = user_of(ctx)
    asked = await store.find_request(ctx.db, request.request_id, ctx.clock.now_ms())
    if asked is None:
        raise NotFound("there is no such request", field="request_id")
    wanted = asked

    def write(inner: AppContext) -> None:
        conversation, group = find_own(inner, wanted.group_id, user_id, least=ADMIN)
        inner.db.write_all([store.drop_request(wanted.request_id)])
        if request.accept:
            enter(inner, conversation, group, [wanted.user_id], user_id)

    with seats.taking([wanted.user_id]):
        if request.accept and await seats.full(ctx, [wanted.user_id]):
            raise Conflict("this user belongs to as many groups as is allowed", error="group_limit")
        await durable(ctx.conversations.transact(write))
    return {}


def _too_many_groups(ctx: Context) -> Conflict:
    return Conflict(f"you belong to {ctx.settings.max_groups} groups, which is as many as is allowed", error="group_limit")
