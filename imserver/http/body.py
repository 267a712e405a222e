"""The body of a request: by its length, or in chunks. Sans-I/O.

h11 could do this, but reads chunks more kindly than is safe behind a proxy: it takes bare LFs and folded lines in the
trailers, a bare CR in a chunk's extension and spaces behind its size. Where a proxy reads those otherwise, the two
disagree where the request ends. So what RFC 9112, section 7.1, does not allow is refused here.
"""

from __future__ import annotations

import re
from typing import Literal

from imserver.http.errors import HttpError

#: A chunk's line, and all trailers and extensions of a body together. Extensions mean nothing here, and are free to make a
#: few bytes of body as long as one likes.
MAX_LINE_BYTES = 256
MAX_EXTRA_BYTES = 16 * 1024
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:;[\t\x20-\x7e\x80-\xff]*)?)")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class BodyReader:
    """Takes a body off the front of the connection's buffer.

    Args:
        length: of the body in bytes; None: in chunks.
        max_bytes: of the whole body; None: the app counts.
    """

    __slots__ = ("_extra", "_left", "_max_bytes", "_part", "_size", "is_done")

    def __init__(self, length: int | None, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._extra = 0
        self._left = length or 0  # of the body, or of this chunk
        self._part: Literal["length", "size", "data", "end", "trailers"] = "size" if length is None else "length"
        self.is_done = length == 0
        if length is not None:
            self._count(length)

    @property
    def left_bytes(self) -> int | None:
        """What is still to come; None: that is not known."""
        return self._left if self._part == "length" else None

    def take(self, buffer: bytearray) -> bytes:
        """All of the body that is in the buffer; what remains there belongs to the next request once `is_done`.

        Raises:
            HttpError: the chunks are not valid, or the body is too large.
        """
        if self._part == "length":
            data = bytes(buffer[: self._left])
            del buffer[: len(data)]
            self._left -= len(data)
            self.is_done = not self._left
            return data
        return self._take_chunks(buffer)

    def _take_chunks(self, buffer: bytearray) -> bytes:
        parts: list[bytes] = []
        position = 0
        try:
            while not self.is_done:
                if self._part == "data":
                    piece = bytes(buffer[position : position + self._left])
                    if not piece:
                        break
                    parts.append(piece)
                    position += len(piece)
                    self._left -= len(piece)
                    if not self._left:
                        self._part = "end"
                    continue
                line_end = buffer.find(b"\r\n", position, position + MAX_LINE_BYTES + 2)
                if line_end < 0:
                    self._check_line_to_come(buffer, position)
                    break
                line = bytes(buffer[position:line_end])
                position = line_end + 2
                self._take_line(line)
        finally:
            del buffer[:position]
        return b"".join(parts)

    def _take_line(self, line: bytes) -> None:
        if self._part == "size":
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise _malformed()
            size, extension = int(match[1], 16), match[2]
            self._count_extra(len(extension))
            self._count(size)
            self._left = size
            self._part = "data" if size else "trailers"
        elif self._part == "end":
            if line:
                raise _malformed()
            self._part = "size"
        elif not line:
            self.is_done = True
        elif _TRAILER.fullmatch(line):  # allowed, and of no use
            self._count_extra(len(line))
        else:
            raise _malformed()

    def _check_line_to_come(self, buffer: bytearray, position: int) -> None:
        """Nothing is waited for that cannot become right any more."""
        if len(buffer) - position > MAX_LINE_BYTES + 1:
            raise HttpError(400, f"a line between chunks has at most {MAX_LINE_BYTES} bytes")
        line = bytes(buffer[position:])
        if self._part == "end" and line not in (b"", b"\r"):
            raise _malformed()
        if b"\n" in line or b"\r" in line[:-1]:
            raise _malformed()

    def _count(self, size: int) -> None:
        self._size += size
        if self._max_bytes is not None and self._size > self._max_bytes:
            raise HttpError(413, f"a body has at most {self._max_bytes} bytes")

    def _count_extra(self, size: int) -> None:
        self._extra += size
        if self._extra > MAX_EXTRA_BYTES:
            raise HttpError(400, f"chunk extensions and trailers have at most {MAX_EXTRA_BYTES} bytes")


def _malformed() -> HttpError:
    return HttpError(400, "the chunks of the body are not valid")
