"""Bind, accept, and deal sockets to shards.

Each shard listens for itself (SO_REUSEPORT): the kernel deals the connections out, and no thread hands sockets to another.
A connection is accepted, its PROXY header read if it comes from a proxy, admitted under the client's address, and handed
to its door: frames or HTTP.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from imserver.errors import StartError
from imserver.protocol.body import encode_frame, encode_json
from imserver.proxy_protocol import ProxyHeaders
from imserver.reactor import READ
from imserver.session import GOAWAY
from imserver.tls import ServerTls, TlsSocket

if TYPE_CHECKING:
    from imserver.config import Address, Limits, Network, Proxy
    from imserver.shard import Shard

BACKLOG = 4096
#: Connections taken in one tick, so that a flood of them leaves time for those that are there.
_ACCEPTS_PER_TICK = 64
#: Out of descriptors or buffers: nothing is lost by waiting, the kernel keeps the queue. As Trio's own listeners do.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RETRY_S = 0.1
_SAY_AGAIN_S = 5.0


def bind(address: Address, shards: int) -> list[socket.socket]:
    """One listening socket a shard, all on one port; port 0 takes a free one.

    Raises:
        StartError: the address cannot be bound.
    """
    sockets: list[socket.socket] = []
    port = address.port
    try:
        family = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        for _ in range(shards):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shards > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address.host, port))
            port = sock.getsockname()[1]
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError as exc:
        for sock in sockets:
            sock.close()
        raise StartError(f"cannot listen on {address}: {exc.strerror or exc}; is another server on this port?") from exc
    return sockets


def shown_address(sock: socket.socket) -> str:
    """host:port as the log has it, with the real port."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether an IP address, as a socket shows it, is in one of these networks."""
    if not networks:
        return False
    ip = ipaddress.ip_address(address.partition("%")[0])
    return any(ip in network for network in networks)


def connections_of(limits: Limits, address: str) -> int | None:
    """How many connections this address may have; None: any number."""
    return None if is_in(address, limits.exempt_addresses) else limits.connections_per_address


@attrs.frozen
class Door:
    """What a listening address is for.

    Attributes:
        open: takes a connection that was admitted, in its shard's thread: (shard, socket, the client's address, ours).
        refusal: what one gets that finds no place, if it speaks no TLS: from the limit that was reached.
        is_http: for TLS, which agrees on the protocol.
        tls: None: plain.
    """

    open: Callable[[Shard, socket.socket | TlsSocket, str, str], None]
    refusal: Callable[[str], bytes]
    is_http: bool
    tls: ServerTls | None
    proxy: Proxy


def _refusal_fields(limit: str) -> dict[str, object]:
    message = f"too many connections ({limit}); try again later"
    return {"code": 503, "error": "unavailable", "message": message, "retry_after_ms": 5000}


def refuse_frames(limit: str) -> bytes:
    """What a client of frames is told when there is no place for it."""
    return encode_frame(GOAWAY, _refusal_fields(limit))


def refuse_http(limit: str) -> bytes:
    """What an HTTP client is told when there is no place for it."""
    body = encode_json(_refusal_fields(limit))
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Listener:
    """One shard's end of a listening address."""

    def __init__(self, shard: Shard, sock: socket.socket, door: Door) -> None:
        self._shard = shard
        self._socket = sock
        self._door = door
        self._local = shown_address(sock)
        self._headers = ProxyHeaders(shard, self._admit, self._refuse_header)
        self._is_open = True
        self._said_at = -_SAY_AGAIN_S
        shard.reactor.add(sock.fileno(), self, READ)

    def ready(self, events: int) -> None:
        """Accept what has come. See `imserver.reactor.Source`."""
        for _ in range(_ACCEPTS_PER_TICK):
            try:
                sock, peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _EXHAUSTED:
                    self._pause(exc)
                    return
                continue  # that one connection went away before it was accepted
            sock.setblocking(False)
            if self._door.proxy.protocol and is_in(peer[0], self._door.proxy.trusted):
                self._headers.begin(sock, peer[0])
            else:
                self._admit(sock, peer[0])

    def _refuse_header(self, peer: str, reason: str) -> None:
        self._say("proxy_header_refused", proxy=peer, reason=reason)

    def _admit(self, sock: socket.socket, address: str) -> None:
        shard, door = self._shard, self._door
        refused = shard.directory.admit(
            address,
            max_connections=shard.limits.max_connections,
            per_address=connections_of(shard.limits, address),
        )
        if refused is None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = sock if door.tls is None else door.tls.wrap(sock, is_http=door.is_http)
            door.open(shard, connection, address, self._local)
            return
        shard.connections_refused[refused] += 1
        if door.tls is None:
            # A fresh socket's buffer takes this whole; if it does not, the peer is gone anyway.
            try:
                sock.send(door.refusal(refused))
            except OSError as exc:
                shard.log.debug("refused_connection_gone", address=address, reason=str(exc))
        self._say("connection_refused", limit=refused, address=address)
        sock.close()

    def _pause(self, exc: OSError) -> None:
        self._say("accept_paused", reason=str(exc), advice="raise the limit of open files (LimitNOFILE)")
        self._shard.reactor.change(self._socket.fileno(), 0)
        self._shard.wheel.schedule(self, self._shard.now + _RETRY_S)

    def check_deadlines(self, now: float) -> float | None:
        """Accept again after a pause. See `imserver.wheel.Timed`."""
        if self._is_open:
            self._shard.reactor.change(self._socket.fileno(), READ)
        return None

    def _say(self, event: str, **fields: str) -> None:
        if self._shard.now - self._said_at >= _SAY_AGAIN_S:
            self._said_at = self._shard.now
            self._shard.log.warning(event, **fields)

    def close(self) -> None:
        """Accept no more; in the shard's thread."""
        if self._is_open:
            self._is_open = False
            self._headers.close()
            self._shard.wheel.cancel(self)
            self._shard.reactor.close_socket(self._socket)
