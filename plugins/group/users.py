"""What the group commands ask of the user plugin, and who of many can be added."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from imserver.plugin import Draft, NotLoaded, PermissionDenied, TooLarge, direct_conversation_id, load_all
from imserver_plugins.group.requests import MAX_USERS
from imserver_plugins.group.seats import Seats

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context

GET_USER = 1006
#: Of one GET_USER.
_USERS_A_LOOK = 100

_T = TypeVar("_T")


def user_of(ctx: Context) -> str:
    """The user who asks; the router has seen to it that there is one."""
    user_id = ctx.session.user_id
    assert user_id is not None
    return user_id


async def profiles(ctx: Context, user_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Profiles by user id, as GET_USER has them."""
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(user_ids), _USERS_A_LOOK):
        answer = await ctx.call(GET_USER, {"user_ids": list(user_ids[start : start + _USERS_A_LOOK])})
        found.update((profile["user_id"], profile) for profile in answer["users"])
    return found


async def sort_out(seats: Seats, ctx: Context, user_ids: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Who exists and has room for another group; and who does not, with the reason. Call it inside `Seats.taking`.

    Raises:
        TooLarge: these are more than one request may name.
    """
    if len(user_ids) > MAX_USERS:
        raise TooLarge(f"at most {MAX_USERS} users in one request", field="user_ids")
    known = await profiles(ctx, user_ids)
    unwilling = await _unwilling(ctx, [user_id for user_id in user_ids if user_id in known])
    full = await seats.full(ctx, [user_id for user_id in user_ids if user_id in known], are_added=True)
    good, failed = [], []
    for user_id in user_ids:
        if user_id not in known:
            failed.append({"user_id": user_id, "error": "not_found"})
        elif user_id in unwilling:
            failed.append({"user_id": user_id, "error": "forbidden"})
        elif user_id in full:
            failed.append({"user_id": user_id, "error": "group_limit"})
        else:
            good.append(user_id)
    return good, failed


async def _unwilling(ctx: Context, user_ids: Sequence[str]) -> set[str]:
    """Who of these takes no messages from the user who asks: who blocks them; strangers, where only friends write."""
    sender = user_of(ctx)

    def look(inner: AppContext) -> set[str]:
        found: set[str] = set()
        wanted: list[NotLoaded] = []
        for user_id in user_ids:
            # No message is sent: what TYPING asks is asked, too.
            draft = Draft(direct_conversation_id(sender, user_id), sender, "typing", "typing", None)
            try:
                inner.messages.check(draft)
            except NotLoaded as exc:
                wanted.append(exc)
            except PermissionDenied:
                found.add(user_id)
        if wanted:
            raise NotLoaded(lambda: load_all(wanted), tuple(exc.key for exc in wanted))
        return found

    return await ctx.conversations.transact(look)


async def durable(write: Awaitable[_T]) -> _T:
    """Wait for a write even if the request is cancelled (its client has gone): what follows from it must be done."""
    with trio.CancelScope(shield=True):
        result = await write
    return result
