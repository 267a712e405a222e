"""HTTP/1.1 in front of an ASGI app: one Trio task a connection, and a deadline for every wait.

The way of a request: `stream.py` has the bytes, `head.py` and `body.py` read them in one way only, `connection.py` keeps
the deadlines, `asgi.py` lets the app answer. Here are the life of a connection, the bounds on their number, and the door
to WebSocket. The bounds are in `limits.py`.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from imserver.auth.throttle import address_key
from imserver.http.asgi import ASGIApp, Outcome, Peer, run_app
from imserver.http.connection import HttpConnection
from imserver.http.errors import HttpError
from imserver.http.forwarded import Network, client_address, client_scheme, is_trusted, names_client
from imserver.http.head import Head
from imserver.http.limits import HttpLimits
from imserver.http.stream import READ_BYTES, SocketLike, SocketStream
from imserver.log import get_logger

__all__ = ["Accepted", "HttpLimits", "HttpServer", "Refused", "SocketLike", "UpgradeRequest", "Upgrader"]

_RETRY_AFTER_S = 5
#: How often a peer that names clients and is not believed is told of.
_SAY_AGAIN_S = 3600.0
LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


@attrs.frozen
class UpgradeRequest:
    """A GET with `Upgrade: websocket`; header names are lower case, `path` is decoded, `query` as it came."""

    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]]
    address: str
    is_secure: bool
    certificate: Mapping[str, Any] | None


@attrs.frozen
class Accepted:
    """The connection changes its protocol.

    Attributes:
        headers: of the answer 101.
        take_over: gets the socket, still open, and what was read of it beyond the request; from then on they are its own.
    """

    headers: Sequence[tuple[str, str]]
    take_over: Callable[[SocketLike, bytes], None]


@attrs.frozen
class Refused:
    """It does not; the connection ends with this answer."""

    status: int
    message: str
    headers: Sequence[tuple[str, str]] = ()


Upgrader = Callable[[UpgradeRequest], Awaitable[Accepted | Refused]]


class HttpServer:
    """Serves the HTTP connections of one shard, in its thread.

    Args:
        app: an ASGI 3 app; what it raises costs its client a 500 and nobody else anything.
        upgrade: asked by each request for WebSocket; None: those are answered by the app, as if nobody had asked.
        trusted_proxies: whose X-Forwarded-For and X-Forwarded-Proto are believed.
        exempt: addresses that may have all places; so may trusted proxies, behind which are many.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        upgrade: Upgrader | None = None,
        limits: HttpLimits | None = None,
        trusted_proxies: Sequence[Network] = (),
        exempt: Sequence[Network] = LOOPBACK,
    ) -> None:
        self._app = app
        self._upgrade = upgrade
        self._limits = HttpLimits() if limits is None else limits
        self._trusted = tuple(trusted_proxies)
        self._scratch = bytearray(READ_BYTES)
        self._log = get_logger("http")
        self._exempt = (*exempt, *self._trusted)
        #: Those that have a place, in the order of their coming, each with whose it is; and how many each has.
        self._served: dict[HttpConnection, str] = {}
        self._places: Counter[str] = Counter()
        #: Connections that are being told that there is no place.
        self._refusing = 0
        self._said_of_proxy_at = -_SAY_AGAIN_S
        #: Open HTTP connections; those that have become WebSockets are none.
        self.connections = 0
        #: Connections that found no place.
        self.refused = 0

    async def serve_connection(
        self, sock: SocketLike, address: str, *, is_secure: bool = False, local: str = "127.0.0.1:8080"
    ) -> None:
        """Serve a socket to its end, and close it; one that was upgraded belongs to who took it over.

        Nothing that one client does leaves this: beyond it is the nursery that the whole shard lives in.

        Args:
            sock: non-blocking.
            address: the peer's IP address.
            is_secure: there is TLS, if not here then before us; a TLS socket tells so itself.
            local: host:port of the listener, as a person writes it.
        """
        stream = SocketStream(sock, self._scratch)
        self.connections += 1
        connection = HttpConnection(stream, self._limits)
        try:
            if self._take_place(connection, address):
                await self._serve_requests(connection, _Here(stream, address, is_secure, local))
            elif self._refusing < self._limits.max_refusals:
                await self._refuse_connection(stream, connection)
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # the client is gone, or too slow to be kept
        except Exception:
            self._log.exception("http_fault")
        finally:
            self.connections -= 1
            self._leave_place(connection)
            stream.close()

    # ------------------------------------------------------------ places

    def _take_place(self, connection: HttpConnection, address: str) -> bool:
        """Give a new connection a place, if need be that of one which has no request under way."""
        limits, key = self._limits, address_key(address)
        if self._places[key] >= limits.max_per_address and not is_trusted(address, self._exempt):
            has_place = self._make_room(key)
        else:
            has_place = len(self._served) < limits.max_connections or self._make_room()
        if has_place:
            self._served[connection] = key
            self._places[key] += 1
        else:
            self.refused += 1
        return has_place

    def _leave_place(self, connection: HttpConnection) -> None:
        key = self._served.pop(connection, None)
        if key is not None:
            self._places[key] -= 1
            if not self._places[key]:
                del self._places[key]

    def _make_room(self, key: str | None = None) -> bool:
        """Let a connection give its place: the oldest that is idle, or has half a head; whether there was one.

        Args:
            key: only one of whose this is. None: anybody's; of those with half a head, one of whoever has most of them.
        """
        mine = [served for served, whose in self._served.items() if key is None or whose == key]
        given = next((served for served in mine if served.is_idle), None)
        if given is None:
            halves = [served for served in mine if served.has_half_head]
            counts = Counter(self._served[half] for half in halves)
            given = max(halves, key=lambda half: counts[self._served[half]], default=None)
        if given is None:
            return False
        given.give_place()
        self._leave_place(given)
        return True

    async def _refuse_connection(self, stream: SocketStream, connection: HttpConnection) -> None:
        if stream.tls is not None:
            return  # a word would cost a handshake
        self._refusing += 1
        try:
            headers = [("Retry-After", str(_RETRY_AFTER_S))]
            await connection.refuse(HttpError(503, "too many HTTP connections; try again later", headers=headers))
            await connection.linger()
        finally:
            self._refusing -= 1

    # ------------------------------------------------------------ requests

    async def _serve_requests(self, connection: HttpConnection, here: _Here) -> None:
        try:
            outcome = Outcome.GO_ON
            while outcome is Outcome.GO_ON:
                head = await connection.next_head()
                if head is None:
                    outcome = Outcome.ABORT if connection.has_given_place else Outcome.END
                elif self._upgrade is not None and head.is_websocket:
                    outcome = await self._serve_upgrade(self._upgrade, connection, head, here)
                else:
                    outcome = await run_app(self._app, connection, head, self._peer(head, here), self._limits)
                    if outcome is Outcome.GO_ON and connection.has_given_place:
                        outcome = Outcome.END  # the request came at the very moment: it is the last one
        except HttpError as refusal:
            await connection.refuse(refusal)
            outcome = Outcome.END
        if outcome is Outcome.END:
            await connection.linger()

    def _peer(self, head: Head, here: _Here) -> Peer:
        tls = here.stream.tls
        address, scheme = here.address, "https" if here.is_secure or tls is not None else "http"
        if self._trusted and is_trusted(address, self._trusted):
            address, scheme = client_address(head, address, self._trusted), client_scheme(head, scheme)
        else:
            self._note_untrusted_proxy(head, address)
        return Peer(address, scheme, here.server, None if tls is None else tls.peer_certificate())

    def _note_untrusted_proxy(self, head: Head, address: str) -> None:
        """Say now and then that somebody names clients and is not believed."""
        now = trio.current_time()
        if now - self._said_of_proxy_at < _SAY_AGAIN_S or not names_client(head):
            return
        self._said_of_proxy_at = now
        self._log.warning(
            "proxy_not_trusted",
            address=address,
            advice="this peer says for whom it asks (X-Forwarded-For, Forwarded) and is not believed: if it is your proxy, "
            "put its address into proxy.trusted, or limits by address count all of its clients as one",
        )

    async def _serve_upgrade(self, upgrade: Upgrader, connection: HttpConnection, head: Head, here: _Here) -> Outcome:
        if head.length != 0:
            raise HttpError(400, "a request for another protocol has no body")
        peer = self._peer(head, here)
        request = UpgradeRequest(
            path=head.path,
            query=head.query.decode("ascii"),
            headers=head.headers,
            address=peer.address,
            is_secure=peer.scheme == "https",
            certificate=peer.certificate,
        )
        try:
            with trio.fail_after(self._limits.handler_timeout_s):
                answer = await upgrade(request)
        except trio.TooSlowError:
            raise HttpError(504, "the request ran past its deadline; try again later") from None
        except Exception as exc:
            trace_id = secrets.token_hex(8)
            self._log.exception("http_upgrade_fault", path=head.shown_path, trace_id=trace_id)
            raise HttpError(500, f"the server made a mistake; its log has the details under {trace_id}") from exc
        if isinstance(answer, Refused):
            raise HttpError(answer.status, answer.message, headers=answer.headers)
        unread = await connection.switch_protocol(answer.headers)
        sock = here.stream.detach()
        try:
            answer.take_over(sock, unread)
        except Exception:
            sock.close()
            raise
        return Outcome.ABORT


class _Here:
    """Our end of a connection."""

    __slots__ = ("address", "is_secure", "server", "stream")

    def __init__(self, stream: SocketStream, address: str, is_secure: bool, local: str) -> None:
        self.stream = stream
        self.address = address
        self.is_secure = is_secure
        host, _, port = local.rpartition(":")
        self.server: tuple[str, int | None] = (host.strip("[]"), int(port)) if port.isdigit() else (local, None)
