"""The HTTP API: requests become commands of the same table, for a caller instead of a session (wire protocol, section 7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from imserver.cache import Cache
from imserver.caller import Caller
from imserver.commands import Command, Route
from imserver.errors import (
    FAULTS,
    DeadlineExceeded,
    ImError,
    InvalidBody,
    NotAuthenticated,
    PermissionDenied,
    TooLarge,
    Unavailable,
)
from imserver.http.asgi import ASGIApp, Message, Receive, Scope, Send
from imserver.identity import Credentials
from imserver.plugin import ANYONE
from imserver.protocol.body import encode_json, fields_of, invalid_body
from imserver.session import MAX_FRAME_BEFORE_LOGIN_BYTES

if TYPE_CHECKING:
    from imserver.http.resources import Resource
    from imserver.shard import Shard

SEND = 2001
MAX_IDEMPOTENCY_KEY_BYTES = 64

_JSON = b"application/json"
#: Who asks, and what for: two of these would leave open which one counts.
_ONCE = (b"authorization", b"x-api-key", b"x-im-user", b"idempotency-key", b"content-type")
#: The fields of a body with their values as they came: those that are only handed on keep every digit.
_decode_fields: Callable[[bytes], dict[str, Any]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
#: What a handler of a route may take beyond its own deadline, to send its answer's head.
_GRACE_S = 5.0
#: Methods of routes that write nothing: they do not wait for the disk.
_READS = ("GET", "HEAD")


class UnsupportedType(ImError):
    """415: a body that is no JSON."""

    code = 415
    error = "unsupported_media_type"


Headers = Mapping[bytes, bytes]


def headers_of(scope: Scope) -> Headers:
    """The request's headers by lower-case name.

    Raises:
        InvalidBody: one of `_ONCE` comes twice. A proxy may have looked at the other one.
    """
    headers = dict(scope["headers"])
    if len(headers) != len(scope["headers"]):
        names = [name for name, _ in scope["headers"]]
        for name in _ONCE:
            if names.count(name) > 1:
                raise InvalidBody(f"the header {name.decode()} comes twice; send it once")
    return headers


async def send_json(send: Send, status: int, fields: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """One whole JSON answer."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", _JSON), *headers]})
    await send({"type": "http.response.body", "body": encode_json(fields)})


async def send_error(send: Send, error: ImError) -> None:
    """An error answer, as section 2 of the wire protocol has it."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.code == 401:
        headers = ((b"www-authenticate", b'Bearer realm="imserver"'),)
    if error.retry_after_ms is not None:
        headers = (*headers, (b"retry-after", str(-(-error.retry_after_ms // 1000)).encode()))
    await send_json(send, error.code, error.answer(), headers)


class _Gone(Exception):
    """The client is gone, or the server has refused its body: nobody waits for an answer."""


async def read_body(receive: Receive, max_bytes: int | None = None) -> bytes:
    """The whole body. The server has bounded it; `max_bytes` does so further.

    Raises:
        TooLarge: it has more.
    """
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        parts.append(message["body"])
        size += len(parts[-1])
        if max_bytes is not None and size > max_bytes:
            raise TooLarge(f"a request without credentials has a body of at most {max_bytes} bytes; log in first")
        more = message["more_body"]
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Bucket:
    """How much of its rate limits somebody has used; see `Caller.rate` and `Caller.rates`."""

    __slots__ = ("by_command", "rate")

    def __init__(self) -> None:
        self.rate = 0.0
        self.by_command: dict[int, float] = {}


class _HttpCaller(Caller):
    """Who asks over HTTP. All requests of one identity count against one bucket, those under way at once too."""

    __slots__ = ("bucket", "credentials", "revision")

    def __init__(self, shard: Shard, address: str) -> None:
        self.bucket = _Bucket()
        #: What was shown, if anything, and the directory's revision since which it is known to be good.
        self.credentials: Credentials | None = None
        self.revision = 0
        super().__init__(shard, address)

    @property
    def rate(self) -> float:
        """See `Caller`."""
        return self.bucket.rate

    @rate.setter
    def rate(self, value: float) -> None:
        self.bucket.rate = value

    @property
    def rates(self) -> dict[int, float]:
        """See `Caller`."""
        return self.bucket.by_command

    @rates.setter
    def rates(self, value: dict[int, float]) -> None:
        self.bucket.by_command = value


class Api:
    """The API of one shard."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._router = shard.router
        #: The rate limits of those who came by: over HTTP they are kept by identity, since connections come and go.
        self._rates = Cache("http-rates")
        self._origins = frozenset(origin.lower() for origin in shard.config.http.allowed_origins)

    # ------------------------------------------------------------ who asks

    async def caller_of(self, scope: Scope, headers: Headers) -> _HttpCaller:
        """Who asks; nobody, if the request shows no credentials.

        Raises:
            ImError: the credentials are wrong, or too many.
        """
        address: str = scope["client"][0]
        caller = _HttpCaller(self._shard, address)
        authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
        acting_for = headers.get(b"x-im-user")
        certificate = scope["imserver.certificate"]
        if authorization is None and api_key is None and certificate is None:
            if acting_for is not None:
                raise NotAuthenticated("X-IM-User goes with an API key: X-API-Key")
        else:
            caller.credentials = _credentials(authorization, api_key, acting_for, certificate, address)
            if caller.credentials.certificate is not None:
                self._check_page(headers)
            caller.revision = self._shard.directory.revision
            caller.identify(await self._router.authenticate(caller.credentials))
        key = _rates_key(caller)
        bucket = self._rates.get(key)
        if bucket is None:
            self._rates.put(key, caller.bucket)
        else:
            caller.bucket = bucket
        return caller

    def _check_page(self, headers: Headers) -> None:
        """Whether a page from there may use the browser's certificate, which the browser shows for whoever asks.

        Raises:
            PermissionDenied: it may not.
        """
        origin = headers.get(b"origin")
        if origin is None:
            return  # no page, or one that only looks and is not let see
        asked = origin.decode("latin-1").lower()
        own = f"https://{headers.get(b'host', b'').decode('latin-1').lower().removesuffix(':443')}"
        if asked not in self._origins and not ("self" in self._origins and asked.removesuffix(":443") == own):
            raise PermissionDenied(
                "pages of this origin may not use a client certificate; http.allowed_origins says which pages may"
            )

    async def _look_again(self, caller: _HttpCaller) -> None:
        """The body, or the disk, took its time: whoever has logged out meanwhile, say, asks for nothing any more.

        Raises:
            ImError: the credentials are not good any more.
        """
        if caller.credentials is None:
            return
        directory = self._shard.directory
        is_past = caller.expires_at_ms is not None and self._shard.clock.now_ms() >= caller.expires_at_ms
        while is_past or caller.revision != directory.revision:
            is_past = False
            caller.revision = directory.revision
            caller.identify(await self._router.authenticate(caller.credentials))

    async def _body_of(self, command: Command, caller: _HttpCaller, receive: Receive) -> bytes:
        """The body of a command's request, from somebody who may ask for it."""
        if command.allow != ANYONE and caller.user_id is None and (caller.scopes is None or command.role is None):
            return b""  # the router says why not, and nothing is kept for nobody
        await self._router.wait_for_room()
        body = await read_body(receive, MAX_FRAME_BEFORE_LOGIN_BYTES if caller.credentials is None else None)
        await self._look_again(caller)
        return body

    # ------------------------------------------------------------ commands

    def command(self, command: Command) -> ASGIApp:
        """The endpoint of a command: its body is the request's."""

        async def carry_out(scope: Scope, receive: Receive, headers: Headers) -> Any:
            caller = await self.caller_of(scope, headers)
            body = await self._body_of(command, caller, receive)
            if body:
                check_type(headers)
            if command.command_id == SEND and b"idempotency-key" in headers:
                body = _with_key(body, headers[b"idempotency-key"])
            return await self._carry_out(caller, command.command_id, body)

        return self._endpoint(carry_out)

    def resource(self, resource: Resource, command: Command) -> ASGIApp:
        """The endpoint of a resource path."""
        types = _types_of(command.request)
        # The body is the command's own, and nothing comes from elsewhere.
        is_plain = resource.has_body and not (resource.query or resource.fixed or "{" in resource.path)

        async def carry_out(scope: Scope, receive: Receive, headers: Headers) -> Any:
            caller = await self.caller_of(scope, headers)
            body = await self._body_of(command, caller, receive)
            fields: dict[str, Any] = {}
            if body and resource.has_body:
                check_type(headers)
            if scope["query_string"]:
                fields = _query_fields(Request(scope), resource, types)
            if is_plain:
                if command.command_id == SEND and b"idempotency-key" in headers:
                    body = _with_key(body, headers[b"idempotency-key"])
            else:
                if body and resource.has_body:
                    fields |= _fields(body)
                body = encode_json({**fields, **scope["path_params"], **resource.fixed})
            return await self._carry_out(caller, command.command_id, body)

        return self._endpoint(carry_out)

    async def _carry_out(self, caller: _HttpCaller, command_id: int, body: bytes) -> dict[str, Any]:
        fields = await self._router.request(caller, command_id, body or b"{}", look_again=partial(self._look_again, caller))
        return {"code": 0, **fields}

    def _endpoint(self, carry_out: Callable[[Scope, Receive, Headers], Awaitable[Any]]) -> ASGIApp:
        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                fields = await carry_out(scope, receive, headers_of(scope))
            except ImError as exc:
                await send_error(send, exc)
            except _Gone:
                return
            else:
                await send_json(send, 200, fields)

        return endpoint

    # ------------------------------------------------------------ the plugins' routes

    def route(self, route: Route) -> ASGIApp:
        """The endpoint of a plugin's route."""
        timeout_s = route.timeout_s or self._shard.limits.request_timeout_s

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                scope["imserver.set_timeout"](timeout_s + _GRACE_S)
                caller = await self.caller_of(scope, headers_of(scope))

                async def receive_of_caller() -> Message:
                    message = await receive()
                    await self._look_again(caller)
                    self._check_route(route, caller)
                    return message

                response = await self._run_route(route, caller, Request(scope, receive_of_caller, send), timeout_s)
            except ImError as exc:
                await send_error(send, exc)
            except ClientDisconnect:
                return
            else:
                await response(scope, receive, send)

        return endpoint

    async def _run_route(self, route: Route, caller: _HttpCaller, request: Request, timeout_s: float) -> Response:
        self._admit(route, caller)
        self._router.busy += 1
        try:
            with trio.move_on_after(timeout_s):
                if route.method not in _READS:
                    await self._router.wait_for_room()
                    await self._look_again(caller)
                    self._check_route(route, caller)
                context = self._router.route_context(route.owner, caller)
                result = await route.handler(context, request)
                await context.wait_durable()
                if isinstance(result, Response):
                    return result
                return Response(encode_json({"code": 0, **fields_of(result)}), media_type="application/json")
            raise DeadlineExceeded("the request ran past its deadline; whether it took effect is not known")
        except ImError as exc:
            self._note_refusal(route, caller, exc)
            raise
        except ClientDisconnect:
            raise
        except FAULTS as exc:
            raise self._router.fault(f"{route.method} {route.path}", 0, route.owner, caller, exc) from exc
        finally:
            self._router.busy -= 1

    def _admit(self, route: Route, caller: Caller) -> None:
        if self._router.is_draining:
            raise Unavailable("the server is stopping; try again in a moment")
        try:
            self._router.count_request(caller)
            self._check_route(route, caller)
        except ImError as exc:
            self._note_refusal(route, caller, exc)
            raise

    def _note_refusal(self, route: Route, caller: Caller, error: ImError) -> None:
        self._router.note_refusal(caller, error, permission=route.permission, method=route.method)

    def _check_route(self, route: Route, caller: Caller) -> None:
        """Whether this caller may have it carried out.

        Raises:
            ImError: why not.
        """
        rule = self._router.permissions.rule(route)
        if route.allow != ANYONE and caller.user_id is None and not rule.takes_key(caller):
            raise NotAuthenticated(
                "log in first: Authorization: Bearer <token>"
                if caller.scopes is None
                else "say which user this is for: the header X-IM-User"
            )
        self._router.check_rule(rule, caller)


# ---------------------------------------------------------------- what a request says


def _credentials(
    authorization: bytes | None,
    api_key: bytes | None,
    acting_for: bytes | None,
    certificate: Mapping[str, Any] | None,
    address: str,
) -> Credentials:
    token: str | None = None
    if authorization is not None:
        scheme, _, value = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not value.strip():
            raise NotAuthenticated("Authorization takes `Bearer <token>`")
        token = value.strip()
    if token is not None and api_key is not None:
        raise InvalidBody("give a token or an API key, not both")
    if token is not None and acting_for is not None:
        raise PermissionDenied("X-IM-User goes with an API key; a token is one user's own")
    return Credentials(
        token=token,
        api_key=None if api_key is None else api_key.decode("latin-1").strip(),
        acting_for=None if acting_for is None else acting_for.decode("latin-1").strip(),
        certificate=certificate if token is None and api_key is None else None,
        address=address,
    )


def check_type(headers: Headers) -> None:
    """Take JSON in UTF-8 alone. A browser cannot send it to us from a page of others without asking before (CORS).

    Raises:
        UnsupportedType: it is something else.
    """
    kind, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if kind.strip() != _JSON or charset not in (b"", b"charset=utf-8"):
        raise UnsupportedType("a body is JSON in UTF-8: Content-Type: application/json")


def _rates_key(caller: Caller) -> tuple[str, str]:
    if caller.user_id is not None:
        return ("user", caller.user_id)
    if caller.scopes is not None:
        return ("key", caller.session_id)  # strangers behind the same proxy do not use up what a back end has
    return ("address", caller.address)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        return _decode_fields(body)
    except msgspec.ValidationError as exc:
        raise InvalidBody(f"the body must be a JSON object: {exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidBody(f"the body is no valid JSON: {exc}") from exc


def _with_key(body: bytes, key: bytes) -> bytes:
    """`Idempotency-Key` serves as `client_id`."""
    fields = _fields(body) if body else {}
    try:
        client_id = key.decode("ascii")
    except UnicodeDecodeError:
        client_id = ""
    if not 1 <= len(client_id) <= MAX_IDEMPOTENCY_KEY_BYTES:
        raise InvalidBody(f"Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY_BYTES} ASCII characters", field="client_id")
    given = fields.get("client_id")
    if given is not None and _plain(given) != client_id:
        raise InvalidBody("Idempotency-Key and client_id differ; give one of them", field="client_id")
    return encode_json({**fields, "client_id": client_id})


def _plain(value: msgspec.Raw) -> object:
    try:
        plain: object = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidBody(f"the body is no valid JSON: {exc}", field="client_id") from exc
    return plain


def _types_of(request: type | None) -> Mapping[str, Any]:
    """The types of a request's fields, by their names on the wire, without null: an address has a field or not."""
    if request is None:
        return {}
    hints = get_type_hints(request, include_extras=True)
    types = {name: _without_null(hint) for name, hint in hints.items()}
    if issubclass(request, msgspec.Struct):
        return dict(zip(request.__struct_encode_fields__, map(types.__getitem__, request.__struct_fields__), strict=True))
    return types


def _without_null(hint: Any) -> Any:
    if get_origin(hint) not in (Union, UnionType):
        return hint
    return Union[tuple(choice for choice in get_args(hint) if choice is not NoneType)]  # noqa: UP007


def _query_fields(request: Request, resource: Resource, types: Mapping[str, Any]) -> dict[str, Any]:
    """The fields behind the question mark, in the types of the command's own."""
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in resource.query:
            there_are = f"there are {', '.join(resource.query)}" if resource.query else "this path takes none"
            raise InvalidBody(f"there is no parameter of this name behind the question mark; {there_are}", field=name[:64])
        if name in given:
            raise InvalidBody(f"the parameter {name} comes twice", field=name)
        try:
            given[name] = msgspec.convert(
                value.split(",") if name.endswith("_ids") else value, types.get(name, str), strict=False
            )
        except msgspec.ValidationError as exc:
            raise InvalidBody(str(invalid_body(exc)), field=name) from exc
    return given
