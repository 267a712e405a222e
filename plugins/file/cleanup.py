"""Removing files: what nobody holds when its time is over, uploads that were left behind, bytes that belong to no row.

And ending holds by messages that are gone without a word: their time is over, or they are too old to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from imserver.plugin import ImError, StorageError
from imserver_plugins.file import store
from imserver_plugins.file.state import State, durable

if TYPE_CHECKING:
    from imserver.plugin import AppContext

#: From the start to the first round (what a crash has left is not to wait for long), and between two rounds.
FIRST_ROUND_S = 2.0
PERIOD_S = 10.0
#: What a round removes at most, of each kind.
FILES_A_ROUND = 100
#: How many of the store's files a round compares with the rows, and how often all of them are.
_COMPARED_A_ROUND = 500
_COMPARE_EVERY_MS = 24 * 3600 * 1000
#: How many messages that name files a round looks at, and how many holds one unit of a commit ends.
LOOKED_A_ROUND = 1000
_RELEASED_AT_ONCE = 50
_FIRST = store.Named(0, 0)


async def remove(state: State, ctx: AppContext, file_id: str, condemn: store.Statement) -> bool:
    """Remove a file or an upload, if what `condemn` asks for is so. Returns whether it was.

    Hold its turn. A crash in between leaves a condemned row, which the next round takes up.
    """
    is_removed = False
    with trio.CancelScope(shield=True):  # each of its steps has an end of its own
        state.dying.add(file_id)
        try:
            if await durable(ctx.db.write(*condemn)):
                ctx.cache.pop(file_id)
                await state.files.delete(file_id)
                await durable(ctx.db.write(*store.forget(file_id)))
                is_removed = True
        finally:
            state.dying.discard(file_id)
    return is_removed


async def release_gone_of(state: State, ctx: AppContext, file_id: str) -> None:
    """End holds of one file by messages that are gone; its owner may remove it then, without waiting for a round."""
    now_ms = ctx.clock.now_ms()
    await _release(state, ctx, await store.messages_gone_of(ctx.db, file_id, now_ms, LOOKED_A_ROUND), now_ms)


async def _release(state: State, ctx: AppContext, gone: Sequence[store.Named], now_ms: int) -> None:
    expires_at = state.orphan_until(now_ms)
    for start in range(0, len(gone), _RELEASED_AT_ONCE):
        part = gone[start : start + _RELEASED_AT_ONCE]
        units = [store.release_gone(named, now_ms, expires_at=expires_at) for named in part]
        for rows in await durable(ctx.db.write_all([statement for unit in units for statement in unit])):
            for row in rows:
                ctx.cache.pop(row[0])


@define
class Cleaner:
    """The background task, in small steps."""

    state: State
    ctx: AppContext
    #: Up to which id rows that were left behind have been looked for.
    _looked_to: str = ""
    #: Up to which message those that name files have been looked through.
    _named_to: store.Named = field(default=_FIRST)
    #: The comparison of the store with the rows: where it stands (None: it rests), and when the next one begins.
    _compared_to: str | None = ""
    _next_compare_ms: int = 0

    async def run(self) -> None:
        """Until the server ends."""
        await trio.sleep(FIRST_ROUND_S)
        while True:
            await self.round()
            await trio.sleep(PERIOD_S)

    async def round(self) -> int:
        """One step of everything; returns how many files were removed."""
        removed = 0
        try:
            await self._release_gone()
            removed += await self._remove_left_behind()
            removed += await self._remove_expired()
            removed += await self._remove_strays()
        except (StorageError, ImError, OSError) as exc:
            # The disk is full, say: that has its own alarm, and the next round may find it mended.
            self.ctx.log.warning("file_cleanup_failed", reason=str(exc))
        if removed:
            self.ctx.log.info("files_removed", files=removed)
        return removed

    async def _release_gone(self) -> None:
        """Messages whose time is over at once, those that were deleted in the course of time: see `may_read` for readers."""
        now_ms = self.ctx.clock.now_ms()
        over = await store.messages_over(self.ctx.db, now_ms, LOOKED_A_ROUND)
        await _release(self.state, self.ctx, over, now_ms)
        gone, reached = await store.look_through(self.ctx.db, self._named_to, now_ms, LOOKED_A_ROUND)
        self._named_to = reached or _FIRST
        await _release(self.state, self.ctx, gone, now_ms)

    async def _remove_left_behind(self) -> int:
        """Rows that a crash, or a disk that was full, has left: condemned ones, and uploads that nobody can go on with."""
        files = await store.left_behind(self.ctx.db, self._looked_to, FILES_A_ROUND)
        self._looked_to = files[-1].file_id if files else ""
        return sum([await self._remove(file, store.condemn_unfinished(file.file_id)) for file in files])

    async def _remove_expired(self) -> int:
        now_ms = self.ctx.clock.now_ms()
        files = await store.expired(self.ctx.db, now_ms, FILES_A_ROUND)
        return sum([await self._remove(file, store.condemn_unheld(file.file_id, expired_by_ms=now_ms)) for file in files])

    async def _remove(self, file: store.File, condemn: store.Statement) -> bool:
        if self.state.turns.is_taken(file.file_id) or self.state.turns.is_stopping:
            return False  # under way; or not now
        async with self.state.turns.turn(file.file_id):
            return await remove(self.state, self.ctx, file.file_id, condemn)

    async def _remove_strays(self) -> int:
        """Bytes without a row: the database is of an older backup, or a removal did not reach the disk.

        They stay for `orphan_ttl`, so that somebody who restored the wrong backup can still change their mind.
        """
        now_ms = self.ctx.clock.now_ms()
        if self._compared_to is None:
            if now_ms < self._next_compare_ms:
                return 0
            self._compared_to = ""
        there = await self.state.files.listed(self._compared_to, _COMPARED_A_ROUND)
        if not there:
            self._compared_to = None
            self._next_compare_ms = now_ms + _COMPARE_EVERY_MS
            return 0
        self._compared_to = there[-1].file_id
        # Looked up after they were listed: a row is there before its bytes.
        known = await store.known(self.ctx.db, [stored.file_id for stored in there])
        oldest_ms = now_ms - round(self.state.settings.orphan_ttl_s * 1000)
        removed = 0
        for stored in there:
            if stored.file_id not in known and stored.modified_ms < oldest_ms:
                await self.state.files.delete(stored.file_id)
                self.ctx.log.warning("stray_file_removed", file_id=stored.file_id)
                removed += 1
        return removed
