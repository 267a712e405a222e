"""Frames and bodies of the wire, without any I/O.

    offset 0  4 bytes  length of the whole frame, header included, big-endian
    offset 4  2 bytes  command ID, big-endian
    offset 6  1 byte   version, 1
    offset 7  1 byte   flags: 0x01 gzip, 0x02 JSON; 0 for MessagePack

Source: docs/reference/protocol.md, "Frames".
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import msgpack
from attrs import frozen

from .errors import RemoteProtocolError

HEADER: Final = struct.Struct("!IHBB")
HEADER_BYTES: Final = HEADER.size
VERSION: Final = 1
FLAG_GZIP: Final = 0x01
FLAG_JSON: Final = 0x02

#: What the server may send in one frame, and what a compressed body may inflate to. Arbitrary, and 16 times the
#: server's default `max_frame`: it is there so that a broken peer cannot take this process's memory.
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024

#: How another protocol's answer begins, when the address is another listener's, and what to do about it. As a length,
#: each would be over the bound.
_OTHER_PROTOCOLS: Final = {
    b"HTTP/": "this port speaks HTTP; the server's WebSocket has an address like ws://host:port/ws",
    b"\x15\x03": "this port speaks TLS; its address begins with tls://",
}


@frozen
class Frame:
    """One frame as received: the command ID, the flags and the undecoded body."""

    command: int
    flags: int
    body: bytes


def encode_frame(command: int, body: Mapping[str, Any] | None = None) -> bytes:
    """Encode one frame: 8 bytes of header, then the body as a MessagePack map.

    Args:
        command: 1 … 65535.
        body: string keys; None for no body at all (the bare 8 bytes).

    Raises:
        ValueError: the command is out of range, or a value has no MessagePack form (TypeError for its type).
    """
    if not 1 <= command <= 0xFFFF:
        raise ValueError(f"a command ID is 1 to 65535, not {command}")
    packed = b"" if body is None else bytes(msgpack.packb(body, use_bin_type=True))
    return HEADER.pack(HEADER_BYTES + len(packed), command, VERSION, 0) + packed


class FrameDecoder:
    """Bytes in, frames out; holds at most one unfinished frame beyond what was fed."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._start = 0  # where the next frame begins in the buffer

    def feed(self, data: bytes) -> None:
        """Add bytes as they came from the transport, cut anywhere."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None until more bytes are fed.

        Raises:
            RemoteProtocolError: length under 8 or over the bound, another version, or unknown flags. The stream
                has no known boundary any more: close the connection.
        """
        available = len(self._buffer) - self._start
        if available < HEADER_BYTES:
            self._refuse_other_protocols()  # TLS's alert is seven bytes, and no more will come
            return None
        length, command, version, flags = HEADER.unpack_from(self._buffer, self._start)
        if length < HEADER_BYTES:
            raise RemoteProtocolError(f"a frame of {length} bytes is shorter than its header")
        if length > self._max_frame_bytes:
            self._refuse_other_protocols()
            raise RemoteProtocolError(f"a frame of {length} bytes is over the bound of {self._max_frame_bytes}")
        if version != VERSION:
            raise RemoteProtocolError(f"protocol version {version}; this client speaks {VERSION}")
        if flags & ~(FLAG_GZIP | FLAG_JSON):
            raise RemoteProtocolError(f"unknown flags {flags:#04x}")
        if available < length:
            return None
        begin = self._start + HEADER_BYTES
        self._start += length
        return Frame(command, flags, bytes(self._buffer[begin : self._start]))

    def _refuse_other_protocols(self) -> None:
        for marker, hint in _OTHER_PROTOCOLS.items():
            if self._buffer.startswith(marker, self._start):
                raise RemoteProtocolError(hint)


def decode_body(frame: Frame, max_body_bytes: int = MAX_FRAME_BYTES) -> dict[str, Any]:
    """Decode a frame's body to a map; an empty body is the empty map.

    Raises:
        RemoteProtocolError: the body is damaged, no map with string keys, or inflates beyond `max_body_bytes`.
    """
    data = frame.body
    if not data:
        return {}
    if frame.flags & FLAG_GZIP:
        data = _inflate(data, max_body_bytes)
    try:
        # Keys inside an application's own body may be of any type; those of the map itself are checked below.
        body = json.loads(data) if frame.flags & FLAG_JSON else msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"the body of command {frame.command} does not decode: {error}") from error
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise RemoteProtocolError(f"the body of command {frame.command} is no map with string keys")
    return body


def _inflate(data: bytes, max_body_bytes: int) -> bytes:
    """Undo gzip, never holding more than `max_body_bytes` of output."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, max_body_bytes)
    except zlib.error as error:
        raise RemoteProtocolError(f"a compressed body does not inflate: {error}") from error
    if not inflater.eof:
        raise RemoteProtocolError(f"a compressed body is cut short or inflates beyond {max_body_bytes} bytes")
    return inflated
