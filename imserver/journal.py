"""The journal: the one ordered writer (DESIGN: group commit, and release of what waited).

A **batch** holds the rows of all that happened since the last commit began, and the frames that depend on it. While one
batch is being committed, the next one fills; the writer thread takes it as soon as it is free. When a batch is durable
each shard is woken and sends the batch's frames on; when its commit failed, the shards answer its requests with 503 and
push nothing, and whatever memory knew from it is forgotten.

Locking: `lock` guards the open batch, the state of conversations and the Snowflakes. A shard takes it at a handler's
first write and keeps it to the handler's end, so that a request's writes lie in one batch, whole.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from imserver.batch import DURABLE, FAILED, Batch
from imserver.errors import InternalError, StorageError, StorageUnavailable
from imserver.log import get_logger

#: An open batch over one of these makes the shards stop reading until the disk has caught up.
MAX_BATCH_ROWS = 20_000
MAX_BATCH_BYTES = 32 << 20  # of message bodies, frames that wait and the values of plugins' SQL
#: How long the writer is idle before it looks after the WAL.
_IDLE_S = 0.05
_SAY_AGAIN_S = 1.0
#: So many commits' durations are kept for whoever looks.
RECENT_COMMITS = 1024


class Store(Protocol):
    """Where batches go. The embedded one is `imserver.storage.database.Database`."""

    def commit(self, batch: Batch) -> None:
        """Make the batch durable as one transaction. Runs in the writer's thread.

        A unit of `batch.writes` that breaks a constraint gets its `error` and is left out, unless the batch would be
        torn by that.

        Raises:
            StorageError: nothing of the batch is stored.
        """

    def tend(self, *, idle: bool) -> None:
        """Look after the files between commits (checkpoint in small steps). Must not raise."""


class Member(Protocol):
    """A shard as the journal sees it."""

    waiting: Any

    def wake(self) -> None:
        """Look at the batches; callable from any thread, never raises."""


class Journal:
    """Hands batches to the store, one at a time, in order.

    Args:
        store: where they go.
        on_failed: called under the lock with the batches of a failed commit, to forget what memory knew from them.
        monotonic: the clock for durations; tests put theirs here.
    """

    def __init__(
        self,
        store: Store,
        on_failed: Callable[[list[Batch]], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lock = threading.RLock()
        self._store = store
        self._on_failed = on_failed
        self._monotonic = monotonic
        self._shards: list[Member] = []
        self._numbers = 0
        #: The open batch, written to or not. Hold the lock.
        self.current = Batch(0, 0)
        self._is_dirty = False  # the open batch has something in it, and the shards know
        self._is_submitted = False  # a tick has ended since
        self._is_idle = True  # the writer waits for its signal
        self._is_stopping = False
        self._signal = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._log = get_logger("journal")
        self._said_at = -_SAY_AGAIN_S
        self._unsaid_failures = 0
        #: Commits that are durable, the messages in them, the seconds that they took, and those that failed.
        self.commits = 0
        self.messages = 0
        self.commit_s = 0.0
        self.failures = 0
        #: How long the newest commits took, in seconds.
        self.recent_commits_s: deque[float] = deque(maxlen=RECENT_COMMITS)
        #: The last commit succeeded, or there was none yet.
        self.is_healthy = True
        self._commit_began_at: float | None = None
        #: The batch that the writer has taken, until its commit has returned.
        self._in_flight: Batch | None = None

    # ------------------------------------------------------------ life

    def start(self, shards: Sequence[Member]) -> None:
        """Start the writer's thread; `shards` are those that get frames released, by their index."""
        self._shards = list(shards)
        self.current = self._new_batch()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Commit what is open and end the thread. Blocks; call it from a worker thread or after the loops ended.

        Returns:
            False: a commit has not returned in time. The thread goes on with it, and the store is in use; nobody was
            told that what is in it is stored.
        """
        if self._thread is None:
            return True
        self._is_stopping = True
        self._signal.release()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._log.critical(
                "journal_stuck",
                seconds=round(self.commit_age_s, 1),
                advice="the disk does not answer: what was not yet confirmed to its sender is given up",
            )
            return False
        self._thread = None
        return True

    @property
    def commit_age_s(self) -> float:
        """How long the commit that is under way has lasted; 0 without one. From any thread."""
        began_at = self._commit_began_at
        return 0.0 if began_at is None else max(0.0, self._monotonic() - began_at)

    @property
    def is_quiet(self) -> bool:
        """Nothing is open or in flight."""
        with self.lock:
            return self._is_idle and not self._is_dirty

    @property
    def is_dirty(self) -> bool:
        """The open batch has something in it."""
        return self._is_dirty

    @property
    def is_full(self) -> bool:
        """The open batch is at its bound: read nothing more until the writer has taken it.

        Answers to those who only read wait with the batch that the writer has, where nothing is open: a batch that has
        grown to twice the bound has done so there.
        """
        in_flight = self._in_flight
        return _is_over(self.current) or (in_flight is not None and _is_over(in_flight, times=2))

    # ------------------------------------------------------------ from the shards

    def open_batch(self) -> Batch:
        """The batch to write into. Hold the lock."""
        if not self._is_dirty:
            self._is_dirty = True
            for shard in self._shards:
                shard.waiting.append(self.current)
        return self.current

    def submit(self) -> None:
        """A tick has ended: what is open may be committed as soon as the writer is free."""
        if not self._is_dirty or self._is_submitted:
            return
        with self.lock:  # the writer may take or fail the batch at this very moment
            if self._is_dirty and not self._is_submitted:
                self._is_submitted = True
                if self._is_idle:
                    self._is_idle = False
                    self._signal.release()

    # ------------------------------------------------------------ the writer's thread

    def _new_batch(self) -> Batch:
        self._numbers += 1
        return Batch(self._numbers, len(self._shards))

    def _take(self) -> Batch | None:
        with self.lock:
            if not self._is_dirty or not (self._is_submitted or self._is_stopping):
                self._is_idle = True
                # A tick may have ended between the look and here; its signal went to a writer that seemed busy.
                if not (self._is_dirty and self._is_submitted):
                    return None
                self._is_idle = False
            batch = self.current
            self.current = self._new_batch()
            self._is_dirty = self._is_submitted = False
            self._in_flight = batch
            return batch

    def _run(self) -> None:
        while True:
            batch = self._take()
            if batch is not None:
                self._commit(batch)
                self._store.tend(idle=False)
            elif self._is_stopping:
                return
            elif not self._signal.acquire(timeout=_IDLE_S):
                self._store.tend(idle=True)
                self._signal.acquire()

    def _commit(self, batch: Batch) -> None:
        self._commit_began_at = started = self._monotonic()
        try:
            try:
                self._store.commit(batch)
            finally:
                self._commit_began_at = None
        except StorageError as exc:
            self._fail(batch, exc)
        except Exception as exc:  # the store's own fault: the batch is lost, the server is not
            self._log.exception("commit_fault", batch=batch.number)
            self._fail(batch, InternalStorageFault(str(exc)))
        else:
            took_s = self._monotonic() - started
            self.commits += 1
            self.commit_s += took_s
            self.recent_commits_s.append(took_s)
            self.messages += sum(map(len, batch.messages))
            self.is_healthy = True
            batch.forget_rows()
            batch.state = DURABLE
        self._in_flight = None
        for shard in self._shards:
            shard.wake()

    def _fail(self, batch: Batch, error: StorageError) -> None:
        self.failures += 1
        self.is_healthy = False
        with self.lock:
            failed = [batch]
            if self._is_dirty:
                # It was made from memory that the failed one had changed, so it cannot stand either.
                failed.append(self.current)
                self.current = self._new_batch()
                self._is_dirty = self._is_submitted = False
            self._on_failed(failed)
            for lost in failed:
                lost.error = error
                lost.forget_rows()
                for write in lost.writes:
                    write.error = write.error or StorageUnavailable(str(error))
                lost.state = FAILED
        self._unsaid_failures += 1
        now = self._monotonic()
        if now - self._said_at >= _SAY_AGAIN_S:  # a full disk fails every commit: one line a second tells it
            self._said_at = now
            self._log.error("commit_failed", failures=self._unsaid_failures, reason=str(error))
            self._unsaid_failures = 0


def _is_over(batch: Batch, *, times: int = 1) -> bool:
    """A batch holds as much as it may, or so many times as much."""
    return batch.rows >= times * MAX_BATCH_ROWS or batch.size_bytes >= times * MAX_BATCH_BYTES


class InternalStorageFault(StorageUnavailable, InternalError):
    """The store raised what it should not have."""
