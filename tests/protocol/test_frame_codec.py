"""Frames: whole, in pieces, in sequences, and what breaks the rules."""

import itertools
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire import HEADER

from imserver.protocol.frame import (
    BARE_HEARTBEAT,
    GZIP,
    HEADER_BYTES,
    JSON,
    FrameDecoder,
    command_of,
    flags_of,
    pack_frame,
)

LIMIT = 1024

GOOD_CASES = {
    "bare": (1, b"", 0),
    "msgpack": (2001, b"\x81\xa3rid\x01", 0),
    "json": (2001, b'{"rid":1}', JSON),
    "gzip": (65535, b"\x1f\x8b", GZIP),
    "both flags": (0, b"x" * 100, GZIP | JSON),
    "as long as allowed": (5, b"y" * (LIMIT - HEADER_BYTES), 0),
}

BAD_HEADERS = {
    "length 0": (0, 1, 0),
    "length 7": (7, 1, 0),
    "over the limit": (LIMIT + 1, 1, 0),
    "4 GiB": (2**32 - 1, 1, 0),
    "version 0": (8, 0, 0),
    "version 2": (8, 2, 0),
    "version 255": (8, 255, 0),
    "flag 0x04": (8, 1, 0x04),
    "flag 0x80": (8, 1, 0x80),
    "all flags": (8, 1, 0xFF),
    "version and flags": (8, 7, 0x0C),
}
FATAL = {"length 0", "length 7", "over the limit", "4 GiB"}


def seen(frames):
    """Frames as plain values, errors included."""
    return [
        (command, bytes(body), flags) if error is None else ("error", command, error.code, error.error, error.fatal)
        for command, flags, body, error in frames
    ]


def in_pieces(data, sizes):
    """`data` cut into pieces of these sizes; the last piece is the rest."""
    position = 0
    for size in sizes:
        yield data[position : position + size]
        position += size
    yield data[position:]


def decode(pieces, limit=LIMIT):
    """What a fresh decoder makes of these pieces; stops behind a fatal error, as a session does."""
    decoder = FrameDecoder(limit)
    found = []
    for piece in pieces:
        found += seen(decoder.receive(piece))
        if found and found[-1][0] == "error" and found[-1][-1]:
            break
    return found, decoder


@pytest.mark.parametrize("case", GOOD_CASES.values(), ids=list(GOOD_CASES))
@pytest.mark.parametrize("way", ["whole", "byte by byte", "with trailing data", "from a memoryview"])
def test_a_good_frame(case, way):
    """A frame comes out as it went in, however it arrives."""
    command, body, flags = case
    data = pack_frame(command, body, flags)
    trailing = data[: HEADER_BYTES - 1] if way == "with trailing data" else b""
    pieces = {
        "whole": [data],
        "byte by byte": [data[i : i + 1] for i in range(len(data))],
        "with trailing data": [data + trailing],
        "from a memoryview": [memoryview(bytearray(data))],
    }[way]
    found, decoder = decode(pieces)
    assert found == [(command, body, flags)]
    assert decoder.buffered_bytes == len(trailing)


@pytest.mark.parametrize("name", BAD_HEADERS)
@pytest.mark.parametrize("way", ["whole", "byte by byte", "with trailing data"])
def test_a_bad_header(name, way):
    """It gives one error, with its command, that says whether a boundary is still known."""
    length, version, flags = BAD_HEADERS[name]
    data = HEADER.pack(length, 77, version, flags)
    follows = pack_frame(78, b"", 0)
    pieces = {
        "whole": [data],
        "byte by byte": [data[i : i + 1] for i in range(len(data))],
        "with trailing data": [data + follows],
    }[way]
    found, _ = decode(pieces)
    is_fatal = name in FATAL
    code = (413, "too_large") if length > LIMIT else (400, "bad_request")
    assert found[0] == ("error", 77, *code, is_fatal)
    # Behind an error whose boundary is known the next frame is read as ever; behind a fatal one nothing is.
    assert found[1:] == ([(78, b"", 0)] if way == "with trailing data" and not is_fatal else [])


@pytest.mark.parametrize(("first", "second"), list(itertools.product(BAD_HEADERS, repeat=2)))
def test_pairs_of_bad_headers(first, second):
    """Two bad frames in a row are two errors, unless no boundary is known after the first."""
    data = b"".join(HEADER.pack(BAD_HEADERS[name][0], 9, *BAD_HEADERS[name][1:]) for name in (first, second))
    whole, _ = decode([data])
    bytewise, _ = decode([data[i : i + 1] for i in range(len(data))])
    assert whole == bytewise
    assert len(whole) == (1 if first in FATAL else 2)
    assert whole[-1][-1] is ((first if len(whole) == 1 else second) in FATAL)


def test_the_limit_counts_the_header_and_may_be_raised():
    """A frame of exactly the limit passes, one byte more does not; login raises the limit in mid-stream."""
    decoder = FrameDecoder(100)
    longest = pack_frame(1, b"z" * 92)
    assert seen(decoder.receive(longest)) == [(1, b"z" * 92, 0)]
    decoder.max_frame_bytes = 101
    assert seen(decoder.receive(pack_frame(1, b"z" * 93))) == [(1, b"z" * 93, 0)]
    decoder.max_frame_bytes = 100
    assert seen(decoder.receive(pack_frame(1, b"z" * 93))) == [("error", 1, 413, "too_large", True)]


def test_a_claim_of_4_gib_allocates_nothing():
    """The refusal comes on the header alone, and nothing is set aside for the body."""
    claim = HEADER.pack(2**32 - 1, 1, 1, 0)
    tracemalloc.start()
    try:
        for _ in range(100):
            decoder = FrameDecoder(2**32 - 2)
            decoder.receive(claim)
            assert decoder.buffered_bytes == 0
            assert seen(FrameDecoder(1 << 20).receive(claim[:8]))[0][-1] is True
        within_limit = FrameDecoder(2**32 - 1)  # even where it is allowed, only what came is held
        within_limit.receive(claim)
        assert within_limit.buffered_bytes == 8
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000


def test_the_bare_heartbeat_is_eight_bytes():
    """The bytes of the wire protocol, not ours: length 8, command 1, version 1, flags 0."""
    assert bytes([0, 0, 0, 8, 0, 1, 1, 0]) == BARE_HEARTBEAT


def test_a_body_is_a_view_where_it_can_be():
    """A frame that lies whole in the receive buffer is not copied; one that was collected does not change under us."""
    data = bytearray(pack_frame(3, b"abc"))
    ((_, _, body, _),) = FrameDecoder(LIMIT).receive(memoryview(data))
    data[8:11] = b"xyz"
    assert bytes(body) == b"xyz"
    decoder = FrameDecoder(LIMIT)
    buffer = bytearray(pack_frame(3, b"abc"))
    assert decoder.receive(memoryview(buffer)[:5]) == []
    ((_, _, body, _),) = decoder.receive(memoryview(buffer)[5:])
    buffer[:] = b"\0" * len(buffer)
    assert bytes(body) == b"abc"


commands = st.integers(0, 65535)
some_flags = st.sampled_from([0, GZIP, JSON, GZIP | JSON])
bodies = st.binary(max_size=60)
good = st.tuples(commands, bodies, some_flags)


@given(commands, bodies, some_flags)
def test_pack_and_unpack(command, body, flags):
    """What `pack_frame` makes is the table of the wire protocol, and decodes to what it was made of."""
    data = pack_frame(command, body, flags)
    assert HEADER.unpack(data[:8]) == (len(data), command, 1, flags)
    assert data[8:] == body
    assert (command_of(data), flags_of(data)) == (command, flags)
    assert decode([data])[0] == [(command, body, flags)]


@given(st.lists(good, max_size=12), st.lists(st.integers(0, 90), max_size=30))
@example([(1, b"", 0), (2, b"ab", 0)], [1, 0, 6, 1, 0, 3])
def test_any_split_gives_the_same_frames(frames, sizes):
    """TCP has no boundaries: where the pieces end makes no difference, empty pieces included."""
    data = b"".join(pack_frame(*frame) for frame in frames)
    found, decoder = decode(in_pieces(data, sizes))
    assert found == frames
    assert decoder.buffered_bytes == 0


header_like = st.builds(
    HEADER.pack,
    st.one_of(st.integers(0, 80), st.integers(0, 2**32 - 1)),
    commands,
    st.sampled_from([0, 1, 1, 1, 2, 255]),
    st.sampled_from([0, 0, 1, 2, 3, 4, 255]),
)
noise = st.lists(st.one_of(st.binary(max_size=80), header_like, st.builds(pack_frame, commands, bodies)), max_size=10)


@given(noise.map(b"".join), st.lists(st.integers(0, 120), max_size=20), st.integers(8, 200))
def test_any_bytes_give_frames_or_one_fatal_error(data, sizes, limit):
    """Nothing is raised, at most one fatal error comes and is the last, memory stays bounded, splits do not matter."""
    decoder = FrameDecoder(limit)
    found = []
    for piece in in_pieces(data, sizes):
        frames = decoder.receive(piece)
        assert all(len(body) <= limit - HEADER_BYTES for _, _, body, _ in frames)
        assert decoder.buffered_bytes < limit
        found += seen(frames)
        if any(error is not None and error.fatal for _, _, _, error in frames):
            break
    fatal = [index for index, frame in enumerate(found) if frame[0] == "error" and frame[-1]]
    assert fatal in ([], [len(found) - 1])
    assert found == decode([data], limit)[0]
