"""The seam between the client and the network: addresses, and what opens a byte stream to one.

A transport is any `trio.abc.Stream` that carries the frames' bytes in order: a TCP socket, TLS over one (tls.py), or a
WebSocket over either (websocket.py), which sends whole frames as binary messages.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import trio
from attrs import frozen

from .errors import CannotConnect
from .tls import open_tls_stream

#: Opens a new transport; raises OSError when the server cannot be reached. What an application may give to `open_client`.
Connector = Callable[[], Awaitable[trio.abc.Stream]]
#: The same for a transport with a task of its own: that runs in the nursery, and ends when the stream is closed.
Opener = Callable[[trio.Nursery], Awaitable[trio.abc.Stream]]

DEFAULT_PATH: Final = "/ws"
_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
#: A page's address is taken for that of its server's WebSocket.
_SAME_AS: Final = {"http": "ws", "https": "wss"}
_FORMS: Final = "host:port, tls://host:port, ws://host:port/ws or wss://host/ws"


@frozen
class Target:
    """An address, taken apart.

    Attributes:
        scheme: `tcp`, `tls` (TCP with TLS), `ws` or `wss`.
        host: a name or an IP address, without brackets.
        port: 1 … 65535.
        path: for `ws` and `wss`.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def is_secure(self) -> bool:
        """TLS is spoken."""
        return self.scheme in ("tls", "wss")

    @property
    def authority(self) -> str:
        """Host and port as HTTP's `Host` has them: a default port is left out, an IPv6 address is in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"


def parse_address(address: str) -> Target:
    """Take an address apart.

    Args:
        address: `host:port` and `tcp://host:port` for TCP; `tls://host:port`; `ws://host:port/path` and
            `wss://host/path`, where the port is 80 or 443 and the path `/ws` unless said; `http://…` and `https://…`,
            the server's page, for the WebSocket `ws` below it.

    Raises:
        ValueError: the address has another form, which the message names.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    scheme = _SAME_AS.get(parts.scheme, parts.scheme)
    if scheme not in ("tcp", "tls", "ws", "wss"):
        raise ValueError(f"unknown scheme {parts.scheme!r} in {address!r}; write {_FORMS}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("an address holds no user, password, query or fragment: log in with login() or auth()")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port is None:
        port = _DEFAULT_PORTS.get(scheme, 0)
    if not parts.hostname or not port or any(character.isspace() for character in parts.netloc):
        raise ValueError(f"{address!r} is no address; write {_FORMS}")
    path = parts.path.rstrip("/")
    if scheme in ("tcp", "tls"):
        if path:
            raise ValueError(f"{address!r} has a path, which TCP knows nothing of; write {_FORMS}")
    elif parts.scheme in _SAME_AS:
        path += DEFAULT_PATH
    else:
        path = path or DEFAULT_PATH
    return Target(scheme, parts.hostname, port, path)


def opener_for(address: str, ssl_context: ssl.SSLContext | None = None) -> Opener:
    """Return what connects to `address` (see `parse_address`).

    Args:
        ssl_context: for `tls://` and `wss://`; by default the system's authorities, and no client certificate.

    Raises:
        ValueError: the address has another form, or an `ssl_context` is given for a connection without TLS.
    """
    target = parse_address(address)
    if target.is_secure:
        context = ssl_context or ssl.create_default_context()
    elif ssl_context is not None:
        raise ValueError(f"ssl_context is for tls:// and wss://, but {address!r} is not encrypted")

    async def open_stream(nursery: trio.Nursery) -> trio.abc.Stream:
        transport: trio.abc.Stream
        if target.is_secure:
            transport = await open_tls_stream(await open_tcp_stream(target), target.host, context)
        else:
            transport = await open_tcp_stream(target)
        if target.path:
            # Here, so that a client over TCP does not pay for its import.
            from .websocket import open_websocket_stream

            return await open_websocket_stream(nursery, transport, target.authority, target.path)
        return transport

    return open_stream


def opener_of(connect: Connector) -> Opener:
    """Return an application's own connector as an opener."""

    async def open_stream(nursery: trio.Nursery) -> trio.abc.Stream:
        return await connect()

    return open_stream


async def open_tcp_stream(target: Target) -> trio.SocketStream:
    """Connect to the target's host and port.

    Raises:
        CannotConnect: with the reason.
    """
    try:
        # trio's stream sets TCP_NODELAY itself.
        return await trio.open_tcp_stream(target.host, target.port)
    except OSError as error:
        # Trio says only that "all attempts" failed; the reasons are behind it, one for each of the host's addresses.
        reason = error.__cause__ or error
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise CannotConnect(f"{target.host}, port {target.port}: {text}") from error
