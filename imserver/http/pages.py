"""The pages that the server itself serves: the web client, the admin page, the API's documentation.

They are read at start and served from memory: there is no path to leave the folder by, and no disk to wait for.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Iterator
from pathlib import Path

import attrs

from imserver.http.asgi import ASGIApp, Receive, Scope, Send

#: Nothing from elsewhere, nothing inline, no frame around it.
POLICY = (
    "default-src 'self'; connect-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self'; "
    "script-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # asked again each time, and answered by 304
)
_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".webmanifest": "application/manifest+json"}


@attrs.frozen
class Page:
    """One file."""

    path: str
    body: bytes
    content_type: str
    etag: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI: GET and HEAD."""
        etag = self.etag.encode()
        asked = dict(scope["headers"]).get(b"if-none-match", b"")
        is_known = asked == b"*" or etag in (part.strip().removeprefix(b"W/") for part in asked.split(b","))
        headers = [(b"etag", etag), *_HEADERS]
        if not is_known:
            headers.append((b"content-type", self.content_type.encode()))
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": 304 if is_known else 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if is_known else self.body})


def load_pages(folder: Path) -> Iterator[Page]:
    """The files below a folder, by the paths that they are served at; `index.html` stands for its folder."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or any(part.startswith((".", "__")) for part in file.relative_to(folder).parts):
            continue
        body = file.read_bytes()
        path = "/" + file.relative_to(folder).as_posix()
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        page = Page(path, body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        yield page
        if file.name == "index.html":
            yield attrs.evolve(page, path=path.removesuffix("index.html"))
            if path != "/index.html":
                yield attrs.evolve(page, path=path.removesuffix("/index.html"))


__all__ = ["ASGIApp", "Page", "load_pages"]
