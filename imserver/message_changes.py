"""Recalls, edits, reactions and the end of messages that are stored. Hold the journal's lock for each change.

A message of any age is brought into memory before it is changed (`OpenMessage`), as its row may be behind by what is open or
in flight. A change takes the conversation's next `rev` and is one row's update in the open batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from imserver.batch import DURABLE
from imserver.conversation import Conversation, OpenMessage, State, write_state
from imserver.errors import Conflict, NotFound, NotLoaded, TooLarge
from imserver.protocol.body import encode_content
from imserver.protocol.message import Message
from imserver.storage import changes

if TYPE_CHECKING:
    from imserver.clock import Clock
    from imserver.conversations import Conversations

#: Messages in memory to be changed, and the bytes of what they say: beyond it the oldest that are durable go.
MAX_OPEN_MESSAGES = 10_000
MAX_OPEN_BYTES = 64 << 20
#: Of a user's name among mentions and reactions, in memory.
_NAME_BYTES = 120

#: Bounds on the reactions of one message: all of it goes to everybody with each one.
MAX_EMOJI = 20
MAX_REACTIONS = 500
MAX_REACTIONS_OF_USER = 5

#: Reads one message from committed data: (number, seq) -> it, None where there is none, or none any more.
MessageLoader = Callable[[int, int], Awaitable["OpenMessage | None"]]


class MessageChanges:
    """Changes of stored messages; `Conversations` has one."""

    def __init__(self, conversations: Conversations, clock: Clock) -> None:
        self._all = conversations
        self._clock = clock
        self._open: dict[tuple[str, int], OpenMessage | None] = {}
        self._open_bytes = 0
        self._evictions = 0  # a load that ran while this changed may be stale

    # ------------------------------------------------------------ memory

    def require(self, conversation: Conversation, seq: int, load: MessageLoader) -> Message | None:
        """A message as it is now; None: there is none, or its time is over.

        Raises:
            NotLoaded: it is not in memory.
        """
        found = self._require(conversation, seq, load)
        return None if found is None else found.message

    def _require(self, conversation: Conversation, seq: int, load: MessageLoader) -> OpenMessage | None:
        self._all.require_alive(conversation)
        if not 0 < seq <= conversation.last_seq:
            return None
        key = (conversation.conversation_id, seq)
        try:
            found = self._open[key]  # one look: who only reads holds no lock, and another shard may evict it meanwhile
        except KeyError:
            raise NotLoaded(lambda: self._load(conversation, seq, load), ("message", *key)) from None
        if found is None:
            return None
        expires_at = found.message.expires_at
        return None if expires_at is not None and expires_at <= self._clock.now_ms() else found

    async def _load(self, conversation: Conversation, seq: int, load: MessageLoader) -> None:
        key = (conversation.conversation_id, seq)
        while conversation.is_alive and conversation.number is not None and key not in self._open:
            evictions = self._evictions
            found = await load(conversation.number, seq)
            with self._all.lock:
                # It may have been in memory, changed and evicted while we read: then read again.
                if evictions == self._evictions and conversation.is_alive and key not in self._open:
                    self._evict()
                    self._open[key] = found
                    self._open_bytes += _size(found)
                    if conversation.open_seqs is None:
                        conversation.open_seqs = set()
                    conversation.open_seqs.add(seq)

    def forget(self, conversation: Conversation) -> None:
        """The conversation leaves memory."""
        for seq in conversation.open_seqs or ():
            self._open_bytes -= _size(self._open.pop((conversation.conversation_id, seq)))
        conversation.open_seqs = None
        self._evictions += 1

    def _evict(self) -> None:
        looked_at = 0
        while (len(self._open) >= MAX_OPEN_MESSAGES or self._open_bytes > MAX_OPEN_BYTES) and looked_at < 1000:
            if not self._open:
                return
            looked_at += 1
            key, found = next(iter(self._open.items()))
            del self._open[key]
            if found is not None and found.newest_batch is not None and found.newest_batch.state != DURABLE:
                self._open[key] = found  # the row is behind it
                continue
            self._open_bytes -= _size(found)
            self._evictions += 1
            conversation = self._all.peek(key[0])
            if conversation is not None and conversation.open_seqs is not None:
                conversation.open_seqs.discard(key[1])

    # ------------------------------------------------------------ changes

    def recall(self, conversation: Conversation, seq: int, load: MessageLoader) -> Message | None:
        """Take a message's content away for everybody; nobody's unread counts it any more. None: it was recalled before.

        Raises:
            NotFound: there is no such message.
        """
        found = self._get(conversation, seq, load)
        if found.state.recalled:
            return None
        message = replace(
            found.message, body=None, reply_to=None, mentions=None, edited_at=None, reactions=None, recalled=True
        )
        state = State(found.state.proof, recalled=True)
        return self._put(conversation, found, message, state, changes.take_content, is_silent=True)

    def edit(self, conversation: Conversation, seq: int, body: Any, load: MessageLoader) -> Message | None:
        """Give a message another body. None: an edit has given it this one before.

        Raises:
            NotFound: there is no such message.
            Conflict: it was recalled.
        """
        found = self._get_content(conversation, seq, load)
        encoded = encode_content(body)
        if found.state.edited_at is not None and encoded == encode_content(found.message.body):
            return None
        edited_at = self._clock.now_ms()
        message = replace(found.message, body=body, edited_at=edited_at)
        state = replace(found.state, edited_at=edited_at)
        return self._put(conversation, found, message, state, changes.change_body, encoded)

    def react(
        self, conversation: Conversation, seq: int, user_id: str, emoji: str, load: MessageLoader, *, remove: bool
    ) -> Message | None:
        """Add or take back a user's reaction. None: it is so already.

        Raises:
            NotFound: there is no such message.
            Conflict: it was recalled.
            TooLarge: it has as many reactions as is allowed, or of this user.
        """
        found = self._get_content(conversation, seq, load)
        reactions = found.state.reactions
        users = reactions.get(emoji, [])
        if (user_id in users) != remove:
            return None
        if remove:
            left = [other for other in users if other != user_id]
            after = {**reactions, emoji: left} if left else {key: value for key, value in reactions.items() if key != emoji}
        else:
            _check_room(reactions, user_id, emoji)
            after = {**reactions, emoji: [*users, user_id]}
        message = replace(found.message, reactions=after or None)
        state = replace(found.state, reactions=after)
        return self._put(conversation, found, message, state, changes.change_state)

    def delete(self, conversation: Conversation, seqs: list[int], states: list[bytes | None]) -> None:
        """Take messages from everybody's sight and their contents from the disk; unread counts them no more.

        Args:
            states: what remains of the column `state`, each.
        """
        self._all.require_alive(conversation)
        number = conversation.number
        assert number is not None
        statements = [changes.delete_content(number, seq, state) for seq, state in zip(seqs, states, strict=True)]
        statements.append(changes.touch(number, self._all.next_snowflake()))
        silenced = [seq for seq in seqs if not _has(conversation, seq)]
        id_ = conversation.conversation_id
        before = [(seq, self._open[id_, seq]) for seq in seqs if (id_, seq) in self._open]

        def undo() -> None:
            for seq in silenced:
                conversation.silent_seqs.remove(seq)
            for seq, found in before:
                self._open_bytes += _size(found) - _size(self._open[id_, seq])
                self._open[id_, seq] = found

        self._all.change(conversation, statements, undo)
        self._evictions += 1  # who reads one of them just now reads again
        for seq in silenced:
            insort(conversation.silent_seqs, seq)
        for seq, found in before:
            self._open[id_, seq] = None
            self._open_bytes -= _size(found)

    def _get(self, conversation: Conversation, seq: int, load: MessageLoader) -> OpenMessage:
        found = self._require(conversation, seq, load)
        if found is None:
            raise NotFound("there is no such message", field="seq")
        return found

    def _get_content(self, conversation: Conversation, seq: int, load: MessageLoader) -> OpenMessage:
        found = self._get(conversation, seq, load)
        if found.state.recalled:
            raise Conflict("this message was recalled", error="recalled")
        return found

    def _put(
        self,
        conversation: Conversation,
        found: OpenMessage,
        message: Message,
        state: State,
        statement: Callable[..., changes.Statement],
        *content: bytes,
        is_silent: bool = False,
    ) -> Message:
        number = conversation.number
        assert number is not None
        seq = message.seq
        key = (conversation.conversation_id, seq)
        rev = conversation.last_rev + 1
        message.rev = rev
        silences = is_silent and not found.is_silent

        def undo() -> None:
            conversation.last_rev -= 1
            self._open[key] = found
            self._open_bytes += _size(found) - _size(changed)
            if silences:
                conversation.silent_seqs.remove(seq)

        statements = (
            statement(number, seq, rev, write_state(state), *content),
            changes.touch(number, self._all.next_snowflake()),
        )
        batch = self._all.change(conversation, statements, undo)
        conversation.last_rev = conversation.changed_rev = rev
        changed = OpenMessage(message, state, found.is_silent or is_silent, _body_bytes(found, content, is_silent), batch)
        self._open[key] = changed
        self._open_bytes += _size(changed) - _size(found)
        if silences:
            insort(conversation.silent_seqs, seq)
        return message


def _check_room(reactions: dict[str, list[str]], user_id: str, emoji: str) -> None:
    if sum(user_id in users for users in reactions.values()) >= MAX_REACTIONS_OF_USER:
        raise TooLarge(f"at most {MAX_REACTIONS_OF_USER} reactions of one user to a message", field="emoji")
    if emoji not in reactions and len(reactions) >= MAX_EMOJI:
        raise TooLarge(f"at most {MAX_EMOJI} different reactions to a message", field="emoji")
    if sum(map(len, reactions.values())) >= MAX_REACTIONS:
        raise TooLarge(f"at most {MAX_REACTIONS} reactions to a message", field="emoji")


def _body_bytes(found: OpenMessage, content: tuple[bytes, ...], is_gone: bool) -> int:
    if content:
        return len(content[0])
    return 1 if is_gone else found.body_bytes


def _size(found: OpenMessage | None) -> int:
    """About how many bytes of memory a client has filled by it."""
    if found is None:
        return 0
    names = len(found.message.mentions or ()) + sum(map(len, found.state.reactions.values()))
    return found.body_bytes + names * _NAME_BYTES


def _has(conversation: Conversation, seq: int) -> bool:
    silent = conversation.silent_seqs
    place = bisect_left(silent, seq)
    return place < len(silent) and silent[place] == seq
