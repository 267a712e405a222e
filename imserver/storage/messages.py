"""What is read and written of conversations, members and messages: all SQL of the core's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from imserver.clock import Clock, SystemClock
from imserver.conversation import (
    KEY_LIFE_MS,
    OpenMessage,
    State,
    idempotency_key,
    proof_of,
    read_extra,
    read_state,
    remembered_changed,
    write_state,
)
from imserver.conversations import LoadedConversation
from imserver.errors import NotFound
from imserver.protocol.body import decode_msgpack
from imserver.protocol.message import Message
from imserver.snowflake import first_at, sent_at_ms
from imserver.storage.database import Database, Query, Row

#: A page of messages is cut before what they say is over this (bodies, mentions, reactions; SYNC's newest messages, too);
#: what is missing comes with the next page.
PAGE_BYTES = 1 << 20

#: Where the newest messages of a conversation are over, SYNC looks among so many for one to show.
_LOOK_BACK = 500

#: Devices of one user whose confirmations are kept; a client that makes up a new id at each login fills these at most.
MAX_DEVICES = 200

_OVER = (
    "SELECT m.id, c.conversation_id, m.seq, m.type, m.body, m.state, c.kind, m.expires_at FROM messages m "
    "JOIN conversations c ON c.number = m.conversation"
)
#: Of a message: as many bytes as it has in an answer, nearly.
_SIZE = "length(body) + coalesce(length(extra), 0) + coalesce(length(state), 0)"
_MESSAGE = "id, seq, rev, sender, client_id, type, body, expires_at, extra, state"


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


@attrs.frozen
class History:
    """A page of a conversation and what there is of it for this member."""

    messages: list[Message]
    first_seq: int  # 0: there is nothing
    last_seq: int


@attrs.frozen
class Missed:
    """A conversation with messages that a device has not confirmed."""

    conversation_id: str
    number: int
    after_seq: int
    last_seq: int
    user_id: str


@attrs.frozen
class Over:
    """A message whose content is to go for good."""

    conversation_id: str
    seq: int
    #: What stays of it in the column `state`.
    state: bytes | None


def _message(conversation_id: str, row: Row) -> Message:
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


def _key(sender: str, client_id: str, message_type: str, body: bytes, seq: int, snowflake: int, state: Any) -> Any:
    """What is remembered of a stored message under its `client_id`."""
    key, value = idempotency_key(sender, client_id, message_type, body, seq, snowflake)
    if state is not None:
        value = remembered_changed(read_state(state).proof or 0, seq, snowflake)
    return key, value


class MessageStore:
    """Reads of committed data; each method is one read transaction in a worker thread.

    A message whose time is over (`expires_in_ms`) is in no answer; its `seq` stays its own.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    # ------------------------------------------------------------ start

    def last_snowflake(self) -> int:
        """The largest id or change number that was ever written."""
        rows = self._database.read_now(
            "SELECT max(coalesce((SELECT max(id) FROM messages), 0), coalesce((SELECT max(changed) FROM members), 0), "
            "coalesce((SELECT max(changed) FROM conversations), 0), coalesce((SELECT max(changed) FROM departures), 0), "
            "coalesce((SELECT value FROM meta WHERE key = 'folded'), 0))"
        )
        return int(rows[0][0])

    def last_conversation(self) -> int:
        """The largest conversation number."""
        return int(self._database.read_now("SELECT coalesce(max(number), 0) FROM conversations")[0][0])

    # ------------------------------------------------------------ conversations

    async def load(self, conversation_id: str, keys_since: int) -> LoadedConversation | None:
        """A conversation for memory: see `imserver.conversations.ConversationLoader`."""

        def read(query: Query) -> LoadedConversation | None:
            found = query("SELECT number, kind FROM conversations WHERE conversation_id = ?", (conversation_id,))
            if not found:
                return None
            number, kind = found[0]
            last_seq, last_rev = _last(query, number)
            own: dict[Any, int] = dict(
                query(
                    "SELECT sender, max(seq) FROM messages WHERE id > ? AND +conversation = ? GROUP BY sender",
                    (_folded(query), number),
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
            silent = query(
                "SELECT seq FROM messages WHERE conversation = ? AND seq > ? AND silent IS NOT NULL ORDER BY seq",
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
            return LoadedConversation(number, kind, last_seq, last_rev, members, [seq for (seq,) in silent], recent)

        return await self._database.read_transaction(read)

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
            high = _BEYOND if before_seq is None else before_seq
            is_forward = after_seq is not None
            messages = self._page(query, conversation_id, number, low, high, limit, is_forward=is_forward)
            last_seq, _ = _last(query, number)
            first = query("SELECT min(seq) FROM messages WHERE conversation = ? AND seq > ?", (number, first_visible))[0][0]
            return History(messages, first or 0, last_seq if first else 0)

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
            last_seq, last_rev = _last(query, number)
            # Messages that were not changed since they came have `rev` in the order of `seq`; the others an index by it.
            low = since_rev if last_seq == last_rev else _unchanged_through(query, number, since_rev, last_seq)
            visible = "conversation = ? AND (expires_at IS NULL OR expires_at > ?) AND seq > ?"
            now_ms = self._clock.now_ms()
            new = query(
                f"SELECT rev, seq, {_SIZE} FROM messages WHERE {visible} AND state IS NULL ORDER BY seq LIMIT ?",
                (number, now_ms, max(low, first_visible), limit),
            )
            changed = query(
                f"SELECT rev, seq, {_SIZE} FROM messages WHERE {visible} AND state IS NOT NULL AND rev > ? "
                "ORDER BY rev LIMIT ?",
                (number, now_ms, first_visible, since_rev, limit),
            )
            seqs = _first_that_fit((seq, size) for _, seq, size in sorted(new + changed)[:limit])
            rows = query(
                f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND seq IN ({','.join('?' * len(seqs))})",
                (number, *seqs),
            )
            messages = [_message(conversation_id, row) for row in rows]
            messages.sort(key=lambda message: message.rev)
            return messages, last_rev

        return await self._database.read_transaction(read)

    async def open_message(self, conversation_id: str, number: int, seq: int) -> OpenMessage | None:
        """One message to be changed; None: its content was deleted. See `imserver.message_changes`.

        Raises:
            NotFound: there is none. (It may come: nobody is to remember that.)
        """

        def read(query: Query) -> OpenMessage | None:
            rows = query(f"SELECT {_MESSAGE}, silent FROM messages WHERE conversation = ? AND seq = ?", (number, seq))
            if not rows:
                raise NotFound("there is no such message", field="seq")
            if rows[0][7] == 0:
                return None
            *row, silent = rows[0]
            message_type, body, state = row[5], row[6], row[9]
            known = State(proof_of(message_type, body)) if state is None else read_state(state)
            return OpenMessage(_message(conversation_id, tuple(row)), known, bool(silent), len(body))

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

    async def sync(self, user_id: str, cursor: int, limit: int) -> tuple[list[SyncRow], bool]:
        """This user's conversations that changed after the change number `cursor`, oldest change first.

        From the beginning (0) those that the user has left or hidden are not among them: there is nothing to take away.

        Returns:
            At most `limit` rows, fewer where their newest messages would be over `PAGE_BYTES`; and whether there are more.
        """

        def read(query: Query) -> tuple[list[SyncRow], bool]:
            own: dict[Any, int] = dict(
                query(
                    "SELECT conversation, max(seq) FROM messages WHERE id > ? AND sender = ? GROUP BY conversation",
                    (_folded(query), user_id),
                )
            )
            changed = query(
                "SELECT m.conversation, c.conversation_id, c.kind, m.joined_seq, m.read_seq, m.hidden_seq, "
                "m.muted, m.pinned, max(m.changed, c.changed, "
                "coalesce((SELECT id FROM messages WHERE conversation = m.conversation "
                "ORDER BY seq DESC LIMIT 1), 0)) AS change "
                "FROM members m JOIN conversations c ON c.number = m.conversation WHERE m.user_id = ? ORDER BY change",
                (user_id,),
            )
            page = [row for row in changed if row[8] > cursor]
            if cursor:
                page += query(
                    "SELECT d.conversation, c.conversation_id, c.kind, NULL, d.left_seq, 0, 0, 0, d.changed "
                    "FROM departures d JOIN conversations c ON c.number = d.conversation "
                    "WHERE d.user_id = ? AND d.changed > ?",
                    (user_id, cursor),
                )
                page.sort(key=lambda row: row[8])
            else:
                page = [row for row in page if not row[5] or row[5] < _last(query, row[0])[0]]
            delivered: dict[int, int] = dict(
                query("SELECT conversation, max(seq) FROM deliveries WHERE user_id = ? GROUP BY conversation", (user_id,))
            )
            rows: list[SyncRow] = []
            page_bytes = 0
            for number, conversation_id, kind, joined, read_seq, hidden, muted, pinned, change in page[:limit]:
                if joined is None:
                    rows.append(SyncRow(conversation_id, kind, read_seq, 0, read_seq, 0, 0, change, None, is_left=True))
                    continue
                last_of = "FROM messages WHERE conversation = ? ORDER BY seq DESC LIMIT 1"
                page_bytes += sum(size for (size,) in query(f"SELECT {_SIZE} {last_of}", (number,)))
                if rows and page_bytes > PAGE_BYTES:
                    break
                last = query(f"SELECT {_MESSAGE} {last_of}", (number,))
                last_message = _message(conversation_id, last[0]) if last else None
                last_seq = last_message.seq if last_message else 0
                if last_message is not None and self._is_over(last_message):
                    last_message = self._last_visible(query, number, conversation_id, last_seq)
                start = max(read_seq, own.get(number, 0), joined, hidden)
                silent = query(
                    "SELECT count(*) FROM messages WHERE conversation = ? AND seq > ? AND silent IS NOT NULL",
                    (number, start),
                )[0][0]
                rows.append(
                    SyncRow(
                        conversation_id,
                        kind,
                        last_seq,
                        _last(query, number)[1],
                        max(read_seq, own.get(number, 0)),
                        delivered.get(number, 0),
                        max(0, last_seq - start - silent),
                        change,
                        last_message if last_message is not None and last_message.seq > max(joined, hidden) else None,
                        bool(muted),
                        bool(pinned),
                        is_hidden=0 < hidden >= last_seq,
                    )
                )
            return rows, len(page) > len(rows)

        return await self._database.read_transaction(read)

    def _last_visible(self, query: Query, number: int, conversation_id: str, last_seq: int) -> Message | None:
        """The newest message whose time is not over, if it is among the newest ones."""
        rows = query(
            f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND seq > ? "
            "AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq DESC LIMIT 1",
            (number, last_seq - _LOOK_BACK, self._clock.now_ms()),
        )
        return _message(conversation_id, rows[0]) if rows else None

    # ------------------------------------------------------------ delivery to a device

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
            return self._page(query, missed.conversation_id, number, low, _BEYOND, limit, is_forward=True)

        return await self._database.read_transaction(read)

    # ------------------------------------------------------------ pages

    def _page(
        self, query: Query, conversation_id: str, number: int, low: int, high: int, limit: int, *, is_forward: bool
    ) -> list[Message]:
        """Messages with low < seq < high, ascending: the first `limit` of them, or the last.

        Shorter where it would be over `PAGE_BYTES`, but never empty unless there is nothing.
        """
        order = "ASC" if is_forward else "DESC"
        sizes = query(
            f"SELECT seq, {_SIZE} FROM messages WHERE conversation = ? AND seq > ? AND seq < ? "
            f"AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq {order} LIMIT ?",
            (number, low, high, self._clock.now_ms(), limit),
        )
        seqs = _first_that_fit(sizes)
        if not seqs:
            return []
        rows = query(
            f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND seq BETWEEN ? AND ? "
            "AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq",
            (number, min(seqs), max(seqs), self._clock.now_ms()),
        )
        return [_message(conversation_id, row) for row in rows]

    def _is_over(self, message: Message) -> bool:
        return message.expires_at is not None and message.expires_at <= self._clock.now_ms()

    # ------------------------------------------------------------ writes, as units for the journal

    @staticmethod
    def cursor_statements(rows: list[tuple[int, str, int]] | None, through: int) -> list[tuple[str, Any]]:
        """Write the read cursors that own messages moved, and that they hold through this Snowflake.

        Args:
            rows: (conversation number, user, read_seq); None: work them out from the messages.
        """
        statements: list[tuple[str, Any]] = []
        if rows is None:
            statements.append(
                (
                    "UPDATE members SET read_seq = max(read_seq, own.seq) FROM ("
                    "SELECT conversation, sender, max(seq) AS seq FROM messages WHERE id > "
                    "coalesce((SELECT value FROM meta WHERE key = 'folded'), 0) GROUP BY conversation, sender) AS own "
                    "WHERE members.conversation = own.conversation AND members.user_id = own.sender",
                    (),
                )
            )
        for start in range(0, len(rows or ()), _CURSORS_PER_STATEMENT):
            part = (rows or [])[start : start + _CURSORS_PER_STATEMENT]
            values = ",".join(["(?,?,?)"] * len(part))
            statements.append(
                (
                    f"WITH own(conversation, user_id, seq) AS (VALUES {values}) "
                    "UPDATE members SET read_seq = max(read_seq, own.seq) FROM own "
                    "WHERE members.conversation = own.conversation AND members.user_id = own.user_id",
                    [value for row in part for value in row],
                )
            )
        statements.append(("INSERT OR REPLACE INTO meta VALUES ('folded', ?)", (through,)))
        return statements

    @staticmethod
    def delivery_statements(
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


_BEYOND = 1 << 62
_CURSORS_PER_STATEMENT = 5000


def _folded(query: Query) -> int:
    """Up to this Snowflake, every sender's own messages are in the table of members."""
    rows = query("SELECT value FROM meta WHERE key = 'folded'")
    return int(rows[0][0]) if rows else 0


def _last(query: Callable[..., list[Row]], number: int) -> tuple[int, int]:
    """The newest `seq` and `rev` of a conversation."""
    rows = query("SELECT seq, rev FROM messages WHERE conversation = ? ORDER BY seq DESC LIMIT 1", (number,))
    if not rows:
        return 0, 0
    changed = query(
        "SELECT rev FROM messages WHERE conversation = ? AND state IS NOT NULL ORDER BY rev DESC LIMIT 1", (number,)
    )
    seq, rev = rows[0]
    return seq, max(rev, changed[0][0]) if changed else rev


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


def _first_that_fit(sizes: Iterable[tuple[int, int]]) -> list[int]:
    """The first `seq`s of messages that together are within `PAGE_BYTES`; one at least, if there is one."""
    total = 0
    seqs: list[int] = []
    for seq, size in sizes:
        total += size
        if seqs and total > PAGE_BYTES:
            break
        seqs.append(seq)
    return seqs
