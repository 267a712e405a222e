"""The HTTP listener: health for operators, and what it does with clients that break HTTP."""

import http.client
import itertools
import json
import socket
import sqlite3
from types import SimpleNamespace

import pytest
from wire import GOAWAY, HEARTBEAT, SEND

from imserver.config import Config
from imserver.http.health import Health
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
        return answer.status, {name.title(): value for name, value in answer.getheaders()}, answer.read()
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
    assert b"/openapi.json" in body
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


def test_an_upgrade_that_is_not_offered(server):
    """It is answered as if nobody had asked, and the connection goes on; WebSocket has a path of its own."""
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    assert exchange(server, request * 2).count(b"HTTP/1.1 200 OK") == 2
    answer = exchange(server, request.replace(b"h2c", b"websocket") * 2)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_continue_is_said_only_to_what_is_wanted(server):
    """100 for a body within the limit; a declared length over it is refused before a byte of it comes."""
    head = b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    with socket.create_connection(address_of(server), timeout=20) as sock:
        sock.sendall(head + b"Content-Length: 2\r\n\r\n")
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert exchange(server, head + b"Content-Length: 1048577\r\n\r\n").startswith(b"HTTP/1.1 413 ")


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
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,  # a TLS hello
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 64_000 + b"\r\n\r\n",
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n" + b"x" * 1_048_577,
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000,
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",  # ends before its body does
        # Smuggling: where does this request end?
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n\tfolded\0\r\n\r\n",
        b"GET /li\0vez HTTP/1.1\r\nHost: x\r\n\r\n",
        # A refused HEAD is answered without a body, as h11 insists: each of these once ended the server.
        b"HEAD /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n" + b"x" * 1_048_577,
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


@pytest.mark.parametrize("body", [b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", b"Content-Length: 5\r\n\r\nab"])
def test_a_broken_body_that_nobody_reads(server, body):
    """The answer stands, but nothing that follows such a body is taken for a request."""
    follower = b"" if b"Length" in body else b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = exchange(server, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n" + body + follower)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\n")
    assert get(server, "/livez")[0] == 200


def test_a_body_over_the_limit_in_chunks(server):
    """Nothing declares its length: it is counted as it comes."""
    token = server.login().token.encode()
    head = b"POST /v1/commands/4 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % token
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n"
    most = Config().limits.max_frame_bytes
    assert exchange(server, head + chunk % (most, b"x" * most) + b"0\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert exchange(server, head + chunk % (most + 1, b"x" * (most + 1)) + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("broken", [b"GARBAGE\r\n\r\n", b"HEAD /livez HTTP/1.1\r\n\r\n"])
def test_a_broken_request_after_a_head(server, broken):
    """The HEAD before it does not take the refusal's body away; a HEAD that is refused has none."""
    answer = exchange(server, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n" + broken)
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/")] == [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 400 Bad Request",
    ]
    assert (b"this is no valid HTTP request" in answer) == broken.startswith(b"GARBAGE")


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


async def test_not_ready_while_something_fails():
    """503 names what fails; /livez and /healthz still answer 200."""
    state = {"listening": True, "storage": False}
    health = Health({name: lambda name=name: state[name] for name in state}, lambda: (b"", "text/plain"))

    async def ask(path):
        answer = await health.routes[path](None)
        return answer.status_code, answer.body

    assert await ask("/readyz") == (503, b"not ready: storage\n")
    assert (await ask("/livez"))[0] == 200
    status, body = await ask("/healthz")
    assert (status, json.loads(body)["checks"]) == (200, {"listening": "ok", "storage": "failing"})
    state["storage"] = True
    assert (await ask("/readyz"))[0] == 200


def test_not_ready_while_a_shard_stands_still():
    """A shard whose clock has stopped is named, whichever it is."""
    now = 100.0
    server = Server(Config(), clock=SimpleNamespace(monotonic=lambda: now, now_ms=lambda: 0))
    server.shards = [SimpleNamespace(index=index, now=99.9) for index in range(2)]
    checks = server._checks(SimpleNamespace(is_healthy=True, commit_age_s=0.0))
    assert checks["shards"]()
    server.shards[1].now = 90.0
    assert not checks["shards"]()
    assert checks["storage"]()
