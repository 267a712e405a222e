"""What operators and their tools ask: is it alive, is it ready, how is it doing?

* /livez: the main loop runs
* /readyz: all listeners accept, the server is not draining, the last commit succeeded, and no shard stands still
* /healthz: the same as /livez for people, with each check's state
* /metrics: Prometheus text format
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response


class Health:
    """Answers the four paths.

    Args:
        checks: by name, what `/readyz` needs to be true, looked at for each request.
        metrics: renders /metrics: (body, content type).
    """

    def __init__(self, checks: Mapping[str, Callable[[], bool]], metrics: Callable[[], tuple[bytes, str]]) -> None:
        self._checks = checks
        self._metrics = metrics
        #: path -> who answers it
        self.routes: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
            "/livez": self._live,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._scrape,
        }

    async def _live(self, request: Request) -> Response:
        return PlainTextResponse("alive\n")

    def _results(self) -> dict[str, bool]:
        return {name: check() for name, check in self._checks.items()}

    async def _health(self, request: Request) -> Response:
        checks = {name: "ok" if passed else "failing" for name, passed in self._results().items()}
        return JSONResponse({"status": "alive", "checks": checks})

    async def _ready(self, request: Request) -> Response:
        failing = [name for name, passed in self._results().items() if not passed]
        if failing:
            return PlainTextResponse(f"not ready: {', '.join(failing)}\n", 503)
        return PlainTextResponse("ready\n")

    async def _scrape(self, request: Request) -> Response:
        body, content_type = self._metrics()
        return Response(body, headers={"Content-Type": content_type})
