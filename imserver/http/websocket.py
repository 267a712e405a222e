"""/ws: the handshake of a WebSocket (RFC 6455, section 4.2; wire protocol, section 6). Then a session has the socket."""

from __future__ import annotations

import base64
import binascii
import socket
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from imserver.errors import ImError
from imserver.http.server import Accepted, Refused, UpgradeRequest
from imserver.identity import Credentials
from imserver.listeners import connections_of
from imserver.protocol.body import encode_msgpack
from imserver.protocol.websocket import accept_key
from imserver.websocket_session import WebSocketSession

if TYPE_CHECKING:
    from imserver.shard import Shard
    from imserver.tls import TlsSocket

PATH = "/ws"
SUB_PROTOCOL = "imserver.v1"
#: A browser cannot send a header; the token may come as a sub-protocol of this name.
TOKEN_PROTOCOL = "imserver.token."
AUTH = 1003
_VERSION = "13"
_KEY_BYTES = 16
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class _Bad(Exception):
    """The handshake is refused."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.refused = Refused(status, message, [(name.replace("_", "-"), value) for name, value in headers.items()])


class WebSocketDoor:
    """Takes the handshakes of one shard. An instance is an `imserver.http.server.Upgrader`."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._origins = frozenset(origin.lower() for origin in shard.config.http.allowed_origins)

    async def __call__(self, request: UpgradeRequest) -> Accepted | Refused:
        """Accept or refuse a handshake."""
        try:
            return await self._accept(request)
        except _Bad as bad:
            return bad.refused
        except ImError as exc:
            return Refused(exc.code, str(exc), [("WWW-Authenticate", "Bearer")] if exc.code == 401 else [])

    async def _accept(self, request: UpgradeRequest) -> Accepted:
        if request.path != PATH:
            raise _Bad(404, f"there is no WebSocket at {request.path}; it is at {PATH}")
        if self._shard.router.is_draining:
            raise _Bad(503, "the server is stopping; connect again in a moment", Retry_After="1")
        if _has_token(request.query):
            raise _Bad(400, "a token never goes into the URL, where logs keep it: use Authorization or a sub-protocol")
        headers = _headers(request)
        key = _checked_key(headers)
        self._check_origin(headers, is_secure=request.is_secure)
        offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",") if name.strip()]
        token = _token(headers, offered)
        self._check_place(request.address)
        if token is not None:
            # Here it can be refused with a status. The session asks again, in its own right.
            await self._shard.router.authenticate(Credentials(token=token, address=request.address))
        answer = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))]
        chosen = SUB_PROTOCOL if SUB_PROTOCOL in offered else next((name for name in offered if _is_token(name)), None)
        if chosen is not None:
            answer.append(("Sec-WebSocket-Protocol", chosen))
        return Accepted(answer, partial(self._take_over, request, token))

    def _check_origin(self, headers: Mapping[str, str], *, is_secure: bool) -> None:
        """Whether a page from there may connect. What is no browser sends no Origin, and could send any."""
        origin = headers.get("origin")
        if origin is None or ("://" in origin and origin.lower() in self._origins):
            return
        if "self" in self._origins and _is_own(origin.lower(), headers.get("host", "").lower(), is_secure=is_secure):
            return
        raise _Bad(403, f"pages of {origin[:200]} may not connect; http.allowed_origins in the configuration says which may")

    def _check_place(self, address: str) -> None:
        limits = self._shard.limits
        per_address = connections_of(limits, address)
        # This one is among those that are counted: it was admitted as an HTTP connection. Behind a proxy it was counted
        # under the proxy's address, so that a client's address may have one more there.
        refused = self._shard.directory.refusal(
            address,
            max_connections=limits.max_connections + 1,
            per_address=None if per_address is None else per_address + 1,
        )
        if refused is not None:
            self._shard.connections_refused[refused] += 1
            raise _Bad(503, f"too many connections ({refused}); try again later", Retry_After="5")

    def _take_over(self, request: UpgradeRequest, token: str | None, sock: socket.socket | TlsSocket, unread: bytes) -> None:
        """The 101 is out: the socket is a session's from now on."""
        # In a tick, where sessions live.
        self._shard.post(partial(self._begin, request, token, sock, unread))

    def _begin(self, request: UpgradeRequest, token: str | None, sock: socket.socket | TlsSocket, unread: bytes) -> None:
        shard = self._shard
        shard.directory.count(request.address)
        session = WebSocketSession(shard, sock, request.address)
        shard.accept(session)
        if token is not None:
            shard.router.dispatch(session, (AUTH, 0, encode_msgpack({"token": token}), None))
        elif request.certificate is not None:
            shard.router.log_in(session, Credentials(certificate=request.certificate, address=request.address))
        session.begin(unread)


def _has_token(query: str) -> bool:
    """Whether a URL carries what reads like a token, however it is written."""
    names = [name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)]
    return any(name.endswith("token") or name == "authorization" for name in names)


def _is_own(origin: str, host: str, *, is_secure: bool) -> bool:
    """Whether a page is of this server: the same host and port.

    Where TLS ends before us nobody may have told us, so that https may talk to what looks like http; never the other way
    round, since whoever stands on the wire can make any http page up.
    """
    scheme, _, place = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or (is_secure and scheme != "https"):
        return False
    return bool(place) and place.removesuffix(port) == host.removesuffix(port)


def _headers(request: UpgradeRequest) -> dict[str, str]:
    """The headers by lower-case name; lists are joined, and what may come once only does."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name in headers and name in ("sec-websocket-key", "sec-websocket-version", "origin", "authorization"):
            raise _Bad(400, f"the header {name} comes twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _checked_key(headers: Mapping[str, str]) -> bytes:
    tokens = [token.strip().lower() for token in headers.get("connection", "").split(",")]
    if "upgrade" not in tokens or headers.get("upgrade", "").strip().lower() != "websocket":
        raise _Bad(400, "a WebSocket handshake has `Connection: Upgrade` and `Upgrade: websocket`")
    if headers.get("sec-websocket-version", "").strip() != _VERSION:
        raise _Bad(426, "this server speaks WebSocket version 13", Sec_WebSocket_Version=_VERSION)
    key = headers.get("sec-websocket-key", "").strip()
    try:
        is_key = len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        is_key = False
    if not is_key:
        raise _Bad(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return key.encode("ascii")


def _is_token(protocol: str) -> bool:
    return protocol.startswith(TOKEN_PROTOCOL)


def _token(headers: Mapping[str, str], offered: list[str]) -> str | None:
    """The token of the handshake, if it has one."""
    tokens = {name.removeprefix(TOKEN_PROTOCOL) for name in offered if _is_token(name)}
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        tokens.add(value.strip())
    elif scheme:
        raise _Bad(401, "Authorization takes `Bearer <token>` here", WWW_Authenticate="Bearer")
    if len(tokens) > 1:
        raise _Bad(400, "two different tokens in one handshake")
    return tokens.pop() if tokens else None
