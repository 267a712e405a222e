"""The command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from imserver.plugin import InvalidBody, Message, NotLoaded, Plugin, command
from imserver_plugins.search import indexer, terms
from imserver_plugins.search.requests import Search
from imserver_plugins.search.store import index, searching

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context, Conversation

#: Searches of one connection; as many as somebody types.
SEARCHES_PER_SECOND = 50

#: How often a page is read again because something in it was changed meanwhile.
_MAX_READS = 4

_CURSOR = re.compile("[0-7]?[0-9a-f]{1,15}")  # 63 bits


class SearchPlugin(Plugin):
    """SEARCH, and the index that it looks in."""

    name = "search"
    wants = ("message",)
    migrations: ClassVar[Sequence[str]] = index.MIGRATIONS

    async def on_start(self, ctx: AppContext) -> None:
        """Begin to follow the messages."""
        ctx.start_soon(indexer.run, ctx)

    @command(2009, request=Search, per_second=SEARCHES_PER_SECOND, bulk=True)
    async def search(self, ctx: Context, request: Search) -> dict[str, Any]:
        """Find messages in one's own conversations, the newest first."""
        user_id = ctx.session.user_id
        assert user_id is not None  # the router lets nobody else in
        before = _id_of(request.cursor)
        query = terms.parse(request.query)
        if query is None:
            return {"messages": []}
        wanted = searching.Wanted(
            user_id,
            query,
            request.limit,
            ctx.clock.now_ms(),
            before,
            request.conversation_id,
            request.sender,
            request.since,
            request.until,
        )
        page = await _read(ctx, wanted)
        answer: dict[str, Any] = {"messages": [message for message in page.messages if _is_visible(ctx, message)]}
        if page.next_before is not None:
            answer["next_cursor"] = f"{page.next_before:x}"
        return answer


async def _read(ctx: Context, wanted: searching.Wanted) -> searching.Page:
    """A page, searched again if one of its conversations was changed meanwhile.

    Else a client could be told of a change first and then be given the state before it. There is no await between the last
    look and the return.
    """
    for _ in range(_MAX_READS):
        page = await ctx.db.read_transaction(lambda read: searching.search(read, wanted))
        behind = [
            conversation_id for conversation_id, rev in page.newest_revs.items() if _is_behind(ctx, conversation_id, rev)
        ]
        if not behind:
            break
        # What is on its way to the disk is there when this has an answer, or has failed.
        await ctx.messages.history(behind[0], limit=1)
    return page


def _is_behind(ctx: Context, conversation_id: str, newest_rev: int) -> bool:
    conversation = _in_memory(ctx, conversation_id)
    # The lesser of both: a change that could not be stored has given back its `rev`.
    return conversation is not None and min(conversation.changed_rev, conversation.last_rev) > newest_rev


def _is_visible(ctx: Context, message: Message) -> bool:
    """Whether the user sees it still: whoever was removed since it was read gets nothing."""
    user_id = ctx.session.user_id
    assert user_id is not None
    conversation = _in_memory(ctx, message.conversation_id)
    if conversation is None:
        return True  # nobody has changed it: for that it is in memory
    member = conversation.members.get(user_id)
    return member is not None and message.seq > member.first_visible


def _in_memory(ctx: Context, conversation_id: str) -> Conversation | None:
    try:
        return ctx.conversations.require(conversation_id)
    except NotLoaded:
        return None


def _id_of(cursor: str | None) -> int | None:
    """The message id that a cursor is; clients treat it as opaque."""
    if not cursor:
        return None
    if not _CURSOR.fullmatch(cursor):
        raise InvalidBody("cursor must be a next_cursor of this command", field="cursor")
    return int(cursor, 16)


__all__ = ["SearchPlugin"]
