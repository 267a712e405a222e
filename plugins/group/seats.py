"""What is under way, so that a user's number of groups is exact and a request is answered once, whatever happens at once.

The count is read from committed data. Who is about to add users says so first, and until that is durable or has failed: a
count that was read meanwhile is short by those at most, and they are added to it.

Others may add a user to four fifths of as many groups as are allowed. The rest is kept for those that the user makes and
joins: else strangers could take all places, and the user could do neither.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imserver_plugins.group import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext


class Seats:
    """Those of all users; one for the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: Counter[str] = Counter()
        self._answered: set[str] = set()

    @contextmanager
    def taking(self, user_ids: Sequence[str]) -> Iterator[None]:
        """Around the look and the write of those who come into one group."""
        with self._lock:
            self._coming.update(user_ids)
        try:
            yield
        finally:
            with self._lock:
                self._coming.subtract(user_ids)
                for user_id in user_ids:
                    if not self._coming[user_id]:
                        del self._coming[user_id]

    @contextmanager
    def answering(self, request_id: str) -> Iterator[bool]:
        """Around the look and the write of an answer to a request to join; whether nobody else is there."""
        with self._lock:
            is_first = request_id not in self._answered
            self._answered.add(request_id)
        try:
            yield is_first
        finally:
            if is_first:
                with self._lock:
                    self._answered.discard(request_id)

    async def full(self, ctx: AppContext, user_ids: Sequence[str], *, are_added: bool = False) -> set[str]:
        """Who of these belongs to as many groups as is allowed. Call it inside `taking`.

        Args:
            are_added: others let them in, unasked.
        """
        if not user_ids:
            return set()
        max_groups = places_for_others(ctx.settings.max_groups) if are_added else ctx.settings.max_groups
        counts = await store.count_groups(ctx.db, user_ids)
        with self._lock:
            return {user_id for user_id in user_ids if counts.get(user_id, 0) + self._coming[user_id] > max_groups}


def places_for_others(max_groups: int) -> int:
    """How many groups a user may belong to and still be added by others; of very few at least one."""
    return max(1, max_groups * 4 // 5)
