"""A shard: one thread, one trio.run, one nursery, and the sessions that were dealt to it.

The tick (`reactor.py` calls both ends of it): first the batches that have become durable release their frames, then every
ready socket is read and its frames are dispatched; at the end the journal may commit what the tick wrote, and every
outbox that got something is written. Work is batched by the tick, so the cost of a message falls as load grows.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio

from imserver.batch import DURABLE, OPEN, Batch, Held, Write, bytes_of
from imserver.errors import FAULTS, StorageUnavailable
from imserver.fanout import MIN_USERS, Spread, gather
from imserver.journal import Journal
from imserver.log import get_logger
from imserver.protocol.body import encode_frame
from imserver.protocol.frame import FORM
from imserver.reactor import Reactor
from imserver.router import Router, refusal_of
from imserver.section import Section
from imserver.send_hooks import SendHooks
from imserver.session import GOAWAY, Session
from imserver.storage.cursors import cursor_statements
from imserver.watch import LoopWatch
from imserver.wheel import RESOLUTION_S, Wheel

if TYPE_CHECKING:
    from imserver.cache import Cache
    from imserver.caller import Caller
    from imserver.clock import Clock
    from imserver.commands import CommandTable
    from imserver.config import Config
    from imserver.context import AppContext
    from imserver.conversation import Conversation, Member
    from imserver.conversations import Conversations
    from imserver.directory import Directory
    from imserver.figures import Figures
    from imserver.outbox import Outbox
    from imserver.plugin_loader import Registry
    from imserver.storage.database import Database
    from imserver.storage.stores import Stores

#: What one read takes from one socket at most, so that no socket starves the others.
READ_BYTES = 64 * 1024
#: Calls from other shards that may wait; beyond it a push makes its session a slow consumer.
_MAILBOX_MAX = 20_000


#: When clients of a server that stops are to come back: this late, and later by up to so much a connection, at most so much.
#: A login by token takes about a millisecond of one core.
_RETRY_AFTER_DRAIN_MS = 1000
_DRAIN_SPREAD_MS = 1.0
_DRAIN_SPREAD_MAX_MS = 30_000


class _Conditional:
    """An answer whose handler wrote SQL units: it becomes an error if one of them failed."""

    __slots__ = ("rid", "writes")

    def __init__(self, rid: int, writes: Sequence[Write]) -> None:
        self.rid = rid
        self.writes = writes


class Shard:
    """See the module. `post` and `wake` may be called from any thread; everything else belongs to the shard's own."""

    def __init__(
        self,
        index: int,
        *,
        config: Config,
        clock: Clock,
        journal: Journal,
        conversations: Conversations,
        directory: Directory,
        database: Database,
        stores: Stores,
        registry: Registry,
        table: CommandTable,
        caches: Mapping[str, Cache],
    ) -> None:
        self.index = index
        self.config = config
        self.limits = config.limits
        self.heartbeat_s = config.tcp.heartbeat_s
        self.clock = clock
        self.journal = journal
        self.conversations = conversations
        self.directory = directory
        self.database = database
        self.stores = stores
        self.registry = registry
        #: The whole server's; set when it is put together.
        self.figures: Figures | None = None
        self.table = table
        self.random = random.Random()
        self.log = get_logger("shard").bind(shard=index)
        #: Monotonic seconds at the begin of the tick.
        self.now = clock.monotonic()
        #: When nothing was read last, because the journal was full: nobody is taken for silent by that time.
        self.deaf_at = self.now
        self.reactor = Reactor(self._begin_tick, self._end_tick, lambda: journal.is_full, self._source_fault)
        self.wheel = Wheel(self.now)
        self.section = Section(journal, conversations, index, self._hand_on)
        self.read_buffer = bytearray(READ_BYTES)
        self.read_view = memoryview(self.read_buffer)
        self.sessions: set[Session] = set()
        #: Outboxes that got something in this tick.
        self.dirty: list[Outbox] = []
        #: Outboxes that got something by a push to very many: a slice of them is written in each tick.
        self.spread = Spread()
        #: Batches that hold, or may come to hold, frames of this shard; oldest first.
        self.waiting: deque[Batch] = deque()
        #: How many of the frames in them are `_Conditional`.
        self._conditionals = 0
        self._mailbox: deque[Callable[[], None]] = deque()
        self._durable_waiters: dict[int, list[trio.Event]] = {}
        self._nursery: trio.Nursery | None = None
        #: How late the loop comes round; what was refused or cut off here, for whoever counts.
        self.loop_watch = LoopWatch(self.log)
        self.slow_consumers = 0
        #: By the limit that was reached.
        self.connections_refused: Counter[str] = Counter()
        self._tls_failures = 0
        self._tls_said_at = -1.0
        #: Sessions whose next frames wait for a tick of their own.
        self._out_of_turn: deque[Session] = deque()
        #: The plugins' `before_send` hooks.
        self.send_hooks = SendHooks()
        self.worker_limiter = trio.CapacityLimiter(8)
        self.router = Router(self, registry, table, caches)

    # ------------------------------------------------------------ life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.reactor.run)
            nursery.start_soon(self._keep_time)
            task_status.started()

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """A task in this shard's nursery; it must not raise."""
        assert self._nursery is not None
        self._nursery.start_soon(task, *args)

    def start_plugin_task(self, context: AppContext, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """A plugin's background task: what it raises is logged."""
        scope = trio.CancelScope()
        tasks = context.activity.tasks
        tasks.add(scope)

        async def guarded() -> None:
            try:
                with scope:
                    await task(*args)
            except FAULTS:
                context.log.exception("task_fault", task=getattr(task, "__qualname__", repr(task)))
            finally:
                tasks.discard(scope)

        self.start_soon(guarded)

    def replace_plugin(self, registry: Registry, table: CommandTable, app: AppContext, config: Config) -> AppContext:
        """See `Router.replace_plugin`; the configuration has the plugin's new settings."""
        self.registry, self.table, self.config = registry, table, config
        return self.router.replace_plugin(registry, table, app, config)

    def accept(self, session: Session) -> None:
        """A new connection, which the directory has admitted."""
        self.sessions.add(session)
        self.router.connected(session)

    def note_tls_failure(self, address: str, reason: str) -> None:
        """A handshake failed, or what came was no TLS. One line a second says it: anybody can do this at will."""
        self._tls_failures += 1
        if self.now - self._tls_said_at >= 1.0:
            self._tls_said_at = self.now
            self.log.info("tls_failed", address=address, reason=reason, failures=self._tls_failures)
            self._tls_failures = 0

    def forget(self, session: Session) -> None:
        """A connection is gone."""
        self.sessions.discard(session)
        self.directory.dismiss(session.address)

    def wait_turn(self, session: Session) -> None:
        """A session's frames have taken their time, and the rest waits in its backlog: it goes on in a tick of its own."""
        self._out_of_turn.append(session)
        self.reactor.wake()

    @property
    def is_quiet(self) -> bool:
        """Nothing runs, nothing waits to be written."""
        return not (self.waiting or self.dirty or self._mailbox or self._out_of_turn or self.router.busy) and all(
            not session.in_flight and not session.has_output for session in list(self.sessions)
        )

    @property
    def is_settled(self) -> bool:
        """Nothing waits for the next tick or the disk; requests may run."""
        return not (self.waiting or self.dirty or self._mailbox)

    def begin_drain(self) -> None:
        """Tell all clients that the server stops; refuse what they ask from now on."""
        self.router.is_draining = True
        # Else all would be back at the same moment, here or at the other servers behind one name.
        spread_ms = min(_DRAIN_SPREAD_MAX_MS, round(self.directory.connections * _DRAIN_SPREAD_MS))
        fields = {"code": 503, "error": "draining", "message": "the server is stopping; reconnect"}
        for session in self.sessions:
            fields["retry_after_ms"] = _RETRY_AFTER_DRAIN_MS + self.random.randint(0, spread_ms)
            session.send(encode_frame(GOAWAY, fields, (session.flags or 0) & FORM))

    def go_away(self) -> None:
        """Close every session once its outbox is written."""
        for session in list(self.sessions):
            session.go_away_silently()

    def lose_sessions(self) -> None:
        """Give up the connections that are left; the loop has ended, the journal still runs."""
        for session in list(self.sessions):
            session.lose()

    def close(self) -> None:
        """Give back the descriptors; the journal has stopped."""
        self.reactor.close()

    async def _keep_time(self) -> None:
        while True:
            due_at, due_here = monotonic() + RESOLUTION_S, trio.current_time() + RESOLUTION_S
            await trio.sleep(RESOLUTION_S)
            # The lesser: a test may hold the loop's own clock, or move it ahead.
            now = monotonic()
            self.loop_watch.came(now, min(now - due_at, trio.current_time() - due_here), self.router.last)
            self.now = self.clock.monotonic()
            if self.journal.is_full:
                self.deaf_at = self.now
            self.wheel.advance(self.now)
            self.end_of_turn()

    # ------------------------------------------------------------ the tick

    def _begin_tick(self) -> None:
        self.now = self.clock.monotonic()
        mailbox = self._mailbox
        for _ in range(len(mailbox)):
            call = mailbox.popleft()
            try:
                call()
            except FAULTS:  # it must not raise; where it does, the others go on
                self.log.exception("mailbox_fault", call=getattr(call, "__qualname__", repr(call)))
        waiting = self.waiting
        while waiting and waiting[0].state != OPEN:
            with self.journal.lock:  # another shard may be about to add to the newest one
                batch = waiting.popleft()
                batch.unreleased -= 1
                writes = batch.writes  # taken here: the last shard to be done lets go of them, and it need not be this one
            self._release(batch, writes)
        if self._out_of_turn and not self.journal.is_full:
            # One a tick: between two of them come those who have asked little.
            session = self._out_of_turn.popleft()
            session.is_out_of_turn = False
            self.router.resume_if_free(session)
            if self._out_of_turn:
                self.reactor.wake()

    def _end_tick(self) -> None:
        self.journal.submit()
        dirty = self.dirty
        if dirty:
            self.dirty = []
            for session in dirty:
                session.flush()
        if self.spread:
            self.spread.write_slice()
            if self.spread:
                self.reactor.wake()

    def _source_fault(self, source: object) -> None:
        """A source has raised, which it must not: it costs that connection, and nobody else anything."""
        self.log.exception("source_fault", source=type(source).__name__)
        if isinstance(source, Session):
            source.lose()

    def end_of_turn(self) -> None:
        """A task has written or queued something outside of a tick."""
        if self.dirty or self.journal.is_dirty:
            self.reactor.wake()

    def _release(self, batch: Batch, writes: Sequence[Write]) -> None:
        frames = batch.frames[self.index]
        if batch.state == DURABLE:
            if self._conditionals:
                frames = [held for held in map(self._resolve, frames) if held is not None]
            dirty = self.dirty
            for session, frame, what in frames:
                if session.is_plain:
                    session.out.append(frame)
                    session.out_bytes += len(frame)
                    if not session.is_dirty:
                        session.is_dirty = True
                        dirty.append(session)
                else:
                    session.deliver_released(frame, what)
        else:
            for session, frame, what in frames:
                if isinstance(what, _Conditional):
                    self._conditionals -= 1
                    what = what.rid
                if isinstance(what, int):
                    session.deliver_released(refusal_of(frame, what), what)
        for write in writes:
            if write.shard_index == self.index and write.on_done is not None:
                write.on_done()
        for event in self._durable_waiters.pop(batch.number, ()):
            event.set()
        if batch.state == DURABLE and batch.messages[self.index]:
            self.router.after_commit(batch.messages[self.index])
        batch.frames[self.index] = []
        batch.messages[self.index] = []
        if not batch.unreleased:
            batch.writes = []

    def _resolve(self, held: Held) -> Held | None:
        """An answer as it is now that the fate of its handler's units is known; None: none was asked for."""
        session, frame, what = held
        if not isinstance(what, _Conditional):
            return held
        self._conditionals -= 1
        if any(write.error is not None for write in what.writes):
            return session, refusal_of(frame, what.rid), what.rid
        return (session, frame, what.rid) if what.rid else None

    # ------------------------------------------------------------ frames that wait

    @property
    def newest_batch(self) -> Batch | None:
        """What is made now may rest on this batch; None: on nothing that is not durable."""
        return self.waiting[-1] if self.waiting else None

    def hold(self, session: Session, frame: bytes, rid: int, writes: Sequence[Write] | None) -> None:
        """Send an answer when everything that its handler could have seen or written is durable.

        Args:
            writes: the units of SQL without which there is another answer.
        """
        if not self.waiting:
            session.send(frame)
        elif writes:
            # Where another shard has opened a batch since, that is a later one than the units are in.
            self._conditionals += 1
            self._hold_in(self.waiting[-1], (session, frame, _Conditional(rid, writes)))
        else:
            batch = self.waiting[-1]
            batch.held_bytes += len(frame)
            batch.frames[self.index].append((session, frame, rid))

    def hold_refusal(self, session: Session, header: bytes, writes: Sequence[Write] | None) -> None:
        """Say nothing when what a request without `rid` has written is durable, and an ERROR push if that fails.

        Args:
            header: a frame of the request's command and flags.
        """
        if self.waiting:
            self._conditionals += 1
            self._hold_in(self.waiting[-1], (session, header, _Conditional(0, writes or ())))

    def _hold_in(self, batch: Batch, held: Held) -> None:
        """Let a frame wait for a batch, whose bound it counts for; one that many get counts once."""
        frames = batch.frames[self.index]
        if not frames or frames[-1][1] is not held[1]:
            batch.held_bytes += len(held[1])
        frames.append(held)

    async def wait_durable(self) -> None:
        """Wait until all that is in memory now is durable.

        Raises:
            StorageUnavailable: it could not be.
        """
        if self.waiting:
            await self.wait_batch(self.waiting[-1])

    async def wait_settled(self, newest: Batch | None = None) -> None:
        """Wait until all that is in memory now is durable or has failed; or what was when `newest` was the last to wait."""
        batch = newest or (self.waiting[-1] if self.waiting else None)
        if batch is not None and batch in self.waiting:
            await self._wait_release(batch)

    async def _wait_release(self, batch: Batch) -> None:
        event = trio.Event()
        self._durable_waiters.setdefault(batch.number, []).append(event)
        self.end_of_turn()
        await event.wait()

    async def wait_batch(self, batch: Batch) -> None:
        """Wait for one batch; see `wait_durable`."""
        if batch in self.waiting:
            await self._wait_release(batch)
        if batch.state != DURABLE:
            raise StorageUnavailable(str(batch.error))

    # ------------------------------------------------------------ pushes

    def push(self, user_ids: Iterable[str], command: int, body: Any, except_session: Caller | None) -> None:
        """Send a push to all sessions of these users when all that memory knows is durable."""
        pushes = self._addressed(user_ids, command, body, except_session)
        section = self.section
        if section.in_handler:
            section.pushes += pushes
        else:
            self._hand_on(pushes)

    def push_committed(self, user_ids: Iterable[str], command: int, body: Any, except_session: Caller | None) -> None:
        """Send a push that rests on committed data alone."""
        for session, frame, _ in self._addressed(user_ids, command, body, except_session):
            if session.shard is self:
                session.deliver_released(frame, body)
            else:
                session.shard.post_push(session, frame, body)
        self.end_of_turn()

    def _addressed(self, user_ids: Iterable[str], command: int, body: Any, except_session: Caller | None) -> list[Held]:
        """A push as each live session of these users gets it, encoded once an encoding; see `fanout` for very many."""
        by_user = self.directory.by_user
        if isinstance(user_ids, (tuple, list)) and len(user_ids) > MIN_USERS:
            return gather(by_user, user_ids, command, body, except_session)
        encoded: dict[int | None, bytes] = {}
        addressed: list[Held] = []
        for user_id in user_ids:
            for session in by_user.get(user_id, ()):
                if session is except_session:
                    continue
                flags = session.flags
                frame = encoded.get(flags)
                if frame is None:
                    frame = encoded[flags] = encode_frame(command, body, flags or 0)
                addressed.append((session, frame, body))
        return addressed

    def _hand_on(self, pushes: Sequence[Held]) -> None:
        """Hold pushes until all that memory knows is durable."""
        batch = self.waiting[-1] if self.waiting else None
        held = batch.frames[self.index] if batch is not None else None
        counted = None
        for push in pushes:
            session, frame, body = push
            if session.shard is not self:
                session.shard.hold_from_elsewhere(session, frame, body)
            elif held is not None:
                held.append(push)
                if frame is not counted and batch is not None:
                    counted = frame
                    batch.held_bytes += len(frame)
            else:
                session.deliver_released(frame, body)
        if held is None:
            self.end_of_turn()

    def hold_from_elsewhere(self, session: Session, frame: bytes, body: object) -> None:
        """Another shard made a push for a session of this one, from what is not yet durable. From any thread."""
        with self.journal.lock:
            if self.waiting:
                self._hold_in(self.waiting[-1], (session, frame, body))
                return
        self.post_push(session, frame, body)

    def post_push(self, session: Session, frame: bytes, body: object) -> None:
        """Another shard made a push for a session of this one. From any thread."""
        if not session.takes_frames:
            return  # it is closing: its owner will find this by SYNC
        if len(self._mailbox) > _MAILBOX_MAX:
            session.revoke("slow_consumer", "too many pushes wait for this client; reconnect and SYNC")
            return
        self.post(lambda: session.deliver_released(frame, body))

    # ------------------------------------------------------------ from other threads

    def post(self, call: Callable[[], None]) -> None:
        """Run a call in this shard's thread, in the order of the posts. It must not raise."""
        self._mailbox.append(call)
        self.reactor.wake()

    def wake(self) -> None:
        """See `imserver.journal.Member.wake`."""
        self.reactor.wake()

    # ------------------------------------------------------------ writing

    def next_snowflake(self) -> int:
        """An id of its own for something that is not stored."""
        self.section.enter()
        try:
            return self.conversations.next_snowflake()
        finally:
            self.section.leave()

    def mark_read(self, conversation: Conversation, member: Member, seq: int) -> bool:
        """Move a read cursor; see `Conversations.mark_read`."""
        self.section.enter()
        try:
            return self.conversations.mark_read(conversation, member, seq)
        finally:
            self.section.leave()

    def fold_cursors(self) -> None:
        """Write the read cursors that own messages moved; see `Conversations.collect_dirty_cursors`."""
        self.section.enter()
        try:
            rows, through = self.conversations.collect_dirty_cursors()
            if through:
                write = self.write(cursor_statements(rows, through))
                write.on_done = lambda: self.conversations.refold() if write.error is not None else None
        finally:
            self.section.leave()

    def write(self, statements: Sequence[tuple[str, Any]]) -> Write:
        """One atomic unit of SQL in the open batch."""
        write = Write(statements, self.index)
        self.section.enter()
        try:
            batch = self.journal.open_batch()
            batch.writes.append(write)
            batch.rows += len(statements)
            batch.held_bytes += bytes_of(statements)
        finally:
            self.section.leave()
        self.end_of_turn()
        return write
