"""The bytes of the load: frames to send, and the search for ids in what was received (wire protocol, sections 1 and 2).

Decoding every frame would cost more than all the rest of the load. So the ids are collected from a whole read at once
by regular expressions, which trust neither the order of a map's keys nor where they stand. They do expect the usual,
shortest MessagePack of what is searched. Whoever searches must count: a number of finds other than the number of
frames means that the server encodes otherwise, and then the frames have to be decoded (`frames_of`): slower, but right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct
from typing import Any

import msgpack

from imserver.errors import ImserverError

HEADER_BYTES = 8
GOAWAY, ERROR = 2, 3
AUTH, SEND, PULL, MESSAGE = 1003, 2001, 2002, 5001

#: Larger than any answer to the benchmark's own requests; a longer claim means that the frame boundary is lost.
MAX_FRAME_BYTES = 64 * 1024 * 1024

#: The `rid` of SEND number n is `RID_BASE + n`: so large that every encoder takes five bytes for it.
RID_BASE = 1 << 16
#: The counter in a `client_id`, in lower-case hex digits.
COUNTER_DIGITS = 8

_HEADER = Struct(">IHBB")
# Command, version and flags as one number: one comparison tells a plain frame of the expected command.
_HEAD = Struct(">II")


class BenchFailed(ImserverError):
    """The run cannot go on: the server is gone, refuses, or stands still. The message says what happened."""


def kind_of(command: int) -> int:
    """The second half of the header of a frame without flags, as a number."""
    return command << 16 | 1 << 8


def pack(command: int, fields: dict[str, Any]) -> bytes:
    """One frame."""
    body: bytes = msgpack.packb(fields)
    return _HEADER.pack(HEADER_BYTES + len(body), command, 1, 0) + body


def whole_frames(data: bytes, kind: int) -> tuple[int, int, bool]:
    """Walk over the frames in `data`.

    Args:
        data: received bytes that begin with a frame.
        kind: `kind_of` the command that the frames should have.

    Returns:
        Where the last whole frame ends, how many whole frames there are, and whether all have that kind.

    Raises:
        BenchFailed: a length that cannot be one.
    """
    position, count, is_plain = 0, 0, True
    size = len(data)
    unpack = _HEAD.unpack_from
    while size - position >= HEADER_BYTES:
        length, found = unpack(data, position)
        if not HEADER_BYTES <= length <= MAX_FRAME_BYTES:
            raise BenchFailed(f"the server sent a frame with an impossible length of {length} bytes")
        if size - position < length:
            break
        position += length
        count += 1
        if found != kind:
            is_plain = False
    return position, count, is_plain


def frames_of(chunk: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Decode whole frames: (command, body) each.

    Raises:
        BenchFailed: a body that is no MessagePack map, or flags that the benchmark did not ask for.
    """
    position = 0
    while position < len(chunk):
        length, command, version, flags = _HEADER.unpack_from(chunk, position)
        if version != 1 or flags:
            raise BenchFailed(f"the server sent command {command} with version {version} and flags 0x{flags:02x}")
        try:
            body = msgpack.unpackb(chunk[position + HEADER_BYTES : position + length]) if length > HEADER_BYTES else {}
        except ValueError as exc:
            raise BenchFailed(f"the body of a frame of command {command} is no MessagePack: {exc}") from exc
        if not isinstance(body, dict):
            raise BenchFailed(f"the body of a frame of command {command} is no map")
        yield command, body
        position += length


def first_frame(chunk: bytes) -> tuple[int, dict[str, Any]]:
    """Decode the first of these whole frames alone."""
    return next(frames_of(chunk))


class Naming:
    """The names of one run: no two runs on a server meet.

    Args:
        run_id: a short ASCII word of lower-case letters and digits.
        text: the body of every message; ASCII.
    """

    def __init__(self, run_id: str, text: str) -> None:
        self.text = text
        self._run_id = run_id
        self._stem = f"bench-{run_id}-"

    def users(self, index: int) -> tuple[str, str]:
        """Sender and recipient of a pair; all names are equally long."""
        return f"bench-{self._run_id}-s{index:05d}", f"bench-{self._run_id}-r{index:05d}"

    def client_id(self, counter: int) -> str:
        """The `client_id` of a sender's message number `counter`."""
        return f"{self._stem}{counter:0{COUNTER_DIGITS}x}"

    def counter_of(self, client_id: object) -> int | None:
        """The other way round; None: the message is not of this run."""
        if not isinstance(client_id, str) or len(client_id) != len(self._stem) + COUNTER_DIGITS:
            return None
        digits = client_id.removeprefix(self._stem)
        return int(digits, 16) if re.fullmatch(f"[0-9a-f]{{{COUNTER_DIGITS}}}", digits) else None

    def template(self, recipient: str) -> bytes:
        """A SEND to this user as a format: `template % (rid as 4 bytes, counter)` is the frame."""
        # Made by msgpack with the largest rid and the first counter, which then give way to the format's fields.
        fields = {"to": recipient, "rid": 0xFFFF_FFFF, "client_id": self.client_id(0), "body": self.text}
        frame = pack(SEND, fields).replace(b"%", b"%%")
        frame = frame.replace(b"\xa3rid\xce\xff\xff\xff\xff", b"\xa3rid\xce%b")
        return frame.replace(self.client_id(0).encode(), f"{self._stem}%0{COUNTER_DIGITS}x".encode())

    def push_ids(self) -> re.Pattern[bytes]:
        """Finds the counters, as digits, in pushes."""
        length = 0xA0 | len(self.client_id(0))  # fixstr: the names are shorter than 32 bytes
        marker = b"\xa9client_id" + bytes([length]) + self._stem.encode()
        return re.compile(re.escape(marker) + b"([0-9a-f]{%d})" % COUNTER_DIGITS)


#: Finds the `rid`s, as four bytes each, in responses to SEND.
RIDS = re.compile(rb"\xa3rid\xce(.{4})", re.DOTALL)
#: Counted, it tells how many responses are a success.
SUCCESS = b"\xa4code\x00"
#: Finds the `seq`s in pushes, each as the MessagePack integer that it is.
SEQS = re.compile(rb"\xa3seq([\x00-\x7f]|\xcc.|\xcd..|\xce....)", re.DOTALL)


def conversation_id(user_a: str, user_b: str) -> str:
    """Of a direct conversation (wire protocol, section 3)."""
    return "d:" + ":".join(sorted((user_a, user_b)))


def conversation_marker(conversation: str) -> bytes:
    """Counted, it tells how many frames belong to this conversation."""
    key: bytes = msgpack.packb("conversation_id")
    value: bytes = msgpack.packb(conversation)
    return key + value
