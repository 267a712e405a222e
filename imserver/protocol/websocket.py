"""WebSocket frames and messages, the server's side, without any I/O (RFC 6455, sections 4.2.2, 5, 7.4 and 8.1).

0       1          2       2|4|10 …
| fin, reserved, opcode | masked, length | longer length | mask (4, from clients) | payload …

No extension is spoken: of them only permessage-deflate exists, and what it inflates to has no bound that is known before.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
from struct import Struct
from typing import Final

from imserver.errors import ImserverError

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
#: No opcode: the peer broke a rule. The event's other half is a `WebSocketError`.
FAILED: Final = -1

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
BAD_DATA: Final = 1007
TOO_BIG: Final = 1009

#: A control frame's payload (section 5.5); a CLOSE has two bytes of code in it.
MAX_CONTROL_BYTES: Final = 125
#: Frames that one message may come in. Arbitrary: enough for any sender that means well, and it bounds empty ones.
MAX_FRAGMENTS: Final = 1024

_FIN = 0x80
_RESERVED = 0x70
_OPCODE = 0x0F
_MASKED = 0x80
_LENGTH = 0x7F
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_LENGTH_16 = Struct(">H").unpack_from
_LENGTH_64 = Struct(">Q").unpack_from
_HEADER_16 = Struct(">BBH").pack
_HEADER_64 = Struct(">BBQ").pack


class WebSocketError(ImserverError):
    """The peer broke a rule; `close_code` says which kind (section 7.4.1), the message says it in words."""

    def __init__(self, close_code: int, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code


#: (opcode, payload): a whole message (TEXT, checked to be UTF-8, or BINARY), a control frame (CLOSE, PING, PONG), or
#: (FAILED, why). A plain tuple, since one is made for every message.
Event = tuple[int, "bytes | WebSocketError"]


def accept_key(key: bytes) -> str:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode("ascii")


# ---------------------------------------------------------------- what the server sends

_SHORT = {
    opcode: tuple(bytes((_FIN | opcode, length)) for length in range(126)) for opcode in (TEXT, BINARY, CLOSE, PING, PONG)
}


def header(opcode: int, length: int) -> bytes:
    """The header of a whole message in one frame; a server's are not masked (section 5.1)."""
    if length < 126:
        return _SHORT[opcode][length]
    if length < 0x1_0000:
        return _HEADER_16(_FIN | opcode, 126, length)
    return _HEADER_64(_FIN | opcode, 127, length)


def pack_message(opcode: int, payload: bytes) -> bytes:
    """A whole message, or a control frame of at most `MAX_CONTROL_BYTES`."""
    return header(opcode, len(payload)) + payload


def pack_close(code: int, reason: str = "") -> bytes:
    """A CLOSE. What of the reason does not fit is cut off at a character's end."""
    text = reason.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return pack_message(CLOSE, code.to_bytes(2, "big") + text)


# ---------------------------------------------------------------- what the client sends


class WebSocketDecoder:
    """Cuts a client's bytes into messages, however they were split on the way.

    Args:
        max_message_bytes: the longest message, its fragments together. It may be changed between calls (login raises it).

    It holds one unfinished message and one unfinished frame of it, thus at most `max_message_bytes` and a header; a longer
    claim is refused on the header.
    """

    __slots__ = ("_fragments", "_has_ended", "_needed", "_opcode", "_size", "_tail", "_utf8", "max_message_bytes")

    def __init__(self, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self._tail = bytearray()  # an unfinished frame
        self._needed = 2  # bytes that the tail must have before it is worth looking at again
        self._opcode = CONTINUATION  # of the message under way; CONTINUATION: there is none
        self._fragments: list[bytes] = []
        self._size = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._has_ended = False

    @property
    def buffered_bytes(self) -> int:
        """How much of an unfinished message is held."""
        return len(self._tail) + self._size

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """Take the next bytes and return what they complete, in order.

        Raises nothing: a broken rule is the last event, (FAILED, WebSocketError). Behind it, and behind a CLOSE, whatever
        comes is ignored.
        """
        if self._has_ended:
            return []
        if self._tail:
            # Collected until the frame is whole, so that a frame in many pieces is copied twice at most.
            self._tail += data
            if len(self._tail) < self._needed:
                return []
            data = bytes(self._tail)
            self._tail.clear()
        events: list[Event] = []
        try:
            self._cut(memoryview(data), events)
        except WebSocketError as error:
            self._end()
            events.append((FAILED, error))
        return events

    def _cut(self, view: memoryview, events: list[Event]) -> None:
        position, end = 0, len(view)
        while end - position >= 2:
            first, second = view[position], view[position + 1]
            length = second & _LENGTH
            start = position + 6
            if length >= 126:
                start += 2 if length == 126 else 8
                if end < start - 4:
                    self._keep(view[position:], start - position)
                    return
                length = (_LENGTH_16 if length == 126 else _LENGTH_64)(view, position + 2)[0]
            if first != _FIN | BINARY or self._opcode or not second & _MASKED or length > self.max_message_bytes:
                self._check(first, second, length)
            stop = start + length
            if end < stop:
                self._keep(view[position:], stop - position)
                return
            payload = _unmasked(view[start:stop], view[start - 4 : start])
            if first == _FIN | BINARY:
                events.append((BINARY, payload))
            else:
                self._take(first, payload, events)
                if self._has_ended:
                    return
            position = stop
        if position < end:
            self._keep(view[position:], 2)

    def _keep(self, rest: memoryview, needed: int) -> None:
        self._tail += rest
        self._needed = needed

    def _check(self, first: int, second: int, length: int) -> None:
        """Refuse a frame by its header, before any of its payload is kept."""
        opcode = first & _OPCODE
        if first & _RESERVED:
            raise WebSocketError(PROTOCOL_ERROR, "reserved bits are set; no extension was agreed on")
        if not second & _MASKED:
            raise WebSocketError(PROTOCOL_ERROR, "a client masks its frames")
        if opcode in (CLOSE, PING, PONG):
            if not first & _FIN:
                raise WebSocketError(PROTOCOL_ERROR, "a control frame comes whole")
            if length > MAX_CONTROL_BYTES:
                raise WebSocketError(PROTOCOL_ERROR, f"a control frame has at most {MAX_CONTROL_BYTES} bytes")
            return
        if opcode not in (CONTINUATION, TEXT, BINARY):
            raise WebSocketError(PROTOCOL_ERROR, f"there is no opcode {opcode}")
        if opcode == CONTINUATION and not self._opcode:
            raise WebSocketError(PROTOCOL_ERROR, "a continuation without a message to go on with")
        if opcode != CONTINUATION and self._opcode:
            raise WebSocketError(PROTOCOL_ERROR, "a new message inside another one")
        if length >> 63:
            raise WebSocketError(PROTOCOL_ERROR, "a length has 63 bits")
        if self._size + length > self.max_message_bytes:
            raise WebSocketError(TOO_BIG, f"a message has at most {self.max_message_bytes} bytes on this connection now")
        if len(self._fragments) >= MAX_FRAGMENTS:
            raise WebSocketError(TOO_BIG, f"a message comes in at most {MAX_FRAGMENTS} frames")

    def _take(self, first: int, payload: bytes, events: list[Event]) -> None:
        """A whole frame that is not simply a binary message."""
        opcode, is_last = first & _OPCODE, bool(first & _FIN)
        if opcode >= CLOSE:
            if opcode == CLOSE:
                _check_close(payload)
                self._end()
            events.append((opcode, payload))
            return
        if opcode != CONTINUATION:
            self._opcode = opcode
        if self._opcode == TEXT:
            try:
                self._utf8.decode(payload, is_last)
            except UnicodeDecodeError as exc:
                raise WebSocketError(BAD_DATA, f"a text message is UTF-8: {exc.reason}") from exc
        if opcode != CONTINUATION and is_last:
            self._opcode = CONTINUATION
            events.append((opcode, payload))
            return
        self._fragments.append(payload)
        self._size += len(payload)
        if is_last:
            events.append((self._opcode, b"".join(self._fragments)))
            self._fragments = []
            self._size = 0
            self._opcode = CONTINUATION

    def _end(self) -> None:
        self._has_ended = True
        self._tail.clear()
        self._fragments = []
        self._size = 0


def _unmasked(payload: memoryview, mask: memoryview) -> bytes:
    """The payload as it was before the client masked it (section 5.3): one XOR of two long numbers."""
    length = len(payload)
    key = bytes(mask)
    if key == b"\0\0\0\0":
        return bytes(payload)
    repeated = int.from_bytes((key * (length // 4 + 1))[:length], "little")
    return (int.from_bytes(payload, "little") ^ repeated).to_bytes(length, "little")


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    if len(payload) == 1:
        raise WebSocketError(PROTOCOL_ERROR, "a close frame has no code, or one of two bytes")
    code = int.from_bytes(payload[:2], "big")
    if code not in _CLOSE_CODES and not 3000 <= code <= 4999:
        raise WebSocketError(PROTOCOL_ERROR, f"{code} is no close code that may be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError as exc:
        raise WebSocketError(BAD_DATA, f"a close reason is UTF-8: {exc.reason}") from exc
