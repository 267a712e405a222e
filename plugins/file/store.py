"""The tables of files and who holds them, and all SQL of this plugin.

A row comes before its bytes and goes after them, so that a crash in between leaves a row that tells of it:

    reserve → (bytes) → finish → hold            condemn → (bytes go) → forget
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from attrs import frozen

Statement = tuple[str, Sequence[Any]]
Row = tuple[Any, ...]

#: States of a row.
UPLOADING, FINISHED, CONDEMNED = 0, 1, 2

MIGRATIONS = (
    """
    CREATE TABLE files (
        file_id TEXT NOT NULL PRIMARY KEY,       -- 32 hexadecimal digits, random
        owner TEXT NOT NULL,
        state INTEGER NOT NULL,                  -- 0: being uploaded, 1: finished, 2: its bytes are to be removed
        name TEXT NOT NULL,
        type TEXT NOT NULL,                      -- what the client said; '': nothing yet
        size INTEGER NOT NULL,                   -- what counts against the quota; of an upload: what is reserved for it
        sha256 BLOB,                             -- of an upload: what the client says that it will be
        image TEXT,                              -- the type of a picture that may be shown, by its first bytes
        resumable INTEGER NOT NULL,              -- the client may go on with it on another connection
        created_at INTEGER NOT NULL,
        expires_at INTEGER                       -- NULL: a conversation holds it
    ) STRICT, WITHOUT ROWID;
    -- With all that the quota's sum needs.
    CREATE INDEX files_by_owner ON files (owner, created_at, file_id, state, size);
    CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
    CREATE INDEX files_unfinished ON files (file_id) WHERE state <> 1;

    -- The conversations that hold a file: one of its messages names it, sent by somebody who could read it.
    CREATE TABLE file_holders (
        file_id TEXT NOT NULL,
        conversation_id TEXT NOT NULL,
        held_at INTEGER NOT NULL,
        PRIMARY KEY (file_id, conversation_id)
    ) STRICT, WITHOUT ROWID;
    """,
)


class Database(Protocol):
    """What is used of `ctx.db`."""

    async def read(self, sql: str, params: Sequence[Any] = ..., /) -> list[Row]:
        """Committed rows."""

    def write(self, sql: str, params: Sequence[Any] = ..., /) -> Awaitable[list[Row]]:
        """Joins the open commit; the rows of RETURNING once it is durable."""

    def write_all(self, statements: Sequence[Statement], /) -> Awaitable[list[list[Row]]]:
        """The same for several statements: all or none."""


@frozen
class File:
    """A row of `files`."""

    file_id: str
    owner: str
    state: int
    name: str
    type: str
    size: int
    sha256: bytes | None
    image: str | None
    resumable: bool
    created_at: int
    expires_at: int | None


@frozen
class Usage:
    """What a user has: bytes as the quota counts them, and rows."""

    used: int
    files: int


_COLUMNS = "file_id, owner, state, name, type, size, sha256, image, resumable, created_at, expires_at"
_USAGE = f"SELECT coalesce(sum(size), 0) AS used, count(*) AS files FROM files WHERE owner = ? AND state <> {CONDEMNED}"
#: Behind every time.
FAR_MS = 1 << 62


def _file(row: Row) -> File:
    file_id, owner, state, name, type_, size, sha256, image, resumable, created_at, expires_at = row
    return File(file_id, owner, state, name, type_, size, sha256, image, bool(resumable), created_at, expires_at)


# ---------------------------------------------------------------- reading


async def find(db: Database, file_id: str) -> File | None:
    """A file, whatever its state."""
    rows = await db.read(f"SELECT {_COLUMNS} FROM files WHERE file_id = ?", (file_id,))
    return _file(rows[0]) if rows else None


async def holders(db: Database, file_id: str) -> list[str]:
    """The conversations that hold a file."""
    rows = await db.read("SELECT conversation_id FROM file_holders WHERE file_id = ?", (file_id,))
    return [row[0] for row in rows]


async def usage(db: Database, owner: str) -> Usage:
    """What a user has."""
    return Usage(*(await db.read(_USAGE, (owner,)))[0])


async def page(db: Database, owner: str, before: tuple[int, str] | None, limit: int) -> list[File]:
    """A user's finished files, newest first, behind the one with this (created_at, file_id)."""
    rows = await db.read(
        f"SELECT {_COLUMNS} FROM files WHERE owner = ? AND state = {FINISHED} AND (created_at, file_id) < (?, ?)"
        " ORDER BY created_at DESC, file_id DESC LIMIT ?",
        (owner, *(before or (FAR_MS, "")), limit),
    )
    return [_file(row) for row in rows]


async def expired(db: Database, now_ms: int, limit: int) -> list[File]:
    """Files and uploads whose time is over."""
    rows = await db.read(
        f"SELECT {_COLUMNS} FROM files WHERE expires_at <= ? AND state <> {CONDEMNED} ORDER BY expires_at LIMIT ?",
        (now_ms, limit),
    )
    return [_file(row) for row in rows]


async def left_behind(db: Database, after: str, limit: int) -> list[File]:
    """What is neither a finished file nor an upload that can be resumed, by id behind `after`; some may be under way."""
    rows = await db.read(
        f"SELECT {_COLUMNS} FROM files WHERE state <> 1 AND file_id > ?"
        f" AND (state = {CONDEMNED} OR resumable = 0) ORDER BY file_id LIMIT ?",
        (after, limit),
    )
    return [_file(row) for row in rows]


async def known(db: Database, file_ids: Sequence[str]) -> set[str]:
    """Which of these ids have a row; 500 at most."""
    marks = ", ".join("?" * len(file_ids))
    rows = await db.read(f"SELECT file_id FROM files WHERE file_id IN ({marks})", file_ids)
    return {row[0] for row in rows}


# ---------------------------------------------------------------- writing


@frozen
class NewFile:
    """What an upload begins with."""

    file_id: str
    owner: str
    name: str
    type: str
    sha256: bytes | None
    resumable: bool
    now_ms: int
    expires_at: int


def reserve(new: NewFile, *, at_most: int, at_least: int, quota: int, max_files: int) -> Statement:
    """An upload's row; returns the (bytes) that are reserved for it, or nothing where there is no room.

    It is one statement, and all writes are made one after another: uploads at the same time cannot pass the quota together.

    Args:
        at_most: what is reserved if there is room for it, else what room there is.
        at_least: if there is less room than this, nothing is.
    """
    sql = (
        f"INSERT INTO files ({_COLUMNS})"
        f" SELECT ?, ?, {UPLOADING}, ?, ?, min(?, ? - used), ?, NULL, ?, ?, ? FROM ({_USAGE})"
        " WHERE used + ? <= ? AND files < ? RETURNING size"
    )
    return sql, (
        new.file_id, new.owner, new.name, new.type, at_most, quota, new.sha256, int(new.resumable), new.now_ms,
        new.expires_at, new.owner, at_least, quota, max_files,
    )  # fmt: skip


def finish(file_id: str, *, size: int, type: str, sha256: bytes, image: str | None, expires_at: int) -> Statement:
    """The upload is a file now; returns its row, or nothing if it has gone meanwhile."""
    sql = (
        f"UPDATE files SET state = {FINISHED}, size = ?, type = ?, sha256 = ?, image = ?, expires_at = ?"
        f" WHERE file_id = ? AND state = {UPLOADING} RETURNING {_COLUMNS}"
    )
    return sql, (size, type, sha256, image, expires_at, file_id)


def finished(rows: Sequence[Row]) -> File | None:
    """What `finish` returned."""
    return _file(rows[0]) if rows else None


def hold(file_id: str, conversation_id: str, now_ms: int) -> list[Statement]:
    """A conversation holds the file: it does not expire any more. No statement here can fail by what it finds."""
    return [
        (
            "INSERT INTO file_holders (file_id, conversation_id, held_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (file_id, conversation_id, now_ms),
        ),
        ("UPDATE files SET expires_at = NULL WHERE file_id = ? AND expires_at IS NOT NULL", (file_id,)),
    ]


def condemn_unfinished(file_id: str) -> Statement:
    """The bytes of what is no finished file are to be removed; returns a row if so, also if that was so before."""
    return f"UPDATE files SET state = {CONDEMNED} WHERE file_id = ? AND state <> {FINISHED} RETURNING file_id", (file_id,)


def condemn_unheld(file_id: str, *, expired_by_ms: int) -> Statement:
    """The same for what no conversation holds and whose time is over at this moment."""
    sql = f"UPDATE files SET state = {CONDEMNED} WHERE file_id = ? AND expires_at <= ? RETURNING file_id"
    return sql, (file_id, expired_by_ms)


def forget(file_id: str) -> Statement:
    """The bytes of a condemned file are gone."""
    return f"DELETE FROM files WHERE file_id = ? AND state = {CONDEMNED}", (file_id,)
