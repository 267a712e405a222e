"""What is under way, so that a user's number of groups is exact and a request is answered once, whatever happens at once.

The count is read from committed data. Who is about to add users says so first, and until that is durable or has failed: a
count that was read meanwhile is short by those at most, and they are added to it.
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

    async def full(self, ctx: AppContext, user_ids: Sequence[str]) -> set[str]:
        """Who of these belongs to as many groups as is allowed. Call it inside `taking`."""
        if not user_ids:
            return set()
        counts = await store.count_groups(ctx.db, user_ids)
        with self._lock:
            return {
                user_id for user_id in user_ids if counts.get(user_id, 0) + self._coming[user_id] > ctx.settings.max_groups
            }
