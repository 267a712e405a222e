"""The part of a handler in which it writes: one critical section, whole in one batch or taken back.

A handler reads before it writes. Its first write takes the journal's lock; the router gives it back when the handler has
returned, or takes everything back that the handler wrote if it raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from imserver.batch import Batch, Held, Write, bytes_of
from imserver.journal import Journal

if TYPE_CHECKING:
    from imserver.conversations import Conversations


class Section:
    """One shard's; handlers of a shard run one after another."""

    __slots__ = (
        "_conversations",
        "_depth",
        "_hand_on",
        "_has_lock",
        "_journal",
        "_shard_index",
        "_stood",
        "in_handler",
        "pushes",
    )

    def __init__(
        self,
        journal: Journal,
        conversations: Conversations,
        shard_index: int,
        hand_on: Callable[[Sequence[Held]], None],
    ) -> None:
        self._journal = journal
        self._conversations = conversations
        self._shard_index = shard_index
        self._hand_on = hand_on
        self._has_lock = False
        #: A `def` handler runs.
        self.in_handler = False
        #: Its pushes: handed on when it has returned, dropped if it raises.
        self.pushes: list[Held] = []
        self._depth = 0
        #: Where the batch stood when the handler first wrote: lengths of `undo`, `message_params`, `writes` and `messages`,
        #: the rows and the bytes.
        self._stood = (0, 0, 0, 0, 0, 0)

    def begin(self) -> None:
        """A `def` handler begins."""
        self.in_handler = True

    def enter(self) -> None:
        """Something is about to be written: from here to the handler's end nobody else writes."""
        self._depth += 1
        if self._has_lock:
            return
        self._journal.lock.acquire()
        self._has_lock = True
        batch = self._journal.current
        self._stood = (
            len(batch.undo), len(batch.message_params), len(batch.writes), len(batch.messages[self._shard_index]),
            batch.rows, batch.message_bytes,
        )  # fmt: skip

    def hold(self) -> None:
        """Nobody else writes until the handler has returned. Only while one runs."""
        self.enter()
        self._depth -= 1

    def leave(self) -> None:
        """The write is done. Outside of a `def` handler each write is a section of its own."""
        self._depth -= 1
        if not self.in_handler and not self._depth:
            self._has_lock = False
            self._journal.lock.release()

    def seal(self) -> list[Write] | None:
        """The handler has returned. Gives its SQL units, whose failure would make its answer an error.

        The answer is held before `release`: later, another shard might have opened a batch that it does not rest on.
        """
        self.in_handler = False
        if self.pushes:
            # Under the lock still, so that a conversation's pushes leave in its order.
            pushes, self.pushes = self.pushes, []
            self._hand_on(pushes)
        if not self._has_lock:
            return None
        batch = self._journal.current
        undo, _, writes_before, _, _, _ = self._stood
        if len(batch.writes) == writes_before:
            return None
        writes = batch.writes[writes_before:]
        if len(batch.undo) > undo:
            for write in writes:
                write.is_bound = True
        return writes

    @property
    def has_written(self) -> bool:
        """Something was written in this section, and others may not write yet."""
        return self._has_lock

    def release(self) -> None:
        """Behind `seal`: others may write."""
        if self._has_lock:
            self._has_lock = False
            self._journal.lock.release()

    def abandon(self) -> None:
        """The handler has raised: nothing that it wrote remains, nothing is pushed."""
        self.in_handler = False
        self.pushes.clear()
        if not self._has_lock:
            return
        batch = self._journal.current
        self._take_back(batch)
        self._has_lock = False
        self._journal.lock.release()

    def _take_back(self, batch: Batch) -> None:
        undo, params, writes, messages, rows, message_bytes = self._stood
        self._conversations.take_back(batch, undo, params)
        batch.rows = rows
        batch.message_bytes = message_bytes
        batch.held_bytes -= sum(bytes_of(write.statements) for write in batch.writes[writes:])
        del batch.writes[writes:]
        del batch.messages[self._shard_index][messages:]
