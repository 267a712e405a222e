"""The router on a real shard: handlers of both kinds, every refusal, hooks and the bus, with commits that wait or fail."""

import itertools
import os
import threading

import apsw
import attrs
import msgspec
import pytest
import trio
import trio.testing
from helpers import BARRIER, LOGIN, MESSAGE, SAY, running
from wire import GZIP, HEADER, JSON, encode

from imserver import session as session_module
from imserver.errors import Conflict, NotLoaded, PluginError, StorageUnavailable
from imserver.plugin import ANYONE, Draft, ImError, PermissionDenied, Plugin, command, on_event, role
from imserver.shard import Shard

HEARTBEAT, GOAWAY, ERROR = 1, 2, 3


@attrs.frozen
class Number:
    """A request with one field."""

    n: int = 0


class Fail(msgspec.Struct):
    """A request for a failure."""

    how: str


SECRET = "the stack says: /secret/path"


class Handlers(Plugin):
    """Handlers of both kinds that do what they are told."""

    name = "handlers"
    migrations = ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT",)

    def __init__(self):
        self.log = []
        self.go = trio.Event()
        self.loaded = set()
        self.loads = 0
        self.load_gate = trio.Event()
        self.load_gate.set()
        self.running = self.most_running = 0

    @command(6001, request=Number)
    def add(self, ctx, request):
        return {"sum": request.n + 1}

    @command(6002, request=Number)
    async def add_later(self, ctx, request):
        await trio.lowlevel.checkpoint()
        return attrs.make_class("Sum", ["sum"])(request.n + 1)

    @command(6003, request=Fail)
    def fail(self, ctx, request):
        self._fail(request.how)

    @command(6004, request=Fail)
    async def fail_later(self, ctx, request):
        await trio.lowlevel.checkpoint()
        self._fail(request.how)

    @staticmethod
    def _fail(how):
        if how == "im":
            raise Conflict("you did this before", field="how", retry_after_ms=5)
        if how == "group":
            raise ExceptionGroup("several", [Conflict("inside of a group")])
        if how == "storage":
            raise StorageUnavailable("disk full")
        if how == "exit":
            raise SystemExit(SECRET)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "exits":
            raise BaseExceptionGroup("of a child task", [SystemExit(SECRET)])
        raise RuntimeError(SECRET)

    @command(6005, request=Number, timeout_s=0.05)
    async def slow(self, ctx, request):
        await trio.sleep_forever()

    @command(6006, request=Number)
    async def gated(self, ctx, request):
        self.log.append(request.n)
        await self.go.wait()
        return {"n": request.n}

    @command(6007, request=Number, allow=role("admin"))
    def admins(self, ctx, request):
        return {}

    @command(6008, request=Number, allow=ANYONE, stateless=True)
    def stateless(self, ctx, request):
        return {"n": request.n}

    @command(6009, request=Number)
    def needs_load(self, ctx, request):
        """Needs the value `n` in memory."""
        if request.n not in self.loaded:

            async def load():
                self.loads += 1
                await self.load_gate.wait()
                if request.n < 0:
                    raise ValueError(SECRET)
                self.loaded.add(request.n)

            raise NotLoaded(load, ("n", request.n))
        self.log.append(request.n)
        return {"n": request.n}

    @command(6010, request=Number)
    def never_loaded(self, ctx, request):
        async def load():
            self.loads += 1

        raise NotLoaded(load, ("never", next(itertools.count(1))))

    @command(6011, request=Fail)
    def note(self, ctx, request):
        """One row by SQL."""
        ctx.db.write("INSERT INTO notes (text) VALUES (?)", (request.how,))
        return {"noted": True}

    @command(6012, request=Fail)
    async def note_awaited(self, ctx, request):
        rows = await ctx.db.write("INSERT INTO notes (text) VALUES (?) RETURNING text", (request.how,))
        return {"text": rows[0][0]}

    @command(6013, request=Fail)
    async def note_unawaited(self, ctx, request):
        """Writes and returns: the router waits for the disk."""
        ctx.db.write("INSERT INTO notes (text) VALUES (?)", (request.how,))
        return {}

    @command(6014, request=Number, per_second=1)
    def rare(self, ctx, request):
        return {}

    @command(6015, request=Number)
    def unencodable(self, ctx, request):
        return {"value": object()}

    @command(6016, request=Number)
    async def unencodable_later(self, ctx, request):
        return {"value": object()}

    @command(6017, request=Number)
    def no_mapping(self, ctx, request):
        return 5

    @command(6018, request=Fail)
    async def calls(self, ctx, request):
        """Another service's command; the fields come back once they are durable."""
        return dict(await ctx.call(int(request.how), {"how": "called", "n": 1}))

    @command(6019, request=Fail)
    def broken_note(self, ctx, request):
        """SQL that SQLite or the driver refuses."""
        if request.how == "syntax":
            ctx.db.write("INSERT INTO nowhere VALUES (1)")
        elif request.how == "bindings":
            ctx.db.write("INSERT INTO notes (text) VALUES (?)", ())
        elif request.how == "type":
            ctx.db.write("INSERT INTO notes (text) VALUES (?)", (object(),))
        elif request.how == "overflow":
            ctx.db.write("INSERT INTO notes (text) VALUES (?)", (2**80,))
        elif request.how == "surrogate":
            ctx.db.write("INSERT INTO notes (text) VALUES (?)", ("\ud800",))
        elif request.how == "strict":
            ctx.db.write("INSERT INTO notes (id, text) VALUES ('x', 'y')")
        return {}

    @command(6020, request=Fail)
    def write_and_raise(self, ctx, request):
        """Everything that a handler can do, and then an exception."""
        user = ctx.session.user_id
        found = ctx.conversations.require(request.how)
        parties = request.how.split(":")[1:]
        conversation = found if found is not None else ctx.conversations.open_direct(request.how, parties)
        stored = ctx.messages.append(conversation, Draft(request.how, user, "raised", "text", "never"))
        ctx.push(conversation.recipients, MESSAGE, stored.message)
        ctx.db.write("INSERT INTO notes (text) VALUES ('never')")
        raise RuntimeError(SECRET)

    @command(6021, request=Fail)
    def read_seq(self, ctx, request):
        """What memory says."""
        conversation = ctx.conversations.require(request.how)
        if conversation is None:
            return {"last_seq": None}
        return {"last_seq": conversation.last_seq, "unread": conversation.unread(conversation.members["bob"])}

    @command(6022, request=Fail)
    def append_and_note(self, ctx, request):
        """A message and a row: both or neither."""
        conversation = ctx.conversations.require("d:alice:bob")
        if conversation is None:
            conversation = ctx.conversations.open_direct("d:alice:bob", ["alice", "bob"])
        draft = Draft("d:alice:bob", ctx.session.user_id, f"both-{request.how}", "text", "both")
        stored = ctx.messages.append(conversation, draft)
        ctx.db.write("INSERT INTO notes (text) VALUES (?)", (request.how,))
        return {"seq": stored.seq}

    @command(6023, request=Number)
    def logs(self, ctx, request):
        """Who asked, in the order of the carrying out."""
        self.log.append((ctx.session.user_id, request.n))
        return {}

    @command(6024, request=Number, bulk=True)
    async def much(self, ctx, request):
        """A long answer."""
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        self.running -= 1
        self.log.append(request.n)
        return {"much": "x" * request.n}


async def notes(rig):
    """The committed rows of the test plugin."""
    return [text for (text,) in rig.rows("SELECT text FROM notes ORDER BY id")]


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("flags", [0, JSON, GZIP, GZIP | JSON])
async def test_both_kinds_of_handlers_answer(tmp_path, flags):
    """A mapping or an attrs instance, now or later, in the encoding of the request."""
    async with running(tmp_path, Handlers()) as rig:
        peer = await rig.login("alice", flags=flags)
        assert (await peer.ok(6001, n=1))["sum"] == 2
        assert (await peer.ok(6002, n=4))["sum"] == 5


async def test_without_a_rid_there_is_no_answer_but_for_failures(tmp_path):
    """The request is carried out; what fails is told by an ERROR push that names the command."""
    async with running(tmp_path, Handlers()) as rig:
        peer = await rig.login("alice")
        for command_id in (6001, 6002):
            await peer.send(command_id, n=1)
            await peer.send(command_id, rid=0, n=1)
        for command_id in (6003, 6004):
            await peer.send(command_id, how="im")
        await peer.send(6001, n="wrong")
        await peer.send(4242)
        await peer.ok(6002, n=1)
        await peer.ok(BARRIER)
        assert sorted((command_id, body["command"], body["code"]) for command_id, body in peer.pushes) == [
            (ERROR, 4242, 404),
            (ERROR, 6001, 400),
            (ERROR, 6003, 409),
            (ERROR, 6004, 409),
        ]


@pytest.mark.parametrize("command_id", [6003, 6004])
async def test_errors_of_handlers(tmp_path, command_id):
    """An ImError speaks to the client, a disk fault is 503, anything else is 500 with a trace id and no stack."""
    async with running(tmp_path, Handlers()) as rig:
        peer = await rig.login("alice")
        answer = await peer.call(command_id, how="im")
        expected = {"code": 409, "error": "conflict", "message": "you did this before", "field": "how", "retry_after_ms": 5}
        assert {key: answer[key] for key in expected} == expected
        answer = await peer.call(command_id, how="storage")
        assert (answer["code"], answer["error"]) == (503, "unavailable")
        assert answer["retry_after_ms"] > 0
        answers = [await peer.call(command_id, how=how) for how in ("bug", "exit", "interrupt", "exits")]
        assert {(answer["code"], answer["error"]) for answer in answers} == {(500, "internal")}
        assert len({answer["message"] for answer in answers}) == 4, "each fault has a trace id of its own"
        assert SECRET not in str(answers)
        assert (await peer.call(command_id, how="group"))["code"] == 409
        await peer.ok(6001, n=1)


@pytest.mark.parametrize("command_id", [6015, 6016, 6017])
async def test_a_result_that_cannot_be_sent(tmp_path, command_id):
    """A handler that returns what no encoding has costs its caller a 500 and nobody else anything."""
    async with running(tmp_path, Handlers()) as rig:
        peer, other = await rig.login("alice"), await rig.login("bob")
        assert (await peer.call(command_id))["code"] == 500
        await other.ok(6001, n=1)
        await peer.ok(6002, n=1)


async def test_refusals_before_the_handler(tmp_path):
    """Not logged in, unknown, wrong role, wrong body: each with its code and the rid."""
    async with running(tmp_path, Handlers()) as rig:
        stranger, peer = rig.connect(), await rig.login("alice")
        admin = await rig.login("root", roles=["admin"])
        answer = await stranger.call(6001, n=1)
        assert (answer["code"], answer["error"]) == (401, "unauthenticated")
        answer = await peer.call(6999 - 1)
        assert (answer["code"], answer["error"]) == (404, "unknown_command")
        answer = await peer.call(6007)
        assert (answer["code"], answer["error"]) == (403, "forbidden")
        await admin.ok(6007)
        answer = await peer.call(6001, n="x")
        assert (answer["code"], answer["error"], answer["field"]) == (400, "bad_request", "n")
        answer = await peer.call(LOGIN, user="alice")
        assert (answer["code"], answer["error"]) == (409, "conflict")


async def test_a_body_that_is_no_map_is_an_error_push(tmp_path):
    """The connection goes on, as the frame's boundary is known."""
    async with running(tmp_path, Handlers()) as rig:
        peer = await rig.login("alice")
        await peer.send_raw(encode(6001, b"\x93\x01\x02\x03"))
        await peer.send_raw(encode(6001, b"", version=9))
        await peer.send_raw(encode(6001, b"\x80", flags=0x40))
        for _ in range(3):
            command_id, body = await peer.push()
            assert (command_id, body["code"], body["command"]) == (ERROR, 400, 6001)
        await peer.ok(6001, n=1)


async def test_the_deadline_of_an_async_handler(tmp_path):
    """504, and the connection goes on."""
    async with running(tmp_path, Handlers()) as rig:
        peer = await rig.login("alice")
        answer = await peer.call(6005)
        assert (answer["code"], answer["error"]) == (504, "timeout")
        await peer.ok(6001, n=1)


async def test_the_limit_of_requests_in_flight(tmp_path):
    """Beyond it no further frame is carried out until one is answered; then they go on in order."""
    plugin = Handlers()
    async with running(tmp_path, plugin, limits={"in_flight": 3}) as rig:
        peer = await rig.login("alice")
        rids = [await peer.post(6006, n=n) for n in range(8)]
        last = await peer.post(6001, n=41)
        await rig.until(lambda: len(plugin.log) == 3)
        other = await rig.login("bob")
        await other.ok(6001, n=1)
        assert sorted(plugin.log) == [0, 1, 2]  # Trio starts tasks in any order
        plugin.go.set()
        assert [(await peer.answer(rid))["n"] for rid in rids] == list(range(8))
        assert (await peer.answer(last))["sum"] == 42
        assert sorted(plugin.log) == list(range(8))
        assert peer.session.in_flight == 0


async def test_long_answers_wait_until_the_client_reads(tmp_path):
    """Requests of a `bulk` command run one at a time; what nobody reads is not held for a client, and nothing is lost."""
    plugin = Handlers()
    async with running(tmp_path, plugin, limits={"outbox_bytes": 4_000_000}) as rig:
        peer = await rig.login("alice")
        rids = [await peer.post(6024, n=900_000 + n) for n in range(20)]
        await rig.until(lambda: peer.session.is_backed_up and not plugin.running)
        await peer.send_raw(HEADER.pack(8, HEARTBEAT, 1, 0))
        other = await rig.login("bob")
        await other.ok(6024, n=1)
        assert len(plugin.log) < 8, "the outbox of a quarter of 4 MB, and what the kernel holds"
        assert peer.session.queued_bytes < 2_500_000
        assert [len((await peer.answer(rid))["much"]) - 900_000 for rid in rids] == list(range(20))
        assert plugin.most_running == 1


async def test_a_bulk_command_is_async(tmp_path):
    """A `def` handler cannot wait for a client."""

    class Wrong(Plugin):
        name = "wrong"

        @command(6001, bulk=True)
        def now(self, ctx, request):
            return {}

    with pytest.raises(PluginError, match="bulk"):
        async with running(tmp_path, Wrong()):
            pass


async def test_many_frames_of_one_client_take_turns_with_others(tmp_path, monkeypatch):
    """Where the frames of one read take longer than a turn, another client's come in between; each one's order is kept."""
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(session_module, "monotonic", lambda: next(clock))
    plugin = Handlers()
    async with running(tmp_path, plugin) as rig:
        peers = [await rig.login("alice"), await rig.login("bob")]
        for peer in peers:
            frames = b"".join(encode(6023, {"rid": 100 + n, "n": n}) for n in range(6))
            os.write(peer.socket.fileno(), frames)  # without a checkpoint: the server sees both at once
        for peer in peers:
            await peer.answer(105)
        assert [n for who, n in plugin.log if who == "alice"] == list(range(6))
        assert [n for who, n in plugin.log if who == "bob"] == list(range(6))
        first_half = {who for who, _ in plugin.log[:6]}
        assert first_half == {"alice", "bob"}


async def test_a_client_that_leaves_while_its_frames_wait_for_a_turn(tmp_path, monkeypatch):
    """What it had asked is dropped with it; the server goes on."""
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(session_module, "monotonic", lambda: next(clock))
    plugin = Handlers()
    async with running(tmp_path, plugin) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        os.write(alice.socket.fileno(), b"".join(encode(6023, {"n": n}) for n in range(500)))
        alice.close()
        await rig.until(lambda: len(rig.shard.sessions) == 1)
        await bob.ok(6001, n=1)
        assert rig.shard.is_settled


async def test_the_rate_limit_of_a_connection(tmp_path):
    """A burst of twice the rate passes, then 429 says when to come again; time makes room."""
    async with running(tmp_path, Handlers(), limits={"requests_per_second": 10}) as rig:
        peer = await rig.login("alice")
        answers = [await peer.call(6001, n=1) for _ in range(30)]
        passed = [answer["code"] for answer in answers].count(0)
        assert 18 <= passed <= 21
        refused = answers[-1]
        assert (refused["code"], refused["error"]) == (429, "rate_limited")
        assert 0 < refused["retry_after_ms"] <= 1000
        other = await rig.login("bob")
        await other.ok(6001, n=1)
        rig.clock.advance(refused["retry_after_ms"] / 1000)
        assert (await peer.call(6001, n=1))["code"] == 0


async def test_the_rate_limit_of_a_command(tmp_path):
    """It bounds that command alone."""
    async with running(tmp_path, Handlers()) as rig:
        peer = await rig.login("alice")
        codes = [(await peer.call(6014))["code"] for _ in range(6)]
        assert codes[0] == 0
        assert codes[-1] == 429
        await peer.ok(6001, n=1)
        rig.clock.advance(10)
        await peer.ok(6014)


# ---------------------------------------------------------------- what is not in memory


async def test_a_parked_request_keeps_the_order(tmp_path):
    """Frames behind a request that waits for a load are carried out behind it."""
    plugin = Handlers()
    plugin.load_gate = trio.Event()
    async with running(tmp_path, plugin) as rig:
        peer = await rig.login("alice")
        rids = [await peer.post(6009, n=n) for n in (1, 2, 1)]
        late = await peer.post(6008, n=9)
        other = await rig.login("bob")
        await other.ok(6001, n=1)
        assert plugin.log == []
        plugin.load_gate.set()
        for rid in [*rids, late]:
            assert (await peer.answer(rid))["code"] == 0
        assert plugin.log == [1, 2, 1]
        assert plugin.loads == 2


async def test_loads_of_one_key_are_done_once(tmp_path):
    """Fifty connections that need the same wait for the same load."""
    plugin = Handlers()
    plugin.load_gate = trio.Event()
    async with running(tmp_path, plugin) as rig:
        peers = [await rig.login(f"u{index}") for index in range(50)]
        rids = [await peer.post(6009, n=7) for peer in peers]
        await rig.until(lambda: all(peer.session.backlog is not None for peer in peers))
        await trio.testing.wait_all_tasks_blocked()  # parked comes before the task that waits
        plugin.load_gate.set()
        for peer, rid in zip(peers, rids, strict=True):
            assert (await peer.answer(rid))["n"] == 7
        assert plugin.loads == 1


async def test_loads_that_fail_or_never_suffice(tmp_path):
    """A loader's fault is a 500; a handler that asks for ever gets 503; both connections go on."""
    plugin = Handlers()
    async with running(tmp_path, plugin) as rig:
        peer = await rig.login("alice")
        answer = await peer.call(6009, n=-1)
        assert answer["code"] == 500
        assert SECRET not in str(answer)
        plugin.loads = 0
        answer = await peer.call(6010)
        assert (answer["code"], answer["error"]) == (503, "unavailable")
        assert 1 <= plugin.loads <= 20
        await peer.ok(6001, n=1)


async def test_a_load_that_takes_too_long(tmp_path):
    """The deadline holds for loads as well. What was begun goes on: whoever asks again finds it, sooner or later."""
    plugin = Handlers()
    plugin.load_gate = trio.Event()
    async with running(tmp_path, plugin, limits={"request_timeout_s": 0.05}) as rig:
        peer = await rig.login("alice")
        for _ in range(2):
            assert (await peer.call(6009, n=1))["code"] == 504
        await peer.ok(6001, n=1)
        plugin.load_gate.set()
        await rig.until(lambda: plugin.loaded)
        assert (await peer.ok(6009, n=1))["n"] == 1
        assert plugin.loads == 1


async def test_the_number_of_loads_under_way_is_bounded(tmp_path, monkeypatch):
    """Beyond it 503; what is under way can be waited for, and when it is done there is room again."""
    monkeypatch.setattr("imserver.requests.MAX_LOADS_UNDER_WAY", 2)
    plugin = Handlers()
    plugin.load_gate = trio.Event()
    async with running(tmp_path, plugin) as rig:
        alice, bob, carol = [await rig.login(user) for user in ("alice", "bob", "carol")]
        waits = [await alice.post(6009, n=1), await bob.post(6009, n=2)]
        await rig.until(lambda: plugin.loads == 2)
        answer = await carol.call(6009, n=3)
        assert (answer["code"], answer["error"]) == (503, "unavailable")
        plugin.load_gate.set()
        assert [(await peer.answer(rid))["n"] for peer, rid in zip((alice, bob), waits, strict=True)] == [1, 2]
        assert (await carol.ok(6009, n=3))["n"] == 3


async def test_a_load_that_fails_when_nobody_waits_for_it(tmp_path):
    """It is in the log, and the next who asks begins another."""
    plugin = Handlers()
    plugin.load_gate = trio.Event()
    async with running(tmp_path, plugin, limits={"request_timeout_s": 0.05}) as rig:
        peer = await rig.login("alice")
        assert (await peer.call(6009, n=-1))["code"] == 504
        plugin.load_gate.set()
        await rig.until(lambda: not rig.shard.router._loads)
        assert (await peer.call(6009, n=-1))["code"] == 500
        assert plugin.loads == 2
        await peer.ok(6001, n=1)


async def test_a_client_that_leaves_while_it_is_parked(tmp_path):
    """Nobody is answered, nothing is left behind."""
    plugin = Handlers()
    plugin.load_gate = trio.Event()
    async with running(tmp_path, plugin) as rig:
        peer = await rig.login("alice")
        await peer.post(6009, n=1)
        await rig.until(lambda: peer.session.backlog is not None)
        peer.close()
        await rig.until(lambda: not rig.shard.sessions)
        plugin.load_gate.set()
        other = await rig.login("bob")
        await other.ok(6009, n=1)
        assert rig.directory.by_user.keys() == {"bob"}


# ---------------------------------------------------------------- durability


async def test_answers_wait_for_the_disk_but_stateless_ones_do_not(tmp_path):
    """While a commit is under way, what rests on it waits; a heartbeat does not."""
    async with running(tmp_path, Handlers()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        rig.store.shut()
        said = await alice.post(SAY, to="bob")
        await rig.store.wait_entered()
        reads = await bob.post(6021, how="d:alice:bob")
        assert (await bob.ok(6008, n=3))["n"] == 3
        await bob.send_raw(HEADER.pack(8, HEARTBEAT, 1, 0))
        assert await bob.next_frame() == (HEARTBEAT, {})
        assert (await alice.ok(HEARTBEAT))["server_time"] == rig.clock.now_ms()
        assert not alice.answers
        assert not bob.answers
        assert not bob.pushes
        rig.store.open()
        assert (await alice.answer(said))["seq"] == 1
        # It had seen the message before it was durable, and says so only now.
        assert (await bob.answer(reads))["last_seq"] == 1
        assert [command_id for command_id, _ in bob.pushes] == [MESSAGE]


async def test_a_failed_commit(tmp_path):
    """503 to whoever wrote or had seen it, no push to anybody, nothing stored; the next one succeeds with the same seq."""
    async with running(tmp_path, Handlers()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await alice.ok(SAY, to="bob")
        await bob.push()
        rig.store.shut()
        rig.store.fail_next()
        failed = await alice.post(SAY, to="bob", client_id="again")
        await rig.until(lambda: rig.journal.is_dirty or rig.shard.waiting)
        seen = await bob.post(6021, how="d:alice:bob")
        on_top = await alice.post(SAY, to="bob", client_id="on top")
        await rig.until(lambda: rig.shard.router.requests >= 6)
        rig.store.open()
        for peer, rid in ((alice, failed), (bob, seen), (alice, on_top)):
            answer = await peer.answer(rid)
            assert (answer["code"], answer["error"]) == (503, "unavailable")
            assert answer["retry_after_ms"] > 0
        assert (await bob.ok(6021, how="d:alice:bob"))["last_seq"] == 1
        answer = await alice.ok(SAY, to="bob", client_id="again")
        assert (answer["seq"], answer["duplicate"]) == (2, False)
        _, message = await bob.push()
        assert (message["seq"], message["client_id"]) == (2, "again")
        await bob.ok(BARRIER)
        assert not bob.pushes
        assert rig.rows("SELECT seq FROM messages ORDER BY seq") == [(1,), (2,)]


@pytest.mark.parametrize("load", [False, True], ids=["loaded", "to-be-loaded"])
async def test_a_request_without_a_rid_whose_commit_fails(tmp_path, load):
    """It is told by an ERROR push; what was stored is not answered, and neither is what wrote nothing."""
    async with running(tmp_path, Handlers()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        if not load:
            await alice.ok(SAY, to="bob")
        rig.store.fail_next()
        await alice.send(SAY, to="bob", client_id="lost")
        command_id, body = await alice.push()
        assert (command_id, body["command"], body["code"], body["error"]) == (ERROR, SAY, 503, "unavailable")
        assert "rid" not in body
        await alice.send(SAY, to="bob", client_id="kept")
        await alice.send(6021, how="d:alice:bob")
        await bob.ok(BARRIER)
        await alice.ok(BARRIER)
        assert not alice.pushes
        assert not alice.answers
        assert rig.rows("SELECT client_id FROM messages ORDER BY seq")[-1] == ("kept",)


async def test_a_row_without_a_rid_that_breaks_a_constraint(tmp_path):
    """The batch is good, the unit is not: an ERROR push."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        for _ in range(2):
            await alice.send(6011, how="once")
        command_id, body = await alice.push()
        assert (command_id, body["command"]) == (ERROR, 6011)
        await alice.ok(BARRIER)
        assert not alice.pushes
        assert await notes(rig) == ["once"]


async def test_a_store_with_a_fault_of_its_own(tmp_path):
    """An exception that no store should raise costs the batch, not the server."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        rig.store.fail_next(ZeroDivisionError(SECRET))
        answer = await alice.call(SAY, to="bob")
        assert answer["code"] == 503
        assert SECRET not in str(answer)
        assert (await alice.ok(SAY, to="bob"))["seq"] == 1


async def test_a_write_that_breaks_a_constraint(tmp_path):
    """The answer is an error and nothing of it is stored; what others wrote in the same commit is."""
    async with running(tmp_path, Handlers()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await alice.ok(6011, how="one")
        rig.store.shut()
        first = await alice.post(SAY, to="bob")
        await rig.store.wait_entered()
        await rig.until(lambda: rig.shard.waiting)
        broken = await alice.post(6011, how="one")
        fine = await bob.post(6011, how="two")
        awaited = await bob.post(6012, how="one")
        await rig.until(lambda: len(rig.journal.current.writes) == 3)
        rig.store.open()
        assert (await alice.answer(first))["code"] == 0
        assert (await alice.answer(broken))["code"] >= 400
        assert (await bob.answer(fine))["code"] == 0
        assert (await bob.answer(awaited))["code"] >= 400
        assert await notes(rig) == ["one", "two"]
        assert (await bob.ok(6012, how="three"))["text"] == "three"


@pytest.mark.parametrize("how", ["syntax", "bindings", "type", "overflow", "surrogate", "strict"])
async def test_a_plugin_whose_sql_is_wrong(tmp_path, how):
    """Its own request fails; a message of another user in the same commit is stored."""
    async with running(tmp_path, Handlers()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        rig.store.shut()
        await alice.ok(HEARTBEAT)
        blocker = await alice.post(SAY, to="bob")
        await rig.store.wait_entered()
        broken = await alice.post(6019, how=how)
        said = await bob.post(SAY, to="alice")
        await rig.until(lambda: rig.journal.current.rows >= 2)
        rig.store.open()
        assert (await alice.answer(blocker))["code"] == 0
        assert (await alice.answer(broken))["code"] >= 400
        assert (await bob.answer(said))["code"] == 0
        assert await notes(rig) == []


async def test_a_message_and_a_row_of_one_handler_are_both_stored_or_neither(tmp_path):
    """Where the row breaks a constraint, the message of the same handler is not stored either."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        assert (await alice.ok(6022, how="a"))["seq"] == 1
        await alice.ok(6011, how="b")
        assert (await alice.call(6022, how="b"))["code"] >= 400
        assert rig.rows("SELECT count(*) FROM messages") == [(1,)]
        assert (await alice.ok(6022, how="c"))["seq"] == 2


async def test_an_async_handler_that_does_not_await_its_write(tmp_path):
    """Its answer waits for the disk all the same, also beside another request of the same session."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        rig.store.shut()
        rids = [await alice.post(6013, how=how) for how in ("one", "two", "three")]
        await rig.store.wait_entered()
        for _ in range(3):
            await alice.ok(HEARTBEAT)
        assert not alice.answers, "an answer left before the commit"
        rig.store.open()
        for rid in rids:
            assert (await alice.answer(rid))["code"] == 0
        assert len(await notes(rig)) == 3


async def test_an_async_handler_whose_commit_fails(tmp_path):
    """Awaited or not, it is 503, and the next request is not."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        for command_id in (6012, 6013):
            rig.store.fail_next()
            assert (await alice.call(command_id, how="x"))["code"] == 503
            await alice.ok(6002, n=1)
        assert await notes(rig) == []


@pytest.mark.parametrize("command_id", [6011, 6013])
async def test_a_call_of_another_command_is_durable_when_it_returns(tmp_path, command_id):
    """`ctx.call` gives the fields of a `def` or `async def` handler after their commit."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        rig.store.shut()
        rid = await alice.post(6018, how=str(command_id))
        await rig.store.wait_entered()
        for _ in range(3):
            await alice.ok(HEARTBEAT)
        assert not alice.answers, "it went on before the commit"
        rig.store.open()
        assert (await alice.answer(rid))["code"] == 0
        assert await notes(rig) == ["called"]


async def test_calls_refuse_and_fail_as_requests_do(tmp_path):
    """An unknown command, a wrong body, a load, an error of the other handler."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        assert (await alice.call(6018, how="4242"))["error"] == "unknown_command"
        assert (await alice.ok(6018, how="6009"))["n"] == 1
        assert (await alice.call(6018, how="6003"))["code"] == 500
        assert (await alice.call(6018, how=str(SAY)))["field"] == "to"
        assert (await alice.call(6018, how="6010"))["code"] == 503
        await alice.ok(6001, n=1)


async def test_a_call_whose_write_breaks_a_constraint(tmp_path):
    """The caller learns that nothing was stored."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        await alice.ok(6018, how="6011")
        assert (await alice.call(6018, how="6011"))["code"] == 503
        assert await notes(rig) == ["called"]


async def test_an_answer_is_held_before_others_may_write(tmp_path, monkeypatch):
    """Else another shard might open a batch in between, and the answer would wait for one that it does not rest on."""
    async with running(tmp_path, Handlers(), shards=2) as rig:
        alice = await rig.login("alice")
        was_free = []
        hold = Shard.hold

        def hold_and_look(shard, *args):
            def look():
                was_free.append(rig.journal.lock.acquire(blocking=False))

            other = threading.Thread(target=look)
            other.start()
            other.join()
            hold(shard, *args)

        monkeypatch.setattr(Shard, "hold", hold_and_look)
        await alice.ok(6011, how="one")
        assert was_free == [False]
        assert await notes(rig) == ["one"]


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_handler_that_raises_leaves_nothing(tmp_path, is_new):
    """No message, no row, no conversation, no push, no key; the next message takes the place."""
    async with running(tmp_path, Handlers()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        if not is_new:
            await alice.ok(SAY, to="bob")
            await bob.push()
        answer = await alice.call(6020, how="d:alice:bob")
        assert answer["code"] == 500
        await bob.ok(BARRIER)
        await alice.ok(BARRIER)
        assert not bob.pushes
        assert not alice.pushes
        before = 0 if is_new else 1
        assert rig.rows("SELECT count(*) FROM messages") == [(before,)]
        assert rig.rows("SELECT count(*) FROM conversations") == [(before,)]
        assert await notes(rig) == []
        answer = await alice.ok(SAY, to="bob", client_id="raised", body="other")
        assert (answer["seq"], answer["duplicate"]) == (before + 1, False)
        _, message = await bob.push()
        assert message["body"] == "other"


async def test_a_conversation_whose_first_handler_raised_survives_a_failed_commit(tmp_path):
    """What was taken back must not be taken for stored when the batch around it fails."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        rig.store.shut()
        blocker = await alice.post(SAY, to="carol")
        await rig.store.wait_entered()
        raised = await alice.post(6020, how="d:alice:bob")
        fails = await alice.post(6011, how="x")
        await rig.until(lambda: rig.journal.current.writes)
        rig.store.pass_next()
        rig.store.fail_next()
        rig.store.open()
        assert (await alice.answer(blocker))["code"] == 0
        assert (await alice.answer(raised))["code"] == 503
        assert (await alice.answer(fails))["code"] == 503
        await alice.ok(SAY, to="bob")
        orphans = "SELECT count(*) FROM messages WHERE conversation NOT IN (SELECT number FROM conversations)"
        assert rig.rows(orphans) == [(0,)]


# ---------------------------------------------------------------- hooks and the bus


class Hooks(Plugin):
    """Hooks that write down what they see; `bad` ones raise."""

    name = "hooks"

    def __init__(self):
        self.seen = []
        self.commits = []
        self.raises = set()

    def _note(self, what):
        self.seen.append(what)
        if what[0] in self.raises:
            raise RuntimeError(SECRET)

    def on_connect(self, ctx):
        self._note(("connect", ctx.session.user_id))

    def on_login(self, ctx):
        self._note(("login", ctx.session.user_id))

    def on_disconnect(self, ctx):
        self._note(("disconnect", ctx.session.user_id))

    def before_send(self, ctx, draft):
        self._note(("before_send", draft.body))
        if draft.body == "change me":
            draft.body = "changed"
        elif draft.body == "refuse me":
            raise PermissionDenied("not here", error="moderated")

    def after_commit(self, ctx, messages):
        durable = {seq for (seq,) in ctx._shard.database.read_now("SELECT seq FROM messages")}
        self.commits += [(message.seq, message.seq in durable) for message in messages]
        self._note(("after_commit", len(messages)))

    @on_event("thing")
    def thing(self, ctx, *, value):
        self._note(("event", value))

    @command(6101, request=Number, allow=ANYONE)
    def emits(self, ctx, request):
        ctx.emit("thing", value=request.n)
        ctx.emit("nobody listens", value=1)
        return {}


class MoreHooks(Hooks):
    """A second one, to see that it is called whatever the first one does."""

    name = "more"

    @command(6102, request=Number, allow=ANYONE)
    def emits(self, ctx, request):
        return {}


async def test_the_hooks_of_a_connection(tmp_path):
    """Connect, login and disconnect, once each, in order."""
    hooks = Hooks()
    async with running(tmp_path, hooks) as rig:
        peer = await rig.login("alice")
        peer.close()
        await rig.until(lambda: len(hooks.seen) >= 3)
        stranger = rig.connect()
        stranger.close()
        await rig.until(lambda: len(hooks.seen) >= 5)
    assert hooks.seen == [
        ("connect", None),
        ("login", "alice"),
        ("disconnect", "alice"),
        ("connect", None),
        ("disconnect", None),
    ]


async def test_a_hook_or_listener_that_raises_costs_nobody(tmp_path):
    """Other plugins' hooks run, the request succeeds, the connection goes on."""
    bad, good = Hooks(), MoreHooks()
    bad.raises = {"connect", "login", "disconnect", "after_commit", "event"}
    async with running(tmp_path, bad, good) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await alice.ok(6101, n=5)
        await alice.ok(SAY, to="bob")
        await bob.push()
        alice.close()
        await rig.until(lambda: ("disconnect", "alice") in good.seen)
        await bob.ok(BARRIER)
    for wanted in (("connect", None), ("login", "alice"), ("event", 5), ("after_commit", 1), ("disconnect", "alice")):
        assert wanted in bad.seen
        assert wanted in good.seen


async def test_before_send_may_change_and_refuse(tmp_path):
    """What it changes is stored and pushed; what it refuses is neither, and the sender learns why."""
    hooks = Hooks()
    async with running(tmp_path, hooks) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await alice.ok(SAY, to="bob", body="change me", client_id="k")
        assert (await bob.push())[1]["body"] == "changed"
        answer = await alice.call(SAY, to="bob", body="refuse me")
        assert (answer["code"], answer["error"]) == (403, "moderated")
        hooks.raises = {"before_send"}
        assert (await alice.call(SAY, to="bob", body="crash"))["code"] == 500
        hooks.raises = set()
        assert (await alice.ok(SAY, to="bob", body="change me", client_id="k"))["duplicate"] is True
        assert (await alice.ok(SAY, to="bob"))["seq"] == 2
        assert rig.rows("SELECT count(*) FROM messages") == [(2,)]


class Stamps(Plugin):
    """Makes another message of each, and never twice the same."""

    name = "stamps"

    def __init__(self, how):
        self.how = how
        self.stamps = itertools.count(1)

    def before_send(self, ctx, draft):
        if self.how == "in place":
            draft.body["stamp"] = next(self.stamps)
        else:
            draft.body = {"stamp": next(self.stamps)}


@pytest.mark.parametrize("how", ["in place", "anew"])
async def test_a_retry_says_what_the_sender_said_not_what_a_hook_made_of_it(tmp_path, how):
    """The first answer again, in this process and after a restart; other content is a conflict; an edit changes nothing."""
    said = {"text": "hello", "colour": "red"}
    for start in range(2):
        async with running(tmp_path, Stamps(how)) as rig:
            alice, bob = await rig.login("alice"), await rig.login("bob")
            if not start:
                assert not (await alice.ok(SAY, to="bob", body=said, client_id="k"))["duplicate"]
                assert (await bob.push())[1]["body"]["stamp"] == 1
            answer = await alice.ok(SAY, to="bob", body=dict(reversed(said.items())), client_id="k")
            assert (answer["seq"], answer["duplicate"]) == (1, True)
            for other in ({"text": "hello"}, {"stamp": 1}, {**said, "stamp": 1}):
                answer = await alice.call(SAY, to="bob", body=other, client_id="k")
                assert (answer["code"], answer["error"]) == (409, "idempotency_conflict")
            assert rig.rows("SELECT count(*) FROM messages") == [(1,)]


class StampsOnce(Plugin):
    """Changes a body in place; done twice it is as done once."""

    name = "stamps_once"

    def before_send(self, ctx, draft):
        draft.body["seen"] = True


class Loads(Plugin):
    """Has to load something before it lets a message pass."""

    name = "loads"
    is_loaded = False

    def before_send(self, ctx, draft):
        async def load():
            self.is_loaded = True

        if not self.is_loaded:
            raise NotLoaded(load, "loads")


async def test_a_hook_that_runs_again_does_not_change_what_was_said(tmp_path):
    """Behind a load the handler runs again, and the hooks with it: a retry is compared by the client's own content."""
    async with running(tmp_path, StampsOnce(), Loads()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        assert not (await alice.ok(SAY, to="bob", body={"text": "hi"}, client_id="k"))["duplicate"]
        assert (await bob.push())[1]["body"] == {"text": "hi", "seen": True}
        assert (await alice.ok(SAY, to="bob", body={"text": "hi"}, client_id="k"))["duplicate"]
        answer = await alice.call(SAY, to="bob", body={"text": "hi", "seen": True}, client_id="k")
        assert answer["error"] == "idempotency_conflict"


async def test_equal_bodies_are_equal_whatever_the_order_of_their_keys(tmp_path):
    """A client that encodes its message again for the retry gets the first answer; keys that are no strings do no harm."""
    async with running(tmp_path) as rig:
        alice = await rig.login("alice")
        body = {"b": [{"d": 1, "c": 2}], "a": None}
        again = {"a": None, "b": [{"c": 2, "d": 1}]}
        assert not (await alice.ok(SAY, to="bob", body=body, client_id="k"))["duplicate"]
        assert (await alice.ok(SAY, to="bob", body=again, client_id="k"))["duplicate"]
        answer = await alice.call(SAY, to="bob", body={"a": None, "b": [{"c": 2, "d": 2}]}, client_id="k")
        assert (answer["code"], answer["error"]) == (409, "idempotency_conflict")
        assert not (await alice.ok(SAY, to="bob", body={1: 2, "x": 3}, client_id="odd"))["duplicate"]
        assert (await alice.ok(SAY, to="bob", body={1: 2, "x": 3}, client_id="odd"))["duplicate"]


async def test_a_retry_of_what_an_earlier_version_stored(tmp_path):
    """It had the keys of a map in the order in which they came; the retry is no conflict."""
    said = {"z": 1, "a": {"y": 1, "b": [{"d": 1, "c": 2}]}}
    async with running(tmp_path) as rig:
        alice = await rig.login("alice")
        await alice.ok(SAY, to="bob", body=said, client_id="k")
    connection = apsw.Connection(str(tmp_path / "imserver.db"))
    connection.execute("UPDATE messages SET body = ?", (msgspec.msgpack.encode(said),))
    connection.close()
    async with running(tmp_path) as rig:
        alice = await rig.login("alice")
        assert (await alice.ok(SAY, to="bob", body=said, client_id="k"))["duplicate"]
        assert (await alice.call(SAY, to="bob", body={**said, "z": 2}, client_id="k"))["code"] == 409


class Moderator(Plugin):
    """Refuses what its list has; the list is in its own cache."""

    name = "moderator"

    def before_send(self, ctx, draft):
        async def load():
            return {"spam"}

        assert ctx.plugin is self
        if draft.body in ctx.cache.load("words", load):
            raise PermissionDenied("not here")


async def test_a_send_hook_has_its_own_plugin_s_context(tmp_path):
    """Its cache, its settings, and the session of the sender; what it has to load is loaded."""
    plugin = Moderator()
    async with running(tmp_path, plugin) as rig:
        alice = await rig.login("alice")
        assert (await alice.call(SAY, to="bob", body="spam"))["code"] == 403
        assert rig.caches["moderator"].get("words") == {"spam"}
        assert rig.caches["base"].get("words") is None
        rig.caches["moderator"].put("words", {"eggs"})
        await alice.ok(SAY, to="bob", body="spam")
        assert (await alice.call(SAY, to="bob", body="eggs"))["code"] == 403


async def test_after_commit_sees_durable_messages_alone(tmp_path):
    """In order, once each; nothing of a failed commit or of a handler that raised; no duplicates."""
    hooks, handlers = Hooks(), Handlers()
    async with running(tmp_path, hooks, handlers) as rig:
        alice = await rig.login("alice")
        await alice.ok(SAY, to="bob", client_id="one")
        rig.store.fail_next()
        assert (await alice.call(SAY, to="bob"))["code"] == 503
        assert (await alice.call(6020, how="d:alice:bob"))["code"] == 500
        assert (await alice.ok(SAY, to="bob", client_id="one"))["duplicate"] is True
        for _ in range(3):
            await alice.ok(SAY, to="bob")
        await alice.ok(BARRIER)
    assert hooks.commits == [(1, True), (2, True), (3, True), (4, True)]


# ---------------------------------------------------------------- pushes


@pytest.mark.parametrize("shard", [0, 1])
async def test_a_push_reaches_every_device_but_the_one_that_asked(tmp_path, shard):
    """On the same shard and on another one, each in its own encoding, once."""
    async with running(tmp_path, shards=2) as rig:
        alice = await rig.login("alice")
        others = [
            await rig.login("alice", shard=shard),
            await rig.login("bob", shard=shard, flags=JSON),
            await rig.login("bob", shard=1 - shard),
        ]
        for body in ("one", "two"):
            await alice.ok(SAY, to="bob", body=body)
        for peer in others:
            bodies = [(await peer.push())[1]["body"] for _ in range(2)]
            assert bodies == ["one", "two"]
        await rig.login("alice", shard=shard)
        for peer in [alice, *others]:
            await peer.ok(BARRIER)
            assert not peer.pushes


async def test_draining(tmp_path):
    """All clients are told; new requests get 503, heartbeats are answered still."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        rig.shard.post(rig.shard.begin_drain)
        command_id, body = await alice.push()
        assert (command_id, body["error"]) == (GOAWAY, "draining")
        answer = await alice.call(SAY, to="bob")
        assert (answer["code"], answer["error"]) == (503, "unavailable")
        assert answer["retry_after_ms"] > 0
        await alice.ok(HEARTBEAT)


def test_im_errors_have_the_codes_of_the_protocol():
    """Every class that a plugin can raise says a code and a name of wire protocol, section 2."""
    table = {
        400: "bad_request", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 409: "conflict",
        413: "too_large", 429: "rate_limited", 500: "internal", 503: "unavailable", 504: "timeout",
    }  # fmt: skip
    classes = [cls for cls in ImError.__subclasses__() if cls.__module__ == "imserver.errors"]
    assert {cls.code: cls.error for cls in classes} == table
    for cls in classes:
        answer = cls("words").answer()
        assert (answer["code"], answer["error"], answer["message"]) == (cls.code, cls.error, "words")
    assert table.get(ImError("x").code) == ImError("x").error


async def test_the_server_finds_out_that_the_disk_is_well(tmp_path):
    """After a failed commit the next fold of cursors writes, though no client does; without one there is nothing to do."""
    async with running(tmp_path, Handlers()) as rig:
        alice = await rig.login("alice")
        await alice.ok(SAY, to="bob")
        rig.shard.fold_cursors()
        await rig.until(lambda: rig.journal.is_quiet)
        rig.store.fail_next()
        assert (await alice.call(SAY, to="bob", client_id="lost"))["code"] == 503
        assert not rig.journal.is_healthy
        rig.shard.fold_cursors()
        await rig.until(lambda: rig.journal.is_healthy)
        commits = rig.journal.commits
        rig.shard.fold_cursors()
        await rig.until(lambda: rig.journal.is_quiet)
        assert rig.journal.commits == commits
