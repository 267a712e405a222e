"""Background work that comes round again and again: a step, a pause, and no end by a disk that is full for a while."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from imserver.errors import ImError, StorageError

#: Between two steps while there is more to do: other commits go first.
STEP_PAUSE_S = 0.1


async def repeat(log: Any, step: Callable[..., Awaitable[object]], *args: Any, period_s: float, name: str) -> None:
    """See `AppContext.start_periodic`; `log` is the context's."""
    pause_s = period_s
    while True:
        await trio.sleep(pause_s)
        pause_s = period_s
        try:
            if await step(*args) is True:
                pause_s = STEP_PAUSE_S
        except (ImError, StorageError) as exc:
            # The disk is full, say: that has its own alarm, and the next round may find it mended.
            log.warning(f"{name}_failed", error=str(exc))
