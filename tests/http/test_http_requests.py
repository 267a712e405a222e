"""Good requests: keep-alive, pipelining, bodies and answers of any form, streamed both ways."""

import ipaddress
import time

import pytest
import trio
from http_rig import GET, HOST, echo, read_body, reply, serving, split_answers

from imserver.http.server import HttpLimits

CLOSE = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
MIB = 1 << 20


def post(body, path=b"/", headers=b""):
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (path, len(body), headers, body)


def chunked(*chunks, path=b"/", end=b"0\r\n\r\n"):
    return (
        b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path
        + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        + end
    )


async def test_headers_of_every_answer():
    """Date, Server, nosniff and no-store, unless the app says otherwise."""

    async def app(scope, receive, send):
        own = [(b"cache-control", b"max-age=60"), (b"Server", b"mine")] if scope["path"] == "/own" else []
        await reply(send, b"x", headers=own)

    async with serving(app) as rig:
        plain, own = await rig.ask(GET + GET.replace(b"/ ", b"/own "))
        assert plain.headers["server"].startswith("imserver/")
        assert plain.headers["x-content-type-options"] == "nosniff"
        assert plain.headers["cache-control"] == "no-store"
        assert plain.headers["content-length"] == "1"
        made = time.mktime(time.strptime(plain.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
        assert abs(made - time.time()) < 60
        assert own.headers["cache-control"] == "max-age=60"
        assert own.headers["server"] == "mine"


async def test_keep_alive():
    """One connection, many requests, until one says that it is the last."""
    async with serving(echo) as rig:
        client = rig.connect()
        for number in range(20):
            await client.send(post(b"%d" % number))
            assert (await client.read_until(b" %d\n" % number)).startswith(b"HTTP/1.1 200 ")
            assert rig.server.connections == 1
        await client.send(CLOSE + GET)
        client.end()
        (answer,) = split_answers(await client.read_all())
        assert answer.headers["connection"] == "close"
    assert rig.server.connections == 0


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_pipelining(size):
    """Requests of all forms, cut anywhere, are answered in order, also to a client that has ended its side."""
    requests = [
        GET,
        post(b"first"),
        chunked(b"sec", b"ond"),
        b"GET /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nthird",
        chunked(b"fourth", end=b"0\r\nA: trailer\r\nContent-Length: 100\r\n\r\n"),
        chunked(end=b"000;last\r\n\r\n"),
        post(b""),
        chunked(b"fifth", path=b"/e").replace(b"5\r\n", b'005;a="b";c\r\n').replace(b"chunked", b"Chunked"),
    ]
    async with serving(echo) as rig:
        client = rig.connect()
        data = b"".join(requests)
        for position in range(0, len(data), size):
            await client.send(data[position : position + size])
        client.end()
        bodies = [answer.body for answer in split_answers(await client.read_all())]
        words = [b"", b"first", b"second", b"third", b"fourth", b"", b"", b"fifth"]
        assert [body.rsplit(b" ", 1)[1] for body in bodies] == [word + b"\n" for word in words]


async def test_head():
    """The answer's head without its body, by whatever way the app sends it; the connection goes on."""

    async def app(scope, receive, send):
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
            await send({"type": "http.response.body"})
        elif scope["path"] == "/declared":
            await reply(send, b"", headers=[(b"content-length", b"1234")])
        else:
            await reply(send, b"whole")

    head = GET.replace(b"GET", b"HEAD")
    async with serving(app) as rig:
        paths = [b"/", b"/stream", b"/declared"]
        answers = await rig.ask(b"".join(head.replace(b"/ ", path + b" ") for path in paths) + GET, heads={0, 1, 2})
        whole, stream, declared, got = answers
        assert whole.headers["content-length"] == "5"
        assert "content-length" not in stream.headers
        assert declared.headers["content-length"] == "1234"
        assert got.body == b"whole"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body(status):
    """They have no length either."""

    async def app(scope, receive, send):
        await reply(send, status=status)

    async with serving(app) as rig:
        first, second = await rig.ask(GET * 2)
        assert first.status == second.status == status
        assert not {"content-length", "transfer-encoding"} & set(first.headers)


async def test_chunks_for_an_answer_of_unknown_length():
    """HTTP/1.1 gets chunks and the connection goes on; HTTP/1.0 gets the end of the connection."""

    async def app(scope, receive, send):
        # What an app says about the framing is the server's matter.
        await send({"type": "http.response.start", "status": 200, "headers": [(b"transfer-encoding", b"gzip")]})
        for part in (b"one ", b"", b"two "):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})

    async with serving(app) as rig:
        first, second = await rig.ask(GET * 2)
        assert first.body == second.body == b"one two three"
        assert first.headers["transfer-encoding"] == "chunked"
        (answer,) = await rig.ask(GET.replace(b"1.1", b"1.0") + GET)
        assert answer.body == b"one two three"
        assert not {"content-length", "transfer-encoding"} & set(answer.headers)


async def test_parts_are_sent_as_they_are_made():
    """The client has each part of a stream before the next one is made."""
    wanted = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"early", "more_body": True})
        await wanted.wait()
        await send({"type": "http.response.body", "body": b"late"})

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(GET)
        assert (await client.read_until(b"5\r\nearly\r\n")).startswith(b"HTTP/1.1 200 ")
        wanted.set()
        assert await client.read_until(b"0\r\n\r\n") == b"4\r\nlate\r\n0\r\n\r\n"


@pytest.mark.parametrize("form", ["length", "chunks"])
async def test_a_big_body_is_not_held(form):
    """10 MiB go through in pieces, and while the app takes none the client is made to wait."""
    size, pieces = 10 * MIB, []
    go = trio.Event()

    async def app(scope, receive, send):
        await go.wait()
        total = 0
        while True:
            message = await receive()
            pieces.append(len(message["body"]))
            total += len(message["body"])
            if not message["more_body"]:
                break
        await reply(send, b"%d" % total)

    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\n"
    framing = b"Content-Length: %d\r\n\r\n" % size if form == "length" else b"Transfer-Encoding: chunked\r\n\r\n"
    sent = 0
    async with serving(app) as rig, trio.open_nursery() as nursery:
        client = rig.connect()
        await client.send(head + framing)

        async def upload():
            nonlocal sent
            part = b"x" * 65536
            data = part if form == "length" else b"10000\r\n" + part + b"\r\n"
            while sent < size:
                await client.send(data)
                sent += len(part)
            if form == "chunks":
                await client.send(b"0\r\n\r\n")
            client.end()

        nursery.start_soon(upload)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent < 2 * MIB  # what the kernel holds
        go.set()
        (answer,) = split_answers(await client.read_all())
        assert answer.body == b"%d" % size
        assert max(pieces) <= 64 * 1024
        assert sum(pieces) == size


async def test_a_big_answer_is_not_held():
    """An app that streams is made to wait while its client takes nothing; then all of it comes."""
    made = 0

    async def app(scope, receive, send):
        nonlocal made
        await send({"type": "http.response.start", "status": 200})
        for _ in range(160):
            made += 65536
            await send({"type": "http.response.body", "body": b"y" * 65536, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(CLOSE)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert made < 2 * MIB
        (answer,) = split_answers(await client.read_all())
        assert answer.body == b"y" * 10 * MIB
        client.close()


async def test_one_big_piece_of_an_answer():
    """What the kernel does not take at once follows."""

    async def app(scope, receive, send):
        await reply(send, bytes(range(256)) * 20_000)

    async with serving(app) as rig:
        (answer,) = await rig.ask(CLOSE)
        assert answer.body == bytes(range(256)) * 20_000


async def test_both_ways_at_once():
    """An app may answer while it reads."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": more})

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in (b"one", b"two"):
            await client.send(b"3\r\n%s\r\n" % word)
            await client.read_until(b"3\r\n%s\r\n" % word.upper())
        await client.send(b"0\r\n\r\n")
        await client.read_until(b"0\r\n\r\n")


@pytest.mark.parametrize("most", [10, 1 << 20])
async def test_the_limit_of_a_body(most):
    """A byte more is refused: declared before anything is read, and in chunks as it comes. Files the app counts."""
    async with serving(echo, limits=HttpLimits(max_body_bytes=most)) as rig:
        for data in (post(b"x" * most), chunked(b"x", b"x" * (most - 1))):
            (answer,) = await rig.ask(data)
            assert answer.body == b"POST / " + b"x" * most + b"\n"
        for data in (post(b"x" * (most + 1)), chunked(b"x", b"x" * most)):
            (answer,) = await rig.ask(data)
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            assert str(most).encode() in answer.body
            (answer,) = await rig.ask(data.replace(b"POST / ", b"POST /v1/filesystem "))
            assert answer.status == 413
            for path in (b"/v1/files", b"/v1/files/a/b"):
                (answer,) = await rig.ask(data.replace(b"POST / ", b"POST " + path + b" "))
                assert answer.body == b"POST " + path + b" " + b"x" * (most + 1) + b"\n"


async def test_continue():
    """100 is said when the app wants the body and nothing of it has come; never after a refusal."""

    async def app(scope, receive, send):
        if scope["path"] != "/deaf":
            await read_body(receive)
        await reply(send, b"fine")

    def head(path, length=2):
        return b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n" % (path, length)

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(head(b"/"))
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"ab" + head(b"/") + b"cd" + GET)
        client.end()
        answers = split_answers(await client.read_all())
        assert [answer.status for answer in answers] == [200, 200, 200]  # the second body was there already
        (answer,) = await rig.ask(head(b"/", 9_999_999))
        assert answer.status == 413
        # Nobody knows whether a body follows an answer that came instead of 100.
        (answer,) = await rig.ask(head(b"/deaf") + GET)
        assert (answer.body, answer.headers["connection"]) == (b"fine", "close")
        old = head(b"/").replace(b"1.1", b"1.0")
        (answer,) = await rig.ask(old + b"ab")
        assert answer.status == 200


async def test_a_body_that_the_app_does_not_read():
    """A little of it is taken, so that the connection can go on; a lot of it ends the connection."""

    async def app(scope, receive, send):
        await reply(send, scope["path"].encode())

    limits = HttpLimits(drain_bytes=1000)
    async with serving(app, limits=limits) as rig:
        for data in (post(b"GET /no HTTP/1.1\r\n" + b"x" * 900), chunked(b"x" * 500, b"y" * 400)):
            first, second = await rig.ask(data + GET)
            assert (first.body, second.body) == (b"/", b"/")
            assert "connection" not in first.headers
        (answer,) = await rig.ask(post(b"x" * 1001) + GET)
        assert (answer.body, answer.headers["connection"]) == (b"/", "close")
        (answer,) = await rig.ask(chunked(b"x" * 100_000, b"y" * 100_000) + GET)
        assert answer.body == b"/"
        (answer,) = await rig.ask(chunked(b"x", end=b"nonsense\r\n") + GET)  # malformed where nobody looks
        assert answer.body == b"/"


@pytest.mark.parametrize(
    ("target", "path", "raw", "query", "host"),
    [
        (b"/a/b?c=d", "/a/b", b"/a/b", b"c=d", b"x"),
        (b"/?", "/", b"/", b"", b"x"),
        (b"/a%20b%C3%A9%2Fc%zz?%20", "/a b\u00e9/c%zz", b"/a%20b%C3%A9%2Fc%zz", b"%20", b"x"),
        (b"/%ff", "/\ufffd", b"/%ff", b"", b"x"),
        (b"//example.org/a", "//example.org/a", b"//example.org/a", b"", b"x"),
        (b"/a?http://y/?b", "/a", b"/a", b"http://y/?b", b"x"),
        (b"http://y:81/a?b", "/a", b"/a", b"b", b"y:81"),
        (b"HTTPS://[::1]", "/", b"/", b"", b"[::1]"),
        (b"http://y?b", "/", b"/", b"b", b"y"),
    ],
)
async def test_the_target(target, path, raw, query, host):
    """The path decoded and as it came; the host of an absolute target goes before the header."""
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await reply(send)

    async with serving(app) as rig:
        await rig.ask(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n", local="[::1]:8080")
    (scope,) = scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw, query)
    assert scope["headers"] == [(b"host", host), (b"x-twice", b"1"), (b"x-twice", b"2")]
    assert (scope["type"], scope["method"], scope["http_version"], scope["scheme"]) == ("http", "GET", "1.1", "http")
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert (scope["client"], scope["server"], scope["root_path"]) == (("127.0.0.1", 0), ("::1", 8080), "")
    assert scope["imserver.certificate"] is None


async def test_the_number_of_connections_is_bounded():
    """Those too many get a 503, a bounded number of them; when others leave there is room again."""
    async with serving(echo, limits=HttpLimits(max_connections=2, max_refusals=1)) as rig:
        first, second = rig.connect(), rig.connect()
        for client in (first, second):
            await client.send(post(b"body")[:-1])
        await trio.testing.wait_all_tasks_blocked()
        third = rig.connect()
        await third.send(GET)
        (answer,) = split_answers(await third.read_all())
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert await rig.exchange(GET, end=False) == b""  # the third one lingers
        third.end()
        await trio.testing.wait_all_tasks_blocked()
        assert rig.server.connections == 2
        first.end()
        assert (await first.read_all()).startswith(b"HTTP/1.1 400 ")
        await trio.testing.wait_all_tasks_blocked()
        (answer,) = await rig.ask(GET)
        assert answer.status == 200
        second.end()
        await second.read_all()
    assert rig.server.connections == 0


async def test_an_idle_connection_gives_its_place():
    """At the bound the oldest one without a request under way is closed for the next one; a busy one is not."""
    async with serving(echo, limits=HttpLimits(max_connections=2, max_refusals=1)) as rig:
        busy, idle = rig.connect(), rig.connect()
        await busy.send(GET[:5])
        await idle.send(GET)
        await idle.read_until(b"GET / \n")
        await trio.testing.wait_all_tasks_blocked()
        (answer,) = await rig.ask(GET)
        assert answer.status == 200
        assert await idle.read_all() == b""
        await busy.send(GET[5:])
        assert (await busy.receive()).startswith(b"HTTP/1.1 200 ")


async def test_half_a_head_gives_its_place():
    """With nobody idle one whose head has not come whole is closed, of whoever has most of them, the oldest first."""
    async with serving(echo, limits=HttpLimits(max_connections=4)) as rig:
        busy, one = rig.connect(), rig.connect("10.0.0.1")
        await busy.send(post(b"body")[:-1])
        await one.send(GET[:9])
        many = []
        for _ in range(2):
            many.append(rig.connect("10.0.0.2"))
            await many[-1].send(GET[:9])
            await trio.testing.wait_all_tasks_blocked()  # tasks that begin together begin in any order
        (answer,) = await rig.ask(GET)
        assert answer.status == 200
        assert await many[0].read_all() == b""
        for client, rest in ((one, GET[9:]), (many[1], GET[9:]), (busy, b"y")):
            await client.send(rest)
            assert (await client.receive()).startswith(b"HTTP/1.1 200 ")


async def test_half_heads_of_everybody_shut_nobody_out():
    """A thousand of them, of many addresses: a whole request is answered."""
    async with serving(echo) as rig:
        for number in range(1000):
            await rig.connect(f"10.0.{number % 10}.1").send(b"GET / HT")
        await trio.testing.wait_all_tasks_blocked()
        (answer,) = await rig.ask(GET, address="10.1.0.1")
        assert answer.status == 200


async def test_an_address_has_a_part_of_the_places():
    """Beyond it its own idle ones give theirs, and then it gets 503; others, and addresses that are exempt, go on."""
    limits = HttpLimits(max_connections=10, max_per_address=2)
    async with serving(echo, limits=limits, exempt=[ipaddress.ip_network("10.9.0.0/16")]) as rig:
        idle, busy = rig.connect("10.0.0.1"), rig.connect("10.0.0.1")
        await busy.send(post(b"body")[:-1])
        await trio.testing.wait_all_tasks_blocked()
        third = rig.connect("10.0.0.1")
        await third.send(post(b"body")[:-1])
        assert await idle.read_all() == b""
        (answer,) = await rig.ask(GET, address="10.0.0.1")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert rig.server.refused == 1
        (answer,) = await rig.ask(GET, address="10.0.0.2")
        assert answer.status == 200
        exempt = [rig.connect("10.9.0.1") for _ in range(5)]
        for client in exempt:
            await client.send(post(b"body")[:-1])
        await trio.testing.wait_all_tasks_blocked()
        for client in (busy, third, *exempt):
            await client.send(b"y")
            assert (await client.receive()).startswith(b"HTTP/1.1 200 ")
        assert rig.server.refused == 1


async def test_a_flood_of_connections_that_are_cut():
    """Broken at any point they leave nothing behind, and the next one is served."""
    async with serving(echo) as rig:
        data = post(b"x" * 100)
        for position in range(0, len(data), 3):
            client = rig.connect()
            await client.send(data[:position])
            if position % 2:
                await trio.testing.wait_all_tasks_blocked()
            client.close()
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            while rig.server.connections:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)
        (answer,) = await rig.ask(GET)
        assert answer.status == 200
