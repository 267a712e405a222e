"""BLOCK, UNBLOCK and LIST_BLOCKED."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict
from imserver_plugins.friend import requests, store
from imserver_plugins.friend.gate import Gate
from imserver_plugins.friend.users import durable, profiles, require_other, user_of

if TYPE_CHECKING:
    from imserver.plugin import Context


async def block(gate: Gate, ctx: Context, request: requests.Block) -> None:
    """3006 BLOCK. The other is not told. A friendship stays; what was asked of the other is taken back."""
    user_id, blocked_id = user_of(ctx), request.user_id
    await require_other(ctx, blocked_id)
    statements = store.block(user_id, blocked_id, now_ms=ctx.clock.now_ms(), max_blocked=ctx.settings.max_blocked)
    with gate.blocking(ctx, user_id, blocked_id):
        added, ((is_blocked,),), _ = await durable(ctx.db.write_all(statements))
    if added:
        ctx.emit("friend.blocked", user_id=user_id, blocked_id=blocked_id)
    if is_blocked:
        ctx.emit("user.hidden", user_id=user_id, reader=blocked_id)
    else:
        raise Conflict(f"you block {ctx.settings.max_blocked} users already; UNBLOCK one first", error="block_limit")


async def unblock(gate: Gate, ctx: Context, request: requests.Unblock) -> None:
    """3007 UNBLOCK. Who was not blocked may not even exist: nothing changes."""
    user_id = user_of(ctx)
    await durable(ctx.db.write_all(store.unblock(user_id, request.user_id)))
    gate.forget(ctx, user_id, request.user_id)
    ctx.emit("user.shown", user_id=user_id, reader=request.user_id)


async def list_blocked(ctx: Context, request: requests.ListBlocked) -> dict[str, Any]:
    """3008 LIST_BLOCKED, by user id; the cursor is the last one."""
    rows = await store.list_blocked(ctx.db, user_of(ctx), request.cursor, request.limit + 1)
    page = rows[: request.limit]
    known = await profiles(ctx, [user_id for user_id, _ in page])
    answer: dict[str, Any] = {
        "users": [
            {**known.get(user_id, {"user_id": user_id, "nickname": user_id}), "since": since} for user_id, since in page
        ]
    }
    if len(rows) > len(page):
        answer["next_cursor"] = page[-1][0]
    return answer
