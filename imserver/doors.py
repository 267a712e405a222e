"""What a listening address leads to: frames go to sessions in the shard's reactor, HTTP to Trio tasks of the shard."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from imserver.http.limits import HttpLimits
from imserver.http.server import HttpServer
from imserver.http.websocket import WebSocketDoor
from imserver.listeners import Door, refuse_frames, refuse_http
from imserver.session import Session
from imserver.tls import ServerTls, TlsSocket

if TYPE_CHECKING:
    from imserver.config import Config
    from imserver.http.asgi import ASGIApp, Receive, Scope, Send
    from imserver.shard import Shard


def frames_door(config: Config, tls: ServerTls | None) -> Door:
    """`[tcp]`: the framed protocol."""

    def open_session(shard: Shard, sock: socket.socket | TlsSocket, address: str, local: str) -> None:
        shard.accept(Session(shard, sock, address))

    return Door(open_session, refuse_frames, is_http=False, tls=tls, proxy=config.proxy)


class _Application:
    """One shard's application; a reload puts another in its place, and requests end in the one that they began in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self.app(scope, receive, send)


class HttpDoors:
    """`[http]`: an HTTP server and an application for each shard, since each is a thread of its own.

    Args:
        make_app: the application of one shard.
    """

    def __init__(self, config: Config, shards: Sequence[Shard], make_app: Callable[[Shard], ASGIApp]) -> None:
        self._config = config
        self._make_app = make_app
        limits = HttpLimits(max_body_bytes=config.limits.max_frame_bytes)
        self._apps = [_Application(make_app(shard)) for shard in shards]
        self.servers = [
            HttpServer(
                app,
                upgrade=WebSocketDoor(shard),
                limits=limits,
                trusted_proxies=config.proxy.trusted,
                exempt=config.limits.exempt_addresses,
            )
            for shard, app in zip(shards, self._apps, strict=True)
        ]

    def renew(self, shard: Shard) -> None:
        """Make a shard's application anew, in its thread: its plugins have changed. If this fails the old one stays.

        Raises:
            PluginError: a plugin's route is none, or somebody else's.
        """
        self._apps[shard.index].app = self._make_app(shard)

    def door(self, tls: ServerTls | None) -> Door:
        """The door of one address."""
        return Door(self._open, refuse_http, is_http=True, tls=tls, proxy=self._config.proxy)

    def _open(self, shard: Shard, sock: socket.socket | TlsSocket, address: str, local: str) -> None:
        shard.start_soon(self._serve, shard, sock, address, local)

    async def _serve(self, shard: Shard, sock: socket.socket | TlsSocket, address: str, local: str) -> None:
        try:
            await self.servers[shard.index].serve_connection(
                sock, address, is_secure=isinstance(sock, TlsSocket), local=local
            )
        finally:
            if isinstance(sock, TlsSocket) and not sock.handshake_done and sock.failure is not None:
                shard.note_tls_failure(address, sock.failure)
            # A WebSocket that came of it counts for itself.
            shard.directory.dismiss(address)
