"""What this plugin does of its own accord: drop the requests whose time is over. They are in no answer before that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver_plugins.friend import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext

#: Between two rounds; a round is as many steps as it takes.
PERIOD_S = 60.0


async def drop_expired(ctx: AppContext) -> bool:
    """One step; returns whether there may be more to drop."""
    (dropped,) = await ctx.db.write_all(store.forget_expired(ctx.clock.now_ms()))
    return len(dropped) == store.CHUNK
