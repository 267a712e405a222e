"""Sessions over WebSocket on a real server, asked by clients that share no code with it."""

import contextlib
import json
import socket
import threading
import time

import pytest
import trio
from helpers import Nothing, loading, running
from process import PASSWORD
from websocket_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WebSocketClient,
    http_address,
    pack,
)
from websockets.sync.client import connect
from wire import (
    ERROR,
    GOAWAY,
    GZIP,
    HEARTBEAT,
    HELLO,
    JSON,
    LIST_DEVICES,
    LOGIN,
    LOGOUT,
    MESSAGE,
    PUSH_ACK,
    REGISTER,
    SEND,
    ClosedByServer,
    NothingCame,
    direct,
    encode,
)

from imserver.outbox import State
from imserver.plugin import Plugin, command
from imserver.websocket_session import WebSocketSession

NORMAL = b"\x03\xe8"


def session(server, user=None, *, text=False, flags=0, receive_buffer_bytes=None, pongs=True, **options):
    """A WebSocket that is logged in by password, as a new user unless `user` is given."""
    user = user or server.register()
    client = WebSocketClient(server, text=text, flags=flags, receive_buffer_bytes=receive_buffer_bytes, pongs=pongs)
    client.login(user, PASSWORD, **options)
    return client


def in_frames(opcode, payload, sizes, *, reserved=0):
    """A message cut into frames of these sizes; the last one is the rest."""
    data = b""
    for index, size in enumerate([*sizes, None]):
        part, payload = (payload, b"") if size is None else (payload[:size], payload[size:])
        data += pack(opcode if not index else CONTINUATION, part, fin=size is None, reserved=reserved)
    return data


# ---------------------------------------------------------------- what a session does


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_a_whole_session(server, text):
    """REGISTER, LOGIN, SEND, push, PULL, ack: all answers and pushes come in the form of the connection."""
    names = [f"ws-{time.monotonic_ns()}-{number}" for number in (1, 2)]
    alice, bob = (WebSocketClient(server, text=text) for _ in names)
    for client, name in zip((alice, bob), names, strict=True):
        client.ok(REGISTER, user_id=name, password=PASSWORD)
        client.login(name, PASSWORD, device_id="d")
    sent = alice.text(bob.user, "hé 你好", "c1")
    pushed = bob.push()
    assert (pushed["body"], pushed["from"], pushed["seq"]) == ("hé 你好", alice.user, sent["seq"])
    (pulled,) = bob.pull_all(direct(*names))
    assert pulled == pushed
    bob.ok(PUSH_ACK, conversation_id=direct(*names), seq=1)
    bob.send(PUSH_ACK, {"conversation_id": direct(*names), "seq": 1})
    bob.ok(HEARTBEAT)
    assert set(alice.forms) == set(bob.forms) == {TEXT if text else BINARY}
    for client in (alice, bob):
        client.message(CLOSE, NORMAL + b"bye")
        assert client.end() == (1000, "")


def test_a_client_that_is_not_ours(server):
    """The same by `websockets`: a session in text, a push, a clean close."""
    bob = server.login()
    host, port = http_address(server)
    with connect(f"ws://{host}:{port}/ws", additional_headers={"Authorization": f"Bearer {bob.token}"}) as client:

        def ask(**fields):
            client.send(json.dumps(fields))
            return json.loads(client.recv(timeout=20))

        assert ask(cmd=LIST_DEVICES, rid=1)["code"] == 0
        client.send([b'{"cmd"'.decode(), f": {HELLO},", ' "rid": 2}'])  # three frames
        assert json.loads(client.recv(timeout=20))["rid"] == 2
        server.login().text(bob.user, "x" * 70_000, "c1")
        push = json.loads(client.recv(timeout=20))
        assert (push["cmd"], push["body"]) == (MESSAGE, "x" * 70_000)
        client.ping(b"abc").wait(20)
        client.send(encode(HELLO, {"rid": 3}) + encode(HELLO, {"rid": 4}))
        answers = [client.recv(timeout=20), client.recv(timeout=20)]
        assert all(isinstance(answer, bytes) for answer in answers)
    assert client.close_code == 1000


def test_a_message_of_several_frames(server):
    """All of them are carried out in order; each answer is a message of its own."""
    alice, bob = session(server), session(server)
    frames = [
        encode(SEND, {"rid": 100 + number, "to": bob.user, "client_id": f"c{number}", "body": f"m{number}"})
        for number in range(40)
    ]
    alice.message(BINARY, b"".join(frames))
    assert [alice.answer(100 + number)["seq"] for number in range(40)] == list(range(1, 41))
    assert [bob.push()["body"] for _ in range(40)] == [f"m{number}" for number in range(40)]


def test_the_first_message_decides(server):
    """Pushes are text where the first message was text, whatever follows; answers have the form of their request."""
    for text in (True, False):
        bob = session(server, text=text)
        bob.text_mode = not text
        bob.forms.clear()
        bob.ok(HELLO, encoding="json")
        bob.ok(HELLO, encoding="msgpack")
        assert bob.forms == [BINARY, BINARY] if text else [TEXT, TEXT]
        server.login().text(bob.user, "x", "c1")
        bob.push()
        assert bob.forms[-1] == (TEXT if text else BINARY)


def test_a_token_and_then_a_text(server):
    """The login by the handshake is no message: the first one is the client's own."""
    user = server.login()
    client = WebSocketClient(server, text=True, headers=[f"Authorization: Bearer {user.token}"])
    client.ok(LIST_DEVICES)
    server.login().text(user.user, "x", "c1")
    client.push()
    assert set(client.forms) == {TEXT}


def test_pushes_to_one_that_has_not_spoken(server):
    """Binary, as the protocol's page says."""
    user = server.login()
    client = WebSocketClient(server, headers=[f"Authorization: Bearer {user.token}"])
    alice = server.login()
    number = 0
    while not client.forms:
        number += 1
        alice.text(user.user, "x", f"c{number}")  # until the login by the handshake is done
        user.push()
        with contextlib.suppress(NothingCame):
            client.push(timeout_s=0.1)
    assert client.forms == [BINARY]


def test_between_tcp_and_websocket(sharded_server):
    """Messages cross between the two, whatever shards they are on, to all devices of a user."""
    server = sharded_server
    name = server.register()
    devices = [session(server, name, text=bool(number % 2)) for number in range(6)]
    devices += [server.again(devices[0]) for _ in range(4)]
    sender = server.login()
    for number in range(10):
        sender.text(name, f"m{number}", f"c{number}")
    for device in devices:
        assert [device.push()["body"] for _ in range(10)] == [f"m{number}" for number in range(10)]
    for number, device in enumerate(devices):
        device.text(sender.user, "back", f"b{number}")
        assert sender.push()["body"] == "back"


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_missed_messages(server, text):
    """`deliver: "missed"`: what a device has not confirmed comes first, then the live ones."""
    name, alice = server.register(), server.login()
    for number in range(300):
        alice.post(SEND, to=name, client_id=f"c{number}", body=f"m{number}")
    alice.ok(HELLO)
    bob = session(server, name, text=text, device_id="phone", deliver="missed")
    for number in range(300):
        assert bob.push()["seq"] == number + 1
        if number % 100 == 99:
            bob.send(PUSH_ACK, {"conversation_id": direct(alice.user, name), "seq": number + 1})
    bob.ok(HELLO)
    alice.text(name, "live", "live")
    assert bob.push()["seq"] == 301
    assert set(bob.forms) == {TEXT if text else BINARY}


def test_compression(server):
    """`compress: true`: large bodies of binary messages are gzip, those of text never are."""
    name, alice = server.register(), server.login()
    binary, text = session(server, name, compress=True), session(server, name, text=True, compress=True)
    alice.text(name, "ha" * 5000, "c1")
    for client in (binary, text):
        assert client.push()["body"] == "ha" * 5000
    assert binary.last_frame.flags & GZIP
    assert len(binary.last_frame.raw) < 1000
    assert len(text.last_frame.raw) > 10_000
    binary.send(SEND, {"rid": 900, "to": alice.user, "client_id": "c2", "body": "ho" * 3000}, flags=GZIP | JSON)
    assert binary.answer(900)["code"] == 0
    assert alice.push()["body"] == "ho" * 3000


def test_a_text_in_many_frames(server):
    """A text message may come in frames, cut inside a character, with pings in between; and byte by byte."""
    alice, bob = session(server, text=True), session(server)
    body = json.dumps({"cmd": SEND, "rid": 5, "to": bob.user, "client_id": "c", "body": "ää你"}, ensure_ascii=False).encode()
    for number, cuts in enumerate([[1] * (len(body) - 1), [0, 0, 3, 0], [len(body)]]):
        data = b"".join(
            pack(TEXT if not index else CONTINUATION, part, fin=index == len(cuts)) + pack(PING, b"%d" % index)
            for index, part in enumerate(_parts(body.replace(b'"c"', b'"c%d"' % number), cuts))
        )
        for start in range(0, len(data), 7):
            alice.send_raw(data[start : start + 7])
        assert alice.answer(5)["code"] == 0
        assert bob.push()["body"] == "ää你"


def _parts(data, sizes):
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


# ---------------------------------------------------------------- texts that are no request


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        '"x"',
        "null",
        "17",
        "{}",
        '{"cmd": null}',
        '{"cmd": "2001"}',
        '{"cmd": 2001.5}',
        '{"cmd": true}',
        '{"cmd": 0}',
        '{"cmd": -1}',
        '{"cmd": 65536}',
        '{"cmd": 1e400}',
        '{"cmd": 99999999999999999999999999}',
        '{"cmd": 4',
        '{"cmd": 4}{"cmd": 4}',
        '{"cmd": 4, "rid": "\\ud800"}',
        "[" * 3000,
        '{"cmd":' * 500,
        '{"cmd": 4, "x": ' + "[" * 3000,
        "\0",
        "\ufeff" + '{"cmd": 4}',
    ],
)
def test_a_text_that_is_no_request(server, text):
    """ERROR as text, and the connection goes on."""
    client = WebSocketClient(server, text=True)
    client.message(TEXT, text.encode())
    fields = client.push(ERROR)
    assert (fields["code"], client.forms) == (400, [TEXT])
    assert fields["message"]
    client.ok(HELLO)


def test_unknown_commands_and_bad_fields(server):
    """Answered by `rid` where there is one, with the codes that frames get."""
    client = session(server, text=True)
    assert client.fails(404, 65535)["error"] == "unknown_command"
    assert client.fails(400, SEND, to=7, client_id="c", body="x")["field"] == "to"
    client.message(TEXT, b'{"cmd": 0, "rid": 77}')
    assert client.answer(77)["code"] == 400
    client.message(TEXT, b'{"cmd": 65534}')
    assert client.push(ERROR)["code"] == 404
    client.ok(HELLO)


def test_errors_of_frames(server):
    """A frame that breaks the rules inside a good message: ERROR, and the next frame of the message is carried out."""
    client = WebSocketClient(server)
    client.message(BINARY, encode(HELLO, {"rid": 1}, version=9) + encode(HELLO, {"rid": 2}))
    assert client.answer(2)["code"] == 0
    assert client.push(ERROR)["code"] == 400


def test_an_empty_message(server):
    """A binary message without any frame is nothing."""
    client = WebSocketClient(server)
    client.message(BINARY, b"")
    client.ok(HELLO)
    assert not client.pushes


# ---------------------------------------------------------------- rules that are broken

HELLO_TEXT = b'{"cmd":4,"rid":1}'


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (pack(BINARY, encode(HELLO, {})[:-1]), 1002),
        (pack(BINARY, encode(HELLO, {"rid": 1}) + b"\0"), 1002),
        (pack(BINARY, encode(HELLO, {"rid": 1})[:7]), 1002),
        (pack(BINARY, b"\0\0\0\7\0\4\1\0"), 1002),
        (pack(BINARY, b"\0\0\x20\0\0\4\1\0"), 1009),
        (pack(BINARY, b"\xff\xff\xff\xff\0\4\1\0"), 1009),
        (pack(TEXT, HELLO_TEXT, mask=b""), 1002),
        (pack(TEXT, HELLO_TEXT, reserved=4), 1002),
        (pack(TEXT, HELLO_TEXT, reserved=1), 1002),
        (pack(3, b""), 1002),
        (pack(11, b""), 1002),
        (pack(CONTINUATION, HELLO_TEXT), 1002),
        (pack(TEXT, HELLO_TEXT[:3], fin=False) + pack(TEXT, HELLO_TEXT[3:]), 1002),
        (pack(TEXT, HELLO_TEXT[:3], fin=False) + pack(BINARY, b""), 1002),
        (pack(PING, b"", fin=False), 1002),
        (pack(PING, b"x" * 126), 1002),
        (pack(CLOSE, b"\x03"), 1002),
        (pack(CLOSE, b"\x03\xec"), 1002),  # 1004
        (pack(CLOSE, b"\x03\xed"), 1002),  # 1005
        (pack(CLOSE, NORMAL + b"\xff"), 1007),
        (pack(TEXT, b'{"cmd":4,"x":"\xff"}'), 1007),
        (pack(TEXT, b"\xe4\xbd"), 1007),
        (pack(TEXT, b"\xed\xa0\x80"), 1007),
        (pack(BINARY, b"x" * 4097), 1009),
        (pack(TEXT, b"x" * 4097)[:8], 1009),
        (b"\x82\xff" + b"\x7f" + b"\xff" * 7, 1009),
        (b"\x82\xff" + b"\xff" * 8, 1002),
        (in_frames(TEXT, b" " * 5000, [4000]), 1009),
        (in_frames(BINARY, b"", [0] * 1100), 1009),
    ],
)
def test_a_broken_rule(server, data, code):
    """CLOSE with the code that says which kind, a reason in words, and the end; what came before it was carried out."""
    client = WebSocketClient(server)
    client.send_raw(pack(TEXT, b'{"cmd":4,"rid":9}') + data + pack(TEXT, b'{"cmd":4,"rid":10}'))
    ended_with, reason = client.end()
    assert ended_with == code
    assert reason
    assert client.responses[9]["code"] == 0
    assert 10 not in client.responses


def test_the_limit_after_login(make_server):
    """A message of `max_frame` is taken after login, a byte more is 1009, also in frames of which each would do."""
    server = make_server({"limits.max_frame": "64KiB"})
    alice, bob = session(server), session(server)
    plain = len(encode(SEND, {"rid": 50, "to": bob.user, "client_id": "c1", "body": "x" * 60_000}))
    body = "x" * (60_000 + 65_536 - plain)
    frame = encode(SEND, {"rid": 50, "to": bob.user, "client_id": "c1", "body": body})
    assert len(frame) == 65_536
    alice.send_raw(in_frames(BINARY, frame, [20_000, 20_000]))
    assert alice.answer(50)["code"] == 0
    assert bob.push()["body"] == body
    alice.send_raw(in_frames(BINARY, frame + b"x", [65_000]))
    assert alice.end()[0] == 1009
    bob.message(TEXT, b" " * 65_537)
    assert bob.end()[0] == 1009


# ---------------------------------------------------------------- the end


def test_goaway_and_close(server):
    """GOAWAY, in the connection's form, then CLOSE with 4000 + its code and its name."""
    name = server.register()
    for text in (False, True):
        first = session(server, name, text=text, device_id="same")
        session(server, name, device_id="same")
        assert first.end() == (4409, "replaced")
        assert [frame.body["error"] for frame in first.pushes] == ["replaced"]
        assert first.forms[-1] == (TEXT if text else BINARY)


def test_logout(server):
    """The answer, GOAWAY, CLOSE."""
    client = session(server, text=True)
    rid = client.post(LOGOUT)
    code, _ = client.end()
    assert client.responses[rid]["code"] == 0
    assert code == 4401
    assert [frame.command for frame in client.pushes] == [GOAWAY]


def test_draining(make_server):
    """SIGTERM: GOAWAY `draining` and CLOSE 1001, to one that has logged in and to one that has not; the server ends well."""
    server = make_server()
    clients = [session(server, text=True), session(server), WebSocketClient(server)]
    clients[-1].ok(HELLO)
    server.terminate()
    for client in clients:
        assert client.end()[0] == 1001
        assert [frame.body["error"] for frame in client.pushes if frame.command == GOAWAY] == ["draining"]
        client.close()
    assert server.wait() == 0
    assert "Traceback" not in server.text()


def test_no_login_in_time(make_server):
    """One that does not log in gets GOAWAY `idle`; pings are no login."""
    server = make_server({"limits.login_timeout": "0.5s"})
    client = WebSocketClient(server, text=True)
    client.message(PING, b"x")
    client.ok(HELLO)
    assert client.end() == (4401, "idle")


@pytest.mark.parametrize(
    ("payload", "answer"),
    [(b"", 1000), (NORMAL, 1000), (b"\x03\xe9", 1001), (b"\x0f\xa0", 4000), (b"\x13\x87" + "äö".encode() * 30, 4999)],
)
def test_a_close_is_echoed(server, payload, answer):
    """With its code; what was asked before it is answered before it, what comes behind it is ignored."""
    alice, bob = session(server, text=True), server.login()
    fields = {"cmd": SEND, "rid": 9, "to": bob.user, "client_id": "c", "body": "x"}
    alice.send_raw(pack(TEXT, json.dumps(fields).encode()) + pack(CLOSE, payload) + pack(TEXT, HELLO_TEXT) + b"\xff" * 50)
    assert alice.end()[0] == answer
    assert alice.responses[9]["seq"] == 1
    assert bob.push()["body"] == "x"
    assert len(alice.responses) == 1


def test_a_peer_that_ends_its_side(server):
    """A half-closed peer: what it asked is answered, then the server closes too."""
    alice, bob = session(server), server.login()
    rid = alice.post(SEND, to=bob.user, client_id="c", body="x")
    alice.socket.shutdown(socket.SHUT_WR)
    assert alice.answer(rid)["seq"] == 1
    with pytest.raises(ClosedByServer):
        alice.read_frame()


def test_peers_that_vanish(make_server):
    """Resets, ends and closes in every state: nothing stays counted, nothing is logged as a fault."""
    server = make_server()
    token = server.integrated("somebody").token
    headers = [f"Authorization: Bearer {token}"]
    for number in range(200):
        client = WebSocketClient(server, text=bool(number % 2), headers=headers if number % 3 else ())
        how = number % 5
        if how == 0:
            client.ok(HELLO)
        elif how == 1:
            client.send_raw(pack(TEXT, HELLO_TEXT)[: number % 20])
        elif how == 2:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how == 3:
            client.message(CLOSE, NORMAL)
        else:
            client.message(BINARY, b"bad")
        client.close()
    observer = WebSocketClient(server)
    for _ in range(400):
        observer.ok(HELLO)
        figures = metrics(server)
        if figures['imserver_sessions{shard="0"}'] == 2:
            break
        time.sleep(0.02)
    # The observer, the one TCP connection, and the request for the metrics.
    assert (figures['imserver_sessions{shard="0"}'], figures["imserver_connections"]) == (2, 3)
    assert "Traceback" not in server.text()


def metrics(server):
    """The figures of /metrics by name."""
    with socket.create_connection(http_address(server), timeout=20) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while part := sock.recv(65536):
            data += part
    lines = [line.rsplit(" ", 1) for line in data.decode().splitlines() if line.startswith("imserver_")]
    return {name: float(value) for name, value in lines}


# ---------------------------------------------------------------- life


def test_pings(make_server):
    """The server pings; two without an answer are the end, also for a peer that has only stopped talking."""
    server = make_server({"http.websocket_ping": "0.2s"})
    client = session(server, pongs=False)
    assert client.end() == (4408, "idle")
    assert client.pings == [b"", b""]
    assert client.pushes[-1].body["error"] == "idle"


def test_what_counts_as_life(make_server):
    """A PONG keeps the connection, and so does anything else, though it be half a frame."""
    server = make_server({"http.websocket_ping": "0.2s"})
    name = server.register()
    clients = [session(server, name, text=True, pongs=False) for _ in range(4)]
    slow = pack(TEXT, b'{"cmd":4,"rid":99}')
    for number in range(6):
        for client in clients:
            while True:
                opcode, payload = client.read_message()
                if opcode == PING:
                    break
                assert opcode == PONG, payload
        clients[0].message(PONG, b"")
        clients[1].message(PING, b"mine")
        clients[2].message(TEXT, b'{"cmd":1}')
        clients[3].send_raw(slow[number : number + 1])
    clients[3].send_raw(slow[6:])
    assert clients[3].answer(99)["code"] == 0


def test_a_ping_is_answered(server):
    """PONG with the same payload, before the answers of what waits; of a flood at least the newest."""
    client = WebSocketClient(server)
    for payload in (b"", b"x", b"y" * 125):
        client.message(PING, payload)
        assert client.pong() == payload
    client.send_raw(b"".join(pack(PING, b"%d" % number) for number in range(1000)))
    while client.pong() != b"999":
        pass
    client.ok(HELLO)


def test_floods_of_control_frames(server):
    """PINGs whose answers nobody reads and PONGs nobody asked for: the server holds little and serves others."""
    flood = pack(PING, b"x" * 125, mask=b"abcd") * 400
    client = session(server, receive_buffer_bytes=4096)
    other = session(server)
    for _ in range(60):
        client.send_raw(flood)
        other.ok(HELLO)
    client.send_raw(pack(PONG, b"unasked", mask=b"abcd") * 20_000)
    client.send_raw(pack(PING, b"the last"))
    while client.pong() != b"the last":
        pass
    other.ok(HELLO)


def test_a_slow_reader(make_server):
    """One that does not read gets GOAWAY `slow_consumer` and CLOSE, at a message's end, behind what it had begun."""
    server = make_server({"limits.outbox": "256KiB"})
    bob, alice = session(server, receive_buffer_bytes=4096, pongs=False), server.login()
    number = 0
    while not any(record.get("event") == "slow_consumer" for record in server.logs()):
        alice.text(bob.user, "x" * 50_000, f"c{number}")
        number += 1
        assert number < 500
    code, reason = bob.end()
    assert (code, reason) == (4503, "slow_consumer")
    assert bob.pushes[-1].body["error"] == "slow_consumer"
    assert len(bob.pushes) < number + 1


def test_empty_fragments(server):
    """Frames without a byte do not make a message endless, however slowly they come."""
    client = session(server)
    client.message(TEXT, b"", fin=False)
    for _ in range(10):
        client.send_raw(pack(CONTINUATION, b"", fin=False) * 100)
        client.message(PING, b"")
        assert client.pong() == b""
    client.send_raw(pack(CONTINUATION, b"", fin=False) * 100)
    assert client.end()[0] == 1009


def test_bad_texts_count_as_requests(make_server):
    """They are charged against the connection's rate like requests."""
    server = make_server({"limits.requests_per_second": "10"})
    client = WebSocketClient(server, text=True)
    client.send_raw(pack(TEXT, b"bad") * 200)
    for _ in range(200):
        client.push(ERROR)
    assert client.fails(429, HELLO)["retry_after_ms"] > 1000


# ---------------------------------------------------------------- inside one process, where the disk and the clock obey


class Peer:
    """A WebSocket client on one end of a socket pair, whose handshake is done."""

    def __init__(self, rig):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        rig.directory.count("127.0.0.1")
        self.session = WebSocketSession(rig.shard, theirs, "127.0.0.1")
        rig.shard.accept(self.session)
        self.socket = trio.socket.from_stdlib_socket(ours)
        self.buffer = bytearray()

    async def send(self, *messages):
        await self.socket.send(b"".join(messages))

    async def receive(self):
        """(opcode, payload) of the next message that is no PING."""
        while True:
            first, length = await self._take(2)
            if length == 126:
                length = int.from_bytes(await self._take(2), "big")
            payload = await self._take(length)
            if first & 0xF != PING:
                return first & 0xF, payload

    async def _take(self, count):
        with trio.fail_after(20):
            while len(self.buffer) < count:
                data = await self.socket.recv(65536)
                assert data, "the end"
                self.buffer += data
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    async def login(self, user):
        await self.send(text(LOGIN, rid=1, user=user))
        assert (await self.receive())[0] == TEXT


@contextlib.asynccontextmanager
async def core(folder, *plugins):
    """A running core and a peer in it, logged in as bob."""
    async with running(folder, *plugins) as rig:
        peer = Peer(rig)
        try:
            await peer.login("bob")
            yield rig, peer
        finally:
            peer.socket.close()


def text(command_id, **fields):
    """A request as a text message."""
    return pack(TEXT, json.dumps({"cmd": command_id, **fields}).encode())


@pytest.mark.parametrize("asks", [False, True], ids=["idle", "asking"])
async def test_a_close_while_others_keep_the_disk_busy(tmp_path, asks):
    """It is answered when what waited at that time is durable: the clock stands still here, so no time limit helps."""
    async with core(tmp_path) as (rig, peer):
        alice = await rig.login("alice")
        await alice.ok(SEND, to="bob", body="opens the conversation")
        await peer.receive()
        rig.store.shut()
        await alice.post(SEND, to="carol")
        await rig.store.wait_entered()
        if asks:
            await peer.send(text(SEND, rid=5, to="alice", body="last"))
        await peer.send(pack(CLOSE, NORMAL))
        await rig.until(lambda: peer.session.state is State.CLOSING)
        assert not peer.buffer
        rig.store.open()
        if asks:
            opcode, payload = await peer.receive()
            assert (opcode, json.loads(payload)["rid"]) == (TEXT, 5)
        assert await peer.receive() == (CLOSE, NORMAL)


class Turnstile:
    """A gate of the store that lets commits through one by one."""

    def __init__(self):
        self._commits = threading.Semaphore(0)

    def wait(self, timeout_s):
        self._commits.acquire(timeout=timeout_s)

    def set(self, commits=1000):
        self._commits.release(commits)


async def test_a_close_while_the_disk_is_never_idle(tmp_path):
    """Both CLOSE and the end of the stream come though somebody else's batch still waits."""
    async with core(tmp_path) as (rig, peer):
        alice = await rig.login("alice")
        rig.store.gate = turnstile = Turnstile()
        rig.store.entered = threading.Semaphore(0)
        await alice.post(SEND, to="carol")
        await rig.store.wait_entered()
        await peer.send(pack(CLOSE, NORMAL))
        await rig.until(lambda: peer.session.state is State.CLOSING)
        await alice.post(SEND, to="carol")
        await rig.until(lambda: len(rig.shard.waiting) == 2)
        turnstile.set(1)
        assert await peer.receive() == (CLOSE, NORMAL)
        with trio.fail_after(20):
            assert await peer.socket.recv(1) == b""
        assert len(rig.shard.waiting) == 1


async def test_pings_of_one_who_does_not_read(tmp_path):
    """Only the newest PONG waits, however many pings come one by one."""
    async with core(tmp_path) as (rig, peer):
        for number in range(3000):
            await peer.send(pack(PING, b"%0125d" % number))
        await rig.until(lambda: b"%0125d" % 2999 in peer.session._pong)
        assert peer.session.queued_bytes < 1024
        opcode, payload = await peer.receive()
        while payload != b"%0125d" % 2999:
            opcode, payload = await peer.receive()
            assert opcode == PONG
        await peer.send(text(HELLO, rid=2))
        assert (await peer.receive())[0] == TEXT


class Slow(Plugin):
    """A command that needs what takes long to load."""

    name = "slow"

    def __init__(self):
        self.loaded = trio.Event()

    @command(6001, request=Nothing, name="SLOW")
    def slow(self, ctx, request):
        if not self.loaded.is_set():
            loading(ctx, "it", self.loaded.wait)
        return {}


async def test_no_pings_while_nothing_is_read(tmp_path):
    """While a request holds up the connection, whose PONGs are not read, it is not taken for dead; a CLOSE waits, too."""
    plugin = Slow()
    async with core(tmp_path, plugin) as (rig, peer):
        await peer.send(text(6001, rid=2), text(HELLO, rid=3), pack(CLOSE, NORMAL))
        await rig.until(lambda: peer.session.is_waiting_for_load)
        for _ in range(4):
            rig.clock.advance(61)
            seen = rig.shard.now
            await rig.until(lambda seen=seen: rig.shard.now > seen)
        assert peer.session.state is State.OPEN
        plugin.loaded.set()
        answers = [await peer.receive() for _ in range(2)]
        assert sorted(json.loads(payload)["rid"] for _, payload in answers) == [2, 3]
        assert await peer.receive() == (CLOSE, NORMAL)
