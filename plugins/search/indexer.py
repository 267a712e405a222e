"""Fills the index behind the messages, in the background.

It reads what is committed beyond the index and writes a small unit, which joins the journal's next commit: the rows and how
far the index goes, together or not at all. A unit holds up the commit that it is in by some milliseconds, so it rests for
much longer than each took: when there is much to do it takes little from the way of a message and catches up later. A
search looks through the newest messages itself meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from attrs import define, field

from imserver.plugin import StorageError
from imserver_plugins.search.store import index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imserver.plugin import AppContext

#: Messages of one unit that get terms; edited ones are half of them at most, so that new ones never wait for them.
BATCH: Final = 200
#: Messages of one unit whose terms go, and of those from before that was done, which are looked at.
GONE: Final = 200
SWEPT: Final = 500
#: Between two units while there is more: at least this (so 2,000 messages a second at most), and so many times what the
#: last one took with its wait for the commit.
PAUSE_S: Final = 0.1
REST: Final = 20
#: Between two looks while there is nothing.
IDLE_S: Final = 1.0


@define
class _Unit:
    statements: list[index.Statement] = field(factory=list)
    #: Messages in it.
    count: int = 0
    #: There may be more of some kind.
    is_cut: bool = False

    def add(self, rows: Sequence[object], statements: list[index.Statement], limit: int) -> None:
        """What is to be done with some rows, of which there were to be `limit` at most."""
        self.statements += statements
        self.count += len(rows)
        self.is_cut |= len(rows) == limit


async def run(ctx: AppContext) -> None:
    """The background task."""
    while True:
        began = ctx.clock.monotonic()
        is_cut = False
        try:
            is_cut = (await _step(ctx)).is_cut
        except StorageError as exc:
            # The disk is full, say: that has its own alarm, and the next round may find it mended.
            ctx.log.warning("search_index_failed", error=str(exc))
        if is_cut:
            await trio.sleep(max(PAUSE_S, REST * (ctx.clock.monotonic() - began)))
        else:
            await trio.sleep(IDLE_S)


async def step(ctx: AppContext) -> int:
    """Do the next unit; returns how many messages were in it, after the commit."""
    return (await _step(ctx)).count


async def _step(ctx: AppContext) -> _Unit:
    unit = await ctx.db.read_transaction(_prepare)
    if unit.statements:
        await ctx.db.write_all(unit.statements)
    return unit


def _prepare(read: index.Read) -> _Unit:
    """In the reader's thread: long texts keep nobody waiting."""
    unit = _Unit()
    lost = index.lost(read)
    if lost:
        unit.statements += index.sweep_again(lost)
        unit.is_cut = True
        return unit
    limit = max(1, BATCH // 2)
    again = index.edited_rows(read, limit)
    if again:
        unit.add(again, index.index_again(again), limit)
    limit = BATCH - len(again)
    rows = index.unindexed(read, limit)
    if rows:
        unit.add(rows, index.index(rows), limit)
    gone = index.gone(read, GONE)
    if gone:
        unit.add(gone, index.forget(gone), GONE)
    if index.sweeps_texts(read):
        limit = max(1, BATCH // 2)
        old = index.unswept_texts(read, limit)
        if old:
            unit.add(old, index.sweep_texts(old), limit)
    else:
        old = index.unswept(read, SWEPT)
        if old:
            unit.add(old, index.sweep(old), SWEPT)
    return unit
