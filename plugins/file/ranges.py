"""Which bytes of a file a request asks for: ranges and conditions of RFC 9110, sections 13 and 14. No I/O."""

from __future__ import annotations

import re

from attrs import frozen

# Possessive: a line of spaces is gone through once, not once for each of them.
_RANGE = re.compile(r"bytes[ \t]*+=[ \t]*+([0-9]*+)[ \t]*+-[ \t]*+([0-9]*+)[ \t]*+", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.IGNORECASE)
_TAGS = re.compile(r'[ \t]*(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|\Z)')
_FAR = 10**18  # beyond every file: longer numbers are this


@frozen
class Slice:
    """`length` bytes from `start`."""

    start: int
    length: int


class Unsatisfiable(Exception):
    """The range lies outside of the file (416)."""


def wanted(range_header: str | None, size: int) -> Slice | None:
    """The one range that a request asks for; None: the whole file.

    A header that is malformed, has another unit or more than one range is ignored, as RFC 9110, 14.2 allows.

    Raises:
        Unsatisfiable: no byte of it is in the file.
    """
    found = _RANGE.fullmatch(range_header.strip()) if range_header else None
    if found is None or not (found[1] or found[2]):
        return None
    first, last = (_number(digits) for digits in found.groups())
    if first is None:
        assert last is not None
        length = min(last, size)
        if length == 0:
            raise Unsatisfiable
        return Slice(size - length, length)
    if last is not None and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    end = size if last is None else min(last + 1, size)
    return Slice(first, end - first)


def is_range_valid(if_range: str | None, tag: str) -> bool:
    """Whether `If-Range` lets the range stand: it must be this very tag. A date never is: no `Last-Modified` is sent."""
    return if_range is None or if_range.strip() == f'"{tag}"'


def is_unchanged(if_none_match: str | None, tag: str) -> bool:
    """Whether the client has the file already (304)."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    position = 0
    while found := _TAGS.match(if_none_match, position):
        if found[1] == tag:
            return True
        position = found.end()
    return False


@frozen
class ContentRange:
    """`Content-Range: bytes start-last/total` of a part that is sent."""

    start: int
    length: int
    total: int


def content_range(header: str) -> ContentRange | None:
    """The header of an upload's part; None: it is none."""
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if found is None:
        return None
    start, last, total = (int(digits) for digits in found.groups())
    if last < start or last >= total:
        return None
    return ContentRange(start, last - start + 1, total)


def _number(digits: str) -> int | None:
    if not digits:
        return None
    return int(digits) if len(digits) <= 18 else _FAR
