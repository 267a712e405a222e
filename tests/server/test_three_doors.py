"""What one client could do to others, or after its time, through the three doors: each of these once worked."""

import contextlib
import datetime
import http.client
import json
import socket
import ssl

import pytest
import trio
import trio.testing
import trustme
from certificates import Authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID
from helpers import SAY, Nothing, running
from process import PASSWORD
from websocket_client import http_address
from wire import HEARTBEAT, encode

from imserver import journal
from imserver.caller import Caller
from imserver.plugin import Plugin, command
from imserver_plugins.file import ranges

#: The bare one, which is answered by itself.
HEARTBEAT_FRAME = encode(HEARTBEAT)


def begin(server, method, path, size, *headers):
    """A socket with a request whose body, of `size` bytes, is to come."""
    sock = socket.create_connection(http_address(server), timeout=30)
    head = [f"{method} {path} HTTP/1.1", "Host: server.test", f"Content-Length: {size}", "Connection: close", *headers]
    sock.sendall("\r\n".join([*head, "", ""]).encode())
    return sock


def answer(sock):
    """(status, body) of what comes to the end of the connection."""
    with sock:
        response = http.client.HTTPResponse(sock)
        response.begin()
        return response.status, response.read()


def ask(server, method, path, body=None, **headers):
    """(status, fields) of one request."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if data:
        lines.append("Content-Type: application/json")
    sock = begin(server, method, path, len(data), *lines)
    sock.sendall(data)
    status, text = answer(sock)
    return status, json.loads(text)


# ---------------------------------------------------------------- revocation


@pytest.fixture
def held(server):
    """A factory: a request of this client by its token, let in, whose last byte is still to come."""

    def hold(client, method, path, body, *headers):
        lines = (f"Authorization: Bearer {client.token}", "Expect: 100-continue", *headers)
        sock = begin(server, method, path, len(body), *lines)
        # 100 comes when somebody waits for the body: who asks has been found out by then.
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body[:-1])
        return sock

    return hold


def test_a_request_whose_body_comes_after_the_logout_is_not_carried_out(server, held):
    """Credentials that were good when the head came are looked at again when the body is there."""
    client, other = server.login(), server.register()
    body = json.dumps({"to": other, "client_id": "late", "body": "after the logout"}).encode()
    json_type = "Content-Type: application/json"
    socks = [held(client, "POST", path, body, json_type) for path in ("/v1/messages", "/v1/commands/2001")]
    assert ask(server, "POST", "/v1/commands/1005", {"all": True}, Authorization=f"Bearer {client.token}")[0] == 200
    for sock in socks:
        sock.sendall(body[-1:])
        assert answer(sock)[0] == 401
    with server.login(other) as reader:
        assert reader.sync_all()[0] == {}


def test_an_upload_ends_with_the_session_that_sends_it(server, held):
    """A file that is half there is not finished for somebody who has logged out meanwhile."""
    client = server.login()
    sock = held(client, "POST", "/v1/files", b"x" * 1000)
    assert ask(server, "POST", "/v1/commands/1005", Authorization=f"Bearer {client.token}")[0] == 200
    sock.sendall(b"x")
    assert answer(sock)[0] == 401
    with server.login(client.user) as again:
        status, fields = ask(server, "GET", "/v1/files", Authorization=f"Bearer {again.token}")
        assert (status, fields["files"], fields["used"]) == (200, [], 0)


def test_a_request_goes_on_when_others_log_out(server, held):
    """What ends is the one session: who has nothing to do with it is looked up again and carried on."""
    client, other, third = server.login(), server.register(), server.login()
    body = json.dumps({"to": other, "client_id": "c1", "body": "still here"}).encode()
    sock = held(client, "POST", "/v1/messages", body, "Content-Type: application/json")
    assert ask(server, "POST", "/v1/commands/1005", Authorization=f"Bearer {third.token}")[0] == 200
    sock.sendall(body[-1:])
    status, text = answer(sock)
    assert (status, json.loads(text)["seq"]) == (200, 1)


# ---------------------------------------------------------------- nobody's requests


def test_nobody_has_the_server_keep_a_body_for_what_needs_a_user(server):
    """Without credentials the answer comes before the body."""
    sock = begin(server, "POST", "/v1/messages", 1_000_000, "Content-Type: application/json")
    sock.sendall(b'{"body":"' + b"x" * 10_000)
    status, text = answer(sock)
    assert (status, json.loads(text)["error"]) == (401, "unauthenticated")


def test_nobody_has_the_server_keep_more_than_before_a_login(server):
    """What anybody may ask takes as much as a connection that has not logged in may send."""
    sock = begin(server, "POST", "/v1/sessions", 1_000_000, "Content-Type: application/json")
    sock.sendall(b'{"user_id":"' + b"x" * 5_000)
    status, text = answer(sock)
    assert (status, json.loads(text)["error"]) == (413, "too_large")


# ---------------------------------------------------------------- client certificates


@pytest.fixture
def authority():
    """Who signs."""
    return Authority()


@pytest.fixture
def mutual_server(make_server, authority, tmp_path):
    """A server with TLS on both listeners that takes clients' certificates."""
    files = authority.server_files(tmp_path)
    return make_server(
        {
            "tls.certificate": files.certificate,
            "tls.key": files.key,
            "tls.client_ca": authority.write(tmp_path / "ca.pem"),
            "tls.client_certificates": "optional",
        }
    )


def tls_connection(address, authority, files=None):
    """A TLS connection, with this client certificate."""
    context = ssl.create_default_context()
    authority.trust(context)
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context.wrap_socket(socket.create_connection(address, timeout=30), server_hostname="127.0.0.1")


def shake_hands(address):
    """(socket, TLS object, its outgoing bytes) of a client whose last flight is not sent yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    sock = socket.create_connection(address, timeout=30)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
        else:
            return sock, tls, outgoing


def ask_secretly(server, authority, files, method, path, body=b"", *headers):
    """(status, body) of one request over TLS."""
    sock = tls_connection(http_address(server), authority, files)
    head = [f"{method} {path} HTTP/1.1", "Host: im.test", f"Content-Length: {len(body)}", "Connection: close", *headers]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return answer(sock)


def unreadable_files(ca, folder, common_name):
    """A certificate that the authority has signed, with a subjectAltName that is no text."""
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    alt_name = b"\x30\x04\x82\x02\xff\xfe"  # one dNSName of two bytes
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, alt_name), critical=False)
    )
    signing_key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    issued = trustme.LeafCert(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ),
        builder.sign(signing_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        [],
    )
    return Authority._write(issued, folder, "unreadable")


def test_a_certificate_that_cannot_be_read_costs_its_connection_alone(mutual_server, authority, tmp_path):
    """The authority has signed a name that is no text: neither door falls over it."""
    files = unreadable_files(authority._ca, tmp_path, "alice")
    for address in (mutual_server.address, http_address(mutual_server)):
        with contextlib.suppress(OSError), tls_connection(address, authority, files) as sock:
            sock.sendall(b"GET /v1/conversations HTTP/1.1\r\nHost: im.test\r\n\r\n")
            assert b"200 OK" not in sock.recv(1000)
    with tls_connection(mutual_server.address, authority) as sock:
        sock.sendall(HEARTBEAT_FRAME)
        assert sock.recv(8) == HEARTBEAT_FRAME
    assert mutual_server.alive


def test_a_broken_record_right_behind_the_handshake_costs_its_connection_alone(mutual_server, authority):
    """Anybody can send the end of the handshake, a frame and no record behind it, in one segment."""
    for address in (mutual_server.address, http_address(mutual_server)):
        sock, tls, outgoing = shake_hands(address)
        with sock:
            tls.write(HEARTBEAT_FRAME)
            sock.sendall(outgoing.read() + b"\x17\x03\x03\x00\x20" + b"x" * 32)
            with contextlib.suppress(ConnectionError):
                while sock.recv(65536):
                    pass
    with tls_connection(mutual_server.address, authority) as sock:
        sock.sendall(HEARTBEAT_FRAME)
        assert sock.recv(8) == HEARTBEAT_FRAME
    assert mutual_server.alive


def test_a_page_from_elsewhere_does_not_act_by_the_browsers_certificate(mutual_server, authority, tmp_path):
    """A browser shows its certificate for any page; such a request is one of the server's own pages, or none."""
    body = json.dumps({"user_id": "alice", "password": PASSWORD}).encode()
    content = "Content-Type: application/json"
    assert ask_secretly(mutual_server, authority, None, "POST", "/v1/users", body, content)[0] == 200
    alice = authority.client_files(tmp_path, "alice")
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nhello\r\n--b--\r\n'
    upload = ("POST", "/v1/files", form, "Content-Type: multipart/form-data; boundary=b")
    statuses = {
        origin: ask_secretly(mutual_server, authority, alice, *upload, f"Origin: {origin}")[0]
        for origin in ("https://elsewhere.test", "http://im.test", "null", "https://im.test", "https://im.test:443")
    }
    assert statuses == {
        "https://elsewhere.test": 403,
        "http://im.test": 403,
        "null": 403,
        "https://im.test": 200,
        "https://im.test:443": 200,
    }
    assert ask_secretly(mutual_server, authority, alice, *upload)[0] == 200  # no browser


# ---------------------------------------------------------------- what costs more than it sends


@pytest.mark.parametrize(
    "header", ["bytes=%sx", "bytes%s=1-2x", "bytes=1%s", "bytes=1-%sx"], ids=["first", "unit", "middle", "last"]
)
def test_a_range_of_spaces_is_read_once(header):
    """A header of spaces takes as long as it is, not the square of that: this would not end in time."""
    assert ranges.wanted(header % (" " * 1_000_000), 10) is None


class Notes(Plugin):
    """A service with one command."""

    name = "notes"

    def __init__(self):
        self.taken = 0

    @command(6001, request=Nothing)
    def note(self, ctx, request):
        """Count it."""
        self.taken += 1
        return {}


async def test_http_waits_while_the_disk_has_as_much_before_it_as_it_may(tmp_path, monkeypatch):
    """No frame is read then; a request over HTTP is carried out when there is room again."""
    notes = Notes()
    async with running(tmp_path, notes) as rig:
        alice = await rig.login("alice")
        await rig.login("bob")
        rig.store.shut()
        first = await alice.post(SAY, to="bob")
        await rig.store.wait_entered()
        second = await alice.post(SAY, to="bob")
        await rig.until(lambda: rig.journal.is_dirty)
        monkeypatch.setattr(journal, "MAX_BATCH_ROWS", 1)
        caller = Caller(rig.shard, "127.0.0.1")
        caller.user_id = "alice"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.shard.router.request, caller, 6001, b"{}")
            await rig.until(lambda: rig.shard.router.busy)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert notes.taken == 0
            rig.store.open()
        assert notes.taken == 1
        assert [(await alice.answer(rid))["code"] for rid in (first, second)] == [0, 0]
