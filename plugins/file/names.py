"""Names and media types as clients send them, and as they are safe to keep and to send on.

A name is for people alone: it is never a path here. It is cleaned once, when it comes in.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import quote, unquote_to_bytes

from imserver.plugin import InvalidBody

#: What a file without a usable name is called.
NO_NAME = "file"
#: Of a name in UTF-8: what most file systems take, so that a browser can save it.
MAX_NAME_BYTES = 255
#: The type of what has none.
NO_TYPE = "application/octet-stream"
#: What clients put there without meaning it (curl's `--data-binary`).
_UNMEANT_TYPES = frozenset({"application/x-www-form-urlencoded"})

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_WORD = r"[A-Za-z0-9!#$&^_.+-]+"  # RFC 6838, 4.2: what a registered type is made of
_TYPE = re.compile(rf"({_WORD}/{_WORD})[ \t]*(?:;.*)?", re.DOTALL)
_MAX_TYPE_LENGTH = 127  # RFC 6838: the longest name of a type that can be registered
_PATTERN = re.compile(rf"\*/\*|{_WORD}/(?:\*|{_WORD})")
_EXTENDED = re.compile(r"([A-Za-z0-9-]+)'[A-Za-z0-9-]*'(.*)", re.DOTALL)
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;"]*)[ \t]*', re.DOTALL)

# Characters that reorder or hide what stands around them: a name must not look like another one ("exe.gpj").
_DECEPTIVE = frozenset(map(chr, [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF]))
# Controls, lone surrogates, code points without a meaning, line and paragraph separators.
_UNFIT = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp"})


def clean_name(name: str) -> str:
    """A name that is safe to show, to put into a header, and to save under.

    The last part of a path; without controls and characters that change the direction of writing; without dots and
    spaces at its ends; at most 255 bytes in UTF-8, its ending kept; `file` if nothing is left.
    """
    name = unicodedata.normalize("NFC", name[: 8 * MAX_NAME_BYTES])
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(char for char in name if char not in _DECEPTIVE and unicodedata.category(char) not in _UNFIT)
    name = name.strip(". ")
    if len(name.encode()) > MAX_NAME_BYTES:
        stem, dot, ending = name.rpartition(".")
        if not dot or len(ending.encode()) > 16:
            stem, dot, ending = name, "", ""
        room = MAX_NAME_BYTES - len((dot + ending).encode())
        name = stem.encode()[:room].decode(errors="ignore").rstrip(". ") + dot + ending
    return name or NO_NAME


def name_from_headers(x_file_name: str | None, disposition: str | None) -> str | None:
    """The name in `X-File-Name` (percent-encoded UTF-8, or RFC 8187) or in `Content-Disposition`; None: in neither.

    Args:
        x_file_name, disposition: the headers, decoded as Latin-1, as HTTP libraries give them.

    Raises:
        InvalidBody: it is not UTF-8, or its charset is none that RFC 8187 has.
    """
    if x_file_name:
        extended = _EXTENDED.fullmatch(x_file_name)
        return _decode_extended(x_file_name) if extended else _decode_percent(x_file_name, "X-File-Name")
    if disposition:
        parameters = {key.lower(): value for key, value in _PARAMETER.findall(disposition)}
        if "filename*" in parameters:
            return _decode_extended(_unquote(parameters["filename*"]))
        if "filename" in parameters:
            return _utf8(_unquote(parameters["filename"]).encode("latin-1", "replace"), "Content-Disposition")
    return None


def name_from_form(filename: bytes) -> str:
    """The name of a part of a form: UTF-8, with quotes and line ends escaped as browsers do.

    Raises:
        InvalidBody: it is not UTF-8.
    """
    for escaped, plain in ((b"%22", b'"'), (b"%0D", b""), (b"%0A", b"")):
        filename = filename.replace(escaped, plain)
    return _utf8(filename, "the form")


def media_type(header: str | None) -> str | None:
    """The type in a `Content-Type`, in lower case and without parameters; None: there is none.

    Raises:
        InvalidBody: it is no media type.
    """
    if header is None or not header.strip():
        return None
    found = _TYPE.fullmatch(header.strip())
    if found is None or len(found[1]) > _MAX_TYPE_LENGTH:
        raise InvalidBody("Content-Type is no media type such as image/png", field="type")
    named = found[1].lower()
    return None if named in _UNMEANT_TYPES else named


def is_pattern(pattern: str) -> bool:
    """Whether this is `*/*`, `image/*` or `image/png`."""
    return _PATTERN.fullmatch(pattern) is not None


def is_allowed(media: str, patterns: Sequence[str]) -> bool:
    """Whether a media type matches one of these patterns."""
    family = media.partition("/")[0]
    return any(pattern.lower() in ("*/*", f"{family}/*", media) for pattern in patterns)


def content_disposition(name: str, *, is_inline: bool) -> str:
    """The header's value for a name that `clean_name` made (RFC 6266: plain for old clients, UTF-8 for all others)."""
    kind = "inline" if is_inline else "attachment"
    plain = "".join(char if " " <= char <= "~" and char not in '"\\%' else "_" for char in name)
    value = f'{kind}; filename="{plain}"'
    if plain != name:
        value += f"; filename*=UTF-8''{quote(name, safe='!#$&+.^_`|~-')}"
    return value


def safe_image(head: bytes) -> str | None:
    """The type of a picture that a browser may show, by its first 16 bytes; never SVG, which can hold scripts."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


#: How many bytes `safe_image` looks at.
HEAD_BYTES = 16


def _unquote(value: str) -> str:
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    return value.strip()


def _decode_extended(value: str) -> str:
    found = _EXTENDED.fullmatch(value)
    if found is None or found[1].lower() not in ("utf-8", "iso-8859-1"):
        raise InvalidBody("a file name in RFC 8187's form begins with UTF-8''", field="name")
    if found[1].lower() == "iso-8859-1":
        return unquote_to_bytes(found[2]).decode("latin-1")
    return _decode_percent(found[2], "filename*")


def _decode_percent(value: str, where: str) -> str:
    return _utf8(unquote_to_bytes(value.encode("latin-1", "replace")), where)


def _utf8(name: bytes, where: str) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidBody(f"the file name in {where} is not UTF-8; percent-encode it", field="name") from None
