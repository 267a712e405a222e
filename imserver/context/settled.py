"""Reading stored messages so that no client gets an older state than it was pushed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from imserver.shard import Shard

T = TypeVar("T")

#: How often a page is read again because a message was changed meanwhile.
_MAX_READS = 8


async def read_settled(shard: Shard, conversation_id: str, read: Callable[[], Awaitable[T]]) -> T:
    """What `read` gives of a conversation's messages, read again if one of them was changed meanwhile.

    Else a client could be told of a change first and then be given the state before it, and keep that for good. There is no
    await between the last look and the return.
    """
    find = shard.conversations.peek
    for _ in range(_MAX_READS):
        before = find(conversation_id)
        changed_rev = 0 if before is None else before.changed_rev
        await shard.wait_settled()
        found = await read()
        after = find(conversation_id)
        is_same = before is None or before.changed_rev == changed_rev
        if is_same and (after is before or after is None or not after.changed_rev):
            break
    return found
