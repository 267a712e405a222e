"""What the friend commands ask of the user plugin, and rules on user ids."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from imserver.plugin import InvalidBody, NotFound

if TYPE_CHECKING:
    from imserver.plugin import Context

GET_USER = 1006

_T = TypeVar("_T")


def user_of(ctx: Context) -> str:
    """The user who asks; the router has seen to it that there is one."""
    user_id = ctx.session.user_id
    assert user_id is not None
    return user_id


async def require_other(ctx: Context, user_id: str) -> None:
    """See to it that this is another user, and exists.

    Raises:
        InvalidBody: it is the user who asks.
        NotFound: there is no such user.
    """
    if user_id == user_of(ctx):
        raise InvalidBody("this is yourself; give another user's id", field="user_id")
    if not await profiles(ctx, [user_id]):
        raise NotFound("there is no such user", field="user_id")


async def profiles(ctx: Context, user_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Profiles by user id, as GET_USER has them; at most 500."""
    if not user_ids:
        return {}
    answer = await ctx.call(GET_USER, {"user_ids": list(user_ids)})
    return {profile["user_id"]: profile for profile in answer["users"]}


async def durable(write: Awaitable[_T]) -> _T:
    """Wait for a write even if the request is cancelled (its client has gone): what follows from it must be done."""
    with trio.CancelScope(shield=True):
        result = await write
    return result
