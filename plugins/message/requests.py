"""The bodies of the message commands, as the wire protocol's section 5 has them."""

from __future__ import annotations

from typing import Annotated, Any

from attrs import frozen

from imserver.plugin import ClientId, ConversationId, Limit, Meta, Struct, UserId

Seq = Annotated[int, Meta(ge=0, le=2**62)]
MAX_MENTIONS = 500
MAX_BATCH = 100

#: Of a stored message.
MessageSeq = Annotated[int, Meta(ge=1, le=2**62)]
#: One emoji as clients show it: a few code points of joined parts, and no character that nobody sees alone.
Emoji = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"\A[^\x00-\x20\x7f-\xa0\u2028\u2029]+\Z")]


class Send(Struct, kw_only=True):
    """2001. A Struct, not an attrs class: it is decoded for every message, in a third of the time."""

    client_id: ClientId
    body: Any
    # Its characters are checked where a conversation begins: a pattern would cost every message a regular expression.
    to: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    conversation_id: ConversationId | None = None
    type: Annotated[str, Meta(min_length=1, max_length=32)] = "text"
    reply_to: MessageSeq | None = None
    mentions: list[UserId] | None = None
    expires_in_ms: Annotated[int, Meta(ge=1, le=10 * 365 * 86_400_000)] | None = None
    store: bool = True


@frozen
class Pull:
    """2002"""

    conversation_id: ConversationId
    after_seq: Seq | None = None
    before_seq: Seq | None = None
    limit: Limit = 50


@frozen
class Sync:
    """2003"""

    cursor: Annotated[str, Meta(max_length=32)] | None = None
    limit: Limit = 50


@frozen
class MarkRead:
    """2004"""

    conversation_id: ConversationId
    seq: Seq


@frozen
class Recall:
    """2005"""

    conversation_id: ConversationId
    seq: MessageSeq


@frozen
class Edit:
    """2006"""

    conversation_id: ConversationId
    seq: MessageSeq
    body: Any


@frozen
class React:
    """2007"""

    conversation_id: ConversationId
    seq: MessageSeq
    emoji: Emoji
    remove: bool = False


class Typing(Struct, kw_only=True):
    """2008. A Struct as SEND's: every pause in somebody's typing is one."""

    to: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    conversation_id: ConversationId | None = None
    on: bool = True


@frozen
class SendBatch:
    """2011. Each message is checked for itself, so that one that is wrong costs only its own result."""

    messages: list[dict[str, Any]]


@frozen
class DeleteConversation:
    """2010"""

    conversation_id: ConversationId


@frozen
class Receipts:
    """2012"""

    conversation_id: ConversationId
    seq: MessageSeq


@frozen
class ConversationSettings:
    """2013. What is absent stays as it is."""

    conversation_id: ConversationId
    muted: bool | None = None
    pinned: bool | None = None


@frozen
class Changes:
    """2014"""

    conversation_id: ConversationId
    since_rev: Seq
    limit: Limit = 50
