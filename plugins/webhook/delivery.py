"""The way to one target: lanes, each a task that posts, waits for the answer, and notes how far it has come.

A lane has one post under way at most, and everything of one conversation is in one lane: so its order is kept. What was
posted is noted after the answer: a crash between the two, of either side, repeats the post with the same event ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final

import trio
from attrs import field, frozen

from imserver.plugin import StorageError
from imserver_plugins.webhook import events, store
from imserver_plugins.webhook.client import Answer, Client, PostFailed
from imserver_plugins.webhook.signing import signed_headers
from imserver_plugins.webhook.store import Waiting

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Message
    from imserver_plugins.webhook.settings import Settings, Target

#: Between two looks while nothing is heard: rows that the command line has put in are found so.
LOOK_S: Final = 1.0
#: Between two notes of a delivery that the disk does not take.
_DISK_S: Final = 1.0
#: Between two notes of how far a lane has looked, if it found nothing of its own there: so much is looked at again after
#: a restart.
NOTE_S: Final = 60.0
#: After a fault of this code.
_FAULT_S: Final = 5.0
#: So many refusals in a row are put aside at once; beyond that it may be the receiver that is wrong, and each takes longer.
REFUSALS_AT_ONCE: Final = 10
#: Answers by which a receiver refuses what is in the post; all others refuse its way, or the moment.
_REFUSALS: Final = frozenset({400, 405, 406, 409, 410, 411, 412, 413, 414, 415, 416, 422, 431, 451})
_MAX_REASON_CHARS: Final = 200


@frozen
class Way:
    """What the lanes of a target share."""

    target: Target
    settings: Settings
    keys: Sequence[bytes]
    client: Client
    #: Told of events (not messages) that wait no more: how many.
    on_settled: Callable[[int], None] = lambda _: None


@frozen
class Work:
    """What goes into one post: events, and where each of them is: a message's id, or a row of the outbox."""

    events: list[Waiting]
    places: list[int]
    #: How far the messages were looked at for it; None: it is of the outbox.
    through: int | None = None

    def first(self, count: int) -> Work:
        """The first of them alone."""
        if count == len(self.events):
            return self
        through = None if self.through is None else self.places[count - 1]
        return Work(self.events[:count], self.places[:count], through)


class Lane:
    """One task of a target."""

    def __init__(self, ctx: AppContext, way: Way, index: int, through: int) -> None:
        self._ctx = ctx
        self._way = way
        self._index = index
        self._through = through
        self._noted = through
        self._noted_at_s = ctx.clock.monotonic()
        self._batch = way.target.batch
        self._failures = 0
        self._refusals = 0
        self._bell = trio.Event()
        self._is_message_turn = False
        self._log = ctx.log.bind(target=way.target.name, lane=index)

    def ring(self) -> None:
        """There may be work."""
        self._bell.set()

    async def run(self) -> None:
        """The background task."""
        while True:
            self._bell = trio.Event()
            try:
                work = await self._find()
                if work is not None:
                    await self._carry_out(work)
            except StorageError as exc:
                # It has its own alarm; nothing is noted, so nothing is lost.
                self._log.warning("webhook_storage_failed", error=str(exc))
                await trio.sleep(_DISK_S)
            except Exception:
                # A fault of ours, which may not be there the next time: a lane that ended would hold its target up unseen.
                self._log.exception("webhook_lane_fault")
                await trio.sleep(_FAULT_S)
            else:
                if work is None:
                    with trio.move_on_after(LOOK_S):
                        await self._bell.wait()

    # ------------------------------------------------------------ work

    async def _find(self) -> Work | None:
        """What to post next: messages and other events take turns."""
        self._is_message_turn = not self._is_message_turn
        finders = (self._find_messages, self._find_events)
        first, second = finders if self._is_message_turn else finders[::-1]
        return await first() or await second()

    async def _find_events(self) -> Work | None:
        target = self._way.target
        found = await self._ctx.db.read_transaction(
            lambda read: store.waiting(read, target.name, target.concurrency, self._index, self._batch)
        )
        return Work(found, [one.row for one in found if one.row is not None]) if found else None

    async def _find_messages(self) -> Work | None:
        target = self._way.target
        if not events.is_wanted(events.MESSAGE, target.events):
            return None
        while True:
            found = await self._ctx.db.read_transaction(
                lambda read: store.scan(read, self._through, target.concurrency, self._index, target.types, self._batch)
            )
            if found.found:
                ids = [place.message_id for place in found.found]
                return Work(await self._messages(found.found), ids, found.through)
            self._through = found.through
            # What is no business of this lane is passed over in memory; the disk hears of it now and then.
            if found.has_more or self._ctx.clock.monotonic() - self._noted_at_s >= NOTE_S:
                await self._note()
            if not found.has_more:
                return None

    async def _note(self) -> None:
        self._noted_at_s = self._ctx.clock.monotonic()
        if self._noted != self._through:
            await self._ctx.db.write_all([store.advance(self._way.target.name, self._index, self._through)])
            self._noted = self._through

    async def _messages(self, places: Sequence[store.Place]) -> list[Waiting]:
        """The messages at these places as they are now, in this order."""
        spans: dict[str, tuple[int, int]] = {}
        for place in places:
            first, _ = spans.get(place.conversation_id, (place.seq, 0))
            spans[place.conversation_id] = (first, place.seq)
        found: dict[tuple[str, int], Message] = {}
        for conversation_id, (first, last) in spans.items():
            after = first - 1
            while after < last:
                page = await self._ctx.messages.history(
                    conversation_id, after_seq=after, before_seq=last + 1, limit=store.SCANNED
                )
                if not page.messages:
                    break
                found.update(((conversation_id, message.seq), message) for message in page.messages)
                after = page.messages[-1].seq
        waiting = []
        for place in places:
            message = found.get((place.conversation_id, place.seq))
            if message is not None:
                waiting.append(events.message_event(message, place.number))
            else:
                waiting.append(events.gone_event(place.message_id, place.conversation_id, place.number, place.seq))
        return waiting

    # ------------------------------------------------------------ posts

    async def _carry_out(self, work: Work) -> None:
        """Post; note it, or wait and leave it for the next time."""
        answer = await self._post(work.events)
        if isinstance(answer, Answer) and 200 <= answer.status < 300:
            await self._settle(work)
            if self._failures:
                self._log.info("webhook_works_again", failures=self._failures)
            self._failures = self._refusals = 0
            self._batch = min(self._way.target.batch, self._batch * 2)
            return
        reason = f"HTTP {answer.status}" if isinstance(answer, Answer) else str(answer)[:_MAX_REASON_CHARS]
        is_refused = isinstance(answer, Answer) and answer.status in _REFUSALS
        if is_refused and len(work.events) > 1:
            self._batch = 1  # one of them is the cause: which one is found out by posting them alone
            return
        too_old = self._ctx.clock.now_ms() - round(self._way.settings.give_up_after_s * 1000)
        given_up = (
            len(work.events) if is_refused else sum(1 for _ in takewhile(lambda one: one.created_at < too_old, work.events))
        )
        if given_up:
            await self._bury(work.first(given_up), reason)
        if is_refused:
            self._refusals += 1
            if self._refusals <= REFUSALS_AT_ONCE:
                return
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …
            self._log.warning("webhook_failed", reason=reason, failures=self._failures, events=len(work.events))
        await trio.sleep(self._pause_s(answer))

    async def _post(self, waiting: Sequence[Waiting]) -> Answer | PostFailed:
        way, target = self._way, self._way.target
        body = events.post_body(self._ctx.config.server.name, target.name, waiting)
        headers = signed_headers(way.keys, body, self._ctx.clock.now_ms())
        try:
            return await way.client.post(target.url, headers, body, timeout_s=target.timeout_s)
        except PostFailed as exc:
            return exc

    def _pause_s(self, answer: Answer | PostFailed) -> float:
        """Twice as long each time, with jitter so that lanes do not come all at once; as long as the receiver asks for."""
        settings = self._way.settings
        longest = min(settings.retry_most_s, settings.retry_first_s * 2.0 ** min(self._failures - 1, 40))
        pause_s = longest * self._ctx.random.uniform(0.5, 1.0)
        asked = answer.headers.get("retry-after", "") if isinstance(answer, Answer) else ""
        if asked.isascii() and asked.isdigit() and len(asked) < 7:
            pause_s = max(pause_s, min(float(asked), settings.retry_most_s))
        return pause_s

    async def _settle(self, work: Work, buried: Sequence[store.Statement] = ()) -> list[list[store.Row]]:
        """Note what became of a post; on a disk that fails until it is mended, rather than post again and again."""
        if work.through is None:
            statements = [store.done(work.places), *buried]
        else:
            statements = [store.advance(self._way.target.name, self._index, work.through), *buried]
        while True:
            try:
                results: list[list[store.Row]] = await self._ctx.db.write_all(statements)
                break
            except StorageError as exc:
                self._log.warning("webhook_storage_failed", error=str(exc))
                await trio.sleep(_DISK_S)
        if work.through is None:
            self._way.on_settled(len(work.places))
        else:
            self._through = self._noted = work.through
            self._noted_at_s = self._ctx.clock.monotonic()
        return results

    async def _bury(self, work: Work, reason: str) -> None:
        name, settings = self._way.target.name, self._way.settings
        buried = store.bury(name, work.events, self._ctx.clock.now_ms(), reason, settings.max_dead)
        results = await self._settle(work, buried)
        self._log.error(
            "webhook_gave_up",
            events=len(work.events),
            first=work.events[0].event_id,
            reason=reason,
            advice="see `imserver webhook list`",
        )
        if results[-1]:
            self._log.error("webhook_dead_dropped", events=len(results[-1]), max_dead=settings.max_dead)


@frozen
class Courier:
    """All lanes, and what wakes them from any shard's thread."""

    lanes: list[Lane]
    token: trio.lowlevel.TrioToken = field(factory=trio.lowlevel.current_trio_token)
    _is_rung: list[bool] = field(factory=lambda: [False])

    def ring_soon(self) -> None:
        """Something has become durable that may have to be told; from any thread."""
        if self._is_rung[0]:
            return
        self._is_rung[0] = True
        try:
            self.token.run_sync_soon(self._ring)
        except trio.RunFinishedError:
            return  # the lanes have ended; what is left is found at the next start

    def _ring(self) -> None:
        self._is_rung[0] = False
        for lane in self.lanes:
            lane.ring()
