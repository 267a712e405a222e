"""What the client hands to the application: messages, answers, events. Frozen, and checked where they come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import field, frozen

from .errors import RemoteProtocolError

T = TypeVar("T")


def take(body: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """Return `body[key]`, which must have the type `kind`; `default` where it is absent or nil.

    Raises:
        RemoteProtocolError: it is absent without a default, or has another type.
    """
    value = body.get(key)
    if value is None:
        if default is None:
            raise RemoteProtocolError(f"the server's answer misses {key!r}")
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RemoteProtocolError(f"{key!r} in the server's answer is {type(value).__name__}, not {kind.__name__}")
    return value


def take_maps(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return `body[key]`, which must be a list of maps.

    Raises:
        RemoteProtocolError: it is absent or something else.
    """
    values = take(body, key, list)
    if not all(isinstance(value, dict) for value in values):
        raise RemoteProtocolError(f"{key!r} in the server's answer is no list of maps")
    return cast("list[dict[str, Any]]", values)


@frozen
class Message:
    """One message, as of `rev`.

    Attributes:
        conversation_id: `d:alice:bob` or `g:group`.
        seq: its place in the conversation, from 1; 0 for a message that was sent with `store=False`.
        rev: the conversation's revision of this message's last change.
        message_id: 16 lower-case hex digits, unique everywhere.
        client_id: the sender's idempotency key.
        from_: the sender's user id.
        sent_at: milliseconds since the epoch, by the server's clock.
        type: `text`, `image`, `custom`, …
        body: a string for `text`, else what the sender chose.
        recalled: taken back by its sender or an admin.
    """

    conversation_id: str
    seq: int
    rev: int
    message_id: str
    client_id: str
    from_: str
    sent_at: int
    type: str
    body: Any
    reply_to: Any = None
    mentions: tuple[str, ...] = ()
    edited_at: int | None = None
    recalled: bool = False
    reactions: Any = None

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Message:
        """Check and convert a message map of the wire.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        edited_at = body.get("edited_at")
        return cls(
            conversation_id=take(body, "conversation_id", str),
            seq=take(body, "seq", int, 0),
            rev=take(body, "rev", int, 0),
            message_id=take(body, "message_id", str, ""),
            client_id=take(body, "client_id", str, ""),
            from_=take(body, "from", str),
            sent_at=take(body, "sent_at", int, 0),
            type=take(body, "type", str, "text"),
            body=body.get("body"),
            reply_to=body.get("reply_to"),
            mentions=tuple(take(body, "mentions", list, [])),
            edited_at=edited_at if isinstance(edited_at, int) else None,
            # A time or a name is as true as `true`: whatever the server marks a recalled message with.
            recalled=bool(body.get("recalled")),
            reactions=body.get("reactions"),
        )


@frozen
class Sent:
    """An accepted message: it is on the server's disk.

    Attributes:
        seq: its place in the conversation; None for `store=False`.
        duplicate: the server had accepted this `client_id` before; this is that answer.
    """

    conversation_id: str
    seq: int | None
    message_id: str
    sent_at: int
    client_id: str
    duplicate: bool = False

    @classmethod
    def from_wire(cls, body: Mapping[str, Any], client_id: str) -> Sent:
        """Check and convert the answer to a SEND.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            conversation_id=take(body, "conversation_id", str),
            seq=take(body, "seq", int, 0) or None,
            message_id=take(body, "message_id", str, ""),
            sent_at=take(body, "sent_at", int, 0),
            client_id=client_id,
            duplicate=take(body, "duplicate", bool, False),
        )


@frozen
class Credentials:
    """The tokens of a session. Keep them as you would keep a password.

    Attributes:
        refresh_token: None where the application brought its own token with `auth()`.
        expires_at: when `token` dies: milliseconds since the epoch, by the server's clock; 0 where not known.
    """

    user_id: str
    token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: int = 0


@frozen
class Conversation:
    """One conversation as SYNC shows it. `last_message` and the rest are as of the server's answer."""

    conversation_id: str
    last_seq: int
    last_rev: int
    read_seq: int
    delivered_seq: int
    unread: int
    last_message: Message | None
    peer: Any = None
    group: Any = None

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Conversation:
        """Check and convert one conversation of SYNC's answer.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        last = body.get("last_message")
        return cls(
            conversation_id=take(body, "conversation_id", str),
            last_seq=take(body, "last_seq", int),
            last_rev=take(body, "last_rev", int, 0),
            read_seq=take(body, "read_seq", int, 0),
            delivered_seq=take(body, "delivered_seq", int, 0),
            unread=take(body, "unread", int, 0),
            last_message=Message.from_wire(last) if isinstance(last, dict) and last else None,
            peer=body.get("peer"),
            group=body.get("group"),
        )


@frozen
class SyncPage:
    """An answer to SYNC: conversations, oldest change first; ask again with `next_cursor` while `more`."""

    conversations: tuple[Conversation, ...]
    next_cursor: str
    more: bool

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> SyncPage:
        """Check and convert an answer to SYNC, or the `sync` of a login's answer.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            conversations=tuple(Conversation.from_wire(entry) for entry in take_maps(body, "conversations")),
            next_cursor=take(body, "next_cursor", str, ""),
            more=take(body, "more", bool, False),
        )


@frozen
class MessagePage:
    """An answer to PULL: messages in ascending `seq`."""

    messages: tuple[Message, ...]
    first_seq: int
    last_seq: int

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> MessagePage:
        """Check and convert an answer to PULL.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        messages = sorted((Message.from_wire(entry) for entry in take_maps(body, "messages")), key=lambda m: m.seq)
        return cls(tuple(messages), take(body, "first_seq", int, 0), take(body, "last_seq", int, 0))


@frozen
class User:
    """A user's public profile. `created_at`: milliseconds since the epoch."""

    user_id: str
    nickname: str
    avatar: str | None = None
    bio: str | None = None
    created_at: int = 0

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> User:
        """Check and convert one user map.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            user_id=take(body, "user_id", str),
            nickname=take(body, "nickname", str, ""),
            avatar=take(body, "avatar", str, "") or None,
            bio=take(body, "bio", str, "") or None,
            created_at=take(body, "created_at", int, 0),
        )


@frozen
class Device:
    """One session of one's own, on line or not. `connected_at`: milliseconds since the epoch."""

    session_id: str
    device_id: str
    platform: str
    address: str
    connected_at: int
    is_online: bool

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Device:
        """Check and convert one device map.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            session_id=take(body, "session_id", str),
            device_id=take(body, "device_id", str, ""),
            platform=take(body, "platform", str, ""),
            address=take(body, "address", str, ""),
            connected_at=take(body, "connected_at", int, 0),
            is_online=take(body, "online", bool, False),
        )


@frozen
class Draft:
    """One message to send, for `send_batch`; the fields are those of `Client.send`."""

    to: str
    body: Any
    type: str = "text"
    client_id: str | None = None
    reply_to: Any = None
    mentions: tuple[str, ...] = ()


# ------------------------------------------------------------------ events


@frozen
class MessageChanged:
    """A message that the application has seen was recalled, edited or reacted to. Applying one twice is harmless.

    Attributes:
        change: `recalled`, `edited` or `reacted`.
        state: the fields of the new state, as the server sent them.
    """

    conversation_id: str
    seq: int
    rev: int
    change: str
    state: Mapping[str, Any]


@frozen
class Read:
    """`user_id` has read the conversation up to `seq`."""

    conversation_id: str
    user_id: str
    seq: int


@frozen
class Typing:
    """`user_id` began (`is_on`) or stopped typing."""

    conversation_id: str
    user_id: str
    is_on: bool


@frozen
class Presence:
    """A watched user came or went. `last_seen`: milliseconds since the epoch."""

    user_id: str
    is_online: bool
    platforms: tuple[str, ...] = ()
    last_seen: int | None = None


@frozen
class Notify:
    """From the server's owner or one of its plugins."""

    topic: str
    body: Any


@frozen
class ServerFault:
    """An ERROR push: what the server could not answer by request id."""

    code: int
    error: str
    message: str
    command: int | None = None


@frozen
class RawPush:
    """Any other push, as it came: friends, groups, plugins, later versions."""

    command: int
    body: Mapping[str, Any]


@frozen
class EventsLost:
    """`count` events were dropped since the last one, because nobody took them. Never a MessageChanged."""

    count: int


Event = MessageChanged | Read | Typing | Presence | Notify | ServerFault | RawPush | EventsLost


def event_from_push(command: int, body: Mapping[str, Any]) -> Event:
    """Convert a push (not 5001) to its event; an unknown command becomes a RawPush.

    Raises:
        RemoteProtocolError: a field of a known push is missing or has the wrong type.
    """
    match command:
        case 3:
            code = take(body, "code", int)
            about = body.get("command")
            return ServerFault(
                code, take(body, "error", str, ""), take(body, "message", str, ""), about if isinstance(about, int) else None
            )
        case 5003:
            seq, rev = take(body, "seq", int), take(body, "rev", int)
            return MessageChanged(take(body, "conversation_id", str), seq, rev, take(body, "change", str), dict(body))
        case 5004:
            return Read(take(body, "conversation_id", str), take(body, "user_id", str), take(body, "seq", int))
        case 5005:
            return Typing(take(body, "conversation_id", str), take(body, "user_id", str), take(body, "on", bool, True))
        case 5006:
            last_seen = body.get("last_seen")
            return Presence(
                take(body, "user_id", str),
                take(body, "online", bool),
                tuple(take(body, "platforms", list, [])),
                last_seen if isinstance(last_seen, int) else None,
            )
        case 5009:
            return Notify(take(body, "topic", str), body.get("body"))
        case _:
            return RawPush(command, dict(body))
