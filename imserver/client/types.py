"""Messages and conversations as the application gets them. Frozen, and checked where they come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen

from .taking import take, take_maps, take_maybe, take_strings

Reactions = Mapping[str, tuple[str, ...]]


def take_reactions(body: Mapping[str, Any]) -> Reactions:
    """Return who reacted with what, by emoji.

    Raises:
        RemoteProtocolError: it is something else.
    """
    reactions: dict[Any, Any] = take(body, "reactions", dict, {})
    return {str(emoji): take_strings(reactions, emoji) for emoji in reactions}


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
        body: a string for `text`, else what the sender chose; None once it was recalled.
        reply_to: the `seq` of the message that this one answers.
        edited_at: when it was edited last: milliseconds since the epoch.
        recalled: taken back by its sender or an admin.
        reactions: the users who reacted, by emoji.
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
    reply_to: int | None = None
    mentions: tuple[str, ...] = ()
    edited_at: int | None = None
    recalled: bool = False
    reactions: Reactions = field(factory=dict)

    def with_change(self, change: str, state: Mapping[str, Any]) -> Message:
        """Return this message in a later state, such as a `MessageChanged` event carries.

        Args:
            change: `recalled`, `edited` or `reacted`.
            state: the fields of the new state, with the wire's names.

        Raises:
            RemoteProtocolError: a field has the wrong type.
        """
        rev = max(self.rev, take(state, "rev", int, 0))
        if self.recalled or state.get("recalled"):
            return evolve(self, rev=rev, body=None, reply_to=None, mentions=(), edited_at=None, recalled=True, reactions={})
        is_whole = "from" in state  # out of CHANGES: what it leaves out is not there
        has_reactions = is_whole or change == "reacted" or "reactions" in state
        return evolve(
            self,
            rev=rev,
            body=state.get("body", self.body),
            edited_at=take_maybe(state, "edited_at", int) or self.edited_at,
            reactions=take_reactions(state) if has_reactions else self.reactions,
        )

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Message:
        """Check and convert a message map of the wire.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
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
            reply_to=take_maybe(body, "reply_to", int),
            mentions=take_strings(body, "mentions"),
            edited_at=take_maybe(body, "edited_at", int),
            # A time or a name is as true as `true`: whatever the server marks a recalled message with.
            recalled=bool(body.get("recalled")),
            reactions=take_reactions(body),
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
    """One conversation as SYNC shows it. `last_message` and the rest are as of the server's answer.

    Attributes:
        peer: the other user of a direct conversation.
        group: the id of the group.
        is_left: the user is a member no more; the last time that it is shown.
        is_hidden: the user has deleted it, and nothing came since.
        muted, pinned: the user's own settings.
    """

    conversation_id: str
    last_seq: int
    last_rev: int
    read_seq: int
    delivered_seq: int
    unread: int
    last_message: Message | None
    peer: str | None = None
    group: str | None = None
    is_left: bool = False
    is_hidden: bool = False
    muted: bool = False
    pinned: bool = False

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
            peer=take_maybe(body, "peer", str),
            group=take_maybe(body, "group", str),
            is_left=take(body, "left", bool, False),
            is_hidden=take(body, "hidden", bool, False),
            muted=take(body, "muted", bool, False),
            pinned=take(body, "pinned", bool, False),
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
class Draft:
    """One message to send, for `send_batch`; the fields are those of `Client.send`."""

    to: str
    body: Any
    type: str = "text"
    client_id: str | None = None
    reply_to: int | None = None
    mentions: tuple[str, ...] = ()


@frozen
class Receipts:
    """Who has read a message, its sender left out.

    Attributes:
        read: those who have, of those who could.
        unread_count: how many have not.
    """

    read: tuple[str, ...]
    unread_count: int

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Receipts:
        """Check and convert an answer to RECEIPTS.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(take_strings(body, "read"), take(body, "unread_count", int))


@frozen
class ConversationSettings:
    """The user's own settings of a conversation, the same on all devices."""

    muted: bool
    pinned: bool

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> ConversationSettings:
        """Check and convert an answer to CONVERSATION_SETTINGS.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(take(body, "muted", bool, False), take(body, "pinned", bool, False))


@frozen
class ChangesPage:
    """An answer to CHANGES: messages in their present state, in the order of their `rev`.

    Attributes:
        last_rev: up to where this page goes; with `more` ask again since there.
    """

    messages: tuple[Message, ...]
    last_rev: int
    more: bool

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> ChangesPage:
        """Check and convert an answer to CHANGES.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        messages = sorted((Message.from_wire(entry) for entry in take_maps(body, "messages")), key=lambda m: m.rev)
        return cls(tuple(messages), take(body, "last_rev", int, 0), take(body, "more", bool, False))
