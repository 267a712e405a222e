"""Conversations as memory loads them, and where the numbers of all go on after a start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imserver.conversation import idempotency_key, read_state, remembered_changed
from imserver.conversations import LoadedConversation
from imserver.protocol.body import decode_msgpack, encode_content
from imserver.storage.cursors import folded
from imserver.storage.rows import newest_of

if TYPE_CHECKING:
    from imserver.storage.database import Database, Query


class ConversationStore:
    """Reads of committed data for `imserver.conversations`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_snowflake(self) -> int:
        """The largest id or change number that was ever written."""
        rows = self._database.read_now(
            "SELECT max(coalesce((SELECT max(id) FROM messages), 0), coalesce((SELECT max(changed) FROM members), 0), "
            "coalesce((SELECT max(changed) FROM conversations), 0), coalesce((SELECT max(changed) FROM departures), 0), "
            "coalesce((SELECT value FROM meta WHERE key = 'folded'), 0))"
        )
        return int(rows[0][0])

    def first_seq(self) -> int:
        """See `imserver.conversations.Conversations.first_seq`."""
        rows = self._database.read_now("SELECT value FROM meta WHERE key = 'first_seq'")
        return int(rows[0][0]) if rows else 0

    def last_conversation(self) -> int:
        """The largest conversation number."""
        return int(self._database.read_now("SELECT coalesce(max(number), 0) FROM conversations")[0][0])

    async def load(self, conversation_id: str, keys_since: int) -> LoadedConversation | None:
        """A conversation for memory: see `imserver.conversations.ConversationLoader`."""

        def read(query: Query) -> LoadedConversation | None:
            found = query("SELECT number, kind FROM conversations WHERE conversation_id = ?", (conversation_id,))
            if not found:
                return None
            number, kind = found[0]
            last_seq, last_rev = newest_of(query, number)
            own: dict[Any, int] = dict(
                query(
                    "SELECT sender, max(seq) FROM messages WHERE id > ? AND +conversation = ? GROUP BY sender",
                    (folded(query), number),
                )
            )
            members = [
                (user_id, joined, max(read_seq, own.get(user_id, 0)), hidden, *others)
                for user_id, joined, read_seq, hidden, *others in query(
                    "SELECT user_id, joined_seq, read_seq, hidden_seq, entered_seq, muted, pinned FROM members "
                    "WHERE conversation = ?",
                    (number,),
                )
            ]
            # What everybody has read is silent already.
            unread_after = min((max(row[1:4]) for row in members), default=last_seq)
            # Where a backup was restored one row stands for many numbers.
            silent = query(
                "SELECT seq, silent FROM messages WHERE conversation = ? AND seq > ? AND silent IS NOT NULL ORDER BY seq",
                (number, unread_after),
            )
            recent: list[tuple[int, int]] = []
            before = last_seq + 1
            while before > 1:
                # A few bodies at a time; what stays of each message is two integers.
                page = query(
                    "SELECT sender, client_id, type, body, seq, id, state FROM messages "
                    "WHERE conversation = ? AND seq < ? ORDER BY seq DESC LIMIT 50",
                    (number, before),
                )
                recent += [_key(*row) for row in page if row[5] >= keys_since]
                if not page or page[-1][5] < keys_since:
                    break
                before = page[-1][4]
            recent.reverse()
            # One that has no message yet has begun behind these numbers, too: see `Conversations.first_seq`.
            first_seq = max((row[1] for row in members), default=0)
            return LoadedConversation(
                number,
                kind,
                max(last_seq, first_seq),
                max(last_rev, first_seq),
                members,
                [seq for seq, _ in silent],
                recent,
                tuple((seq, width) for seq, width in silent if width > 1),
            )

        return await self._database.read_transaction(read)


def _key(sender: str, client_id: str, message_type: str, body: bytes, seq: int, snowflake: int, state: Any) -> Any:
    """What is remembered of a stored message under its `client_id`."""
    # Earlier versions stored a map's keys in the order in which they came.
    content = encode_content(decode_msgpack(body)) if _is_collection(body) else body
    key, value = idempotency_key(sender, client_id, message_type, content, seq, snowflake)
    if state is not None:
        value = remembered_changed(read_state(state).proof or 0, seq, snowflake)
    return key, value


def _is_collection(body: bytes) -> bool:
    """Whether a MessagePack value is a map or a list (fixmap, fixarray; array 16 to map 32)."""
    first = body[0]
    return 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF
