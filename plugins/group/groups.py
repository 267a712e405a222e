"""A group as a whole: CREATE_GROUP, GET_GROUP, UPDATE_GROUP, DISMISS_GROUP, LIST_GROUPS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from imserver.plugin import UNSET, Conflict, NotFound, PermissionDenied, TooLarge
from imserver_plugins.group import requests, store
from imserver_plugins.group.notes import tell
from imserver_plugins.group.seats import Seats
from imserver_plugins.group.state import ADMIN, MEMBER, OWNER, Group, conversation_id_of, find, find_own
from imserver_plugins.group.users import durable, sort_out, user_of

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Conversation

#: Requests to join that GET_GROUP shows the owner and the admins.
_SHOWN_REQUESTS = 100
_CHANGEABLE = ("name", "avatar", "announcement", "join", "history", "muted")


async def create(seats: Seats, ctx: Context, request: requests.CreateGroup) -> dict[str, Any]:
    """4001 CREATE_GROUP: the one who asks is its owner. Who cannot be added is in `failed`."""
    owner = user_of(ctx)
    others = [user_id for user_id in dict.fromkeys(request.members) if user_id != owner]
    if len(others) > requests.MAX_USERS:
        raise TooLarge(f"at most {requests.MAX_USERS} users in one request", field="members")
    if len(others) >= ctx.settings.max_members:
        raise Conflict(f"a group has at most {ctx.settings.max_members} members", error="group_full")
    group_id = request.group_id or f"{ctx.clock.now_ms():011x}{ctx.random.getrandbits(32):08x}"
    with seats.taking([owner, *others]):
        if await seats.full(ctx, [owner]):
            raise Conflict(
                f"you belong to {ctx.settings.max_groups} groups, which is as many as is allowed", error="group_limit"
            )
        members, failed = await sort_out(seats, ctx, others)
        now_ms = ctx.clock.now_ms()
        group = Group(group_id, request.name, owner, request.join, request.history, now_ms)
        users = [owner, *members]

        def write(inner: AppContext) -> None:
            inner.conversations.require(conversation_id_of(group_id))
            conversation = inner.conversations.open_group(conversation_id_of(group_id), users)
            inner.conversations.set_fact(conversation, group)
            inner.db.write_all([store.put(group), *store.enter(group_id, users, now_ms)])
            tell(inner, conversation, "created", owner, user_ids=users, name=group.name)

        await durable(ctx.conversations.transact(write))
    answer: dict[str, Any] = {"group_id": group_id, "conversation_id": conversation_id_of(group_id)}
    if failed:
        answer["failed"] = failed
    return answer


async def get(ctx: Context, request: requests.GetGroup) -> dict[str, Any]:
    """4002 GET_GROUP: for its members, and for anybody where one can ask to join."""
    user_id = user_of(ctx)

    def look(inner: AppContext) -> tuple[dict[str, Any], bool]:
        conversation, group = find(inner, request.group_id)
        if user_id not in conversation.members and group.join == "invite":
            raise PermissionDenied("you are no member of this group", error="not_a_member")
        is_in_charge = user_id in conversation.members and group.role_of(user_id) != MEMBER
        return describe(inner, conversation, group, user_id), is_in_charge

    shown, is_in_charge = await ctx.conversations.transact(look)
    if is_in_charge:
        asked = await store.list_requests(ctx.db, request.group_id, ctx.clock.now_ms(), _SHOWN_REQUESTS)
        if asked:
            shown["join_requests"] = [attrs.asdict(one, filter=lambda field, _: field.name != "group_id") for one in asked]
    return {"group": shown}


def describe(ctx: AppContext, conversation: Conversation, group: Group, user_id: str) -> dict[str, Any]:
    """A group as a user is shown it."""
    shown: dict[str, Any] = {
        "group_id": group.group_id,
        "name": group.name,
        "owner": group.owner,
        "join": group.join,
        "history": group.history,
        "member_count": len(conversation.members),
        "created_at": group.created_at,
    }
    if group.avatar is not None:
        shown["avatar"] = group.avatar
    if group.muted:
        shown["muted"] = True
    if user_id in conversation.members:
        if group.announcement is not None:
            shown["announcement"] = group.announcement
        shown["role"] = group.role_of(user_id)
        until = group.muted_until.get(user_id, 0)
        if until > ctx.clock.now_ms():
            shown["muted_until"] = until
    return shown


def update(ctx: Context, request: requests.UpdateGroup) -> dict[str, Any]:
    """4003 UPDATE_GROUP. The history setting is for those who come later."""
    user_id = user_of(ctx)
    conversation, group = find_own(ctx, request.group_id, user_id, least=ADMIN)
    wanted = {name: getattr(request, name) for name in _CHANGEABLE}
    changed = {name: value for name, value in wanted.items() if value is not UNSET and getattr(group, name) != value}
    if changed:
        group = attrs.evolve(group, **changed)
        ctx.conversations.set_fact(conversation, group)
        ctx.db.write_all([store.put(group)])
        tell(ctx, conversation, "updated", user_id, **changed)
    return {}


def dismiss(ctx: Context, request: requests.DismissGroup) -> dict[str, Any]:
    """4004 DISMISS_GROUP: its members are told, and are members no more. The id is not used again."""
    user_id = user_of(ctx)
    conversation, group = find_own(ctx, request.group_id, user_id, least=OWNER)
    gone = attrs.evolve(group, dismissed_at=ctx.clock.now_ms(), admins=frozenset(), muted_until={})
    tell(ctx, conversation, "dismissed", user_id)
    ctx.conversations.remove_members(conversation, list(conversation.members))
    ctx.conversations.set_fact(conversation, gone)
    ctx.db.write_all([store.put(gone), *store.dismiss(group.group_id)])
    return {}


async def list_own(ctx: Context, request: requests.ListGroups) -> dict[str, Any]:
    """4011 LIST_GROUPS: one's own, by group id; the cursor is the last one."""
    user_id = user_of(ctx)
    ids = await store.list_groups(ctx.db, user_id, request.cursor, request.limit + 1)
    page = ids[: request.limit]
    groups = []
    for group_id in page:
        shown = await ctx.conversations.transact(partial(_own, group_id, user_id))
        if shown is not None:
            groups.append(shown)
    answer: dict[str, Any] = {"groups": groups}
    if len(ids) > len(page):
        answer["next_cursor"] = page[-1]
    return answer


def _own(group_id: str, user_id: str, ctx: AppContext) -> dict[str, Any] | None:
    """None: it is not the user's any more, since the list was read."""
    try:
        conversation, group = find(ctx, group_id)
    except NotFound:
        return None
    return describe(ctx, conversation, group, user_id) if user_id in conversation.members else None


__all__ = ["create", "describe", "dismiss", "get", "list_own", "update"]
