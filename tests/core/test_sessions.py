"""Sessions on a real shard: deadlines, the ways to end, the outbox's bound, the gate at login, and any order of it all."""

import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from helpers import BARRIER, LOGIN, MESSAGE, SAY, Nothing, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import HEADER, encode

from imserver.outbox import State
from imserver.plugin import Plugin, command
from imserver.session import LINGER_S, SILENT_HEARTBEATS

HEARTBEAT, GOAWAY, ERROR = 1, 2, 3


class Extra(Plugin):
    """Handlers that the tests of sessions need."""

    name = "extra"

    def __init__(self):
        self.go = trio.Event()
        self.is_running = trio.Event()
        self.disconnects = []
        self.taken = []

    @command(6201, request=Nothing)
    async def gated(self, ctx, request):
        self.is_running.set()
        await self.go.wait()
        return {"done": True}

    @command(6202, request=Nothing)
    async def logout(self, ctx, request):
        ctx.logout_after_answer(message="as you wished")
        return {"bye": True}

    @command(6203, request=Nothing, allow="anyone")
    async def slow_login(self, ctx, request):
        ctx.login(user_id="bob", session_id="slow")
        self.is_running.set()
        await self.go.wait()
        return {"in": True}

    @command(6204, request=Nothing, allow="anyone")
    async def failing_login(self, ctx, request):
        ctx.login(user_id="bob", session_id="failing")
        self.is_running.set()
        await self.go.wait()
        raise RuntimeError("after the login")

    @command(6205, request=Nothing)
    def intercepts(self, ctx, request):
        """Take every second push; raise at the fourth."""

        def take(command_id, body):
            self.taken.append(command_id)
            if len(self.taken) == 4:
                raise RuntimeError("an interceptor's fault")
            return len(self.taken) % 2 == 0

        ctx.session.intercept(take)
        return {}

    def on_disconnect(self, ctx):
        self.disconnects.append(ctx.session.user_id)


def is_gone(rig, session):
    """Nothing of a session is left in its shard."""
    return (
        session.state is State.CLOSED
        and session not in rig.shard.sessions
        and session not in rig.shard.wheel._slot_of
        and session not in rig.shard.reactor._sources.values()
        and all(session not in sessions for sessions in rig.directory.by_user.values())
    )


# ---------------------------------------------------------------- deadlines


async def test_no_login_in_time(tmp_path):
    """GOAWAY `idle`, then the end, for who does not log in, whatever else is sent."""
    async with running(tmp_path) as rig:
        peer = rig.connect()
        await peer.ok(HEARTBEAT)
        rig.clock.advance(rig.config.limits.login_timeout_s - 0.5)
        await peer.ok(HEARTBEAT)
        rig.clock.advance(1)
        (goaway,) = await peer.rest()
        assert goaway[0] == GOAWAY
        assert goaway[1]["error"] == "idle"
        peer.close()
        await rig.until(lambda: is_gone(rig, peer.session))


async def test_silence(tmp_path):
    """Three heartbeats without a frame: GOAWAY `idle`; any frame starts anew."""
    async with running(tmp_path) as rig:
        peer = await rig.login("alice")
        silence_s = SILENT_HEARTBEATS * rig.config.tcp.heartbeat_s
        for _ in range(3):
            rig.clock.advance(silence_s - 1)
            await peer.send_raw(HEADER.pack(8, HEARTBEAT, 1, 0))
            assert (await peer.next_frame())[0] == HEARTBEAT
        rig.clock.advance(silence_s + 1)
        (goaway,) = await peer.rest()
        assert goaway[1]["error"] == "idle"


async def test_a_token_that_expires(tmp_path):
    """GOAWAY `token_expired` at its time, by the wall clock; moved, it holds for the new time."""
    async with running(tmp_path) as rig:
        peer = await rig.login("alice")
        peer.session.expires_at_ms = rig.clock.now_ms() + 60_000
        rig.clock.advance(50)
        await peer.ok(HEARTBEAT)
        peer.session.expires_at_ms += 30_000
        rig.clock.advance(20)
        await peer.ok(HEARTBEAT)
        await peer.ok(BARRIER)
        rig.clock.advance(25)
        (goaway,) = await peer.rest()
        assert (goaway[1]["error"], goaway[1]["code"]) == ("token_expired", 401)


async def test_a_peer_that_does_not_leave_after_goaway(tmp_path):
    """It is cut off after the linger time; the user is gone from the directory at once."""
    async with running(tmp_path) as rig:
        peer = await rig.login("alice")
        peer.session.go_away("kicked", "go")
        assert "alice" not in rig.directory.by_user
        rig.shard.end_of_turn()
        assert (await peer.next_frame())[0] == GOAWAY
        assert peer.session.state is State.CLOSING
        assert await peer.next_frame() is None
        rig.clock.advance(LINGER_S + 0.5)
        await rig.until(lambda: is_gone(rig, peer.session))


# ---------------------------------------------------------------- the ways to end


async def test_a_half_closed_peer_gets_its_answers(tmp_path):
    """Requests, then the end of input, as a script would do: all answers come, also those that wait for the disk."""
    plugin = Extra()
    async with running(tmp_path, plugin) as rig:
        peer = await rig.login("alice")
        rig.store.shut()
        rids = [await peer.post(SAY, to="bob") for _ in range(3)]
        gated = await peer.post(6201)
        peer.socket.shutdown(socket.SHUT_WR)
        await rig.store.wait_entered()
        await plugin.is_running.wait()
        await rig.until(lambda: peer.session.state is not State.OPEN)
        for _ in range(5):  # several ticks, in which the end of input stays readable
            other = await rig.login("carol")
            await other.ok(HEARTBEAT)
        assert peer.session.state is State.CLOSING
        rig.store.open()
        for seq, rid in enumerate(rids, start=1):
            assert (await peer.answer(rid))["seq"] == seq
        plugin.go.set()
        assert (await peer.answer(gated))["done"] is True
        assert await peer.rest() == []
        await rig.until(lambda: is_gone(rig, peer.session))
    assert plugin.disconnects.count("alice") == 1


async def test_a_peer_that_just_vanishes(tmp_path):
    """Its running requests are cancelled, the hooks run once, nothing is left."""
    plugin = Extra()
    async with running(tmp_path, plugin) as rig:
        peer = await rig.login("alice")
        await peer.post(6201)
        await plugin.is_running.wait()
        peer.close()
        await rig.until(lambda: is_gone(rig, peer.session))
        await rig.until(lambda: peer.session.in_flight == 0)
        assert plugin.disconnects == ["alice"]
        assert rig.directory.connections == 0


async def test_logout_comes_after_the_answer(tmp_path):
    """The answer, then GOAWAY, then the end; frames behind the LOGOUT are not carried out."""
    async with running(tmp_path, Extra()) as rig:
        peer = await rig.login("alice")
        await peer.send_raw(encode(6202, {"rid": 100}) + encode(SAY, {"rid": 101, "to": "bob"}))
        frames = await peer.rest()
        assert [(command_id, body.get("rid")) for command_id, body in frames] == [(6202, 100), (GOAWAY, None)]
        assert rig.rows("SELECT count(*) FROM messages") == [(0,)]


async def test_a_revoked_session_is_deaf_at_once(tmp_path):
    """From the call on no frame of it is carried out, also of those that came before."""
    async with running(tmp_path) as rig:
        peer = await rig.login("alice")
        await peer.send(SAY, to="bob", rid=7)
        assert rig.directory.close("alice", "kicked", "go away") == 1
        frames = await peer.rest()
        assert [command_id for command_id, _ in frames] == [GOAWAY]
        assert frames[0][1]["error"] == "kicked"
        assert rig.rows("SELECT count(*) FROM messages") == [(0,)]


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_revoked_session_is_deaf_before_its_shard_hears_of_it(tmp_path, monkeypatch, shards):
    """Its shard is slow to say GOAWAY: no frame dispatched since is carried out, nor a request that had not begun."""
    extra = Extra()
    async with running(tmp_path, extra, shards=shards) as rig:
        peer = await rig.login("alice", shard=shards - 1)
        session, shard = peer.session, rig.shards[-1]
        late = []
        with monkeypatch.context() as held:
            held.setattr(shard, "post", late.append)
            with trio.fail_after(10):
                (waiting,) = session.decoder.receive(memoryview(encode(6201, {"rid": 5})))
                shard.router.dispatch(session, waiting)  # its task has not had a turn yet
                assert not session.is_closed
                assert rig.directory.close("alice", "kicked", "go away") == 1
                (said,) = session.decoder.receive(memoryview(encode(SAY, {"to": "bob", "rid": 6})))
                shard.router.dispatch(session, said)
                other = await rig.login("carl", shard=shards - 1)
                for _ in range(3):  # all that the shard was to do, it has done
                    await other.ok(BARRIER)
        assert len(late) == 1
        assert not extra.is_running.is_set()
        extra.go.set()
        shard.post(late[0])
        assert [command_id for command_id, _ in await peer.rest()] == [GOAWAY]
        assert rig.rows("SELECT count(*) FROM messages") == [(0,)]


async def test_clients_of_a_server_that_stops_come_back_one_after_the_other(tmp_path, monkeypatch):
    """GOAWAY `draining` names each a time of its own: more than a second, and by the number of connections."""
    async with running(tmp_path) as rig:
        few = [await rig.login(f"u{number}") for number in range(8)]
        rig.shard.begin_drain()
        rig.shard.end_of_turn()
        for peer in few:
            command_id, fields = await peer.push()
            assert (command_id, fields["error"]) == (GOAWAY, "draining")
            assert 1000 <= fields["retry_after_ms"] <= 1000 + len(few)
        monkeypatch.setattr(type(rig.directory), "connections", 10_000_000)
        rig.shard.begin_drain()
        rig.shard.end_of_turn()
        named = {(await peer.push())[1]["retry_after_ms"] for peer in few}
        assert len(named) > 1
        assert all(1000 <= one <= 31_000 for one in named)
        assert max(named) > 1000 + len(few)


async def test_the_same_device_again(tmp_path):
    """The new connection stays, the old one gets GOAWAY `replaced`; another device is left alone."""
    async with running(tmp_path) as rig:
        old = await rig.login("alice", device="phone")
        tablet = await rig.login("alice", device="tablet")
        new = await rig.login("alice", device="phone")
        (goaway,) = await old.rest()
        assert goaway[1]["error"] == "replaced"
        await tablet.ok(BARRIER)
        await new.ok(BARRIER)
        assert set(rig.directory.sessions("alice")) == {tablet.session, new.session}


@pytest.mark.parametrize("length", [0, 7, 5000, 2**32 - 1])
async def test_a_frame_without_a_boundary_ends_the_connection(tmp_path, length):
    """An ERROR says why; what came before it is answered. Before login 4 KiB is the limit."""
    async with running(tmp_path) as rig:
        peer = rig.connect()
        await peer.send_raw(encode(HEARTBEAT, {"rid": 5}) + HEADER.pack(length, 6001, 1, 0) + b"x" * 100)
        frames = await peer.rest()
        assert [command_id for command_id, _ in frames] == [HEARTBEAT, ERROR]
        assert frames[1][1]["code"] == (413 if length > 8 else 400)


async def test_a_slow_reader(tmp_path):
    """Over the outbox's bound: GOAWAY `slow_consumer`; memory stays bounded and nobody else waits."""
    async with running(tmp_path, limits={"outbox_bytes": 200_000}) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        lazy = bob.session
        largest = 0
        for _ in range(400):
            await alice.ok(SAY, to="bob", body="x" * 10_000)
            largest = max(largest, lazy.queued_bytes)
            if lazy.state is not State.OPEN:
                break
        assert lazy.state is not State.OPEN, "the slow reader was kept"
        assert largest <= 200_000 + 20_000
        assert "bob" not in rig.directory.by_user
        await alice.ok(SAY, to="bob")
        rig.clock.advance(29)
        await alice.ok(HEARTBEAT)
        assert not is_gone(rig, lazy), "it has megabytes to read before GOAWAY"
        rig.clock.advance(2)
        await rig.until(lambda: is_gone(rig, lazy))


async def test_a_reader_that_is_late_but_within_the_bound(tmp_path):
    """What the kernel does not take at once waits, and comes whole and in order."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        for index in range(100):
            await alice.ok(SAY, to="bob", body=f"{index}:" + "x" * 10_000)
        assert bob.session.queued_bytes > 0
        bodies = [(await bob.push())[1]["body"].partition(":")[0] for _ in range(100)]
        assert bodies == [str(index) for index in range(100)]
        await bob.ok(BARRIER)
        assert bob.session.queued_bytes == 0


# ---------------------------------------------------------------- login


async def test_a_push_during_login_comes_after_the_answer(tmp_path):
    """The session is in the directory before the answer is made; its pushes wait for it, none is lost."""
    plugin = Extra()
    async with running(tmp_path, plugin) as rig:
        alice, bob = await rig.login("alice"), rig.connect()
        rid = await bob.post(6203)
        await plugin.is_running.wait()
        for body in ("one", "two"):
            await alice.ok(SAY, to="bob", body=body)
        plugin.go.set()
        frames = [await bob.next_frame() for _ in range(3)]
        assert frames[0][1]["rid"] == rid
        assert [body["body"] for _, body in frames[1:]] == ["one", "two"]


async def test_a_login_that_fails_after_it_was_bound(tmp_path):
    """The connection ends, and no push reaches it; the user may log in on another one."""
    plugin = Extra()
    async with running(tmp_path, plugin) as rig:
        alice, bob = await rig.login("alice"), rig.connect()
        rid = await bob.post(6204)
        await plugin.is_running.wait()
        await alice.ok(SAY, to="bob")
        plugin.go.set()
        assert (await bob.answer(rid))["code"] == 500
        assert "bob" not in rig.directory.by_user
        await alice.ok(SAY, to="bob")
        assert not any(command_id == MESSAGE for command_id, _ in await bob.rest())
        again = await rig.login("bob")
        await alice.ok(SAY, to="bob", body="third")
        assert (await again.push())[1]["body"] == "third"


async def test_frames_behind_a_login_find_the_user(tmp_path):
    """LOGIN and requests in one segment: the requests wait for the login."""
    async with running(tmp_path) as rig:
        peer = rig.connect()
        await peer.send_raw(encode(LOGIN, {"rid": 1, "user": "alice"}) + encode(SAY, {"rid": 2, "to": "bob"}))
        assert (await peer.answer(1))["code"] == 0
        assert (await peer.answer(2))["seq"] == 1


async def test_an_interceptor(tmp_path):
    """It sees pushes when they are durable and may take them; one that raises is removed and costs nothing."""
    plugin = Extra()
    async with running(tmp_path, plugin) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await bob.ok(6205)
        for body in "123456":
            await alice.ok(SAY, to="bob", body=body)
        await bob.ok(BARRIER)
        assert [body["body"] for _, body in bob.pushes] == ["1", "3", "4", "5", "6"]
        assert plugin.taken == [MESSAGE] * 4
        await alice.ok(BARRIER)


# ---------------------------------------------------------------- any order of it all

steps = st.lists(
    st.sampled_from(
        [
            "login", "say", "gated", "heartbeat", "barrier", "garbage", "bad frame", "half a frame", "eof", "close",
            "go_away", "go_away_silently", "revoke", "lose", "park", "resume", "shut", "open", "fail", "time", "long time",
            "push", "shut_gate", "tick", "logout", "read",
        ]
    ),
    max_size=14,
)  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=steps)
def test_any_order_ends_closed(script):
    """Frames, garbage, ends of both sides, deadlines and commits in any order: nothing raises, nothing is left."""
    with tempfile.TemporaryDirectory() as folder:
        trio.run(live_through, Path(folder), script)


async def live_through(folder, script):
    """One session and what happens to it; a second one must not notice."""
    plugin = Extra()
    async with running(folder, plugin) as rig:
        other = await rig.login("bob")
        peer = rig.connect()
        session = peer.session
        rids = iter(range(1000, 9999))

        async def write(data):
            with suppress(OSError):  # closed by now, on either side
                await peer.socket.send(data)

        for step in script:
            if step == "login":
                await write(encode(LOGIN, {"rid": next(rids), "user": "alice"}))
            elif step == "say":
                await write(encode(SAY, {"rid": next(rids), "to": "bob"}))
            elif step == "gated":
                await write(encode(6201, {"rid": next(rids)}))
            elif step == "heartbeat":
                await write(HEADER.pack(8, HEARTBEAT, 1, 0))
            elif step == "barrier":
                await write(encode(BARRIER, {"rid": next(rids)}))
            elif step == "garbage":
                await write(b"\xff" * 50)
            elif step == "bad frame":
                await write(HEADER.pack(8, BARRIER, 9, 9))
            elif step == "half a frame":
                await write(HEADER.pack(50, BARRIER, 1, 0) + b"x")
            elif step == "logout":
                await write(encode(6202, {"rid": next(rids)}))
            elif step == "eof":
                if peer.socket.fileno() >= 0:
                    peer.socket.shutdown(socket.SHUT_WR)
            elif step == "close":
                peer.close()
            elif step == "go_away":
                session.go_away("kicked", "go")
            elif step == "go_away_silently":
                session.go_away_silently()
            elif step == "revoke":
                session.revoke("kicked", "go")
            elif step == "lose":
                session.lose()
            elif step == "park" and session.state is State.OPEN:
                session.park()
            elif step == "resume" and session.backlog is not None and not session.is_waiting_for_load:
                session.resume()
            elif step == "shut_gate" and session.state is State.OPEN and session.user_id is not None:
                session.shut_gate()
            elif step == "push":
                rig.shard.push(["alice"], MESSAGE, {"n": 1}, None)
            elif step == "shut":
                rig.store.shut()
            elif step == "open":
                rig.store.open()
            elif step == "fail":
                rig.store.fail_next()
            elif step == "time":
                rig.clock.advance(1)
                rig.shard.now = rig.clock.monotonic()
                rig.shard.wheel.advance(rig.shard.now)
            elif step == "long time":
                rig.clock.advance(60)
                rig.shard.now = rig.clock.monotonic()
                await write(HEADER.pack(8, HEARTBEAT, 1, 0))
                rig.shard.wheel.advance(rig.shard.now)
                await other.send_raw(HEADER.pack(8, HEARTBEAT, 1, 0))
            elif step == "read":
                with suppress(OSError), trio.move_on_after(0.001):  # it may be closed by this side
                    await peer.socket.recv(4096)
            rig.shard.end_of_turn()
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        rig.store.open()
        rig.store.failures.clear()
        plugin.go.set()
        # Whatever state it is in: a lost peer or the linger time ends it.
        rig.clock.advance(LINGER_S + 1)
        peer.close()
        session.resume() if session.backlog is not None and not session.is_waiting_for_load else None
        rig.shard.end_of_turn()
        await rig.until(lambda: session.state is State.CLOSED)
        await rig.until(lambda: session.in_flight == 0 and rig.shard.is_quiet)
        assert is_gone(rig, session)
        assert len(rig.shard.sessions) <= 1
        assert rig.directory.connections == len(rig.shard.sessions)
        fresh = await rig.login("carol")
        await fresh.ok(BARRIER)


async def test_an_outbox_over_its_bound_keeps_frames_whole(tmp_path):
    """A client that does not read is given up; what it then reads is whole frames, the last of them GOAWAY."""
    async with running(tmp_path, limits={"outbox_bytes": 64 * 1024}) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        for number in range(40):
            await alice.ok(SAY, to="bob", client_id=f"c{number}", body="x" * 60_000)
        rest = await bob.rest()
        assert rest[-1][0] == 2
        assert rest[-1][1]["error"] == "slow_consumer"
        assert [fields["seq"] for command_id, fields in rest if command_id == MESSAGE] == list(range(1, len(rest)))
        assert "bob" not in rig.directory.by_user
