"""The index of messages: its tables and what fills them.

`search_index` holds terms alone (contentless; `detail=none`: no positions): what a message says is read where it is stored.
Its rowid is the message's, a Snowflake, so the newest first is the order of the index. Beside its words a message has one
term of its conversation: a search meets only what is in the user's own, however often others have said the same.

What changes a message is noticed by triggers: so the index hears of edits, recalls and expiries whoever makes them, in the
same commit, and also while this plugin is not enabled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from imserver_plugins.search.terms import indexed_text, text_of

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
#: `query(sql, params)` of one read transaction.
Read = Callable[..., list[Row]]

MIGRATIONS: Final = (
    """
    -- `ascii` splits what we hand it at ASCII separators alone: a tokenizer with a table of Unicode of its own might split a
    -- term that we made, and the query for it would be none.
    CREATE VIRTUAL TABLE search_index USING fts5(terms, content='', contentless_delete=1, detail=none, tokenize='ascii');
    -- Messages up to this id are in the index. One row.
    CREATE TABLE search_progress (one INTEGER PRIMARY KEY CHECK (one = 1), through INTEGER NOT NULL) STRICT;
    INSERT INTO search_progress VALUES (1, 0);
    """,
    """
    -- Messages in the index that say something else now; a search looks at their texts until the index has these.
    CREATE TABLE search_edited (id INTEGER PRIMARY KEY) STRICT;
    """,
    """
    -- Messages without content (MessagePack's nil): recalled, expired, or older than what is kept. Their terms are to go.
    CREATE TABLE search_gone (id INTEGER PRIMARY KEY) STRICT;
    CREATE TRIGGER search_message_gone AFTER UPDATE OF body ON messages
        WHEN NEW.body = x'c0' AND OLD.body <> x'c0' BEGIN
        INSERT OR IGNORE INTO search_gone VALUES (NEW.id);
    END;
    CREATE TRIGGER search_message_edited AFTER UPDATE OF body ON messages
        WHEN NEW.body <> x'c0' AND NEW.body <> OLD.body BEGIN
        INSERT OR IGNORE INTO search_edited VALUES (NEW.id);
    END;
    -- Of the messages in the index from before these triggers, those up to `done` were looked at. One row.
    CREATE TABLE search_sweep (
        one INTEGER PRIMARY KEY CHECK (one = 1), done INTEGER NOT NULL, until INTEGER NOT NULL
    ) STRICT;
    INSERT INTO search_sweep SELECT 1, 0, through FROM search_progress;
    """,
    """
    -- While this plugin is not enabled nobody takes the notes away: of either kind there are 100,000 at most. `n` rises, so
    -- that their number is seen at its ends. What is beyond is noted in `search_lost` alone, and all is to be gone over.
    DROP TRIGGER search_message_gone;
    DROP TRIGGER search_message_edited;
    CREATE TABLE search_lost (kind TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE search_gone_notes (n INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE) STRICT;
    INSERT INTO search_gone_notes (id) SELECT id FROM search_gone ORDER BY id LIMIT 100000;
    INSERT INTO search_lost SELECT 'gone' WHERE (SELECT count(*) FROM search_gone) > 100000;
    DROP TABLE search_gone;
    ALTER TABLE search_gone_notes RENAME TO search_gone;
    CREATE TABLE search_edited_notes (n INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE) STRICT;
    INSERT INTO search_edited_notes (id) SELECT id FROM search_edited ORDER BY id LIMIT 100000;
    INSERT INTO search_lost SELECT 'edited' WHERE (SELECT count(*) FROM search_edited) > 100000;
    DROP TABLE search_edited;
    ALTER TABLE search_edited_notes RENAME TO search_edited;
    CREATE TRIGGER search_message_gone AFTER UPDATE OF body ON messages
        WHEN NEW.body = x'c0' AND OLD.body <> x'c0' BEGIN
        INSERT OR IGNORE INTO search_lost SELECT 'gone'
            WHERE (SELECT max(n) FROM search_gone) - (SELECT min(n) FROM search_gone) >= 99999;
        INSERT OR IGNORE INTO search_gone (id)
            SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM search_lost WHERE kind = 'gone');
    END;
    -- Replaced: one that is edited all the time does not stay the first.
    CREATE TRIGGER search_message_edited AFTER UPDATE OF body ON messages
        WHEN NEW.body <> x'c0' AND NEW.body <> OLD.body BEGIN
        INSERT OR IGNORE INTO search_lost SELECT 'edited'
            WHERE (SELECT max(n) FROM search_edited) - (SELECT min(n) FROM search_edited) >= 99999;
        INSERT OR REPLACE INTO search_edited (id)
            SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM search_lost WHERE kind = 'edited');
    END;
    -- 1: the sweep takes the texts anew, for edits were lost.
    ALTER TABLE search_sweep ADD COLUMN texts INTEGER NOT NULL DEFAULT 0;
    """,
)

#: Of a body that is longer only the beginning (a text) or nothing (another value) is looked at.
MAX_BODY_BYTES: Final = 64 * 1024
#: A character that no word has (private use) before a conversation's number.
CONVERSATION: Final = "\ue000"

BODY: Final = "CASE WHEN type = 'text' OR length(body) <= ? THEN substr(body, 1, ?) END"
BODY_PARAMS: Final = (MAX_BODY_BYTES, MAX_BODY_BYTES)

# A text message's body is one MessagePack string; the shortest kind has its length in the type's byte.
_STRING_HEADER_BYTES: Final = {0xD9: 2, 0xDA: 3, 0xDB: 5}


def stored_text(message_type: str, body: bytes | None) -> str:
    """What a message is found by, out of its stored body or, of a long text, the beginning of it."""
    if not body:
        return ""
    if message_type == "text":
        start = _STRING_HEADER_BYTES.get(body[0], 1)
        return bytes(body[start:]).decode(errors="ignore")
    return text_of(message_type, msgspec.msgpack.decode(body))


# ---------------------------------------------------------------- new messages


def unindexed(read: Read, limit: int) -> list[Row]:
    """(id, conversation, type, body or its beginning or NULL) of the messages behind those in the index, oldest first."""
    return read(
        f"SELECT id, conversation, type, {BODY} FROM messages"
        " WHERE id > (SELECT through FROM search_progress) ORDER BY id LIMIT ?",
        (*BODY_PARAMS, limit),
    )


def index(rows: Sequence[Row]) -> list[Statement]:
    """Take these messages (of `unindexed`) into the index; both statements are one unit."""
    return [("UPDATE search_progress SET through = ?", (rows[-1][0],)), *_put(rows)]


def _put(rows: Sequence[Row]) -> list[Statement]:
    values: list[Any] = []
    for message_id, conversation, message_type, body in rows:
        text = stored_text(message_type, body)
        if text:
            values += (message_id, f"{indexed_text(text)} {CONVERSATION}{conversation}")
    if not values:
        return []
    marks = ",".join(["(?,?)"] * (len(values) // 2))
    # Or replace: it was edited; or the progress alone was lost, which must not stop the index for good.
    return [(f"INSERT OR REPLACE INTO search_index (rowid, terms) VALUES {marks}", values)]


# ---------------------------------------------------------------- those that say something else, or nothing


def edited_rows(read: Read, limit: int) -> list[Row]:
    """As `unindexed`, and the `rev`, of messages that were edited since they came into the index."""
    return read(
        f"SELECT id, conversation, type, {BODY}, rev FROM messages"
        " WHERE id IN (SELECT id FROM search_edited ORDER BY n LIMIT ?)",
        (*BODY_PARAMS, limit),
    )


def index_again(rows: Sequence[Row]) -> list[Statement]:
    """Replace these messages (of `edited_rows`) in the index; one unit."""
    # One that was edited again since it was read stays noted.
    said = "DELETE FROM search_edited WHERE id = ? AND EXISTS (SELECT 1 FROM messages WHERE id = ? AND rev = ?)"
    notes = [(said, (row[0], row[0], row[4])) for row in rows]
    without_text = [row[0] for row in rows if not stored_text(row[2], row[3])]
    return [*notes, *_take(without_text), *_put([row[:4] for row in rows])]


def gone(read: Read, limit: int) -> list[int]:
    """Messages whose content went since they came into the index."""
    return [row[0] for row in read("SELECT id FROM search_gone ORDER BY n LIMIT ?", (limit,))]


def forget(ids: Sequence[int]) -> list[Statement]:
    """Take these messages (of `gone`) out of the index; one unit."""
    marks = _marks(ids)
    # Not one whose body has become nil by an edit, and something again by the next.
    still = f"SELECT id FROM messages WHERE id IN ({marks}) AND body = x'c0'"
    return [
        (f"DELETE FROM search_index WHERE rowid IN ({still})", list(ids)),
        (f"DELETE FROM search_gone WHERE id IN ({marks})", list(ids)),
    ]


# ---------------------------------------------------------------- going over the index


def lost(read: Read) -> list[str]:
    """The kinds of notes ("gone", "edited") of which there were more than are kept."""
    return [row[0] for row in read("SELECT kind FROM search_lost")]


def sweep_again(kinds: Sequence[str]) -> list[Statement]:
    """Go over the index from its beginning instead of these notes (of `lost`); one unit."""
    texts = int("edited" in kinds)
    return [
        (
            "UPDATE search_sweep SET done = 0, until = (SELECT through FROM search_progress), "
            "texts = max(?, texts AND done < until)",
            (texts,),
        ),
        *((f"DELETE FROM search_{kind}", ()) for kind in kinds),
        ("DELETE FROM search_lost", ()),
    ]


def sweeps_texts(read: Read) -> bool:
    """Whether what is swept is `unswept_texts`; else `unswept`."""
    return bool(read("SELECT texts AND done < until FROM search_sweep")[0][0])


def unswept_texts(read: Read, limit: int) -> list[Row]:
    """As `unindexed`, of the next messages that are in the index and may have other texts now."""
    return read(
        f"SELECT id, conversation, type, {BODY} FROM search_sweep s"
        " CROSS JOIN messages m ON m.id > s.done AND m.id <= s.until ORDER BY m.id LIMIT ?",
        (*BODY_PARAMS, limit),
    )


def sweep_texts(rows: Sequence[Row]) -> list[Statement]:
    """Replace these messages (of `unswept_texts`) in the index; one unit."""
    done = ("UPDATE search_sweep SET done = ?", (rows[-1][0],))
    return [done, *_take([row[0] for row in rows if not stored_text(row[2], row[3])]), *_put(rows)]


def unswept(read: Read, limit: int) -> list[Row]:
    """(id, is its content gone?) of the next messages that were in the index before such was noticed."""
    return read(
        "SELECT m.id, m.body = x'c0' FROM search_sweep s CROSS JOIN messages m ON m.id > s.done AND m.id <= s.until"
        " ORDER BY m.id LIMIT ?",
        (limit,),
    )


def sweep(rows: Sequence[Row]) -> list[Statement]:
    """Take those of these messages (of `unswept`) out of the index that have no content any more; one unit."""
    done = ("UPDATE search_sweep SET done = ?", (rows[-1][0],))
    return [done, *_take([message_id for message_id, is_gone in rows if is_gone])]


def _take(ids: Sequence[int]) -> list[Statement]:
    return [(f"DELETE FROM search_index WHERE rowid IN ({_marks(ids)})", list(ids))] if ids else []


def _marks(ids: Sequence[int]) -> str:
    return ",".join("?" * len(ids))
