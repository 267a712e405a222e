"""What operators and their tools ask: is it alive, is it ready, how is it doing?

* /livez: the main loop runs
* /readyz: all listeners accept, the server is not draining, the last commit succeeded, and no shard stands still
* /healthz: the same as /livez for people, with each check's state
* /metrics: Prometheus text format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from imserver.http.server import Request, Response


class HealthHandler:
    """Answers the four paths.

    Args:
        checks: by name, what `/readyz` needs to be true, looked at for each request.
        metrics: renders /metrics: (body, content type).
    """

    def __init__(self, checks: Mapping[str, Callable[[], bool]], metrics: Callable[[], tuple[bytes, str]]) -> None:
        self._checks = checks
        self._metrics = metrics

    async def __call__(self, request: Request) -> Response:
        """See `imserver.http.server.Handler`."""
        routes = {
            "/livez": self._live,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._scrape,
        }
        route = routes.get(request.path)
        if route is None:
            return Response(404, b"not found; there are " + ", ".join(routes).encode() + b"\n")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET and HEAD\n", headers=[("Allow", "GET, HEAD")])
        return route()

    def _live(self) -> Response:
        return Response(200, b"alive\n")

    def _results(self) -> dict[str, bool]:
        return {name: check() for name, check in self._checks.items()}

    def _health(self) -> Response:
        checks = {name: "ok" if passed else "failing" for name, passed in self._results().items()}
        return Response(200, json.dumps({"status": "alive", "checks": checks}).encode() + b"\n", "application/json")

    def _ready(self) -> Response:
        failing = [name for name, passed in self._results().items() if not passed]
        if failing:
            return Response(503, f"not ready: {', '.join(failing)}\n".encode())
        return Response(200, b"ready\n")

    def _scrape(self) -> Response:
        body, content_type = self._metrics()
        return Response(200, body, content_type)
