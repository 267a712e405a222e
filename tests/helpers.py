"""The core in this process: a real shard, journal and database in a folder of the test's own, and clients on socket pairs.

Two seams are put in: the clock, which stands still until a test moves it, and the store, whose commits wait and fail as
a test tells them to.
"""

import itertools
import socket
import threading
from collections import deque
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import trio
from wire import HEADER, decode, encode

from imserver.batch import DURABLE
from imserver.cache import Cache
from imserver.commands import CommandTable, commands_of, listeners_of
from imserver.config import Config, Limits, Server
from imserver.connection import add_connection_commands
from imserver.conversation import Draft
from imserver.conversations import Conversations
from imserver.directory import Directory
from imserver.errors import NotLoaded, StorageUnavailable
from imserver.journal import Journal
from imserver.plugin import ANYONE, Plugin, command
from imserver.plugin_loader import Registry
from imserver.session import Session
from imserver.shard import Shard
from imserver.snowflake import Snowflakes
from imserver.storage.database import Database
from imserver.storage.stores import Stores

#: No test meets this; one that would wait for ever fails by it.
PATIENCE_S = 20


class FakeClock:
    """A clock that a test moves."""

    def __init__(self, wall_ms=1_750_000_000_000):
        self.wall_ms = wall_ms
        self.seconds = 5000.0

    def now_ms(self):
        return self.wall_ms

    def monotonic(self):
        return self.seconds

    def advance(self, seconds):
        """Both clocks go on."""
        self.seconds += seconds
        self.wall_ms += int(seconds * 1000)


class FaultyStore:
    """The real database behind a gate. While the gate is shut commits wait; `fail_next` makes one fail, storing nothing."""

    def __init__(self, database):
        self.database = database
        self.failures = deque()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.committed = []

    def fail_next(self, error=None):
        self.failures.append(error or StorageUnavailable("the disk is full: as the test wants it"))

    def pass_next(self):
        """Let one commit through before the next one that fails."""
        self.failures.append(None)

    def shut(self):
        """From now on commits wait; `wait_entered` waits for the first of them."""
        self.gate.clear()
        while self.entered.acquire(blocking=False):
            pass

    def open(self):
        self.gate.set()

    def commit(self, batch):
        self.entered.release()
        self.gate.wait(PATIENCE_S)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        self.database.commit(batch)
        self.committed.append(batch.number)

    def tend(self, *, idle):
        self.database.tend(idle=idle)

    async def wait_entered(self):
        """Wait until the writer has taken a batch."""
        await trio.to_thread.run_sync(lambda: self.entered.acquire(timeout=PATIENCE_S))


class ManualJournal(Journal):
    """A journal without a thread: a test takes the open batch and finishes it, in two steps."""

    def start(self, shards):
        self._shards = list(shards)
        self.current = self._new_batch()

    def take(self):
        """The open batch, if there is anything in it: it is in flight from now on."""
        self.submit()
        return self._take()

    def finish(self, batch):
        """Commit a batch that was taken; whether it is durable."""
        self._commit(batch)
        return batch.state == DURABLE

    def commit_now(self):
        """Take and finish; whether all is durable."""
        batch = self.take()
        return batch is None or self.finish(batch)


class ManualShard:
    """What a journal knows of a shard."""

    def __init__(self):
        self.waiting = deque()

    def wake(self):
        pass


class InlineReads:
    """A database whose reads run in the caller's thread, so that nothing has to be awaited; see `now`."""

    def __init__(self, database):
        self._database = database
        self.read_now = database.read_now

    async def read_transaction(self, read):
        return self._database._read(read)

    async def read(self, sql, params=()):
        return self._database.read_now(sql, params)


def now(coroutine):
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Peer:
    """A client on one end of a socket pair; it shares no code with the server."""

    def __init__(self, sock, session, flags=0):
        sock.setblocking(False)
        self.socket = trio.socket.from_stdlib_socket(sock)
        self.session = session
        self.flags = flags
        self.buffer = bytearray()
        self.rids = itertools.count(1)
        self.answers = {}
        self.pushes = deque()

    def close(self):
        self.socket.close()

    async def send_raw(self, data):
        data = memoryview(data)
        while data:
            data = data[await self.socket.send(data) :]

    async def send(self, command_id, **fields):
        await self.send_raw(encode(command_id, fields, flags=self.flags))

    async def post(self, command_id, **fields):
        """Send a request; gives its rid."""
        rid = next(self.rids)
        await self.send(command_id, rid=rid, **fields)
        return rid

    async def next_frame(self):
        """The next frame as (command, fields); None at the end of the stream."""
        with trio.fail_after(PATIENCE_S):
            while True:
                if len(self.buffer) >= HEADER.size:
                    length, command_id, _, flags = HEADER.unpack_from(self.buffer)
                    if len(self.buffer) >= length:
                        body = bytes(self.buffer[HEADER.size : length])
                        del self.buffer[:length]
                        return command_id, decode(flags, body)
                data = await self.socket.recv(65536)
                if not data:
                    assert not self.buffer, "the stream ended inside of a frame"
                    return None
                self.buffer += data

    async def answer(self, rid):
        """The answer to a request; pushes on the way are kept."""
        while rid not in self.answers:
            frame = await self.next_frame()
            assert frame is not None, f"closed before the answer to {rid}; pushes: {list(self.pushes)}"
            self._sort(*frame)
        return self.answers.pop(rid)

    def _sort(self, command_id, fields):
        if "rid" in fields:
            assert fields["rid"] not in self.answers
            self.answers[fields["rid"]] = fields
        else:
            self.pushes.append((command_id, fields))

    async def call(self, command_id, **fields):
        return await self.answer(await self.post(command_id, **fields))

    async def ok(self, command_id, **fields):
        answer = await self.call(command_id, **fields)
        assert answer["code"] == 0, answer
        return answer

    async def push(self):
        """The next push as (command, fields)."""
        while not self.pushes:
            frame = await self.next_frame()
            assert frame is not None, "closed while waiting for a push"
            self._sort(*frame)
        return self.pushes.popleft()

    async def rest(self):
        """All frames up to the end of the stream."""
        frames = list(self.pushes)
        self.pushes.clear()
        while (frame := await self.next_frame()) is not None:
            frames.append(frame)
        return frames


class Nothing(msgspec.Struct):
    """A request without fields."""


class LoginAs(msgspec.Struct):
    """The test login's request."""

    user: str
    device: str | None = None
    roles: list[str] = []


class Say(msgspec.Struct, kw_only=True):
    """The test SEND's request."""

    to: str
    body: Any = "hi"
    client_id: str = ""
    type: str = "text"


LOGIN, SAY, BARRIER = 1002, 2001, 6999
MESSAGE = 5001


def conversation_of(ctx, conversation_id, user_ids):
    """The direct conversation of these users, begun if there is none."""
    found = ctx.conversations.require(conversation_id)
    return found if found is not None else ctx.conversations.open_direct(conversation_id, user_ids)


class Base(Plugin):
    """A login without passwords, a SEND without checks, and a barrier behind all that memory knows."""

    name = "base"

    def __init__(self):
        self.numbers = itertools.count(1)

    @command(LOGIN, request=LoginAs, allow=ANYONE, name="LOGIN")
    async def login(self, ctx, request):
        device = ctx.login(
            user_id=request.user, session_id=f"s-{next(self.numbers)}", device_id=request.device, roles=request.roles
        )
        return {"device": device}

    @command(SAY, request=Say, name="SAY")
    def say(self, ctx, request):
        parties = sorted([ctx.session.user_id, request.to])
        conversation = conversation_of(ctx, f"d:{parties[0]}:{parties[1]}", parties)
        client_id = request.client_id or f"c-{next(self.numbers)}"
        draft = Draft(conversation.conversation_id, ctx.session.user_id, client_id, request.type, request.body)
        stored = ctx.messages.append(conversation, draft)
        if stored.message is not None:
            ctx.push(conversation.recipients, MESSAGE, stored.message, except_session=ctx.session)
        return {"seq": stored.seq, "duplicate": stored.message is None}

    @command(BARRIER, request=Nothing, allow=ANYONE, name="BARRIER")
    def barrier(self, ctx, request):
        """Its answer leaves behind everything that was in memory when it ran."""
        return {}


def registry_of(*plugins):
    """A registry as the plugin loader makes it."""
    table = CommandTable()
    add_connection_commands(table)
    listeners = {}
    for plugin in plugins:
        table.add(commands_of(plugin))
        for event, handler in listeners_of(plugin):
            listeners.setdefault(event, []).append((plugin, handler))
    return Registry(plugins, table, {plugin.name: None for plugin in plugins}, listeners)


class Rig:
    """The running core of a test; see `running`."""

    def __init__(self, folder, plugins, *, limits=None, clock=None, shards=1):
        self.clock = clock or FakeClock()
        self.folder = folder
        self.registry = registry_of(Base(), *plugins)
        self.config = Config(server=Server(data_dir=folder), limits=attrs.evolve(Limits(), **(limits or {})))
        self.database = Database(folder, self.registry.migrations)
        self.store = FaultyStore(self.database)
        self.stores = Stores(self.database, self.clock)
        self.journal = Journal(self.store, lambda batches: self.conversations.forget(batches))
        self.conversations = Conversations(
            snowflakes=Snowflakes(1, self.stores.conversations.last_snowflake(), self.clock.now_ms),
            clock=self.clock,
            load=self.stores.conversations.load,
            last_number=self.stores.conversations.last_conversation(),
            lock=self.journal.lock,
            open_batch=self.journal.open_batch,
        )
        self.directory = Directory()
        self.caches = {plugin.name: Cache(plugin.name) for plugin in self.registry.plugins}
        self.shards = [
            Shard(
                index,
                config=self.config,
                clock=self.clock,
                journal=self.journal,
                conversations=self.conversations,
                directory=self.directory,
                database=self.database,
                stores=self.stores,
                registry=self.registry,
                table=self.registry.commands,
                caches=self.caches,
            )
            for index in range(shards)
        ]
        self.shard = self.shards[0]
        self.peers = []
        self.journal.start(self.shards)

    def connect(self, *, flags=0, shard=0):
        """A new connection to a shard."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        address = "127.0.0.1"
        assert self.directory.admit(address, max_connections=100_000, per_address=None) is None
        before = set(self.shards[shard].sessions)
        self.shards[shard].accept(Session(self.shards[shard], theirs, address))
        (session,) = self.shards[shard].sessions - before
        peer = Peer(ours, session, flags)
        self.peers.append(peer)
        return peer

    async def login(self, user, *, device=None, roles=(), flags=0, shard=0):
        """A new connection that is logged in."""
        peer = self.connect(flags=flags, shard=shard)
        await peer.ok(LOGIN, user=user, device=device, roles=list(roles))
        return peer

    async def until(self, condition):
        """Wait until something that other tasks bring about is so."""
        with trio.fail_after(PATIENCE_S):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.001)

    def rows(self, sql, params=()):
        """What is committed."""
        return self.database.read_now(sql, params)

    def close(self):
        self.store.open()
        self.journal.stop()
        for shard in self.shards:
            shard.lose_sessions()
            shard.close()
        for peer in self.peers:
            peer.close()
        self.database.close()


@asynccontextmanager
async def running(folder, *plugins, limits=None, clock=None, shards=1):
    """A `Rig` whose shards run in this task's loop until the block ends."""
    rig = Rig(folder, plugins, limits=limits, clock=clock, shards=shards)
    try:
        async with trio.open_nursery() as nursery:
            for shard in rig.shards:
                await nursery.start(shard.run)
            yield rig
            nursery.cancel_scope.cancel()
    finally:
        rig.close()


def loading(ctx, key, loader):
    """What a `def` handler does for something that is not in memory."""
    raise NotLoaded(loader, key)
