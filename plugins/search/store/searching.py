"""A search: which messages the index and the newest messages beyond it have, whose they are, and how far one look goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import evolve, frozen

from imserver.plugin import Message
from imserver_plugins.search.store.index import BODY, BODY_PARAMS, CONVERSATION, Read, Row, stored_text
from imserver_plugins.search.store.whole import EPOCH_MS, TIME_SHIFT, read_whole
from imserver_plugins.search.terms import Query

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
_LAST_ID: Final = (1 << 63) - 1


@frozen
class Page:
    """Some of what matches, the newest first."""

    messages: list[Message]
    #: Of each conversation that they are in: its newest `rev` when they were read.
    newest_revs: dict[str, int]
    #: The next page begins below this id; None: there is not.
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
    return min(max(0, unix_ms - EPOCH_MS), _LAST_ID >> TIME_SHIFT) << TIME_SHIFT


# ---------------------------------------------------------------- a search


def search(read: Read, wanted: Wanted) -> Page:
    """The messages of the user's own conversations that match, newest first; all `read`s see one state.

    What came before the user joined or what was hidden is not found, nor what has expired. A page may be shorter than
    the limit, even empty, and have more behind it: the work of one search is bounded.
    """
    own = _own_conversations(read, wanted)
    if not own:
        return Page([], {}, None)
    through = read("SELECT through FROM search_progress")[0][0]
    # One more than wanted: only then there is a page behind this one.
    ids, next_before = _Search(read, evolve(wanted, limit=wanted.limit + 1), own).run(through)
    if len(ids) > wanted.limit:
        ids = ids[: wanted.limit]
        next_before = ids[-1]
    found = read_whole(read, ids)
    return Page(found.messages, found.newest_revs, next_before)


class _Search:
    def __init__(self, read: Read, wanted: Wanted, own: Sequence[int]) -> None:
        self._read = read
        self._wanted = wanted
        self._own = own
        self._found: list[int] = []
        self._looked_at = 0
        self._read_bytes = 0
        self._page_bytes = 0

    def run(self, through: int) -> tuple[list[int], int | None]:
        """The newest messages, which may not be in the index yet, then those in it; and the id below which it goes on."""
        wanted = self._wanted
        end = wanted.end_id
        tail = self._tail(through, end)
        own = [message_id for message_id, is_own in tail if is_own]
        for ids in _chunks(own[:MAX_CANDIDATES]):
            stopped_at = self._look_at(ids)
            if stopped_at is not None:
                return self._found, stopped_at
        if len(own) > MAX_CANDIDATES:
            return self._found, own[MAX_CANDIDATES - 1]
        if len(tail) == MAX_TAIL:
            return self._found, tail[-1][0]
        end = min(end, through + 1)
        candidates = 0
        while candidates < MAX_CANDIDATES:
            ids = self._with_all_terms(end)
            stopped_at = self._look_at(ids)
            if stopped_at is not None:
                return self._found, stopped_at
            if len(ids) < _CANDIDATES_A_STEP:
                return self._found, None
            candidates += len(ids)
            end = ids[-1]
        return self._found, end

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
            places = " OR ".join(f'"{CONVERSATION}{number}"' for number in numbers)
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
        for message_id, message_type, size, body in self._visible(ids):
            if len(self._found) == wanted.limit or self._page_bytes > MAX_PAGE_BYTES or self._read_bytes > MAX_READ_BYTES:
                return self._looked_at
            self._looked_at = message_id
            self._read_bytes += len(body or b"")
            if wanted.query.matches(stored_text(message_type, body)):
                self._found.append(message_id)
                self._page_bytes += size
        return None

    def _visible(self, ids: Sequence[int]) -> list[Row]:
        """(id, type, bytes of the body, body or its beginning) of those that the user may see, newest first."""
        if not ids:
            return []
        wanted = self._wanted
        marks = ",".join("?" * len(ids))
        sql = (
            f"SELECT x.id, x.type, length(x.body), {BODY} FROM messages x"
            # CROSS: from the messages to the member, not from all of a member's conversations to the messages.
            " CROSS JOIN members m ON m.conversation = x.conversation AND m.user_id = ?"
            " CROSS JOIN conversations c ON c.number = x.conversation"
            f" WHERE x.id IN ({marks}) AND x.seq > max(m.joined_seq, m.hidden_seq)"
            " AND (x.expires_at IS NULL OR x.expires_at > ?)"
        )
        params = [*BODY_PARAMS, wanted.user_id, *ids, wanted.now_ms]
        if wanted.sender is not None:
            sql += " AND x.sender = ?"
            params.append(wanted.sender)
        if wanted.conversation_id is not None:
            # The edited ones are of any conversation.
            sql += " AND c.conversation_id = ?"
            params.append(wanted.conversation_id)
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
