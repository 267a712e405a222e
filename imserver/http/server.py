"""HTTP/1.1 over h11: one Trio task a connection, and a deadline for every wait.

Limits, with their precedents: a head of 16 KiB (nginx and Apache allow 8 to 32), 10 s for it to come (OWASP on slow
clients), 64 KiB of body, 60 s between requests, 1,000 connections at once.

What cannot be understood in one way only is refused, because a proxy in front may have understood it in the other one
(request smuggling): a length beside chunks, another major version of HTTP.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from email.utils import formatdate
from http import HTTPStatus

import attrs
import h11
import trio

import imserver
from imserver.log import get_logger

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 1000
#: Beyond MAX_CONNECTIONS so many at once are told why; those beyond are closed without a word. Arbitrary, and small.
MAX_REFUSALS = 100
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 60.0
HANDLER_TIMEOUT_S = 10.0
LINGER_S = 1.0
LINGER_BYTES = 1 << 20
_READ_BYTES = 16 * 1024
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


@attrs.frozen
class Request:
    """A request as parsed; header names are lower case, `path` and `query` as they came (percent-encoded)."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


@attrs.frozen
class Response:
    """An answer. Content-Length, Date, Server and Connection are the server's matter."""

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

    async def _serve_connection(self, stream: trio.abc.Stream) -> None:
        """Nothing that one client does may leave this: beyond it is the nursery that the whole server lives in."""
        self.connections += 1
        try:
            if self.connections <= MAX_CONNECTIONS:
                await self._serve_requests(_Connection(stream))
            elif self.connections <= MAX_CONNECTIONS + MAX_REFUSALS:
                await _Connection(stream).refuse(Response(503, b"too many HTTP connections; try again later\n"))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client is gone, or too slow to be kept
        except Exception:
            self._log.exception("http_fault")
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_requests(self, connection: _Connection) -> None:
        try:
            while await self._serve_request(connection):
                pass
        except _Refused as refused:
            await connection.refuse(refused.response)
        else:
            await connection.linger()

    async def _serve_request(self, connection: _Connection) -> bool:
        """One request and its answer; returns whether another may follow."""
        request = await connection.next_request()
        if request is None:  # the client has ended the connection, or been idle for too long
            return False
        try:
            with trio.fail_after(HANDLER_TIMEOUT_S):
                response = await self._handle(request)
        except trio.TooSlowError:
            response = Response(504, b"the request ran past its deadline\n")
        except Exception:
            self._log.exception("http_handler_fault", path=request.path)
            response = Response(500, b"the server made a mistake; its log has the details\n")
        return await connection.answer(response)


class _Connection:
    """One client: h11's state machine over a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._is_first = True
        #: The request is a HEAD: whatever is answered, a refusal too, goes without its body.
        self._is_head = False

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
        self._is_first = self._is_head = False
        with trio.fail_after(HEAD_TIMEOUT_S):
            head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        self._is_head = head.method == b"HEAD"
        self._check_head(head)
        with trio.fail_after(BODY_TIMEOUT_S):
            body = await self._read_body()
        path, query = _split_target(head.target)
        return Request(head.method.decode("latin-1"), path, query, list(head.headers), body)

    def _check_head(self, head: h11.Request) -> None:
        """What h11 lets pass, and this server does not."""
        if not head.http_version.startswith(b"1."):
            raise _Refused(505, "this server speaks HTTP/1.1")
        headers = dict(head.headers)
        length = headers.get(b"content-length")
        if length is not None and b"transfer-encoding" in headers:
            raise _Refused(400, "a request has Content-Length or Transfer-Encoding, not both")
        if length is not None and int(length) > MAX_BODY_BYTES:  # h11 has seen that these are digits, and not many
            raise _too_large()

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
                raise _too_large()

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

    async def answer(self, response: Response) -> bool:
        """Send an answer; returns whether the connection goes on."""
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Server", f"imserver/{imserver.__version__}"),
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        reason = HTTPStatus(response.status).phrase.encode()
        events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers, reason=reason)]
        if not self._is_head:
            events.append(h11.Data(data=response.body))
        await self._send(*events, h11.EndOfMessage())
        if self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    async def refuse(self, response: Response) -> None:
        """Answer a request that cannot be read to its end, as far as that is possible, and say that this is the end."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.answer(attrs.evolve(response, headers=[*response.headers, ("Connection", "close")]))
            await self.linger()

    async def linger(self) -> None:
        """Take a little of what still comes: closing on unread bytes would reset the connection and lose the answer."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        left = LINGER_BYTES
        with trio.move_on_after(LINGER_S):
            while left > 0 and (data := await self._stream.receive_some(_READ_BYTES)):
                left -= len(data)

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._h11.send(event) or b"" for event in events)
        if data:
            with trio.fail_after(WRITE_TIMEOUT_S):
                await self._stream.send_all(data)


def _too_large() -> _Refused:
    return _Refused(413, f"a body has at most {MAX_BODY_BYTES} bytes")


def _split_target(target: bytes) -> tuple[str, str]:
    """(path, query) of a request target; a server must take the absolute form too (RFC 9112, section 3.2.2)."""
    text = target.decode("latin-1")
    absolute = _ORIGIN.match(text)
    if absolute is not None:
        text = text[absolute.end() :]
    path, _, query = text.partition("?")
    return path or "/", query
