"""FRIEND_REQUEST, FRIEND_ANSWER, LIST_FRIENDS, LIST_FRIEND_REQUESTS, DELETE_FRIEND and SET_REMARK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, ImError, NotFound
from imserver_plugins.friend import requests, store
from imserver_plugins.friend.gate import Gate
from imserver_plugins.friend.users import durable, profiles, require_other, user_of

if TYPE_CHECKING:
    from imserver.plugin import Context

FRIEND = 5007


async def ask(gate: Gate, ctx: Context, request: requests.FriendRequest) -> dict[str, Any]:
    """3001 FRIEND_REQUEST.

    Who is blocked is answered like everybody else, and the request waits; the other one neither is told of it nor sees
    it while the block lasts.
    """
    user_id, other_id = user_of(ctx), request.user_id
    await require_other(ctx, other_id)
    now_ms = ctx.clock.now_ms()
    settings = ctx.settings
    new = store.NewRequest(
        request_id=f"{now_ms:012x}{ctx.random.getrandbits(64):016x}",
        sender=user_id,
        recipient=other_id,
        message=request.message,
        now_ms=now_ms,
        expires_at=now_ms + round(settings.request_ttl_s * 1000),
    )
    statements = store.request(new, max_friends=settings.max_friends, max_pending=settings.max_pending)
    came = store.requested(await durable(ctx.db.write_all(statements)))
    if came.accepted is not None:
        gate.forget(ctx, user_id, other_id)
        # The request's own answer does not say so: this connection is told like the user's others.
        _tell_both(ctx, "accepted", other_id, came.accepted, except_own=False)
        ctx.emit("friend.added", user_id=user_id, friend_id=other_id)
        return {"request_id": came.accepted}
    if came.pending is None:
        raise _refusal(came, settings.max_pending)
    if came.pending == new.request_id and not came.is_blocked:
        push = {"event": "requested", "user_id": user_id, "request_id": new.request_id}
        if request.message:
            push["message"] = request.message
        ctx.push([other_id], FRIEND, push)
        ctx.emit("friend.requested", user_id=user_id, friend_id=other_id, request_id=new.request_id)
    return {"request_id": came.pending}


def _refusal(came: store.Requested, max_pending: int) -> ImError:
    if came.are_friends:
        return Conflict("you are friends already", error="already_friends", field="user_id")
    if came.blocks:
        return Conflict("you block this user; UNBLOCK first", field="user_id")
    if came.other_asks:
        return _too_many_friends()
    return Conflict(
        f"{max_pending} requests wait for an answer already, yours or those to this user; try again later",
        error="request_limit",
    )


def _too_many_friends() -> ImError:
    return Conflict("you or the other user have as many friends as is allowed", error="friend_limit")


async def answer(gate: Gate, ctx: Context, request: requests.FriendAnswer) -> None:
    """3002 FRIEND_ANSWER. The same answer again changes nothing."""
    user_id = user_of(ctx)
    state = store.ACCEPTED if request.accept else store.DECLINED
    statements = store.answer(
        request.request_id, user_id, state, now_ms=ctx.clock.now_ms(), max_friends=ctx.settings.max_friends
    )
    came = store.answered(await durable(ctx.db.write_all(statements)))
    if came.sender is None:
        raise NotFound("there is no such request to you", field="request_id")
    if not came.is_new:
        if came.state == state:
            return
        if came.state == store.PENDING:
            raise _too_many_friends()
        raise Conflict(f"this request was {came.state} already", field="request_id")
    gate.forget(ctx, user_id, came.sender)
    _tell_both(ctx, state, came.sender, request.request_id)
    if request.accept:
        ctx.emit("friend.added", user_id=user_id, friend_id=came.sender)


async def delete(gate: Gate, ctx: Context, request: requests.DeleteFriend) -> None:
    """3005 DELETE_FRIEND."""
    user_id, friend_id = user_of(ctx), request.user_id
    with gate.parting(ctx, user_id, friend_id):
        deleted, _ = await durable(ctx.db.write_all(store.delete_friend(user_id, friend_id)))
    if not deleted:
        raise NotFound("this user is not among your friends", field="user_id")
    _tell_both(ctx, "deleted", friend_id)
    ctx.emit("friend.removed", user_id=user_id, friend_id=friend_id)


async def set_remark(ctx: Context, request: requests.SetRemark) -> None:
    """3009 SET_REMARK."""
    (rows,) = await ctx.db.write_all(store.set_remark(user_of(ctx), request.user_id, request.remark or None))
    if not rows:
        raise NotFound("this user is not among your friends", field="user_id")


async def list_friends(ctx: Context, request: requests.ListFriends) -> dict[str, Any]:
    """3003 LIST_FRIENDS, by user id; the cursor is the last one. Who blocks the user is shown as offline."""
    rows = await store.list_friends(ctx.db, user_of(ctx), request.cursor, request.limit + 1)
    page = rows[: request.limit]
    known = await profiles(ctx, [row.user_id for row in page])
    friends = []
    for row in page:
        friend = {
            "user_id": row.user_id,
            "nickname": known.get(row.user_id, {}).get("nickname", row.user_id),
            "since": row.since,
            "online": bool(ctx.directory.sessions(row.user_id)) and not row.blocks,
        }
        if row.remark is not None:
            friend["remark"] = row.remark
        friends.append(friend)
    answer: dict[str, Any] = {"friends": friends}
    if len(rows) > len(page):
        answer["next_cursor"] = page[-1].user_id
    return answer


async def list_requests(ctx: Context, request: requests.ListFriendRequests) -> dict[str, Any]:
    """3004 LIST_FRIEND_REQUESTS, the newest first; the cursor is the last one's id."""
    rows = await store.list_requests(
        ctx.db,
        user_of(ctx),
        incoming=request.direction == "in",
        state=None if request.state == "all" else request.state,
        before_id=request.cursor,
        now_ms=ctx.clock.now_ms(),
        limit=request.limit + 1,
    )
    page = rows[: request.limit]
    known = await profiles(ctx, list(dict.fromkeys(row.user_id for row in page)))
    listed = []
    for row in page:
        entry = {
            "request_id": row.request_id,
            "user_id": row.user_id,
            "nickname": known.get(row.user_id, {}).get("nickname", row.user_id),
            "state": row.state,
            "created_at": row.created_at,
        }
        if row.message:
            entry["message"] = row.message
        if row.answered_at is not None:
            entry["answered_at"] = row.answered_at
        listed.append(entry)
    answer: dict[str, Any] = {"requests": listed}
    if len(rows) > len(page):
        answer["next_cursor"] = page[-1].request_id
    return answer


def _tell_both(ctx: Context, event: str, other_id: str, request_id: str | None = None, *, except_own: bool = True) -> None:
    """Push an event to the other one, and to the user's other devices: those see `by`, that it was the user's own doing."""
    user_id = user_of(ctx)
    request = {} if request_id is None else {"request_id": request_id}
    ctx.push([other_id], FRIEND, {"event": event, "user_id": user_id, **request})
    own = {"event": event, "user_id": other_id, **request, "by": user_id}
    ctx.push([user_id], FRIEND, own, except_session=ctx.session if except_own else None)
