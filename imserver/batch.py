"""What one commit writes, and what waits for it: the rows, the plugins' SQL, and the frames that depend on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from imserver.errors import ConstraintViolated, StorageError, StorageUnavailable

if TYPE_CHECKING:
    from imserver.conversation import Undo
    from imserver.protocol.message import Message
    from imserver.session import Session

OPEN, DURABLE, FAILED = 0, 1, 2

#: What a frame that waits takes beside its bytes: the object, and its place in the list.
_HELD_BYTES = 200

Held = tuple["Session", bytes, object]  # the session, its frame, and the `rid` (an answer) or the body (a push)


class Write:
    """One atomic unit of a plugin's SQL in a batch. Await `Context.db.write` for its result."""

    __slots__ = ("error", "is_bound", "on_done", "results", "shard_index", "statements")

    def __init__(self, statements: Sequence[tuple[str, Any]], shard_index: int) -> None:
        self.statements = statements
        self.shard_index = shard_index
        #: The same handler appended messages: both are stored or neither is.
        self.is_bound = False
        self.results: list[list[tuple[Any, ...]]] = []
        self.error: StorageError | None = None
        #: Called in the shard that wrote it, when the batch is durable or failed.
        self.on_done: Callable[[], None] | None = None


def bytes_of(statements: Sequence[tuple[str, Any]]) -> int:
    """How much the bound values of SQL hold in memory; numbers count as nothing."""
    size = 0
    for _, params in statements:
        for value in params.values() if isinstance(params, dict) else params:
            if isinstance(value, (str, bytes)):
                size += len(value)
    return size


class Batch:
    """What one commit writes, and what waits for it."""

    __slots__ = (
        "cursors",
        "error",
        "frames",
        "held_bytes",
        "message_bytes",
        "message_params",
        "messages",
        "number",
        "opened",
        "rows",
        "state",
        "undo",
        "unreleased",
        "writes",
    )

    def __init__(self, number: int, shards: int) -> None:
        self.number = number
        self.state = OPEN
        self.error: StorageError | None = None
        self.rows = 0
        #: Of the bodies of messages.
        self.message_bytes = 0
        #: Of frames, each object once, and of the values of plugins' SQL. Shards add to it without a lock: it is for a
        #: bound, which one count lost in a million does not harm.
        self.held_bytes = 0
        #: The bound values of the one INSERT of messages, flat.
        self.message_params: list[Any] = []
        #: New conversations with their members: bound values.
        self.opened: list[tuple[tuple[Any, ...], list[tuple[Any, ...]]]] = []
        #: Read cursors: (conversation number, user) -> (read_seq, change number).
        self.cursors: dict[tuple[int, str], tuple[int, int]] = {}
        #: The plugins' writes, in order.
        self.writes: list[Write] = []
        #: By shard: the frames that may leave when this batch is durable.
        self.frames: list[list[Held]] = [[] for _ in range(shards)]
        #: By shard: the messages that shard appended, for `after_commit`.
        self.messages: list[list[Message]] = [[] for _ in range(shards)]
        #: How to take the open handler's changes of memory back, newest last; also tells what a failure touches.
        self.undo: list[Undo] = []
        #: Shards that have not released it yet.
        self.unreleased = shards

    @property
    def size_bytes(self) -> int:
        """What it makes the process hold, about."""
        return self.message_bytes + self.held_bytes + _HELD_BYTES * sum(map(len, self.frames))

    def forget_rows(self) -> None:
        """They are on disk. A conversation remembers its newest batch, which must not keep everything in it alive."""
        self.message_params = []
        self.opened = []
        self.cursors = {}
        self.undo = []


def write_result(write: Write) -> list[list[tuple[Any, ...]]]:
    """The rows of each statement of a finished write.

    Raises:
        ConstraintViolated: its own fault; nothing of it is stored.
        StorageUnavailable: the commit failed.
    """
    if write.error is None:
        return write.results
    if isinstance(write.error, ConstraintViolated):
        raise ConstraintViolated(str(write.error)) from write.error
    raise StorageUnavailable(str(write.error)) from write.error
