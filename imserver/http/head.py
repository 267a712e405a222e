"""The head of a request: read in one way only, or refused.

What a proxy in front could have understood in another way is refused, because the two would then disagree where a request
ends (request smuggling): lines that end in a bare LF, folded lines, control characters, a length beside chunks, two
lengths. h11 parses; here is what it lets pass and this server does not. Sans-I/O.

Source: RFC 9112, sections 2.2, 3.2, 5.1, 5.2, 6.1 and 6.3; RFC 9110, section 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import attrs
import h11

from imserver.http.errors import HttpError
from imserver.http.limits import HttpLimits

#: A part of a path so long may be a random one that opens something.
_SECRET = re.compile(r"[0-9A-Za-z_-]{20,}")
_END = b"\r\n\r\n"
#: Control characters (HTAB is none here), CR and LF apart from each other, and lines that begin with white space.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])|\n[ \t]")
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n")
#: A method is case-sensitive, and these are all that any route could have.
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
#: host[:port]; the characters of RFC 3986's reg-name, or an IP literal in brackets.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
# All of the line: what trims it by a lazy match goes through a line of spaces once for each of them.
_LENGTH = re.compile(rb"\r\ncontent-length:([^\r]*)", re.IGNORECASE)
_LENGTH_VALUE = re.compile(rb"[0-9]{1,18}")


@attrs.frozen
class Head:
    """A request without its body.

    Attributes:
        raw_path: as it came, percent-encoded; `path` is decoded.
        headers: names in lower case, in the order in which they came.
        length: of the body in bytes; None: it comes in chunks.
    """

    method: str
    http_version: str
    raw_path: bytes
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    length: int | None
    expects_continue: bool
    is_websocket: bool

    @property
    def shown_path(self) -> str:
        """The path for the log: without what may be a secret in it, as in that of an incoming webhook."""
        return _SECRET.sub("…", self.path)

    def get(self, name: bytes) -> bytes | None:
        """The first header of this (lower-case) name."""
        return next((value for found, value in self.headers if found == name), None)


def take_head(buffer: bytearray, searched: int, limits: HttpLimits) -> bytes | None:
    """Cut the bytes of a head off the front of a buffer; None: it is not complete yet.

    Args:
        searched: how many bytes of the buffer an earlier call has seen.

    Raises:
        HttpError: what is there can become no valid head.
    """
    end = buffer.find(_END, max(0, searched - len(_END) + 1))
    size = len(buffer) if end < 0 else end + len(_END)
    if _FORBIDDEN.search(buffer, max(0, searched - 1), size):
        raise HttpError(400, "this is no valid HTTP request: a control character, a bare CR or LF, or a folded line")
    if size > limits.max_head_bytes:
        raise HttpError(431, f"request line and headers have at most {limits.max_head_bytes} bytes")
    if end < 0:
        first_line = buffer.find(b"\r\n")
        if first_line >= max(0, searched - 1) and not _REQUEST_LINE.match(buffer):
            raise HttpError(400, "this is no valid HTTP request")
        return None
    head = bytes(buffer[:size])
    del buffer[:size]
    return head


def parse_head(data: bytes, connection: h11.Connection, limits: HttpLimits) -> Head:
    """What a whole head says.

    Args:
        connection: a fresh one, as a server's; it has taken the head in when this returns.

    Raises:
        HttpError: the head is not valid, or not understood in one way only.
    """
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise HttpError(exc.error_status_hint, f"this is no valid HTTP request: {_reason(exc)}") from exc
    assert isinstance(event, h11.Request)
    version = event.http_version
    if version not in (b"1.1", b"1.0"):
        raise HttpError(505, "this server speaks HTTP/1.1")
    if event.method not in _METHODS:
        raise HttpError(501, "there is no such method; methods are upper-case: GET, POST, …")
    headers = list(event.headers)
    if len(headers) > limits.max_headers:
        raise HttpError(431, f"a request has at most {limits.max_headers} headers")
    fields: dict[bytes, bytes] = dict(reversed(headers))  # of several the first one
    target = event.target
    if target[:1] != b"/":
        target = _origin_form(event, headers)
    raw_path, _, query = target.partition(b"?")
    raw_path = bytes(raw_path)
    path = raw_path.decode("ascii")
    if "%" in path:
        path = unquote(path)
        if "\0" in path:
            raise HttpError(400, "a path has no NUL in it")
    if b"#" in target:
        raise HttpError(400, "a request target has no fragment")
    host = fields.get(b"host")
    if host is not None and not _HOST.fullmatch(host):
        raise HttpError(400, "the Host header is not valid: expected a name and perhaps a port")
    expect = fields.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise HttpError(417, "the one expectation that is understood is 100-continue")
    return Head(
        method=event.method.decode("ascii"),
        http_version=version.decode("ascii"),
        raw_path=raw_path,
        path=path,
        query=bytes(query),
        headers=headers,
        length=_length(data, fields, version),
        expects_continue=expect is not None and version == b"1.1",
        is_websocket=b"upgrade" in fields and version == b"1.1" and event.method == b"GET" and _asks_for_websocket(headers),
    )


def _origin_form(request: h11.Request, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The path and query of a target in another form; an absolute one brings the host, which goes before the header."""
    if request.target == b"*" and request.method == b"OPTIONS":
        return b"*"
    absolute = _ABSOLUTE.fullmatch(request.target)
    if absolute is None:
        raise HttpError(400, "a request target is a path, or an http or https URL")
    authority, rest = absolute.groups()
    if not _HOST.fullmatch(authority):
        raise HttpError(400, "the URL of the request has no valid host")
    headers[:] = [(name, bytes(authority) if name == b"host" else value) for name, value in headers]
    return rest if rest[:1] == b"/" else b"/" + rest


def _length(data: bytes, fields: dict[bytes, bytes], version: bytes) -> int | None:
    is_chunked = b"transfer-encoding" in fields  # h11 has seen to it that it says "chunked" and nothing else
    if is_chunked and version == b"1.0":
        raise HttpError(400, "HTTP/1.0 has no chunks")
    if b"content-length" not in fields:
        return None if is_chunked else 0
    if is_chunked:
        raise HttpError(400, "a request has Content-Length or Transfer-Encoding, not both")
    lengths = [found.strip(b" \t") for found in _LENGTH.findall(data)]  # h11 shows several that agree as one
    if len(lengths) != 1 or not _LENGTH_VALUE.fullmatch(lengths[0]):
        raise HttpError(400, "a request has one Content-Length, of digits")
    return int(lengths[0])


def _asks_for_websocket(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return _has_token(headers, b"upgrade", b"websocket") and _has_token(headers, b"connection", b"upgrade")


def _has_token(headers: Sequence[tuple[bytes, bytes]], name: bytes, token: bytes) -> bool:
    return any(token == part.strip().lower() for found, value in headers if found == name for part in value.split(b","))


def _reason(exc: h11.RemoteProtocolError) -> str:
    """h11's own words, without what the client sent."""
    return re.split(r"[:{]", str(exc))[0].strip()
