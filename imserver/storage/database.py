"""The embedded store: SQLite in WAL mode with `synchronous=FULL`, through APSW.

One writer connection, used by the journal's thread alone, which is also the only one that checkpoints (two connections
that write or checkpoint at once met a corruption bug in SQLite before 3.51.3). A few read-only connections serve
`read_transaction`, each in a worker thread.

The hot path is few statements per commit: a driver drops the GIL at every step of a statement, and a thread that wants it
back beside a busy one may wait for the interpreter's switch interval each time.
"""

from __future__ import annotations

import fcntl
import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw
import trio

from imserver.batch import Batch, Write
from imserver.conversation import MESSAGE_COLUMN_NAMES, MESSAGE_COLUMNS
from imserver.errors import ConstraintViolated, StartError, StorageError, StorageUnavailable
from imserver.log import get_logger
from imserver.storage.migrations import APPLICATION_ID, CORE, DONE, migrate, missing
from imserver.storage.turns import Turns

Row = tuple[Any, ...]
Query = Callable[..., list[Row]]
T = TypeVar("T")

READERS = 4
_BUSY_TIMEOUT_MS = 2000  # how long a commit waits for another process's lock before it fails with 503

# To prepare an INSERT of many rows costs half as much as to carry it out, and hardly two batches have as many rows. So a
# long batch goes in pieces of sizes that recur, whose statements APSW keeps (up to 16 KiB of text); a short one in one.
_SHORT_ROWS = 127
_PIECES = (512, 256, 128, 64)

# Checkpoints, in WAL pages of 4 KiB: in an idle moment soon, under load before one gets long (some milliseconds).
_CHECKPOINT_IDLE_PAGES = 64
_CHECKPOINT_BUSY_PAGES = 2000

# A file larger than this is not read through at start: it would take minutes. `imserver backup verify`
# reads a copy through.
_QUICK_CHECK_MAX_BYTES = 1 << 30

# What a plugin's SQL or its values are to blame for: that unit fails, the commit goes on.
_BROKEN_UNIT = (
    apsw.ConstraintError,
    apsw.SQLError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.RangeError,
    apsw.BindingsError,
    TypeError,
    ValueError,  # a lone surrogate in a string
    OverflowError,  # an integer over 64 bits
)


def _pieces(rows: int) -> Iterator[int]:
    """The sizes of the INSERTs of so many messages."""
    for size in _PIECES:
        while rows >= size:
            yield size
            rows -= size
    if rows:
        yield rows


@lru_cache(maxsize=_SHORT_ROWS + len(_PIECES))
def _insert_messages(rows: int) -> str:
    values = "(" + ",".join("?" * MESSAGE_COLUMNS) + ")"
    return f"INSERT INTO messages ({MESSAGE_COLUMN_NAMES}) VALUES " + ",".join([values] * rows)


class Database:
    """The store of `imserver.journal` and the readers beside it.

    Args:
        data_dir: made if missing (mode 700); holds imserver.db and its lock.
        migrations: scripts by plugin name.
        vfs: the name of the SQLite VFS; tests put one with faults here.
        synchronous: FULL; anything less loses acked messages in a power cut, which a test proves.

    Raises:
        StartError: the folder or the file cannot be used; the message says which and why.
    """

    def __init__(
        self,
        data_dir: Path,
        migrations: Mapping[str, Sequence[str]],
        *,
        vfs: str | None = None,
        synchronous: str = "FULL",
    ) -> None:
        self.path = data_dir / "imserver.db"
        self._log = get_logger("storage")
        self._vfs = vfs
        self._wal_pages = 0
        with ExitStack() as on_failure:
            self._lock_file = on_failure.enter_context(_lock(data_dir))
            self._writer = _open_writer(self.path, vfs, synchronous)
            on_failure.callback(self._writer.close)
            self._writer.set_wal_hook(self._on_commit)
            with _start_errors(self.path):
                _check(self._writer, self.path)
                migrate(self._writer, {"core": CORE, **migrations})
            self._readers: queue.SimpleQueue[apsw.Connection] = queue.SimpleQueue()
            for _ in range(READERS):
                self._readers.put(_open_reader(self.path, vfs))
            on_failure.pop_all()
        self._turns: trio.lowlevel.RunVar[Turns | None] = trio.lowlevel.RunVar("readers", None)

    def close(self) -> None:
        """Checkpoint and close. The journal must have stopped; readers that still run keep their connection."""
        while True:
            try:
                self._readers.get_nowait().close()
            except queue.Empty:
                break
        # The disk may be full or gone: what the WAL holds is read at the next start.
        with suppress(apsw.Error):
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._writer.close()
        self._lock_file.close()

    # ------------------------------------------------------------ the journal's thread

    def commit(self, batch: Batch) -> None:
        """See `imserver.journal.Store.commit`."""
        try:
            if not (batch.opened or batch.cursors or batch.writes):
                rows = len(batch.message_params) // MESSAGE_COLUMNS
                if rows == 0:
                    return  # its handler took everything back
                if rows <= _SHORT_ROWS:
                    self._writer.execute(_insert_messages(rows), batch.message_params)
                    return
            self._writer.execute("BEGIN IMMEDIATE")
            self._write(batch)
            self._writer.execute("COMMIT")
        except apsw.Error as exc:
            raise _unavailable(exc) from exc
        finally:
            if not self._writer.get_autocommit():
                with suppress(apsw.Error):  # nothing to do about it: the next BEGIN would tell
                    self._writer.execute("ROLLBACK")

    def _write(self, batch: Batch) -> None:
        execute = self._writer.execute
        for conversation, members in batch.opened:
            execute("INSERT INTO conversations VALUES (?, ?, ?, ?)", conversation)
            values = ",".join(["(?, ?, ?, ?, ?, ?)"] * len(members))
            execute(
                f"INSERT INTO members (conversation, user_id, joined_seq, read_seq, hidden_seq, changed) VALUES {values}",
                [value for member in members for value in member],
            )
        start = 0
        for rows in _pieces(len(batch.message_params) // MESSAGE_COLUMNS):
            end = start + rows * MESSAGE_COLUMNS
            execute(_insert_messages(rows), batch.message_params[start:end])
            start = end
        for write in batch.writes:
            self._write_unit(write)
        if batch.cursors:
            # Behind the writes: one of them may have made the member. It may have put the cursor further, too.
            self._writer.executemany(
                "UPDATE members SET read_seq = max(read_seq, ?), changed = ? WHERE conversation = ? AND user_id = ?",
                [(*moved, *whose) for whose, moved in batch.cursors.items()],
            )

    def _write_unit(self, write: Write) -> None:
        execute = self._writer.execute
        execute("SAVEPOINT unit")
        try:
            write.results = [list(execute(sql, params)) for sql, params in write.statements]
        except _BROKEN_UNIT as exc:
            if write.is_bound:
                # Its handler appended messages as well: leaving out the one would tear the other.
                raise StorageUnavailable(f"a plugin's SQL failed beside messages of the same request: {exc}") from exc
            execute("ROLLBACK TO unit")
            write.results = []
            is_constraint = isinstance(exc, apsw.ConstraintError)
            write.error = ConstraintViolated(str(exc)) if is_constraint else StorageError(f"a plugin's SQL failed: {exc}")
        execute("RELEASE unit")

    def _on_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def tend(self, *, idle: bool) -> None:
        """Move the WAL's pages into the file, in small steps. See `imserver.journal.Store.tend`."""
        if self._wal_pages < (_CHECKPOINT_IDLE_PAGES if idle else _CHECKPOINT_BUSY_PAGES):
            return
        self._wal_pages = 0
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as exc:
            self._log.warning("checkpoint_failed", reason=str(exc))

    # ------------------------------------------------------------ readers

    async def read_transaction(self, read: Callable[[Query], T]) -> T:
        """Run `read(query)` in a worker thread, inside one read transaction on committed data; askers take turns.

        Raises:
            StorageUnavailable: the database cannot be read just now.
        """
        turns = self._turns.get()
        if turns is None:
            turns = Turns(READERS)
            self._turns.set(turns)
        limiter = cast("trio.CapacityLimiter", turns)  # as much of one as is asked for
        # A caller past its deadline goes on at once; the thread gives its connection back when it is done.
        return await trio.to_thread.run_sync(self._read, read, limiter=limiter, abandon_on_cancel=True)

    async def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """The rows of one SELECT on committed data."""
        return await self.read_transaction(lambda query: query(sql, params))

    def _read(self, read: Callable[[Query], T]) -> T:
        connection = self._readers.get()
        try:
            connection.execute("BEGIN")
            try:
                return read(lambda sql, params=(): connection.execute(sql, params).fetchall())
            finally:
                connection.execute("COMMIT")
        except apsw.SQLError as exc:
            raise StorageError(f"a query failed: {exc}") from exc
        except apsw.Error as exc:
            raise _unavailable(exc) from exc
        finally:
            self._readers.put(connection)

    def read_now(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """As `read`, blocking: for start and stop, before and after the loops run."""
        return self._read(lambda query: query(sql, params))


# ---------------------------------------------------------------- opening


def _lock(data_dir: Path) -> Any:
    """One server a folder: hold a lock on it for as long as the process lives."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_lock_file(data_dir)
        lock_file = open(data_dir / "imserver.lock", "a+")  # noqa: SIM115 - held open on purpose
    except OSError as exc:
        raise StartError(f"server.data_dir {data_dir} cannot be used: {exc.strerror or exc}") from exc
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        lock_file.close()
        raise StartError(
            f"server.data_dir {data_dir} is in use by another imserver; stop it, or give this one another data_dir"
        ) from exc
    return lock_file


def _make_lock_file(data_dir: Path) -> None:
    """When root works on another user's folder, that user's server must be able to open the lock afterwards."""
    if os.geteuid() != 0:
        return
    try:
        # New, so what is given away is no link to another file.
        descriptor = os.open(data_dir / "imserver.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        owner = data_dir.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


@contextmanager
def _start_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError) as exc:
        raise StartError(
            f"the database {path} is damaged ({exc}). Nothing was changed. Restore a backup, or salvage what can be read "
            f"with the `.recover` command of the sqlite3 program into a new file."
        ) from exc
    except apsw.Error as exc:
        raise StartError(f"the database {path} cannot be opened: {exc}") from exc


def _open_writer(path: Path, vfs: str | None, synchronous: str) -> apsw.Connection:
    with _start_errors(path):
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=256)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        application_id = connection.execute("PRAGMA application_id").get
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
        if application_id != APPLICATION_ID and tables:
            raise StartError(f"the database {path} belongs to another program; give imserver a data_dir of its own")
        if connection.execute("PRAGMA journal_mode = WAL").get != "wal":
            raise StartError(f"the database {path} cannot use WAL mode; data_dir must be on a local disk")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -65536")  # 64 MiB
        # Inside of a transaction each INSERT notes the pages that it changes, to undo it alone. Not in a file, page by page.
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection


def _open_reader(path: Path, vfs: str | None) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _check(connection: apsw.Connection, path: Path) -> None:
    if os.path.exists(path) and path.stat().st_size > _QUICK_CHECK_MAX_BYTES:
        return
    faults = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if faults != ["ok"]:
        raise apsw.CorruptError("; ".join(str(fault) for fault in faults))


def _unavailable(exc: apsw.Error) -> StorageUnavailable:
    reasons = {
        apsw.FullError: "the disk is full",
        apsw.BusyError: "the database is locked by another process",
        apsw.LockedError: "the database is locked by another process",
        apsw.ReadOnlyError: "the database is read-only",
        apsw.CorruptError: "the database is damaged",
        apsw.NotADBError: "the database is damaged",
    }
    reason = next((text for kind, text in reasons.items() if isinstance(exc, kind)), "the disk failed")
    return StorageUnavailable(f"{reason}: {exc}")


def _bring_up_to_date(connection: apsw.Connection, data_dir: Path, owners: Mapping[str, Sequence[str]]) -> None:
    """Make tables that this program needs, but not under a running server, which was made for others."""
    has_table = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'migrations'").get
    for owner, scripts in owners.items():
        done = dict(connection.execute(DONE, (owner,))) if has_table else {}
        if missing(owner, scripts, done, connection.db_filename("main")):
            try:
                lock_file = _lock(data_dir)
            except StartError as exc:
                raise StartError(
                    f"restart the server on {data_dir} first: its tables of `{owner}` are at migration "
                    f"{max(done, default=0)}, this program's are at {len(scripts)}; nothing was changed"
                ) from exc
            with lock_file:
                migrate(connection, owners)
            return


@contextmanager
def offline(data_dir: Path, migrations: Mapping[str, Sequence[str]]) -> Iterator[apsw.Connection]:
    """A connection for a command-line tool, also while a server runs on the same folder.

    It waits up to 5 s for the server's commits and never checkpoints. The caller writes inside `with connection:`.

    Raises:
        StartError: the database cannot be used, or a server runs on it that does not know this program's tables.
    """
    path = data_dir / "imserver.db"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StartError(f"server.data_dir {data_dir} cannot be used: {exc.strerror or exc}") from exc
    connection = _open_writer(path, None, "FULL")
    try:
        connection.set_busy_timeout(5000)
        with _start_errors(path):
            _bring_up_to_date(connection, data_dir, {"core": CORE, **migrations})
        # Closing the last connection would checkpoint: harmless when no server runs, and it is not the last when one does.
        yield connection
    except apsw.Error as exc:
        raise _unavailable(exc) from exc
    finally:
        connection.close()
