"""The door to WebSocket: who is asked, and how a connection is handed over with all that was read of it."""

import pytest
import structlog
import trio
from http_rig import GET, HOST, echo, serving, split_answers

from imserver.http.server import Accepted, HttpLimits, Refused

UPGRADE = b"GET /ws?a=%20b HTTP/1.1\r\n" + HOST + b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c, WebSocket\r\n\r\n"
HEADERS = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "yes")]


class Door:
    """Takes over /ws, refuses the rest."""

    def __init__(self):
        self.requests = []
        self.taken = []

    async def __call__(self, request):
        self.requests.append(request)
        if request.path != "/ws":
            return Refused(404, "there is no WebSocket here", [("X-Hint", "/ws")])
        return Accepted(HEADERS, lambda sock, unread: self.taken.append((sock, unread)))


@pytest.mark.parametrize("unread", [b"", b"\x82\x84first", b"z" * 40_000])
async def test_a_connection_is_taken_over(unread):
    """101, then the socket is open, no HTTP connection any more, and nothing that was read is lost."""
    door = Door()
    async with serving(echo, upgrade=door) as rig:
        client = rig.connect("192.0.2.7")
        await client.send(GET + UPGRADE + unread)
        data = b""
        while data.count(b"\r\n\r\n") < 2:
            data += await client.receive()
        first, accepted = split_answers(data)
        assert first.body == b"GET / \n"
        assert accepted.status == 101
        assert {name.lower(): value for name, value in HEADERS}.items() <= accepted.headers.items()
        await trio.testing.wait_all_tasks_blocked()
        assert rig.server.connections == 0
        ((sock, early),) = door.taken
        sock.setblocking(True)
        rest = b""
        while len(early) + len(rest) < len(unread):
            rest += sock.recv(65536)
        assert early + rest == unread
        sock.sendall(b"hello")
        assert await client.receive() == b"hello"
        sock.close()
        (request,) = door.requests
        assert (request.path, request.query, request.address) == ("/ws", "a=%20b", "192.0.2.7")
        assert dict(request.headers)[b"upgrade"] == b"h2c, WebSocket"
        assert (request.is_secure, request.certificate) == (False, None)


@pytest.mark.parametrize(("path", "kind"), [(b"/other", "text/plain; charset=utf-8"), (b"/v1/x", "application/json")])
async def test_a_refusal(path, kind):
    """It is answered by the door's status, message and headers, and ends the connection."""
    async with serving(echo, upgrade=Door()) as rig:
        (answer,) = await rig.ask(UPGRADE.replace(b"/ws", path) + GET)
        assert (answer.status, answer.headers["x-hint"], answer.headers["connection"]) == (404, "/ws", "close")
        assert answer.headers["content-type"] == kind
        assert b"there is no WebSocket here" in answer.body


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE.replace(b"WebSocket", b"websocket2"),
        UPGRADE.replace(b", Upgrade", b""),
        UPGRADE.replace(b"GET", b"POST"),
        UPGRADE.replace(b"1.1", b"1.0"),
        UPGRADE.replace(b"Upgrade: h2c, WebSocket\r\n", b""),
    ],
)
async def test_what_is_no_upgrade(request_):
    """The app answers as if nobody had asked."""
    door = Door()
    async with serving(echo, upgrade=door) as rig:
        (answer,) = await rig.ask(request_)
        assert answer.status == 200
        assert door.requests == []


async def test_without_a_door():
    """The app answers, and the connection goes on."""
    async with serving(echo) as rig:
        assert [answer.body for answer in await rig.ask(UPGRADE * 2)] == [b"GET /ws \n"] * 2


@pytest.mark.parametrize("body", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
async def test_an_upgrade_with_a_body(body):
    """Where would the other protocol begin? 400."""
    door = Door()
    async with serving(echo, upgrade=door) as rig:
        (answer,) = await rig.ask(UPGRADE[:-2] + body)
        assert (answer.status, door.requests) == (400, [])


async def test_a_door_that_raises_or_hangs(autojump_clock):
    """500 with a trace id, 504; nobody else is harmed."""

    async def door(request):
        if request.path == "/hangs":
            await trio.sleep_forever()
        raise RuntimeError("secret")

    async with serving(echo, upgrade=door) as rig:
        with structlog.testing.capture_logs() as log:
            (answer,) = await rig.ask(UPGRADE)
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert log[0]["trace_id"] in answer.body.decode()
        (answer,) = await rig.ask(UPGRADE.replace(b"/ws", b"/hangs"))
        assert answer.status == 504
        assert trio.current_time() >= HttpLimits().handler_timeout_s


async def test_a_take_over_that_raises():
    """The socket is closed, and it is logged."""

    def take_over(sock, unread):
        raise RuntimeError("no")

    async def door(request):
        return Accepted(HEADERS, take_over)

    async with serving(echo, upgrade=door) as rig:
        with structlog.testing.capture_logs() as log:
            answer = await rig.exchange(UPGRADE)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert [event["event"] for event in log] == ["http_fault"]
        assert rig.server.connections == 0
