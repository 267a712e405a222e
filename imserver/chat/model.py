"""Conversations and messages as they are shown, without I/O. Texts are as they came: they are cleaned where shown."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from imserver.client import Conversation, Message, MessageChanged, RemoteFile, RemoteProtocolError

#: Messages of one conversation in memory; older ones are fetched again when they are scrolled to.
MAX_LOADED: Final = 2000
#: Conversations in memory, by the time of their last message.
MAX_CONVERSATIONS: Final = 5000
#: A typing notice that is not repeated ends by itself.
TYPING_S: Final = 6.0
FILE_TYPES: Final = ("file", "image", "audio", "video")


@attrs.define(eq=False)
class Line:
    """One message on the screen.

    Attributes:
        state: `sent`, or of one's own: `sending`, `failed`.
        note: why it failed.
    """

    message: Message
    state: str = "sent"
    note: str = ""

    @property
    def seq(self) -> int:
        """Its place; 0 while the server has not given it one."""
        return self.message.seq


@attrs.define(eq=False)
class Chat:
    """One conversation.

    Attributes:
        title: the peer's user id, or the group's name (its id until that is known).
        counted_seq: up to where `unread` has counted.
        lines: in order of `seq`.
        pending: one's own that have no `seq` yet, in order.
        is_complete: `lines` begin at the first message there is for this user.
        peer_read_seq: up to where the peer of a direct conversation is known to have read.
        typing: who types, until when (monotonic seconds).
        is_online: of the peer; None where not known.
    """

    conversation_id: str
    title: str
    unread: int = 0
    last_seq: int = 0
    counted_seq: int = 0
    read_seq: int = 0
    peer_read_seq: int = 0
    active_at: int = 0
    lines: list[Line] = attrs.Factory(list)
    pending: list[Line] = attrs.Factory(list)
    is_opened: bool = False
    is_complete: bool = False
    typing: dict[str, float] = attrs.Factory(dict)
    is_online: bool | None = None
    last_seen: int | None = None
    is_muted: bool = False
    is_pinned: bool = False

    @property
    def is_group(self) -> bool:
        """It has members, not a peer."""
        return self.conversation_id.startswith("g:")

    @property
    def first_seq(self) -> int:
        """Of the oldest line in memory; 0 without one."""
        return self.lines[0].seq if self.lines else 0

    def line(self, seq: int) -> Line | None:
        """The message in this place, if it is in memory."""
        at = bisect.bisect_left(self.lines, seq, key=lambda line: line.seq)
        return self.lines[at] if at < len(self.lines) and self.lines[at].seq == seq else None

    def put(self, message: Message) -> bool:
        """Show a message in its place; returns whether it is new."""
        at = bisect.bisect_left(self.lines, message.seq, key=lambda line: line.seq)
        if at < len(self.lines) and self.lines[at].seq == message.seq:
            if message.rev >= self.lines[at].message.rev:
                self.lines[at].message = message
            return False
        self.lines.insert(at, Line(message))
        self.last_seq = max(self.last_seq, message.seq)
        self.active_at = max(self.active_at, message.sent_at)
        if len(self.lines) > MAX_LOADED:
            del self.lines[: len(self.lines) - MAX_LOADED]
            self.is_complete = False
        return True

    def put_older(self, page: Sequence[Message]) -> None:
        """Show a page before the others. The user asks for each one, so it has its room; `put` cuts back to the bound."""
        known = {line.seq for line in self.lines}
        self.lines[:0] = [Line(message) for message in page if message.seq not in known]
        self.lines.sort(key=lambda line: line.seq)

    def typists(self, now: float) -> list[str]:
        """Who types."""
        self.typing = {user_id: until for user_id, until in self.typing.items() if until > now}
        return sorted(self.typing)


class Chats:
    """All conversations of one user, and which of them is open."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.by_id: dict[str, Chat] = {}
        self.current: Chat | None = None
        self.group_names: dict[str, str] = {}

    def ordered(self) -> list[Chat]:
        """By their last message, latest first; behind those that the user has pinned."""
        return sorted(self.by_id.values(), key=lambda chat: (not chat.is_pinned, -chat.active_at, chat.conversation_id))

    def get(self, conversation_id: str) -> Chat:
        """A conversation; made if it is not there."""
        chat = self.by_id.get(conversation_id)
        if chat is None:
            chat = self.by_id[conversation_id] = Chat(conversation_id, self.title_of(conversation_id))
            self._shrink()
        return chat

    def title_of(self, conversation_id: str) -> str:
        """What a conversation is called."""
        kind, _, rest = conversation_id.partition(":")
        if kind == "g":
            return self.group_names.get(rest, rest)
        return peer_of(conversation_id, self.user_id) or rest

    def _shrink(self) -> None:
        if len(self.by_id) > MAX_CONVERSATIONS:
            oldest = min((chat for chat in self.by_id.values() if chat is not self.current), key=lambda chat: chat.active_at)
            del self.by_id[oldest.conversation_id]

    def synced(self, entry: Conversation) -> Chat:
        """Take in what SYNC says of a conversation."""
        chat = self.get(entry.conversation_id)
        chat.unread = entry.unread
        chat.is_muted, chat.is_pinned = entry.muted, entry.pinned
        chat.last_seq = max(chat.last_seq, entry.last_seq)
        chat.counted_seq = max(chat.counted_seq, entry.last_seq)
        chat.read_seq = max(chat.read_seq, entry.read_seq)
        if entry.last_message is not None:
            chat.active_at = max(chat.active_at, entry.last_message.sent_at)
        return chat

    def arrived(self, message: Message) -> Chat:
        """Take in a message that was pushed or fetched as new."""
        chat = self.get(message.conversation_id)
        if message.seq:
            chat.put(message)
        is_new = message.seq > chat.counted_seq
        chat.last_seq = max(chat.last_seq, message.seq)
        chat.counted_seq = max(chat.counted_seq, message.seq)
        chat.active_at = max(chat.active_at, message.sent_at)
        chat.typing.pop(message.from_, None)
        if message.from_ == self.user_id:
            chat.unread, chat.read_seq = 0, max(chat.read_seq, message.seq)
        elif is_new and message.seq > chat.read_seq and message.type != "system" and not message.recalled:
            chat.unread += 1
        return chat

    def changed(self, event: MessageChanged) -> tuple[Chat | None, Message | None]:
        """Apply a recall, an edit or a reaction; returns it in its new state, None if nothing is new to show."""
        chat = self.by_id.get(event.conversation_id)
        line = chat.line(event.seq) if chat is not None else None
        if line is None:
            return chat, None
        old, line.message = line.message, event.apply_to(line.message)
        # A change of one's own is told again after a reconnect.
        return chat, None if attrs.evolve(old, rev=line.message.rev) == line.message else line.message

    def forget(self, conversation_id: str) -> None:
        """The user has left a conversation, or deleted it."""
        chat = self.by_id.pop(conversation_id, None)
        self.group_names.pop(conversation_id.removeprefix("g:"), None)
        if chat is not None and chat is self.current:
            self.current = None

    def read(self, conversation_id: str, user_id: str, seq: int) -> Chat | None:
        """Somebody has read up to `seq`: the peer, or oneself on another device."""
        chat = self.by_id.get(conversation_id)
        if chat is None:
            return None
        if user_id != self.user_id:
            chat.peer_read_seq = max(chat.peer_read_seq, seq)
        elif seq >= chat.last_seq:
            chat.read_seq, chat.unread = seq, 0
        else:
            chat.read_seq = max(chat.read_seq, seq)
        return chat


def peer_of(conversation_id: str, user_id: str) -> str | None:
    """The other user of a direct conversation (oneself in the one with oneself); None for a group."""
    kind, _, rest = conversation_id.partition(":")
    if kind != "d":
        return None
    first, _, second = rest.partition(":")
    return second if first == user_id else first


def direct_id(one: str, other: str) -> str:
    """The conversation of two users."""
    return "d:" + ":".join(sorted((one, other), key=lambda user_id: user_id.encode()))


def file_of(message: Message) -> RemoteFile | None:
    """The file that a message names, if it is such a message."""
    if message.type not in FILE_TYPES or not isinstance(message.body, Mapping):
        return None
    try:
        return RemoteFile.from_wire(message.body)
    except RemoteProtocolError:
        return None


def is_servers(message: Message) -> bool:
    """The server says this. A user, too, may send the type `system`: that is a message of theirs like any other."""
    return message.type == "system" and not message.from_


def text_of(message: Message) -> str:
    """A message as one text, not cleaned yet."""
    if message.recalled:
        return "(recalled)"
    if is_servers(message) and isinstance(message.body, Mapping):
        return _system_text(message.body)
    file = file_of(message)
    if file is not None:
        return f"[{message.type}] {file.name} ({size_text(file.size)}), /save {message.seq}"
    if isinstance(message.body, str):
        return message.body
    if isinstance(message.body, Mapping) and isinstance(message.body.get("text"), str):
        return str(message.body["text"])
    return f"[{message.type}] {json.dumps(message.body, ensure_ascii=False, default=_unshown)}"


def _system_text(body: Mapping[str, Any]) -> str:
    """What has happened to a group, in words; of an event that is not known here, its name."""
    by, users = body.get("by"), body.get("user_ids")
    names = [user_id for user_id in users if isinstance(user_id, str)] if isinstance(users, list) else []
    others = ", ".join(name for name in names if name != by)
    match body.get("event"):
        case "created":
            words = f"began the group{f' with {others}' if others else ''}"
        case "joined":
            words = f"added {others}" if others else "joined"
        case "left":
            words = "left"
        case "removed":
            words = f"removed {others}"
        case "role":
            words = f"made {others} {body.get('role')}"
        case "muted":
            words = f"{'muted' if body.get('muted_until') else 'lifted the mute of'} {others}"
        case "updated":
            words = f"changed {', '.join(sorted(str(key) for key in body if key not in ('by', 'event')))}"
        case "dismissed":
            words = "ended the group"
        case event:
            words = f"{event} {others}".strip()
    return f"{by} {words}" if isinstance(by, str) else words


def reactions_of(message: Message) -> str:
    """Who reacted with what, not cleaned yet: `👍 2 🎉 1`."""
    return " ".join(f"{emoji} {len(users)}" for emoji, users in message.reactions.items())


def size_text(size: int) -> str:
    """Bytes for a person."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def _unshown(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else f"<{type(value).__name__}>"
