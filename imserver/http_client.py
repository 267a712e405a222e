"""What plugins post to other servers with: httpx, an optional dependency (the extra `push`), imported when asked for."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import frozen

from imserver.errors import PluginError, Unavailable

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES: Final = 64 * 1024
#: How long the farewell of a connection may take.
_CLOSE_S: Final = 1.0
#: They log each request with its URL, which may name a device.
_TALKATIVE: Final = ("httpx", "httpcore", "hpack")


@frozen
class HttpAnswer:
    """What the other side said; `body` is cut at `MAX_ANSWER_BYTES`."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_ms(self) -> int | None:
        """When it wants to be asked again, if it says so in seconds."""
        asked = self.headers.get("retry-after", "")
        return int(asked) * 1000 if asked.isascii() and asked.isdigit() and len(asked) < 7 else None


class _Pool:
    """Connections, and how many requests use them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.requests = 0

    async def aclose(self) -> None:
        """Close them; one whose line is dead holds up nobody."""
        with trio.move_on_after(_CLOSE_S, shield=True):
            await self.client.aclose()


class HttpClient:
    """Keeps connections for the requests to come: close it. It follows no redirects, and knows no proxy.

    Args:
        make: new connections.
        failures: what they raise.
        is_shared: many requests go over one connection at once (HTTP/2).
    """

    def __init__(
        self, make: Callable[[], httpx.AsyncClient], failures: tuple[type[Exception], ...], *, is_shared: bool
    ) -> None:
        self._make = make
        self._is_shared = is_shared
        self._pool = _Pool(make())
        self._failures = failures
        self._is_closed = False

    @classmethod
    def make(cls, plugin: str, ca_file: Path | None, connections: int, *, http2: bool = False) -> HttpClient:
        """A client that trusts the system's certificates, and those in `ca_file`; blocks.

        Args:
            plugin: named in errors.
            connections: at once at most.
            http2: speak nothing else.

        Raises:
            PluginError: httpx or h2 is not installed, or the file cannot be used.
        """
        try:
            import httpx
        except ImportError as exc:
            raise PluginError(f"plugins.{plugin} needs httpx: pip install 'imserver[push]' ({exc})") from exc
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        tls = ssl.create_default_context()
        if ca_file is not None:
            try:
                tls.load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as exc:
                raise PluginError(f"plugins.{plugin}.ca_file {ca_file} cannot be used: {exc}") from exc
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60.0)
        # The caller has a deadline for all of a request.
        options: dict[str, Any] = {"verify": tls, "limits": limits, "timeout": None, "trust_env": False}
        try:
            return cls(
                lambda: httpx.AsyncClient(http1=not http2, http2=http2, **options), (httpx.HTTPError,), is_shared=http2
            )
        except ImportError as exc:
            raise PluginError(f"plugins.{plugin} needs h2: pip install 'imserver[push]' ({exc})") from exc

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        """Post.

        Raises:
            Unavailable: no connection, or what came is no HTTP, or the plugin stops.
        """
        if self._is_closed:
            raise Unavailable("the plugin stops", retry_after_ms=0)
        received = bytearray()
        pool = self._pool
        pool.requests += 1
        try:
            async with pool.client.stream("POST", url, headers=dict(headers), content=body) as response:
                async for part in response.aiter_raw():
                    # The rest is read and dropped, within the caller's deadline: a body left over cannot be closed well.
                    received += part[: MAX_ANSWER_BYTES - len(received)]
        except self._failures as exc:
            # retry_after_ms 0: it asks for nothing.
            raise Unavailable(f"{type(exc).__name__}: {exc}", retry_after_ms=0) from exc
        except trio.Cancelled:
            # Past the deadline. A connection whose line is dead takes requests as long as the system believes in it.
            if self._is_shared and pool is self._pool and not self._is_closed:
                self._pool = _Pool(self._make())
            raise
        finally:
            pool.requests -= 1
            if pool is not self._pool and not pool.requests:
                await pool.aclose()
        return HttpAnswer(response.status_code, response.headers, bytes(received))

    async def aclose(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._pool.aclose()
