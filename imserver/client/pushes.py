"""What the server pushes beside messages, as the application gets it: one class for each push. Frozen, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from .taking import take, take_maybe, take_strings
from .types import Message
from .users import Presence


@frozen
class MessageChanged:
    """A message that the application has seen was recalled, edited or reacted to. Applying one twice is harmless.

    Attributes:
        change: `recalled`, `edited` or `reacted`.
        state: the fields of the new state, as the server sent them; `apply_to` knows what they mean.
    """

    conversation_id: str
    seq: int
    rev: int
    change: str
    state: Mapping[str, Any]

    def apply_to(self, message: Message) -> Message:
        """Return the message in its new state; as it is, if it is at this `rev` or later already.

        Raises:
            ValueError: it is another message.
            RemoteProtocolError: a field has the wrong type.
        """
        if (message.conversation_id, message.seq) != (self.conversation_id, self.seq):
            raise ValueError(f"the change is of {self.conversation_id} {self.seq}, the message another one")
        return message if message.rev >= self.rev else message.with_change(self.change, {**self.state, "rev": self.rev})


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
class FriendEvent:
    """Of a friendship of this user's.

    Attributes:
        event: `requested`, `accepted`, `declined` or `deleted`.
        user_id: the other one.
        request_id: the request that it is about; None for `deleted`.
        message: what came with a request.
        by: this user's own id, where it was done on another device of theirs, or by a request that crossed another.
    """

    event: str
    user_id: str
    request_id: str | None = None
    message: str | None = None
    by: str | None = None


@frozen
class GroupEvent:
    """Of a group of this user's, or one that they were just removed from. The members also get it as a `system` message.

    Attributes:
        event: `created`, `updated`, `dismissed`, `joined`, `left`, `removed`, `role`, `muted` or `join_requested`.
        by: who did it.
        user_ids: those to whom it was done.
        fields: the rest, by event: `name` and what else was set, `role`, `muted_until`, `request_id`, `message`.
    """

    event: str
    group_id: str
    by: str
    user_ids: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(factory=dict)


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
    """Any other push, as it came: of plugins, of later versions, and of a message that a bot is writing (5001, 5003)."""

    command: int
    body: Mapping[str, Any]


@frozen
class EventsLost:
    """`count` events were dropped since the last one, because nobody took them. Never a MessageChanged."""

    count: int


Event = MessageChanged | Read | Typing | Presence | FriendEvent | GroupEvent | Notify | ServerFault | RawPush | EventsLost


def event_from_push(command: int, body: Mapping[str, Any]) -> Event:
    """Convert a push (of 5001 that of a message that grows alone) to its event; an unknown command becomes a RawPush.

    Raises:
        RemoteProtocolError: a field of a known push is missing or has the wrong type.
    """
    match command:
        case 3:
            code = take(body, "code", int)
            about = take_maybe(body, "command", int)
            return ServerFault(code, take(body, "error", str, ""), take(body, "message", str, ""), about)
        case 5003 if body.get("seq") is None:  # a message that grows: it has no place yet
            return RawPush(command, dict(body))
        case 5003:
            seq, rev = take(body, "seq", int), take(body, "rev", int)
            return MessageChanged(take(body, "conversation_id", str), seq, rev, take(body, "change", str), dict(body))
        case 5004:
            return Read(take(body, "conversation_id", str), take(body, "user_id", str), take(body, "seq", int))
        case 5005:
            return Typing(take(body, "conversation_id", str), take(body, "user_id", str), take(body, "on", bool, True))
        case 5006:
            return Presence.from_wire(body)
        case 5007:
            return FriendEvent(
                take(body, "event", str),
                take(body, "user_id", str),
                take_maybe(body, "request_id", str),
                take_maybe(body, "message", str),
                take_maybe(body, "by", str),
            )
        case 5008:
            named = ("event", "group_id", "by", "user_ids")
            return GroupEvent(
                take(body, "event", str),
                take(body, "group_id", str),
                take(body, "by", str, ""),
                take_strings(body, "user_ids"),
                {name: value for name, value in body.items() if name not in named},
            )
        case 5009:
            return Notify(take(body, "topic", str), body.get("body"))
        case _:
            return RawPush(command, dict(body))
