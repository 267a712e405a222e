"""Sending files: headers that make them harmless, ranges, conditions; the bytes 64 KiB at a time."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from imserver_plugins.file import ranges
from imserver_plugins.file.names import content_disposition
from imserver_plugins.file.state import State
from imserver_plugins.file.storage import FileMissing
from imserver_plugins.file.store import File
from imserver_plugins.file.uploads import no_file

READ_BYTES = 64 * 1024


def headers_of(file: File) -> dict[str, str]:
    """What every answer about a file carries.

    Whatever the file is, a browser does not run it: it is saved, not shown, unless its first bytes are those of a picture
    in one of four formats; nobody guesses another type; and if it were opened, it would be in a sandbox without scripts.
    """
    assert file.sha256 is not None
    return {
        "ETag": f'"{file.sha256.hex()}"',
        "Accept-Ranges": "bytes",
        # Kept by the client alone, which asks each time whether it may still have it.
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization, X-API-Key",
        "Content-Disposition": content_disposition(file.name, is_inline=file.image is not None),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


class FileResponse(Response):
    """A file, a range of it, or what there is to say instead.

    Args:
        method: "GET" or "HEAD".
        request_headers: Range, If-Range and If-None-Match count.
    """

    def __init__(self, state: State, file: File, method: str, request_headers: dict[str, str]) -> None:
        assert file.sha256 is not None
        tag = file.sha256.hex()
        self._files = state.files
        self._file = file
        self._slice = ranges.Slice(0, file.size)
        headers = headers_of(file)
        status = 200
        self._has_bytes = method != "HEAD"
        if ranges.is_unchanged(request_headers.get("if-none-match"), tag):
            status, self._has_bytes = 304, False
        else:
            headers["Content-Type"] = file.type
            # RFC 9110, 14.2: Range is defined for GET alone.
            if method == "GET" and ranges.is_range_valid(request_headers.get("if-range"), tag):
                try:
                    wanted = ranges.wanted(request_headers.get("range"), file.size)
                except ranges.Unsatisfiable:
                    status, self._has_bytes, self._slice = 416, False, ranges.Slice(0, 0)
                    headers["Content-Range"] = f"bytes */{file.size}"
                else:
                    if wanted is not None:
                        status, self._slice = 206, wanted
                        last = wanted.start + wanted.length - 1
                        headers["Content-Range"] = f"bytes {wanted.start}-{last}/{file.size}"
            headers["Content-Length"] = str(self._slice.length)
        self.status_code = status
        self.background = None
        self.body = b""
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. The connection breaks off if the store has fewer bytes than the row says."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if not self._has_bytes:
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            reader = await self._files.reader(self._file.file_id, self._slice.start)
        except FileMissing:
            missing = no_file()
            await JSONResponse(missing.answer(), missing.code)(scope, receive, send)
            return
        try:
            await send(start)
            left = self._slice.length
            while left:
                data = await reader.read(min(left, READ_BYTES))
                if not data:
                    raise FileMissing(f"{self._file.file_id} is {left} bytes shorter than its row says")
                left -= len(data)
                await send({"type": "http.response.body", "body": data, "more_body": left > 0})
            if not self._slice.length:
                await send({"type": "http.response.body", "body": b""})
        finally:
            reader.close()
