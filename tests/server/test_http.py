"""The HTTP listener: health for operators, and what it does with clients that break HTTP."""

import http.client
import itertools
import json
import socket
import sqlite3
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from wire import GOAWAY, HEARTBEAT, SEND

from imserver.config import Config
from imserver.http import server as http_server
from imserver.http.health import HealthHandler
from imserver.http.server import HttpServer, Response
from imserver.server import Server


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
    assert json.loads(body)["checks"] == {"listening": "ok", "storage": "ok", "shards": "ok"}


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
    assert exchange(server, request * 5).count(b"HTTP/1.1 200 OK") == 5


def test_one_connection_serves_many_requests(server):
    """Keep-alive: the second request goes over the socket of the first; an answer says when it was made."""
    connection = http.client.HTTPConnection(*address_of(server), timeout=20)
    try:
        ports = set()
        for method, path in (
            ("GET", "/livez"),
            ("HEAD", "/metrics"),
            ("GET", "/nowhere"),
            ("POST", "/livez"),
            ("GET", "/livez"),
        ):
            connection.request(method, path)
            answer = connection.getresponse()
            assert answer.read() or method == "HEAD"
            assert answer.getheader("Date").endswith(" GMT")
            ports.add(connection.sock.getsockname())
        assert len(ports) == 1
    finally:
        connection.close()


@pytest.mark.parametrize("target", [b"http://example.org/livez", b"HTTP://x:1/livez?a=b://c/d", b"/livez?"])
def test_forms_of_a_target(server, target):
    """The absolute form, as sent to proxies, names the same path; a query changes nothing here."""
    assert exchange(server, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"\r\n\r\nalive\n")


@pytest.mark.parametrize("header", [b"Upgrade: h2c\r\nConnection: Upgrade", b"Upgrade: websocket\r\nConnection: Upgrade"])
def test_an_upgrade_that_is_not_offered(server, header):
    """It is answered as if nobody had asked, and the connection goes on."""
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n"
    assert exchange(server, request * 2).count(b"HTTP/1.1 200 OK") == 2


def test_continue_is_said_only_to_what_is_wanted(server):
    """100 for a body within the limit; a declared length over it is refused before a byte of it comes."""
    head = b"POST /livez HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    assert exchange(server, head + b"2\r\n\r\nab").startswith(b"HTTP/1.1 100 ")
    assert exchange(server, head + b"70000\r\n\r\n").startswith(b"HTTP/1.1 413 ")


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
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 70_000,
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",  # ends before its body does
        # Smuggling: where does this request end?
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / H",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n\tfolded\0\r\n\r\n",
        b"GET /li\0vez HTTP/1.1\r\nHost: x\r\n\r\n",
        # A refused HEAD is answered without a body, as h11 insists: each of these once ended the server.
        b"HEAD /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
        b"HEAD /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HEAD /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
        b"HEAD /livez HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=itertools.count(),
)
def test_broken_requests(server, data):
    """A 4xx or 501 and the end; the server goes on."""
    answer = exchange(server, data)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")), answer[:100]
    assert answer.count(b"HTTP/1.1 ") == 1
    if data.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n") or b"Host" not in data
    assert get(server, "/livez")[0] == 200


def test_a_body_over_the_limit_in_chunks(server):
    """Nothing declares its length: it is counted as it comes."""
    head = b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n"
    most = http_server.MAX_BODY_BYTES
    assert exchange(server, head + chunk % (most, b"x" * most) + b"0\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert exchange(server, head + chunk % (most + 1, b"x" * (most + 1)) + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("broken", [b"GARBAGE\r\n\r\n", b"HEAD /livez HTTP/1.1\r\n\r\n"])
def test_a_broken_request_after_a_head(server, broken):
    """The HEAD before it does not take the refusal's body away."""
    answer = exchange(server, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n" + broken)
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/")] == [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 400 Bad Request",
    ]
    assert answer.endswith(b"this is no valid HTTP request\n")


@pytest.mark.parametrize("data", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HEAD /livez HTTP/2.0\r\nHost: x\r\n\r\n"])
def test_another_major_version(server, data):
    """505 and the end."""
    answer = exchange(server, data)
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert b"connection: close" in answer.lower()


PATIENT_PLUGIN = """
import trio
from imserver.plugin import Plugin, command

class Patient(Plugin):
    name = "patient"

    @command(6001, timeout_s=600)
    async def wait(self, ctx, request):
        await trio.sleep_forever()
"""


def test_not_ready_while_draining(make_server, tmp_path):
    """From GOAWAY on 503, on old connections and new ones, until the process ends; it is alive all the while."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "patient.py").write_text(PATIENT_PLUGIN)
    plugins = {"plugins.enabled": '["user", "patient"]', "plugins.paths": str(folder)}
    server = make_server({**plugins, "server.drain": "300s"})
    alice = server.login()
    old = http.client.HTTPConnection(*address_of(server), timeout=20)
    try:
        old.request("GET", "/readyz")
        assert old.getresponse().read() == b"ready\n"
        alice.post(6001)  # in flight for as long as this client stays
        alice.ok(HEARTBEAT)
        server.terminate()
        assert alice.push(GOAWAY)["error"] == "draining"
        old.request("GET", "/readyz")
        answer = old.getresponse()
        assert (answer.status, answer.read()) == (503, b"not ready: listening\n")
        assert get(server, "/readyz")[0] == 503
        assert get(server, "/livez")[0] == 200
    finally:
        old.close()
    alice.close()
    assert server.wait() == 0
    with pytest.raises(ConnectionError):
        get(server, "/readyz")


def test_not_ready_after_a_commit_that_failed(make_server):
    """Another process keeps the database locked: 503 and a counted failure, then the first commit that succeeds ends it."""
    server = make_server()
    alice, bob = server.login(), server.login()
    with sqlite3.connect(server.data / "imserver.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert alice.call(SEND, to=bob.user, client_id="c1", body="refused")["code"] == 503
        status, _, body = get(server, "/readyz")
        assert (status, body) == (503, b"not ready: storage\n")
        assert json.loads(get(server, "/healthz")[2])["checks"]["storage"] == "failing"
        assert b"\nimserver_commit_failures_total 1.0\n" in get(server, "/metrics")[2]
        other.execute("ROLLBACK")
    other.close()
    alice.text(bob.user, "taken", "c1")
    assert get(server, "/readyz")[0] == 200


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


async def test_a_body_that_does_not_come(autojump_clock, nursery):
    """A byte now and then does not move the body's deadline."""

    async def handle(request):
        raise AssertionError("the request never became whole")

    client = await Rig(handle).talk(nursery)
    await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")

    async def drip():
        while True:
            try:
                await client.send_all(b"x")
            except trio.BrokenResourceError:
                return
            await trio.sleep(1)

    nursery.start_soon(drip)
    assert await read_all(client) == b""
    assert trio.current_time() <= http_server.BODY_TIMEOUT_S + 1


@pytest.mark.parametrize("data", [b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
async def test_the_end_is_announced_before_the_socket_closes(autojump_clock, nursery, data):
    """What a client still sends is taken for a moment: a reset would cost it the answer. Not for ever."""

    async def handle(request):
        return Response(200)

    rig = Rig(handle)
    client = await rig.talk(nursery)
    await client.send_all(data)
    assert await read_all(client)
    await trio.testing.wait_all_tasks_blocked()
    assert rig.server.connections == 1
    await client.send_all(b"x" * 1000)
    await trio.sleep(http_server.LINGER_S + 1)
    assert rig.server.connections == 0
    flood = await rig.talk(nursery)
    await flood.send_all(data)
    assert await read_all(flood)
    await flood.send_all(b"x" * http_server.LINGER_BYTES)
    await trio.testing.wait_all_tasks_blocked()
    assert rig.server.connections == 0  # enough is enough, before the time is over


async def test_a_client_that_does_not_read(autojump_clock, nursery):
    """The write has a deadline: the connection is given up, and counts no more."""

    async def handle(request):
        return Response(200, b"x" * 100_000)

    rig = Rig(handle)
    client, stream = trio.testing.lockstep_stream_pair()
    nursery.start_soon(rig.server._serve_connection, stream)
    await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert rig.server.connections == 1
    await trio.sleep(http_server.WRITE_TIMEOUT_S + 1)
    assert rig.server.connections == 0


@pytest.mark.parametrize("response", [Response(200, headers=[("X", "a\r\nb")]), Response(999), Response(204, b"body")])
async def test_an_answer_that_cannot_be_sent(nursery, response):
    """A handler's mistake ends that connection and no other, whatever it is."""
    answers = {"/bad": response, "/good": Response(200, b"fine")}

    async def handle(request):
        return answers[request.path]

    rig = Rig(handle)
    other, client = await rig.talk(nursery), await rig.talk(nursery)
    await client.send_all(b"GET /bad HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"fine" not in await read_all(client)
    await other.send_all(b"GET /good HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await read_all(other)).endswith(b"fine")


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
    monkeypatch.setattr(http_server, "MAX_REFUSALS", 0)
    holder = await rig.talk(nursery)
    await trio.testing.wait_all_tasks_blocked()
    assert await read_all(await rig.talk(nursery)) == b""  # those refused are bounded too
    await holder.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert rig.server.connections == 0
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


async def test_not_ready_while_a_shard_stands_still():
    """A shard whose clock has stopped is named, whichever it is."""
    now = 100.0
    server = Server(Config(), clock=SimpleNamespace(monotonic=lambda: now, now_ms=lambda: 0))
    router = SimpleNamespace(requests=0)
    server.shards = [SimpleNamespace(index=index, now=99.9, router=router, sessions=()) for index in range(2)]
    journal = SimpleNamespace(is_healthy=True, commits=0, failures=0, messages=0, commit_s=0.0)
    handler = server._health(journal)
    server.is_ready = True

    async def ready():
        answer = await handler(http_server.Request("GET", "/readyz", "", (), b""))
        return answer.status, answer.body

    assert await ready() == (200, b"ready\n")
    server.shards[1].now = 90.0
    assert await ready() == (503, b"not ready: shards\n")
