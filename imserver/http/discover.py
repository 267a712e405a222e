"""GET /v1/discover: where this client should connect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import imserver

_ALL = ("0.0.0.0", "[::]")
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")


@attrs.frozen
class Endpoints:
    """Where the server listens: host:port each, as the log shows them."""

    name: str
    node: int
    tcp: Sequence[str]
    http: Sequence[str]
    is_secure: bool


async def discover(endpoints: Callable[[], Endpoints], request: Request) -> Response:
    """The addresses as the client can use them.

    It has reached us by the name in its Host header, so HTTP and WebSocket are there, whatever stands between (a proxy hands
    the header on). Frames are on the same host at their own port, unless that listener is bound to one address alone; one
    that is bound to the loopback is told only to those who have come by the loopback themselves.
    """
    here = endpoints()
    host = request.headers.get("host") or here.http[0]
    is_secure = request.url.scheme == "https"
    answer = {
        "http": f"{'https' if is_secure else 'http'}://{host}",
        "ws": f"{'wss' if is_secure else 'ws'}://{host}/ws",
    }
    if here.tcp:
        bound, _, port = here.tcp[0].rpartition(":")
        name = _host_of(host)
        if bound in _ALL or (bound in _LOOPBACK and name in _LOOPBACK):
            answer["tcp"] = f"{name}:{port}"
        elif bound not in _LOOPBACK:
            answer["tcp"] = f"{bound}:{port}"
    fields = {
        "endpoints": answer,
        "tls": here.is_secure,
        "node": here.node,
        "name": here.name,
        "version": imserver.__version__,
    }
    return JSONResponse({"code": 0, **fields})


def _host_of(host: str) -> str:
    """A Host header without its port."""
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() else host
