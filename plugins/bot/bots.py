"""Whether a user is a bot, for handlers that cannot wait for the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imserver.plugin import NotLoaded, PermissionDenied
from imserver_plugins.bot import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext

#: The command line makes bots beside the running server: what was found is good for so long.
KEPT_S: Final = 1.0


def require(ctx: AppContext, user_id: str) -> None:
    """Let bots pass.

    Raises:
        PermissionDenied: the user is none.
        NotLoaded: for the router.
    """
    is_bot, until_s = ctx.cache.get(("bot", user_id), (False, 0.0))
    if until_s <= ctx.clock.monotonic():
        raise NotLoaded(lambda: _look(ctx, user_id), ("bot", user_id))
    if not is_bot:
        raise PermissionDenied("this is for bots; `imserver bot add` makes a user one", error="not_a_bot")


async def _look(ctx: AppContext, user_id: str) -> None:
    rows = await ctx.db.read(store.IS_BOT, (user_id,))
    ctx.cache.put(("bot", user_id), (bool(rows[0][0]), ctx.clock.monotonic() + KEPT_S))
