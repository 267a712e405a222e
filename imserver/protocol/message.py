"""A message as every answer and push carries it (wire protocol, section 5, "Messages")."""

from __future__ import annotations

from typing import Any

import msgspec

from imserver.errors import InvalidBody


class Message(msgspec.Struct, omit_defaults=True, gc=False):
    """A stored message.

    `seq` orders the conversation; `rev` is that of its last change; `message_id` is the Snowflake as 16 hex digits;
    `sent_at` is in milliseconds since the Unix epoch. Absent options are left out on the wire.
    """

    conversation_id: str
    seq: int
    rev: int
    message_id: str
    client_id: str
    sender: str = msgspec.field(name="from")
    sent_at: int
    type: str
    body: Any
    reply_to: int | None = None
    mentions: list[str] | None = None
    expires_at: int | None = None
    edited_at: int | None = None
    recalled: bool | None = None
    reactions: dict[str, list[str]] | None = None


def direct_conversation_id(user_a: str, user_b: str) -> str:
    """`d:` and the two user ids in byte order (wire protocol, section 3)."""
    return f"d:{user_a}:{user_b}" if user_a <= user_b else f"d:{user_b}:{user_a}"


def parties_of(conversation_id: str) -> tuple[str, str]:
    """The two user ids of a direct conversation.

    Raises:
        InvalidBody: it is not the id of a direct conversation.
    """
    parts = conversation_id.split(":")
    if len(parts) != 3 or parts[0] != "d" or not parts[1] or parts[1] > parts[2]:
        raise InvalidBody(
            "a direct conversation's id is d: and the two user ids in byte order, joined by a colon",
            field="conversation_id",
        )
    return parts[1], parts[2]
