"""The client's timing on a virtual clock, over memory streams: heartbeat, half-open peers, back-off."""

import itertools

import pytest
import scripted_peer as wire
import trio
import trio.testing
from scripted_peer import Peer

from imserver.client import RequestTimeout, open_client
from imserver.client.backoff import Backoff


@pytest.fixture
async def world(nursery):
    """A peer on memory streams: (peer, connector, times of the attempts, a switch that refuses attempts)."""
    peer, attempts, switch = Peer(heartbeat_ms=10_000), [], {"refuses": False}

    async def connect():
        attempts.append(trio.current_time())
        if switch["refuses"]:
            raise ConnectionRefusedError("refused")
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(peer.serve, theirs)
        return ours

    yield peer, connect, attempts, switch
    nursery.cancel_scope.cancel()


async def test_idle_connection_beats_at_the_servers_rate_and_lives(world, autojump_clock):
    """An hour without a message: 360 heartbeats of the bare header, one connection."""
    peer, connect, attempts, _ = world
    async with open_client(connect) as client:
        await client.login("bob", "secret")
        await trio.sleep(3605)
        assert client.is_connected
    assert len(peer.requests(wire.HEARTBEAT)) == 360
    assert len(attempts) == 1


async def test_half_open_peer_is_found_out_within_three_heartbeats(world, autojump_clock):
    """A peer that takes bytes and says nothing: left between 1.5 and 3 heartbeats, and the send goes through."""
    peer, connect, attempts, _ = world
    async with open_client(connect, uniform=lambda low, high: high) as client:
        await client.login("bob", "secret")
        began = trio.current_time()
        peer.links[0].is_deaf = True
        sent = await client.send("alice", "hello", timeout_s=60)
        assert 15 <= attempts[1] - began <= 30
    assert sent.duplicate
    assert [m["body"] for m in peer.log["d:alice:bob"]] == ["hello"]


async def test_process_that_slept_looks_before_it_leaves(world, autojump_clock):
    """Frames that came while this process was blocked count, though the clock says that nothing came for long."""
    _, connect, attempts, _ = world
    async with open_client(connect) as client:
        await client.login("bob", "secret")
        await trio.sleep(5)
        autojump_clock.jump(1000)  # a closed lid, a blocking call
        await trio.sleep(60)
        assert client.is_connected
    assert len(attempts) == 1


async def test_backoff_doubles_to_its_bound_and_begins_anew_after_a_success(world, autojump_clock):
    """Attempts 0.5, 1, 2, 4, 4 s apart while refused; after a connection that lasted, 0.5 s again."""
    peer, connect, attempts, switch = world
    switch["refuses"] = True
    options = {"backoff_min_s": 0.5, "backoff_max_s": 4.0, "uniform": lambda low, high: high}
    async with open_client(connect, **options) as client:
        with pytest.raises(RequestTimeout, match="refused"):
            await client.login("bob", "secret", timeout_s=15)
        gaps = [round(b - a, 6) for a, b in itertools.pairwise(attempts)]
        assert gaps[:5] == [0.5, 1, 2, 4, 4]
        switch["refuses"] = False
        await client.login("bob", "secret")
        await trio.sleep(100)
        lost_at = trio.current_time()
        await peer.links[0].stream.aclose()
        await trio.sleep(1)
        assert round(attempts[-1] - lost_at, 6) == 0.5


async def test_no_connection_is_held_for_nothing(world, autojump_clock):
    """Before a login nothing connects, and one that the server closed is not made again until it is wanted."""
    peer, connect, attempts, _ = world
    async with open_client(connect) as client:
        await trio.sleep(100)
        assert attempts == []
        await client.register("bob", "secret")
        await peer.links[0].stream.aclose()
        await trio.sleep(100)
        assert len(attempts) == 1
        await client.login("bob", "secret")
        assert len(attempts) == 2


async def test_server_that_does_not_answer_auth_is_left(world, autojump_clock):
    """A connection on which AUTH gets no answer is given up after its deadline, and another is tried."""
    peer, connect, attempts, _ = world
    calls = 0

    async def silent_once(link, body):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise wire.Silence
        return peer.answer(link, wire.AUTH, body)

    peer.on[wire.AUTH] = silent_once
    async with open_client(connect) as client:
        await client.login("bob", "secret")
        await peer.links[0].stream.aclose()
        assert (await client.send("alice", "hello", timeout_s=60)).seq == 1
    assert len(attempts) == 3


def test_full_jitter_draws_below_a_rising_ceiling():
    """The ceilings double up to the bound; what the server asks for is a floor under the jitter."""
    ceilings = []

    def draw(low, high):
        ceilings.append((low, high))
        return high / 2

    backoff = Backoff(0.1, 30.0, draw)
    delays = [backoff.next_delay_s() for _ in range(12)]
    assert ceilings[:3] == [(0.0, 0.1), (0.0, 0.2), (0.0, 0.4)]
    assert ceilings[-1] == (0.0, 30.0)
    assert max(delays) == 15.0
    assert backoff.next_delay_s(at_least_s=60) == 75.0
    backoff.reset()
    assert backoff.next_delay_s() == 0.05
