"""The HTTP listener: health for operators, and what it does with clients that break HTTP."""

import http.client
import json
import socket

import pytest
import trio
import trio.testing

from imserver.http import server as http_server
from imserver.http.health import HealthHandler
from imserver.http.server import HttpServer, Response


def address_of(server):
    """(host, port) of a real server's HTTP listener."""
    host, port = server.ready["http"][0].rsplit(":", 1)
    return host, int(port)


def get(server, path, method="GET"):
    """(status, headers, body) of one request on a connection of its own."""
    connection = http.client.HTTPConnection(*address_of(server), timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def exchange(server, data):
    """What the server sends for these bytes until it closes."""
    with socket.create_connection(address_of(server), timeout=20) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer


def test_alive_and_ready(server):
    """A running server is alive, ready, and says what it checked."""
    assert get(server, "/livez")[0] == 200
    assert get(server, "/readyz")[0] == 200
    status, _, body = get(server, "/healthz")
    assert status == 200
    assert json.loads(body)["checks"] == {"listening": "ok", "storage": "ok"}


def test_metrics_count(server):
    """Prometheus text; a message that is sent is counted."""

    def stored():
        _, headers, body = get(server, "/metrics")
        assert headers["Content-Type"].startswith("text/plain")
        lines = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        return float(lines["imserver_messages_stored_total"])

    alice, bob = server.login(), server.login()
    before = stored()
    alice.text(bob.user, "counted", "c1")
    assert stored() == before + 1


def test_unknown_paths_and_methods(server):
    """404 lists what there is and echoes nothing; 405 says what is allowed; HEAD has no body."""
    status, _, body = get(server, "/<script>")
    assert status == 404
    assert b"script" not in body
    assert b"/readyz" in body
    status, headers, _ = get(server, "/livez", "DELETE")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    status, headers, body = get(server, "/livez", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "6", b"")


def test_keep_alive_and_pipelining(server):
    """Two requests in one packet are answered in order on one connection."""
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = exchange(server, request + b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.index(b"200 OK") < answer.index(b"404 Not Found")


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",  # no Host
        b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,  # a TLS hello
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 64_000 + b"\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
    ],
)
def test_broken_requests(server, data):
    """A 4xx or 501 and the end; the server goes on."""
    answer = exchange(server, data)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")), answer[:100]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert get(server, "/livez")[0] == 200


def test_a_port_that_is_taken(make_server):
    """Exit status 3, and the message names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = make_server({"http.listen": address}, start=False)
        with pytest.raises(Exception, match="exit status 3") as failed:
            server.start()
        assert address in str(failed.value)


class Rig:
    """An HttpServer over an in-memory stream."""

    def __init__(self, handle):
        self.server = HttpServer(handle)

    async def talk(self, nursery):
        client, stream = trio.testing.memory_stream_pair()
        nursery.start_soon(self.server._serve_connection, stream)
        return client


async def read_all(client):
    """What comes until the server closes."""
    answer = b""
    while part := await client.receive_some(65536):
        answer += part
    return answer


async def test_a_head_that_does_not_come(autojump_clock, nursery):
    """One byte a second: the connection is closed at the head's deadline, not kept for ever."""

    async def handle(request):
        return Response(200)

    client = await Rig(handle).talk(nursery)
    started = trio.current_time()
    closed = trio.Event()

    async def drip():
        while not closed.is_set():
            try:
                await client.send_all(b"G")
            except trio.BrokenResourceError:
                return
            await trio.sleep(1)

    nursery.start_soon(drip)
    await read_all(client)
    closed.set()
    assert trio.current_time() - started <= http_server.HEAD_TIMEOUT_S + 1


async def test_an_idle_connection_is_closed(autojump_clock, nursery):
    """Keep-alive ends."""

    async def handle(request):
        return Response(200, b"hi")

    client = await Rig(handle).talk(nursery)
    await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await read_all(client)
    assert answer.endswith(b"hi")
    assert trio.current_time() <= http_server.KEEP_ALIVE_S + 1


async def test_a_handler_that_raises_or_hangs(autojump_clock, nursery):
    """500 and 504, without a stack; the next request on the connection is served."""

    async def handle(request):
        if request.path == "/raise":
            raise RuntimeError("secret")
        if request.path == "/hang":
            await trio.sleep_forever()
        return Response(200, b"fine")

    client = await Rig(handle).talk(nursery)
    for path in (b"/raise", b"/hang", b"/ok"):
        await client.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
    answer = await read_all(client)
    assert b"secret" not in answer
    assert answer.index(b" 500 ") < answer.index(b" 504 ") < answer.index(b" 200 ")


async def test_the_number_of_connections_is_bounded(monkeypatch, nursery):
    """The one too many gets a 503 and is closed; when others leave there is room again."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 1)

    async def handle(request):
        return Response(200)

    rig = Rig(handle)
    first = await rig.talk(nursery)
    await trio.testing.wait_all_tasks_blocked()
    second = await rig.talk(nursery)
    assert b" 503 " in await read_all(second)
    await second.aclose()
    await first.aclose()
    await trio.testing.wait_all_tasks_blocked()
    third = await rig.talk(nursery)
    await third.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 200 " in await read_all(third)


async def test_not_ready_while_something_fails():
    """503 names what fails; /livez and /healthz still answer 200."""
    state = {"listening": True, "storage": False}
    handler = HealthHandler({name: lambda name=name: state[name] for name in state}, lambda: (b"", "text/plain"))

    async def ask(path):
        return await handler(http_server.Request("GET", path, "", (), b""))

    answer = await ask("/readyz")
    assert (answer.status, answer.body) == (503, b"not ready: storage\n")
    assert (await ask("/livez")).status == 200
    assert b'"storage": "failing"' in (await ask("/healthz")).body
    state["storage"] = True
    assert (await ask("/readyz")).status == 200
