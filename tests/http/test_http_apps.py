"""Apps that fail or break the rules of ASGI, clients that go away, and a real framework."""

import re

import pytest
import structlog
import trio
from http_rig import GET, HOST, echo, read_body, reply, serving, split_answers

START = {"type": "http.response.start", "status": 200}
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n"


@pytest.fixture
def log():
    """The events logged in a test."""
    with structlog.testing.capture_logs() as events:
        yield events


def faults(log):
    return [event for event in log if event["log_level"] in ("error", "critical")]


async def run(app, data=GET, **options):
    """All that comes for these bytes when this app answers."""
    async with serving(app, **options) as rig:
        return await rig.exchange(data + GET)


@pytest.mark.parametrize(
    ("path", "shown"),
    [(b"/", "/"), (b"/v1/x", "/v1/x"), (b"/v1/hooks/h1/Vf3-_x0Qm2aP9sK4tY7wZbN8", "/v1/hooks/h1/…")],
)
async def test_an_app_that_raises(log, path, shown):
    """500 with a trace id that is in the log too, no stack, and the end of the connection."""

    async def app(scope, receive, send):
        raise RuntimeError("secret")

    (answer,) = split_answers(await run(app, GET.replace(b"/ ", path + b" ")))
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert b"secret" not in answer.body
    (fault,) = faults(log)
    assert fault["event"] == "http_app_fault"
    assert fault["path"] == shown
    assert re.search(rb"under ([0-9a-f]{16})", answer.body)[1].decode() == fault["trace_id"]
    assert str(fault["exc_info"]) == "secret"


async def start_only(send):
    await send(START)


async def twice(send):
    await send(START)
    await send(START)


async def body_first(send):
    await send({"type": "http.response.body", "body": b"x"})


async def unknown(send):
    await send({"type": "http.response.push"})


async def nothing(send):
    pass


async def raises_after_start(send):
    await send(START)
    raise RuntimeError("secret")


async def raises_a_group(send):
    raise ExceptionGroup("secret", [RuntimeError("secret")])


def bad_answer(status=200, headers=(), body=b"x"):
    return lambda send: reply(send, body, status, headers)


@pytest.mark.parametrize(
    "answer",
    [
        start_only,
        twice,
        body_first,
        unknown,
        nothing,
        raises_after_start,
        raises_a_group,
        bad_answer(status=99),
        bad_answer(status=101),
        bad_answer(status=1000),
        bad_answer(status=204),
        bad_answer(headers=[(b"X", b"a\r\nB: c")]),
        bad_answer(headers=[(b"X y", b"a")]),
        bad_answer(headers=[(b"content-length", b"0")]),
        bad_answer(headers=[(b"content-length", b"2")]),
        bad_answer(headers=[(b"content-length", b"one")]),
    ],
)
async def test_faults_before_anything_is_sent(log, answer):
    """500 in the place of the answer, once, and logged."""

    async def app(scope, receive, send):
        await answer(send)

    (got,) = split_answers(await run(app))
    assert got.status == 500
    assert b"secret" not in got.body
    assert [event["event"] for event in faults(log)] == ["http_app_fault"]


@pytest.mark.parametrize("fault", ["raises", "returns", "too-much", "too-little", "restarts"])
async def test_faults_in_the_middle_of_an_answer(log, fault):
    """The connection is cut, so that no client takes the part for the whole."""

    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        if fault == "raises":
            raise RuntimeError
        if fault == "too-much":
            await send({"type": "http.response.body", "body": b"678901"})
        if fault == "too-little":
            await send({"type": "http.response.body", "body": b"6"})
        if fault == "restarts":
            await send(START)

    answer = await run(app)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\n12345")
    assert len(faults(log)) == 1


async def test_faults_after_the_answer(log):
    """The answer stands; the fault is logged; the connection ends."""

    async def app(scope, receive, send):
        await reply(send, b"fine")
        await send({"type": "http.response.body", "body": b"more"})

    (answer,) = split_answers(await run(app))
    assert answer.body == b"fine"
    assert len(faults(log)) == 1


async def test_a_client_that_goes_is_told_to_who_asks(log):
    """`receive` after the body waits for the end, and gives http.disconnect; requests that come early are kept."""
    told = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/next":
            await reply(send, b"next")
            return
        await read_body(receive)
        assert await receive() == {"type": "http.disconnect"}
        told.set()
        await reply(send, b"late")

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert not told.is_set()
        await client.send(GET.replace(b"/ ", b"/next "))
        await trio.testing.wait_all_tasks_blocked()
        assert not told.is_set()
        client.end()
        await told.wait()
        # It has only said that it sends no more: it gets what it has asked for.
        assert [answer.body for answer in split_answers(await client.read_all())] == [b"late", b"next"]
    assert not faults(log)


async def test_a_flood_while_an_app_waits_is_not_held():
    """What is read ahead of the answer is bounded."""

    async def app(scope, receive, send):
        await read_body(receive)
        await receive()

    async with serving(app) as rig, trio.open_nursery() as nursery:
        client = rig.connect()
        await client.send(GET)
        sent = 0

        async def flood():
            nonlocal sent
            while True:
                await client.send(b"x" * 65536)
                sent += 65536

        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent < 2 << 20
        nursery.cancel_scope.cancel()


async def test_a_client_that_goes_is_told_to_who_sends(log):
    """`send` raises an OSError once the client is gone; what the app makes of it is no fault."""
    errors = []

    async def app(scope, receive, send):
        await send(START)
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        except OSError as exc:
            errors.append(exc)
            with pytest.raises(OSError, match="gone"):
                await send({"type": "http.response.body", "body": b"x"})
            raise ValueError("as a framework would wrap it") from exc

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(GET)
        await client.receive(10)
        client.close()
        with trio.fail_after(20):
            while rig.server.connections:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)
        assert len(errors) == 1
    assert not faults(log)


async def test_a_client_that_goes_in_its_body(log):
    """http.disconnect, also when asked again; to a client that only ended its side the server says what was wrong."""
    told = []

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
        told.append(message)
        told.append(await receive())
        raise RuntimeError("the way this app ends")

    async with serving(app) as rig:
        (answer,) = await rig.ask(POST + b"12345")
        assert answer.status == 400
    assert told == [{"type": "http.disconnect"}] * 2
    assert not faults(log)


async def test_receive_ends_with_the_answer():
    """A task that waits for the client's going is told when another one has completed the answer."""
    messages = []

    async def app(scope, receive, send):
        await read_body(receive)

        async def watch():
            messages.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await reply(send, b"done")
        messages.append(await receive())

    async with serving(app) as rig:
        client = rig.connect()
        await client.send(GET)
        await client.read_until(b"done")
        await client.send(GET)
        await client.read_until(b"done")
        client.end()
        await client.read_all()
        assert messages == [{"type": "http.disconnect"}] * 4


async def test_cancelled_from_outside():
    """The end of the shard ends an app in the middle of anything, and closes the socket."""
    entered = trio.Event()

    async def app(scope, receive, send):
        entered.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with serving(app) as rig:
            client = rig.connect()
            await client.send(GET)
            await entered.wait()
        nursery.cancel_scope.cancel()
    assert rig.server.connections == 0


async def test_one_clients_fault_is_its_own(log, monkeypatch):
    """Even a fault of the server itself stays in its connection."""
    async with serving(echo) as rig:
        other = rig.connect()
        monkeypatch.setattr("imserver.http.connection.parse_head", None)
        assert await rig.exchange(GET) == b""
        monkeypatch.undo()
        await other.send(GET)
        await other.read_until(b"GET / \n")
    assert [event["event"] for event in faults(log)] == ["http_fault"]


async def test_starlette(log):
    """A real framework: routes, streams both ways, files, HEAD, a client that goes in the middle of an upload."""
    responses = pytest.importorskip("starlette.responses")
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def upload(request):
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
        return responses.JSONResponse({"total": total, "host": request.client.host})

    async def stream(request):
        async def parts():
            for number in range(3):
                yield f"{number}\n"

        return responses.StreamingResponse(parts())

    async def file(request):
        return responses.FileResponse(__file__)

    routes = [Route("/upload", upload, methods=["POST"]), Route("/stream", stream), Route("/file", file)]
    get = [GET.replace(b"/ ", path + b" ") for path in (b"/stream", b"/file", b"/file", b"/nowhere")]
    get[2] = get[2].replace(b"GET", b"HEAD")
    async with serving(Starlette(routes=routes)) as rig:
        post = POST.replace(b"/ ", b"/upload ", 1)
        answers = await rig.ask(post + b"0123456789" + b"".join(get), heads={3})
        assert [answer.status for answer in answers] == [200, 200, 200, 200, 404]
        assert answers[0].body == b'{"total":10,"host":"127.0.0.1"}'
        assert answers[1].body == b"0\n1\n2\n"
        assert answers[2].body.startswith(b'"""Apps that fail')
        assert answers[3].headers["content-length"] == answers[2].headers["content-length"]
        (answer,) = await rig.ask(post + b"01234")
        assert answer.status == 400
    assert not faults(log)
