"""Slow clients and slow apps, by a virtual clock."""

import pytest
import trio
from http_rig import GET, HOST, echo, read_body, reply, serving, split_answers

from imserver.http.server import HttpLimits

LIMITS = HttpLimits()
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n"


async def drip(client, data, every_s):
    """Send for ever."""
    while True:
        await client.send(data)
        await trio.sleep(every_s)


async def answered(rig, client):
    """(what came until the end, when)."""
    data = await client.read_all()
    at = trio.current_time()
    client.close()
    return data, at


async def test_nothing_comes(autojump_clock):
    """A connection that says nothing is closed without a word."""
    async with serving(echo) as rig:
        data, at = await answered(rig, rig.connect())
        assert (data, at) == (b"", LIMITS.head_timeout_s)


@pytest.mark.parametrize("first", [b"", GET])
async def test_a_head_that_does_not_come(autojump_clock, first):
    """One byte a second: 408 at the head's deadline, on a new connection and on an old one."""
    async with serving(echo) as rig, trio.open_nursery() as nursery:
        client = rig.connect()
        await client.send(first + b"GET / HTTP/1.1\r\nA: ")
        nursery.start_soon(drip, client, b"a", 1)
        data, at = await answered(rig, client)
        *_, refusal = split_answers(data)
        assert refusal.status == 408
        assert at <= LIMITS.head_timeout_s + 1
        nursery.cancel_scope.cancel()


async def test_keep_alive_ends(autojump_clock):
    """An idle connection is closed, without a word; the deadline of a head begins with its first byte."""
    async with serving(echo) as rig:
        client = rig.connect()
        await client.send(GET)
        await client.read_until(b"GET / \n")
        await trio.sleep(LIMITS.keep_alive_s - 1)
        await client.send(GET[:1])
        await trio.sleep(LIMITS.head_timeout_s - 1)
        await client.send(GET[1:])
        await client.read_until(b"GET / \n")
        before = trio.current_time()
        data, at = await answered(rig, client)
        assert data == b""
        assert at - before == LIMITS.keep_alive_s


@pytest.mark.parametrize("path", [b"/", b"/v1/files"])
async def test_a_body_that_stops(autojump_clock, path):
    """408 after one step's time; the app sees the client go."""
    bodies = []

    async def app(scope, receive, send):
        bodies.append(await read_body(receive))

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(POST.replace(b"/ ", path + b" ", 1) + b"x" * 100)
        data, at = await answered(rig, client)
        (refusal,) = split_answers(data)
        assert (refusal.status, bodies) == (408, [None])
        assert at == LIMITS.step_timeout_s


@pytest.mark.parametrize("path", [b"/", b"/v1/files"])
async def test_a_body_that_drips(autojump_clock, path):
    """A byte before each step's end does not hold the task: the patience for the whole is over some time."""
    async with serving(echo) as rig, trio.open_nursery() as nursery:
        client = rig.connect()
        await client.send(POST.replace(b"/ ", path + b" ", 1))
        nursery.start_soon(drip, client, b"x", LIMITS.step_timeout_s - 1)
        data, at = await answered(rig, client)
        (refusal,) = split_answers(data)
        assert refusal.status == 408
        assert LIMITS.step_timeout_s < at <= LIMITS.patience_s + 1
        nursery.cancel_scope.cancel()


async def test_credit_is_not_saved_up(autojump_clock):
    """Who has sent a lot may not drip for longer."""
    async with serving(echo) as rig, trio.open_nursery() as nursery:
        client = rig.connect()
        await client.send(POST + b"x" * 50_000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(drip, client, b"x", LIMITS.step_timeout_s - 1)
        data, at = await answered(rig, client)
        assert data.startswith(b"HTTP/1.1 408 ")
        assert at <= LIMITS.patience_s + 1
        nursery.cancel_scope.cancel()


async def test_a_body_that_is_slow_but_comes(autojump_clock):
    """At the pace that is asked for it may take as long as it takes."""
    async with serving(echo) as rig, trio.open_nursery() as nursery:
        client = rig.connect()
        await client.send(POST)
        part = b"x" * LIMITS.min_bytes_per_s * 5

        async def upload():
            for _ in range(60_000 // len(part)):
                await trio.sleep(5)
                await client.send(part)

        nursery.start_soon(upload)
        assert (await client.read_until(b"x\n")).startswith(b"HTTP/1.1 200 ")
        assert trio.current_time() == 60_000 / LIMITS.min_bytes_per_s > 5 * LIMITS.patience_s


async def test_the_apps_time_is_not_the_clients(autojump_clock):
    """An app that is slow to read does not make its client a slow one."""

    async def app(scope, receive, send):
        more = True
        while more:
            await trio.sleep(LIMITS.handler_timeout_s - 1)
            more = (await receive())["more_body"]
        await reply(send, b"done")

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(POST)
        for _ in range(10):
            await client.send(b"x" * 6000)
            await trio.sleep(LIMITS.handler_timeout_s)
        assert (await client.read_until(b"done")).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_takes_nothing(autojump_clock):
    """The app is told by an OSError after one step's time, the connection is given up."""
    errors = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        except OSError:
            errors.append(trio.current_time())
            raise

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(GET)
        await trio.sleep(LIMITS.step_timeout_s + LIMITS.linger_s + 1)
        assert errors == [LIMITS.step_timeout_s]
        assert rig.server.connections == 0
        client.close()


async def test_a_client_that_takes_little(autojump_clock):
    """As with bodies: a little before each step's end does not do."""

    async def app(scope, receive, send):
        await reply(send, b"x" * 50_000_000)

    async with serving(app) as rig, trio.open_nursery() as nursery:
        client = rig.connect()
        await client.send(GET)

        async def sip():
            while True:
                # A socket counts as writable again when a good part of it is free, so a sip must be a deep one.
                await client.receive(1000)
                await trio.sleep(1)

        nursery.start_soon(sip)
        await trio.sleep(LIMITS.patience_s + LIMITS.linger_s + 2)
        assert rig.server.connections == 0
        nursery.cancel_scope.cancel()


async def test_a_stream_that_is_taken_goes_on(autojump_clock):
    """An answer that streams may last, as long as the app is not silent and the client takes it."""
    pause = LIMITS.stream_timeout_s - 1

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await trio.sleep(pause)
        await send({"type": "http.response.body", "body": b"end"})

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(GET)
        data = await client.read_until(b"0\r\n\r\n")
        assert data.count(b"tick") == 10
        assert trio.current_time() == 10 * pause


async def test_an_app_that_hangs(autojump_clock):
    """504 at its deadline, before it has answered; cut off after it has begun."""

    async def app(scope, receive, send):
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if scope["path"] == "/waits":
            await receive()
            await receive()  # waiting for the client to go is no sign of life
        await trio.sleep_forever()

    async with serving(app) as rig:
        for path, taken_s in ((b"/", LIMITS.handler_timeout_s), (b"/waits", LIMITS.handler_timeout_s)):
            before = trio.current_time()
            client = rig.connect()
            await client.send(GET.replace(b"/ ", path + b" "))
            data, at = await answered(rig, client)
            (refusal,) = split_answers(data)
            assert (refusal.status, at - before) == (504, taken_s)
        before = trio.current_time()
        client = rig.connect()
        await client.send(GET.replace(b"/ ", b"/begun "))
        data, at = await answered(rig, client)
        assert data.endswith(b"1\r\nx\r\n")  # and no end of the chunks
        assert at - before == LIMITS.stream_timeout_s


async def test_an_app_may_ask_for_more_time(autojump_clock):
    """`imserver.set_timeout` sets how long it may be silent; where bodies are unlimited there is more from the start."""

    async def app(scope, receive, send):
        if scope["path"] == "/asks":
            scope["imserver.set_timeout"](500)
        await trio.sleep(LIMITS.stream_timeout_s - 1 if scope["path"].startswith("/v1/files") else 499)
        await reply(send, b"done")

    async with serving(app) as rig:
        for path in (b"/asks", b"/v1/files/x"):
            (answer,) = await rig.ask(GET.replace(b"/ ", path + b" "))
            assert answer.body == b"done"


@pytest.mark.parametrize("data", [b"GARBAGE\r\n\r\n", GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
async def test_the_end_is_announced_before_the_socket_closes(autojump_clock, data):
    """What a client still sends is taken for a moment: a reset would cost it the answer. Not for ever, not without end."""
    async with serving(echo) as rig:
        client = rig.connect()
        await client.send(data)
        assert await client.read_all()
        assert rig.server.connections == 1
        await client.send(b"x" * 1000)
        await trio.sleep(LIMITS.linger_s + 1)
        assert rig.server.connections == 0
        flood = rig.connect()
        await flood.send(data)
        assert await flood.read_all()
        started = trio.current_time()
        await flood.send(b"x" * 2 * LIMITS.linger_bytes)
        assert trio.current_time() == started
        assert rig.server.connections == 0  # enough is enough, before the time is over
