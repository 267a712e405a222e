"""TLS sockets against peers that are not ours (Python's ssl, openssl), and the loading of certificates."""

import array
import contextlib
import fcntl
import os
import pty
import random
import select
import shutil
import socket
import ssl
import subprocess
import termios
import threading
import time

import pytest
import structlog
from certificates import Authority

from imserver import tls
from imserver.config import Tls
from imserver.errors import StartError
from imserver.tls import BUFFER_BYTES, CIPHERTEXT_BYTES, MAX_UNSENT_BYTES, PIECE_BYTES, ServerTls, TlsSocket

PATIENCE_S = 20
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl (apt install openssl)")


@pytest.fixture(scope="module")
def authority():
    """The authority of the server's certificate."""
    return Authority()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    """The server's certificate and key."""
    return authority.server_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server_tls(files):
    """A server's TLS without client certificates."""
    return ServerTls(Tls(certificate=files.certificate, key=files.key))


def client_context(authority, version=None, *, certificate=None):
    """What a well-behaved client uses."""
    context = ssl.create_default_context()
    authority.trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    if certificate is not None:
        context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def sockets(kind, *, buffer_bytes=None):
    """Two connected, non-blocking sockets: a pair, or TCP over the loopback."""
    if kind == "pair":
        left, right = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            right = socket.create_connection(listening.getsockname())
            left, _ = listening.accept()
    for sock in (left, right):
        sock.setblocking(False)
        if buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
            if kind == "pair":  # of TCP's a small one makes the kernel wait for its timers
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    return left, right


class Door:
    """A TlsSocket with the loop around it that a reactor is."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = bytearray(BUFFER_BYTES)
        self.largest = 0

    def once(self):
        """One `recv_into`: bytes, b"" at the end, None when there is nothing."""
        if self.sock.has_unsent:
            self.sock.flush()
        try:
            count = self.sock.recv_into(self.buffer)
        except BlockingIOError:
            return None
        self.largest = max(self.largest, count)
        return bytes(self.buffer[:count])

    def read(self):
        """Wait for the next bytes, as epoll would: b"" at the end."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            writing = [self.sock] if self.sock.has_unsent else []
            readable, _, _ = select.select([self.sock], writing, [], PATIENCE_S)
            if not readable:
                self.sock.flush()
                continue
            data = self.once()
            if data is not None:
                return data
        raise AssertionError("nothing came")

    def read_exactly(self, count):
        data = b""
        while len(data) < count:
            got = self.read()
            assert got, f"ended after {len(data)} bytes"
            data += got
        return data

    def write(self, data):
        """Send all of it."""
        view = memoryview(data)
        while view or self.sock.has_unsent:
            try:
                view = view[self.sock.send(view) :] if view else view
            except BlockingIOError:
                assert self.sock.has_unsent  # else the descriptor would be writable for ever
            if not self.sock.flush():
                _, writable, _ = select.select([], [self.sock], [], PATIENCE_S)
                assert writable


class Client:
    """A client in a thread of its own: `work(ssl_socket)` over a blocking socket; its result or error is kept."""

    def __init__(self, sock, context, work, name="localhost"):
        sock.setblocking(True)
        sock.settimeout(PATIENCE_S)
        self.result = self.error = None
        self._args = (sock, context, work, name)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        sock, context, work, name = self._args
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            try:
                secured = stack.enter_context(context.wrap_socket(sock, server_hostname=name))
                self.result = work(secured)
            except OSError as exc:
                self.error = exc

    def join(self):
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


class HandPeer:
    """A client whose ciphertext goes through the test's hands."""

    def __init__(self, sock, context):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def step(self, work):
        """Take in what has come, then `work`; None if it needs more."""
        with contextlib.suppress(BlockingIOError):
            while data := self.sock.recv(65536):
                self.incoming.write(data)
        try:
            return work()
        except ssl.SSLWantReadError:
            return None

    def shake_hands(self, door):
        """Both ends until both are done; gives what the server read meanwhile."""
        for _ in range(10):
            self.step(self.tls.do_handshake)
            self.sock.sendall(self.outgoing.read())
            door.once()
            if door.sock.handshake_done and self.tls.version():
                return
        raise AssertionError("no handshake")

    def write(self, data):
        """The ciphertext of `data`, not yet sent."""
        self.tls.write(data)
        return self.outgoing.read()


@contextlib.contextmanager
def connected(server_tls, authority, version=None, *, kind="pair", buffer_bytes=None):
    """(Door, HandPeer) after the handshake."""
    left, right = sockets(kind, buffer_bytes=buffer_bytes)
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        door, peer = Door(sock), HandPeer(right, client_context(authority, version))
        peer.shake_hands(door)
        yield door, peer


# ---------------------------------------------------------------- conversations


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["pair", "loopback"])
def test_a_conversation(server_tls, authority, kind, version):
    """Handshake, bytes both ways, close_notify both ways; the version is what the client wanted."""
    left, right = sockets(kind)

    def work(sock):
        sock.sendall(b"ping")
        answer = sock.recv(100)
        sock.unwrap().close()  # raises unless our close_notify comes
        return answer

    with contextlib.closing(server_tls.wrap(left)) as sock:
        assert (sock.handshake_done, sock.version(), sock.fileno()) == (False, None, left.fileno())
        client = Client(right, client_context(authority, version), work)
        door = Door(sock)
        assert door.read() == b"ping"
        assert (sock.handshake_done, sock.version(), sock.peer_certificate()) == (True, version, None)
        door.write(b"pong")
        assert door.read() == b""
        sock.shutdown(socket.SHUT_WR)
        assert client.join() == b"pong"
        assert sock.failure is None
    assert sock.fileno() == -1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["pair", "loopback"])
def test_big_transfers_through_small_buffers(server_tls, authority, kind, version):
    """Both ends send 1 MB at once through kernel buffers of 4 KiB: all arrives, in order, and little is held back."""
    size = 1_000_000
    out, back = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    left, right = sockets(kind, buffer_bytes=4096)
    with contextlib.closing(server_tls.wrap(left)) as sock, right:
        client = client_context(authority, version).wrap_socket(
            right, server_hostname="localhost", do_handshake_on_connect=False
        )
        door = Door(sock)
        to_client, to_server = memoryview(out), memoryview(back)
        at_client, at_server = bytearray(), bytearray()
        most_unsent = 0
        deadline = time.monotonic() + 60
        with client:
            while len(at_client) < size or len(at_server) < size:
                assert time.monotonic() < deadline, (len(at_client), len(at_server))
                at_server += door.once() or b""
                with contextlib.suppress(BlockingIOError):
                    if to_client:
                        to_client = to_client[sock.send(to_client) :]
                most_unsent = max(most_unsent, len(sock._unsent) + sock._outgoing.pending)
                for _ in range(4):
                    with contextlib.suppress(ssl.SSLWantReadError):
                        at_client += client.recv(65536)
                with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    if to_server:
                        # The same bytes again after SSLWantWriteError, as OpenSSL demands.
                        to_server = to_server[client.send(to_server[:16000]) :]
        assert bytes(at_client) == out
        assert bytes(at_server) == back
        assert most_unsent <= PIECE_BYTES + 1024
        assert door.largest <= BUFFER_BYTES


def test_send_before_the_handshake(server_tls):
    """Nothing can be sent yet, and nothing is kept: the descriptor being writable tells nothing."""
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        with pytest.raises(BlockingIOError):
            sock.send(b"too early")
        assert not sock.has_unsent
        assert sock.flush()


def test_send_stops_when_the_kernel_is_full(server_tls, authority):
    """Of much data a part is taken; while ciphertext waits no more is; after `flush` it goes on."""
    with connected(server_tls, authority, buffer_bytes=4096) as (door, peer):
        data = bytes(1_000_000)
        taken = door.sock.send(data)
        assert 0 < taken < len(data)
        assert door.sock.has_unsent
        assert not door.sock.flush()
        assert len(door.sock._unsent) <= PIECE_BYTES + 1024
        with pytest.raises(BlockingIOError):
            door.sock.send(data)
        got = 0
        while got < taken:
            got += len(peer.step(lambda: peer.tls.read(65536)) or b"")
            door.sock.flush()
        assert got == taken
        assert not door.sock.has_unsent
        assert door.sock.send(b"more") == 4


@pytest.mark.parametrize("version", VERSIONS)
def test_byte_by_byte(server_tls, authority, version):
    """A handshake and data that arrive one byte at a time; each byte but the last of a record blocks."""
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        door, peer = Door(sock), HandPeer(right, client_context(authority, version))

        def trickle(data):
            read = []
            for byte in data:
                right.sendall(bytes([byte]))
                read.append(door.once())
            return read

        while not (sock.handshake_done and peer.tls.version()):
            peer.step(peer.tls.do_handshake)
            assert set(trickle(peer.outgoing.read())) <= {None}
        read = trickle(peer.write(b"drip"))
        assert read[-1] == b"drip"
        assert set(read[:-1]) == {None}


@pytest.mark.parametrize("version", VERSIONS)
def test_no_plaintext_is_left_behind(server_tls, authority, version):
    """One call gives every record that was read, however they lie across the reads."""
    with connected(server_tls, authority, version) as (door, peer):
        rng = random.Random(3)
        for _ in range(60):
            records = [rng.randbytes(rng.choice([1, 100, 5000, 16384])) for _ in range(8)]
            cipher = b"".join(peer.write(record) for record in records)
            cut = rng.randrange(len(cipher))
            got = b""
            for part in (cipher[:cut], cipher[cut:]):
                peer.sock.setblocking(True)
                peer.sock.sendall(part)
                peer.sock.setblocking(False)
                while select.select([door.sock], [], [], 0)[0]:
                    got += door.once() or b""
            # Nothing is readable for the kernel: what has not been given by now never would be.
            assert got == b"".join(records)
        assert CIPHERTEXT_BYTES < door.largest < BUFFER_BYTES


def test_the_buffer_must_hold_a_whole_read(server_tls):
    """A buffer that is too small is a mistake of the caller's, not lost data."""
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock, pytest.raises(ValueError, match="65536 are needed"):
        sock.recv_into(bytearray(BUFFER_BYTES - 1))


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["pair", "loopback"])
def test_last_words_with_close_notify(server_tls, authority, kind, version):
    """Data and close_notify in one read: first the data, then, still readable without another byte, the end."""
    with connected(server_tls, authority, version, kind=kind) as (door, peer):
        last = peer.write(b"last words")
        peer.step(peer.tls.unwrap)
        peer.sock.sendall(last + peer.outgoing.read())
        assert door.read() == b"last words"
        assert select.select([door.sock], [], [], PATIENCE_S)[0]
        assert door.once() == b""
        assert door.once() == b""
        if kind == "loopback":  # a socket pair cannot be shut down for reading at one end alone
            door.write(b"and my answer")
            assert peer.step(lambda: peer.tls.read(100)) == b"and my answer"


@pytest.mark.parametrize("version", VERSIONS)
def test_we_close_first(server_tls, authority, version):
    """After our close_notify the peer knows that all has come; what it still sends is read, and we can send no more."""
    with connected(server_tls, authority, version, kind="loopback") as (door, peer):
        door.write(b"bye")
        door.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            door.sock.send(b"too late")
        assert select.select([peer.sock], [], [], PATIENCE_S)[0]
        assert peer.step(lambda: peer.tls.read(100)) == b"bye"
        # 0 bytes is close_notify: without it OpenSSL would want more.
        assert peer.step(lambda: len(peer.tls.read(100))) == 0
        assert peer.sock.recv(1) == b""
        if version == "TLSv1.3":  # in TLS 1.2 close_notify is answered at once
            peer.sock.sendall(peer.write(b"still here"))
            assert door.read() == b"still here"
        peer.step(peer.tls.unwrap)
        peer.sock.sendall(peer.outgoing.read())
        assert door.read() == b""


def test_close_says_close_notify(server_tls, authority):
    """A close without more ado is still no cut: the peer can tell."""
    with connected(server_tls, authority, kind="loopback") as (door, peer):
        door.write(b"bye")
        door.sock.close()
        door.sock.close()
        peer.sock.setblocking(True)
        data = b"".join(iter(lambda: peer.sock.recv(1000), b""))
        peer.incoming.write(data)
        assert peer.tls.read(100) == b"bye"
        assert peer.tls.read(100) == b""  # SSLWantReadError if there were no close_notify


def test_shutdown_waits_for_what_is_unsent(server_tls, authority):
    """close_notify and the kernel's end come behind the last ciphertext, by `flush`."""
    with connected(server_tls, authority, buffer_bytes=4096) as (door, peer):
        taken = door.sock.send(bytes(500_000))
        door.sock.shutdown(socket.SHUT_WR)
        assert door.sock.has_unsent
        got, chunk = 0, None
        while chunk != b"":
            chunk = peer.step(lambda: peer.tls.read(65536))
            got += len(chunk or b"")
            door.sock.flush()
        assert got == taken
        assert peer.sock.recv(1) == b""


def test_shutdown_before_the_handshake(server_tls):
    """There is nothing to say yet: the connection just ends."""
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        sock.shutdown(socket.SHUT_RDWR)
        assert right.recv(1) == b""


@pytest.mark.parametrize("when", ["handshake", "talk"])
def test_a_connection_cut_off(server_tls, authority, when):
    """The peer closes without close_notify: the end, and the log can tell."""
    if when == "handshake":
        left, right = sockets("loopback")
        with contextlib.closing(server_tls.wrap(left)) as sock:
            peer = HandPeer(right, client_context(authority))
            peer.step(peer.tls.do_handshake)
            right.sendall(peer.outgoing.read()[:50])
            right.close()
            assert Door(sock).read() == b""
            assert sock.failure == "closed during the handshake"
        return
    with connected(server_tls, authority, kind="loopback") as (door, peer):
        cipher = peer.write(b"half of it")
        peer.sock.sendall(cipher[:-1])
        peer.sock.shutdown(socket.SHUT_WR)
        assert door.read() == b""
        assert door.sock.failure == "closed without close_notify"


def test_a_reset(server_tls, authority):
    """A reset is an OSError, as of any socket."""
    with connected(server_tls, authority, kind="loopback") as (door, peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        peer.sock.close()
        with pytest.raises(ConnectionResetError):
            door.read()


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("version", VERSIONS)
def test_a_damaged_record(server_tls, authority, version):
    """Good data before it is given first; then the fault, and the peer reads an alert."""
    with connected(server_tls, authority, version) as (door, peer):
        good, bad = peer.write(b"good"), bytearray(peer.write(b"bad"))
        bad[-1] ^= 1
        peer.sock.sendall(good + bad)
        assert door.read() == b"good"
        assert select.select([door.sock], [], [], PATIENCE_S)[0]
        for _ in range(2):
            with pytest.raises(ssl.SSLError):
                door.once()
        assert any(words in door.sock.failure for words in ("bad record mac", "record layer failure"))  # OpenSSL to 3.5, 3.6
        with pytest.raises(ssl.SSLError, match=r"(?i)alert bad.record.mac"):
            peer.step(lambda: peer.tls.read(100))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x15\x00\x01\x00\x01\x00" + b"{}" * 20,
        b"\xff" * 100,
        b"\x16\x03\x01\x00\x05hello" * 4,
        b"SSH-2.0-x\r\n",
    ],
    ids=["a plain frame", "noise", "no client hello", "ssh"],
)
def test_garbage(server_tls, garbage):
    """What is no TLS ends at once; an alert goes to a peer that has begun to speak TLS."""
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        right.sendall(garbage)
        with pytest.raises(ssl.SSLError):
            Door(sock).read()
        assert sock.failure
        assert (right.recv(100)[:1] == b"\x15") if garbage[0] == 0x16 else not sock.has_unsent


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1\r\nHost: im\r\n\r\n", b"POST /v1/messages HTTP/1.1\r\n\r\n"])
def test_plain_http(server_tls, request_line):
    """A browser that speaks plain HTTP to this port is told so in its own language."""
    left, right = sockets("loopback")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        right.sendall(request_line)
        with pytest.raises(ssl.SSLError):
            Door(sock).read()
        assert sock.failure == "http request"
        sock.close()
        right.setblocking(True)
        answer = b"".join(iter(lambda: right.recv(1000), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 400 ")
        assert b"Content-Length: %d" % len(body) in head
        assert b"https://" in body


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1.1"])
def test_old_versions_are_refused(server_tls, authority, version):
    """TLS 1.0 and 1.1 get an alert; failure says why."""
    context = client_context(authority)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = {
            "TLSv1": ssl.TLSVersion.TLSv1,
            "TLSv1.1": ssl.TLSVersion.TLSv1_1,
        }[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        peer = HandPeer(right, context)
        peer.step(peer.tls.do_handshake)
        right.sendall(peer.outgoing.read())
        with pytest.raises(ssl.SSLError):
            Door(sock).read()
        assert sock.failure == "unsupported protocol"
        with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol.version"):
            peer.step(peer.tls.do_handshake)


def test_weak_ciphers_are_refused(server_tls, authority):
    """Without forward secrecy, or without authenticated encryption, there is no TLS 1.2."""
    context = client_context(authority, "TLSv1.2")
    context.set_ciphers("AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:@SECLEVEL=0")
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        peer = HandPeer(right, context)
        peer.step(peer.tls.do_handshake)
        right.sendall(peer.outgoing.read())
        with pytest.raises(ssl.SSLError):
            Door(sock).read()
        assert sock.failure == "no shared cipher"


def test_a_client_that_does_not_trust_us(server_tls):
    """Its alert is the reason that the log gets."""
    left, right = sockets("pair")
    client = Client(right, client_context(Authority()), lambda sock: None)
    with contextlib.closing(server_tls.wrap(left)) as sock:
        with pytest.raises(ssl.SSLError):
            Door(sock).read()
        assert "alert unknown ca" in sock.failure
    with pytest.raises(ssl.SSLCertVerificationError):
        client.join()


# ---------------------------------------------------------------- client certificates


@pytest.fixture(scope="module")
def client_authority():
    """The authority of the clients' certificates."""
    return Authority()


@pytest.fixture
def mutual(files, client_authority, tmp_path):
    """A factory of servers' TLS that know the clients' authority."""

    def make(client_certificates):
        path = client_authority.write(tmp_path / "clients.pem")
        return ServerTls(Tls(files.certificate, files.key, path, client_certificates))

    return make


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["optional", "required"])
def test_a_client_certificate(mutual, authority, client_authority, tmp_path, mode, version):
    """The server sees whose it is, once the handshake is done."""
    left, right = sockets("pair")
    certificate = client_authority.client_files(tmp_path, "alice")
    client = Client(right, client_context(authority, version, certificate=certificate), lambda sock: sock.sendall(b"hi"))
    with contextlib.closing(mutual(mode).wrap(left)) as sock:
        assert sock.peer_certificate() is None
        assert Door(sock).read() == b"hi"
        assert (("commonName", "alice"),) in sock.peer_certificate()["subject"]
    client.join()


def test_an_optional_certificate_left_out(mutual, authority):
    """Without one a client is nobody in particular."""
    left, right = sockets("pair")
    client = Client(right, client_context(authority), lambda sock: sock.sendall(b"hi"))
    with contextlib.closing(mutual("optional").wrap(left)) as sock:
        assert Door(sock).read() == b"hi"
        assert sock.peer_certificate() is None
    client.join()


@pytest.mark.parametrize("is_below", [True, False])
def test_an_authority_below_another(files, authority, client_authority, tmp_path, is_below):
    """The authority in the file is the one trusted: neither the one above it is needed, nor are its other children."""
    department = Authority(below=client_authority)
    server_tls = ServerTls(Tls(files.certificate, files.key, department.write(tmp_path / "ca.pem"), "required"))
    issuer = department if is_below else client_authority
    certificate = issuer.client_files(tmp_path, "alice")
    left, right = sockets("pair")
    client = Client(right, client_context(authority, certificate=certificate), lambda sock: sock.sendall(b"hi"))
    with contextlib.closing(server_tls.wrap(left)) as sock:
        if is_below:
            assert Door(sock).read() == b"hi"
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                Door(sock).read()
    with contextlib.suppress(OSError):
        client.join()


def issue_bad(kind, client_authority, folder):
    """A client certificate that must not do."""
    if kind == "none":
        return None
    if kind == "of another authority":
        return Authority().client_files(folder, "mallory")
    return client_authority.client_files(folder, "late", begins_in_days=-10, ends_in_days=-1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "mode", "reason", "alert"),
    [
        ("none", "required", "peer did not return a certificate", r"(?i)certificate.required|handshake.failure"),
        ("of another authority", "required", "certificate: ", r"(?i)unknown.ca"),
        ("of another authority", "optional", "certificate: ", r"(?i)unknown.ca"),
        ("expired", "required", "certificate: certificate has expired", r"(?i)certificate.expired"),
    ],
)
def test_a_bad_client_certificate(mutual, authority, client_authority, tmp_path, kind, mode, reason, alert, version):
    """Refused, with the reason in the log and an alert to the client."""
    left, right = sockets("loopback")
    context = client_context(authority, version, certificate=issue_bad(kind, client_authority, tmp_path))
    client = Client(right, context, lambda sock: sock.recv(1))  # in TLS 1.3 its own handshake succeeds
    with contextlib.closing(mutual(mode).wrap(left)) as sock:
        with pytest.raises(ssl.SSLError):
            Door(sock).read()
        assert sock.failure.startswith(reason)
        assert sock.peer_certificate() is None
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ssl.SSLError, match=alert):
            client.join()


def test_an_alert_to_a_client_that_has_sent_much(mutual, authority):
    """What it has sent behind its handshake is taken from the kernel: unread, it would turn our close into a reset."""
    left, right = sockets("loopback")
    with right, contextlib.closing(mutual("required").wrap(left)) as sock:
        door, peer = Door(sock), HandPeer(right, client_context(authority, "TLSv1.3"))
        while not peer.tls.version():
            peer.step(peer.tls.do_handshake)
            if not peer.tls.version():
                right.sendall(peer.outgoing.read())
                assert select.select([left], [], [], PATIENCE_S)[0]
                assert door.once() is None
                assert select.select([right], [], [], PATIENCE_S)[0]
        flight = peer.outgoing.read() + b"".join(peer.write(bytes(16_000)) for _ in range(5))
        right.sendall(flight)
        wait_arrived(left, len(flight))
        with pytest.raises(ssl.SSLError, match="did not return a certificate"):
            door.once()
        sock.close()
        assert select.select([right], [], [], PATIENCE_S)[0]
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            peer.step(lambda: peer.tls.read(1))


def wait_arrived(sock, count):
    """Wait until so many bytes lie in the kernel for this socket."""
    waiting = array.array("i", [0])
    deadline = time.monotonic() + PATIENCE_S
    while waiting[0] < count:
        assert time.monotonic() < deadline, waiting[0]
        fcntl.ioctl(sock, termios.FIONREAD, waiting)
        time.sleep(0.001)


# ---------------------------------------------------------------- openssl s_client


@contextlib.contextmanager
def s_client(server_tls, authority, tmp_path, *options, window_bytes=None):
    """(Door, type, output): the command openssl as the client; `type(text)` gives it a line as a terminal does."""
    ours, theirs = pty.openpty()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if window_bytes:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window_bytes)
        port = listening.getsockname()[1]
        trusted = authority.write(tmp_path / "ca.pem")
        command = [
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{port}",
            "-CAfile",
            trusted,
            "-verify_return_error",
            *options,
        ]
        with open(tmp_path / "output", "wb") as output:
            process = subprocess.Popen(command, stdin=theirs, stdout=output, stderr=output)
        os.close(theirs)
        try:
            listening.settimeout(PATIENCE_S)
            sock, _ = listening.accept()
            sock.setblocking(False)
            with contextlib.closing(server_tls.wrap(sock)) as wrapped:
                door = Door(wrapped)
                yield door, lambda text: os.write(ours, f"{text}\n".encode()), tmp_path / "output"
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def wait_for(path, text):
    """Wait until a process has written this to its file."""
    deadline = time.monotonic() + PATIENCE_S
    while text not in path.read_bytes():
        assert time.monotonic() < deadline, path.read_bytes()
        time.sleep(0.01)


def handshake(door):
    while not door.sock.handshake_done:
        select.select([door.sock], [], [], PATIENCE_S)
        assert door.once() is None


def test_a_peer_that_is_gone_has_spoken(server_tls, authority):
    """What it said before it closed is read, though nothing can be answered any more."""
    left, right = sockets("pair")
    with contextlib.closing(server_tls.wrap(left)) as sock:
        door, peer = Door(sock), HandPeer(right, client_context(authority))
        peer.step(peer.tls.do_handshake)
        right.sendall(peer.outgoing.read())
        door.once()
        peer.step(peer.tls.do_handshake)
        right.sendall(peer.outgoing.read() + peer.write(bytes(30_000)) + peer.write(bytes(30_000)))
        right.close()  # our tickets find nobody
        assert door.read_exactly(60_000) == bytes(60_000)
        assert door.read() == b""
        assert sock.flush()  # there is nothing to wait for
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                sock.send(b"hello?")
        assert not sock.has_unsent


def test_a_peer_that_is_gone_before_the_rest_is_out(server_tls, authority):
    """`flush` does not raise: it drops what waits, `send` raises, and reading tells the end."""
    with connected(server_tls, authority, buffer_bytes=4096) as (door, peer):
        door.sock.send(bytes(100_000))
        assert door.sock.has_unsent
        peer.sock.close()
        assert door.sock.flush()
        assert not door.sock.has_unsent
        with pytest.raises(BrokenPipeError):
            door.sock.send(b"hello?")
        with pytest.raises(ConnectionResetError):
            door.read()
        door.sock.shutdown(socket.SHUT_WR)


@needs_openssl
@pytest.mark.parametrize("command", ["k", "K"], ids=["its keys", "both keys"])
def test_key_update(server_tls, authority, tmp_path, command):
    """The peer changes its keys, or asks us to change ours as well, in the middle: data goes on both ways."""
    with s_client(server_tls, authority, tmp_path, "-tls1_3") as (door, type_line, output):
        handshake(door)
        type_line("before")
        assert door.read() == b"before\n"
        type_line(command)
        wait_for(output, b"KEYUPDATE")
        type_line("after")
        assert door.read() == b"after\n"
        door.write(b"and back\n")
        wait_for(output, b"and back")


@needs_openssl
def test_renegotiation_is_refused(server_tls, authority, tmp_path):
    """TLS 1.2: the client's wish for another handshake is declined, and no second one happens."""
    with s_client(server_tls, authority, tmp_path, "-tls1_2") as (door, type_line, output):
        handshake(door)
        type_line("before")
        assert door.read() == b"before\n"
        type_line("R")
        wait_for(output, b"RENEGOTIATING")
        # OpenSSL's client takes the refusal (a warning) for the end.
        with pytest.raises(ssl.SSLError):
            door.read()
        assert "alert handshake failure" in door.sock.failure
        wait_for(output, b"no renegotiation")


@needs_openssl
def test_answers_that_nobody_reads_are_bounded(server_tls, authority, tmp_path, monkeypatch):
    """A peer that asks for new keys for ever and reads none of the answers is given up."""
    monkeypatch.setattr(tls, "MAX_UNSENT_BYTES", 500)
    with s_client(server_tls, authority, tmp_path, "-tls1_3") as (door, type_line, _):
        handshake(door)

        class Stuffed:
            """The kernel's socket with a send buffer that is full."""

            def __init__(self, sock):
                self._sock = sock

            def send(self, data):
                raise BlockingIOError

            def __getattr__(self, name):
                return getattr(self._sock, name)

        door.sock._socket = Stuffed(door.sock._socket)

        def ask_for_ever():
            for _ in range(200):
                type_line("K")
                select.select([door.sock], [], [], PATIENCE_S)
                assert door.once() is None
                assert len(door.sock._unsent) + door.sock._outgoing.pending <= 500

        with pytest.raises(ssl.SSLError, match="does not read"):
            ask_for_ever()
        assert door.sock.failure == "the peer does not read what TLS answers"
    assert MAX_UNSENT_BYTES > PIECE_BYTES + CIPHERTEXT_BYTES


@needs_openssl
def test_no_early_data_and_no_compression(server_tls, authority, tmp_path):
    """What openssl says of the connection: its ticket allows no early data, nothing is compressed, the chain is good."""
    with s_client(server_tls, authority, tmp_path, "-tls1_3") as (door, type_line, output):
        handshake(door)
        type_line("Q")  # it quits, and writes what it has to say
        wait_for(output, b"Max Early Data: 0")
        wait_for(output, b"Compression: NONE")
        wait_for(output, b"Verify return code: 0 (ok)")


# ---------------------------------------------------------------- ServerTls


@pytest.mark.parametrize(("is_http", "agreed"), [(True, "http/1.1"), (False, None)])
def test_alpn(server_tls, authority, is_http, agreed):
    """The HTTP listener agrees on HTTP/1.1; the other agrees on nothing, so that no browser takes it for a web server."""
    context = client_context(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left, is_http=is_http)) as sock:
        peer = HandPeer(right, context)
        peer.shake_hands(Door(sock))
        assert peer.tls.selected_alpn_protocol() == sock.alpn() == agreed


def serial_of(server_tls, context):
    """The serial number of the certificate that a new client is shown."""
    left, right = sockets("pair")
    with right, contextlib.closing(server_tls.wrap(left)) as sock:
        peer = HandPeer(right, context)
        peer.shake_hands(Door(sock))
        return peer.tls.getpeercert()["serialNumber"]


def test_reload(authority, tmp_path):
    """New connections get the new certificate; one that is open, and one in its handshake, go on with the old one."""
    context = client_context(authority)
    files = authority.server_files(tmp_path)
    server_tls = ServerTls(Tls(files.certificate, files.key))
    old = serial_of(server_tls, context)
    left, right = sockets("pair")
    with connected(server_tls, authority) as (door, peer), right, contextlib.closing(server_tls.wrap(left)) as young:
        authority.server_files(tmp_path, ends_in_days=30)
        with structlog.testing.capture_logs() as logs:
            server_tls.reload()
        assert [record["event"] for record in logs] == ["tls_reloaded"]
        assert logs[0]["expires_at"] == server_tls.expires_at.isoformat().replace("+00:00", "Z")
        assert serial_of(server_tls, context) != old
        peer.sock.sendall(peer.write(b"still here"))
        assert door.read() == b"still here"
        late = HandPeer(right, context)
        late.shake_hands(Door(young))
        assert late.tls.getpeercert()["serialNumber"] == old


def test_a_reload_that_fails(authority, tmp_path):
    """The certificate stays, and the log says why."""
    context = client_context(authority)
    files = authority.server_files(tmp_path)
    server_tls = ServerTls(Tls(files.certificate, files.key))
    old, expires_at = serial_of(server_tls, context), server_tls.expires_at
    files.certificate.write_bytes(authority.server_files(tmp_path, "other", ends_in_days=30).certificate.read_bytes())
    with structlog.testing.capture_logs() as logs:
        server_tls.reload()
    assert [(record["event"], record["log_level"]) for record in logs] == [("tls_reload_failed", "error")]
    assert "does not belong to the certificate" in logs[0]["reason"]
    assert str(files.key) in logs[0]["reason"]
    assert serial_of(server_tls, context) == old
    assert server_tls.expires_at == expires_at


def encrypted(files):
    """The key again, under a passphrase."""
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(files.key.read_bytes(), None)
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("spoil", "names", "expected"),
    [
        (lambda files: files.certificate.unlink(), "certificate", "No such file"),
        (lambda files: files.key.unlink(), "key", "No such file"),
        (lambda files: (files.key.unlink(), files.key.mkdir()), "key", "Is a directory"),
        (lambda files: files.certificate.write_bytes(b""), "certificate", "BEGIN CERTIFICATE"),
        (lambda files: files.certificate.write_bytes(files.key.read_bytes()), "certificate", "BEGIN CERTIFICATE"),
        (lambda files: files.key.write_bytes(files.certificate.read_bytes()), "key", "BEGIN PRIVATE KEY"),
        (lambda files: files.certificate.write_bytes(files.certificate.read_bytes()[:300]), "certificate", "damaged"),
        (lambda files: files.key.write_bytes(files.key.read_bytes()[:100]), "key", "damaged"),
        (lambda files: files.key.write_bytes(encrypted(files)), "key", "without a passphrase"),
    ],
    ids=["no certificate", "no key", "a folder", "empty", "a key as certificate", "a certificate as key", "cut certificate",
         "cut key", "encrypted key"],
)  # fmt: skip
def test_bad_files(authority, tmp_path, spoil, names, expected):
    """The server does not start; the message names the file and what is wrong with it."""
    files = authority.server_files(tmp_path)
    spoil(files)
    with pytest.raises(StartError, match=expected) as caught:
        ServerTls(Tls(files.certificate, files.key))
    assert str(getattr(files, names)) in str(caught.value)


def test_a_bad_client_authority(files, authority, tmp_path):
    """Client certificates need an authority, and a good file of it."""
    with pytest.raises(StartError, match=r"needs tls\.client_ca"):
        ServerTls(Tls(files.certificate, files.key, None, "required"))
    missing = tmp_path / "missing.pem"
    with pytest.raises(StartError, match=r"missing\.pem: .* No such file"):
        ServerTls(Tls(files.certificate, files.key, missing, "optional"))
    cut = tmp_path / "cut.pem"
    cut.write_bytes(authority.pem[:200] + b"\n-----END CERTIFICATE-----\n")
    with pytest.raises(StartError, match=r"cut\.pem: .* damaged"):
        ServerTls(Tls(files.certificate, files.key, cut, "required"))


@pytest.mark.parametrize(
    ("dates", "event"),
    [
        ({"begins_in_days": -10, "ends_in_days": -1}, "tls_certificate_expired"),
        ({"ends_in_days": 3}, "tls_certificate_expires_soon"),
        ({"begins_in_days": 3, "ends_in_days": 90}, "tls_certificate_not_yet_valid"),
        ({"ends_in_days": 90}, None),
        ({"ends_in_days": 365 * 100}, None),
    ],
)
def test_dates(authority, tmp_path, dates, event):
    """The server starts with any dates, and warns; what it read is what Python's ssl reads (both of DER's forms)."""
    files = authority.server_files(tmp_path, **dates)
    with structlog.testing.capture_logs() as logs:
        server_tls = ServerTls(Tls(files.certificate, files.key))
    assert [(record["event"], record["log_level"]) for record in logs] == ([(event, "warning")] if event else [])
    read = ssl._ssl._test_decode_cert(str(files.certificate))
    assert server_tls.expires_at.timestamp() == ssl.cert_time_to_seconds(read["notAfter"])
    assert all(str(files.certificate) == record["certificate"] for record in logs)


def test_a_key_that_all_can_read(authority, tmp_path):
    """The log warns."""
    files = authority.server_files(tmp_path)
    files.key.chmod(0o644)
    with structlog.testing.capture_logs() as logs:
        ServerTls(Tls(files.certificate, files.key))
    assert [record["event"] for record in logs] == ["tls_key_open_to_all"]


def test_text_around_the_certificate(authority, tmp_path):
    """Comments before the first block, as `openssl x509 -text` writes them, and the key in the same file."""
    files = authority.server_files(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(b"Subject: CN=caf\xc3\xa9\n" + files.key.read_bytes() + files.certificate.read_bytes())
    both.chmod(0o600)
    assert ServerTls(Tls(both, both)).expires_at == ServerTls(Tls(files.certificate, files.key)).expires_at


def test_a_tls_socket_is_complete():
    """What the shards' code takes for a socket."""
    methods = {"recv_into", "send", "flush", "shutdown", "fileno", "close", "peer_certificate", "version", "has_unsent"}
    assert methods <= set(dir(TlsSocket))
