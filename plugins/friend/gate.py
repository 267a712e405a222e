"""Who may write to whom in a direct conversation, from memory.

The cache has an entry for each conversation and sender: why not, or "" for yes. "Yes" comes out of committed data alone. A
command that takes a permission away puts the refusal there before it writes, and drops the entry when the write is
durable or has failed: messages that came before it lie in its commit or an earlier one, so that they reach the other's
devices before its answer; later ones are refused. A load that ran meanwhile is done again (see `Cache.pop`), so once the
command is answered nothing old is known any more, on any shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from imserver.plugin import ImError, PermissionDenied, direct_conversation_id, parties_of
from imserver_plugins.friend import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Draft

ALLOWED: Final = ""
BLOCKED: Final = "blocked"
NOT_FRIENDS: Final = "not_friends"

Key = tuple[str, str]


class Gate:
    """The rule of one server.

    Args:
        friends_only: `plugins.message.require_friendship`.
    """

    def __init__(self, *, friends_only: bool) -> None:
        self._friends_only = friends_only

    def check(self, ctx: AppContext, draft: Draft) -> None:
        """Let a message to a group or to somebody who takes it pass. It runs for each message, inside the tick.

        Raises:
            PermissionDenied: why not.
            NotLoaded: it is not in memory.
        """
        conversation_id = draft.conversation_id
        if conversation_id[0] != "d":
            return
        key = (conversation_id, draft.sender)
        refusal: str | None = ctx.cache.get(key)
        if refusal is None:
            refusal = ctx.cache.load(key, lambda: self._look(ctx, key))
        if refusal:
            raise _refused(refusal)

    async def _look(self, ctx: AppContext, key: Key) -> str:
        conversation_id, sender = key
        first, second = parties_of(conversation_id)
        if first == second or sender not in (first, second):
            return ALLOWED  # one's own notes, or the server itself speaks
        blocks, are_friends = await store.look(ctx.db, sender, second if sender == first else first)
        # In this order: who is no friend need not learn of the block.
        if self._friends_only and not are_friends:
            return NOT_FRIENDS
        return BLOCKED if blocks else ALLOWED

    @contextmanager
    def blocking(self, ctx: AppContext, user_id: str, blocked_id: str) -> Iterator[None]:
        """Around the write of a block."""
        with self._closing(ctx, [(direct_conversation_id(user_id, blocked_id), blocked_id)], BLOCKED):
            yield

    @contextmanager
    def parting(self, ctx: AppContext, user_id: str, friend_id: str) -> Iterator[None]:
        """Around the write that ends a friendship."""
        conversation_id = direct_conversation_id(user_id, friend_id)
        keys = [(conversation_id, user_id), (conversation_id, friend_id)] if self._friends_only else []
        with self._closing(ctx, keys, NOT_FRIENDS):
            yield

    def forget(self, ctx: AppContext, user_id: str, other_id: str) -> None:
        """What was refused between these two may be allowed now: a friendship has begun, or a block has ended. Durable."""
        conversation_id = direct_conversation_id(user_id, other_id)
        ctx.cache.pop((conversation_id, user_id))
        ctx.cache.pop((conversation_id, other_id))

    @contextmanager
    def _closing(self, ctx: AppContext, keys: list[Key], refusal: str) -> Iterator[None]:
        for key in keys:
            ctx.cache.put(key, refusal)
        try:
            yield
        finally:
            for key in keys:
                ctx.cache.pop(key)


def _refused(refusal: str) -> ImError:
    if refusal == NOT_FRIENDS:
        return PermissionDenied("only friends may write to each other here; send a FRIEND_REQUEST", error="not_friends")
    return PermissionDenied("this user does not take messages from you", error="blocked")
