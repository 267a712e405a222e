"""The command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from imserver.plugin import InvalidBody, Message, Plugin, command, on_event
from imserver_plugins.search import indexer, store, terms
from imserver_plugins.search.requests import Search

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Context

#: Searches of one connection; as many as somebody types.
SEARCHES_PER_SECOND = 50

_CURSOR = re.compile("[0-7]?[0-9a-f]{1,15}")  # 63 bits


class SearchPlugin(Plugin):
    """SEARCH, and the index that it looks in."""

    name = "search"
    wants = ("message",)
    migrations: ClassVar[Sequence[str]] = store.MIGRATIONS

    async def on_start(self, ctx: AppContext) -> None:
        """Begin to follow the messages."""
        ctx.start_soon(indexer.run, ctx)

    @on_event("message.edited")
    def message_edited(self, ctx: AppContext, *, message_id: str, **_: Any) -> None:
        """Its new text is to be found, in the commit that it is in."""
        ctx.db.write(*store.edited(int(message_id, 16)))

    @command(2009, request=Search, per_second=SEARCHES_PER_SECOND, bulk=True)
    async def search(self, ctx: Context, request: Search) -> dict[str, Any]:
        """Find messages in one's own conversations, the newest first."""
        user_id = ctx.session.user_id
        assert user_id is not None  # the router lets nobody else in
        before = _id_of(request.cursor)
        query = terms.parse(request.query)
        if query is None:
            return {"messages": []}
        wanted = store.Wanted(
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
        page = await ctx.db.read_transaction(lambda read: store.search(read, wanted))
        messages = [message for found in page.found if (message := await _message(ctx, found, query)) is not None]
        answer: dict[str, Any] = {"messages": messages}
        if page.next_before is not None:
            answer["next_cursor"] = f"{page.next_before:x}"
        return answer


async def _message(ctx: Context, found: store.Found, query: terms.Query) -> Message | None:
    """A message as it is now; None if it was recalled or expired since, or says something else."""
    page = await ctx.messages.history(found.conversation_id, after_seq=found.seq - 1, before_seq=found.seq + 1, limit=1)
    for message in page.messages:
        if not message.recalled and query.matches(terms.text_of(message.type, message.body)):
            return message
    return None


def _id_of(cursor: str | None) -> int | None:
    """The message id that a cursor is; clients treat it as opaque."""
    if not cursor:
        return None
    if not _CURSOR.fullmatch(cursor):
        raise InvalidBody("cursor must be a next_cursor of this command", field="cursor")
    return int(cursor, 16)


__all__ = ["SearchPlugin"]
