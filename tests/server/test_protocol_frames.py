"""Frames on a real socket: the eight bytes, both encodings, compression, and whatever breaks the rules."""

import contextlib
import gzip
import json
import random
import struct
import time

import msgpack
import pytest
import wire
from wire import (
    ERROR,
    GOAWAY,
    GZIP,
    HEARTBEAT,
    HELLO,
    JSON,
    LOGIN,
    PULL,
    SEND,
    ClosedByServer,
    direct,
    encode,
)

BARE_HEARTBEAT = bytes.fromhex("0000000800010100")


def error_push(client):
    """The next ERROR push: its body, checked for the fields that every error has."""
    body = client.push(ERROR)
    assert isinstance(body["code"], int)
    assert body["error"]
    assert body["message"]
    return body


def still_serves(client):
    """The connection works on after whatever came before."""
    assert client.ok(HEARTBEAT)["server_time"] > 0


class TestHeader:
    """The header of both directions."""

    def test_bare_heartbeat(self, server):
        """Eight bytes are answered by the same eight bytes, before login already."""
        with server.client() as client:
            client.send_raw(BARE_HEARTBEAT)
            client._fill(8, time.monotonic() + 30)
            assert bytes(client.buffer) == BARE_HEARTBEAT

    def test_heartbeat_with_rid(self, server):
        """With a `rid` the heartbeat tells the server's time in milliseconds."""
        with server.client() as client:
            assert client.ok(HEARTBEAT)["server_time"] > 1_700_000_000_000

    def test_plain_client_gets_plain_frames(self, server):
        """Version 1, no flags, the request's command, and a MessagePack map."""
        with server.client() as client:
            client.send_raw(encode(HELLO, {"rid": 7}))
            frame = client.read_frame()
        assert (frame.command, frame.version, frame.flags) == (HELLO, 1, 0)
        assert frame.body["rid"] == 7
        assert frame.body["code"] == 0

    def test_hello(self, server):
        """HELLO is open to anyone and tells the bounds that the client must keep."""
        with server.client() as client:
            answer = client.ok(HELLO, client="tests", version="1", encoding="msgpack")
        assert answer["max_frame"] == 1024 * 1024
        assert answer["heartbeat_ms"] == 30_000
        assert answer["time"] > 1_700_000_000_000
        assert isinstance(answer["server"], str)
        assert answer["version"] == 1

    def test_hello_without_a_body(self, server):
        """An empty body is the empty map: carried out, not answered, no error."""
        with server.client() as client:
            client.send_raw(encode(HELLO))
            still_serves(client)
            assert not client.pushes


class TestEncodings:
    """JSON and gzip bodies."""

    def test_json_request_is_answered_in_json(self, server):
        """The flag 0x02 both ways."""
        with server.client(flags=JSON) as client:
            client.ok(HELLO)
            assert client.last_frame.flags == JSON
            json.loads(client.last_frame.raw)

    def test_json_client_gets_json_pushes(self, server):
        """A client that speaks only JSON can read every push."""
        alice, bob = server.login(), server.login(flags=JSON)
        alice.text(bob.user, "hello 你好", "c1")
        assert bob.push()["body"] == "hello 你好"
        assert bob.last_frame.flags == JSON

    def test_json_to_messagepack(self, server):
        """What is sent in JSON arrives in MessagePack, structure and all."""
        alice, bob = server.login(flags=JSON), server.login()
        value = {"n": 1, "f": 1.5, "t": True, "z": None, "l": [1, "zwei", {"three": 3}], "s": "é"}
        alice.ok(SEND, to=bob.user, client_id="c1", type="custom", body=value)
        assert bob.push()["body"] == value

    def test_binary_to_json_is_base64(self, server):
        """Binary of a MessagePack sender reaches a JSON reader as base64."""
        alice, bob = server.login(), server.login(flags=JSON)
        alice.ok(SEND, to=bob.user, client_id="c1", type="custom", body={"data": b"\x00\xff\x10"})
        assert bob.push()["body"] == {"data": "AP8Q"}

    def test_binary_stays_binary(self, server):
        """Binary between MessagePack clients is binary, in the push and in the archive."""
        alice, bob = server.login(), server.login()
        alice.ok(SEND, to=bob.user, client_id="c1", type="custom", body=b"\x00\xff\x10")
        assert bob.push()["body"] == b"\x00\xff\x10"
        assert bob.pull_all(direct(alice.user, bob.user))[0]["body"] == b"\x00\xff\x10"

    @pytest.mark.parametrize("flags", [GZIP, GZIP | JSON])
    def test_compressed_request(self, server, flags):
        """A gzip body is read, and answered uncompressed to a client that did not ask for compression."""
        with server.client() as client:
            client.send_raw(encode(HELLO, {"rid": 1}, flags=flags))
            frame = client.read_frame()
        assert frame.body["code"] == 0
        assert frame.flags == flags & JSON

    def test_compress_at_login(self, pair, server):
        """`compress` makes large frames small and leaves small ones alone; other connections are not concerned."""
        alice, bob = pair
        zipped = server.again(bob, compress=True)
        alice.text(bob.user, "a" * 20_000, "large")
        assert zipped.push()["body"] == "a" * 20_000
        assert zipped.last_frame.flags == GZIP
        assert len(zipped.last_frame.raw) < 2_000
        assert bob.push()["body"] == "a" * 20_000
        assert bob.last_frame.flags == 0
        alice.text(bob.user, "small", "small")
        assert zipped.push()["body"] == "small"
        assert zipped.last_frame.flags == 0

    def test_compress_only_where_it_gets_smaller(self, pair, server):
        """What gzip cannot shrink goes out as it is."""
        alice, bob = pair
        zipped = server.again(bob, compress=True)
        noise = random.Random(1).randbytes(4_000)
        alice.ok(SEND, to=bob.user, client_id="noise", type="custom", body=noise)
        assert zipped.push()["body"] == noise
        assert zipped.last_frame.flags == 0

    def test_compressed_answer(self, pair, server):
        """A large answer is compressed too."""
        alice, bob = pair
        for n in range(5):
            alice.text(bob.user, "b" * 1_000, f"c{n}")
        zipped = server.again(bob, compress=True)
        assert len(zipped.pull_all(direct(alice.user, bob.user))) == 5
        zipped.ok(PULL, conversation_id=direct(alice.user, bob.user))
        assert zipped.last_frame.flags == GZIP


class TestBoundaries:
    """TCP knows no frames: any split, any join."""

    def test_byte_by_byte(self, server):
        """A frame that comes in single bytes is one frame."""
        with server.client() as client:
            for byte in encode(HELLO, {"rid": 5, "client": "slow"}):
                client.send_raw(bytes([byte]))
            assert client.answer(5)["code"] == 0

    def test_many_frames_in_one_packet(self, pair):
        """All are answered; messages keep their order."""
        alice, bob = pair
        packet = b"".join(
            encode(SEND, {"rid": 1000 + n, "to": bob.user, "client_id": f"c{n}", "body": f"text {n}"}) for n in range(50)
        )
        alice.send_raw(packet)
        assert [alice.answer(1000 + n)["seq"] for n in range(50)] == list(range(1, 51))
        assert [bob.push()["body"] for _ in range(50)] == [f"text {n}" for n in range(50)]

    @pytest.mark.parametrize("cut", [1, 4, 7, 8, 9, -1])
    def test_trailing_part_of_a_frame(self, server, cut):
        """A whole frame with the start of the next: the first is answered now, the second when it is whole."""
        first, second = encode(HELLO, {"rid": 1}), encode(HELLO, {"rid": 2})
        with server.client() as client:
            client.send_raw(first + second[:cut])
            assert client.answer(1)["code"] == 0
            client.send_raw(second[cut:])
            assert client.answer(2)["code"] == 0

    def test_large_frame_in_pieces(self, pair):
        """A frame of hundreds of kilobytes, far beyond one read, arrives whole."""
        alice, bob = pair
        body = bytes(range(256)) * 2_000
        alice.ok(SEND, to=bob.user, client_id="large", type="custom", body=body)
        assert bob.push()["body"] == body


#: Bodies that are no map with string keys, by name: (flags, bytes).
NO_MAPS = {
    "array": (0, msgpack.packb([1, 2])),
    "integer": (0, msgpack.packb(5)),
    "string": (0, msgpack.packb("text")),
    "nil": (0, b"\xc0"),
    "truncated": (0, msgpack.packb({"rid": 1, "client": "abcdef"})[:-3]),
    "two-values": (0, msgpack.packb({"rid": 1}) * 2),
    "integer-keys": (0, msgpack.packb({1: 2})),
    "never-used-byte": (0, b"\xc1"),
    "string-not-utf8": (0, b"\x81\xa3rid\xa1\xff"),
    "json-array": (JSON, b"[1]"),
    "json-number": (JSON, b"1"),
    "json-null": (JSON, b"null"),
    "json-truncated": (JSON, b'{"rid": 1'),
    "json-not-utf8": (JSON, b'{"client": "\xff"}'),
    "json-trailing": (JSON, b'{"rid": 1} {}'),
    "messagepack-as-json": (JSON, msgpack.packb({"rid": 1})),
    "json-as-messagepack": (0, b'{"rid": 1}'),
    "not-gzip": (GZIP, b"not gzip at all"),
    "gzip-truncated": (GZIP, gzip.compress(msgpack.packb({"rid": 1, "client": "x" * 200}))[:-9]),
    "gzip-array": (GZIP, gzip.compress(msgpack.packb([1]))),
}


class TestBrokenFrames:
    """Frames that break the rules get ERROR and, while the boundary is known, cost nothing else."""

    @pytest.mark.parametrize("name", NO_MAPS)
    def test_body_that_is_no_map(self, server, name):
        """ERROR with 400 and the command; the connection serves on."""
        flags, data = NO_MAPS[name]
        with server.client() as client:
            client.send_raw(encode(HELLO, data, flags=flags))
            body = error_push(client)
            assert body["code"] == 400
            assert body["command"] == HELLO
            still_serves(client)

    @pytest.mark.parametrize("flags", [0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF])
    def test_unknown_flags(self, server, flags):
        """ERROR with 400; the connection serves on."""
        with server.client() as client:
            client.send_raw(wire.HEADER.pack(8, HELLO, 1, flags))
            assert error_push(client)["code"] == 400
            still_serves(client)

    @pytest.mark.parametrize("version", [0, 2, 255])
    def test_another_version(self, server, version):
        """ERROR with 400: the length still tells where the frame ends, so the connection may serve on or be closed."""
        with server.client() as client:
            client.send_raw(encode(HELLO, {"rid": 1}, version=version))
            assert error_push(client)["code"] == 400
            with contextlib.suppress(ClosedByServer, ConnectionError):
                still_serves(client)

    @pytest.mark.parametrize("length", [0, 1, 7])
    def test_length_below_the_header(self, server, length):
        """No boundary is known any more: the connection is closed, told why."""
        with server.client() as client:
            client.send_raw(struct.pack(">IHBB", length, HELLO, 1, 0) + b"\x80" * 20)
            frames = client.read_to_end()
        assert [frame.command for frame in frames if frame.command not in (ERROR, GOAWAY)] == []
        assert frames
        assert frames[0].body["code"] == 400

    def test_length_of_four_gibibytes(self, server):
        """The header alone is enough to be closed with 413; nothing is waited for."""
        alice = server.login()
        alice.send_raw(struct.pack(">IHBB", 2**32 - 1, SEND, 1, 0))
        frames = alice.read_to_end()
        assert frames[0].command == ERROR
        assert frames[0].body["code"] == 413

    def test_frame_over_the_limit(self, pair):
        """One byte over `max_frame` is 413, and nothing of it is stored."""
        alice, bob = pair
        alice.send_raw(wire.HEADER.pack(1024 * 1024 + 1, SEND, 1, 0))
        frames = alice.read_to_end()
        assert frames[0].command == ERROR
        assert frames[0].body["code"] == 413
        assert bob.sync_all()[0] == {}

    def test_frame_of_exactly_the_limit(self, pair):
        """`max_frame` itself is allowed on the wire: answered, if by a limit of the message's own, never closed."""
        alice, bob = pair
        fields = {"rid": 1, "to": bob.user, "client_id": "c", "type": "custom"}
        overhead = len(encode(SEND, {**fields, "body": b"\0" * 100_000})) - 100_000
        frame = encode(SEND, {**fields, "body": b"\0" * (1024 * 1024 - overhead)})
        assert len(frame) == 1024 * 1024
        alice.send_raw(frame)
        assert alice.answer(1)["code"] in (0, 413)
        still_serves(alice)

    def test_gzip_bomb(self, pair):
        """A small frame that inflates beyond `max_frame` is 413, and the connection serves on."""
        alice, bob = pair
        body = msgpack.packb({"rid": 1, "to": bob.user, "client_id": "c", "body": "\0" * (64 * 1024 * 1024)})
        alice.send_raw(encode(SEND, gzip.compress(body), flags=GZIP))
        assert error_push(alice)["code"] == 413
        still_serves(alice)

    def test_gzip_bomb_before_login(self, server):
        """Before login the inflated size has the small bound too, or at least the great one."""
        body = gzip.compress(msgpack.packb({"rid": 1, "client": "\0" * (3 * 1024 * 1024)}))
        with server.client() as client:
            assert len(body) < 4_000
            client.send_raw(encode(HELLO, body, flags=GZIP))
            frames = []
            with contextlib.suppress(ClosedByServer):
                frames.append(client.read_frame())
            assert [(frame.command, frame.body["code"]) for frame in frames] in ([(ERROR, 413)], [])
        with server.client() as client:
            still_serves(client)

    @pytest.mark.parametrize("depth", [200, 2_000, 200_000])
    @pytest.mark.parametrize("flags", [0, JSON])
    def test_nesting_bomb(self, pair, flags, depth):
        """A body nested deeper than any message is 400 and harms nobody."""
        alice, bob = pair
        if flags == JSON:
            nested = b"[" * depth + b"]" * depth
            data = b'{"to": "%s", "client_id": "c", "body": %s}' % (bob.user.encode(), nested)
        else:
            data = b"\x83" + b"".join(msgpack.packb(part) for part in ("to", bob.user, "client_id", "c", "body"))
            data += b"\x91" * (depth - 1) + b"\x90"
        alice.send_raw(encode(SEND, data, flags=flags))
        assert error_push(alice)["code"] == 400
        still_serves(alice)
        assert bob.sync_all()[0] == {}

    def test_modest_nesting_is_fine(self, pair):
        """Sixteen levels are a message, not a bomb."""
        alice, bob = pair
        value = "core"
        for _ in range(16):
            value = [value]
        alice.ok(SEND, to=bob.user, client_id="c", type="custom", body=value)
        assert bob.push()["body"] == value

    def test_huge_claimed_sizes_inside_a_body(self, pair):
        """A map, array, string or binary that claims 4 GiB and brings none is 400, not memory."""
        alice, _ = pair
        for claim in (b"\xdf\xff\xff\xff\xff", b"\x81\xa1a\xdd\xff\xff\xff\xff", b"\x81\xa1a\xdb\xff\xff\xff\xff"):
            alice.send_raw(encode(SEND, claim))
            assert error_push(alice)["code"] == 400
        still_serves(alice)


class TestBeforeLogin:
    """What a stranger may send."""

    def test_frames_over_4_kib(self, server):
        """A frame over 4 KiB is 413 and the end of the connection or of the frame, before any of the body is kept."""
        with server.client() as client:
            client.send_raw(wire.HEADER.pack(4097, HELLO, 1, 0))
            frame = client.read_frame()
            assert frame.command == ERROR
            assert frame.body["code"] == 413

    def test_frames_of_4_kib(self, server):
        """4 KiB exactly are allowed."""
        overhead = len(encode(HELLO, {"rid": 1, "padding": "x" * 300})) - 300
        with server.client() as client:
            frame = encode(HELLO, {"rid": 1, "padding": "x" * (4096 - overhead)})
            assert len(frame) == 4096
            client.send_raw(frame)
            assert client.answer(1)["code"] == 0

    def test_larger_frames_after_login(self, pair):
        """The login lifts the bound."""
        alice, bob = pair
        alice.text(bob.user, "x" * 10_000, "c")
        assert len(bob.push()["body"]) == 10_000


class TestRid:
    """Requests without a number, and with a bad one."""

    @pytest.mark.parametrize("fields", [{}, {"rid": 0}])
    def test_without_rid_it_is_carried_out_unanswered(self, pair, fields):
        """The message is sent; nothing answers; the next request is served."""
        alice, bob = pair
        alice.send(SEND, {**fields, "to": bob.user, "client_id": "c", "body": "no rid"})
        assert bob.push()["body"] == "no rid"
        still_serves(alice)
        assert [frame for frame in alice.pushes if frame.command != wire.READ] == []

    def test_without_rid_a_failure_is_an_error_push(self, pair):
        """ERROR names the command."""
        alice, _ = pair
        alice.send(SEND, {"to": "nobody-of-this-name", "client_id": "c", "body": "text"})
        body = error_push(alice)
        assert body["code"] == 404
        assert body["command"] == SEND

    @pytest.mark.parametrize("rid", [-1, 2**32, 2**64 - 1, "1", 1.5, True, None, [1], {}])
    def test_bad_rid(self, server, rid):
        """400 naming `rid`; the connection serves on."""
        with server.client() as client:
            client.send(HELLO, {"rid": rid})
            frame = client.read_frame()
            assert frame.body["code"] == 400
            assert frame.body.get("field", "rid") == "rid"
            still_serves(client)

    def test_greatest_rid(self, server):
        """2**32 - 1 is a number like any other."""
        with server.client() as client:
            client.send(HELLO, {"rid": 2**32 - 1})
            assert client.answer(2**32 - 1)["code"] == 0

    def test_unknown_fields_are_ignored(self, pair):
        """A newer client's fields do not hurt an older server."""
        alice, bob = pair
        alice.text(bob.user, "text", "c", colour="blue", nested={"a": [1]})
        assert bob.push()["body"] == "text"


class TestUnknownCommands:
    """IDs that nobody serves."""

    @pytest.mark.parametrize("command", [0, 5, 999, 2099, 6001, 65535])
    def test_unknown(self, server, command):
        """404 `unknown_command`, to a user."""
        alice = server.login()
        assert alice.fails(404, command)["error"] == "unknown_command"
        alice.send(command, {})
        body = error_push(alice)
        assert (body["code"], body["error"], body["command"]) == (404, "unknown_command", command)
        still_serves(alice)

    @pytest.mark.parametrize("command", [GOAWAY, ERROR, wire.MESSAGE, wire.READ])
    def test_pushes_are_not_requests(self, server, command):
        """What only the server sends is no command of a client's."""
        alice = server.login()
        assert alice.fails(404, command)["error"] == "unknown_command"

    def test_unknown_before_login(self, server):
        """A stranger learns no more than that it is not served."""
        with server.client() as client:
            client.fails((401, 404), 6001)

    def test_login_twice(self, server):
        """A bound connection stays bound: 409."""
        alice = server.login()
        alice.fails(409, LOGIN, user_id=alice.user, password=alice.password)
        still_serves(alice)
