"""The index of messages, and all SQL of this plugin.

`search_index` holds terms alone (contentless; `detail=none`: no positions): what a message says is read where it is stored.
Its rowid is the message's, a Snowflake, so the newest first is the order of the index. Beside its words a message has one
term of its conversation: a search meets only what is in the user's own, however often others have said the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from attrs import evolve, frozen

from imserver_plugins.search.terms import Query, indexed_text, text_of

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
#: `query(sql, params)` of one read transaction.
Read = Callable[..., list[Row]]

MIGRATIONS = (
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
)

#: Of a body that is longer only the beginning (a text) or nothing (another value) is looked at.
MAX_BODY_BYTES: Final = 64 * 1024
#: Messages beyond the index, of anybody, among which one search looks for the user's own; the cursor goes on behind them.
MAX_TAIL: Final = 10_000
#: Texts that one search looks at, of the user's own messages beyond the index and again of those that have all terms; the
#: cursor goes on behind them.
MAX_CANDIDATES: Final = 1_000
#: Bodies that one search reads, and those of one page: beyond either the page ends.
MAX_READ_BYTES: Final = 4 << 20
MAX_PAGE_BYTES: Final = 1 << 20
_CANDIDATES_A_STEP: Final = 100
#: Conversations in one query of the index; who has more is asked for in several.
_CONVERSATIONS_A_QUERY: Final = 500
#: A character that no word has (private use) before a conversation's number.
_CONVERSATION: Final = "\ue000"
# A message id has 41 bits of milliseconds since 2024-01-01T00:00Z before 22 others (wire protocol, section 3).
_EPOCH_MS: Final = 1_704_067_200_000
_TIME_SHIFT: Final = 22
_LAST_ID: Final = (1 << 63) - 1

_BODY = "CASE WHEN type = 'text' OR length(body) <= ? THEN substr(body, 1, ?) END"
_BODY_PARAMS = (MAX_BODY_BYTES, MAX_BODY_BYTES)


@frozen
class Found:
    """Where a message is that matches."""

    message_id: int
    conversation_id: str
    seq: int


@frozen
class Page:
    """Some of what matches, the newest first."""

    found: list[Found]
    #: There may be more below this id; None: there is not.
    next_before: int | None


@frozen
class Wanted:
    """A search."""

    user_id: str
    query: Query
    limit: int
    now_ms: int
    before: int | None = None
    conversation_id: str | None = None
    sender: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def first_id(self) -> int:
        """No message below this one."""
        return 0 if self.since_ms is None else _first_id_at(self.since_ms)

    @property
    def end_id(self) -> int:
        """No message from this one on."""
        end = _LAST_ID if self.until_ms is None else _first_id_at(self.until_ms)
        return end if self.before is None else min(end, self.before)


def _first_id_at(unix_ms: int) -> int:
    return min(max(0, unix_ms - _EPOCH_MS), _LAST_ID >> _TIME_SHIFT) << _TIME_SHIFT


# ---------------------------------------------------------------- the index


def unindexed(read: Read, limit: int) -> list[Row]:
    """(id, conversation, type, body or its beginning or NULL) of the messages behind those in the index, oldest first."""
    return read(
        f"SELECT id, conversation, type, {_BODY} FROM messages"
        " WHERE id > (SELECT through FROM search_progress) ORDER BY id LIMIT ?",
        (*_BODY_PARAMS, limit),
    )


def index(rows: Sequence[Row]) -> list[Statement]:
    """Take these messages (of `unindexed`) into the index; both statements are one unit."""
    return [("UPDATE search_progress SET through = ?", (rows[-1][0],)), *_put(rows)]


def _put(rows: Sequence[Row]) -> list[Statement]:
    values: list[Any] = []
    for message_id, conversation, message_type, body in rows:
        text = _text(message_type, body)
        if text:
            values += (message_id, f"{indexed_text(text)} {_CONVERSATION}{conversation}")
    if not values:
        return []
    marks = ",".join(["(?,?)"] * (len(values) // 2))
    # Or replace: it was edited; or the progress alone was lost, which must not stop the index for good.
    return [(f"INSERT OR REPLACE INTO search_index (rowid, terms) VALUES {marks}", values)]


def edited(message_id: int) -> Statement:
    """Note that a message says something else now."""
    return "INSERT OR IGNORE INTO search_edited VALUES (?)", (message_id,)


def edited_rows(read: Read, limit: int) -> list[Row]:
    """As `unindexed`, and the `rev`, of messages that were edited since they came into the index."""
    return read(
        f"SELECT id, conversation, type, {_BODY}, rev FROM messages WHERE id IN (SELECT id FROM search_edited LIMIT ?)",
        (*_BODY_PARAMS, limit),
    )


def index_again(rows: Sequence[Row]) -> list[Statement]:
    """Replace these messages (of `edited_rows`) in the index; one unit."""
    # One that was edited again since it was read stays noted.
    said = "DELETE FROM search_edited WHERE id = ? AND EXISTS (SELECT 1 FROM messages WHERE id = ? AND rev = ?)"
    return [*((said, (row[0], row[0], row[4])) for row in rows), *_put([row[:4] for row in rows])]


# ---------------------------------------------------------------- a search


def search(read: Read, wanted: Wanted) -> Page:
    """The messages of the user's own conversations that match, newest first; all `read`s see one state.

    What came before the user joined or what was hidden is not found, nor what has expired. A page may be shorter than
    the limit, even empty, and have more behind it: the work of one search is bounded.
    """
    own = _own_conversations(read, wanted)
    if not own:
        return Page([], None)
    through = read("SELECT through FROM search_progress")[0][0]
    # One more than wanted: only then there is a page behind this one.
    page = _Search(read, evolve(wanted, limit=wanted.limit + 1), own).run(through)
    if len(page.found) > wanted.limit:
        found = page.found[: wanted.limit]
        return Page(found, found[-1].message_id)
    return page


class _Search:
    def __init__(self, read: Read, wanted: Wanted, own: Sequence[int]) -> None:
        self._read = read
        self._wanted = wanted
        self._own = own
        self._found: list[Found] = []
        self._looked_at = 0
        self._read_bytes = 0
        self._page_bytes = 0

    def run(self, through: int) -> Page:
        """The newest messages, which may not be in the index yet, then those in it."""
        wanted = self._wanted
        end = wanted.end_id
        tail = self._tail(through, end)
        own = [message_id for message_id, is_own in tail if is_own]
        for ids in _chunks(own[:MAX_CANDIDATES]):
            stopped_at = self._look_at(ids)
            if stopped_at is not None:
                return Page(self._found, stopped_at)
        if len(own) > MAX_CANDIDATES:
            return Page(self._found, own[MAX_CANDIDATES - 1])
        if len(tail) == MAX_TAIL:
            return Page(self._found, tail[-1][0])
        end = min(end, through + 1)
        candidates = 0
        while candidates < MAX_CANDIDATES:
            ids = self._with_all_terms(end)
            stopped_at = self._look_at(ids)
            if stopped_at is not None:
                return Page(self._found, stopped_at)
            if len(ids) < _CANDIDATES_A_STEP:
                return Page(self._found, None)
            candidates += len(ids)
            end = ids[-1]
        return Page(self._found, end)

    def _tail(self, through: int, end: int) -> list[tuple[int, bool]]:
        """(id, in one of the user's conversations?) of the newest messages beyond the index."""
        own = set(self._own)
        rows = self._read(
            "SELECT id, conversation FROM messages WHERE id > ? AND id >= ? AND id < ? ORDER BY id DESC LIMIT ?",
            (through, self._wanted.first_id, end, MAX_TAIL),
        )
        return [(message_id, conversation in own) for message_id, conversation in rows]

    def _with_all_terms(self, end: int) -> list[int]:
        """The newest messages below `end` that have all terms, and maybe not side by side."""
        words = " AND ".join(f'"{term}"' for term in self._wanted.query.terms)
        ids: list[int] = []
        for start in range(0, len(self._own), _CONVERSATIONS_A_QUERY):
            numbers = self._own[start : start + _CONVERSATIONS_A_QUERY]
            places = " OR ".join(f'"{_CONVERSATION}{number}"' for number in numbers)
            rows = self._read(
                "SELECT rowid FROM search_index WHERE search_index MATCH ? AND rowid >= ? AND rowid < ?"
                " ORDER BY rowid DESC LIMIT ?",
                (f"({places}) AND {words}", self._wanted.first_id, end, _CANDIDATES_A_STEP),
            )
            ids += [row[0] for row in rows]
        return sorted({*ids, *self._edited(end)}, reverse=True)[:_CANDIDATES_A_STEP]

    def _edited(self, end: int) -> list[int]:
        """The newest messages below `end` that the index has with an old text, of anybody's: there are few."""
        rows = self._read(
            "SELECT id FROM search_edited WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?",
            (self._wanted.first_id, end, _CANDIDATES_A_STEP),
        )
        return [row[0] for row in rows]

    def _look_at(self, ids: Sequence[int]) -> int | None:
        """Keep those of some messages that match; if the page is full before their end, the last id looked at."""
        wanted = self._wanted
        for message_id, conversation_id, seq, message_type, size, body in self._visible(ids):
            if len(self._found) == wanted.limit or self._page_bytes > MAX_PAGE_BYTES or self._read_bytes > MAX_READ_BYTES:
                return self._looked_at
            self._looked_at = message_id
            self._read_bytes += len(body or b"")
            if wanted.query.matches(_text(message_type, body)):
                self._found.append(Found(message_id, conversation_id, seq))
                self._page_bytes += size
        return None

    def _visible(self, ids: Sequence[int]) -> list[Row]:
        """(id, conversation id, seq, type, bytes of the body, body) of those that the user may see, newest first."""
        if not ids:
            return []
        wanted = self._wanted
        marks = ",".join("?" * len(ids))
        sql = (
            f"SELECT x.id, c.conversation_id, x.seq, x.type, length(x.body), {_BODY} FROM messages x"
            # CROSS: from the messages to the member, not from all of a member's conversations to the messages.
            " CROSS JOIN members m ON m.conversation = x.conversation AND m.user_id = ?"
            " CROSS JOIN conversations c ON c.number = x.conversation"
            f" WHERE x.id IN ({marks}) AND x.seq > max(m.joined_seq, m.hidden_seq)"
            " AND (x.expires_at IS NULL OR x.expires_at > ?)"
        )
        params = [*_BODY_PARAMS, wanted.user_id, *ids, wanted.now_ms]
        if wanted.sender is not None:
            sql += " AND x.sender = ?"
            params.append(wanted.sender)
        return self._read(f"{sql} ORDER BY x.id DESC", params)


def _own_conversations(read: Read, wanted: Wanted) -> list[int]:
    """The numbers of the conversations to look in."""
    if wanted.conversation_id is None:
        rows = read("SELECT conversation FROM members WHERE user_id = ?", (wanted.user_id,))
    else:
        rows = read(
            "SELECT m.conversation FROM conversations c JOIN members m ON m.conversation = c.number AND m.user_id = ?"
            " WHERE c.conversation_id = ?",
            (wanted.user_id, wanted.conversation_id),
        )
    return [row[0] for row in rows]


def _chunks(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + _CANDIDATES_A_STEP] for start in range(0, len(ids), _CANDIDATES_A_STEP))


def _text(message_type: str, body: bytes | None) -> str:
    """What a message is found by, out of its stored body or, of a long text, the beginning of it."""
    if not body:
        return ""
    if message_type == "text":
        start = _STRING_HEADER_BYTES.get(body[0], 1)
        return bytes(body[start:]).decode(errors="ignore")
    return text_of(message_type, msgspec.msgpack.decode(body))


# A text message's body is one MessagePack string; the shortest kind has its length in the type's byte.
_STRING_HEADER_BYTES = {0xD9: 2, 0xDA: 3, 0xDB: 5}
