"""Reloading, as seen from inside: what `imserver.testing` can hold still while one instance takes another's place."""

import threading

import msgpack
import pytest
import trio
import trio.testing

from imserver.cache import Cache
from imserver.client import NotFound
from imserver.commands import CommandTable
from imserver.connection import add_connection_commands
from imserver.context import AppContext
from imserver.errors import PluginError
from imserver.plugin_loader import load_again
from imserver.testing import running

SLOW, EMIT, CACHED, QUICK, NOTHING = 6001, 6002, 6003, 6004, 6005

PLUGIN = """
import trio
from imserver.plugin import ANYONE, Identity, Plugin, command, on_event, route

VERSION = {version}

class It(Plugin):
    name = "it"

    def __init__(self):
        self.heard = []
        self.ticks = 0

    async def on_start(self, ctx):
        {on_start}
        ctx.start_soon(self._tick, ctx)

    async def on_stop(self, ctx):
        await ctx.db.write("INSERT INTO it_stops VALUES (?)", (VERSION,))
        {on_stop}

    migrations = ("CREATE TABLE it_stops (version INTEGER) STRICT; CREATE TABLE it_ticks (version INTEGER) STRICT;",)

    async def _tick(self, ctx):
        while True:
            await trio.sleep(1)
            await ctx.db.write("INSERT INTO it_ticks VALUES (?)", (VERSION,))

    async def authenticate(self, ctx, credentials):
        if credentials.api_key == "slow":
            await trio.sleep(5)
        return Identity(user_id="key-%d" % VERSION, scopes=frozenset({{"*"}})) if credentials.api_key else None

    @command(6001, allow=ANYONE, timeout_s=20)
    async def slow(self, ctx, request):
        await trio.sleep(15)
        await ctx.db.write("INSERT INTO it_ticks VALUES (?)", (-VERSION,))
        ctx.cache.pop("value")
        return {{"version": VERSION}}

    @command(6002, allow=ANYONE)
    def send(self, ctx, request):
        ctx.emit("it.happened")
        return {{"heard": self.heard}}

    @on_event("it.happened")
    def hear(self, ctx):
        self.heard.append([VERSION, ctx.plugin is self])

    @command(6004, allow=ANYONE)
    async def quick(self, ctx, request):
        return {{"version": VERSION, "is_own": ctx.plugin is self}}

    @command(6003, allow=ANYONE)
    def cached(self, ctx, request):
        async def load():
            [(count,)] = await ctx.db.read("SELECT count(*) FROM it_ticks WHERE version < 0")
            return count
        return {{"value": ctx.cache.load("value", load)}}

    @route("GET", "/v1/it", allow=ANYONE)
    async def page(self, ctx, request):
        ctx.db.write("INSERT INTO it_ticks VALUES (?)", (VERSION * 100,))  # the answer waits for it
        return {{"version": VERSION, "user": ctx.session.user_id, "is_own": ctx.plugin is self}}
"""


def source(version, *, on_start="pass", on_stop="pass"):
    return PLUGIN.format(version=version, on_start=on_start, on_stop=on_stop)


@pytest.fixture
def file(tmp_path):
    """The plugin's file, version 1."""
    path = tmp_path / "it.py"
    path.write_text(source(1))
    return path


async def changed(client):
    """Wait until the second version answers: the reload waits for the first one's requests."""
    with trio.fail_after(10):
        while (await client.request(EMIT))["heard"][-1][0] == 1:
            pass


async def test_listeners_and_tasks_change_over(file):
    """An event is heard once, by the new instance; the old one's background task has ended and its `on_stop` has run."""
    async with running([file]) as server:
        alice = await server.login("alice")
        assert (await alice.request(EMIT))["heard"] == [[1, True]]
        await server.clock.advance(3)
        file.write_text(source(2))
        await server.reload("it")
        assert (await alice.request(EMIT))["heard"] == [[2, True]]
        assert await server.rows("SELECT version FROM it_stops") == [(1,)]
        await server.clock.advance(2)
        ticks = [version for (version,) in await server.rows("SELECT version FROM it_ticks")]
        assert ticks == [1, 1, 1, 2, 2]


async def test_caches_follow_each_other(file):
    """What a request that ends in the old code drops from its cache, the new code's cache drops as well."""
    async with running([file]) as server:
        alice = await server.login("alice")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.request, SLOW)
            await trio.testing.wait_all_tasks_blocked()
            await server.settle()
            file.write_text(source(2))
            nursery.start_soon(server.reload, "it")
            await changed(alice)
            assert (await alice.request(CACHED))["value"] == 0
            await server.clock.advance(16)
        assert (await alice.request(CACHED))["value"] == 1


async def test_a_request_that_will_not_end(file):
    """The wait for the old code is bounded by its deadlines; then it is stopped, and the operator is told."""
    async with running([file], {"limits.request_timeout": "1s"}) as server:
        alice = await server.login("alice")
        said = []
        over = trio.Event()

        async def reload():
            said.append(await server.reload("it"))
            over.set()

        old = file.read_text().replace("await trio.sleep(15)", "with trio.CancelScope(shield=True): await trio.sleep(40)")
        file.write_text(old)
        await server.reload("it")
        async with trio.open_nursery() as nursery:
            rid = await alice.request(EMIT)
            assert rid["heard"] == [[1, True]]

            async def slow():
                with pytest.raises(Exception, match="deadline"):
                    await alice.request(SLOW)

            nursery.start_soon(slow)
            await trio.testing.wait_all_tasks_blocked()
            await server.settle()
            file.write_text(source(2))
            nursery.start_soon(reload)
            await changed(alice)
            await server.clock.advance(20.5)
            assert said == []
            await server.clock.advance(1)
            await over.wait()
            assert "1 requests still run in the old code" in said[0]
            await server.clock.advance(30)


#: Asked before `user`, which refuses the keys of others.
FIRST = {"plugins.enabled": ["it", "user", "message", "push"]}


async def test_a_route_whose_caller_was_being_found_out(file, monkeypatch):
    """A request that came before the reload and has its turn after it ends in its own instance, with its own context."""
    async with running([file], FIRST) as server:
        answers = []

        async def ask():
            answers.append(await server.http("GET", "/v1/it", headers={"X-API-Key": "slow"}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await server.settle()
            assert (await server.http("GET", "/v1/it", headers={"X-API-Key": "fast"})).json()["user"] == "key-1"
            file.write_text(source(2))
            await server.reload("it")
            await server.clock.advance(4.5)
            assert answers == []
            store = server._server.shards[0].journal._store
            disk, commit = threading.Event(), store.commit
            monkeypatch.setattr(store, "commit", lambda batch: disk.wait(10) and commit(batch))
            nursery.start_soon(server.clock.advance, 1)
            await trio.sleep(0.1)
            assert answers == []
            disk.set()
        assert answers[0].json() == {"code": 0, "version": 1, "user": "key-1", "is_own": True}
        # The next one is the new code's, and its caller is found out anew.
        answer = await server.http("GET", "/v1/it", headers={"X-API-Key": "fast"})
        assert answer.json() == {"code": 0, "version": 2, "user": "key-2", "is_own": True}


async def test_a_route_that_was_left_behind_twice(file):
    """After two reloads there is no context for it any more: 503, ask again."""
    async with running([file], FIRST) as server:
        answers = []

        async def ask():
            answers.append(await server.http("GET", "/v1/it", headers={"X-API-Key": "slow"}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await server.settle()
            for version in (2, 3):
                file.write_text(source(version))
                await server.reload("it")
            await server.clock.advance(6)
        assert answers[0].status == 503
        assert (await server.http("GET", "/v1/it")).json()["version"] == 3


async def test_a_start_that_takes_too_long(file):
    """It is given up after its time; the tasks that it had begun end, and the old instance goes on."""
    async with running([file]) as server:
        alice = await server.login("alice")
        file.write_text(source(2, on_start="ctx.start_soon(self._tick, ctx); await trio.sleep_forever()"))
        failures = []

        async def reload():
            try:
                await server.reload("it")
            except PluginError as exc:
                failures.append(str(exc))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            with trio.fail_after(10):
                while not failures:
                    await server.clock.advance(5)
        assert "on_start took more than 30 s" in failures[0]
        assert (await alice.request(EMIT))["heard"] == [[1, True]]
        before = len(await server.rows("SELECT * FROM it_ticks WHERE version = 2"))
        await server.clock.advance(3)
        assert len(await server.rows("SELECT * FROM it_ticks WHERE version = 2")) == before


async def test_a_stop_that_fails(file):
    """The new instance is in place all the same, and the operator is told."""
    file.write_text(source(1, on_stop="raise RuntimeError('stuck')"))
    async with running([file]) as server:
        file.write_text(source(2))
        assert "on_stop of the old code failed" in await server.reload("it")
        assert (await (await server.login("alice")).request(EMIT))["heard"] == [[2, True]]


async def test_one_at_a_time(file):
    """Reloads asked for at once come one after the other, each of them whole."""
    async with running([file]) as server:
        file.write_text(source(2))
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(server.reload, "it")
        assert await server.rows("SELECT count(*) FROM it_stops") == [(5,)]
        with pytest.raises(PluginError, match="no plugin 'other'"):
            await server.reload("other")
        with pytest.raises(PluginError, match="restart"):
            await server.reload("message")
        with pytest.raises(NotFound):
            await server.connect().request(NOTHING)


async def test_a_request_between_its_frame_and_its_task(file):
    """A request that was let in and whose task has not begun ends in its own instance, with its own context."""
    async with running([file]) as server:
        alice = await server.login("alice")
        file.write_text(source(2))

        async def in_server():
            shard = server._server.shards[0]
            (session,) = shard.sessions
            registry = load_again(shard.registry, "it", shard.config)
            table = CommandTable()
            add_connection_commands(table)
            table.add(registry.commands)
            shard.router.dispatch(session, (QUICK, 0, msgpack.packb({"rid": 1001}), None))
            shard.replace_plugin(registry, table, AppContext(shard, registry.plugins[-1], None, Cache("it")), shard.config)

        await server._in_server(in_server)
        await alice._wait(lambda: 1001 in alice._answers, lambda: "no answer")
        assert alice._answers[1001] == {"rid": 1001, "code": 0, "version": 1, "is_own": True}
        assert await alice.request(QUICK) == {"version": 2, "is_own": True}


async def test_sessions_keep_no_old_contexts(file):
    """However often a plugin is reloaded, a connection remembers the present instance's contexts alone."""
    async with running([file]) as server:
        alice = await server.login("alice")
        sizes = []
        for version in range(2, 6):
            await alice.request(EMIT)
            file.write_text(source(version))
            await server.reload("it")
            await alice.request(EMIT)
            (session,) = server._server.shards[0].sessions
            sizes.append(len(session.contexts))
        assert len(set(sizes)) == 1
