"""`ctx.db`: reads of committed data, and writes that join the group commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from imserver.batch import Write, write_result

if TYPE_CHECKING:
    from imserver.context.application import AppContext
    from imserver.shard import Shard
    from imserver.storage.database import Query, Row

T = TypeVar("T")


class Pending(Awaitable[Any]):
    """A write that is part of a commit to come. Awaiting it is optional; it need not be awaited to happen."""

    def __init__(self, write: Write, *, is_single: bool) -> None:
        self._write = write
        self._is_single = is_single
        self._done = trio.Event()
        write.on_done = self._done.set

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait until the commit is durable.

        Raises:
            ConstraintViolated: the write broke a constraint; nothing of it is stored.
            StorageUnavailable: the commit failed.
        """
        return self._result().__await__()

    async def _result(self) -> Any:
        await self._done.wait()
        results = write_result(self._write)
        return results[0] if self._is_single else results


class PluginDatabase:
    """The database as a plugin has it: reads of committed data, writes that join the group commit."""

    def __init__(self, shard: Shard, context: AppContext) -> None:
        self._shard = shard
        self._context = context

    async def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """The rows of one SELECT, on committed data, in a worker thread."""
        return await self._shard.database.read(sql, params)

    async def read_transaction(self, read: Callable[[Query], T]) -> T:
        """Run `read(query)` in a worker thread; all its `query(sql, params)` see the same state."""
        return await self._shard.database.read_transaction(read)

    def write(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> Pending:
        """One statement in the commit to come; awaited, it gives the rows of its RETURNING.

        In a `def` handler just call it: the answer waits for the commit, and is an error if the write fails.
        """
        write = self._shard.write([(sql, params)])
        self._context.has_written()
        return Pending(write, is_single=True)

    def write_all(self, statements: Sequence[tuple[str, Any]]) -> Pending:
        """Several statements, all or none; awaited, it gives each one's rows."""
        write = self._shard.write(statements)
        self._context.has_written()
        return Pending(write, is_single=False)
