"""Stored messages: pages of a conversation, one to be changed, and those whose content is to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from imserver.conversation import KEY_LIFE_MS, OpenMessage, State, proof_of, read_state, write_state
from imserver.errors import NotFound
from imserver.protocol.message import Message
from imserver.snowflake import first_at, sent_at_ms
from imserver.storage.rows import BEYOND, MESSAGE, SIZE, first_that_fit, message_of, newest_of, page

if TYPE_CHECKING:
    from imserver.clock import Clock
    from imserver.storage.database import Database, Query, Row

_OVER = (
    "SELECT m.id, c.conversation_id, m.seq, m.type, m.body, m.state, c.kind, m.expires_at FROM messages m "
    "JOIN conversations c ON c.number = m.conversation"
)


@attrs.frozen
class History:
    """A page of a conversation and what there is of it for this member."""

    messages: list[Message]
    first_seq: int  # 0: there is nothing
    last_seq: int


@attrs.frozen
class Over:
    """A message whose content is to go for good."""

    conversation_id: str
    seq: int
    #: What stays of it in the column `state`.
    state: bytes | None


class MessageStore:
    """Reads of committed data; each method is one read transaction in a worker thread.

    A message whose time is over (`expires_in_ms`) is in no answer; its `seq` stays its own.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def history(
        self, conversation_id: str, first_visible: int, after_seq: int | None, before_seq: int | None, limit: int
    ) -> History:
        """A page, ascending by `seq`: behind `after_seq`, else before `before_seq`, else the newest.

        Args:
            first_visible: nothing up to this `seq` is shown.
        """

        def read(query: Query) -> History:
            found = query("SELECT number FROM conversations WHERE conversation_id = ?", (conversation_id,))
            if not found:
                return History([], 0, 0)
            number = found[0][0]
            low = max(first_visible, after_seq or 0)
            high = BEYOND if before_seq is None else before_seq
            is_forward = after_seq is not None
            messages = page(
                query, conversation_id, number, low, high, limit, is_forward=is_forward, now_ms=self._clock.now_ms()
            )
            last_seq, _ = newest_of(query, number)
            # No message: the row that stands for a gap behind a restore (`imserver.storage.restored`).
            first = query(
                "SELECT seq FROM messages WHERE conversation = ? AND seq > ? AND coalesce(silent, 0) <= 1 "
                "ORDER BY seq LIMIT 1",
                (number, first_visible),
            )
            return History(messages, first[0][0] if first else 0, last_seq if first else 0)

        return await self._database.read_transaction(read)

    async def changes(
        self, conversation_id: str, first_visible: int, since_rev: int, limit: int
    ) -> tuple[list[Message], int]:
        """What changed after `since_rev`, in `rev` order, at most `limit`; and the conversation's newest `rev`."""

        def read(query: Query) -> tuple[list[Message], int]:
            found = query("SELECT number FROM conversations WHERE conversation_id = ?", (conversation_id,))
            if not found:
                return [], 0
            number = found[0][0]
            last_seq, last_rev = newest_of(query, number)
            # Messages that were not changed since they came have `rev` in the order of `seq`; the others an index by it.
            low = since_rev if last_seq == last_rev else _unchanged_through(query, number, since_rev, last_seq)
            visible = "conversation = ? AND (expires_at IS NULL OR expires_at > ?) AND seq > ?"
            now_ms = self._clock.now_ms()
            new = query(
                f"SELECT rev, seq, {SIZE} FROM messages WHERE {visible} AND state IS NULL ORDER BY seq LIMIT ?",
                (number, now_ms, max(low, first_visible), limit),
            )
            changed = query(
                f"SELECT rev, seq, {SIZE} FROM messages WHERE {visible} AND state IS NOT NULL AND rev > ? "
                "ORDER BY rev LIMIT ?",
                (number, now_ms, first_visible, since_rev, limit),
            )
            seqs = first_that_fit((seq, size) for _, seq, size in sorted(new + changed)[:limit])
            rows = query(
                f"SELECT {MESSAGE} FROM messages WHERE conversation = ? AND seq IN ({','.join('?' * len(seqs))})",
                (number, *seqs),
            )
            messages = [message_of(conversation_id, row) for row in rows]
            messages.sort(key=lambda message: message.rev)
            return messages, last_rev

        return await self._database.read_transaction(read)

    async def open_message(self, conversation_id: str, number: int, seq: int) -> OpenMessage | None:
        """One message to be changed; None: its content was deleted. See `imserver.message_changes`.

        Raises:
            NotFound: there is none. (It may come: nobody is to remember that.)
        """

        def read(query: Query) -> OpenMessage | None:
            rows = query(f"SELECT {MESSAGE}, silent FROM messages WHERE conversation = ? AND seq = ?", (number, seq))
            if not rows:
                raise NotFound("there is no such message", field="seq")
            if rows[0][7] == 0:
                return None
            *row, silent = rows[0]
            message_type, body, state = row[5], row[6], row[9]
            known = State(proof_of(message_type, body)) if state is None else read_state(state)
            return OpenMessage(message_of(conversation_id, tuple(row)), known, bool(silent), len(body))

        return await self._database.read_transaction(read)

    async def expired(self, limit: int) -> list[Over]:
        """Messages whose time is over and whose contents are still there, longest over first."""
        rows = await self._database.read(
            f"{_OVER} WHERE m.expires_at > 0 AND m.expires_at <= ? ORDER BY m.expires_at LIMIT ?",
            (self._clock.now_ms(), limit),
        )
        return [self._over(row) for row in rows]

    async def aged(self, kind: str, before_ms: int, after_id: int, limit: int) -> tuple[list[Over], int | None]:
        """Messages of one kind of conversation from before a time, among the next `limit` of any behind an id.

        Returns:
            Them, and the id to go on behind; None: that was all.
        """
        rows = await self._database.read(
            f"{_OVER} WHERE m.id > ? AND m.id < ? ORDER BY m.id LIMIT ?", (after_id, first_at(before_ms), limit)
        )
        over = [self._over(row) for row in rows if row[6] == kind and row[7] != 0]
        return over, rows[-1][0] if len(rows) == limit else None

    def _over(self, row: Row) -> Over:
        snowflake, conversation_id, seq, message_type, body, state = row[:6]
        # A changed one keeps a state: its `rev` is not in the order of `seq`.
        kept = None
        if state is not None:
            kept = State(read_state(state).proof)
        elif sent_at_ms(snowflake) > self._clock.now_ms() - 2 * KEY_LIFE_MS:
            kept = State(proof_of(message_type, body))
        return Over(conversation_id, seq, None if kept is None else write_state(kept))


def _unchanged_through(query: Query, number: int, since_rev: int, last_seq: int) -> int:
    """The largest `seq` up to which what was never changed came with or before `since_rev`, by halving.

    Among what was never changed `rev` rises with `seq`, and is never below it.
    """
    low, high = 0, min(since_rev, last_seq)
    while low < high:
        middle = (low + high) // 2 + 1
        found = query(
            "SELECT seq, rev FROM messages WHERE conversation = ? AND seq BETWEEN ? AND ? AND state IS NULL "
            "ORDER BY seq LIMIT 1",
            (number, middle, high),
        )
        if found and found[0][1] <= since_rev:
            low = found[0][0]
        else:
            high = middle - 1
    return high
