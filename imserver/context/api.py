"""What `ctx.messages` and `ctx.conversations` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from imserver.context.application import AppContext
    from imserver.shard import Shard

T = TypeVar("T")


class Api:
    """A part of a context: it works in its shard, and writes in its name."""

    _shard: Shard
    _context: AppContext

    def _write(self, write: Callable[[], T]) -> T:
        """Write in the handler's critical section, or outside of one in one of its own."""
        section = self._shard.section
        section.enter()
        try:
            result = write()
        finally:
            section.leave()
        self._context.has_written()
        return result
