"""First come, first served, per name: the order of what is sent to one conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from attrs import define, field


@define
class _Line:
    lock: trio.StrictFIFOLock = field(factory=trio.StrictFIFOLock)
    users: int = 0  # who holds or waits; a line without any is dropped


class Lines:
    """Strictly fair locks by name, which exist while someone holds or waits."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def all_of(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Hold the locks of all these names, which must be sorted (so that no two wait for each other)."""
        async with AsyncExitStack() as stack:
            for name in names:
                line = self._lines.setdefault(name, _Line())
                line.users += 1
                stack.callback(self._leave, name, line)
                await stack.enter_async_context(line.lock)
            yield

    def _leave(self, name: str, line: _Line) -> None:
        line.users -= 1
        if not line.users:
            del self._lines[name]
