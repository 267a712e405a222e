"""What is told: the names of the events, and how each looks in a post."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import msgspec

from imserver.plugin import on_event
from imserver_plugins.webhook.store import Waiting, spread_of

if TYPE_CHECKING:
    from imserver.plugin import AppContext

MESSAGE: Final = "message.accepted"

#: Events of the bus that are handed on with their fields, and those of this plugin. The first field of a name that stands
#: here and is there keeps events of the same value in order.
ORDER_BY: Final = ("conversation_id", "group_id", "user_id")
FROM_THE_BUS: Final = (
    "message.recalled",
    "message.edited",
    "message.reacted",
    "user.created",
    "user.disabled",
    "friend.requested",
    "friend.added",
    "friend.removed",
    "friend.blocked",
    "group.created",
    "group.updated",
    "group.dismissed",
    "group.joined",
    "group.left",
    "group.removed",
    "group.role",
    "group.muted",
    "group.join_requested",
    "bot.command",
)
ONLINE, OFFLINE, LOGIN = "user.online", "user.offline", "user.login"
#: Of the ids of messages: wire protocol, section 3.
_SNOWFLAKE_EPOCH_MS: Final = 1_704_067_200_000
_SNOWFLAKE_TIME_SHIFT: Final = 22
NAMES: Final = (MESSAGE, ONLINE, OFFLINE, LOGIN, *FROM_THE_BUS)


def is_wanted(event: str, patterns: Iterable[str]) -> bool:
    """Whether a target wants events of this name."""
    return any(fnmatchcase(event, pattern) for pattern in patterns)


def waiting_event(event: str, fields: Mapping[str, Any], now_ms: int, event_id: str | None = None) -> Waiting:
    """An event as it waits; its id is made up unless the emitter has given it one."""
    plain = {name: _plain(value) for name, value in fields.items()}
    key = next((str(plain[name]) for name in ORDER_BY if name in plain), event)
    event_id = event_id or f"e-{secrets.token_hex(12)}"
    body = {"id": event_id, "event": event, "time": now_ms, **plain}
    return Waiting(event_id, event, now_ms, spread_of(key), msgspec.json.encode(body))


def message_event(message: Any, number: int) -> Waiting:
    """A message as it waits: its id is the message's, so it is the same whenever it is told."""
    event_id = f"m-{message.message_id}"
    body = {"id": event_id, "event": MESSAGE, "time": message.sent_at, "message": message}
    return Waiting(event_id, MESSAGE, message.sent_at, number, msgspec.json.encode(body))


def gone_event(message_id: int, conversation_id: str, number: int, seq: int) -> Waiting:
    """A message whose time was over before it could be told of: its place, and when it was sent, which is in its id."""
    event_id = f"m-{message_id:016x}"
    sent_at = (message_id >> _SNOWFLAKE_TIME_SHIFT) + _SNOWFLAKE_EPOCH_MS
    message = {"conversation_id": conversation_id, "seq": seq, "message_id": f"{message_id:016x}", "expired": True}
    body = {"id": event_id, "event": MESSAGE, "time": sent_at, "message": message}
    return Waiting(event_id, MESSAGE, sent_at, number, msgspec.json.encode(body))


def post_body(server: str, target: str, events: Sequence[Waiting]) -> bytes:
    """The body of a post."""
    fields = {"server": server, "target": target, "events": [msgspec.Raw(event.payload) for event in events]}
    return msgspec.json.encode(fields)


def _plain(value: Any) -> Any:
    """A field of an event as JSON may have it."""
    if isinstance(value, AbstractSet):
        return sorted(value)
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else value


def listener(event: str) -> Callable[..., None]:
    """A plugin's method that hands on an event of the bus."""

    @on_event(event)
    def hand_on(self: Any, ctx: AppContext, **fields: Any) -> None:
        self.tell(ctx, event, fields)

    return hand_on
