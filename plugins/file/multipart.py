"""A request's body in pieces; and a form with one file (multipart/form-data), taken apart while it comes in.

Nothing is spooled or collected.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from attrs import frozen
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from imserver.plugin import InvalidBody

#: All that a form may have beside the file: boundaries, headers, fields that mean nothing here.
MAX_OTHER_BYTES = 64 * 1024


class Source(Protocol):
    """Where the bytes of a file come from."""

    async def read(self) -> bytes:
        """The next piece, 1 byte at least; empty: that was all.

        Raises:
            InvalidBody: it ended too early.
        """


class Body:
    """The body of a request."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._is_over = False

    async def read(self) -> bytes:
        """See `Source.read`."""
        while not self._is_over:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise InvalidBody("the upload ended before its last byte")
            self._is_over = not message.get("more_body", False)
            if piece := message.get("body", b""):
                return bytes(piece)
        return b""


@frozen
class FilePart:
    """The head of the part that is the file. `filename` and `content_type` are as they came."""

    filename: bytes
    content_type: str | None


def boundary_of(content_type: str) -> bytes | None:
    """The boundary, if this `Content-Type` is that of a form with files.

    Raises:
        InvalidBody: a form without a boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidBody("Content-Type: multipart/form-data without a boundary")
    return boundary


class FormReader:
    """Feeds a form's bytes to the parser and hands on what is the file's.

    `head` first, then `read` to its end.

    Args:
        source: the request's body.
    """

    def __init__(self, source: Source, boundary: bytes) -> None:
        self._source = source
        self._part: FilePart | None = None
        self._ready: deque[bytes] = deque()
        self._is_in_file = False
        self._is_over = False
        self._has_ended = False
        self._other_bytes = 0
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as exc:
            raise InvalidBody(f"the form's boundary cannot be used: {exc}") from exc

    async def head(self) -> FilePart:
        """Read up to the file's first byte.

        Raises:
            InvalidBody: it is no form, or one without a file.
        """
        while self._part is None:
            if not await self._feed():
                raise InvalidBody("the form has no file: send a part with a filename")
        return self._part

    async def read(self) -> bytes:
        """The file's bytes; at their end the form is read to its own. See `Source.read`.

        Raises:
            InvalidBody: the form is broken or cut short, or has more than one file.
        """
        while not self._ready:
            if not await self._feed():
                return b""
        return self._ready.popleft()

    async def _feed(self) -> bool:
        """Parse the next piece of the body; False: that was all, and it was whole."""
        chunk = await self._source.read()
        if not chunk:
            if not self._has_ended:
                raise InvalidBody("the form ends too early")
            return False
        self._other_bytes += len(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise InvalidBody(f"the form is broken: {exc}") from exc
        if self._other_bytes > MAX_OTHER_BYTES:
            raise InvalidBody(f"the form has over {MAX_OTHER_BYTES} bytes beside its file; send the file alone")
        return True

    # ------------------------------------------------------------ what the parser calls

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        if b"filename" not in options:
            return
        if self._is_over or self._part is not None:
            raise InvalidBody("the form has more than one file; send one a request")
        content_type = self._headers.get(b"content-type")
        self._part = FilePart(options[b"filename"], None if content_type is None else content_type.decode("latin-1"))
        self._is_in_file = True

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._ready.append(data[start:end])
            self._other_bytes -= end - start

    def _on_part_end(self) -> None:
        if self._is_in_file:
            self._is_in_file = False
            self._is_over = True

    def _on_end(self) -> None:
        self._has_ended = True
