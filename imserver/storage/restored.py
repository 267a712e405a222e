"""What a restored database is changed in before a server runs on it, so that no client takes new messages for old ones.

Clients may know more than the backup does: messages that were sent after it was made have numbers (`seq`) that the restored
server would give out again, to other messages. A client that has them would take the new ones for those, and not show them.
So each conversation goes on behind a gap that no client has been to: one row without content stands for all numbers in
between, as for a message whose time is over. It is a new change, too: whatever cursor a device has, its next SYNC shows it
all of its conversations. Conversations that begin later begin behind the gap (`Restored.first_seq`).
"""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from imserver.snowflake import EPOCH_MS
from imserver.storage.backup import BackupError
from imserver.storage.changes import NO_BODY

#: Messages of one conversation between the backup and the restore; more than were ever measured in a day.
MIN_GAP = 1_000_000
#: The numbers behind a gap come from the clock, in tenths of a second since 2024: whoever restores the same backup twice
#: gets others each time, unless a conversation had ten messages a second all the while.
_MS_PER_NUMBER = 100

_LAST = "coalesce((SELECT max(seq) FROM messages WHERE conversation = c.number), 0)"
_LAST_REV = "coalesce((SELECT max(rev) FROM messages WHERE conversation = c.number), 0)"
_NEWEST = "max(c.changed, coalesce((SELECT id FROM messages WHERE conversation = c.number ORDER BY seq DESC LIMIT 1), 0))"


def go_on_behind_a_gap(path: Path, now_ms: int | None = None) -> int:
    """Change a database that no server uses, in one commit. Returns the `seq` that all conversations go on behind.

    Args:
        path: of a copy of one's own.

    Raises:
        BackupError: it cannot be written.
    """
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                floor = _change(connection, now_ms)
            # No -wal beside it: the file alone is moved to its place.
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()
    except apsw.Error as exc:
        raise BackupError(f"the restored database {path} cannot be prepared: {exc}") from exc
    return floor


def _change(connection: apsw.Connection, now_ms: int) -> int:
    def one(sql: str) -> int:
        return int(connection.execute(sql).fetchall()[0][0] or 0)

    has_departures = bool(one("SELECT count(*) FROM sqlite_schema WHERE name = 'departures'"))
    newest = max(
        one("SELECT max(id) FROM messages"),
        one("SELECT max(changed) FROM members"),
        one("SELECT max(changed) FROM conversations"),
        one("SELECT max(changed) FROM departures") if has_departures else 0,
        one("SELECT max(value) FROM meta WHERE key = 'folded'"),
    )
    # Change numbers are Snowflakes. A whole millisecond that nobody had: the server goes on behind the last of these.
    base = max((now_ms - EPOCH_MS) << 22, ((newest >> 22) + 1) << 22)
    floor = max((now_ms - EPOCH_MS) // _MS_PER_NUMBER, one("SELECT max(seq) FROM messages") + MIN_GAP)
    floor = max(
        floor,
        one("SELECT max(rev) FROM messages") + MIN_GAP,
        one("SELECT max(value) FROM meta WHERE key = 'first_seq'") + MIN_GAP,
    )
    # Numbered in the order of what was newest: lists of conversations stay in order.
    connection.execute(
        "CREATE TEMP TABLE gaps AS SELECT c.number AS conversation, "
        f"{_LAST} AS last_seq, {_LAST_REV} AS last_rev, row_number() OVER (ORDER BY {_NEWEST}, c.number) AS place "
        "FROM conversations AS c"
    )
    connection.execute("CREATE UNIQUE INDEX temp.gaps_by_conversation ON gaps (conversation)")
    # Its `silent` is how many numbers it stands for; `rev` stays as far ahead of `seq` as it was.
    connection.execute(
        "INSERT INTO messages (id, conversation, seq, rev, silent, sender, client_id, type, body, expires_at) "
        "SELECT ?1 + place, conversation, ?2, ?2 + last_rev - last_seq, ?2 - last_seq, '', '', 'system', ?3, 0 "
        "FROM gaps ORDER BY place",
        (base, floor, NO_BODY),
    )
    connection.execute(
        "UPDATE conversations SET changed = ?1 + place FROM gaps WHERE gaps.conversation = conversations.number", (base,)
    )
    # Who had read, hidden or confirmed all has all.
    for table, column in (("members", "read_seq"), ("members", "hidden_seq"), ("deliveries", "seq")):
        connection.execute(
            f"UPDATE {table} SET {column} = ?1 FROM gaps WHERE gaps.conversation = {table}.conversation "
            f"AND {table}.{column} >= gaps.last_seq AND {table}.{column} > 0",
            (floor,),
        )
    if has_departures:
        places = one("SELECT count(*) FROM gaps")
        connection.execute(
            "UPDATE departures SET changed = ?1 + later.place FROM (SELECT user_id, conversation, "
            "row_number() OVER (ORDER BY changed, user_id, conversation) AS place FROM departures) AS later "
            "WHERE later.user_id = departures.user_id AND later.conversation = departures.conversation",
            (base + places,),
        )
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('first_seq', ?)", (floor,))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('restored_at', ?)", (now_ms,))
    connection.execute("DROP TABLE temp.gaps")
    return floor
