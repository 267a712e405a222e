"""What a device has confirmed, and what it has missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from imserver.protocol.message import Message
from imserver.storage.rows import BEYOND, page

if TYPE_CHECKING:
    from imserver.clock import Clock
    from imserver.storage.database import Database, Query

#: Devices of one user whose confirmations are kept; a client that makes up a new id at each login fills these at most.
MAX_DEVICES = 200


@attrs.frozen
class Missed:
    """A conversation with messages that a device has not confirmed."""

    conversation_id: str
    number: int
    after_seq: int
    last_seq: int
    user_id: str


class DeliveryStore:
    """Reads of committed data; each method is one read transaction in a worker thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def missed(self, user_id: str, device_id: str) -> list[Missed]:
        """The conversations with messages of others that this device has not confirmed, longest waiting first."""

        def read(query: Query) -> list[Missed]:
            rows = query(
                "SELECT c.conversation_id, m.conversation, "
                "max(m.joined_seq, m.entered_seq, m.hidden_seq, coalesce(d.seq, 0)) AS after, "
                "coalesce((SELECT max(seq) FROM messages WHERE conversation = m.conversation), 0) AS last "
                "FROM members m JOIN conversations c ON c.number = m.conversation "
                "LEFT JOIN deliveries d ON d.user_id = m.user_id AND d.device_id = ? AND d.conversation = m.conversation "
                "WHERE m.user_id = ? ORDER BY m.conversation",
                (device_id, user_id),
            )
            return [Missed(name, number, after, last, user_id) for name, number, after, last in rows if last > after]

        return await self._database.read_transaction(read)

    async def messages_after(self, missed: Missed, after_seq: int, limit: int) -> list[Message]:
        """The next messages of one of these, ascending; none for who has left meanwhile."""

        def read(query: Query) -> list[Message]:
            number = missed.number
            visible = query(
                "SELECT max(joined_seq, entered_seq, hidden_seq) FROM members WHERE conversation = ? AND user_id = ?",
                (number, missed.user_id),
            )
            if not visible:
                return []
            low = max(after_seq, visible[0][0])
            return page(
                query, missed.conversation_id, number, low, BEYOND, limit, is_forward=True, now_ms=self._clock.now_ms()
            )

        return await self._database.read_transaction(read)


def confirm_statements(
    user_id: str, device_id: str, rows: list[tuple[int, int]], now_ms: int, *, is_first: bool
) -> list[tuple[str, Any]]:
    """Write what a device has confirmed; a cursor never goes back.

    Args:
        rows: (conversation number, seq).
        is_first: the first time in this session: devices of the user beyond `MAX_DEVICES` are forgotten, those that
            confirmed nothing for the longest time first.
    """
    values = ",".join(["(?,?,?,?,?)"] * len(rows))
    statements: list[tuple[str, Any]] = [
        (
            f"INSERT INTO deliveries (user_id, device_id, conversation, seq, written_at) VALUES {values} "
            "ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq), written_at = excluded.written_at",
            [value for number, seq in rows for value in (user_id, device_id, number, seq, now_ms)],
        )
    ]
    if is_first:
        statements.append(
            (
                "DELETE FROM deliveries WHERE user_id = ?1 AND device_id IN (SELECT device_id FROM deliveries "
                "WHERE user_id = ?1 GROUP BY device_id ORDER BY max(written_at) DESC LIMIT -1 OFFSET ?2)",
                (user_id, MAX_DEVICES),
            )
        )
    return statements
