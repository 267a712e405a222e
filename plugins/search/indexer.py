"""Fills the index behind the messages, in the background.

It reads what is committed beyond the index and writes a small unit, which joins the journal's next commit: the rows and how
far the index goes, together or not at all. A unit holds up the commit that it is in by some milliseconds, so it rests for
much longer than each took: when there is much to do it takes little from the way of a message and catches up later. A
search looks through the newest messages itself meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from imserver.plugin import StorageError
from imserver_plugins.search import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext

#: Messages of one unit.
BATCH: Final = 200
#: Between two units while there is more: at least this (so 2,000 messages a second at most), and so many times what the
#: last one took with its wait for the commit.
PAUSE_S: Final = 0.1
REST: Final = 20
#: Between two looks while there is nothing.
IDLE_S: Final = 1.0


async def run(ctx: AppContext) -> None:
    """The background task."""
    while True:
        began = ctx.clock.monotonic()
        try:
            count = await step(ctx)
        except StorageError as exc:
            # The disk is full, say: that has its own alarm, and the next round may find it mended.
            ctx.log.warning("search_index_failed", error=str(exc))
            count = 0
        if count == BATCH:
            await trio.sleep(max(PAUSE_S, REST * (ctx.clock.monotonic() - began)))
        else:
            await trio.sleep(IDLE_S)


async def step(ctx: AppContext) -> int:
    """Take the next messages into the index; returns how many there were, after the commit."""
    statements, count = await ctx.db.read_transaction(_prepare)
    if statements:
        await ctx.db.write_all(statements)
    return count


def _prepare(read: store.Read) -> tuple[list[store.Statement], int]:
    """In the reader's thread: long texts keep nobody waiting."""
    again = store.edited_rows(read, BATCH)
    if again:
        return store.index_again(again), len(again)
    rows = store.unindexed(read, BATCH)
    return (store.index(rows) if rows else []), len(rows)
