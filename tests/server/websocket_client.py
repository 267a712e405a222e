"""A WebSocket client on a raw socket, written from RFC 6455 alone: what `wire.Client` asks goes over WebSocket."""

import base64
import hashlib
import json
import os
import socket
import struct
import time

from wire import JSON, PATIENCE_S, Client, ClosedByServer, Frame, NothingCame, encode
from wire import decode as decode_body

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # both are the RFC's own example


def http_address(server):
    """(host, port) of a real server's HTTP listener."""
    host, port = server.ready["http"][0].rsplit(":", 1)
    return host, int(port)


def upgrade(*headers, path="/ws", method="GET", version="1.1", host="server.test", leave_out=(), key=KEY):
    """The bytes of a handshake; `headers` are lines of their own, `leave_out` names those that are not wanted."""
    lines = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    head = [f"{method} {path} HTTP/{version}"]
    head += [f"{name}: {value}" for name, value in lines.items() if name not in leave_out]
    return "\r\n".join([*head, *headers, "", ""]).encode("latin-1")


def pack(opcode, payload=b"", *, fin=True, reserved=0, mask=None, length_form=None):
    """A client's frame. `mask` b"" sends it unmasked; `length_form` 16 or 64 writes the length longer than it need be."""
    mask = os.urandom(4) if mask is None else mask
    first = (FIN if fin else 0) | reserved << 4 | opcode
    masked = 0x80 if mask else 0
    if length_form == 64 or (length_form is None and len(payload) > 0xFFFF):
        head = struct.pack(">BBQ", first, masked | 127, len(payload))
    elif length_form == 16 or len(payload) > 125:
        head = struct.pack(">BBH", first, masked | 126, len(payload))
    else:
        head = struct.pack(">BB", first, masked | len(payload))
    if not mask:
        return head + payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def parse_answer(head):
    """(status, headers by lower-case name) of an answer's head."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        assert name.lower() not in headers, f"{name} comes twice"
        headers[name.lower()] = value
    return int(status_line.split(" ")[1]), headers


def refusal(server, request):
    """(status, headers, body) of a handshake that is not accepted; the server ends the connection behind it."""
    with socket.create_connection(http_address(server), timeout=PATIENCE_S) as sock:
        sock.sendall(request)
        data = b""
        while part := sock.recv(65536):
            data += part
            assert b" 101 " not in data.partition(b"\r\n")[0], data
    head, _, body = data.partition(b"\r\n\r\n")
    return *parse_answer(head), body


class Closed(ClosedByServer):
    """The server has said CLOSE: `code` (None: it had none) and `reason`."""

    def __init__(self, code, reason):
        super().__init__(f"CLOSE {code} {reason!r}")
        self.code = code
        self.reason = reason


class WebSocketClient(Client):
    """One WebSocket.

    Args:
        text: requests are text messages; else binary ones.
        headers: lines of the handshake beside its own.
        behind: bytes sent in one segment with the handshake.
        pongs: answer pings.
    """

    def __init__(self, server, *, text=False, headers=(), behind=b"", pongs=True, flags=0, receive_buffer_bytes=None):
        super().__init__(http_address(server), flags=flags, receive_buffer_bytes=receive_buffer_bytes)
        self.text_mode = text
        self.pongs = pongs
        #: The opcode of each message that came, in order; pings and pongs beside them.
        self.forms = []
        self.pings = []
        self.pong_payloads = []
        self.send_raw(upgrade(*headers) + behind)
        self.status, self.headers = self._handshake()
        assert self.status == 101
        assert self.headers["sec-websocket-accept"] == ACCEPT
        assert (self.headers["upgrade"].lower(), self.headers["connection"].lower()) == ("websocket", "upgrade")

    def _handshake(self):
        deadline = time.monotonic() + self.timeout_s
        while b"\r\n\r\n" not in self.buffer:
            self._fill(len(self.buffer) + 1, deadline)
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        self.buffer[:] = rest
        return parse_answer(head)

    # --- writing

    def message(self, opcode, payload=b"", **options):
        """Send one frame as it is."""
        self.send_raw(pack(opcode, payload, **options))

    def send(self, command, body=None, *, flags=None):
        if self.text_mode:
            self.message(TEXT, json.dumps({"cmd": command, **(body or {})}).encode())
        else:
            self.message(BINARY, encode(command, body, flags=self.flags if flags is None else flags))

    # --- reading

    def read_message(self, timeout_s=None):
        """(opcode, payload) of the next frame. Raises Closed for a CLOSE, ClosedByServer where there is none."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        try:
            self._fill(2, deadline)
            first, second = self.buffer[0], self.buffer[1]
            assert first & 0xF0 == FIN, f"0x{first:02x}: a server's message comes in one frame, without extensions"
            assert not second & 0x80, "a server masks nothing"
            start, length = 2, second
            if length == 126:
                self._fill(4, deadline)
                start, length = 4, int.from_bytes(self.buffer[2:4], "big")
                assert length > 125
            elif length == 127:
                self._fill(10, deadline)
                start, length = 10, int.from_bytes(self.buffer[2:10], "big")
                assert length > 0xFFFF
            self._fill(start + length, deadline)
        finally:
            if self.socket.fileno() >= 0:
                self.socket.settimeout(self.timeout_s)
        payload = bytes(self.buffer[start : start + length])
        del self.buffer[: start + length]
        if first & 0xF >= CLOSE:
            assert length <= 125
        return first & 0xF, payload

    def read_frame(self, timeout_s=None):
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            opcode, payload = self.read_message(max(0.0, deadline - time.monotonic()))
            if opcode == PING:
                self.pings.append(payload)
                if self.pongs:
                    self.message(PONG, payload)
            elif opcode == PONG:
                self.pong_payloads.append(payload)
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else None
                raise Closed(code, payload[2:].decode())
            elif opcode == TEXT:
                self.forms.append(TEXT)
                fields = json.loads(payload.decode())
                return Frame(fields.pop("cmd"), 1, JSON, fields, payload)
            else:
                assert opcode == BINARY, opcode
                self.forms.append(BINARY)
                length, command, version, flags = struct.unpack_from(">IHBB", payload)
                assert (length, version) == (len(payload), 1), "the server sends one frame in each binary message"
                assert flags in (0, 1, 2, 3)
                return Frame(command, version, flags, decode_body(flags, payload[8:]), payload[8:])

    def pong(self):
        """Wait for the next PONG; frames met on the way are sorted as ever."""
        while not self.pong_payloads:
            opcode, payload = self.read_message()
            assert opcode == PONG, (opcode, payload)
            self.pong_payloads.append(payload)
        return self.pong_payloads.pop(0)

    def end(self, timeout_s=None):
        """Read up to CLOSE, and see that nothing but the end follows; gives (code, reason). Pushes are kept."""
        try:
            while True:
                self._sort(self.read_frame(timeout_s))
        except Closed as closed:
            ended = closed
        try:
            rest = self.read_message()
        except NothingCame:
            raise AssertionError("the server does not close behind its CLOSE") from None
        except ClosedByServer:
            assert not self.buffer
            return ended.code, ended.reason
        raise AssertionError(f"{rest} behind CLOSE")


def accept_of(key):
    """What answers a key."""
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()
