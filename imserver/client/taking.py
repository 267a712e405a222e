"""Fields of what the server sent, checked where they come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from .errors import RemoteProtocolError

T = TypeVar("T")


def take(body: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """Return `body[key]`, which must have the type `kind`; `default` where it is absent or nil.

    Raises:
        RemoteProtocolError: it is absent without a default, or has another type.
    """
    value = body.get(key)
    if value is None:
        if default is None:
            raise RemoteProtocolError(f"the server's answer misses {key!r}")
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RemoteProtocolError(f"{key!r} in the server's answer is {type(value).__name__}, not {kind.__name__}")
    return value


def take_maybe(body: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    """Return `body[key]`, which must have the type `kind`; None where it is absent or nil.

    Raises:
        RemoteProtocolError: it has another type.
    """
    return None if body.get(key) is None else take(body, key, kind)


def take_strings(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return `body[key]`, which must be a list of strings; () where it is absent or nil.

    Raises:
        RemoteProtocolError: it is something else.
    """
    values = take(body, key, list, [])
    if not all(isinstance(value, str) for value in values):
        raise RemoteProtocolError(f"{key!r} in the server's answer is no list of strings")
    return tuple(values)


def take_maps(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return `body[key]`, which must be a list of maps.

    Raises:
        RemoteProtocolError: it is absent or something else.
    """
    values = take(body, key, list)
    if not all(isinstance(value, dict) for value in values):
        raise RemoteProtocolError(f"{key!r} in the server's answer is no list of maps")
    return cast("list[dict[str, Any]]", values)


def take_page(body: Mapping[str, Any], key: str, convert: Callable[[Mapping[str, Any]], T]) -> tuple[list[T], str | None]:
    """Return the entries of a page of a list, and the cursor of the next page (None at the end).

    Raises:
        RemoteProtocolError: a field is missing or has the wrong type.
    """
    return [convert(entry) for entry in take_maps(body, key)], take(body, "next_cursor", str, "") or None
