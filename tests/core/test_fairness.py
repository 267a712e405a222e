"""What one client takes is not taken from others, and what the server cannot do just now is not its clients' fault."""

import itertools
import os
import socket

import trio
import trio.testing
from helpers import SAY, Nothing, running
from wire import HEARTBEAT, encode

from imserver import session as session_module
from imserver.outbox import State
from imserver.plugin import NotLoaded, Plugin, command
from imserver.storage import turns


class Work(Plugin):
    """Requests of all weights."""

    name = "work"

    def __init__(self):
        self.order = []
        self.done = 0
        self.askers = []

    @command(6001, request=Nothing)
    def heavy(self, ctx, request):
        self.order.append(ctx.session.user_id)
        return {}

    @command(6002, request=Nothing)
    async def light(self, ctx, request):
        return {}

    @command(6003, request=Nothing, bulk=True)
    async def much(self, ctx, request):
        self.done += 1
        await trio.lowlevel.checkpoint()
        return {"much": "x" * 1_000_000}

    @command(6004, request=Nothing)
    def writes_and_raises(self, ctx, request):
        ctx.db.write("SELECT ?", ("x" * 1_000_000,))
        raise ValueError("taken back")

    @command(6005, request=Nothing)
    def loads(self, ctx, request):
        async def load():
            self.askers.append(turns._asker.get())

        if not self.askers:
            raise NotLoaded(load, "key")
        return {}


async def test_async_requests_gain_no_turns(tmp_path, monkeypatch):
    """Who mixes short requests among the heavy ones, whose ends resume the session, gets no more than who does not."""
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(session_module, "monotonic", lambda: next(clock))  # each frame takes longer than a turn
    monkeypatch.setattr("imserver.reactor._TURN_S", 0.0)  # Trio's tasks run after each tick
    plugin = Work()
    async with running(tmp_path, plugin, limits={"requests_per_second": 0}) as rig:
        sly, *others = [await rig.login(user) for user in ("sly", "bob", "carol", "dave")]
        for peer in others:
            os.write(peer.socket.fileno(), b"".join(encode(6001, {"rid": 100 + n}) for n in range(20)))
        os.write(sly.socket.fileno(), b"".join(encode(6002 - n % 2, {"rid": 100 + n}) for n in range(40)))
        for peer in others:
            await peer.answer(119)
        await sly.answer(139)
        by_then = plugin.order[: max(place for place, user in enumerate(plugin.order) if user == "sly") + 1]
        for user in ("bob", "carol", "dave"):
            assert by_then.count(user) >= 15, plugin.order


async def test_a_half_closed_client_that_does_not_read(tmp_path):
    """It has ended its side and reads no more: what it has asked for is not made ready for it either."""
    plugin = Work()
    async with running(tmp_path, plugin, limits={"requests_per_second": 0}) as rig:
        peer = await rig.login("alice")
        for _ in range(40):
            await peer.post(6003)
        peer.socket.shutdown(socket.SHUT_WR)
        await rig.until(lambda: peer.session.state is State.CLOSING)
        read = 0
        while read < 3_000_000:
            read += len(await peer.socket.recv(1 << 20))
        await rig.until(lambda: peer.session.is_backed_up)
        other = await rig.login("bob")
        for _ in range(10):
            await other.ok(6002)
        assert plugin.done < 12
        assert peer.session.queued_bytes < 5_000_000


async def test_nobody_is_idle_while_the_journal_is_full(tmp_path, monkeypatch):
    """Nothing is read then: heartbeats wait in the kernel, and whoever sends them is not taken for dead."""
    monkeypatch.setattr("imserver.journal.MAX_BATCH_ROWS", 3)
    async with running(tmp_path) as rig:
        alice = await rig.login("alice")
        await alice.ok(SAY, to="bob")
        rig.store.shut()
        rids = []
        while not rig.journal.is_full:
            rids.append(await alice.post(SAY, to="bob"))
            await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(10):
            await alice.send(HEARTBEAT)
            rig.clock.advance(20)
            looked_at = rig.shard.deaf_at
            await rig.until(lambda before=looked_at: rig.shard.deaf_at > before)
        assert alice.session.state is State.OPEN
        rig.store.open()
        for rid in rids:
            assert (await alice.answer(rid))["code"] == 0


async def test_a_refused_handler_holds_nothing(tmp_path):
    """What it had written counts for the batch's bound no more."""
    async with running(tmp_path, Work()) as rig:
        alice = await rig.login("alice")
        rig.store.shut()
        first = await alice.post(SAY, to="bob")
        await rig.store.wait_entered()
        rids = [await alice.post(6004) for _ in range(10)]
        await rig.until(lambda: rig.shard.router.errors[6004, 500] == 10)
        assert rig.journal.current.held_bytes < 100_000
        assert not rig.journal.current.writes
        rig.store.open()
        for rid in rids:
            assert (await alice.answer(rid))["code"] == 500
        assert (await alice.answer(first))["code"] == 0


async def test_what_many_need_is_read_for_nobody_alone(tmp_path):
    """A load waits in no user's queue: not in that of the one who has asked for it first."""
    plugin = Work()
    async with running(tmp_path, plugin) as rig:
        alice = await rig.login("alice")
        await alice.ok(6005)
        assert plugin.askers == [None]
