"""HTTP for files: one exchange a connection, bodies as streams both ways, on h11 over a Trio stream.

Not a general client: no redirects, no cookies, no proxies, no connections kept. What it does have is a bound on each wait,
and an answer that is read while the body is still being sent, so that a refusal is heard before it is all gone for nothing.

Source: docs/reference/files.md; RFC 9112.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import h11
import trio
from attrs import define, field, frozen

from .errors import CannotConnect, RemoteProtocolError, ServerError
from .tls import open_tls_stream, why_broken
from .transport import DEFAULT_PATH, Target, open_tcp_stream, parse_address

#: No byte went or came for this long: the connection counts as lost.
STALL_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0
#: Of an answer that is JSON: far more than any of ours.
MAX_JSON_BYTES: Final = 1024 * 1024
_READ_BYTES: Final = 64 * 1024
_MAX_RETRY_AFTER_MS: Final = 300_000


class HttpBroken(OSError):
    """The exchange did not come to its end: not known what the server made of it."""


@frozen
class Site:
    """Where a server's HTTP API is.

    Attributes:
        target: host, port, and TLS or not.
        prefix: what stands before `/v1`; "" unless a proxy puts the server below a path.
        ssl_context: for TLS.
    """

    target: Target
    prefix: str = ""
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def of(cls, address: str, ssl_context: ssl.SSLContext | None = None) -> Site:
        """Take the address of the page or of the WebSocket.

        Raises:
            ValueError: it is neither.
        """
        target = parse_address(address)
        if target.scheme not in ("ws", "wss"):
            raise ValueError(f"{address!r} is not served over HTTP; write http://host:port/ or https://host/")
        context = (ssl_context or ssl.create_default_context()) if target.is_secure else None
        return cls(target, target.path.removesuffix(DEFAULT_PATH), context)


@define
class Answer:
    """The head of an answer, and its body as it comes.

    Attributes:
        status: 200, 404, …
        headers: by lower-case name; of several with one name, the last.
    """

    status: int
    headers: Mapping[str, str]
    _exchange: _Exchange

    async def read_some(self) -> bytes:
        """Return some of the body, empty at its end.

        Raises:
            HttpBroken: it broke off, or stalled.
        """
        event = await self._exchange.next_event()
        while not isinstance(event, (h11.Data, h11.EndOfMessage)):
            event = await self._exchange.next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def json(self) -> dict[str, Any]:
        """Return the body as a map; an error of the server's as `ServerError`.

        Raises:
            ServerError: the status is 400 or above.
            RemoteProtocolError: the body is no JSON object.
        """
        body = b""
        while chunk := await self.read_some():
            body += chunk
            if len(body) > MAX_JSON_BYTES:
                raise RemoteProtocolError("an endless answer where JSON was expected")
        try:
            fields = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            fields = None
        if self.status >= 400:
            raise self.refusal(fields if isinstance(fields, dict) else {})
        if not isinstance(fields, dict):
            raise RemoteProtocolError("the server's answer over HTTP is no JSON object; is it an imserver?")
        return fields

    def refusal(self, fields: Mapping[str, Any]) -> ServerError:
        """Return the error that this answer is."""
        retry_after = self.headers.get("retry-after", "")
        known = {"code": self.status, "error": f"http_{self.status}", "message": "refused over HTTP"}
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 6:
            known["retry_after_ms"] = min(int(retry_after) * 1000, _MAX_RETRY_AFTER_MS)
        # The status decides: a proxy may answer with a body of its own.
        return ServerError.from_answer({**known, **fields, "code": self.status})


class _Exchange:
    """One request and its answer on one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def send_head(self, request: h11.Request) -> None:
        await self._send(request)

    async def send_body(self, body: AsyncGenerator[bytes, None] | None) -> None:
        """Send the body. A connection that breaks meanwhile is the reader's to report: an answer may be there already."""
        try:
            if body is not None:
                async with aclosing(body):
                    async for chunk in body:
                        await self._send(h11.Data(data=chunk))
            await self._send(h11.EndOfMessage())
        except HttpBroken:
            if self._http.our_state is not h11.ERROR:
                self._http.send_failed()

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if not data:
            return
        with trio.move_on_after(STALL_S) as scope:
            try:
                await self._stream.send_all(data)
            except (OSError, trio.BrokenResourceError) as error:
                raise HttpBroken(f"the connection broke: {why_broken(error)}") from error
        if scope.cancelled_caught:
            raise HttpBroken(f"the server took nothing for {STALL_S:g} s")

    async def next_event(self) -> h11.Event:
        """Wait for the next part of the answer."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise HttpBroken(f"what answers there breaks the rules of HTTP: {error}") from error
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._receive())
            elif isinstance(event, (h11.Request, h11.Response, h11.InformationalResponse, h11.Data, h11.EndOfMessage)):
                return event
            else:
                raise HttpBroken("the server hung up before its answer was complete")

    async def _receive(self) -> bytes:
        with trio.move_on_after(STALL_S):
            try:
                return bytes(await self._stream.receive_some(_READ_BYTES))
            except (OSError, trio.BrokenResourceError) as error:
                raise HttpBroken(f"the connection broke: {why_broken(error)}") from error
        raise HttpBroken(f"the server sent nothing for {STALL_S:g} s")

    async def head(self) -> Answer:
        """Wait for the answer's head."""
        event = await self.next_event()
        while not isinstance(event, h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise HttpBroken("an answer without a head")
            event = await self.next_event()
        headers = {bytes(name).decode("latin-1").lower(): bytes(value).decode("latin-1") for name, value in event.headers}
        return Answer(event.status_code, headers, self)


@asynccontextmanager
async def exchange(
    site: Site,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: AsyncGenerator[bytes, None] | None = None,
    *,
    size: int = 0,
) -> AsyncIterator[Answer]:
    """Make one request; the connection lasts as long as the block.

    Args:
        path: with its query, below the site's prefix.
        body: chunks of `size` bytes together; it is read no further once the server has answered.

    Raises:
        HttpBroken: no connection, or none that lasted until the answer's head.
    """
    stream = await _connect(site)
    try:
        talk = _Exchange(stream)
        all_headers = {"Host": site.target.authority, "Connection": "close", "Accept-Encoding": "identity", **headers}
        if body is not None or method in ("POST", "PATCH"):
            all_headers["Content-Length"] = str(size)
        request = h11.Request(method=method, target=site.prefix + path, headers=list(all_headers.items()))
        await talk.send_head(request)
        answer: Answer | None = None
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk.send_body, body)
                answer = await talk.head()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = group
            while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
                failure = failure.exceptions[0]
        if failure is not None:
            raise failure
        assert answer is not None
        yield answer
    finally:
        await trio.aclose_forcefully(stream)


async def _connect(site: Site) -> trio.abc.Stream:
    try:
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            transport = await open_tcp_stream(site.target)
            if site.ssl_context is None:
                return transport
            return await open_tls_stream(transport, site.target.host, site.ssl_context)
    except CannotConnect as error:
        raise HttpBroken(str(error)) from error
    raise HttpBroken(f"{site.target.host}, port {site.target.port}: no answer for {CONNECT_TIMEOUT_S:g} s")


@frozen
class Endpoints:
    """Where a server says that a client should connect: addresses for `open_client`, "" where it offers none.

    Attributes:
        tcp: `host:port`, or `tls://host:port` where the server's TCP listener speaks TLS.
        ws: of the WebSocket.
        http: of the page and the HTTP API.
    """

    tcp: str
    ws: str
    http: str


async def discover(address: str, *, ssl_context: ssl.SSLContext | None = None) -> Endpoints:
    """Ask the server with this page where else it can be reached (`GET /v1/discover`).

    Raises:
        HttpBroken: it is not there.
        RemoteProtocolError: what answers is no imserver.
    """
    async with exchange(Site.of(address, ssl_context), "GET", "/v1/discover", {}) as answer:
        fields = await answer.json()
    found = fields.get("endpoints")
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RemoteProtocolError("the answer of /v1/discover has no endpoints; is it an imserver?")
    tcp = found.get("tcp", "")
    return Endpoints(
        f"tls://{tcp}" if tcp and fields.get("tls") is True else tcp, found.get("ws", ""), found.get("http", "")
    )
