"""What waits for delivery, and all SQL of this plugin.

Messages wait in the table they are stored in: their ids, Snowflakes, are in the order of commits, so how far a lane has
come is one number, and a message costs nothing until it is read for delivery. Other events have a row a target.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
Read = Callable[..., list[Row]]

MIGRATIONS: Final = (
    """
    -- Messages up to `through` were delivered to a target, those of a lane: the conversations whose number is the lane's
    -- modulo `lanes`.
    CREATE TABLE webhook_cursors (
        target TEXT NOT NULL, lanes INTEGER NOT NULL, lane INTEGER NOT NULL, through INTEGER NOT NULL,
        PRIMARY KEY (target, lane)
    ) STRICT, WITHOUT ROWID;

    -- Events that are no messages; created_at: milliseconds since the Unix epoch; spread: what decides the lane
    CREATE TABLE webhook_outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, spread INTEGER NOT NULL, event_id TEXT NOT NULL,
        event TEXT NOT NULL, created_at INTEGER NOT NULL, payload BLOB NOT NULL, UNIQUE (target, event_id)
    ) STRICT;

    -- Those that were given up, for `imserver webhook`
    CREATE TABLE webhook_dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, spread INTEGER NOT NULL, event_id TEXT NOT NULL,
        event TEXT NOT NULL, created_at INTEGER NOT NULL, payload BLOB NOT NULL, failed_at INTEGER NOT NULL,
        reason TEXT NOT NULL
    ) STRICT;
    """,
)

#: Messages that one look for work goes over, and the bytes of those that one post takes.
SCANNED: Final = 1000
MAX_POST_BYTES: Final = 1 << 20


@frozen
class Waiting:
    """An event that waits for a target; `row` is its row in the outbox, None for a message."""

    event_id: str
    event: str
    created_at: int
    spread: int
    payload: bytes
    row: int | None = None


@frozen
class Place:
    """Where a message is that waits."""

    message_id: int
    conversation_id: str
    number: int
    seq: int


@frozen
class Scan:
    """Some of what waits behind a cursor: messages for this lane, and how far the table was looked at."""

    found: list[Place]
    through: int
    #: There is more behind `through`.
    has_more: bool


def spread_of(key: str) -> int:
    """What decides the lane of the events that are to stay in order."""
    return zlib.crc32(key.encode())


# ---------------------------------------------------------------- messages


def begin_lanes(read: Read, target: str, lanes: int) -> tuple[list[Statement], list[int]]:
    """Where each lane of a target begins: where it ended, or at the newest message for a target that is new."""
    rows = read("SELECT lanes, lane, through FROM webhook_cursors WHERE target = ? ORDER BY lane", (target,))
    if rows and rows[0][0] == lanes and len(rows) == lanes:
        return [], [through for _, _, through in rows]
    # Other lanes than before: all begin where the last of the old ones was. What the others had comes again.
    ends = [through for _, _, through in rows]
    start = min(ends) if ends else read("SELECT coalesce(max(id), 0) FROM messages")[0][0]
    statements: list[Statement] = [end_lanes(target)]
    statements += [
        ("INSERT INTO webhook_cursors VALUES (?, ?, ?, ?)", (target, lanes, lane, start)) for lane in range(lanes)
    ]
    return statements, [start] * lanes


def end_lanes(target: str) -> Statement:
    """A target has no place among the messages any more."""
    return "DELETE FROM webhook_cursors WHERE target = ?", (target,)


def advance(target: str, lane: int, through: int) -> Statement:
    """A lane has come so far."""
    return "UPDATE webhook_cursors SET through = ? WHERE target = ? AND lane = ?", (through, target, lane)


def scan(read: Read, after: int, lanes: int, lane: int, types: Sequence[str], limit: int) -> Scan:
    """What waits for a lane behind a cursor, oldest first; as much as goes into one post."""
    marks = ",".join("?" * len(types))
    of_types = f" AND type IN ({marks})" if types else ""
    rows = read(
        "SELECT m.id, c.conversation_id, m.conversation, m.seq, m.bytes FROM ("
        "SELECT id, conversation, seq, type, length(body) AS bytes, silent FROM messages WHERE id > ? ORDER BY id LIMIT ?"
        ") AS m JOIN conversations AS c ON c.number = m.conversation "
        # A row that stands for several numbers is no message, but the gap behind a restore.
        f"WHERE m.conversation % ? = ? AND coalesce(m.silent, 0) <= 1{of_types} ORDER BY m.id LIMIT ?",
        (after, SCANNED, lanes, lane, *types, limit + 1),
    )
    found: list[Place] = []
    total = 0
    for message_id, conversation_id, number, seq, size in rows[:limit]:
        total += size
        if found and total > MAX_POST_BYTES:
            break
        found.append(Place(message_id, conversation_id, number, seq))
    if len(found) < len(rows):
        return Scan(found, found[-1].message_id, True)
    count, last = read(
        "SELECT count(*), max(id) FROM (SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT ?)", (after, SCANNED)
    )[0]
    return Scan(found, last or after, count == SCANNED)


# ---------------------------------------------------------------- other events


def put(target: str, waiting: Waiting) -> Statement:
    """An event waits for a target; one that waits already is not put in again."""
    return (
        "INSERT OR IGNORE INTO webhook_outbox (target, spread, event_id, event, created_at, payload) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (target, waiting.spread, waiting.event_id, waiting.event, waiting.created_at, waiting.payload),
    )


def waiting(read: Read, target: str, lanes: int, lane: int, limit: int) -> list[Waiting]:
    """What waits for a lane, oldest first; as much as goes into one post."""
    rows = read(
        "SELECT event_id, event, created_at, spread, payload, id FROM webhook_outbox "
        "WHERE target = ? AND spread % ? = ? ORDER BY id LIMIT ?",
        (target, lanes, lane, limit),
    )
    found: list[Waiting] = []
    total = 0
    for row in rows:
        total += len(row[4])
        if found and total > MAX_POST_BYTES:
            break
        found.append(Waiting(*row))
    return found


def count_waiting(read: Read) -> dict[str, int]:
    """How many events wait, by target; messages are not counted."""
    return dict(read("SELECT target, count(*) FROM webhook_outbox GROUP BY target"))


def done(rows: Sequence[int]) -> Statement:
    """These rows of the outbox were delivered, or given up."""
    marks = ",".join("?" * len(rows))
    return f"DELETE FROM webhook_outbox WHERE id IN ({marks})", list(rows)


# ---------------------------------------------------------------- those that were given up


def bury(target: str, events: Sequence[Waiting], now_ms: int, reason: str, max_dead: int) -> list[Statement]:
    """Give events up; beyond `max_dead` the oldest of all go for good."""
    statements: list[Statement] = [
        (
            "INSERT INTO webhook_dead (target, spread, event_id, event, created_at, payload, failed_at, reason) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (target, one.spread, one.event_id, one.event, one.created_at, one.payload, now_ms, reason),
        )
        for one in events
    ]
    statements.append(
        (
            "DELETE FROM webhook_dead WHERE id <= (SELECT id FROM webhook_dead ORDER BY id DESC LIMIT 1 OFFSET ?) "
            "RETURNING id",
            (max_dead,),
        )
    )
    return statements


SUMMARY: Final = """
    SELECT target, sum(waiting), sum(dead), min(oldest) FROM (
        SELECT target, count(*) AS waiting, 0 AS dead, min(created_at) AS oldest FROM webhook_outbox GROUP BY target
        UNION ALL SELECT target, 0, count(*), NULL FROM webhook_dead GROUP BY target
        UNION ALL SELECT target, 0, 0, NULL FROM webhook_cursors GROUP BY target)
    GROUP BY target ORDER BY target"""

#: Messages behind a target's slowest lane; of any type, so it may be more than will be delivered.
BEHIND: Final = """
    SELECT count(*) FROM messages WHERE id > (SELECT min(through) FROM webhook_cursors WHERE target = ?)"""

_CHOSEN: Final = "(?1 IS NULL OR target = ?1) AND (?2 IS NULL OR id = ?2)"

DEAD: Final = f"""
    SELECT id, target, event, event_id, created_at, failed_at, reason FROM webhook_dead WHERE {_CHOSEN}
    ORDER BY id LIMIT ?3"""

#: What is retried has the id that it had, so a receiver that did get it knows.
RETRY: Final = f"""
    INSERT OR IGNORE INTO webhook_outbox (target, spread, event_id, event, created_at, payload)
    SELECT target, spread, event_id, event, ?3, payload FROM webhook_dead WHERE {_CHOSEN} ORDER BY id"""

DROP: Final = f"DELETE FROM webhook_dead WHERE {_CHOSEN} RETURNING id"
