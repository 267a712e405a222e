"""Finds what to push: messages that no device of a recipient has confirmed in time.

It follows the table of messages `offline_after` behind the present: nothing is written, and nothing waits in memory, when a
message is sent, and a crash forgets none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from imserver.plugin import StorageError
from imserver_plugins.push import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext

PERIOD_S: Final = 0.5
#: While there is nothing to push the progress is written this often: so much is looked at again after a crash.
_WRITE_PROGRESS_S: Final = 30.0
_SAY_AGAIN_S: Final = 60.0
#: After a fault that nobody has foreseen.
_FAULT_S: Final = 10.0
#: Ids whose time is further ahead than this show that the clock has stepped back.
_AHEAD_MS: Final = 1000
#: How finely `offline_after` is measured for those.
_MARKS: Final = 100

#: (user_id, conversation number) -> what live devices have confirmed and is not on its way to the disk yet.
Confirmed = Callable[[str, int], int]


class Follower:
    """One for the process; its task runs in the shard that started the plugin.

    Args:
        confirmed: what is confirmed in memory.
        providers: the names of those that there are.
        ring: something waits for these providers.
    """

    def __init__(
        self,
        ctx: AppContext,
        confirmed: Confirmed,
        providers: Callable[[], Sequence[str]],
        ring: Callable[[set[str]], None],
    ) -> None:
        self._ctx = ctx
        self._confirmed = confirmed
        self._providers = providers
        self._ring = ring
        self._through = 0
        self._written = 0
        self._written_at_s = 0.0
        self._said_at_s = -_SAY_AGAIN_S
        #: Of ids that run ahead of the clock: (monotonic seconds, the newest then).
        self._marks: deque[tuple[float, int]] = deque()
        #: Of all time: pushes that were put in, and dropped for want of room.
        self.found = 0
        self.dropped = 0

    async def start(self) -> None:
        """Know how far it has come; from here on nothing that is stored is passed over."""
        self._through, is_stored = await self._ctx.db.read_transaction(store.progress)
        if not is_stored:
            await self._ctx.db.write_all([store.advance(self._through)])
        self._written = self._through

    async def run(self) -> None:
        """The background task."""
        while True:
            await trio.sleep(PERIOD_S)
            try:
                while await self.step():
                    await trio.lowlevel.checkpoint()
            except StorageError as exc:
                # It has its own alarm; the progress stays, so nothing is forgotten.
                self._ctx.log.warning("push_look_failed", error=str(exc))
            except Exception:
                # Whatever it is: without this task nothing is pushed to anybody.
                self._ctx.log.exception("push_look_fault")
                await trio.sleep(_FAULT_S)

    async def step(self) -> bool:
        """Look at some messages whose time has come; returns whether there are more."""
        ctx, now_ms, providers = self._ctx, self._ctx.clock.now_ms(), self._providers()
        if not providers:
            return False
        now_s = ctx.clock.monotonic()
        by_clock = store.first_id_at(now_ms - round(ctx.settings.offline_after_s * 1000))

        def read(query: store.Read) -> store.Look:
            before = max(by_clock, self._due_by_mark(store.newest(query), now_ms, now_s) + 1)
            if not store.has_tokens(query, providers):
                # Not as far as the clock: that may be wrong, and the ids to come are beyond those that there are.
                return store.Look([], max(self._through, store.newest(query, before)), False, 0)
            return store.look(query, providers, self._through, before, now_ms)

        look = await ctx.db.read_transaction(read)
        unconfirmed = [one for one in look.found if self._confirmed(one.user_id, one.number) < one.seq]
        if unconfirmed:
            await self._put(unconfirmed, look, now_ms)
        elif look.through > self._written and ctx.clock.monotonic() - self._written_at_s >= _WRITE_PROGRESS_S:
            await self._write([store.advance(look.through)], look.through)
        self._through = look.through
        return look.has_more

    def _due_by_mark(self, newest: int, now_ms: int, now_s: float) -> int:
        """The newest id that is due where the ids do not tell, because the clock has stepped back; 0: they tell."""
        if newest < store.first_id_at(now_ms + _AHEAD_MS):
            self._marks.clear()
            return 0
        wait_s, due = self._ctx.settings.offline_after_s, 0
        if not self._marks or (self._marks[-1][1] < newest and now_s - self._marks[-1][0] >= wait_s / _MARKS):
            self._marks.append((now_s, newest))
        while self._marks and now_s - self._marks[0][0] >= wait_s:
            due = self._marks[0][1]
            if len(self._marks) == 1:
                break  # it stays due
            self._marks.popleft()
        return due

    async def _put(self, unconfirmed: Sequence[store.Unconfirmed], look: store.Look, now_ms: int) -> None:
        excess = look.waiting + sum(one.is_new for one in unconfirmed) - self._ctx.settings.max_jobs
        # In parts, so that a group of thousands does not hold up everybody's commits; the progress is in the last one.
        for start in range(0, len(unconfirmed), store.CHUNK):
            part = unconfirmed[start : start + store.CHUNK]
            statements = [store.put(one, now_ms) for one in part]
            if start + store.CHUNK < len(unconfirmed):
                await self._ctx.db.write_all(statements)
            else:
                if excess > 0:
                    statements.append(store.drop_oldest(excess))
                statements.append(store.advance(look.through))
                results = await self._write(statements, look.through)
                if excess > 0:
                    self._note_dropped(len(results[-2]))
        self.found += len(unconfirmed)
        self._ring({one.provider for one in unconfirmed})

    async def _write(self, statements: list[store.Statement], through: int) -> list[list[store.Row]]:
        results: list[list[store.Row]] = await self._ctx.db.write_all(statements)
        self._written, self._written_at_s = through, self._ctx.clock.monotonic()
        return results

    def _note_dropped(self, count: int) -> None:
        self.dropped += count
        now_s = self._ctx.clock.monotonic()
        if count and now_s - self._said_at_s >= _SAY_AGAIN_S:
            self._said_at_s = now_s
            self._ctx.log.error("push_jobs_dropped", dropped=self.dropped, max_jobs=self._ctx.settings.max_jobs)
