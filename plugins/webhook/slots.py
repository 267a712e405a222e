"""Places for so many at once, in all shards: `trio.Semaphore` belongs to one thread."""

from __future__ import annotations

import threading
from collections import deque

import trio


class Slots:
    """So many places; who finds none waits in a queue."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._queue: deque[tuple[trio.lowlevel.TrioToken, trio.Event]] = deque()

    async def take(self) -> None:
        """Wait for a place."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            waiter = (trio.lowlevel.current_trio_token(), trio.Event())
            self._queue.append(waiter)
        try:
            await waiter[1].wait()
        except trio.Cancelled:
            with self._lock:
                is_queued = waiter in self._queue
                if is_queued:
                    self._queue.remove(waiter)
            if not is_queued:
                self.give_back()  # it was given one at this very moment
            raise

    def give_back(self) -> None:
        """Free a place; from any shard's thread."""
        while True:
            with self._lock:
                if not self._queue:
                    self._free += 1
                    return
                token, event = self._queue.popleft()
            try:
                token.run_sync_soon(event.set)
            except trio.RunFinishedError:
                continue  # that shard has ended: the next one
            return
