"""A bounded cache for plugins: what is used stays, the least recently used goes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from imserver.errors import NotLoaded

MAX_ENTRIES = 100_000
_MISSING = object()


class Cache:
    """Key to value, for one plugin, shared by all shards.

    Args:
        name: of the plugin; part of the key of loads.
        max_entries: beyond it the least recently used entry is dropped.
    """

    def __init__(self, name: str, max_entries: int = MAX_ENTRIES) -> None:
        self._name = name
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._drops: int = 0  # a load that ran while something was dropped may be stale
        #: The cache of the same plugin's other instance while a reload lets both run: what one drops or puts, the other
        #: drops, since their values may be of different code.
        self.twin: Cache | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value, or `default`."""
        with self._lock:
            value = self._entries.get(key, _MISSING)
            if value is _MISSING:
                return default
            self._entries.move_to_end(key)
            return value

    def put(self, key: Hashable, value: Any) -> None:
        """Keep a value; it replaces the one under the same key."""
        with self._lock:
            self._keep(key, value)
        twin = self.twin
        if twin is not None:
            twin._drop(key)

    def pop(self, key: Hashable) -> None:
        """Forget a key; a load of it that is under way is done again."""
        self._drop(key)
        twin = self.twin
        if twin is not None:
            twin._drop(key)

    def _drop(self, key: Hashable) -> None:
        with self._lock:
            self._drops += 1
            self._entries.pop(key, None)

    def load(self, key: Hashable, loader: Callable[[], Awaitable[Any]]) -> Any:
        """The value; for `def` handlers.

        Raises:
            NotLoaded: it is not here; the router awaits `loader()`, keeps what it returns, and runs the handler again.
        """
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise NotLoaded(lambda: self.fetch(key, loader), (self._name, key))
        return value

    async def fetch(self, key: Hashable, loader: Callable[[], Awaitable[Any]]) -> Any:
        """The value, loaded if need be; for `async def` handlers."""
        value = self.get(key, _MISSING)
        while value is _MISSING:
            drops = self._drops
            loaded = await loader()
            with self._lock:
                value = self._entries.get(key, _MISSING)  # what was put meanwhile is newer
                if value is _MISSING and drops == self._drops:
                    value = loaded
                    self._keep(key, value)
        return value

    def _keep(self, key: Hashable, value: Any) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
