"""One conversation's state: its members, its place in the order, its idempotency keys; and what a message is before and
after it is stored. `imserver.conversations` changes it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import msgspec

from imserver.batch import Batch
from imserver.protocol.body import decode_msgpack
from imserver.protocol.message import Message

DIRECT, GROUP = "direct", "group"

#: Idempotency keys live at least this long (wire protocol, section 3: 24 hours at least), at most twice as long.
KEY_LIFE_MS = 24 * 3600 * 1000

#: How many values a message's row has, and how they are written: see `Conversations.append` and the table `messages`.
MESSAGE_COLUMN_NAMES = "id, conversation, seq, rev, silent, sender, client_id, type, body, expires_at, extra"
MESSAGE_COLUMNS = 11


class Draft(msgspec.Struct, gc=False):
    """A message before it is stored; `before_send` hooks may change it."""

    conversation_id: str
    sender: str
    client_id: str
    type: str
    body: Any
    reply_to: int | None = None
    mentions: list[str] | None = None
    expires_in_ms: int | None = None


class Stored(msgspec.Struct, gc=False):
    """What an append gave. `message` is None for a duplicate: it was pushed when it was new."""

    conversation_id: str
    seq: int
    message_id: str
    sent_at: int
    message: Message | None


# An idempotency key and what it stands for are one integer each, about 140 bytes together; as tuples and strings they were
# 660. The key is a hash of sender and client_id; the value has the Snowflake, a hash of key and content (the proof), and
# the seq. Two keys of one hash are told apart by the proof: the later one is refused (409), never taken for the other.
_SEQ_BITS = 40
_HASH_BITS = 64
_SEQ_MASK = (1 << _SEQ_BITS) - 1
_HASH_MASK = (1 << _HASH_BITS) - 1


def idempotency_key(
    sender: str, client_id: str, message_type: str, body: bytes, seq: int, snowflake: int
) -> tuple[int, int]:
    """What is remembered of a message under its `client_id`: key and value. Hashes are salted: good in this process only.

    Args:
        body: MessagePack, as it is stored.
    """
    return hash((sender, client_id)), remembered(sender, client_id, message_type, body, seq, snowflake)


def remembered(sender: str, client_id: str, message_type: str, body: bytes, seq: int, snowflake: int) -> int:
    """The value of `idempotency_key` alone."""
    proof = hash((sender, client_id, message_type, body)) & _HASH_MASK
    return (snowflake << _HASH_BITS | proof) << _SEQ_BITS | seq


def proof_of(message_type: str, body: bytes) -> int:
    """What is kept on disk of a message's first content when it is changed: whether a retry of it says the same.

    Unlike that in `remembered` it is good in every process, and costs more.
    """
    return int.from_bytes(blake2b(b"%b\0%b" % (message_type.encode(), body), digest_size=8).digest(), "big")


def remembered_changed(proof: int, seq: int, snowflake: int) -> int:
    """The value of an idempotency key whose message was changed since: negative."""
    return -((snowflake << _HASH_BITS | proof) << _SEQ_BITS | seq)


def is_same_content(value: int, sender: str, client_id: str, message_type: str, body: bytes) -> bool:
    """Whether what is remembered under an idempotency key came with this content."""
    seq, snowflake = place_of(value)
    if value < 0:
        return value == remembered_changed(proof_of(message_type, body), seq, snowflake)
    return value == remembered(sender, client_id, message_type, body, seq, snowflake)


def place_of(value: int) -> tuple[int, int]:
    """The `seq` and the Snowflake in the value of an idempotency key."""
    value = abs(value)
    return value & _SEQ_MASK, value >> (_SEQ_BITS + _HASH_BITS)


class Member:
    """One user's part in a conversation."""

    __slots__ = ("entered_seq", "hidden_seq", "is_dirty", "joined_seq", "muted", "pinned", "read_seq", "user_id")

    def __init__(
        self,
        user_id: str,
        joined_seq: int = 0,
        read_seq: int = 0,
        hidden_seq: int = 0,
        entered_seq: int = 0,
        muted: int = 0,
        pinned: int = 0,
    ) -> None:
        self.user_id = user_id
        #: The member sees what comes after this; unread counts from here at the earliest.
        self.joined_seq = joined_seq
        #: The newest message when the member came. It is `joined_seq`, or that is 0: who came sees what was before.
        self.entered_seq = entered_seq
        #: The member's settings of this conversation.
        self.muted = bool(muted)
        self.pinned = bool(pinned)
        #: Read up to here. One's own message moves it at once; on disk that follows in steps (`dirty_cursors`).
        self.read_seq = read_seq
        #: The past up to here was deleted for this member alone.
        self.hidden_seq = hidden_seq
        #: `read_seq` is ahead of the table of members.
        self.is_dirty = False

    @property
    def first_visible(self) -> int:
        """The `seq` before the first message that this member may see."""
        return max(self.joined_seq, self.hidden_seq)


class Conversation:
    """One conversation's state. Read it freely inside a `def` handler; `Conversations` changes it."""

    __slots__ = (
        "_keys",
        "_keys_since_ms",
        "_older_keys",
        "changed_rev",
        "conversation_id",
        "dirty_members",
        "facts",
        "gaps",
        "is_alive",
        "is_recent",
        "kind",
        "last_rev",
        "last_seq",
        "members",
        "members_counted",
        "newest_batch",
        "number",
        "open_seqs",
        "recipients",
        "silent_seqs",
    )

    def __init__(self, conversation_id: str, kind: str, members: Iterable[Member], number: int | None = None) -> None:
        self.conversation_id = conversation_id
        self.kind = kind
        #: The row's key; None until the first message creates the row.
        self.number = number
        self.members = {member.user_id: member for member in members}
        #: Of how many the bound on members in memory knows.
        self.members_counted = 0
        #: Whom a message goes to at this place in the order.
        self.recipients = tuple(self.members)
        self.last_seq = 0
        self.last_rev = 0
        #: The `rev` of the newest change to a message that was there before, of those made since this is in memory.
        self.changed_rev = 0
        #: Ascending: messages that count as unread for nobody (system messages, recalled ones).
        self.silent_seqs = array("Q")
        #: Numbers that no message has since a backup was restored: (the last, how many) each. The last is silent, too.
        self.gaps: tuple[tuple[int, int], ...] = ()
        self._keys: dict[int, int] = {}
        self._older_keys: dict[int, int] = {}
        self._keys_since_ms = 0
        #: False once it was forgotten or evicted: whoever still holds it must look it up again.
        self.is_alive = True
        self.is_recent = True  # used since the eviction hand last passed
        self.newest_batch: Batch | None = None
        self.dirty_members = 0  # members whose `read_seq` is ahead of the table
        #: What plugins keep at it, by plugin; None: nothing yet.
        self.facts: dict[str, Any] | None = None
        #: The messages of it that are in memory, to be changed; None: there never were any.
        self.open_seqs: set[int] | None = None

    def unread(self, member: Member) -> int:
        """How many messages this member has not read (wire protocol, section 4, "Unread").

        Own messages need no test: each moves the sender's `read_seq` to itself.
        """
        start = max(member.read_seq, member.first_visible)
        silent = len(self.silent_seqs) - bisect_right(self.silent_seqs, start)
        for last, width in self.gaps:
            if last > start:
                silent += min(width, last - start) - 1
        return max(0, self.last_seq - start - silent)

    def set_members(self, members: dict[str, Member]) -> None:
        """Others belong to it from here on. The mapping is replaced, never changed: whoever undoes that puts it back."""
        self.members = members
        self.recipients = tuple(members)

    def readers(self, seq: int, sender: str) -> tuple[list[str], int]:
        """Who has read up to this message, its sender left out, and how many have not.

        Who came later counts in neither.
        """
        asked = [member for member in self.members.values() if member.entered_seq < seq and member.user_id != sender]
        read = [member.user_id for member in asked if member.read_seq >= seq]
        return read, len(asked) - len(read)

    @property
    def key_count(self) -> int:
        """How many idempotency keys are held."""
        return len(self._keys) + len(self._older_keys)

    def find_key(self, key: int) -> int | None:
        """What this sender's `client_id` stands for, if it was used in the last 24 hours."""
        return self._keys.get(key) or self._older_keys.get(key)

    def remember_key(self, key: int, value: int, now_ms: int) -> int:
        """Keep a key; returns how many old ones were dropped for it."""
        dropped = 0
        if now_ms - self._keys_since_ms > KEY_LIFE_MS:
            # Two generations: the older one is younger than twice the life and goes as a whole.
            dropped = len(self._older_keys)
            self._older_keys = self._keys
            self._keys = {}
            self._keys_since_ms = now_ms
        self._keys[key] = value
        return dropped

    def shorten_keys(self) -> int:
        """Drop the older generation before its time; returns how many keys that were."""
        dropped = len(self._older_keys)
        self._older_keys = self._keys
        self._keys = {}
        return dropped

    def forget_key(self, key: int) -> None:
        """Free a key whose message came to nothing."""
        self._keys.pop(key, None)


#: One append or cursor move of the open batch, to take back if its handler fails: the conversation, the member and its
#: `read_seq` before, the idempotency key of the appended message (None: only a cursor moved), whether it is silent, and
#: whether it created the conversation. A plain tuple, as one is made for every message. Of any other change: the
#: conversation and what takes it back.
Undo = tuple[Conversation, "Member | None", int, "int | None", bool, bool] | tuple[Conversation, Callable[[], None]]


def read_extra(extra: bytes | None) -> tuple[int | None, list[str] | None]:
    """`reply_to` and `mentions` out of a message row's last column."""
    if extra is None:
        return None, None
    fields = decode_msgpack(extra)
    return fields["r"], fields["m"]


class State(msgspec.Struct, omit_defaults=True, array_like=True):
    """What a message's row has in its column `state` once it was changed; on disk as a MessagePack array."""

    #: Of the first content: see `proof_of`. None: too old to be sent again.
    proof: int | None = None
    edited_at: int | None = None
    recalled: bool = False
    #: By emoji, in the order in which they came.
    reactions: dict[str, list[str]] = {}


_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(State).decode


def read_state(state: bytes) -> State:
    """The column `state` of the row of a message that was changed."""
    return _decode_state(state)


def write_state(state: State) -> bytes:
    """What `read_state` reads."""
    return _encode_state(state)


class OpenMessage(msgspec.Struct):
    """A message in memory, as it is at this place in the order: the only way to change it.

    The message itself is replaced by each change, never changed: it may be on its way in a push.
    """

    message: Message
    #: With its proof, also where the row has no state yet.
    state: State
    #: The row's: nobody's unread counts it.
    is_silent: bool
    body_bytes: int
    #: With the newest change in it; None: none since it came into memory.
    newest_batch: Batch | None = None
