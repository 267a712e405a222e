"""HTTP/1.1 over h11: one Trio task a connection, and a deadline for every wait.

Limits, with their precedents: a head of 16 KiB (nginx and Apache allow 8 to 32), 10 s for it to come (OWASP on slow
clients), 64 KiB of body, 60 s between requests, 1,000 connections at once.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus

import attrs
import h11
import trio

import imserver
from imserver.log import get_logger

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 1000
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 60.0
HANDLER_TIMEOUT_S = 10.0
LINGER_S = 1.0
LINGER_BYTES = 1 << 20
_READ_BYTES = 16 * 1024


@attrs.frozen
class Request:
    """A request as parsed; header names are lower case."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


@attrs.frozen
class Response:
    """An answer. Content-Length, Date-free and Connection headers are the server's matter."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()


Handler = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    """The request is answered by this and the connection closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = Response(status, message.encode() + b"\n")


class HttpServer:
    """Serves HTTP on listening sockets.

    Args:
        handle: answers one request; what it raises costs its client a 500 and nobody else anything.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._log = get_logger("http")
        self.connections = 0

    async def serve(self, sockets: Iterable[socket.socket]) -> None:
        """Serve until cancelled. Accept errors are survived as `trio.serve_listeners` documents (EMFILE: 100 ms pause)."""
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
        if listeners:
            await trio.serve_listeners(self._serve_connection, listeners)

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        connection = _Connection(stream)
        try:
            if self.connections > MAX_CONNECTIONS:
                await connection.refuse(_Refused(503, "too many HTTP connections; try again"))
                return
            while await self._serve_request(connection):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client is gone, or too slow to be kept
        except _Refused as refused:
            await connection.refuse(refused)
        except Exception:
            self._log.exception("http_fault")
        finally:
            self.connections -= 1
            with trio.move_on_after(1, shield=True):
                await stream.aclose()

    async def _serve_request(self, connection: _Connection) -> bool:
        """One request and its answer; returns whether another may follow."""
        request = await connection.next_request()
        if request is None:
            return False
        try:
            with trio.fail_after(HANDLER_TIMEOUT_S):
                response = await self._handle(request)
        except trio.TooSlowError:
            response = Response(504, b"the request ran past its deadline\n")
        except Exception:
            self._log.exception("http_handler_fault", path=request.path)
            response = Response(500, b"the server made a mistake; its log has the details\n")
        return await connection.answer(response, is_head=request.method == "HEAD")


class _Connection:
    """One client: h11's state machine over a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._is_first = True

    async def next_request(self) -> Request | None:
        """The next request, whole; None at the end of the connection.

        Raises:
            _Refused: it breaks HTTP or a limit.
            trio.TooSlowError: it does not come in time.
        """
        if not self._is_first and not self._h11.trailing_data[0]:
            with trio.move_on_after(KEEP_ALIVE_S) as idle:
                if not await self._receive():
                    return None
            if idle.cancelled_caught:
                return None
        self._is_first = False
        with trio.fail_after(HEAD_TIMEOUT_S):
            head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        with trio.fail_after(BODY_TIMEOUT_S):
            body = await self._read_body()
        path, _, query = head.target.decode("latin-1").partition("?")
        return Request(head.method.decode("latin-1"), path, query, list(head.headers), body)

    async def _read_body(self) -> bytes:
        body = bytearray()
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return bytes(body)
            if not isinstance(event, h11.Data):
                raise _Refused(400, "the request ends before its body does")
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise _Refused(413, f"a body has at most {MAX_BODY_BYTES} bytes")

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                raise _Refused(exc.error_status_hint, "this is no valid HTTP request") from exc
            if event is not h11.NEED_DATA:
                return event
            await self._receive()

    async def _receive(self) -> bool:
        """Hand the next bytes to h11; returns False at the end of the stream."""
        data = await self._stream.receive_some(_READ_BYTES)
        self._h11.receive_data(bytes(data))
        return bool(data)

    async def answer(self, response: Response, *, is_head: bool = False) -> bool:
        """Send an answer; returns whether the connection goes on."""
        headers = [
            ("Server", f"imserver/{imserver.__version__}"),
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        reason = HTTPStatus(response.status).phrase.encode()
        await self._send(h11.Response(status_code=response.status, headers=headers, reason=reason))
        if not is_head:
            await self._send(h11.Data(data=response.body))
        await self._send(h11.EndOfMessage())
        if self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    async def refuse(self, refused: _Refused) -> None:
        """Answer a request that cannot be read to its end, as far as that is possible, and say that this is the end."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        try:
            await self.answer(attrs.evolve(refused.response, headers=[("Connection", "close")]))
            await self._linger()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return  # nobody is there to read it

    async def _linger(self) -> None:
        """Take a little of what still comes: closing on unread bytes would reset the connection and lose the answer."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        left = LINGER_BYTES
        with trio.move_on_after(LINGER_S):
            while left > 0 and (data := await self._stream.receive_some(_READ_BYTES)):
                left -= len(data)

    async def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            with trio.fail_after(WRITE_TIMEOUT_S):
                await self._stream.send_all(data)
