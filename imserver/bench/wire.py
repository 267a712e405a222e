"""Frames in bulk. The generator must cost little beside the server, so nothing here decodes a frame on the measured path.

A SEND is a template with two holes of fixed width: `rid` (a 32-bit integer) and a counter inside `client_id` (ten
digits). What comes back is searched by markers: no order of keys or width of integers is assumed of the server.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import Any

import msgpack

HEADER = Struct(">IHBB")
AUTH, SEND, PULL, PUSH, ERROR, GOAWAY = 1003, 2001, 2002, 5001, 3, 2

#: `rid`s start here, so that every encoder writes them as 32-bit integers.
FIRST_RID = 1 << 24
CLIENT_ID_DIGITS = 10

_RID = b"\xa3rid\xce"
_CODE_OK = b"\xa4code\x00"
#: client_id as a MessagePack string of 12 characters: "p-" and ten digits.
_CLIENT_ID = re.compile(rb"\xa9client_id\xacp-(\d{10})")
_U32 = Struct(">I")


def frame(command: int, fields: dict[str, Any]) -> bytes:
    """One whole frame."""
    body: bytes = msgpack.packb(fields)
    return HEADER.pack(HEADER.size + len(body), command, 1, 0) + body


class SendTemplate:
    """SEND frames of one sender to one recipient, all of one size."""

    def __init__(self, to: str, text: str) -> None:
        fields = {"rid": FIRST_RID, "to": to, "client_id": "p-" + "0" * CLIENT_ID_DIGITS, "body": text}
        whole = frame(SEND, fields)
        rid_at = whole.index(_RID) + len(_RID)
        counter_at = whole.index(b"p-" + b"0" * CLIENT_ID_DIGITS) + 2
        self._head = whole[:rid_at]
        self._middle = whole[rid_at + 4 : counter_at]
        self._tail = whole[counter_at + CLIENT_ID_DIGITS :]

    def frames(self, first: int, count: int) -> bytes:
        """The frames of the messages `first` … `first + count - 1`; a message's `rid` is FIRST_RID plus its number."""
        pack, head, middle, tail = _U32.pack, self._head, self._middle, self._tail
        return b"".join(
            [b"%b%b%b%010d%b" % (head, pack(FIRST_RID + n), middle, n, tail) for n in range(first, first + count)]
        )


class Splitter:
    """Cuts what one connection receives at frame boundaries."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def whole(self, data: bytes) -> tuple[bytes, int]:
        """The part of the stream that ends with the last whole frame, and how many frames it has."""
        if self._tail:
            data = self._tail + data
        position, end, count = 0, len(data), 0
        unpack = HEADER.unpack_from
        while end - position >= 8:
            length = unpack(data, position)[0]
            if end - position < length:
                break
            position += length
            count += 1
        self._tail = data[position:]
        return data[:position], count


def counters(chunk: bytes) -> list[bytes]:
    """The counters in the client ids of all pushes in whole frames."""
    return _CLIENT_ID.findall(chunk)


def accepted(chunk: bytes) -> int:
    """How many answers in whole frames say code 0."""
    return chunk.count(_CODE_OK)


def decode(chunk: bytes) -> list[tuple[int, dict[str, Any]]]:
    """(command, fields) of whole frames: the slow way, for what the fast one cannot explain."""
    found = []
    position = 0
    while position < len(chunk):
        length, command, _, _ = HEADER.unpack_from(chunk, position)
        body = chunk[position + HEADER.size : position + length]
        found.append((command, msgpack.unpackb(body) if body else {}))
        position += length
    return found
