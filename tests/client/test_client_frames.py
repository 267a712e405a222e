"""The client's frame decoder: whole, byte by byte, with trailing data; and what it refuses."""

import gzip
import json
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.client.errors import RemoteProtocolError
from imserver.client.frames import MAX_FRAME_BYTES, Frame, FrameDecoder, decode_body, encode_frame

FRAMES = [(1, None), (2001, {"rid": 7, "body": "héllo", "blob": b"\x00\xff"}), (65535, {})]


def decode_all(decoder):
    """Every frame that the decoder holds, as (command, body)."""
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append((frame.command, decode_body(frame)))
    return frames


@pytest.mark.parametrize(("command", "body"), FRAMES)
@pytest.mark.parametrize("how", ["whole", "byte by byte", "with trailing data"])
def test_frame_arrives_however_it_is_cut(command, body, how):
    """A frame comes out once, however its bytes come in."""
    data = encode_frame(command, body)
    assert struct.unpack("!IHBB", data[:8]) == (len(data), command, 1, 0)
    decoder = FrameDecoder()
    if how == "byte by byte":
        for index, byte in enumerate(data):
            assert decoder.next_frame() is None, f"a frame out of {index} bytes"
            decoder.feed(bytes([byte]))
    else:
        decoder.feed(data + (encode_frame(9)[:5] if how == "with trailing data" else b""))
    assert decode_all(decoder) == [(command, body or {})]
    if how == "with trailing data":
        decoder.feed(encode_frame(9)[5:])
        assert decode_all(decoder) == [(9, {})]


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), max_size=40))
def test_any_split_gives_the_same_frames(payloads, cuts):
    """Frames do not depend on where the transport cuts."""
    data = b"".join(encode_frame(10 + n, {"p": payload}) for n, payload in enumerate(payloads))
    decoder, frames, at = FrameDecoder(), [], 0
    for cut in [*cuts, len(data)]:
        decoder.feed(data[at : at + cut])
        frames += decode_all(decoder)
        at += cut
    assert frames == [(10 + n, {"p": payload}) for n, payload in enumerate(payloads)]


@pytest.mark.parametrize(
    "header",
    [(7, 1, 1, 0), (0, 1, 1, 0), (MAX_FRAME_BYTES + 1, 1, 1, 0), (8, 1, 2, 0), (8, 1, 1, 4), (8, 1, 1, 0x81)],
)
def test_bad_header_is_refused_before_its_body_comes(header):
    """Length, version and flags are judged on the header alone, after the good frame before it."""
    decoder = FrameDecoder()
    decoder.feed(encode_frame(5, {"a": 1}) + struct.pack("!IHBB", *header))
    first = decoder.next_frame()
    assert first is not None
    assert decode_body(first) == {"a": 1}
    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()


def test_compressed_and_json_bodies_decode():
    """The flags gzip and JSON are understood, alone and together."""
    packed, text = msgpack.packb({"a": [1, b"x"]}), json.dumps({"a": "é"}).encode()
    assert decode_body(Frame(1, 1, gzip.compress(packed))) == {"a": [1, b"x"]}
    assert decode_body(Frame(1, 2, text)) == {"a": "é"}
    assert decode_body(Frame(1, 3, gzip.compress(text))) == {"a": "é"}


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        (0, b"\xc1"),
        (0, msgpack.packb([1])),
        (0, msgpack.packb({1: 2})),
        (0, msgpack.packb({"a": 1}) + b"x"),
        (0, b"\x91" * 100_000),
        (1, b"not gzip"),
        (1, gzip.compress(msgpack.packb({"a": b"0" * 5000}))),
        (1, gzip.compress(b"\x80")[:-6]),
        (2, b"{"),
        (2, b"\xff"),
        (2, b"[" * 100_000),
    ],
)
def test_bad_body_is_a_protocol_error(flags, body):
    """Damage, another type than a map, nesting and inflation bombs: one error, no other."""
    with pytest.raises(RemoteProtocolError):
        decode_body(Frame(1, flags, body), max_body_bytes=1000)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data):
    """Whatever comes, it is frames or a RemoteProtocolError."""
    decoder = FrameDecoder()
    decoder.feed(data)
    try:
        decode_all(decoder)
    except RemoteProtocolError:
        return
    assert len(data) < 8 or int.from_bytes(data[:4], "big") <= MAX_FRAME_BYTES
