"""The server's WebSocket codec: messages, fragments, control frames, broken rules, bounds; whole and in pieces."""

import itertools
import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websocket_rig import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    client_frame,
    decode,
    in_pieces,
    length_bytes,
    seen,
)

from imserver.protocol.websocket import (
    FAILED,
    MAX_FRAGMENTS,
    WebSocketDecoder,
    accept_key,
    header,
    pack_close,
    pack_message,
)

LIMIT = 1000
#: What may be held beside a message: a header of 14 bytes, or a control frame that is not whole.
BESIDE_BYTES = 130
EURO = "€".encode()


def fragments(opcode, *payloads, between=b""):
    """One message in several frames, with these bytes between each two of them."""
    last = len(payloads) - 1
    frames = [
        client_frame(CONTINUATION if index else opcode, payload, is_last=index == last)
        for index, payload in enumerate(payloads)
    ]
    return between.join(frames)


GOOD_CASES = {
    "empty binary": (client_frame(BINARY), [(BINARY, b"")]),
    "empty text": (client_frame(TEXT), [(TEXT, b"")]),
    "binary": (client_frame(BINARY, b"\x00\xff\x80"), [(BINARY, b"\x00\xff\x80")]),
    "text": (client_frame(TEXT, EURO), [(TEXT, EURO)]),
    "a mask of zeros": (client_frame(BINARY, b"abcde", mask=bytes(4)), [(BINARY, b"abcde")]),
    **{
        f"{length} bytes": (
            client_frame(BINARY, b"ab" * (length // 2) + b"c" * (length % 2)),
            [(BINARY, (b"ab" * length)[: length - length % 2] + b"c" * (length % 2))],
        )
        for length in (1, 3, 4, 5, 125, 126, 127, LIMIT)
    },
    "a length in more bytes than it needs": (
        client_frame(BINARY, b"abc", length=struct.pack(">BQ", 0xFF, 3)),
        [(BINARY, b"abc")],
    ),
    "two messages": (client_frame(BINARY, b"a") + client_frame(TEXT, b"b"), [(BINARY, b"a"), (TEXT, b"b")]),
    "binary in fragments": (fragments(BINARY, b"ab", b"", b"\xff"), [(BINARY, b"ab\xff")]),
    "text cut inside a character": (fragments(TEXT, EURO[:1], EURO[1:2], EURO[2:] + b"."), [(TEXT, EURO + b".")]),
    "text in empty fragments": (fragments(TEXT, b"", b"", b""), [(TEXT, b"")]),
    "a text behind a text in fragments": (
        fragments(TEXT, b"a", b"b") + client_frame(TEXT, b"c"),
        [(TEXT, b"ab"), (TEXT, b"c")],
    ),
    "a ping between fragments": (
        fragments(TEXT, EURO[:2], EURO[2:], between=client_frame(PING, b"\xff?")),
        [(PING, b"\xff?"), (TEXT, EURO)],
    ),
    "a pong nobody asked for": (client_frame(PONG, b"x" * 125), [(PONG, b"x" * 125)]),
    "an empty close": (client_frame(CLOSE), [(CLOSE, b"")]),
    "a close between fragments": (
        client_frame(BINARY, b"a", is_last=False) + client_frame(CLOSE, b"\x03\xe8"),
        [(CLOSE, b"\x03\xe8")],
    ),
    "a close with a long reason": (client_frame(CLOSE, b"\x03\xe8" + EURO * 41), [(CLOSE, b"\x03\xe8" + EURO * 41)]),
    **{
        f"close {code}": (client_frame(CLOSE, code.to_bytes(2, "big") + b"bye"), [(CLOSE, code.to_bytes(2, "big") + b"bye")])
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    },
}

BROKEN_RULES = {
    **{f"reserved bits {bits:03b}": (client_frame(BINARY, b"a", reserved=bits), 1002) for bits in range(1, 8)},
    **{f"opcode {opcode}": (client_frame(opcode, b"a"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "unmasked binary": (client_frame(BINARY, b"a", mask=None), 1002),
    "unmasked text": (client_frame(TEXT, b"a", mask=None), 1002),
    "unmasked ping": (client_frame(PING, mask=None), 1002),
    "a ping in fragments": (client_frame(PING, b"a", is_last=False), 1002),
    "a close in fragments": (client_frame(CLOSE, is_last=False), 1002),
    "a ping of 126 bytes": (client_frame(PING, b"a" * 126), 1002),
    "a pong of 126 bytes": (client_frame(PONG, b"a" * 126), 1002),
    "a ping with its length in more bytes than it needs": (client_frame(PING, length=b"\xfe\0\0"), 1002),
    "a continuation of nothing": (client_frame(CONTINUATION, b"a"), 1002),
    "a continuation of nothing that goes on": (client_frame(CONTINUATION, b"a", is_last=False), 1002),
    "binary inside binary": (client_frame(BINARY, is_last=False) + client_frame(BINARY), 1002),
    "text inside text": (client_frame(TEXT, is_last=False) + client_frame(TEXT), 1002),
    "text inside binary": (client_frame(BINARY, is_last=False) + client_frame(TEXT, is_last=False), 1002),
    "a length of 64 bits": (b"\x82\xff" + struct.pack(">Q", 1 << 63) + MASK, 1002),
    "a text length of 64 bits": (b"\x81\xff" + struct.pack(">Q", (1 << 64) - 1) + MASK, 1002),
    "too long": (client_frame(BINARY, b"a" * (LIMIT + 1)), 1009),
    "too long a text": (client_frame(TEXT, b"a" * (LIMIT + 1)), 1009),
    "4 EiB": (b"\x82\xff" + struct.pack(">Q", 1 << 62) + MASK, 1009),
    "too long together": (fragments(BINARY, b"a" * LIMIT, b"b"), 1009),
    "too long together in 4 EiB": (client_frame(TEXT, b"a", is_last=False) + b"\x80\xff" + struct.pack(">Q", 1 << 62), 1009),
    "text that is not UTF-8": (client_frame(TEXT, b"ok\xff"), 1007),
    "text that ends inside a character": (client_frame(TEXT, b"ok" + EURO[:2]), 1007),
    "text with a surrogate": (client_frame(TEXT, b"\xed\xa0\x80"), 1007),
    "text beyond Unicode": (client_frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "text in too many bytes": (client_frame(TEXT, b"\xc0\xaf"), 1007),
    "fragments that end inside a character": (fragments(TEXT, b"ok", EURO[:2]), 1007),
    "a fragment that cannot go on a character": (fragments(TEXT, EURO[:2], b"a"), 1007),
    "a close of 1 byte": (client_frame(CLOSE, b"\x03"), 1002),
    "a close reason that is not UTF-8": (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a close reason that ends inside a character": (client_frame(CLOSE, b"\x03\xe8" + EURO[:2]), 1007),
    **{
        f"close {code}": (client_frame(CLOSE, code.to_bytes(2, "big")), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1012, 1013, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}

WAYS = ["whole", "byte by byte", "behind another", "from a memoryview"]


def arriving(data, way):
    """The pieces that `data` arrives in."""
    return {
        "whole": [data],
        "byte by byte": [data[i : i + 1] for i in range(len(data))],
        "behind another": [client_frame(PONG) + data],
        "from a memoryview": [memoryview(bytearray(data))],
    }[way]


@pytest.mark.parametrize("name", GOOD_CASES)
@pytest.mark.parametrize("way", [*WAYS, "with trailing data"])
def test_what_keeps_the_rules(name, way):
    """It comes out as it went in, however it arrives."""
    data, expected = GOOD_CASES[name]
    trailing = client_frame(BINARY, b"next")[:-1] if way == "with trailing data" else b""
    pieces = [data + trailing] if trailing else arriving(data, way)
    found, decoder = decode(pieces, LIMIT)
    assert found == ([(PONG, b"")] if way == "behind another" else []) + expected
    # Behind a CLOSE nothing is kept.
    assert decoder.buffered_bytes == (0 if found[-1][0] == CLOSE else len(trailing))


@pytest.mark.parametrize("name", BROKEN_RULES)
@pytest.mark.parametrize("way", [*WAYS, "with trailing data"])
def test_a_broken_rule(name, way):
    """It is the last event, with the close code of its kind; what follows is ignored and nothing is kept."""
    data, close_code = BROKEN_RULES[name]
    follows = client_frame(BINARY, b"late")
    pieces = [data + follows] if way == "with trailing data" else arriving(data, way)
    found, decoder = decode([*pieces, follows, b"\x82"], LIMIT)
    assert found == ([(PONG, b"")] if way == "behind another" else []) + [(FAILED, close_code)]
    assert decoder.buffered_bytes == 0


def test_an_error_says_what_is_wrong():
    """The message of an error is for the reader at the other end, and short enough for a CLOSE."""
    for data, _ in BROKEN_RULES.values():
        (*_, (opcode, error)) = WebSocketDecoder(LIMIT).receive(data)
        assert opcode == FAILED
        assert 10 < len(str(error).encode()) <= 123


def test_nothing_is_taken_behind_a_close():
    """Whatever follows a CLOSE is ignored, in the same read and in later ones."""
    decoder = WebSocketDecoder(LIMIT)
    close, late = client_frame(CLOSE), client_frame(BINARY, b"late")
    assert seen(decoder.receive(late + close + late)) == [(BINARY, b"late"), (CLOSE, b"")]
    assert decoder.receive(late) == []
    assert decoder.receive(b"\xff\xff") == []
    assert decoder.buffered_bytes == 0


@pytest.mark.parametrize(
    ("good", "bad"),
    [(b"ok", b"\xff"), (b"", b"\xc0"), (EURO[:2], b"a"), (b"\xf4", b"\x90"), (EURO[:1], b"\xc3")],
)
@pytest.mark.parametrize("skipped", range(5))
@pytest.mark.parametrize("frames", ["text", "continuation", "continuation of a character"])
def test_bad_utf8_is_refused_as_it_comes(good, bad, skipped, frames):
    """Not when the frame is whole: a byte that no character can have fails at once, wherever the mask stands then."""
    start = {
        "text": b"",
        "continuation": client_frame(TEXT, b"x", is_last=False),
        "continuation of a character": client_frame(TEXT, EURO[:1], is_last=False),
    }[frames]
    rest = EURO[1:] if frames == "continuation of a character" else b""
    good = rest + b"x" * skipped + good
    frame = client_frame(CONTINUATION if start else TEXT, good + bad + b"y" * 300)
    until_good = len(frame) - 300 - len(bad)
    decoder = WebSocketDecoder(LIMIT)
    assert decoder.receive(start) == []
    assert decoder.receive(frame[: until_good - 1]) == []
    assert decoder.receive(frame[until_good - 1 : until_good]) == []
    assert seen(decoder.receive(frame[until_good : until_good + 1])) == [(FAILED, 1007)]
    # Nor does it matter that all of it comes in one read, the header too.
    assert decode([start + frame[: until_good + 1]])[0] == [(FAILED, 1007)]
    assert decode([start + frame[:until_good]])[0] == []


def test_a_message_ends_with_its_last_fragment():
    """What goes on behind it goes on with nothing."""
    data = fragments(BINARY, b"a", b"b") + client_frame(CONTINUATION, b"c")
    assert decode([data])[0] == [(BINARY, b"ab"), (FAILED, 1002)]


@pytest.mark.parametrize("second", [0xFE, 0xFF])
@pytest.mark.parametrize("first", [0x83, 0x80, 0xC2, 0x89, 0x88, 0x09])
def test_a_bad_header_is_refused_before_its_length(first, second):
    """What two bytes show to be wrong is not waited for."""
    assert decode([bytes([first, second])])[0] == [(FAILED, 1002)]
    assert decode([bytes([0x82, second & 0x7F])])[0] == [(FAILED, 1002)]  # no mask
    assert decode([bytes([0x82, second])])[0] == []


def test_a_binary_frame_is_no_text():
    """Bytes that are not UTF-8 pass in an unfinished binary frame, behind a text and inside a message."""
    half = fragments(BINARY, b"\xff" * 9, b"\xfe" * 9)
    assert decode([client_frame(TEXT, EURO), *(half[i : i + 1] for i in range(len(half)))])[0] == [
        (TEXT, EURO),
        (BINARY, b"\xff" * 9 + b"\xfe" * 9),
    ]


def test_the_limit_may_be_changed():
    """A message of exactly the limit passes, one byte more does not; login raises it, also for one under way."""
    decoder = WebSocketDecoder(10)
    assert seen(decoder.receive(client_frame(BINARY, b"z" * 10))) == [(BINARY, b"z" * 10)]
    assert decoder.receive(client_frame(BINARY, b"z" * 10, is_last=False)) == []
    decoder.max_message_bytes = 11
    assert seen(decoder.receive(client_frame(CONTINUATION, b"z"))) == [(BINARY, b"z" * 11)]
    decoder.max_message_bytes = 10
    assert seen(decoder.receive(client_frame(BINARY, b"z" * 11))) == [(FAILED, 1009)]


@pytest.mark.parametrize("opcode", [BINARY, TEXT])
def test_too_long_is_said_on_the_length(opcode):
    """Before the mask, before any payload: as soon as the length is there."""
    for length in (LIMIT + 1, 1 << 16, 1 << 40):
        head = bytes([0x80 | opcode]) + length_bytes(length)
        decoder = WebSocketDecoder(LIMIT)
        assert decoder.receive(head[:-1]) == []
        assert seen(decoder.receive(head[-1:])) == [(FAILED, 1009)]


def test_a_claim_allocates_nothing():
    """Where a huge message is allowed, still only what came is held."""
    tracemalloc.start()
    try:
        decoders = [WebSocketDecoder(1 << 62) for _ in range(100)]
        for decoder in decoders:
            decoder.receive(b"\x82\xff" + struct.pack(">Q", 1 << 62) + MASK + b"abc")
            assert decoder.buffered_bytes == 17
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200_000


@pytest.mark.parametrize("payload", [b"", b"a"])
def test_the_number_of_fragments_is_bounded(payload):
    """A message in as many frames as allowed passes; one more is refused, and the count starts anew with each message."""
    first, more = client_frame(BINARY, payload, is_last=False), client_frame(CONTINUATION, payload, is_last=False)
    last = client_frame(CONTINUATION, payload)
    decoder = WebSocketDecoder(1 << 20)
    for _ in range(2):
        assert decoder.receive(first + more * (MAX_FRAGMENTS - 2)) == []
        # Control frames are none of the message's.
        assert seen(decoder.receive(client_frame(PING) + last)) == [(PING, b""), (BINARY, payload * MAX_FRAGMENTS)]
    assert decoder.receive(first + more * (MAX_FRAGMENTS - 1)) == []
    assert seen(decoder.receive(last)) == [(FAILED, 1009)]
    assert seen(WebSocketDecoder(LIMIT, max_fragments=2).receive(first + more + last)) == [(FAILED, 1009)]


def test_payloads_do_not_change_with_the_buffer():
    """A payload is a copy: the receive buffer may be used again at once."""
    buffer = bytearray(client_frame(BINARY, b"abc", mask=bytes(4)) + client_frame(BINARY, b"def", mask=bytes(4))[:-1])
    decoder = WebSocketDecoder(LIMIT)
    events = decoder.receive(memoryview(buffer))
    buffer[:] = b"\xff" * len(buffer)
    assert seen(events) == [(BINARY, b"abc")]
    assert seen(decoder.receive(b"f")) == [(BINARY, b"def")]


@pytest.mark.parametrize("length", [4095, 4096, 4097, 8191, 8192, 8193, 65535, 65536, 100_003])
def test_long_payloads_are_unmasked_to_their_end(length):
    """Unmasking goes block by block; the mask stands right at each seam."""
    payload = bytes(range(251)) * (length // 251 + 1)
    payload = payload[:length]
    assert decode([client_frame(BINARY, payload)])[0] == [(BINARY, payload)]
    text = b"t" * length
    assert decode(in_pieces(client_frame(TEXT, text), [70, 5000, 1, 2, 4096]))[0] == [(TEXT, text)]


# ---------------------------------------------------------------- what the server sends


def test_accept_key():
    """The example of RFC 6455, section 1.3."""
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_messages_are_written_as_the_rfc_says(opcode, length):
    """One unmasked frame with the shortest form of the length."""
    expected = bytes([0x80 | opcode]) + length_bytes(length, is_masked=False)
    assert header(opcode, length) == expected
    assert pack_message(opcode, b"m" * length) == expected + b"m" * length


def test_control_frames_are_written_as_the_rfc_says():
    """Examples in bytes."""
    assert pack_message(PING, b"") == b"\x89\x00"
    assert pack_message(PONG, b"Hello") == b"\x8a\x05Hello"
    assert pack_close(1000) == b"\x88\x02\x03\xe8"
    assert pack_close(1001, "bye") == b"\x88\x05\x03\xe9bye"


@pytest.mark.parametrize(("reason", "kept"), [("a" * 200, 123), ("€" * 41, 123), ("a" + "€" * 50, 121), ("😀" * 50, 120)])
def test_a_long_reason_is_cut_at_a_characters_end(reason, kept):
    """A CLOSE has at most 125 bytes, and its reason stays UTF-8."""
    frame = pack_close(1008, reason)
    assert frame[:4] == bytes([0x88, 2 + kept, 0x03, 0xF0])
    assert reason.startswith(frame[4:].decode())
    assert len(frame) == 4 + kept


# ---------------------------------------------------------------- any bytes

header_like = st.builds(
    lambda first, second, more: bytes([first, second]) + more,
    st.sampled_from([0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0x09, 0xC2, 0x83]),
    st.sampled_from([0x80, 0x81, 0x85, 0xFD, 0xFE, 0xFF, 0x05, 0x7E]),
    st.binary(max_size=12),
)
some_frame = st.builds(
    client_frame,
    st.sampled_from([CONTINUATION, CONTINUATION, TEXT, BINARY, PING, PONG]),
    st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode), st.integers(100, 140).map(bytes)),
    is_last=st.booleans(),
    mask=st.binary(min_size=4, max_size=4),
)
noise = st.lists(st.one_of(some_frame, some_frame, header_like, st.binary(max_size=30)), max_size=12).map(b"".join)


@given(noise, st.lists(st.integers(0, 60), max_size=20), st.integers(0, 150))
@example(client_frame(BINARY, b"a" * 10, is_last=False) + client_frame(PING, b"b" * 125)[:-1], [], 10)
def test_any_bytes(data, sizes, limit):
    """Nothing is raised, at most one event ends it and is the last, memory stays bounded, splits make no difference."""
    decoder = WebSocketDecoder(limit)
    found = []
    for piece in in_pieces(data, sizes):
        found += seen(decoder.receive(piece))
        assert decoder.buffered_bytes <= limit + BESIDE_BYTES
    assert all(len(payload) <= limit for opcode, payload in found if opcode in (TEXT, BINARY))
    assert all(opcode not in (FAILED, CLOSE) for opcode, _ in found[:-1])
    for opcode, payload in found:
        if opcode == TEXT:
            payload.decode()
    assert found == decode([data], limit)[0]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(GOOD_CASES, GOOD_CASES)))
def test_pairs(first, second):
    """Any two that keep the rules give the events of both, unless the first one is a CLOSE."""
    found, _ = decode([GOOD_CASES[first][0] + GOOD_CASES[second][0]], LIMIT)
    expected = list(GOOD_CASES[first][1])
    assert found == (expected if expected[-1][0] == CLOSE else expected + GOOD_CASES[second][1])
