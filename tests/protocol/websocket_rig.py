"""A client's WebSocket frames, written from RFC 6455, section 5.2, and not from our codec."""

import itertools
import struct

from imserver.protocol.websocket import WebSocketDecoder

MASK = b"\x11\xa2\x00\xff"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def length_bytes(length, *, is_masked=True):
    """The shortest form of a length, with the mask bit."""
    bit = 0x80 if is_masked else 0
    if length < 126:
        return bytes([bit | length])
    if length < 1 << 16:
        return struct.pack(">BH", bit | 126, length)
    return struct.pack(">BQ", bit | 127, length)


def client_frame(opcode, payload=b"", *, is_last=True, reserved=0, mask=MASK, length=None):
    """One frame; `mask=None` leaves it unmasked, `length` replaces the bytes of the length."""
    first = bytes([(0x80 if is_last else 0) | reserved << 4 | opcode])
    if length is None:
        length = length_bytes(len(payload), is_masked=mask is not None)
    if mask is None:
        return first + length + payload
    return first + length + mask + bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask)))


def seen(events):
    """Events as plain values: of an error its close code counts, not its words."""
    return [(opcode, payload if isinstance(payload, bytes) else payload.close_code) for opcode, payload in events]


def in_pieces(data, sizes):
    """`data` cut into pieces of these sizes; the last piece is the rest."""
    position = 0
    for size in sizes:
        yield data[position : position + size]
        position += size
    yield data[position:]


def decode(pieces, limit=1 << 20):
    """What a fresh decoder makes of these pieces, and the decoder."""
    decoder = WebSocketDecoder(limit)
    return [event for piece in pieces for event in seen(decoder.receive(piece))], decoder
