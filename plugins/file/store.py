"""The tables of files and who holds them, and all SQL of this plugin.

A row comes before its bytes and goes after them, so that a crash in between leaves a row that tells of it:

    reserve → (bytes) → finish → hold            condemn → (bytes go) → forget

A conversation holds a file as long as one of its messages names it. `file_messages` has each of those messages,
`file_holders` the conversations; both are written in the commit of the message or of its change, from what the commit itself
has stored by then. So a message that was refused after all, a duplicate, or one that was only looked at leaves nothing; and
since all commits are made one after another, the last message that goes and the next one that comes cannot miss each other.

A message ends without a word to anybody here when its time is over or when it is too old to be kept. Who may read is
therefore always looked up among the messages themselves; rows of those that have gone are found later (`messages_over`,
`look_through`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol

from attrs import frozen

Statement = tuple[str, Sequence[Any]]
Row = tuple[Any, ...]

#: States of a row.
UPLOADING, FINISHED, CONDEMNED = 0, 1, 2
#: Types of messages whose body names a file, and those where it may.
OF_FILES: Final = frozenset({"image", "file", "audio", "video"})
MAY_NAME: Final = OF_FILES | {"custom"}

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
    """
    -- The messages that name a file which their conversation holds: see above.
    CREATE TABLE file_messages (
        conversation INTEGER NOT NULL,           -- its number
        seq INTEGER NOT NULL,
        file_id TEXT NOT NULL,
        expires_at INTEGER,                      -- the message's; NULL: it does not end by itself
        PRIMARY KEY (conversation, seq, file_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX file_messages_by_file ON file_messages (file_id, conversation, seq);
    CREATE INDEX file_messages_by_expiry ON file_messages (expires_at) WHERE expires_at IS NOT NULL;

    -- Those from before. In MessagePack a key `file_id` with an id is these ten bytes and the id; anywhere in the body.
    WITH RECURSIVE hits (conversation, seq, expires_at, rest) AS (
        SELECT conversation, seq, expires_at, substr(body, instr(body, x'a766696c655f6964d920') + 10) FROM messages
        WHERE type IN ('image', 'file', 'audio', 'video', 'custom') AND instr(body, x'a766696c655f6964d920') > 0
        UNION ALL
        SELECT conversation, seq, expires_at, substr(rest, instr(rest, x'a766696c655f6964d920') + 10) FROM hits
        WHERE instr(rest, x'a766696c655f6964d920') > 0
    )
    INSERT OR IGNORE INTO file_messages (conversation, seq, file_id, expires_at)
    SELECT m.conversation, m.seq, h.file_id, m.expires_at FROM hits AS m JOIN conversations AS c ON c.number = m.conversation
    JOIN file_holders AS h ON h.file_id = CAST(substr(m.rest, 1, 32) AS TEXT) AND h.conversation_id = c.conversation_id;

    -- What no message names any more goes as any file does that nobody holds, a day from now.
    DELETE FROM file_holders WHERE NOT EXISTS (
        SELECT 1 FROM file_messages AS n JOIN conversations AS c ON c.number = n.conversation
        WHERE n.file_id = file_holders.file_id AND c.conversation_id = file_holders.conversation_id
    );
    UPDATE files SET expires_at = unixepoch() * 1000 + 86400000
    WHERE expires_at IS NULL AND NOT EXISTS (SELECT 1 FROM file_holders AS h WHERE h.file_id = files.file_id);
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


@frozen
class Named:
    """A message that names a file, or has."""

    conversation: int  # its number
    seq: int


_COLUMNS = "file_id, owner, state, name, type, size, sha256, image, resumable, created_at, expires_at"
_USAGE = f"SELECT coalesce(sum(size), 0) AS used, count(*) AS files FROM files WHERE owner = ? AND state <> {CONDEMNED}"
#: Behind every time.
FAR_MS = 1 << 62
_NUMBER: Final = "(SELECT number FROM conversations WHERE conversation_id = ?)"


def _names(file_id: str) -> str:
    """SQL: the message `m` names the file: the id, which is random, is in its body."""
    types = ", ".join(f"'{name}'" for name in sorted(MAY_NAME))
    return f"m.type IN ({types}) AND instr(m.body, CAST({file_id} AS BLOB)) > 0"


#: The message that the row `n` of `file_messages` stands for is there and names the file; its parameter is the present time.
_IS_THERE: Final = (
    "EXISTS (SELECT 1 FROM messages AS m WHERE m.conversation = n.conversation AND m.seq = n.seq"
    f" AND {_names('n.file_id')} AND (m.expires_at IS NULL OR m.expires_at > ?))"
)


def _file(row: Row) -> File:
    file_id, owner, state, name, type_, size, sha256, image, resumable, created_at, expires_at = row
    return File(file_id, owner, state, name, type_, size, sha256, image, bool(resumable), created_at, expires_at)


# ---------------------------------------------------------------- reading


async def find(db: Database, file_id: str) -> File | None:
    """A file, whatever its state."""
    rows = await db.read(f"SELECT {_COLUMNS} FROM files WHERE file_id = ?", (file_id,))
    return _file(rows[0]) if rows else None


async def holders(db: Database, file_id: str, now_ms: int) -> list[str]:
    """The conversations that hold a file at this moment."""
    rows = await db.read(
        "SELECT h.conversation_id FROM file_holders AS h JOIN conversations AS c ON c.conversation_id = h.conversation_id"
        " WHERE h.file_id = ? AND EXISTS (SELECT 1 FROM file_messages AS n"
        # The newest first: it is the last one to go, as a rule.
        f" WHERE n.file_id = h.file_id AND n.conversation = c.number AND {_IS_THERE} ORDER BY n.seq DESC LIMIT 1)",
        (file_id, now_ms),
    )
    return [row[0] for row in rows]


async def messages_over(db: Database, now_ms: int, limit: int) -> list[Named]:
    """Messages whose time (`expires_in_ms`) is over, longest over first."""
    rows = await db.read(
        "SELECT conversation, seq FROM file_messages WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (now_ms, limit)
    )
    return [Named(*row) for row in rows]


async def messages_gone_of(db: Database, file_id: str, now_ms: int, limit: int) -> list[Named]:
    """Messages that do not name this file any more, among so many of it."""
    rows = await db.read(
        "SELECT n.conversation, n.seq FROM (SELECT * FROM file_messages WHERE file_id = ? LIMIT ?) AS n"
        f" WHERE NOT {_IS_THERE}",
        (file_id, limit, now_ms),
    )
    return [Named(*row) for row in rows]


async def look_through(db: Database, after: Named, now_ms: int, limit: int) -> tuple[list[Named], Named | None]:
    """Look through the next messages behind one.

    Returns:
        Those that do not name their file any more, and the one to go on behind; None: that was all.
    """
    rows = await db.read(
        f"SELECT n.conversation, n.seq, {_IS_THERE} FROM file_messages AS n"
        " WHERE (n.conversation, n.seq) > (?, ?) ORDER BY n.conversation, n.seq LIMIT ?",
        (now_ms, after.conversation, after.seq, limit),
    )
    gone = [Named(conversation, seq) for conversation, seq, is_there in rows if not is_there]
    return gone, Named(*rows[-1][:2]) if len(rows) == limit else None


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


# No statement of these three can fail by what it finds.


def hold(file_id: str, conversation_id: str, seq: int, now_ms: int) -> list[Statement]:
    """If this message is there now and names the file, its conversation holds it: the file does not expire any more."""
    return [
        (
            "INSERT INTO file_messages (conversation, seq, file_id, expires_at)"
            " SELECT m.conversation, m.seq, ?, m.expires_at FROM messages AS m"
            f" WHERE m.conversation = {_NUMBER} AND m.seq = ? AND {_names('?')} ON CONFLICT DO NOTHING",
            (file_id, conversation_id, seq, file_id),
        ),
        (
            "INSERT INTO file_holders (file_id, conversation_id, held_at) SELECT ?, ?, ? WHERE EXISTS"
            f" (SELECT 1 FROM file_messages WHERE conversation = {_NUMBER} AND seq = ? AND file_id = ?)"
            " ON CONFLICT DO NOTHING",
            (file_id, conversation_id, now_ms, conversation_id, seq, file_id),
        ),
        (
            "UPDATE files SET expires_at = NULL WHERE file_id = ? AND expires_at IS NOT NULL"
            " AND EXISTS (SELECT 1 FROM file_holders AS h WHERE h.file_id = files.file_id)",
            (file_id,),
        ),
    ]


def release(conversation_id: str, seq: int, *, kept: str | None, expires_at: int) -> list[Statement]:
    """This message names `kept` and nothing else any more; the last statement returns the files that it did name.

    Args:
        expires_at: of a file that no conversation holds now.
    """
    which = f"n.conversation = {_NUMBER} AND n.seq = ? AND n.file_id IS NOT ?"
    return _released(which, (conversation_id, seq, kept), expires_at)


def release_gone(named: Named, now_ms: int, *, expires_at: int) -> list[Statement]:
    """The same for a message that was found not to name its file any more, if that is still so."""
    which = f"n.conversation = ? AND n.seq = ? AND NOT {_IS_THERE}"
    return _released(which, (named.conversation, named.seq, now_ms), expires_at)


def _released(which: str, params: Sequence[object], expires_at: int) -> list[Statement]:
    """Take rows of `file_messages` away, all of one message, and what stood by them alone.

    Args:
        which: SQL: it is the row `n`.
    """
    return [
        (
            "DELETE FROM file_holders WHERE (file_id, conversation_id) IN ("
            "SELECT n.file_id, c.conversation_id FROM file_messages AS n"
            f" JOIN conversations AS c ON c.number = n.conversation WHERE {which}"
            " AND NOT EXISTS (SELECT 1 FROM file_messages AS o"
            " WHERE o.file_id = n.file_id AND o.conversation = n.conversation AND o.seq <> n.seq))",
            params,
        ),
        (
            f"UPDATE files SET expires_at = ? WHERE file_id IN (SELECT n.file_id FROM file_messages AS n WHERE {which})"
            " AND expires_at IS NULL AND NOT EXISTS (SELECT 1 FROM file_holders AS h WHERE h.file_id = files.file_id)",
            (expires_at, *params),
        ),
        (f"DELETE FROM file_messages AS n WHERE {which} RETURNING file_id", params),
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
