"""How frames travel: one behind the other over TCP, or in the binary messages of a WebSocket.

A WebSocket client has to mask what it sends. The key here is zero, which is as good a key as any to the receiver, and
leaves the frame as it is: the server pays for unmasking, the load does not pay for masking. Each frame is a message of its
own, as most clients send them. What is received stays in its messages: the ids are searched for across their headers.

Source: RFC 6455, sections 4.1 (handshake) and 5.2 (framing); wire protocol, section 6.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from struct import Struct

from attrs import frozen

from imserver.bench.wire import HEADER_BYTES, MAX_FRAME_BYTES, BenchFailed, whole_frames

#: Opcodes of control frames.
CLOSE, PING, PONG = 0x8, 0x9, 0xA
_FIN = 0x80
_BINARY = _FIN | 0x2
_MASKED = 0x80
_ZERO_KEY = bytes(4)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_HEAD_BYTES = 65536  # of the answer to the handshake
_HEAD = Struct(">II")  # as in wire.py


@frozen
class Address:
    """Where the server is, and how it is spoken to.

    Attributes:
        transport: `tcp` or `ws`.
        path: of the WebSocket.
    """

    transport: str
    host: str
    port: int
    path: str = "/ws"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.transport == "tcp" else f"ws://{host}:{self.port}{self.path}"


class Framing:
    """Frames over TCP: nothing between them."""

    def header(self, frame_bytes: int) -> bytes:
        """What goes before a frame of this size."""
        return b""

    def whole(self, data: bytes, kind: int) -> tuple[int, int, bool]:
        """See `wire.whole_frames`; a control frame of the transport counts for none, and is not of that kind."""
        return whole_frames(data, kind)

    def frames(self, chunk: bytes) -> bytes:
        """The frames alone of what `whole` has cut off."""
        return chunk

    def controls(self, chunk: bytes) -> Sequence[tuple[int, bytes]]:
        """Opcode and payload of each control frame of the transport."""
        return ()

    def receive(self, sock: socket.socket) -> bytes:
        """The next frame of a blocking socket, or the frames that came with it.

        Raises:
            BenchFailed: the connection ended, or what came is no frame.
            OSError: it broke, or nothing came within the socket's time-out.
        """
        head = receive_exactly(sock, HEADER_BYTES)
        length = int.from_bytes(head[:4], "big")
        if not HEADER_BYTES <= length <= MAX_FRAME_BYTES:
            raise BenchFailed(f"the server sent a frame with an impossible length of {length} bytes")
        return head + receive_exactly(sock, length - HEADER_BYTES)


class WebSocketFraming(Framing):
    """Frames in the messages of a WebSocket."""

    def header(self, frame_bytes: int) -> bytes:
        """See `Framing.header`: that of a masked binary message."""
        return _header(_BINARY, frame_bytes)

    def whole(self, data: bytes, kind: int) -> tuple[int, int, bool]:
        """See `Framing.whole`."""
        end, count, is_plain = 0, 0, True
        unpack = _HEAD.unpack_from
        for first, begin, end in _messages(data):
            if first != _BINARY:
                is_plain = False
                continue
            while begin < end:
                length, found = unpack(data, begin) if end - begin >= HEADER_BYTES else (0, 0)
                if not HEADER_BYTES <= length <= end - begin:
                    raise BenchFailed("the server sent a binary message that is not one or more whole frames")
                begin += length
                count += 1
                if found != kind:
                    is_plain = False
        return end, count, is_plain

    def frames(self, chunk: bytes) -> bytes:
        """See `Framing.frames`."""
        return b"".join([chunk[begin:end] for first, begin, end in _messages(chunk) if first == _BINARY])

    def controls(self, chunk: bytes) -> Sequence[tuple[int, bytes]]:
        """See `Framing.controls`."""
        return [(first & 0xF, chunk[begin:end]) for first, begin, end in _messages(chunk) if first != _BINARY]

    def receive(self, sock: socket.socket) -> bytes:
        """See `Framing.receive`; a ping is answered."""
        while True:
            data = receive_exactly(sock, 2)
            data += receive_exactly(sock, _extended_bytes(data[1]))
            data += receive_exactly(sock, _length_of(data))
            for opcode, payload in self.controls(data):
                if opcode == PING:
                    sock.sendall(pong(payload))
                elif opcode == CLOSE:
                    raise BenchFailed(f"the server closed the WebSocket {closed_with(payload)}")
            _, count, _ = self.whole(data, 0)
            if count:
                return self.frames(data)


FRAMINGS = {"tcp": Framing(), "ws": WebSocketFraming()}


def pong(payload: bytes) -> bytes:
    """The answer to a ping."""
    return _header(_FIN | PONG, len(payload)) + payload


def closed_with(payload: bytes) -> str:
    """What a CLOSE says, for a person."""
    if len(payload) < 2:
        return "without a code"
    return f"with code {int.from_bytes(payload[:2], 'big')}: {payload[2:].decode('utf-8', 'replace')}"


def shake_hands(sock: socket.socket, address: Address) -> None:
    """Make a WebSocket of a connected, blocking socket.

    Raises:
        BenchFailed: the server refuses, or is none.
        OSError: the connection broke, or nothing came within the socket's time-out.
    """
    key = base64.b64encode(os.urandom(16))
    host = f"[{address.host}]" if ":" in address.host else address.host
    request = (
        f"GET {address.path} HTTP/1.1\r\nHost: {host}:{address.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: imserver.v1\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n"
    )
    sock.sendall(request.encode())
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        more = sock.recv(1)  # by the byte: what comes behind the head is the first message
        if not more:
            raise BenchFailed(f"{address}: the server hung up during the WebSocket's handshake; is it its HTTP address?")
        head += more
        if len(head) > _MAX_HEAD_BYTES:
            raise BenchFailed(f"{address}: an endless answer to the WebSocket's handshake")
    status, *lines = bytes(head).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status.split(" ")[1:2] != ["101"]:
        raise BenchFailed(f"{address}: the server refused the WebSocket: {status[:200]}")
    expected = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    if headers.get("sec-websocket-accept") != expected:
        raise BenchFailed(f"{address}: the answer to the WebSocket's handshake has a wrong Sec-WebSocket-Accept")


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes of a blocking socket.

    Raises:
        BenchFailed: the connection ended before.
    """
    data = bytearray()
    while len(data) < size:
        more = sock.recv(min(size - len(data), 1 << 20))
        if not more:
            raise BenchFailed("the server closed the connection")
        data += more
    return bytes(data)


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, _MASKED | size)) + _ZERO_KEY
    if size < 1 << 16:
        return bytes((first, _MASKED | 126)) + size.to_bytes(2, "big") + _ZERO_KEY
    return bytes((first, _MASKED | 127)) + size.to_bytes(8, "big") + _ZERO_KEY


def _messages(data: bytes) -> Iterator[tuple[int, int, int]]:
    """First byte, begin and end of the payload of each whole message in `data`, which begins with one."""
    position, size = 0, len(data)
    while size - position >= 2:
        first, length = data[position], data[position + 1]
        begin = position + 2
        if length > 125:
            more = _extended_bytes(length)
            if size - begin < more:
                return
            length = int.from_bytes(data[begin : begin + more], "big")
            begin += more
            if length > MAX_FRAME_BYTES:
                raise BenchFailed(f"the server sent a message with an impossible length of {length} bytes")
        if size - begin < length:
            return
        if first != _BINARY and first not in (_FIN | CLOSE, _FIN | PING, _FIN | PONG):
            raise BenchFailed(f"the server sent a WebSocket frame 0x{first:02x}: text, a fragment, or none")
        if first == _BINARY and not length:
            raise BenchFailed("the server sent a binary message that is not one or more whole frames")
        position = begin + length
        yield first, begin, position


def _extended_bytes(second: int) -> int:
    """How many bytes of length follow the second byte of a message."""
    if second & _MASKED:
        raise BenchFailed("the server masks what it sends, or this is no WebSocket")
    return {126: 2, 127: 8}.get(second, 0)


def _length_of(head: bytes) -> int:
    length = head[1] if len(head) == 2 else int.from_bytes(head[2:], "big")
    if length > MAX_FRAME_BYTES:
        raise BenchFailed(f"the server sent a message with an impossible length of {length} bytes")
    return length
