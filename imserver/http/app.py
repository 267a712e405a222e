"""The application behind the HTTP listeners of one shard: health, API, plugins' routes, pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

import imserver
from imserver.commands import routes_of
from imserver.errors import NotFound
from imserver.http.api import Api, send_error
from imserver.http.asgi import ASGIApp, Receive, Scope, Send
from imserver.http.discover import discover
from imserver.http.health import Health
from imserver.http.openapi import describe
from imserver.http.pages import load_pages
from imserver.http.resources import RESOURCES
from imserver.http.routing import Paths, of_request
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


#: Who has the paths that no plugin has.
_CORE = "imserver"


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

    Raises:
        PluginError: a plugin's route is none, or somebody else's.
    """
    api = Api(shard)
    paths = Paths()
    for path, answer in Health(checks, metrics).routes.items():
        paths.add("GET", path, of_request(answer), _CORE)
    commands = {row.command_id: row for row in shard.table}
    by_name: dict[str, ASGIApp] = {}
    for row in commands.values():
        # Of two plugins' commands of one name the first has it; each has its number.
        by_name.setdefault(row.name.lower(), api.command(row))
        paths.add("POST", f"/v1/commands/{row.command_id}", api.command(row), row.owner)
    for name, app in by_name.items():
        paths.add("POST", f"/v1/commands/{name}", app, _CORE)
    paths.add("POST", "/v1/commands/{name}", _ByName(by_name), _CORE)
    for resource in RESOURCES:
        if resource.command_id in commands:
            row = commands[resource.command_id]
            paths.add(resource.method, resource.path, api.resource(resource, row), row.owner)
    plugin_routes = [row for plugin in shard.registry.plugins for row in routes_of(plugin)]
    for route in plugin_routes:
        paths.add(route.method, route.path, api.route(route), route.owner)
    description = encode_json(describe(commands.values(), RESOURCES, plugin_routes))
    paths.add("GET", "/v1/discover", of_request(partial(discover, endpoints)), _CORE)
    paths.add("GET", "/openapi.json", of_request(partial(_openapi, description)), _CORE)
    for page in load_pages(web):
        is_wanted = shard.config.http.web_client or page.path == f"/{DOCS}" or page.path.startswith(f"/{DOCS}/")
        if is_wanted and not paths.has(page.path):  # a plugin may have a page of its own in its place
            paths.add("GET", page.path, page, _CORE)
    origins = [origin for origin in shard.config.http.allowed_origins if origin != "self"]
    return _Cors(paths, origins) if origins else paths


class _Cors:
    """Lets pages of the listed origins in. Who sends no Origin is no page."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        # No cookies anywhere, so no credentials: what a page may not read here it cannot do in a user's name either.
        self._for_pages = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_of_page = any(name == b"origin" for name, _ in scope["headers"])
        await (self._for_pages if is_of_page else self._app)(scope, receive, send)


class _ByName:
    """Commands by their names in any case, and what is no command."""

    def __init__(self, by_name: Mapping[str, ASGIApp]) -> None:
        self._by_name = by_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._by_name.get(scope["path_params"]["name"].lower())
        if app is not None:
            await app(scope, receive, send)
        else:
            message = "there is no such command on this server; /openapi.json and /docs say which there are"
            await send_error(send, NotFound(message, error="unknown_command"))


async def _openapi(description: bytes, request: Request) -> Response:
    return Response(description, media_type="application/json")
