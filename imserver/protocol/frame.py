"""Frames: the 8-byte header and what it bounds (wire protocol, section 1).

0       4        6         7       8
| length | command | version | flags | body …      all big-endian; length counts the header
"""

from __future__ import annotations

from struct import Struct

from imserver.errors import ProtocolError

HEADER_BYTES = 8
VERSION = 1

GZIP = 0x01  # flag: the body is gzip-compressed
JSON = 0x02  # flag: the body is UTF-8 JSON instead of MessagePack
_KNOWN_FLAGS = GZIP | JSON

TEXT = 0x80  # inside the server alone: a JSON frame that travels as a text message of a WebSocket (protocol, section 6)
#: The flags of a request that its answer has, too.
FORM = JSON | TEXT

# Version and flags are read as one number: one comparison tells a good header.
_HEADER = Struct(">IHH")
_VERSION_BITS = VERSION << 8
_GOOD = frozenset(_VERSION_BITS | flags for flags in range(_KNOWN_FLAGS + 1))

#: The header's last two bytes as one number: this version, no flags.
PLAIN = _VERSION_BITS
#: (length of the whole frame, command, version and flags as one number) -> the 8 bytes of a header.
pack_header = _HEADER.pack

#: One lone frame without a body, as clients send it to stay alive; answered by the same bytes.
BARE_HEARTBEAT = _HEADER.pack(HEADER_BYTES, 1, _VERSION_BITS)


#: One frame as received: (command ID, flags, body, error). A plain tuple, since one is made for every message.
#: The body may be a view into the receive buffer: use it or copy it before the next read. The error is set for a frame
#: that breaks the rules though its boundary is known; its body is then empty.
Frame = tuple[int, int, "bytes | memoryview", "ProtocolError | None"]


def pack_frame(command: int, body: bytes, flags: int = 0) -> bytes:
    """One whole frame: header and encoded body."""
    return _HEADER.pack(HEADER_BYTES + len(body), command, _VERSION_BITS | flags) + body


def command_of(frame: bytes) -> int:
    """The command ID in a packed frame."""
    return frame[4] << 8 | frame[5]


def flags_of(frame: bytes) -> int:
    """The flags in a packed frame."""
    return frame[7]


class FrameDecoder:
    """Cuts a byte stream into frames, however the bytes were split on the way.

    Args:
        max_frame_bytes: the longest frame, header included. It may be changed between calls (login raises it).

    It holds at most one unfinished frame, thus at most `max_frame_bytes`; a longer claim is refused on its header.
    """

    __slots__ = ("_needed", "_tail", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._tail = bytearray()
        self._needed = HEADER_BYTES  # bytes that the tail must have before it is worth looking at again

    @property
    def buffered_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._tail)

    def receive(self, data: bytes | memoryview) -> list[Frame]:
        """Take the next bytes and return the frames that they complete, in order.

        Raises nothing: a frame that breaks the rules is returned with its `error`. After one whose `error.fatal` is set
        no boundary is known; it is the last, and the connection must be closed.

        The returned bodies are views of `data` where the frames lay whole in it.
        """
        if self._tail:
            # Collected until the frame is whole, so that a frame in many pieces is copied twice at most.
            self._tail += data
            if len(self._tail) < self._needed:
                return []
            data = bytes(self._tail)
            self._tail.clear()
        view = memoryview(data)
        frames: list[Frame] = []
        unpack, good, limit = _HEADER.unpack_from, _GOOD, self.max_frame_bytes
        position, end = 0, len(view)
        while end - position >= HEADER_BYTES:
            length, command, version_flags = unpack(view, position)
            if length < HEADER_BYTES or length > limit:
                frames.append((command, 0, b"", _bad_length(length, limit)))
                return frames
            if end - position < length:
                break
            if version_flags in good:
                body = view[position + HEADER_BYTES : position + length]
                frames.append((command, version_flags & _KNOWN_FLAGS, body, None))
            else:
                frames.append((command, 0, b"", _bad_header(version_flags)))
            position += length
        if position < end:
            self._tail += view[position:]
            self._needed = length if end - position >= HEADER_BYTES else HEADER_BYTES
        return frames


def _bad_length(length: int, limit: int) -> ProtocolError:
    if length < HEADER_BYTES:
        return ProtocolError(f"frame length {length} is below the header's {HEADER_BYTES} bytes", fatal=True)
    return ProtocolError(
        f"frame of {length} bytes is over this connection's limit of {limit}", code=413, error="too_large", fatal=True
    )


def _bad_header(version_flags: int) -> ProtocolError:
    if version_flags >> 8 != VERSION:
        return ProtocolError(f"protocol version {version_flags >> 8} is not supported; this server speaks {VERSION}")
    return ProtocolError(f"unknown flag bits in 0x{version_flags & 0xFF:02x}; gzip is 0x01, JSON is 0x02")
