"""How long messages are kept: those with an end of their own, and those older than the retention of their kind.

A background task deletes contents in small steps, each a unit of one of the journal's commits. A message's place in the
order stays: `seq` has no gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from imserver.plugin import ImError, StorageError

if TYPE_CHECKING:
    from imserver.plugin import AppContext

#: Messages of one step, and the rest between two while there is more: 2,000 a second at most.
STEP: Final = 200
PAUSE_S: Final = 0.1
#: Between two looks for what is over. Nobody sees an expired message meanwhile; its content is on the disk as long.
LOOK_S: Final = 1.0
#: Between two looks for what is older than the retention.
RETENTION_LOOK_S: Final = 600.0


async def delete_expired(ctx: AppContext) -> None:
    """The background task for `expires_in_ms`."""
    while True:
        deleted = 0
        try:
            deleted = await ctx.messages.delete_expired(STEP)
        except (ImError, StorageError) as exc:
            ctx.log.warning("expired_messages_kept", error=str(exc), retry_s=LOOK_S)
        await trio.sleep(PAUSE_S if deleted == STEP else LOOK_S)


async def delete_older(ctx: AppContext, kind: str, keep_s: float) -> None:
    """The background task for the retention of one kind of conversation ("direct" or "group")."""
    looked_through = 0  # ids rise with time: what was looked at before need not be again
    while True:
        pause_s = RETENTION_LOOK_S
        try:
            before_ms = ctx.clock.now_ms() - round(keep_s * 1000)
            _, next_id = await ctx.messages.delete_older(kind, before_ms, STEP, looked_through)
            if next_id is not None:
                looked_through, pause_s = next_id, PAUSE_S
        except (ImError, StorageError) as exc:
            ctx.log.warning("old_messages_kept", kind=kind, error=str(exc), retry_s=pause_s)
        await trio.sleep(pause_s)
