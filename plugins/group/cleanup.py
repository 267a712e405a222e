"""What this plugin does of its own accord: drop the requests to join whose time is over, and mutes of those who have gone.

No answer has them before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from imserver.plugin import StorageError
from imserver_plugins.group import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext

PERIOD_S = 60.0
# Between two steps, where there is more to drop than one takes: other commits go first.
_STEP_S = 0.1


async def run(ctx: AppContext) -> None:
    """The background task."""
    pause_s = PERIOD_S
    while True:
        await trio.sleep(pause_s)
        pause_s = PERIOD_S
        try:
            if await drop_expired(ctx) == store.CHUNK:
                pause_s = _STEP_S
        except StorageError as exc:
            # The disk is full, say: that has its own alarm, and the next round may find it mended.
            ctx.log.warning("group_cleanup_failed", error=str(exc))


async def drop_expired(ctx: AppContext) -> int:
    """One step; returns how many it dropped of the kind that there was more of."""
    now_ms = ctx.clock.now_ms()
    dropped = await ctx.db.write_all([store.drop_expired(now_ms), store.drop_ended(now_ms)])
    return max(len(rows) for rows in dropped)
