"""Addresses, TLS and WebSocket: what is understood, what goes over them, and what a failure says to a person."""

import itertools
import re
import ssl
import struct
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import scripted_peer as wire
import trio
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st
from scripted_peer import running_peer
from trio.testing import memory_stream_pair
from trio_websocket import wrap_server_stream

from imserver.client import RequestTimeout, Timing, open_client
from imserver.client.connection import Connection
from imserver.client.transport import Target, opener_for, parse_address
from imserver.client.websocket import MAX_MESSAGE_BYTES, SMALL_MESSAGE_BYTES, messages_of, open_websocket_stream

AUTHORITY = Authority()


def server_context(*names, client_certificates=False, **dates):
    """A server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # as the server's own; the default one is stricter from Python 3.13 on
    AUTHORITY.issue(*(names or ("127.0.0.1", "localhost")), **dates).configure_cert(context)
    if client_certificates:
        AUTHORITY.trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context():
    """A client's context that trusts the test's authority."""
    context = ssl.create_default_context()
    AUTHORITY.trust(context)
    return context


@pytest.fixture(params=["tcp", "tls", "ws", "wss"])
async def peer(request):
    """A peer on each transport."""
    secure = request.param in ("tls", "wss")
    async with running_peer(request.param, server_context() if secure else None) as peer:
        peer.open_client = partial(
            open_client,
            peer.address,
            ssl_context=client_context() if secure else None,
            backoff_min_s=0.001,
            backoff_max_s=0.002,
        )
        yield peer


@asynccontextmanager
async def serving(handler, ssl_context=None):
    """A TCP or TLS server of the test's own; gives its port."""
    async with trio.open_nursery() as nursery:
        open_listeners = partial(trio.open_tcp_listeners, 0)
        if ssl_context is not None:
            open_listeners = partial(trio.open_ssl_over_tcp_listeners, 0, ssl_context)
        [listener] = await open_listeners(host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        socket = getattr(listener, "transport_listener", listener).socket
        yield socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def reason(address, ssl_context=None, timeout_s=0.5):
    """What a person reads who cannot log in."""
    async with open_client(address, ssl_context=ssl_context, backoff_min_s=0.05, backoff_max_s=0.05) as client:
        with pytest.raises(RequestTimeout) as caught:
            await client.login("bob", "secret", timeout_s=timeout_s)
    return str(caught.value)


# ------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:9000", Target("tcp", "127.0.0.1", 9000)),
        ("tcp://[::1]:9000/", Target("tcp", "::1", 9000)),
        ("[::1]:1", Target("tcp", "::1", 1)),
        ("tls://im.example:9443", Target("tls", "im.example", 9443)),
        ("ws://127.0.0.1:8080", Target("ws", "127.0.0.1", 8080, "/ws")),
        ("ws://127.0.0.1/", Target("ws", "127.0.0.1", 80, "/ws")),
        ("wss://im.example/chat/ws", Target("wss", "im.example", 443, "/chat/ws")),
        ("http://im.example:8080/", Target("ws", "im.example", 8080, "/ws")),
        ("https://im.example/chat/", Target("wss", "im.example", 443, "/chat/ws")),
    ],
)
def test_addresses_that_are_understood(address, target):
    """Schemes, default ports and paths, versions 4 and 6."""
    assert parse_address(address) == target


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("udp://host:1", "unknown scheme 'udp'"),
        ("tls://host", "no address"),
        ("tcp://host:1/ws", "path"),
        ("ws://", "no address"),
        ("ws://host:0/ws", "no address"),
        ("wss://alice:secret@host/ws", "log in with"),
        ("wss://host/ws?token=secret", "log in with"),
        ("wss://host/ws#top", "log in with"),
        ("ws://a b/ws", "no address"),
    ],
)
def test_addresses_that_are_refused(address, words):
    """The error says what an address looks like, and never repeats what may be a secret."""
    with pytest.raises(ValueError, match=words) as caught:
        opener_for(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["host:9000", "ws://host/ws", "http://host/"])
def test_context_without_tls_is_refused(address):
    """Whoever gives a context believes that TLS is spoken."""
    with pytest.raises(ValueError, match="not encrypted"):
        opener_for(address, ssl.create_default_context())


async def test_context_beside_ones_own_connector_is_refused():
    """The same where the application connects by itself."""
    with pytest.raises(ValueError, match="your own function"):
        async with open_client(trio.sleep_forever, ssl_context=ssl.create_default_context()):
            pass


def test_host_header():
    """A default port is left out, an IPv6 address is in brackets."""
    assert parse_address("wss://[::1]/ws").authority == "[::1]"
    assert parse_address("ws://[::1]:8080/ws").authority == "[::1]:8080"


def test_tcp_does_not_pay_for_websocket():
    """Neither the client over TCP nor the server's own start imports trio-websocket."""
    code = "import sys, imserver.client, imserver.server; sys.exit('trio_websocket' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------ the same client over each


async def test_login_send_receive_confirm(peer):
    """The plain way on every transport."""
    async with peer.open_client() as client:
        await client.login("bob", "secret", device_id="laptop")
        sent = await client.send("alice", "hello")
        assert (sent.conversation_id, sent.seq) == ("d:alice:bob", 1)
        await peer.say("x" * 100_000)
        message = await anext(client.messages())
        assert message.body == "x" * 100_000
        client.ack(message)
        await peer.wait_for(lambda: peer.delivered["laptop", "d:alice:bob"] == 2)
    await peer.wait_for(lambda: not peer.links)


async def test_reconnects_resends_and_fills_the_gap(peer):
    """A connection that goes in the midst of a send: one message on the server, and what was missed arrives."""
    drops = []

    async def lose_the_first_answer(link, body):
        fields = peer.send_answer(link, body)
        if not drops:
            drops.append(body)
            await peer.say("while away", push=False)
            raise wire.Drop
        return fields

    peer.on[wire.SEND] = lose_the_first_answer
    async with peer.open_client() as client:
        await client.login("bob", "secret", device_id="laptop")
        sent = await client.send("alice", "once")
        assert (sent.seq, sent.duplicate) == (1, True)
        assert (await anext(client.messages())).body == "while away"
    assert [message["body"] for message in peer.log["d:alice:bob"]] == ["once", "while away"]
    assert peer.accepted == 2


async def test_goodbye_is_said_even_on_cancellation():
    """A WebSocket ends with code 1000, also when the client's block is cancelled; the sub-protocol is asked for."""
    async with running_peer("ws") as peer:
        with trio.CancelScope() as scope:
            async with open_client(peer.address) as client:
                await client.login("bob", "secret")
                scope.cancel()
                await trio.sleep_forever()
        await peer.wait_for(lambda: peer.close_codes)
    assert peer.close_codes == [1000]
    assert peer.subprotocols == [("imserver.v1",)]


# ------------------------------------------------------------------ what a WebSocket's message may be


@given(st.lists(st.integers(0, 3 * SMALL_MESSAGE_BYTES), max_size=12))
def test_messages_are_whole_frames_and_bounded(sizes):
    """Nothing is lost or reordered, each message is whole frames, and only a single frame is over the size."""
    frames = [struct.pack("!IHBB", 8 + size, 1, 1, 0) + bytes(size) for size in sizes]
    messages = list(messages_of(b"".join(frames)))
    assert b"".join(messages) == b"".join(frames)
    for message in messages:
        lengths = []
        while message:
            lengths.append(int.from_bytes(message[:4], "big"))
            message = message[lengths[-1] :]
        assert len(lengths) == 1 or sum(lengths) <= SMALL_MESSAGE_BYTES
    assert all(
        len(a) + len(b) > SMALL_MESSAGE_BYTES or len(a) > SMALL_MESSAGE_BYTES for a, b in itertools.pairwise(messages)
    )


@pytest.mark.parametrize("data", [b"\0\0\0\x09\0\1\1\0", b"\0\0\0\x07\0\1\1\0", b"\0\0\0\x08\0\1\1\0\0"])
def test_half_frames_are_never_sent(data):
    """Too short, a length under the header's, and a byte too many."""
    with pytest.raises(ValueError, match="whole frames"):
        list(messages_of(data))


@asynccontextmanager
async def connection_to(act):
    """A `Connection` over a WebSocket whose server does `act(websocket)`."""

    async def handler(request):
        websocket = await request.accept()
        await act(websocket)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(wire.WebSocketServer(handler, await trio.open_tcp_listeners(0, host="127.0.0.1")).run)
        )
        pushed = []
        stream = await opener_for(f"ws://127.0.0.1:{server.port}/ws")(nursery)
        connection = Connection(stream, lambda command, body: pushed.append((command, body)))
        nursery.start_soon(connection.run)
        yield connection, pushed
        nursery.cancel_scope.cancel()


PUSH = wire.frame(wire.READ, {"seq": 1})


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([PUSH[:-1]], "not one or more whole frames"),
        ([PUSH[:5], PUSH[5:]], "not one or more whole frames"),
        ([PUSH + PUSH[:9]], "not one or more whole frames"),
        ([b""], "not one or more whole frames"),
        (['{"cmd": 1}'], "a text message"),
        ([b"\0" * (MAX_MESSAGE_BYTES + 1)], "1009.*maximum message size"),
    ],
)
async def test_messages_that_break_the_protocol_end_the_connection(messages, words):
    """A frame over two messages, a part of one, no frame, text, and a message over the bound; what came before counts."""

    async def act(websocket):
        for message in [PUSH + PUSH, *messages]:
            await websocket.send_message(message)
        await trio.sleep_forever()

    async with connection_to(act) as (connection, pushed):
        await connection.lost.wait()
        assert pushed == [(wire.READ, {"seq": 1})] * 2
        assert re.search(words, connection.lost_reason), connection.lost_reason


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (1000, None, "closed by the server"),
        (4401, "token_expired", "code 4401.*token_expired"),
        (1001, "", "code 1001, going away"),
    ],
)
async def test_close_code_becomes_the_reason(code, text, words):
    """What the server closes with is what the client knows of the end."""
    async with connection_to(lambda websocket: websocket.aclose(code, text)) as (connection, _):
        await connection.lost.wait()
        assert re.search(words, connection.lost_reason), connection.lost_reason


async def test_ping_is_answered_and_an_end_without_close_is_seen():
    """The server's ping gets its pong while nothing else happens; then the socket just goes."""

    async def act(websocket):
        await websocket.ping()
        await trio.aclose_forcefully(websocket._stream)

    async with connection_to(act) as (connection, _):
        await connection.lost.wait()
        assert "ended the connection" in connection.lost_reason


# ------------------------------------------------------------------ what a failure says


async def test_name_that_is_not_known():
    """The host and the resolver's words."""
    assert "no-such-host.invalid, port 9000" in await reason("no-such-host.invalid:9000")


async def test_untrusted_certificate_says_how_to_trust():
    """An authority of one's own is the usual case."""
    async with running_peer("tls", server_context()) as peer:
        text = await reason(peer.address)
    assert "not trusted" in text
    assert "cafile=" in text


async def test_certificate_for_another_name():
    """The authority is right, the host is not."""
    async with running_peer("wss", server_context("im.example")) as peer:
        assert "for another name" in await reason(peer.address, client_context())


async def test_certificate_that_has_expired():
    """Yesterday it was good."""
    context = server_context("127.0.0.1", begins_in_days=-9, ends_in_days=-1)
    async with running_peer("tls", context) as peer:
        assert "has expired" in await reason(peer.address, client_context())


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_client_certificate_that_is_missing(scheme):
    """With TLS 1.3 the server says so only after the client's handshake is done."""
    context = server_context(client_certificates=True)

    async def serve(stream):
        # By hand: Trio's own server sends no alert.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        # A client that is told off may close on what we still send, which resets the connection.
        with suppress(trio.BrokenResourceError):
            async with stream:
                while data := await stream.receive_some():
                    incoming.write(data)
                    with suppress(ssl.SSLError):
                        tls.do_handshake()
                    await stream.send_all(outgoing.read())

    async with serving(serve) as port:
        assert "wants a client certificate" in await reason(f"{scheme}://127.0.0.1:{port}", client_context())


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_client_certificate_serves(scheme):
    """The context's certificate gets the client in."""
    context = client_context()
    AUTHORITY.issue(common_name="bob").configure_cert(context)
    async with (
        running_peer(scheme, server_context(client_certificates=True)) as peer,
        open_client(peer.address, ssl_context=context) as client,
    ):
        assert (await client.login("bob", "secret")).user_id == "bob"


async def test_tls_where_there_is_none_and_the_other_way_round():
    """Both mix-ups of schemes name the right one."""
    async with serving(partial(answer_with, b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert "there is no TLS on this port" in await reason(f"tls://127.0.0.1:{port}", client_context())
        assert "speaks HTTP" in await reason(f"127.0.0.1:{port}")

    async with serving(partial(answer_with, b"\x15\x03\x03\x00\x02\x02\x46")) as port:  # an alert: unexpected message
        assert "begins with tls://" in await reason(f"127.0.0.1:{port}")


async def answer_with(answer, stream):
    """A server that gives one answer to whatever comes."""
    async with stream:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.receive_some()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "hung up during the WebSocket's handshake"),
        (b"\0\0\0\x08\0\3\1\0", "no WebSocket"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "refused the WebSocket: 200 OK"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found; is /ws the path"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", "it points to '/login'"),
        (
            b'HTTP/1.1 403 Forbidden\r\nContent-Length: 34\r\n\r\n{"message": "this Origin may not"}',
            "403 Forbidden: this Origin may not",
        ),
        (b"HTTP/1.1 503 Busy\r\n\r\nno length", "hung up.*after 'HTTP/1.1 503 Busy'"),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
            "no WebSocket",
        ),
    ],
)
async def test_refused_handshake(answer, words):
    """Status and message, or what is there instead of a WebSocket; never a silent wait for the timeout."""

    async def serve(stream):
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with serving(serve) as port:
        text = await reason(f"ws://127.0.0.1:{port}")
    assert re.search(words, text), text


async def test_handshake_without_an_answer_has_a_deadline():
    """A server that says nothing is left after the time to connect, its socket closed."""
    ends = []

    async def serve(stream):
        async with stream:
            while data := await stream.receive_some():
                ends.append(data)
            ends.append(b"")

    async with serving(serve) as port:
        timing = Timing(connect_timeout_s=0.05)
        async with open_client(f"ws://127.0.0.1:{port}", timing=timing, backoff_min_s=60, uniform=max) as client:
            with pytest.raises(RequestTimeout, match=r"cannot connect: no answer for 0\.05 s"):
                await client.login("bob", "secret", timeout_s=0.3)
        assert ends[0].startswith(b"GET /ws HTTP/1.1\r\n")
        assert ends[-1] == b""


async def test_endless_answer_to_the_handshake_is_cut():
    """A body without an end does not fill the memory."""

    async def serve(stream):
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad\r\nContent-Length: 999999999\r\n\r\n")
            with suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(bytes(65536))

    async with serving(serve) as port:
        assert "endless answer" in await reason(f"ws://127.0.0.1:{port}", timeout_s=1)


async def test_retry_after_is_heeded(autojump_clock):
    """A server that refuses for now is left alone as long as it asks; a mad number is bounded."""
    refusals = [b"7", b"999999"]
    asked_at = []

    async def refuse(stream):
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            asked_at.append(trio.current_time())
            headers = [(b"Retry-After", refusals.pop(0))] if refusals else []
            await request.reject(503, extra_headers=headers, body=b"busy")
            await stream.aclose()

    async def connect(nursery):
        client_end, server_end = memory_stream_pair()
        nursery.start_soon(refuse, server_end)
        return await open_websocket_stream(nursery, client_end, "host", "/ws")

    async with open_client("ws://host/ws", backoff_min_s=1, uniform=lambda low, high: high / 1000) as client:
        client._supervisor._open_stream = connect
        with pytest.raises(RequestTimeout, match="503 Service Unavailable"):
            await client.login("bob", "secret", timeout_s=307.5)
    assert [round(at - asked_at[0]) for at in asked_at[1:3]] == [7, 307]
