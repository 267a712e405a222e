"""Conversations in memory: members, order, idempotency and read cursors.

What is here may be ahead of the disk by the batches that are open or in flight. A handler reads it, then appends; the
append takes `seq`, `rev` and the change number and puts the row into the open batch in one critical section, so the order
of batches is the order of `seq`.

A conversation is loaded from committed data when it is first used (`NotLoaded`), and may be evicted when nothing open or
in flight refers to it. After a failed commit the conversations that it touched are forgotten and loaded anew.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import astuple

from imserver.batch import DURABLE, Batch, Write, bytes_of
from imserver.conversation import (
    DIRECT,
    GROUP,
    KEY_LIFE_MS,
    Conversation,
    Draft,
    Member,
    State,
    Stored,
    is_same_content,
    place_of,
    proof_of,
    remembered,
    remembered_changed,
    write_state,
)
from imserver.errors import Conflict, NotLoaded, PermissionDenied
from imserver.log import get_logger
from imserver.membership import Membership
from imserver.message_changes import MessageChanges
from imserver.protocol.body import encode_content, encode_msgpack
from imserver.protocol.message import Message
from imserver.snowflake import Snowflakes, first_at, sent_at_ms
from imserver.storage.changes import change_state

if TYPE_CHECKING:
    from imserver.clock import Clock

#: Bounds on what is kept in memory. Beyond them the least recently used conversations are evicted; if the keys of those
#: in use alone are more, the busiest ones forget their oldest keys before their time, which is logged.
MAX_CONVERSATIONS = 100_000
MAX_KEYS = 4_000_000  # of all conversations together; about 140 bytes each
MAX_MEMBERS = 4_000_000  # as well; about 250 bytes each

_SAY_AGAIN_MS = 60_000

#: Types of messages that nobody's unread counts.
_SILENT_TYPES = frozenset({"system"})


class LoadedConversation(NamedTuple):
    """What the store knows of a conversation, as of one read transaction."""

    number: int
    kind: str
    last_seq: int
    last_rev: int
    #: The arguments of `Member`
    members: Sequence[tuple[Any, ...]]
    #: Those that somebody's unread does not count
    silent_seqs: list[int]
    #: What `idempotency_key` makes of each message that is younger than the life of a key, oldest first
    recent: list[tuple[int, int]]
    #: See `Conversation.gaps`.
    gaps: tuple[tuple[int, int], ...] = ()


#: Reads a conversation from committed data: (conversation_id, keys since this Snowflake) -> it, or None.
ConversationLoader = Callable[[str, int], Awaitable["LoadedConversation | None"]]


class Conversations:
    """The conversations in memory, and the only way to change one.

    `lock` and `open_batch` are the journal's. Methods that say "hold the lock" are for handlers inside
    `Context`; they run in any shard.
    """

    def __init__(
        self,
        *,
        snowflakes: Snowflakes,
        clock: Clock,
        load: ConversationLoader,
        last_number: int,
        lock: AbstractContextManager[Any],
        open_batch: Callable[[], Batch],
        first_seq: int = 0,
    ) -> None:
        #: The journal's.
        self.lock = lock
        self._by_id: dict[str, Conversation] = {}
        self._snowflakes = snowflakes
        self._clock = clock
        self._load = load
        self._last_number = last_number
        #: A conversation that begins gives out the numbers behind this one. It is not 0 where a backup was restored: one
        #: that the backup did not know may have had the first.
        self.first_seq = first_seq
        self._open_batch = open_batch
        self._keys_held = 0
        self._members_held = 0
        self._evictions = 0  # a load that ran while this changed may be stale
        #: Members whose `read_seq` moved by a message of their own and is not yet in the table.
        self._dirty: list[tuple[Conversation, Member]] = []
        self._log = get_logger("conversations")
        self._said_at_ms = 0
        self._must_refold = True  # after a crash the table may be behind, too
        self.membership = Membership(self)
        self.message_changes = MessageChanges(self, clock)

    # ------------------------------------------------------------ look-up

    def get(self, conversation_id: str) -> Conversation | None:
        """The conversation if it is in memory."""
        conversation = self._by_id.get(conversation_id)
        if conversation is not None:
            conversation.is_recent = True
        return conversation

    def peek(self, conversation_id: str) -> Conversation | None:
        """As `get`, without keeping it in memory for that."""
        return self._by_id.get(conversation_id)

    def require(self, conversation_id: str) -> Conversation | None:
        """The conversation, or None where the store has none either.

        Raises:
            NotLoaded: it is not in memory; the router loads it and runs the handler again.
        """
        conversation = self._by_id.get(conversation_id)
        if conversation is None:
            raise NotLoaded(lambda: self.load(conversation_id), ("conversation", conversation_id))
        conversation.is_recent = True
        return conversation if conversation.number is not None or conversation.members else None

    async def load(self, conversation_id: str) -> None:
        """Bring a conversation into memory; one that does not exist is remembered as empty."""
        while conversation_id not in self._by_id:
            evictions = self._evictions
            since_ms = self._clock.now_ms() - KEY_LIFE_MS
            loaded = await self._load(conversation_id, first_at(since_ms))
            with self.lock:
                # It may have been in memory, changed and evicted while we read: then read again.
                if evictions == self._evictions and conversation_id not in self._by_id:
                    self._evict()  # before: else, where all others are pinned, it would be the one to go
                    self._by_id[conversation_id] = self._build(conversation_id, loaded, since_ms)

    def open_direct(self, conversation_id: str, user_ids: Iterable[str]) -> Conversation:
        """Begin a direct conversation in memory; its first message writes it. The caller has checked the users."""
        with self.lock:
            conversation = self._by_id.get(conversation_id)
            if conversation is None:
                # Evicted since the handler looked: the store may know it by now.
                raise NotLoaded(lambda: self.load(conversation_id), ("conversation", conversation_id))
            if conversation.number is None and not conversation.members:
                members = [self.first_member(user_id) for user_id in dict.fromkeys(user_ids)]
                conversation = self._begun(conversation_id, DIRECT, members)
                self._by_id[conversation_id] = conversation
                self.count_members(conversation)
            return conversation

    def _build(self, conversation_id: str, loaded: LoadedConversation | None, since_ms: int) -> Conversation:
        if loaded is None:
            kind = GROUP if conversation_id.startswith("g:") else DIRECT
            return self._begun(conversation_id, kind, ())
        members = (Member(*row) for row in loaded.members)
        conversation = Conversation(conversation_id, loaded.kind, members, loaded.number)
        conversation.last_seq = loaded.last_seq
        conversation.last_rev = loaded.last_rev
        conversation.silent_seqs = array("Q", loaded.silent_seqs)
        conversation.gaps = loaded.gaps
        conversation._keys_since_ms = since_ms + KEY_LIFE_MS
        conversation._keys = dict(loaded.recent)
        self._keys_held += conversation.key_count
        self.count_members(conversation)
        return conversation

    def _begun(self, conversation_id: str, kind: str, members: Iterable[Member]) -> Conversation:
        conversation = Conversation(conversation_id, kind, members)
        conversation.last_seq = conversation.last_rev = self.first_seq
        return conversation

    def first_member(self, user_id: str) -> Member:
        """One of those that a conversation begins with."""
        return Member(user_id, self.first_seq, self.first_seq)

    def count_members(self, conversation: Conversation) -> None:
        """A conversation has other members than before. Hold the lock."""
        self._members_held += len(conversation.members) - conversation.members_counted
        conversation.members_counted = len(conversation.members)

    # ------------------------------------------------------------ changes: hold the lock

    def append(
        self, conversation: Conversation, draft: Draft, shard_index: int, said: tuple[str, bytes] | None = None
    ) -> Stored:
        """Give a message its place in the order and put it into the open batch. Hold the lock.

        Args:
            shard_index: of the shard whose plugins get it by `after_commit`.
            said: type and stored body as the sender has sent them, where a hook has changed one: a retry says that again.

        Raises:
            Conflict: the `client_id` was used for another content (409 `idempotency_conflict`).
            PermissionDenied: the sender is not the server itself ("") and no member at this place in the order.
            NotLoaded: the conversation was forgotten since the handler looked it up.
        """
        if not conversation.is_alive:
            self.require_alive(conversation)
        conversation_id = conversation.conversation_id
        _, sender, client_id, message_type, content, reply_to, mentions, expires_in_ms = astuple(draft)
        body = encode_msgpack(content) if type(content) is str else encode_content(content)
        key = hash((sender, client_id))
        known = conversation.find_key(key)
        if known is not None:
            if not is_same_content(known, sender, client_id, *(said or (message_type, body))):
                raise Conflict(
                    "this client_id was used for a message with another body or type; choose a new one",
                    error="idempotency_conflict",
                    field="client_id",
                )
            return _as_before(conversation_id, known)

        member = conversation.members.get(sender)
        if member is None and sender:
            raise PermissionDenied("you are not part of this conversation")  # since the handler looked

        # All that can raise comes before the first change.
        snowflake = self._snowflakes.next()
        sent_at = sent_at_ms(snowflake)
        # By the clock: the time in the ids may be ahead of it.
        expires_at = None if expires_in_ms is None else self._clock.now_ms() + expires_in_ms
        extra = encode_msgpack({"r": reply_to, "m": mentions}) if reply_to is not None or mentions else None
        batch = self._open_batch()
        is_first = conversation.number is None
        if is_first:
            self.create(conversation, snowflake)
        seq = conversation.last_seq = conversation.last_seq + 1
        rev = conversation.last_rev = conversation.last_rev + 1
        conversation.newest_batch = batch
        is_silent = message_type in _SILENT_TYPES
        if is_silent:
            insort(conversation.silent_seqs, seq)
        if said is None:
            value = remembered(sender, client_id, message_type, body, seq, snowflake)
        else:
            value = self._note_said(batch, conversation, said, seq, rev, snowflake, shard_index)
        self._keys_held += 1 - conversation.remember_key(key, value, sent_at)
        if self._keys_held > MAX_KEYS:
            self._make_room(conversation)

        read_seq = 0
        if member is not None:
            read_seq = member.read_seq
            member.read_seq = seq
            if not member.is_dirty:
                member.is_dirty = True
                conversation.dirty_members += 1
                self._dirty.append((conversation, member))
        batch.undo.append((conversation, member, read_seq, key, is_silent, is_first))

        silent = 1 if is_silent else None
        batch.message_params += (
            snowflake, conversation.number, seq, rev, silent, sender, client_id, message_type, body, expires_at, extra,
        )  # fmt: skip
        batch.rows += 1
        batch.message_bytes += len(body)
        message_id = snowflake.to_bytes(8).hex()
        message = Message(
            conversation_id, seq, rev, message_id, client_id, sender, sent_at, message_type, content,
            reply_to, mentions, expires_at,
        )  # fmt: skip
        batch.messages[shard_index].append(message)
        return Stored(conversation_id, seq, message_id, sent_at, message)

    @staticmethod
    def _note_said(
        batch: Batch,
        conversation: Conversation,
        said: tuple[str, bytes],
        seq: int,
        rev: int,
        snowflake: int,
        shard_index: int,
    ) -> int:
        """Let the message's row say what its sender had sent; returns what is remembered of it."""
        proof = proof_of(*said)
        assert conversation.number is not None
        write = Write([change_state(conversation.number, seq, rev, write_state(State(proof)))], shard_index)
        write.is_bound = True
        batch.writes.append(write)
        batch.rows += 1
        batch.held_bytes += bytes_of(write.statements)
        return remembered_changed(proof, seq, snowflake)

    def find_duplicate(
        self, conversation: Conversation, draft: Draft, said: tuple[str, bytes] | None = None
    ) -> Stored | None:
        """What `append` answers to a message that it has stored before; None: it has not, or with another content."""
        known = conversation.find_key(hash((draft.sender, draft.client_id)))
        said = said or (draft.type, encode_content(draft.body))
        if known is None or not is_same_content(known, draft.sender, draft.client_id, *said):
            return None
        return _as_before(conversation.conversation_id, known)

    def mark_read(self, conversation: Conversation, member: Member, seq: int) -> bool:
        """Move a read cursor forward, to `seq` or the last message. Hold the lock. Returns whether it moved."""
        self.require_alive(conversation)
        if conversation.members.get(member.user_id) is not member:
            raise PermissionDenied("you are not part of this conversation")  # since the handler looked
        seq = min(seq, conversation.last_seq)
        if seq <= member.read_seq or conversation.number is None:
            return False
        batch = self._open_batch()
        batch.undo.append((conversation, member, member.read_seq, None, False, False))
        member.read_seq = seq
        conversation.newest_batch = batch
        batch.cursors[conversation.number, member.user_id] = (seq, self._snowflakes.next())
        batch.rows += 1
        return True

    def require_alive(self, conversation: Conversation) -> None:
        """Let nobody change a conversation that is not in memory any more.

        Raises:
            NotLoaded: that is the case.
        """
        if not conversation.is_alive:
            conversation_id = conversation.conversation_id
            raise NotLoaded(lambda: self.load(conversation_id), ("conversation", conversation_id))

    def next_snowflake(self) -> int:
        """An id for what is not stored, or a change number for a plugin's own row. Hold the lock."""
        return self._snowflakes.next()

    def mark_clock(self) -> int:
        """How far the clock is behind the ids, in milliseconds; 0: no further than they borrow. Call it once a second."""
        with self.lock:
            return self._snowflakes.mark()

    def made_at_ms(self, message: Message) -> int:
        """When a message was stored, by the clock: `sent_at`, where the clock was not behind the ids."""
        with self.lock:
            return self._snowflakes.made_at_ms(int(message.message_id, 16))

    def change(self, conversation: Conversation, statements: Sequence[tuple[str, Any]], undo: Callable[[], None]) -> Batch:
        """Put a change into the open batch; what changes memory follows. Hold the lock.

        Args:
            undo: takes the change of memory back, if the handler raises.
        """
        batch = self._open_batch()
        conversation.newest_batch = batch
        batch.undo.append((conversation, undo))
        if statements:
            write = Write(statements, 0)
            write.is_bound = True  # memory has changed by it: it cannot fail alone
            batch.writes.append(write)
            batch.rows += len(statements)
            batch.held_bytes += bytes_of(statements)
        return batch

    def create(self, conversation: Conversation, change: int) -> Batch:
        """Write a conversation's row and its members into the open batch; the caller sees to its undo. Hold the lock."""
        batch = self._open_batch()
        conversation.newest_batch = batch
        self._last_number += 1
        number = conversation.number = self._last_number
        members = [
            (number, member.user_id, member.joined_seq, member.read_seq, member.hidden_seq, change)
            for member in conversation.members.values()
        ]
        batch.opened.append(((number, conversation.conversation_id, conversation.kind, change), members))
        batch.rows += 1 + len(members)
        return batch

    # ------------------------------------------------------------ undo, failure, memory

    def take_back(self, batch: Batch, undo_from: int, params_from: int) -> None:
        """Undo what the running handler appended to the open batch, newest first. Hold the lock.

        Args:
            undo_from, params_from: how long `batch.undo` and `batch.message_params` were when it began to write.
        """
        moved: dict[tuple[int, str], Member] = {}
        while len(batch.undo) > undo_from:
            undo = batch.undo.pop()
            if len(undo) == 2:
                undo[1]()
                continue
            conversation, member, read_seq, key, is_silent, is_first = undo
            if member is not None:
                member.read_seq = read_seq
            if key is None:
                assert member is not None
                assert conversation.number is not None
                moved[conversation.number, member.user_id] = member
                continue
            if is_silent:
                conversation.silent_seqs.remove(conversation.last_seq)
            conversation.last_seq -= 1
            conversation.last_rev -= 1
            conversation.forget_key(key)
            self._keys_held -= 1
            if is_first:
                batch.opened.pop()  # newest first, as here
                conversation.number = None
        del batch.message_params[params_from:]
        for cursor, member in moved.items():
            # An earlier move in this batch may have been overwritten: write the place again where the handler found it.
            # Not what it was before the last move: that may be a message of the handler's own, which is no more.
            batch.cursors[cursor] = (member.read_seq, self._snowflakes.next())

    def forget(self, batches: Iterable[Batch]) -> None:
        """Drop what failed batches touched. Hold the lock: no append comes between the failure and this."""
        for batch in batches:
            for undo in batch.undo:
                self._drop(undo[0])
        self._evictions += 1
        self._must_refold = True

    def _make_room(self, conversation: Conversation) -> None:
        """More keys than `MAX_KEYS`: evict what is idle; if all are in use, the one that grows forgets its oldest keys."""
        self._evict()
        if self._keys_held > MAX_KEYS and conversation.key_count > MAX_KEYS // 100:
            self._keys_held -= conversation.shorten_keys()
            now_ms = self._clock.now_ms()
            if now_ms - self._said_at_ms > _SAY_AGAIN_MS:
                self._said_at_ms = now_ms
                self._log.warning(
                    "idempotency_window_shortened",
                    conversation=conversation.conversation_id,
                    keys=self._keys_held,
                    advice="more messages a day than the memory for idempotency keys holds; see the reference of limits",
                )

    def _drop(self, conversation: Conversation) -> None:
        if conversation.is_alive:
            conversation.is_alive = False
            self.message_changes.forget(conversation)
            self._keys_held -= conversation.key_count
            self._members_held -= conversation.members_counted
            if self._by_id.get(conversation.conversation_id) is conversation:
                del self._by_id[conversation.conversation_id]

    def _evict(self) -> None:
        """Second chance: what was used since the hand last passed stays once more."""
        looked_at = 0
        while self._is_over() and looked_at < 1000:
            looked_at += 1
            conversation_id, conversation = next(iter(self._by_id.items()))
            is_pinned = conversation.newest_batch is not None and conversation.newest_batch.state != DURABLE
            is_pinned = is_pinned or conversation.dirty_members > 0
            if conversation.is_recent or is_pinned:
                conversation.is_recent = False
                del self._by_id[conversation_id]
                self._by_id[conversation_id] = conversation
            else:
                self._drop(conversation)
                self._evictions += 1

    def _is_over(self) -> bool:
        has_many = len(self._by_id) >= MAX_CONVERSATIONS or self._keys_held > MAX_KEYS or self._members_held > MAX_MEMBERS
        return has_many and bool(self._by_id)

    def collect_dirty_cursors(self) -> tuple[list[tuple[int, str, int]] | None, int]:
        """Read cursors that ran ahead of the table by own messages. Hold the lock.

        Returns:
            The rows (conversation number, user, read_seq) and the Snowflake up to which they hold; the caller writes
            both in one transaction. None instead of rows: memory was forgotten meanwhile, fold them from the messages.
        """
        through = self._snowflakes.next() if self._dirty or self._must_refold else 0
        rows: list[tuple[int, str, int]] | None = []
        for conversation, member in self._dirty:
            member.is_dirty = False
            conversation.dirty_members -= 1
            if rows is not None and conversation.number is not None:
                rows.append((conversation.number, member.user_id, member.read_seq))
        self._dirty.clear()
        if self._must_refold:
            rows = None
            self._must_refold = False
        return rows, through

    def refold(self) -> None:
        """Cursors that `collect_dirty_cursors` gave did not reach the table."""
        self._must_refold = True


def _as_before(conversation_id: str, known: int) -> Stored:
    """The answer to a message whose idempotency key is known."""
    seq, snowflake = place_of(known)
    return Stored(conversation_id, seq, f"{snowflake:016x}", sent_at_ms(snowflake), None)
