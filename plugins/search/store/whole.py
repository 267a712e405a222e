"""Whole messages out of their rows, in the reader's thread and the transaction of the search that has found them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from attrs import frozen

from imserver.plugin import Message
from imserver_plugins.search.store.index import Read, Row

# A message id has 41 bits of milliseconds since 2024-01-01T00:00Z before 22 others (wire protocol, section 3).
EPOCH_MS: Final = 1_704_067_200_000
TIME_SHIFT: Final = 22

_ROWS_A_QUERY: Final = 500

_decode = msgspec.msgpack.decode


class _State(msgspec.Struct, array_like=True):
    """A row's `state`, which it has once it was changed."""

    proof: int | None = None
    edited_at: int | None = None
    recalled: bool = False
    reactions: dict[str, list[str]] = {}


_decode_state = msgspec.msgpack.Decoder(_State).decode


@frozen
class Found:
    """What was found, the newest first."""

    messages: list[Message]
    #: Of each conversation that they are in: its newest `rev` when they were read.
    newest_revs: dict[str, int]


def read_whole(read: Read, ids: Sequence[int]) -> Found:
    """The messages with these ids, in their order."""
    messages: dict[int, Message] = {}
    numbers: dict[str, int] = {}
    for start in range(0, len(ids), _ROWS_A_QUERY):
        part = ids[start : start + _ROWS_A_QUERY]
        rows = read(
            "SELECT c.conversation_id, c.number, m.id, m.seq, m.rev, m.client_id, m.sender, m.type, m.body, m.expires_at,"
            " m.extra, m.state FROM messages m CROSS JOIN conversations c ON c.number = m.conversation"
            f" WHERE m.id IN ({','.join('?' * len(part))})",
            part,
        )
        for row in rows:
            numbers[row[0]] = row[1]
            messages[row[2]] = _message(row)
    newest = {conversation_id: _newest_rev(read, number) for conversation_id, number in numbers.items()}
    return Found([messages[message_id] for message_id in ids], newest)


def _message(row: Row) -> Message:
    conversation_id, _, message_id, seq, rev, client_id, sender, message_type, body, expires_at, extra, state = row
    fields: dict[str, Any] = {"r": None, "m": None} if extra is None else _decode(extra)
    changed = _State() if state is None else _decode_state(state)
    return Message(
        conversation_id,
        seq,
        rev,
        f"{message_id:016x}",
        client_id,
        sender,
        (message_id >> TIME_SHIFT) + EPOCH_MS,
        message_type,
        _decode(body),
        fields["r"],
        fields["m"],
        expires_at,
        changed.edited_at,
        changed.recalled or None,
        changed.reactions or None,
    )


def _newest_rev(read: Read, number: int) -> int:
    # Of the newest message, or of the newest change of any: each is the end of an index.
    newest = "SELECT rev FROM messages WHERE conversation = ?"
    rows = read(f"SELECT * FROM ({newest} ORDER BY seq DESC LIMIT 1)", (number,)) + read(
        f"SELECT * FROM ({newest} AND state IS NOT NULL ORDER BY rev DESC LIMIT 1)", (number,)
    )
    revs: list[int] = [row[0] for row in rows]
    return max(revs)
