"""The body of SEARCH, as the wire protocol's section 5 has it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from imserver.plugin import ConversationId, Limit, Meta, Struct, UserId

MAX_QUERY_CHARACTERS = 256
Time = Annotated[int, Meta(ge=0, le=2**53)]


class Search(Struct, kw_only=True):
    """2009. `from` is a word of Python's: a Struct can name it."""

    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
    conversation_id: ConversationId | None = None
    sender: UserId | None = msgspec.field(default=None, name="from")
    since: Time | None = None
    until: Time | None = None
    limit: Limit = 50
    cursor: Annotated[str, Meta(max_length=16)] | None = None
