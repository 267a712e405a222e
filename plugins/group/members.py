"""Who belongs to a group, and as what: ADD_MEMBERS, REMOVE_MEMBERS, LEAVE_GROUP, LIST_MEMBERS, SET_ROLE, MUTE_MEMBER."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve

from imserver.plugin import Conflict, PermissionDenied, TooLarge
from imserver_plugins.group import requests, store
from imserver_plugins.group.notes import tell
from imserver_plugins.group.seats import Seats
from imserver_plugins.group.state import (
    ADMIN,
    MEMBER,
    OWNER,
    Group,
    find_own,
    require_above,
    require_member,
    require_room,
)
from imserver_plugins.group.users import durable, profiles, sort_out, user_of

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Conversation


async def add(seats: Seats, ctx: Context, request: requests.AddMembers) -> dict[str, Any]:
    """4005 ADD_MEMBERS: by any member; where joining needs an approval, by the owner and the admins."""
    user_id = user_of(ctx)
    wanted = list(dict.fromkeys(request.user_ids))

    def look(inner: AppContext) -> tuple[Conversation, Group]:
        conversation, group = find_own(inner, request.group_id, user_id)
        if group.join == "approval" and group.role_of(user_id) == MEMBER:
            raise PermissionDenied("only the owner and the admins add members to this group; others ask to join")
        return conversation, group

    await ctx.conversations.transact(look)  # before anything is said of the users
    with seats.taking(wanted):
        good, failed = await sort_out(seats, ctx, wanted)

        def write(inner: AppContext) -> list[str]:
            conversation, group = look(inner)
            return enter(inner, conversation, group, good, user_id)

        added = await durable(ctx.conversations.transact(write))
    failed += [{"user_id": one, "error": "already_member"} for one in good if one not in set(added)]
    return {"added": added, "failed": failed}


def enter(ctx: AppContext, conversation: Conversation, group: Group, user_ids: list[str], by: str) -> list[str]:
    """Let users belong to a group; returns those who are new.

    Raises:
        Conflict: there is no room for all of them; none was added.
    """
    new = [user_id for user_id in user_ids if user_id not in conversation.members]
    if new:
        require_room(conversation, len(new), ctx.settings.max_members)
        ctx.conversations.add_members(conversation, new, history=group.history)
        now_ms = ctx.clock.now_ms()
        ctx.db.write_all(store.enter(group.group_id, new, now_ms, group.mutes_of(new, now_ms)))
        tell(ctx, conversation, "joined", by, user_ids=new)
    return new


def remove(ctx: Context, request: requests.RemoveMembers) -> dict[str, Any]:
    """4006 REMOVE_MEMBERS: those whose role is below one's own; who is no member is left out."""
    user_id = user_of(ctx)
    if len(request.user_ids) > requests.MAX_USERS:
        raise TooLarge(f"at most {requests.MAX_USERS} users in one request", field="user_ids")
    conversation, group = find_own(ctx, request.group_id, user_id, least=ADMIN)
    gone = [one for one in dict.fromkeys(request.user_ids) if one in conversation.members]
    for one in gone:
        require_above(group, user_id, one)
    _go(ctx, conversation, group, gone, user_id, "removed")
    return {"removed": gone}


def leave(ctx: Context, request: requests.LeaveGroup) -> dict[str, Any]:
    """4007 LEAVE_GROUP: an owner hands it over or dismisses it first."""
    user_id = user_of(ctx)
    conversation, group = find_own(ctx, request.group_id, user_id)
    if group.owner == user_id:
        raise Conflict("you own this group; hand it over (SET_ROLE) or dismiss it (DISMISS_GROUP)", error="owner")
    _go(ctx, conversation, group, [user_id], user_id, "left")
    return {}


def _go(ctx: Context, conversation: Conversation, group: Group, gone: list[str], by: str, event: str) -> None:
    """End memberships. What is said of it is behind that: who has gone is pushed to, and has no message of it."""
    if gone:
        ctx.conversations.remove_members(conversation, gone)
        now_ms = ctx.clock.now_ms()
        left, forgotten = group.without(gone, conversation.members, now_ms)
        ctx.conversations.set_fact(conversation, left)
        statements = store.leave(group.group_id, gone, group.mutes_of(gone, now_ms))
        ctx.db.write_all([*statements, *store.forget_mutes(group.group_id, forgotten)])
        tell(ctx, conversation, event, by, user_ids=gone, also=gone)


async def list_(ctx: Context, request: requests.ListMembers) -> dict[str, Any]:
    """4008 LIST_MEMBERS, by user id; the cursor is the last one."""
    user_id = user_of(ctx)
    _, group = await ctx.conversations.transact(lambda inner: find_own(inner, request.group_id, user_id))
    rows = await store.list_members(ctx.db, request.group_id, request.cursor, request.limit + 1)
    page = rows[: request.limit]
    known = await profiles(ctx, [row[0] for row in page])
    members = []
    for one, role, muted_until, joined_at in page:
        entry = {
            "user_id": one,
            "role": OWNER if one == group.owner else role,
            "nickname": known.get(one, {}).get("nickname", one),
            "joined_at": joined_at,
        }
        if muted_until > ctx.clock.now_ms():
            entry["muted_until"] = muted_until
        members.append(entry)
    answer: dict[str, Any] = {"members": members}
    if len(rows) > len(page):
        answer["next_cursor"] = page[-1][0]
    return answer


def set_role(ctx: Context, request: requests.SetRole) -> dict[str, Any]:
    """4009 SET_ROLE: by the owner, who is an admin after handing the group over, if there is room for one."""
    user_id, other_id = user_of(ctx), request.user_id
    conversation, group = find_own(ctx, request.group_id, user_id, least=OWNER)
    require_member(conversation, other_id)
    if other_id == user_id:
        if request.role == OWNER:
            return {}
        raise Conflict("you own this group; hand it over by giving somebody else the role owner", error="owner")
    if group.role_of(other_id) == request.role:
        return {}
    statements = []
    admins = group.admins - {other_id}
    if request.role == OWNER:
        # Where there are as many admins as is allowed, who hands it over is a plain member.
        if len(admins) < ctx.settings.max_admins:
            admins |= {user_id}
        group = evolve(group, owner=other_id)
        own_role = ADMIN if user_id in admins else MEMBER
        statements += [store.put(group), store.mark(group.group_id, user_id, own_role, group.muted_until.get(user_id, 0))]
    elif request.role == ADMIN:
        admins |= {other_id}
        if len(admins) > ctx.settings.max_admins:
            raise Conflict(f"a group has at most {ctx.settings.max_admins} admins", error="admin_limit")
    group = evolve(group, admins=admins)
    stored_role = ADMIN if other_id in admins else MEMBER
    statements.append(store.mark(group.group_id, other_id, stored_role, group.muted_until.get(other_id, 0)))
    ctx.conversations.set_fact(conversation, group)
    ctx.db.write_all(statements)
    tell(ctx, conversation, "role", user_id, user_ids=[other_id], role=request.role)
    return {}


def mute(ctx: Context, request: requests.MuteMember) -> dict[str, Any]:
    """4010 MUTE_MEMBER: somebody whose role is below one's own; 0 lifts it."""
    user_id, other_id = user_of(ctx), request.user_id
    conversation, group = find_own(ctx, request.group_id, user_id, least=ADMIN)
    require_member(conversation, other_id)
    require_above(group, user_id, other_id)
    now_ms = ctx.clock.now_ms()
    until = now_ms + request.duration_ms if request.duration_ms else 0
    if until or group.muted_until.get(other_id):
        mutes = {one: end for one, end in group.muted_until.items() if end > now_ms and one != other_id}
        if until:
            mutes[other_id] = until
        group = evolve(group, muted_until=mutes)
        ctx.conversations.set_fact(conversation, group)
        ctx.db.write_all([store.mark(group.group_id, other_id, group.role_of(other_id), until)])
        tell(ctx, conversation, "muted", user_id, user_ids=[other_id], muted_until=until)
    return {"muted_until": until}
