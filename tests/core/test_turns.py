"""Who reads next: askers take turns, and none has all places."""

import threading
from contextlib import contextmanager

import attrs
import pytest
import trio
import trio.testing
from helpers import running

from imserver.plugin import Plugin, command
from imserver.storage.database import READERS, Database
from imserver.storage.turns import Turns, read_for

SLOW, QUICK = 6301, 6302


@attrs.frozen
class Asker:
    """A caller, as far as turns look."""

    user_id: str | None
    address: str = "10.0.0.1"


class Rig:
    """Tasks that take a place and keep it until the test releases it; `order` has who got one, in order."""

    def __init__(self, nursery, places=4):
        self.turns = Turns(places)
        self.nursery = nursery
        self.order = []
        self.holding = []

    async def ask(self, name, asker, *, scope=None):
        """One that reads for `asker`; returns when it has a place or waits."""

        async def read():
            with scope or trio.CancelScope():
                read_for(asker)
                borrower = object()
                await self.turns.acquire_on_behalf_of(borrower)
                self.order.append(name)
                self.holding.append((name, borrower))

        self.nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()

    async def release(self, name):
        """The oldest of this name has read."""
        held = next(held for held in self.holding if held[0] == name)
        self.holding.remove(held)
        self.turns.release_on_behalf_of(held[1])
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def rig():
    """A rig; who still waits is cancelled at the end."""
    async with trio.open_nursery() as nursery:
        yield Rig(nursery)
        nursery.cancel_scope.cancel()


async def test_one_asker_never_has_all_places(rig):
    """With 64 of one asker there is a place for another one at once; by address where nobody is logged in."""
    for _ in range(64):
        await rig.ask("greedy", Asker("greedy"))
    assert rig.order == ["greedy"] * 3
    await rig.ask("other", Asker(None))
    assert rig.order == ["greedy"] * 3 + ["other"]


async def test_askers_take_turns(rig):
    """Who comes behind 61 of another one is the next; then one of each in turn."""
    for _ in range(64):
        await rig.ask("greedy", Asker("greedy"))
    for _ in range(3):
        await rig.ask("one", Asker("one"))
    await rig.ask("two", Asker("two"))
    assert rig.order == ["greedy"] * 3 + ["one"]
    for _ in range(5):
        await rig.release("greedy")
    assert rig.order[4:] == ["greedy", "one", "two", "greedy", "one"]


async def test_a_place_is_not_lost(rig):
    """Who is cancelled while waiting leaves the queue; one whose turn comes in the same moment hands it on."""
    for _ in range(3):
        await rig.ask("greedy", Asker("greedy"))
    await rig.ask("one", Asker("one"))
    leaves, late = trio.CancelScope(), trio.CancelScope()
    await rig.ask("leaves", Asker("two"), scope=leaves)
    await rig.ask("late", Asker("two"), scope=late)
    await rig.ask("last", Asker("three"))
    leaves.cancel()
    await trio.testing.wait_all_tasks_blocked()
    late.cancel()
    await rig.release("one")
    assert rig.order == ["greedy"] * 3 + ["one", "last"]
    for _ in range(3):
        await rig.release("greedy")
    await rig.release("last")
    for _ in range(4):
        await rig.ask("all free", Asker(str(_)))
    assert rig.order.count("all free") == 4


@contextmanager
def reading(release):
    """How many read at once; they stand still until `release` is set."""
    entered = threading.Semaphore(0)

    def read(query):
        entered.release()
        release.wait(20)
        return query("SELECT 1")

    try:
        yield read, entered
    finally:
        release.set()


async def test_reads_of_one_user_leave_a_reader_to_others(tmp_path):
    """The database's own readers: with 20 slow reads of one user another one's read is done."""
    database = Database(tmp_path, {})
    try:
        async with trio.open_nursery() as nursery:
            with reading(threading.Event()) as (slow, entered):

                async def greedy():
                    read_for(Asker("greedy"))
                    await database.read_transaction(slow)

                for _ in range(20):
                    nursery.start_soon(greedy)
                for _ in range(READERS - 1):
                    assert await trio.to_thread.run_sync(lambda: entered.acquire(timeout=20))
                await trio.testing.wait_all_tasks_blocked()
                read_for(Asker("other"))
                with trio.fail_after(10):
                    assert await database.read("SELECT 7") == [(7,)]
    finally:
        database.close()


class Reading(Plugin):
    """Handlers that read; `slow` stands still."""

    name = "reading"

    def __init__(self, slow):
        self.slow_read = slow

    @command(SLOW, name="SLOW")
    async def slow(self, ctx, request):
        await ctx.db.read_transaction(self.slow_read)
        return {}

    @command(QUICK, name="QUICK")
    async def quick(self, ctx, request):
        return {"rows": await ctx.db.read("SELECT 7")}


async def test_requests_read_for_their_user(tmp_path):
    """What a user asks for on two connections is one user's: another one is answered meanwhile."""
    release = threading.Event()
    with reading(release) as (slow, entered):
        async with running(tmp_path, Reading(slow)) as rig:
            greedy = [await rig.login("greedy", device=name) for name in ("one", "two")]
            other = await rig.login("other")
            asked = [(peer, await peer.post(SLOW)) for peer in greedy for _ in range(10)]
            for _ in range(READERS - 1):
                assert await trio.to_thread.run_sync(lambda: entered.acquire(timeout=20))
            assert (await other.ok(QUICK))["rows"] == [[7]]
            release.set()
            for peer, rid in asked:
                assert (await peer.answer(rid))["code"] == 0
