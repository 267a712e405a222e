"""The application behind the HTTP listeners of one shard: health, API, plugins' routes, pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import imserver
from imserver.commands import routes_of
from imserver.http.api import Api, send_json
from imserver.http.asgi import ASGIApp, Receive, Scope, Send
from imserver.http.discover import discover
from imserver.http.errors import HttpError
from imserver.http.health import Health
from imserver.http.openapi import describe
from imserver.http.pages import load_pages
from imserver.http.resources import RESOURCES
from imserver.protocol.body import encode_json

if TYPE_CHECKING:
    from imserver.http.discover import Endpoints
    from imserver.shard import Shard

WEB = Path(imserver.__file__).parent / "web"
#: The page that renders /openapi.json; it is there without the web client, too.
DOCS = "docs"
_ALLOWED_HEADERS = (
    "Authorization",
    "Content-Type",
    "Content-Disposition",
    "Content-Range",
    "Idempotency-Key",
    "Range",
    "Upload-Length",
    "Upload-Offset",
    "X-API-Key",
    "X-Content-SHA256",
    "X-File-Name",
    "X-IM-User",
)
_EXPOSED_HEADERS = (
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Location",
    "Retry-After",
    "Upload-Length",
    "Upload-Offset",
)


def build_app(
    shard: Shard,
    *,
    checks: Mapping[str, Callable[[], bool]],
    metrics: Callable[[], tuple[bytes, str]],
    endpoints: Callable[[], Endpoints],
    web: Path = WEB,
) -> ASGIApp:
    """The application of one shard.

    Args:
        checks: by name, what `/readyz` needs to be true.
        metrics: renders /metrics: (body, content type).
        endpoints: where the listeners are; asked for each `/v1/discover`.
        web: the folder with the pages.
    """
    api = Api(shard)
    health = Health(checks, metrics)
    routes: list[BaseRoute] = [Route(path, answer, methods=["GET"]) for path, answer in health.routes.items()]
    fast: dict[tuple[str, str], ASGIApp] = {}
    for row in shard.table:
        endpoint = api.command(row)
        for name in (str(row.command_id), row.name.lower()):
            fast["POST", f"/v1/commands/{name}"] = endpoint
            routes.append(Route(f"/v1/commands/{name}", endpoint, methods=["POST"]))
    commands = {row.command_id: row for row in shard.table}
    for resource in RESOURCES:
        if resource.command_id in commands:
            endpoint = api.resource(resource, commands[resource.command_id])
            if "{" not in resource.path:
                fast[resource.method, resource.path] = endpoint
            routes.append(Route(resource.path, endpoint, methods=[resource.method]))
    plugin_routes = [row for plugin in shard.registry.plugins for row in routes_of(plugin)]
    routes += [Route(row.path, api.route(row), methods=[row.method]) for row in plugin_routes]
    description = encode_json(describe(shard.table, RESOURCES, plugin_routes))
    routes += [
        Route("/v1/commands/{name}", _unknown_command, methods=["POST"]),
        Route("/v1/discover", partial(discover, endpoints), methods=["GET"]),
        Route("/openapi.json", partial(_openapi, description), methods=["GET"]),
    ]
    for page in load_pages(web):
        if shard.config.http.web_client or page.path.startswith(f"/{DOCS}"):
            routes.append(Route(page.path, page, methods=["GET"]))
    origins = [origin for origin in shard.config.http.allowed_origins if origin != "self"]
    starlette = Starlette(
        routes=_merged(routes),
        middleware=[_cors(origins)] if origins else [],
        exception_handlers={HTTPException: _refuse, 404: _refuse, 405: _refuse},
    )
    return _App(starlette, fast)


class _App:
    """The application. Paths without parameters skip the search for a route, which costs more than a message does."""

    def __init__(self, starlette: Starlette, fast: Mapping[tuple[str, str], ASGIApp]) -> None:
        self._starlette = starlette
        self._fast = fast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._fast.get((scope["method"], scope["path"]))
        if endpoint is None or any(name == b"origin" for name, _ in scope["headers"]):
            await self._starlette(scope, receive, send)
        else:
            scope["path_params"] = {}
            await endpoint(scope, receive, send)


def _merged(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Paths with parameters behind those without: `/v1/users/me` before `/v1/users/{user_id}`."""
    return sorted(routes, key=lambda route: "{" in getattr(route, "path", ""))


def _cors(origins: Sequence[str]) -> Middleware:
    # No cookies anywhere, so no credentials: what a page may not read here it cannot do in a user's name either.
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=_ALLOWED_HEADERS,
        expose_headers=_EXPOSED_HEADERS,
        max_age=600,
    )


async def _refuse(request: Request, exc: Exception) -> Response:
    """No such path, or not by this method: JSON for the API, text for people."""
    assert isinstance(exc, HTTPException)
    allowed = (exc.headers or {}).get("Allow", "")
    message = f"there is no {request.url.path[:200]} here; /openapi.json and /docs say what there is"
    if exc.status_code == 405:
        message = f"this path takes {allowed or 'other methods'}"
    elif exc.status_code != 404:
        message = str(exc.detail)
    body, kind = HttpError(exc.status_code, message).body(request.url.path)
    return Response(body, exc.status_code, headers=dict(exc.headers or {}), media_type=kind)


class _UnknownCommand:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"][:64]
        message = f"there is no command {name} on this server"
        await send_json(send, 404, {"code": 404, "error": "unknown_command", "message": message})


_unknown_command = _UnknownCommand()


async def _openapi(description: bytes, request: Request) -> Response:
    return Response(description, media_type="application/json")
