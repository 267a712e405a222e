"""What the headers of an upload say, checked. No I/O."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from imserver.plugin import InvalidBody

_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_LENGTH = re.compile(r"[0-9]{1,18}")
# `Digest` (RFC 3230): sha-256=BASE64. `Repr-Digest`, `Content-Digest` (RFC 9530): sha-256=:BASE64:
_DIGEST = re.compile(r"(?:^|,)[ \t]*sha-256[ \t]*=[ \t]*:?([A-Za-z0-9+/=]+):?[ \t]*(?=$|,|;)", re.IGNORECASE)


def sha256_of(headers: Mapping[str, str]) -> bytes | None:
    """The SHA-256 that the client expects of the whole file: X-Content-SHA256, Repr-Digest or Digest; None: none given.

    Raises:
        InvalidBody: it is none.
    """
    text = headers.get("x-content-sha256")
    if text is not None:
        if not _HEX.fullmatch(text.strip()):
            raise InvalidBody("X-Content-SHA256 is the file's SHA-256 as 64 hexadecimal digits", field="sha256")
        return bytes.fromhex(text.strip())
    for name in ("repr-digest", "digest"):
        found = _DIGEST.search(headers.get(name, ""))
        if found is None:
            continue  # another algorithm: nothing to compare with
        try:
            digest = base64.b64decode(found[1], validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != 32:
            raise InvalidBody(f"{name.title()}: sha-256 is no SHA-256 in base64", field="sha256")
        return digest
    return None


def length_of(headers: Mapping[str, str], name: str) -> int | None:
    """A header that is a number of bytes; None: it is not there.

    Raises:
        InvalidBody: it is no number.
    """
    text = headers.get(name)
    if text is None:
        return None
    if not _LENGTH.fullmatch(text.strip()):
        raise InvalidBody(f"{name.title()} is a number of bytes")
    return int(text)


def has_body(headers: Mapping[str, str]) -> bool:
    """Whether the request has a body that is not empty, as far as its head tells."""
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip() not in ("", "0")
