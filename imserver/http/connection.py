"""One client's connection: bytes in and out, each wait under a deadline.

Requests are cut out of the one buffer that is here: the head goes to an h11 state machine of its own, the body to a
`BodyReader`, and what follows stays for the next request. Nothing is read before it is asked for, so what a client can
have the server hold is what one read takes, and one head.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus

import h11
import trio

import imserver
from imserver.http.body import BodyReader
from imserver.http.errors import HttpError
from imserver.http.head import Head, parse_head, take_head
from imserver.http.limits import HttpLimits, Pace
from imserver.http.stream import READ_BYTES, SocketStream

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_SERVER = f"imserver/{imserver.__version__}".encode("ascii")
#: What the client sends while its request is being answered is read up to here, to see whether it goes away.
_READ_AHEAD_BYTES = READ_BYTES
#: Up to here the pieces of an answer are joined, to be one packet and one call.
_JOINED_BYTES = 64 * 1024


class HttpConnection:
    """See the module.

    Raises, from whatever waits:
        trio.BrokenResourceError: the client is gone.
        trio.TooSlowError: the client takes nothing.
    """

    def __init__(self, stream: SocketStream, limits: HttpLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._buffer = bytearray()
        self._is_first = True
        #: While there is no request under way: how to end the wait for one.
        self._idling: trio.CancelScope | None = None
        #: While a head has come in part: likewise.
        self._heading: trio.CancelScope | None = None
        #: It was ended while no request was under way, because another one needed its place.
        self.has_given_place = False
        #: Nothing more comes from the client; it may still wait for answers.
        self._has_ended = False
        self._h11 = h11.Connection(h11.SERVER)
        self._head: Head | None = None
        self._is_head = False
        self._body = BodyReader(0, None)
        self._has_said_continue = False
        self._taking = Pace(limits)
        self._giving = Pace(limits)
        #: The server bounds the body of the request at hand, not the app.
        self.is_body_limited = True
        #: A part of the answer to the request at hand has been sent.
        self.has_answered = False

    # ------------------------------------------------------------ reading

    async def next_head(self) -> Head | None:
        """The next request's head; None: there is none, because the client has gone or been idle for too long.

        Raises:
            HttpError: it is refused, or does not come in time.
        """
        self._head = None
        self.has_answered = self._is_head = False
        data = await self._next_head_bytes()
        if data is None:
            return None
        self._is_head = data.startswith(b"HEAD ")
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.max_head_bytes)
        self._head = head = parse_head(data, self._h11, self._limits)
        self.is_body_limited = self._limits.limits_body(head.path)
        self._body = BodyReader(head.length, self._limits.max_body_bytes if self.is_body_limited else None)
        self._has_said_continue = not head.expects_continue
        self._taking, self._giving = Pace(self._limits), Pace(self._limits)
        return head

    @property
    def is_idle(self) -> bool:
        """It waits for the first byte of a request."""
        return self._idling is not None and not self.has_given_place

    @property
    def has_half_head(self) -> bool:
        """It waits for the rest of a head: nobody is served by it yet."""
        return self._heading is not None and not self.has_given_place

    def give_place(self) -> None:
        """End now, idle or with half a head, because another one needs its place."""
        self.has_given_place = True
        for scope in (self._idling, self._heading):
            if scope is not None:
                scope.cancel()

    async def _next_head_bytes(self) -> bytes | None:
        buffer = self._buffer
        began_at = trio.current_time()
        if not buffer:
            wait_s = self._limits.head_timeout_s if self._is_first else self._limits.keep_alive_s
            with trio.CancelScope() as self._idling:
                try:
                    if not await self._receive(wait_s):
                        return None
                except trio.TooSlowError:
                    return None
            if self._idling.cancelled_caught:
                return None
            self._idling = None
        if not self._is_first:
            began_at = trio.current_time()
        self._is_first = False
        searched = 0
        ends_at = began_at + self._limits.head_timeout_s
        while True:
            if buffer:
                data = take_head(buffer, searched, self._limits)
                if data is not None:
                    return data
                searched = len(buffer)
            with trio.CancelScope() as self._heading:
                try:
                    has_more = await self._receive(max(0.0, ends_at - trio.current_time()))
                except trio.TooSlowError:
                    if not buffer:
                        return None
                    raise HttpError(408, "the request took too long to come") from None
            if self._heading.cancelled_caught:
                return None
            self._heading = None
            if not has_more:
                if not buffer:
                    return None
                raise HttpError(400, "the request ends before its head does")

    def read_body_nowait(self) -> bytes | None:
        """What has come of the body; b"" once there is no more of it; None: see `read_body`.

        Raises:
            HttpError: it is malformed or too large.
        """
        piece = self._body.take(self._buffer)
        if piece:
            self._taking.moved(len(piece))
            return piece
        return b"" if self._body.is_done else None

    @property
    def has_whole_body(self) -> bool:
        """All of the body has been read."""
        return self._body.is_done

    async def read_body(self) -> bytes:
        """The next piece of the body, when it has come; b"" once there is no more.

        Raises:
            HttpError: it is malformed, too large, too slow, or ends early.
        """
        while (piece := self.read_body_nowait()) is None:
            if not self._has_said_continue:
                self._has_said_continue = True
                if not self._buffer and self._h11.our_state is h11.SEND_RESPONSE:
                    await self._write(
                        self._h11.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                    )
            started = trio.current_time()
            try:
                has_more = await self._receive(self._taking.allowed_s)
            except trio.TooSlowError:
                raise HttpError(408, "the body took too long to come") from None
            self._taking.waited(trio.current_time() - started)
            if not has_more:
                raise HttpError(400, "the request ends before its body does")
        return piece

    async def wait_gone(self) -> None:
        """Wait until the client sends no more; what it sends of its next requests is kept for later, up to a bound."""
        try:
            while not self._has_ended:
                if len(self._buffer) >= _READ_AHEAD_BYTES:
                    await trio.sleep_forever()
                await self._receive(None)
        except trio.BrokenResourceError:
            self._has_ended = True

    async def drain(self) -> bool:
        """Take what is left of the body; returns whether the next request can be read."""
        if self._body.is_done:
            return True
        if not self._can_drain:
            return False
        left = self._limits.drain_bytes
        with trio.move_on_after(self._limits.linger_s):
            try:
                while left > 0 and (piece := await self.read_body()):
                    left -= len(piece)
            except HttpError:
                return False
        return self._body.is_done

    @property
    def _can_drain(self) -> bool:
        """A client that still waits for 100 may send its body or not: nobody knows what comes next."""
        return self._has_said_continue and (self._body.left_bytes or 0) <= self._limits.drain_bytes

    async def _receive(self, timeout_s: float | None) -> bool:
        """Read once; returns False at the end of what the client sends.

        Raises:
            trio.TooSlowError: nothing comes in time.
        """
        if self._has_ended:
            return False
        stream = self._stream
        data = stream.receive_nowait()
        if data is None:
            with trio.fail_after(float("inf") if timeout_s is None else timeout_s):
                while data is None:
                    await stream.wait_receivable()
                    data = stream.receive_nowait()
        else:
            await trio.lowlevel.checkpoint()
        self._buffer += data
        self._has_ended = not data
        return bool(data)

    # ------------------------------------------------------------ writing

    async def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, more: bool) -> None:
        """Begin an answer, or send all of it.

        Args:
            headers: the app's; those that every answer has are added.
            more: a part of the body follows, by `continue_answer`.

        Raises:
            h11.LocalProtocolError: it is no valid answer; nothing was sent.
        """
        events: list[h11.Event] = [
            h11.Response(
                status_code=status, headers=self._complete(status, headers, body, more), reason=_REASONS.get(status, b"")
            )
        ]
        if body and not self._is_head:
            events.append(h11.Data(data=body))
        if not more:
            events.append(h11.EndOfMessage())
        await self._send(events)

    async def continue_answer(self, body: bytes, *, more: bool) -> None:
        """Send a further part of the body, or the last one.

        Raises:
            h11.LocalProtocolError: its length is not the one that was announced.
        """
        events: list[h11.Event] = [h11.Data(data=body)] if body and not self._is_head else []
        if not more:
            events.append(h11.EndOfMessage())
        if events:
            await self._send(events)
        else:
            await trio.lowlevel.checkpoint()

    async def refuse(self, error: HttpError) -> None:
        """Answer of the server's own; the connection ends with it. Nothing happens if an answer has begun."""
        if self.has_answered:
            return
        body, content_type = error.body(self._head.path if self._head is not None else None)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers]
        headers += [(b"Content-Type", content_type.encode("ascii")), (b"Connection", b"close")]
        # Another machine: the request's own may have seen only a half of it, or an answer that could not be sent. This
        # one has not seen that the request is a HEAD, so that has no length.
        self._h11 = h11.Connection(h11.SERVER)
        await self.answer(error.status, headers, b"" if self._is_head else body, more=self._is_head)

    async def switch_protocol(self, headers: Sequence[tuple[str, str]]) -> bytes:
        """Send 101; returns what was read beyond the request: it is the other protocol's."""
        event = h11.InformationalResponse(
            status_code=101, headers=[("Server", _SERVER.decode("ascii")), *headers], reason=b"Switching Protocols"
        )
        self.has_answered = True
        await self._write(self._h11.send(event))
        return bytes(self._buffer)

    @property
    def may_go_on(self) -> bool:
        """The answer is sent, and neither side has said that it is the last one."""
        return self._h11.our_state is h11.DONE

    def _complete(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, more: bool
    ) -> list[tuple[bytes, bytes]]:
        names = {name.lower() for name, _ in headers}
        # How the body is framed is this connection's matter, not the app's.
        complete = [header for header in headers if header[0].lower() != b"transfer-encoding"]
        if b"date" not in names:
            complete.append((b"Date", _http_date()))
        if b"server" not in names:
            complete.append((b"Server", _SERVER))
        if b"x-content-type-options" not in names:
            complete.append((b"X-Content-Type-Options", b"nosniff"))
        if b"cache-control" not in names:
            complete.append((b"Cache-Control", b"no-store"))
        # An answer to HEAD has the length that GET would have: not known here if the app has left the body out.
        has_length = not more and status not in (204, 304) and (body or not self._is_head)
        if has_length and b"content-length" not in names:
            complete.append((b"Content-Length", b"%d" % len(body)))
        if not self._body.is_done and not self._can_drain and b"connection" not in names:
            complete.append((b"Connection", b"close"))
        return complete

    async def _send(self, events: Sequence[h11.Event]) -> None:
        parts: list[bytes] = []
        size = 0
        for event in events:
            for part in self._h11.send_with_data_passthrough(event) or ():
                parts.append(part)
                size += len(part)
        self.has_answered = True
        if size <= _JOINED_BYTES:
            await self._write(b"".join(parts))
        else:
            for part in parts:
                await self._write(part)

    async def _write(self, data: bytes) -> None:
        stream = self._stream
        sent = stream.send_nowait(data)
        if sent == len(data) and not stream.has_unsent:
            await trio.lowlevel.checkpoint()
            return
        view = memoryview(data)
        pace = self._giving
        while sent < len(view) or stream.has_unsent:
            started = trio.current_time()
            with trio.fail_after(pace.allowed_s):
                await stream.wait_sendable()
            pace.waited(trio.current_time() - started)
            if sent < len(view):
                size = stream.send_nowait(view[sent:])
                sent += size
                pace.moved(size)

    async def linger(self) -> None:
        """Take a little of what still comes: closing on unread bytes would reset the connection and lose the answer."""
        left = self._limits.linger_bytes
        with trio.move_on_after(self._limits.linger_s):
            await self._stream.send_eof()
            while left > 0 and not self._has_ended and (data := await self._stream.receive_some()):
                left -= len(data)


_date = (0, b"")


def _http_date() -> bytes:
    """The time in the form that Date has, made once a second."""
    global _date
    now = int(time.time())
    second, text = _date
    if second != now:
        text = formatdate(now, usegmt=True).encode("ascii")
        _date = (now, text)  # one assignment: shards' threads share it
    return text
