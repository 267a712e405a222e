"""WebSocket frames and messages, the server's side, without any I/O (RFC 6455, sections 4.2.2, 5, 7.4 and 8.1).

0       1          2       2|4|10 …
| fin, reserved, opcode | masked, length | longer length | mask (4, from clients) | payload …

No extension is spoken: of them only permessage-deflate exists, and what it inflates to has no bound that is known before.
"""

from __future__ import annotations

import base64
import hashlib
from codecs import utf_8_decode
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
# Those that section 7.4.1 lets a peer send. 1012 to 1014 were registered later; what they say only a server can say.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011})
# So many bytes are unmasked at once: beyond it Python's long numbers fall out of the cache; 64 KiB then take twice as long.
_BLOCK_BYTES = 4096
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
        max_fragments: the most frames that one message may come in.

    It holds one unfinished message and one unfinished frame of it, thus at most `max_message_bytes` and a header, beside
    an unfinished control frame; a longer claim is refused on the header.
    """

    __slots__ = (
        "_carry",
        "_checked",
        "_fragments",
        "_has_ended",
        "_max_fragments",
        "_needed",
        "_opcode",
        "_size",
        "_tail",
        "_text_at",
        "max_message_bytes",
    )

    def __init__(self, max_message_bytes: int, *, max_fragments: int = MAX_FRAGMENTS) -> None:
        self.max_message_bytes = max_message_bytes
        self._max_fragments = max_fragments
        self._tail = bytearray()  # an unfinished frame
        self._needed = 2  # bytes that the tail must have before it is worth looking at again
        self._text_at = 0  # where in the tail a text's payload begins; 0: the tail is not a text, or not known to be one
        self._checked = 0  # bytes of that payload that were looked at, to refuse bad UTF-8 at once
        self._carry = b""  # of a text: the character that is not whole yet
        self._opcode = CONTINUATION  # of the message under way; CONTINUATION: there is none
        self._fragments: list[bytes] = []
        self._size = 0
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
        events: list[Event] = []
        try:
            if self._tail:
                # Collected until the frame is whole, so that a frame in many pieces is copied twice at most.
                self._tail += data
                if len(self._tail) < self._needed:
                    self._check_unfinished()
                    return events
                whole = bytes(self._tail)
                self._tail.clear()
            else:
                whole = bytes(data)  # no copy of bytes; a view pays for it by faster slices below
            self._cut(whole, events)
        except WebSocketError as error:
            self._end()
            events.append((FAILED, error))
        return events

    def _cut(self, data: bytes, events: list[Event]) -> None:
        limit = self.max_message_bytes
        position, end = 0, len(data)
        while end - position >= 2:
            first, second = data[position], data[position + 1]
            length = second & _LENGTH
            start = position + 6
            if length >= 126:
                start += 2 if length == 126 else 8
                if end < start - 4:
                    self._check(first, second, 0)  # the rest of the rules need no length
                    self._keep(data[position:], start - 4 - position)
                    return
                length = (_LENGTH_16 if length == 126 else _LENGTH_64)(data, position + 2)[0]
            is_simple = first == _FIN | BINARY and not self._opcode
            if not is_simple or not second & _MASKED or length > limit:
                self._check(first, second, length)
            stop = start + length
            if end < stop:
                self._keep(data[position:], stop - position)
                if first & _OPCODE == TEXT or (first & _OPCODE == CONTINUATION and self._opcode == TEXT):
                    self._text_at = start - position
                    self._check_unfinished()
                return
            payload = _unmasked(data[start:stop], data[start - 4 : start])
            if is_simple:
                events.append((BINARY, payload))
            else:
                self._take(first, payload, events)
                if self._has_ended:
                    return
            position = stop
        if position < end:
            self._keep(data[position:], 2)

    def _keep(self, rest: bytes, needed: int) -> None:
        self._tail += rest
        self._needed = needed
        self._text_at = 0

    def _check(self, first: int, second: int, length: int) -> None:
        """Refuse a frame by its header, before any of its payload is kept. A length in more bytes than it needs is taken."""
        opcode = first & _OPCODE
        if first & _RESERVED:
            raise WebSocketError(PROTOCOL_ERROR, "reserved bits are set; no extension was agreed on")
        if not second & _MASKED:
            raise WebSocketError(PROTOCOL_ERROR, "a client masks its frames")
        if opcode in (CLOSE, PING, PONG):
            if not first & _FIN:
                raise WebSocketError(PROTOCOL_ERROR, "a control frame comes whole")
            if second & _LENGTH > MAX_CONTROL_BYTES:
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
        if len(self._fragments) >= self._max_fragments:
            raise WebSocketError(TOO_BIG, f"a message comes in at most {self._max_fragments} frames")

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
            self._check_text(payload[self._checked :], is_last=is_last)
            self._checked = 0
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

    def _check_unfinished(self) -> None:
        """Look at what is new of a text frame that is not whole yet: bad UTF-8 is refused as it comes (section 8.1)."""
        start = self._text_at
        fresh = start + self._checked
        if not start or len(self._tail) <= fresh:
            return
        shift = self._checked & 3  # where in the mask the fresh bytes begin
        mask = bytes(self._tail[start - 4 + shift : start] + self._tail[start - 4 : start - 4 + shift])
        part = bytes(self._tail[fresh:])
        self._checked += len(part)
        self._check_text(_unmasked(part, mask), is_last=False)

    def _check_text(self, part: bytes, *, is_last: bool) -> None:
        """Refuse a text that cannot become UTF-8 any more."""
        text = self._carry + part
        try:
            read = utf_8_decode(text, "strict", is_last)[1]
        except UnicodeDecodeError as exc:
            raise WebSocketError(BAD_DATA, f"a text message is UTF-8: {exc.reason}") from exc
        self._carry = text[read:]

    def _end(self) -> None:
        self._has_ended = True
        self._tail.clear()
        self._carry = b""
        self._fragments = []
        self._size = 0


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    """The payload as it was before the client masked it (section 5.3): XOR of two long numbers, block by block."""
    length = len(payload)
    if length <= _BLOCK_BYTES:
        repeated = int.from_bytes((mask * (length // 4 + 1))[:length], "little")
        return (int.from_bytes(payload, "little") ^ repeated).to_bytes(length, "little")
    repeated = int.from_bytes(mask * (_BLOCK_BYTES // 4), "little")
    blocks = [
        (int.from_bytes(payload[at : at + _BLOCK_BYTES], "little") ^ repeated).to_bytes(_BLOCK_BYTES, "little")
        for at in range(0, length - _BLOCK_BYTES + 1, _BLOCK_BYTES)
    ]
    blocks.append(_unmasked(payload[length - length % _BLOCK_BYTES :], mask))
    return b"".join(blocks)


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
