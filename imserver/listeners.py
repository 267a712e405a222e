"""Bind, accept, and deal sockets to shards.

Each shard listens for itself (SO_REUSEPORT): the kernel deals the connections out, and no thread hands sockets to another.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imserver.errors import StartError
from imserver.protocol.body import encode_frame
from imserver.reactor import READ
from imserver.session import GOAWAY

if TYPE_CHECKING:
    from imserver.config import Address, Limits
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


class AddressLimits:
    """Which addresses are exempt from the limits per address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._exempt: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = limits.exempt_addresses

    def connections(self, address: str) -> int | None:
        """How many connections this address may have; None: any number."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if any(ip in network for network in self._exempt):
            return None
        return self._limits.connections_per_address


class Listener:
    """One shard's end of a listening address."""

    def __init__(self, shard: Shard, sock: socket.socket) -> None:
        self._shard = shard
        self._socket = sock
        self._limits = AddressLimits(shard.limits)
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
            self._admit(sock, peer[0])

    def _admit(self, sock: socket.socket, address: str) -> None:
        shard = self._shard
        sock.setblocking(False)
        refused = shard.directory.admit(
            address,
            max_connections=shard.limits.max_connections,
            per_address=self._limits.connections(address),
        )
        if refused is None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            shard.accept(sock, address)
            return
        # A fresh socket's buffer takes this whole; if it does not, the peer is gone anyway.
        fields = {
            "code": 503,
            "error": "unavailable",
            "message": f"too many connections ({refused}); try again later",
            "retry_after_ms": 5000,
        }
        try:
            sock.send(encode_frame(GOAWAY, fields))
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
            self._shard.wheel.cancel(self)
            self._shard.reactor.close_socket(self._socket)
