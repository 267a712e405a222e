"""Messages out of their rows, one by one and in pages of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from imserver.conversation import read_extra, read_state
from imserver.protocol.body import decode_msgpack
from imserver.protocol.message import Message
from imserver.snowflake import sent_at_ms

if TYPE_CHECKING:
    from imserver.storage.database import Query, Row

#: A page of messages is cut before what they say is over this (bodies, mentions, reactions; SYNC's newest messages, too);
#: what is missing comes with the next page.
PAGE_BYTES = 1 << 20

#: Of a message: as many bytes as it has in an answer, nearly.
SIZE = "length(body) + coalesce(length(extra), 0) + coalesce(length(state), 0)"
#: The columns that `message_of` takes.
MESSAGE = "id, seq, rev, sender, client_id, type, body, expires_at, extra, state"
#: Above every `seq`.
BEYOND = 1 << 62


def message_of(conversation_id: str, row: Row) -> Message:
    """A message out of the columns `MESSAGE`."""
    snowflake, seq, rev, sender, client_id, message_type, body, expires_at, extra, state = row
    reply_to, mentions = read_extra(extra)
    message = Message(
        conversation_id,
        seq,
        rev,
        f"{snowflake:016x}",
        client_id,
        sender,
        sent_at_ms(snowflake),
        message_type,
        decode_msgpack(body),
        reply_to,
        mentions,
        expires_at,
    )
    if state is not None:
        changed = read_state(state)
        message.edited_at = changed.edited_at
        message.recalled = changed.recalled or None
        message.reactions = changed.reactions or None
    return message


def newest_of(query: Query, number: int) -> tuple[int, int]:
    """The newest `seq` and `rev` of a conversation."""
    rows = query("SELECT seq, rev FROM messages WHERE conversation = ? ORDER BY seq DESC LIMIT 1", (number,))
    if not rows:
        return 0, 0
    changed = query(
        "SELECT rev FROM messages WHERE conversation = ? AND state IS NOT NULL ORDER BY rev DESC LIMIT 1", (number,)
    )
    seq, rev = rows[0]
    return seq, max(rev, changed[0][0]) if changed else rev


def first_that_fit(sizes: Iterable[tuple[int, int]]) -> list[int]:
    """The first `seq`s of messages that together are within `PAGE_BYTES`; one at least, if there is one."""
    total = 0
    seqs: list[int] = []
    for seq, size in sizes:
        total += size
        if seqs and total > PAGE_BYTES:
            break
        seqs.append(seq)
    return seqs


def page(
    query: Query, conversation_id: str, number: int, low: int, high: int, limit: int, *, is_forward: bool, now_ms: int
) -> list[Message]:
    """Messages with low < seq < high, ascending: the first `limit` of them, or the last.

    Shorter where it would be over `PAGE_BYTES`, but never empty unless there is nothing.
    """
    order = "ASC" if is_forward else "DESC"
    sizes = query(
        f"SELECT seq, {SIZE} FROM messages WHERE conversation = ? AND seq > ? AND seq < ? "
        f"AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq {order} LIMIT ?",
        (number, low, high, now_ms, limit),
    )
    seqs = first_that_fit(sizes)
    if not seqs:
        return []
    rows = query(
        f"SELECT {MESSAGE} FROM messages WHERE conversation = ? AND seq BETWEEN ? AND ? "
        "AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq",
        (number, min(seqs), max(seqs), now_ms),
    )
    return [message_of(conversation_id, row) for row in rows]
