"""The reactor: wakeups from other threads are neither lost nor repeated, whatever the threads' order."""

import os
import socket
import threading

import pytest
import trio

from imserver.reactor import READ, Reactor


class Counted:
    """A reactor that counts its ticks."""

    def __init__(self):
        self.ticks = 0
        self.is_paused = False
        self.on_tick = None
        self.faults = []
        self.reactor = Reactor(self._begin, lambda: None, lambda: self.is_paused, self.faults.append)

    def _begin(self):
        self.ticks += 1
        if self.on_tick is not None:
            self.on_tick()

    async def wait_ticks(self, count):
        with trio.fail_after(10):
            while self.ticks < count:  # noqa: ASYNC110
                await trio.sleep(0.001)


@pytest.fixture
async def counted(nursery):
    """A running reactor."""
    made = Counted()
    nursery.start_soon(made.reactor.run)
    yield made
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.lowlevel.checkpoint()
    made.reactor.close()


async def test_a_wakeup_makes_one_tick(counted):
    """Many wakeups before a tick are one."""
    for _ in range(5):
        counted.reactor.wake()
    await counted.wait_ticks(1)
    await trio.sleep(0.02)
    assert counted.ticks == 1
    counted.reactor.wake()
    await counted.wait_ticks(2)


async def test_a_wakeup_from_within_a_tick(counted):
    """What is posted during a tick is dealt with in the next one."""
    counted.on_tick = lambda: counted.reactor.wake() if counted.ticks < 4 else None
    counted.reactor.wake()
    await counted.wait_ticks(4)
    await trio.sleep(0.02)
    assert counted.ticks == 4


async def test_a_waker_that_is_interrupted_between_its_two_lines(counted, monkeypatch):
    """The flag is up and the descriptor not yet written, while something else makes a tick: nothing raises or is lost."""
    left, right = socket.socketpair()
    with left, right:
        held, go = threading.Event(), threading.Event()
        write = os.eventfd_write

        def slow_write(fd, value):
            held.set()
            go.wait(10)
            write(fd, value)

        monkeypatch.setattr(os, "eventfd_write", slow_write)
        waker = threading.Thread(target=counted.reactor.wake)
        waker.start()
        held.wait(10)

        class Source:
            def ready(self, events):
                left.recv(10)

        left.setblocking(False)
        counted.reactor.add(left.fileno(), Source(), READ)
        right.send(b"x")
        await counted.wait_ticks(1)
        go.set()
        waker.join()
        monkeypatch.undo()
        before = counted.ticks
        await counted.wait_ticks(2)
        counted.reactor.wake()
        await counted.wait_ticks(max(before, 2) + 1)
        counted.reactor.remove(left.fileno())


async def test_two_wakers_at_once_do_not_make_it_spin(counted, monkeypatch):
    """Both saw the flag down, so both write; one write may come after the read: the reactor becomes quiet again."""
    both_saw = threading.Event()
    write, read = os.eventfd_write, os.eventfd_read

    def read_then_a_late_write(fd):
        value = read(fd)
        if not both_saw.is_set():
            both_saw.set()
            write(fd, 1)  # the second waker, which had seen the flag down
        return value

    monkeypatch.setattr(os, "eventfd_read", read_then_a_late_write)
    counted.reactor.wake()
    await counted.wait_ticks(1)
    await trio.sleep(0.05)
    assert counted.ticks <= 3, "it spins on a descriptor that nobody reads"


async def test_while_paused_only_wakeups_are_served(counted):
    """Back-pressure: sources wait, the end of the pause is noticed by a wakeup."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        seen = []

        class Source:
            def ready(self, events):
                seen.append(left.recv(10))

        counted.is_paused = True
        counted.reactor.wake()
        await counted.wait_ticks(1)
        counted.reactor.add(left.fileno(), Source(), READ)
        right.send(b"x")
        counted.reactor.wake()
        await counted.wait_ticks(2)
        assert seen == []
        counted.is_paused = False
        counted.reactor.wake()
        with trio.fail_after(10):
            while not seen:  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert seen == [b"x"]
        counted.reactor.remove(left.fileno())


async def test_a_closed_socket_gets_no_event(counted):
    """One source that closes another in the same tick: the events already fetched for that one are dropped."""
    pairs = [socket.socketpair() for _ in range(2)]
    sources = []

    class Source:
        def __init__(self, index):
            self.index = index
            self.events = 0

        def ready(self, events):
            self.events += 1
            pairs[self.index][0].recv(10)
            counted.reactor.close_socket(pairs[1 - self.index][0])

    for index, (left, right) in enumerate(pairs):
        left.setblocking(False)
        right.send(b"x")
        sources.append(Source(index))
        counted.reactor.add(left.fileno(), sources[index], READ)
    with trio.fail_after(10):
        while sum(source.events for source in sources) == 0:  # noqa: ASYNC110
            await trio.sleep(0.001)
    survivor = 0 if sources[0].events else 1
    assert sources[1 - survivor].events == 0
    await trio.sleep(0.01)
    assert pairs[1 - survivor][0].fileno() == -1
    counted.reactor.remove(pairs[survivor][0].fileno())
    for left, right in pairs:
        left.close()
        right.close()


async def test_a_source_that_raises_costs_nobody_else(counted):
    """Its fault is reported, and the others are served in the same tick and in later ones."""
    pairs = [socket.socketpair() for _ in range(3)]
    got = []

    class Source:
        def __init__(self, sock):
            self.socket = sock

        def ready(self, events):
            data = self.socket.recv(10)
            if data == b"bad":
                raise RuntimeError("a fault of ours")
            got.append(data)

    sources = [Source(sock) for sock, _ in pairs]
    for source in sources:
        counted.reactor.add(source.socket.fileno(), source, READ)
    for (_, client), data in zip(pairs, (b"one", b"bad", b"two"), strict=True):
        client.send(data)
    with trio.fail_after(10):
        while len(got) < 2 or not counted.faults:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert (sorted(got), counted.faults) == ([b"one", b"two"], [sources[1]])
    pairs[0][1].send(b"more")
    with trio.fail_after(10):
        while b"more" not in got:  # noqa: ASYNC110
            await trio.sleep(0.001)
    for source, (sock, client) in zip(sources, pairs, strict=True):
        counted.reactor.remove(source.socket.fileno())
        sock.close()
        client.close()


class Busy:
    """A source with something to read until it has been served so often; each time takes a while of the test's clock."""

    TAKES_S = 0.006

    def __init__(self, log, name, times, moved):
        self.left, self.right = socket.socketpair()
        self.left.setblocking(False)
        self.right.send(b"x")
        self.log, self.name, self.times, self.moved = log, name, times, moved

    def ready(self, events):
        self.log.append(self.name)
        self.moved(self.TAKES_S)
        self.times -= 1
        if not self.times:
            self.left.recv(10)

    def close(self):
        self.left.close()
        self.right.close()


@pytest.fixture
def busy(counted, monkeypatch):
    """Makes such sources: `busy(times, ...)`; the log of who was served, and "tick" where one began."""
    now = [100.0]
    monkeypatch.setattr("imserver.reactor.monotonic", lambda: now[0])
    made, log = [], []
    counted.on_tick = lambda: log.append("tick")

    def moved(seconds):
        now[0] += seconds

    def make(*times):
        made.extend(Busy(log, name, count, moved) for name, count in enumerate(times))
        for source in made:
            counted.reactor.add(source.left.fileno(), source, READ)
        return log

    yield make
    for source in made:
        counted.reactor.remove(source.left.fileno())
        source.close()


async def until(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def test_a_tick_ends_in_time_and_the_rest_is_served(busy):
    """Five are ready and each takes more than a tick may: each has a tick of its own, none is forgotten or served twice."""
    log = busy(1, 1, 1, 1, 1)
    await until(lambda: len(log) >= 10)
    served = [one for one in log if one != "tick"]
    assert sorted(served) == [0, 1, 2, 3, 4]
    # Behind each there was an end of a tick: what it had to write went out before the next one was read.
    assert log[: 2 * len(served)] == [one for name in served for one in ("tick", name)]


async def test_other_tasks_have_their_turn_though_something_is_always_ready(busy):
    """A turn of the reactor ends after a bounded time."""
    log = busy(200, 200)
    await trio.lowlevel.checkpoint()
    turns = []
    while len(log) < 600 and len(turns) < 1000:
        turns.append(len(log))
        await trio.lowlevel.checkpoint()
    assert len([one for one in turns if 0 < one < 600]) > 50
