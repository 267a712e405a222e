"""SYNC: what has changed of a user's conversations since a cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from imserver.protocol.message import Message
from imserver.storage.cursors import folded
from imserver.storage.rows import MESSAGE, PAGE_BYTES, SIZE, message_of, newest_of

if TYPE_CHECKING:
    from imserver.clock import Clock
    from imserver.storage.database import Database, Query, Row

#: Where the newest messages of a conversation are over, SYNC looks among so many for one to show.
_LOOK_BACK = 500


@attrs.frozen
class SyncRow:
    """One conversation in the answer to SYNC, as of one read transaction."""

    conversation_id: str
    kind: str
    last_seq: int
    last_rev: int
    read_seq: int
    delivered_seq: int
    unread: int
    change: int
    last_message: Message | None
    muted: bool = False
    pinned: bool = False
    #: The user belongs to it no more; there is nothing else to be said of it.
    is_left: bool = False
    #: The user does not want to see what there is in it.
    is_hidden: bool = False


class SyncStore:
    """Reads of committed data: a page of SYNC is one read transaction in a worker thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def page(
        self, user_id: str, cursor: int, limit: int, *, device_id: str | None = None
    ) -> tuple[list[SyncRow], bool]:
        """This user's conversations that changed after the change number `cursor`, oldest change first.

        From the beginning (0) those that the user has left or hidden are not among them: there is nothing to take away.

        Args:
            device_id: whose `delivered_seq` is told. What was there when the user came, or was hidden, is not for it to get.
                None: the highest of all the user's devices.

        Returns:
            At most `limit` rows, fewer where their newest messages would be over `PAGE_BYTES`; and whether there are more.
        """

        def read(query: Query) -> tuple[list[SyncRow], bool]:
            own: dict[Any, int] = dict(
                query(
                    "SELECT conversation, max(seq) FROM messages WHERE id > ? AND sender = ? GROUP BY conversation",
                    (folded(query), user_id),
                )
            )
            changed = _changed(query, user_id, cursor)
            delivered = _delivered(query, user_id, device_id)
            rows: list[SyncRow] = []
            page_bytes = 0
            for number, conversation_id, kind, joined, entered, read_seq, hidden, muted, pinned, change in changed[:limit]:
                if joined is None:
                    rows.append(SyncRow(conversation_id, kind, read_seq, 0, read_seq, 0, 0, change, None, is_left=True))
                    continue
                last_of = "FROM messages WHERE conversation = ? ORDER BY seq DESC LIMIT 1"
                page_bytes += sum(size for (size,) in query(f"SELECT {SIZE} {last_of}", (number,)))
                if rows and page_bytes > PAGE_BYTES:
                    break
                last = query(f"SELECT {MESSAGE} {last_of}", (number,))
                last_message = message_of(conversation_id, last[0]) if last else None
                last_seq = last_message.seq if last_message else 0
                if last_message is not None and self._is_over(last_message):
                    last_message = self._last_visible(query, number, conversation_id)
                start = max(read_seq, own.get(number, 0), joined, hidden)
                silent = query(
                    "SELECT coalesce(sum(min(silent, seq - ?2)), 0) FROM messages "
                    "WHERE conversation = ?1 AND seq > ?2 AND silent IS NOT NULL",
                    (number, start),
                )[0][0]
                rows.append(
                    SyncRow(
                        conversation_id,
                        kind,
                        last_seq,
                        newest_of(query, number)[1],
                        max(read_seq, own.get(number, 0)),
                        max(delivered.get(number, 0), 0 if device_id is None else max(joined, entered, hidden)),
                        max(0, last_seq - start - silent),
                        change,
                        last_message if last_message is not None and last_message.seq > max(joined, hidden) else None,
                        bool(muted),
                        bool(pinned),
                        is_hidden=0 < hidden >= last_seq,
                    )
                )
            return rows, len(changed) > len(rows)

        return await self._database.read_transaction(read)

    def _last_visible(self, query: Query, number: int, conversation_id: str) -> Message | None:
        """The newest message whose time is not over, if it is among the newest ones."""
        rows = query(
            f"SELECT {MESSAGE} FROM (SELECT * FROM messages WHERE conversation = ? ORDER BY seq DESC LIMIT {_LOOK_BACK}) "
            "WHERE expires_at IS NULL OR expires_at > ? ORDER BY seq DESC LIMIT 1",
            (number, self._clock.now_ms()),
        )
        return message_of(conversation_id, rows[0]) if rows else None

    def _is_over(self, message: Message) -> bool:
        return message.expires_at is not None and message.expires_at <= self._clock.now_ms()


def _delivered(query: Query, user_id: str, device_id: str | None) -> dict[int, int]:
    """What this device has confirmed, by conversation; None: what any device of the user has."""
    if device_id is None:
        rows = query("SELECT conversation, max(seq) FROM deliveries WHERE user_id = ? GROUP BY conversation", (user_id,))
    else:
        rows = query("SELECT conversation, seq FROM deliveries WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    return dict(rows)


def _changed(query: Query, user_id: str, cursor: int) -> list[Row]:
    """Memberships that changed behind the cursor, oldest change first, and those that ended: without `joined_seq`."""
    rows = query(
        "SELECT m.conversation, c.conversation_id, c.kind, m.joined_seq, m.entered_seq, m.read_seq, m.hidden_seq, "
        "m.muted, m.pinned, max(m.changed, c.changed, "
        "coalesce((SELECT id FROM messages WHERE conversation = m.conversation "
        "ORDER BY seq DESC LIMIT 1), 0)) AS change "
        "FROM members m JOIN conversations c ON c.number = m.conversation WHERE m.user_id = ? ORDER BY change",
        (user_id,),
    )
    changed = [row for row in rows if row[9] > cursor]
    if not cursor:
        return [row for row in changed if not row[6] or row[6] < newest_of(query, row[0])[0]]
    changed += query(
        "SELECT d.conversation, c.conversation_id, c.kind, NULL, 0, d.left_seq, 0, 0, 0, d.changed "
        "FROM departures d JOIN conversations c ON c.number = d.conversation "
        "WHERE d.user_id = ? AND d.changed > ?",
        (user_id, cursor),
    )
    changed.sort(key=lambda row: row[9])
    return changed
