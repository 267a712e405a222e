"""One POST, by httpx, which is an optional dependency: it is imported when the plugin starts."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from imserver.plugin import PluginError, Unavailable

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES: Final = 64 * 1024
#: They log each request with its URL, which may name a device.
_TALKATIVE: Final = ("httpx", "httpcore", "hpack")


@frozen
class Answer:
    """What the other side said; `body` is cut at `MAX_ANSWER_BYTES`."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_ms(self) -> int | None:
        """When it wants to be asked again, if it says so in seconds."""
        asked = self.headers.get("retry-after", "")
        return int(asked) * 1000 if asked.isascii() and asked.isdigit() and len(asked) < 7 else None


class Client:
    """Keeps connections for the requests to come: close it. It follows no redirects, and knows no proxy."""

    def __init__(self, client: httpx.AsyncClient, failures: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._failures = failures
        self._is_closed = False

    @classmethod
    def make(cls, plugin: str, ca_file: Path | None, connections: int) -> Client:
        """A client that trusts the system's certificates, and those in `ca_file`; blocks.

        Args:
            plugin: named in errors.
            connections: at once at most.

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
            client = httpx.AsyncClient(http1=False, http2=True, **options)
        except ImportError as exc:
            raise PluginError(f"plugins.{plugin} needs h2: pip install 'imserver[push]' ({exc})") from exc
        return cls(client, (httpx.HTTPError,))

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post.

        Raises:
            Unavailable: no connection, or what came is no HTTP, or the plugin stops.
        """
        if self._is_closed:
            raise Unavailable("the plugin stops", retry_after_ms=0)
        received = bytearray()
        try:
            async with self._client.stream("POST", url, headers=dict(headers), content=body) as response:
                async for part in response.aiter_raw():
                    # The rest is read and dropped, within the caller's deadline: a body left over cannot be closed well.
                    received += part[: MAX_ANSWER_BYTES - len(received)]
        except self._failures as exc:
            # retry_after_ms 0: it asks for nothing.
            raise Unavailable(f"{type(exc).__name__}: {exc}", retry_after_ms=0) from exc
        return Answer(response.status_code, response.headers, bytes(received))

    async def aclose(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._client.aclose()
