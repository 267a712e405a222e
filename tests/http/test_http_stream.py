"""The stream over a socket, plain and TLS, by Trio's own conformance suite and in the cases that it does not know."""

import contextlib
import socket
import ssl

import pytest
import trio
import trio.testing
from certificates import Authority
from http_rig import GET, HOST, echo, reply, serving, split_answers

from imserver.http.stream import READ_BYTES, SocketStream
from imserver.tls import TlsSocket


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """(server's, client's) TLS contexts."""
    authority = Authority()
    files = authority.server_files(tmp_path_factory.mktemp("tls"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context()
    authority.trust(client)
    return server, client


def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


async def plain_streams():
    ours, theirs = pair()
    return SocketStream(ours), SocketStream(theirs)


async def clogged_streams():
    ours, theirs = pair()
    for sock in (ours, theirs):
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(b"x" * 65536)
    return SocketStream(ours), SocketStream(theirs)


async def test_conformance():
    """What Trio promises of every stream; clogged ones too."""
    await trio.testing.check_half_closeable_stream(plain_streams, clogged_streams)


async def test_sending_waits_while_the_peer_takes_nothing():
    """And goes on when it does."""
    left, right = await clogged_streams()
    async with left, right, trio.open_nursery() as nursery:
        done = trio.Event()

        async def send():
            await left.send_all(b"the end")
            done.set()

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not done.is_set()
        data = b""
        while not data.endswith(b"the end"):
            data = (data + await right.receive_some())[-10:]
        await done.wait()


async def test_a_piece_of_what_came():
    """`receive_some(max_bytes)` keeps the rest for later; nothing is lost at the end."""
    left, right = await plain_streams()
    async with left, right:
        await left.send_all(b"0123456789")
        await left.send_eof()
        assert [await right.receive_some(4) for _ in range(4)] == [b"0123", b"4567", b"89", b""]
        with pytest.raises(ValueError, match="max_bytes"):
            await right.receive_some(0)


async def test_detach():
    """The socket stays open, the stream is closed."""
    left, right = await plain_streams()
    async with right:
        await right.send_all(b"before")
        sock = left.detach()
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            left.detach()
        await left.aclose()
        assert sock.recv(100) == b"before"
        sock.send(b"after")
        assert await right.receive_some() == b"after"
        sock.close()


async def test_streams_may_share_a_buffer():
    """What one has received stays what it was when another one receives."""
    scratch = bytearray(READ_BYTES)
    ours, theirs = zip(pair(), pair(), strict=True)
    streams = [SocketStream(sock, scratch) for sock in ours]
    for sock, data in zip(theirs, (b"first", b"second"), strict=True):
        sock.send(data)
    assert [stream.receive_nowait() for stream in streams] == [b"first", b"second"]
    for end in (*theirs, *streams):
        end.close()


async def tls_pair(contexts):
    """(our stream, not yet shaken hands; the client's own TLS stream)."""
    ours, theirs = pair()
    client = trio.SSLStream(_Unix(theirs), contexts[1], server_hostname="localhost")
    return SocketStream(TlsSocket(ours, contexts[0])), client


class _Unix(trio.abc.Stream):
    """A client's end that is not the stream under test."""

    def __init__(self, sock):
        self._socket = trio.socket.from_stdlib_socket(sock)

    async def send_all(self, data):
        view = memoryview(data)
        while view:
            view = view[await self._socket.send(view) :]

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes=65536):
        return await self._socket.recv(max_bytes)

    async def aclose(self):
        self._socket.close()
        await trio.lowlevel.checkpoint()


async def test_tls_both_ways(contexts, nursery):
    """Megabytes through TLS in both directions at once; the end is a close_notify."""
    stream, client = await tls_pair(contexts)
    size = 3_000_000
    got = {}

    async def receive(end, name):
        data = b""
        while len(data) < size:
            data += await end.receive_some(65536)
        got[name] = data

    with trio.fail_after(30):
        nursery.start_soon(client.send_all, b"!")
        assert await stream.receive_some(1) == b"!"
        async with trio.open_nursery() as inner:
            inner.start_soon(receive, stream, "server")
            inner.start_soon(receive, client, "client")
            inner.start_soon(client.send_all, b"c" * size)
            inner.start_soon(stream.send_all, b"s" * size)
        assert got == {"server": b"c" * size, "client": b"s" * size}
        await stream.send_eof()
        assert await client.receive_some() == b""
    await stream.aclose()
    await trio.aclose_forcefully(client)


async def test_requests_over_tls(contexts):
    """A server behind TLS: https in the scope, big answers, the end with close_notify."""

    async def app(scope, receive, send):
        await reply(send, scope["scheme"].encode() * 300_000)

    ours, theirs = pair()
    async with serving(app) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.server.serve_connection, TlsSocket(theirs, contexts[0]), "127.0.0.1")
        client = trio.SSLStream(_Unix(ours), contexts[1], server_hostname="localhost", https_compatible=False)
        with trio.fail_after(30):
            await client.send_all(GET + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            data = b""
            async for part in client:
                data += part
        first, second = split_answers(data)
        assert first.body == second.body == b"https" * 300_000
        await trio.aclose_forcefully(client)


async def test_no_handshake(autojump_clock, contexts):
    """A client that opens a TLS connection and is silent is closed at the deadline of the head; one that speaks HTTP too."""
    for data in (b"", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"):
        ours, theirs = pair()
        async with serving(echo) as rig:
            with trio.fail_after(20):
                ours.send(data)
                await rig.server.serve_connection(TlsSocket(theirs, contexts[0]), "127.0.0.1")
            assert rig.server.connections == 0
        ours.close()
