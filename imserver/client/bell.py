"""Wake whoever waits for a condition to change."""

from __future__ import annotations

import trio


class Bell:
    """A condition variable without a lock: look at the state, and if it is not right, `wait` and look again.

    Trio switches tasks only at checkpoints, so no ring is missed between the look and the wait.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Return at the next ring."""
        await self._event.wait()
