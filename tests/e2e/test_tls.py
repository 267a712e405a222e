"""TLS and the PROXY protocol on a real server process, with clients that are not ours: ssl, curl, websockets."""

import contextlib
import ipaddress
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest
from certificates import Authority
from process import PASSWORD, Server, ServerFailed
from websockets.sync.client import connect as connect_websocket
from wire import AUTH, GET_USER, LOGIN, MESSAGE, REGISTER, SEND, Client, ClosedByServer, direct

PATIENCE_S = 30

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs the command curl (apt install curl)")


@pytest.fixture(scope="module")
def authority():
    """The authority of servers and clients."""
    return Authority()


class TlsClient(Client):
    """The wire client over TLS."""

    def __init__(self, address, *, context, flags=0):
        super().__init__(address, flags=flags)
        self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")


class TlsServer(Server):
    """A server with `[tls]`; its clients trust the authority."""

    authority = None

    def context(self, version=None, files=None):
        context = ssl.create_default_context()
        self.authority.trust(context)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        return context

    def client(self, *, version=None, files=None, flags=0, **_):
        return TlsClient(self.address, context=self.context(version, files), flags=flags)

    @property
    def http(self):
        return self.ready["http"][0]

    def wait_log(self, event):
        """Wait for an event in the log; gives its record."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for record in self.logs():
                if record.get("event") == event:
                    return record
            time.sleep(0.01)
        raise AssertionError(self.text()[-4000:])

    def metric(self, name, context):
        """The value of one metric, from /metrics."""
        found = re.search(rf"^{name} (\S+)$", https(self.http, "/metrics", context)[1], re.MULTILINE)
        return float(found[1])


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory, authority):
    """The authority's certificate."""
    folder = tmp_path_factory.mktemp("ca")
    authority.write(folder / "ca.pem")
    return folder


@pytest.fixture
def make_tls_server(tmp_path, authority):
    """A factory of servers with a certificate of their own; all are stopped, and nothing may have gone wrong inside."""
    made = []

    def make(settings=None, *, name="server"):
        folder = tmp_path / name
        folder.mkdir()
        files = authority.server_files(folder, ends_in_days=100)
        server = TlsServer(folder, {"tls.certificate": files.certificate, "tls.key": files.key, **(settings or {})})
        server.authority = authority
        made.append(server)
        return server.start()

    yield make
    for server in made:
        try:
            assert server.alive, server.text()[-4000:]
            assert "Traceback" not in server.text(), server.text()[-8000:]
        finally:
            server.discard()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory, authority):
    """One server with `[tls]` and two shards, for the tests that leave no trace on others."""
    folder = tmp_path_factory.mktemp("tls-server")
    files = authority.server_files(folder)
    server = TlsServer(folder, {"tls.certificate": files.certificate, "tls.key": files.key, "server.shards": 2})
    server.authority = authority
    server.start()
    yield server
    assert server.alive, server.text()[-4000:]
    assert server.stop() == 0
    assert "Traceback" not in server.text(), server.text()[-8000:]


def https(address, path, context, *, preamble=b"", headers=(), method="GET", body=b""):
    """(status, text) of one request, over TLS if there is a context, behind a PROXY header if there is one."""
    host, port = address.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
        sock.sendall(preamble)
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=host))
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {address}",
            "Connection: close",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, text = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), text


# ---------------------------------------------------------------- the doors


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"])
def test_two_users_chat(tls_server, version):
    """The framed protocol over TLS, across two shards."""
    alice, bob = (tls_server.login() for _ in range(2))
    again = tls_server.client(version=version)
    again.auth(bob.token)
    sent = alice.text(bob.user, "over TLS", "c-1")
    assert again.push()["body"] == "over TLS"
    assert again.pull_all(direct(alice.user, bob.user))[0]["seq"] == sent["seq"]


def test_big_frames_both_ways(tls_server):
    """Requests and answers far above what a kernel takes at once: 64 messages of 60 KB sent in a row, and pulled at once."""
    alice, bob = (tls_server.login() for _ in range(2))
    texts = [f"{number:03d}" + "x" * 15_000 for number in range(64)]

    # One after the other: Python's ssl takes no reading and writing of one connection at once. The answers are short.
    for number, text in enumerate(texts, 1):
        alice.send(SEND, {"rid": number + 1000, "to": bob.user, "body": text, "client_id": f"c-{number}"})
    for number in range(1, len(texts) + 1):
        assert alice.answer(number + 1000)["code"] == 0
    pulled = bob.pull_all(direct(alice.user, bob.user))
    assert [message["body"] for message in pulled] == texts


def test_close_notify(tls_server):
    """A client that says close_notify is answered by one: it can tell the end from a cut."""
    alice = tls_server.login()
    rid = alice.post(GET_USER, user_ids=[alice.user])
    assert alice.answer(rid)["code"] == 0
    alice.socket.unwrap().close()  # raises unless the server's close_notify comes


@needs_curl
def test_curl(tls_server, tls_folder):
    """curl talks HTTPS to it when it knows the authority, by HTTP/1.1, and refuses the certificate when it does not."""
    url = f"https://{tls_server.http}/healthz"
    command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE_S)]
    good = subprocess.run([*command, "--cacert", tls_folder / "ca.pem", "-v", url], capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["status"]
    assert "server accepted http/1.1" in good.stderr
    bad = subprocess.run([*command, url], capture_output=True, text=True)
    assert bad.returncode == 60, bad.stderr
    old = subprocess.run(
        [*command, "--cacert", tls_folder / "ca.pem", "--tls-max", "1.1", url], capture_output=True, text=True
    )
    assert old.returncode == 35, old.stderr


def test_websocket(tls_server):
    """WSS by the `websockets` library: frames in binary messages' stead as text."""
    user = tls_server.register()
    with connect_websocket(f"wss://{tls_server.http}/ws", ssl=tls_server.context(), open_timeout=PATIENCE_S) as ws:
        ws.send(json.dumps({"cmd": LOGIN, "rid": 1, "user_id": user, "password": PASSWORD}))
        answer = json.loads(ws.recv(PATIENCE_S))
        assert (answer["cmd"], answer["rid"], answer["code"]) == (LOGIN, 1, 0)
        bob = tls_server.login()
        bob.text(user, "to a browser " + "y" * 16_000, "c-1")
        push = json.loads(ws.recv(PATIENCE_S))
        assert push["cmd"] == MESSAGE
        assert push["body"].startswith("to a browser")


def test_a_plain_client_on_a_tls_port(tls_server):
    """Frames without TLS: closed, not left to wait; the log says why. Plain HTTP is told by HTTP."""
    with Client(tls_server.address) as plain, pytest.raises(ClosedByServer):
        plain.call(REGISTER, user_id="nobody", password=PASSWORD)
    tls_server.wait_log("tls_failed")
    status, text = https(tls_server.http, "/healthz", None)
    assert status == 400
    assert "https" in text


def test_peers_that_break_off(tls_server):
    """Garbage, half a handshake, a reset right behind the handshake: nobody else notices."""
    alice = tls_server.login()
    for address in (tls_server.address, ("127.0.0.1", int(tls_server.http.rsplit(":", 1)[1]))):
        for start in (b"", b"\x16\x03\x01\x02\x00\x01\x00", b"\xff" * 1000, b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4\r\n"):
            with socket.create_connection(address) as sock:
                sock.sendall(start)
        for _ in range(5):
            with tls_server.context().wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1") as sock:
                # Closing sends a reset, and not all of the handshake may have been read.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    assert alice.ok(GET_USER, user_ids=[alice.user])["users"]
    assert https(tls_server.http, "/healthz", tls_server.context())[0] == 200


# ---------------------------------------------------------------- the certificate


def shown_serial(server):
    """The serial number of the certificate that a new connection is shown, on both doors."""
    serials = set()
    for host, port in (server.ready["tcp"][0].rsplit(":", 1), server.http.rsplit(":", 1)):
        with (
            socket.create_connection((host, int(port)), timeout=PATIENCE_S) as sock,
            server.context().wrap_socket(sock, server_hostname=host) as secured,
        ):
            serials.add(secured.getpeercert()["serialNumber"])
    (serial,) = serials
    return serial


def test_reload(make_tls_server, authority):
    """SIGHUP: new connections are shown the new certificate, open ones go on; a bad file changes nothing."""
    server = make_tls_server()
    alice, old = server.login(), shown_serial(server)
    expires_at = server.metric("imserver_certificate_expires_at_seconds", server.context())
    assert expires_at > time.time() + 99 * 86_400

    authority.server_files(server.folder, ends_in_days=200)
    server.process.send_signal(signal.SIGHUP)
    server.wait_log("tls_reloaded")
    new = shown_serial(server)
    assert new != old
    assert alice.ok(GET_USER, user_ids=[alice.user])["code"] == 0
    assert server.metric("imserver_certificate_expires_at_seconds", server.context()) > expires_at + 99 * 86_400

    (server.folder / "server.pem").write_text("no certificate")
    server.process.send_signal(signal.SIGHUP)
    record = server.wait_log("tls_reload_failed")
    assert str(server.folder / "server.pem") in record["reason"]
    assert shown_serial(server) == new


@pytest.mark.parametrize("spoilt", ["certificate", "key"])
def test_a_server_without_its_certificate(tmp_path, authority, spoilt):
    """It does not start, and says which file is wrong."""
    files = authority.server_files(tmp_path)
    getattr(files, spoilt).write_text("something else")
    server = Server(tmp_path, {"tls.certificate": files.certificate, "tls.key": files.key})
    with pytest.raises(ServerFailed) as failed:
        server.start()
    assert failed.value.status == 3
    assert str(getattr(files, spoilt)) in failed.value.text
    assert "Traceback" not in failed.value.text


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_the_warning_about_plaintext(make_tls_server, make_server, has_tls):
    """Listening in plaintext beyond this machine is worth a warning an address; with TLS it is not."""
    settings = {"tcp.listen": "0.0.0.0:0", "http.listen": "127.0.0.1:0"}
    server = make_tls_server(settings) if has_tls else make_server(settings, name="plain")
    warned = [record for record in server.logs() if record["event"] == "plaintext"]
    assert [(record["level"], record["address"]) for record in warned] == (
        [] if has_tls else [("warning", server.ready["tcp"][0])]
    )


# ---------------------------------------------------------------- client certificates


@pytest.fixture
def mutual_server(make_tls_server, tls_folder):
    """A factory of servers that know the clients' authority."""
    return lambda mode, **more: make_tls_server(
        {"tls.client_ca": tls_folder / "ca.pem", "tls.client_certificates": mode, **more}
    )


def test_a_certificate_logs_its_user_in(mutual_server, authority, tmp_path):
    """By TCP and by WebSocket, without a token; the name in the certificate is the user."""
    server = mutual_server("optional")
    for name in ("alice", "bob"):
        server.register(name)
    alice, bob = (authority.client_files(tmp_path, name) for name in ("alice", "bob"))
    with server.client(files=alice) as client:
        client.text("bob", "who I am is in my certificate", "c-1")
    with server.client(files=bob) as client:
        (message,) = client.pull_all(direct("alice", "bob"))
        assert message["from"] == "alice"
    with connect_websocket(f"wss://{server.http}/ws", ssl=server.context(files=bob), open_timeout=PATIENCE_S) as ws:
        ws.send(json.dumps({"cmd": GET_USER, "rid": 1, "user_ids": ["alice"]}))
        assert json.loads(ws.recv(PATIENCE_S))["code"] == 0
    # Nobody has to show one.
    with server.client() as client:
        client.fails(401, GET_USER, user_ids=["alice"])
        client.login("alice", PASSWORD)


def test_a_certificate_speaks_for_its_user_over_http(mutual_server, authority, tmp_path):
    """A request without a token is the certificate's user's; without a certificate it is nobody's."""
    server = mutual_server("optional")
    for name in ("alice", "bob"):
        server.register(name)
    alice = authority.client_files(tmp_path, "alice")
    body = json.dumps({"to": "bob", "body": "by HTTP", "client_id": "c-2"}).encode()
    content = ("Content-Type: application/json",)
    request = {"method": "POST", "body": body, "headers": content}
    status, text = https(server.http, f"/v1/commands/{SEND}", server.context(files=alice), **request)
    assert status == 200, text
    status, _ = https(server.http, f"/v1/commands/{SEND}", server.context(), **request)
    assert status == 401
    with server.client(files=authority.client_files(tmp_path, "bob")) as client:
        (message,) = client.pull_all(direct("alice", "bob"))
        assert (message["from"], message["body"]) == ("alice", "by HTTP")


def test_a_certificate_of_nobody(mutual_server, authority, tmp_path):
    """A good certificate under a name that is no user's: nobody is logged in, and nothing breaks."""
    server = mutual_server("optional")
    stranger = authority.client_files(tmp_path, "stranger")
    with server.client(files=stranger) as client, contextlib.suppress(ClosedByServer):
        client.fails(401, GET_USER, user_ids=["stranger"])
    user = server.register()
    with server.client() as client:
        client.login(user, PASSWORD)


def test_a_certificate_is_required(mutual_server, authority, tmp_path):
    """Without one, or with one of another authority, no door opens."""
    server = mutual_server("required")
    foreign = Authority().client_files(tmp_path, "alice")
    for files in (None, foreign):
        # In TLS 1.3 the client learns of it after its own handshake.
        with pytest.raises((ssl.SSLError, ClosedByServer, ConnectionError)), server.client(files=files) as client:
            client.call(REGISTER, user_id="alice", password=PASSWORD)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            https(server.http, "/healthz", server.context(files=files))
    good = authority.client_files(tmp_path, "bob")
    assert https(server.http, "/healthz", server.context(files=good))[0] == 200


# ---------------------------------------------------------------- the PROXY protocol


def v1_header(source):
    """A header of version 1 for a client at this address."""
    return f"PROXY TCP{ipaddress.ip_address(source).version} {source} {source} 4711 443\r\n".encode()


def v2_header(source, command=0x21):
    """The same of version 2."""
    packed = ipaddress.ip_address(source).packed
    body = packed * 2 + b"\x12\x34\x01\xbb" + b"\x04\x00\x01x"
    family = 0x11 if len(packed) == 4 else 0x21
    return bytes.fromhex("0d0a0d0a000d0a515549540a") + bytes([command, family]) + len(body).to_bytes(2, "big") + body


class ProxiedClient(Client):
    """The wire client behind a proxy that says a header first."""

    def __init__(self, address, header, context=None):
        super().__init__(address)
        self.send_raw(header)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")


#: One connection an address, so that the address that counts can be told; those of this machine are exempt by default.
ONE_EACH = {"limits.connections_per_address": 1, "limits.exempt_addresses": "[]"}


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("make_header", [v1_header, v2_header])
def test_the_client_behind_a_trusted_proxy(make_tls_server, make_server, make_header, has_tls):
    """The address in the header counts, on both doors, below TLS: a second connection from it has no place."""
    settings = {**ONE_EACH, "proxy.trusted": "127.0.0.1", "proxy.protocol": "true"}
    server = make_tls_server(settings) if has_tls else make_server(settings, name="plain")
    context = server.context() if has_tls else None
    http = server.ready["http"][0]
    with ProxiedClient(server.address, make_header("192.0.2.1"), context) as first:
        first.ok(REGISTER, user_id="alice", password=PASSWORD)
        with ProxiedClient(server.address, make_header("2001:db8::1"), context) as other:
            other.login("alice", PASSWORD)
        if has_tls:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ProxiedClient(server.address, make_header("192.0.2.1"), context)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                https(http, "/healthz", context, preamble=make_header("192.0.2.1"))
        else:
            with ProxiedClient(server.address, make_header("192.0.2.1")) as second:
                assert second.goaway() == "unavailable"
            # The answer may be lost to a reset: the server closes without having read the request.
            with contextlib.suppress(ConnectionResetError):
                assert https(http, "/healthz", None, preamble=make_header("192.0.2.1"))[0] == 503
        assert https(http, "/healthz", context, preamble=make_header("192.0.2.2"))[0] == 200
    refused = {record["address"] for record in server.logs() if record["event"] == "connection_refused"}
    assert refused == {"192.0.2.1"}


def test_a_trusted_proxy_that_forgets_the_header(make_server):
    """Its connections are closed, and the log names it."""
    server = make_server({"proxy.trusted": "127.0.0.0/8", "proxy.protocol": "true"})
    with Client(server.address) as client, pytest.raises(ClosedByServer):
        client.call(REGISTER, user_id="alice", password=PASSWORD)
    record = server.wait_logged(lambda record: record["event"] == "proxy_header_refused")
    assert record["proxy"] == "127.0.0.1"
    # A proxy's health check says so.
    with ProxiedClient(server.address, v2_header("192.0.2.1", command=0x20)) as client:
        client.ok(REGISTER, user_id="alice", password=PASSWORD)


@pytest.mark.parametrize("make_header", [v1_header, v2_header])
def test_a_header_of_somebody_else(make_server, make_header):
    """Who is no trusted proxy cannot make itself another: the header is taken for a bad frame, or a bad request."""
    server = make_server({"proxy.trusted": "10.0.0.0/8", "proxy.protocol": "true"})
    with ProxiedClient(server.address, make_header("192.0.2.1")) as client, pytest.raises(ClosedByServer):
        client.call(AUTH, token="x")
    assert https(server.ready["http"][0], "/healthz", None, preamble=make_header("192.0.2.1"))[0] == 400
    with server.client() as client:
        client.ok(REGISTER, user_id="alice", password=PASSWORD)
