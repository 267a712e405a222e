"""The seam between the client and the network: something that makes byte streams.

A transport is any `trio.abc.Stream` that carries the frames' bytes in order. WebSocket fits by sending each call's bytes
(always whole frames) as one binary message; TLS by `trio.SSLStream`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

#: Opens a new transport; raises OSError when the server cannot be reached.
Connector = Callable[[], Awaitable[trio.abc.Stream]]


def connector_for(address: str) -> Connector:
    """Return what connects to `address`: `host:port`, `[v6]:port` or `tcp://host:port`.

    Raises:
        ValueError: the address has another form or scheme.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "tcp", address
    if scheme != "tcp":
        raise ValueError(f"unknown scheme {scheme!r} in {address!r}; this version connects to tcp://host:port")
    host, separator, port_text = rest.rstrip("/").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port_text.isdecimal() or not 0 < int(port_text) < 65536:
        raise ValueError(f"{address!r} is no address; write host:port, such as 127.0.0.1:9000")
    port = int(port_text)

    async def connect() -> trio.abc.Stream:
        # trio's stream sets TCP_NODELAY itself.
        return await trio.open_tcp_stream(host, port)

    return connect
