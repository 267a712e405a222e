"""A session whose frames travel in the messages of a WebSocket (wire protocol, section 6).

A binary message is one or more whole frames. A text message is one JSON object with the command ID in `cmd`; inside the
server it is a frame like any other whose flag TEXT says how its answer travels.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Annotated

import msgspec

from imserver.errors import InvalidBody
from imserver.outbox import State
from imserver.protocol.body import encode_frame, rid_of
from imserver.protocol.frame import FORM, GZIP, HEADER_BYTES, JSON, TEXT, command_of, flags_of
from imserver.protocol.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    WebSocketDecoder,
    WebSocketError,
    header,
    pack_close,
    pack_message,
)
from imserver.protocol.websocket import TEXT as TEXT_MESSAGE
from imserver.router import ERROR
from imserver.session import Session

if TYPE_CHECKING:
    from imserver.shard import Shard
    from imserver.tls import TlsSocket

#: Close codes (RFC 6455, section 7.4). What GOAWAY says is said by 4000 + its code as well.
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
POLICY_VIOLATION = 1008
TOO_BIG = 1009
_OWN_CODES = 4000
#: A peer that leaves so many pings unanswered is taken for dead.
UNANSWERED_PINGS = 2


class _Text(msgspec.Struct):
    """What is wanted of a text message before its command is known."""

    cmd: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]


_read_text = msgspec.json.Decoder(_Text).decode


class WebSocketSession(Session):
    """See the module. Born when the handshake is done."""

    __slots__ = (
        "_close",
        "_close_payload",
        "_codec",
        "_has_form",
        "_has_said_close",
        "_ping_at",
        "_pong",
        "_unanswered_pings",
    )

    def __init__(self, shard: Shard, sock: socket.socket | TlsSocket, address: str) -> None:
        super().__init__(shard, sock, address)
        self._codec = WebSocketDecoder(self.decoder.max_frame_bytes)
        #: The first message has told whether pushes are text; until then they are binary.
        self._has_form = False
        #: How the connection will be closed: (code, reason). None: nobody has said anything of it.
        self._close: tuple[int, str] | None = None
        self._has_said_close = False
        #: The peer's CLOSE, while requests that came before it wait to be carried out.
        self._close_payload: bytes | None = None
        #: The answer to the newest ping, while what goes out before it is not out.
        self._pong = b""
        self._ping_at = shard.now + shard.config.http.websocket_ping_s
        self._unanswered_pings = 0

    def begin(self, unread: bytes) -> None:
        """Carry out what came right behind the handshake."""
        if unread and self.takes_frames:
            self._take(memoryview(unread))

    # ------------------------------------------------------------ reading

    def _take(self, data: memoryview) -> None:
        """See `Session._take`."""
        self._unanswered_pings = 0  # any frame counts as life
        self._begin_turn()
        for opcode, payload in self._codec.receive(data):
            if self.state is not State.OPEN:
                return
            if isinstance(payload, WebSocketError):
                self._fail(payload.close_code, str(payload))
            elif opcode == BINARY:
                self._take_frames(payload)
            elif opcode == TEXT_MESSAGE:
                self._take_text(payload)
            elif opcode == PING:
                # Only the newest has to be answered (RFC 6455, section 5.5.3), so that a flood of them takes no room.
                self._pong = pack_message(PONG, payload)
                self._mark_dirty()
                self.charge(1)
            elif opcode == CLOSE:
                self._answer_close(payload)
            # A PONG is life, and that was noted.

    def _take_frames(self, message: bytes) -> None:
        """A binary message: whole frames."""
        frames = self.decoder.receive(message)
        if self.decoder.buffered_bytes:
            self._fail(PROTOCOL_ERROR, "a binary message is one or more whole frames; this one ends inside a frame")
            return
        for _, flags, _, error in frames:
            self._note_form(flags)
            if error is not None and error.fatal:
                self._close = (TOO_BIG if error.code == 413 else PROTOCOL_ERROR, str(error))
        self._carry_out(frames)

    def _take_text(self, text: bytes) -> None:
        """A text message: one request."""
        if not self.takes_frames:
            return
        self._note_form(JSON | TEXT)
        try:
            command_id = _read_text(text).cmd
        except (msgspec.DecodeError, RecursionError) as exc:
            error = InvalidBody(f'a text message is one JSON object such as {{"cmd": 2001, …}}: {exc}')
            self.charge(1)
            rid = rid_of(text, JSON, len(text))
            self.send(encode_frame(ERROR, {"rid": rid, **error.answer()} if rid else error.answer(), JSON | TEXT))
        else:
            self._carry_out([(command_id, JSON | TEXT, text, None)])

    def _note_form(self, flags: int) -> None:
        if not self._has_form:
            self._has_form = True
            self.flags = (self.flags or 0) & GZIP | flags & FORM

    def _fail(self, code: int, reason: str) -> None:
        """The peer broke the rules of WebSocket: say why and close."""
        self._close = (code, reason)
        self.go_away_silently()

    def _answer_close(self, payload: bytes) -> None:
        """The peer closes. What it has asked is still carried out and answered, then comes our CLOSE with its code."""
        if self.backlog is not None:
            self._close_payload = payload
            return
        self._close = (int.from_bytes(payload[:2], "big") if payload else 1000, "")
        if self.state is State.OPEN:
            self._begin_closing(cancel_tasks=False)

    def resume(self) -> None:
        """See `Session.resume`."""
        super().resume()
        if self._close_payload is not None:
            self._answer_close(self._close_payload)

    # ------------------------------------------------------------ writing

    @property
    def has_output(self) -> bool:
        """See `Session.has_output`."""
        return bool(self.out or self._unsent or self._pong)

    def _next_bytes(self) -> bytes:
        """See `Session._next_bytes`: each frame in a message of its own."""
        parts = [self._pong]
        self._pong = b""
        for frame in self._next_frames():
            if flags_of(frame) & TEXT:
                text = b'{"cmd":%d' % command_of(frame)
                # The body is a JSON object: `{}`, or one whose first brace gives way to ours.
                text += b"}" if len(frame) == HEADER_BYTES + 2 else b"," + frame[HEADER_BYTES + 1 :]
                parts += (header(TEXT_MESSAGE, len(text)), text)
            else:
                parts += (header(BINARY, len(frame)), frame)
        return b"".join(parts)

    def _send_control(self, message: bytes) -> None:
        """Send a control frame ahead of the outbox: what is on its way ends at a message's end."""
        self._unsent += message
        self._mark_dirty()

    def _write(self) -> None:
        """See `Session._write`: what was half out is out, and a ping that came meanwhile is answered."""
        super()._write()
        if self._pong and not self._wants_write:
            self._mark_dirty()
            self.shard.reactor.wake()

    # ------------------------------------------------------------ the end

    def go_away(self, error: str, message: str, *, code: int = 503, retry_after_ms: int | None = None) -> None:
        """See `Session.go_away`."""
        if self.state is State.OPEN:
            self._close = (GOING_AWAY if error == "draining" else _OWN_CODES + code, error)
        super().go_away(error, message, code=code, retry_after_ms=retry_after_ms)

    def go_away_silently(self) -> None:
        """See `Session.go_away_silently`."""
        if self._close is None and not self.shard.router.is_draining:
            self._close = (POLICY_VIOLATION, "an ERROR has said why")
        super().go_away_silently()

    def _end_output(self) -> None:
        """See `Session._end_output`: CLOSE goes out last."""
        if self._has_said_close:
            super()._end_output()
            return
        self._has_said_close = True
        self._send_control(pack_close(*(self._close or (GOING_AWAY, ""))))
        self.shard.reactor.wake()

    def lose(self) -> None:
        """See `Session.lose`."""
        self._pong = b""
        super().lose()

    # ------------------------------------------------------------ deadlines

    def _check_life(self, now: float) -> float | None:
        """See `Session._check_life`: the server pings, and two pings without any answer are the end."""
        if self.shard.deaf_at >= now:
            return now + 0.1  # nothing is read just now, thus no answer either
        if now >= self._ping_at and self.backlog is None:
            if self._unanswered_pings >= UNANSWERED_PINGS:
                self.go_away("idle", "two pings without an answer", code=408)
                return None
            self._unanswered_pings += 1
            self._ping_at = now + self.shard.config.http.websocket_ping_s
            self._send_control(pack_message(PING, b""))
        # While it is parked nothing is read, thus no answer either.
        return max(self._ping_at, now)

    # ------------------------------------------------------------ login

    def bind(self, user_id: str, session_id: str, device_id: str | None) -> Session | None:
        """See `Session.bind`."""
        replaced = super().bind(user_id, session_id, device_id)
        self._codec.max_message_bytes = self.decoder.max_frame_bytes
        return replaced
