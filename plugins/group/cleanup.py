"""What this plugin does of its own accord: drop the requests to join whose time is over, and mutes of those who have gone.

No answer has them before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver_plugins.group import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext

#: Between two rounds; a round is as many steps as it takes.
PERIOD_S = 60.0


async def drop_expired(ctx: AppContext) -> bool:
    """One step; returns whether there may be more to drop."""
    now_ms = ctx.clock.now_ms()
    dropped = await ctx.db.write_all([store.drop_expired(now_ms), store.drop_ended(now_ms)])
    return max(len(rows) for rows in dropped) == store.CHUNK
