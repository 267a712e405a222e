"""Who learns what a user reads and types: in a direct conversation nobody from whom the user hides (`Plugin.hidden_from`).

What the plugins say is kept in the cache until the bus says that it has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver_plugins.message.access import others_of

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Conversation


def told_of(ctx: Context, conversation: Conversation, user_id: str) -> list[str]:
    """The other members who may learn what this one does.

    Raises:
        NotLoaded: whether the user hides is not in memory; call it before the first write.
    """
    others = others_of(ctx, conversation, user_id)
    if conversation.kind != "direct":
        return others
    return [other for other in others if not hides(ctx, user_id, other)]


def hides(ctx: AppContext, user_id: str, reader: str) -> bool:
    """Whether a user hides from another one.

    Raises:
        NotLoaded: that is not in memory.
    """

    async def look() -> bool:
        return user_id in await ctx.hidden_from(reader, [user_id])

    is_hidden: bool = ctx.cache.load(_key(user_id, reader), look)
    return is_hidden


def forget(ctx: AppContext, user_id: str, reader: str) -> None:
    """It is another way now."""
    ctx.cache.pop(_key(user_id, reader))


def _key(user_id: str, reader: str) -> tuple[str, str, str]:
    return "hides", user_id, reader
