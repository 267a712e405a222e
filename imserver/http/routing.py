"""From a method and a path to the app that answers it. A path without parameters is one look into a dict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from re import Pattern
from typing import Any

import attrs
from starlette.convertors import Convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from imserver.errors import PluginError
from imserver.http.asgi import ASGIApp, Receive, Scope, Send
from imserver.http.errors import HttpError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class RouteConflictError(PluginError):
    """Two want to answer the same requests; the message names both."""


@attrs.frozen
class _Answerer:
    owner: str
    app: ASGIApp


_ByMethod = MutableMapping[str, _Answerer]


@attrs.frozen
class _Pattern:
    """A path with parameters."""

    shape: str
    regex: Pattern[str]
    convertors: dict[str, Convertor[Any]]
    by_method: _ByMethod

    def match(self, path: str) -> dict[str, Any] | None:
        """The parameters, if this path is one of these."""
        match = self.regex.fullmatch(path)
        if match is None:
            return None
        try:
            return {name: self.convertors[name].convert(value) for name, value in match.groupdict().items()}
        except ValueError:  # an integer of more digits than Python takes
            return None


class Paths:
    """All paths of an application, itself an ASGI app: 404 where there is no path, 405 where it takes other methods."""

    def __init__(self) -> None:
        self._plain: dict[str, _ByMethod] = {}
        #: By the number of slashes, which a parameter cannot change …
        self._patterns: dict[int, list[_Pattern]] = {}
        #: … unless it takes whole paths.
        self._open_patterns: list[_Pattern] = []

    def add(self, method: str, path: str, app: ASGIApp, owner: str) -> None:
        """Let `app` answer these requests. One for GET answers HEAD too, until another does.

        Args:
            path: as Starlette has it; its parameters are in `scope["path_params"]`.
            owner: who is named if somebody else wants the same.

        Raises:
            RouteConflictError: somebody does.
            PluginError: this is no method, or no path.
        """
        if method not in METHODS or not path.startswith("/"):
            raise PluginError(f"{owner}: {method} {path} is no route; methods are {', '.join(METHODS)}, paths begin with /")
        by_method = self._plain.setdefault(path, {}) if "{" not in path else self._pattern(path, owner).by_method
        if method in by_method:
            raise RouteConflictError(
                f"{method} {path} is claimed by {by_method[method].owner} and by {owner}; "
                f"disable one of them in plugins.enabled or give one another path"
            )
        by_method[method] = _Answerer(owner, app)

    def has(self, path: str) -> bool:
        """Whether somebody answers this path (one without parameters)."""
        return path in self._plain

    def _pattern(self, path: str, owner: str) -> _Pattern:
        try:
            regex, shape, convertors = compile_path(path)
        except (AssertionError, ValueError) as exc:
            raise PluginError(f"{owner}: {path} is no valid path: {exc}") from exc
        is_open = ":path}" in path
        patterns = self._open_patterns if is_open else self._patterns.setdefault(path.count("/"), [])
        for pattern in patterns:
            if pattern.regex == regex:
                return pattern
        pattern = _Pattern(shape, regex, convertors, {})
        patterns.append(pattern)
        return pattern

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        method, path = scope["method"], scope["path"]
        by_method = self._plain.get(path)
        if by_method is not None:
            answerer = _find(by_method, method)
            if answerer is not None:
                scope["path_params"] = {}
                await answerer.app(scope, receive, send)
                return
        allowed = set(by_method or ())
        for pattern in (*self._patterns.get(path.count("/"), ()), *self._open_patterns):
            parameters = pattern.match(path)
            if parameters is None:
                continue
            answerer = _find(pattern.by_method, method)
            if answerer is not None:
                scope["path_params"] = parameters
                await answerer.app(scope, receive, send)
                return
            allowed |= pattern.by_method.keys()
        await _refuse(allowed, path, send)


def _find(by_method: _ByMethod, method: str) -> _Answerer | None:
    answerer = by_method.get(method)
    if answerer is None and method == "HEAD":
        return by_method.get("GET")
    return answerer


async def _refuse(allowed: set[str], path: str, send: Send) -> None:
    """No such path, or not by this method: JSON for the API, text for people. What was asked for is not echoed."""
    headers: list[tuple[bytes, bytes]] = []
    if allowed:
        if "GET" in allowed:
            allowed.add("HEAD")
        allow = ", ".join(method for method in METHODS if method in allowed)
        headers.append((b"allow", allow.encode()))
        error = HttpError(405, f"this path takes {allow}")
    else:
        error = HttpError(404, "there is nothing at this path; /openapi.json and /docs say what there is")
    body, kind = error.body(path)
    headers.append((b"content-type", kind.encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def of_request(answer: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """An ASGI app out of a function that takes Starlette's request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)

    return app
