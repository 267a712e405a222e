"""From the tables of the configuration to the classes of settings, by the types of their attributes."""

from __future__ import annotations

import ipaddress
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import attrs
import msgspec
from msgspec import Meta

from imserver.config.diagnostics import describe, fail_unknown, near, near_address, near_network, show
from imserver.config.origin import Override, Place, base_of, file_name
from imserver.config.schema import fields_of
from imserver.config.units import SIZE, Address, parse_address, parse_duration, parse_size
from imserver.errors import ConfigError

T = TypeVar("T")


def build_settings(cls: type[T], raw: Mapping[str, object], *, section: str, file: Path | None) -> T:
    """Make an instance of an attrs class from a table of the configuration.

    Args:
        cls: an attrs class. Its attributes are the keys, without a unit at the end: `window_s` (seconds) and
            `window_ms` (milliseconds) take durations for the key `window`, `quota_bytes` takes sizes for `quota`. The
            types may be `bool`, `int`, `float`, `str`, `Path`, `Literal[…]`, `tuple[X, …]`, `Mapping[str, X]`, an attrs
            class, `Address`, a network of `ipaddress`, `X | None`, and all of them inside
            `Annotated[…, Meta(ge=…, le=…, pattern=…, description=…)]` for bounds. An attribute without a default is
            required. What the class's own validators raise is reported too.
        raw: the table, from `Config.plugins.settings`.
        section: the table's dotted name, for messages: `plugins.message`.
        file: `Config.file`; paths are relative to its folder.

    Raises:
        ConfigError: an unknown key, a missing one, or a bad value.
        TypeError: `cls` is no attrs class, or has an attribute of another type: a fault of the plugin.
    """
    return build(cls, raw, Place(source=file_name(file), key=section, base=base_of(file)))


class _Wrong(Exception):
    """A value is not what it should be; becomes a ConfigError where its key is known."""

    def __init__(self, expected: str, *, suggestion: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.suggestion = suggestion


def build(cls: type[T], raw: object, place: Place) -> T:
    """See `build_settings`; the table stands at `place`."""
    if not isinstance(raw, Mapping):
        place.of(raw).fail(f"got {show(raw, place.key)}, expected a table: [{place.key}]")
    fields = {field.key: field for field in fields_of(cls)}
    for key, value in raw.items():
        if key not in fields:
            fail_unknown(place.of(value), key, fields)
    values: dict[str, Any] = {}
    for key, field in fields.items():
        here = place.child(key)
        if key in raw:
            values[field.parameter] = convert(raw[key], field.hint, field.unit, here)
        elif field.default is attrs.NOTHING:
            here.fail(f"missing; expected {describe(field.hint, field.unit)}")
        elif isinstance(field.default, Path):
            values[field.parameter] = place.base / field.default
        elif attrs.has(type(field.default)) and not isinstance(field.default, Address):
            values[field.parameter] = build(type(field.default), {}, here)  # for the paths in it
    try:
        return cls(**values)
    except (TypeError, ValueError) as exc:  # of the class's own validators
        sources = ", ".join(sorted({place.of(value).source for value in raw.values()})) or place.source
        raise ConfigError(f"{sources}: {place.key}: {exc}") from exc


def convert(value: object, hint: Any, unit: str, place: Place) -> Any:
    """A value as the type that `hint` says; `unit` is that of its `Field`.

    Raises:
        ConfigError: it cannot be that type.
    """
    place = place.of(value)
    try:
        return _parse(value, hint, unit, place)
    except _Wrong as wrong:
        place.fail(f"got {show(value, place.key)}, expected {wrong.expected}", wrong.suggestion)


def _parse(value: object, hint: Any, unit: str, place: Place) -> Any:
    """The value as the type that `hint` says.

    Raises:
        _Wrong: it cannot be that type.
        ConfigError: something inside of it is wrong, and was named already.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _parse_bounded(value, hint, arguments, unit, place)
    if origin in (Union, types.UnionType):
        return _parse_union(value, hint, arguments, unit, place)
    if origin is Literal:
        text = value.text() if isinstance(value, Override) else value
        if text in arguments and isinstance(text, str):
            return text
        raise _Wrong(describe(hint, unit), suggestion=near(text, arguments))
    if origin in (tuple, list, Sequence, frozenset):
        items = value.items() if isinstance(value, Override) else value
        if not isinstance(items, list):
            raise _Wrong(describe(hint, unit))
        converted = [convert(item, arguments[0], unit, place.item(index)) for index, item in enumerate(items)]
        return list(converted) if origin is list else frozenset(converted) if origin is frozenset else tuple(converted)
    if origin in (Mapping, dict):
        table = value.toml() if isinstance(value, Override) else value
        if not isinstance(table, Mapping):
            raise _Wrong(describe(hint, unit))
        return {key: convert(item, arguments[1], unit, place.child(key)) for key, item in table.items()}
    if isinstance(hint, type) and attrs.has(hint) and hint is not Address:
        return build(hint, value.toml() if isinstance(value, Override) else value, place)
    return _parse_scalar(value, hint, unit, place)


def _parse_scalar(value: object, hint: Any, unit: str, place: Place) -> Any:
    text = value.text() if isinstance(value, Override) else value
    typed = value.toml() if isinstance(value, Override) else value
    if hint in (Any, object):
        return typed
    if hint in (int, float) and unit:
        return _parse_quantity(typed, hint, unit)
    if hint is bool and isinstance(typed, bool):
        return typed
    if hint is int and isinstance(typed, int) and not isinstance(typed, bool):
        return typed
    if hint is float and isinstance(typed, (int, float)) and not isinstance(typed, bool) and math.isfinite(typed):
        return float(typed)
    if hint is str and isinstance(text, str):
        return str(text)
    if hint is Path and isinstance(text, str) and text and "\0" not in text:
        return place.base / text
    if hint is Address and isinstance(text, str):
        try:
            return parse_address(text)
        except ValueError as exc:
            raise _Wrong(f"{describe(hint, unit)}: {exc}", suggestion=near_address(text)) from exc
    if hint in (ipaddress.IPv4Network, ipaddress.IPv6Network) and isinstance(text, str):
        try:
            return hint(text)
        except ValueError as exc:
            raise _Wrong(describe(hint, unit), suggestion=near_network(hint, text)) from exc
    if hint in (bool, int, float, str, Path, Address, ipaddress.IPv4Network, ipaddress.IPv6Network):
        raise _Wrong(describe(hint, unit))
    raise TypeError(f"{place.key}: a setting cannot have the type {hint!r}")


def _parse_quantity(value: Any, hint: type, unit: str) -> Any:
    try:
        if unit == "bytes":
            return hint(parse_size(value))
        return hint(parse_duration(value)) if unit == "s" else hint(round(parse_duration(value) * 1000, 3))
    except ValueError as exc:
        suggestion = None
        if unit == "bytes" and isinstance(value, str) and (match := SIZE.fullmatch(value)):
            meant = {"b": "B", "k": "KiB", "m": "MiB", "g": "GiB"}.get(match[2][:1].lower())
            suggestion = meant and match[1] + meant
        raise _Wrong(describe(hint, unit), suggestion=suggestion) from exc


def _parse_bounded(value: object, hint: Any, arguments: tuple[Any, ...], unit: str, place: Place) -> Any:
    base, metas = arguments[0], tuple(extra for extra in arguments[1:] if isinstance(extra, Meta))
    try:
        result = _parse(value, base, unit, place)
    except _Wrong as wrong:
        raise _Wrong(describe(hint, unit), suggestion=wrong.suggestion) from wrong
    # msgspec knows what a Meta means; only the words of its errors are not for an operator.
    kind: Any = tuple[Any, ...] if isinstance(result, tuple) else type(result)
    try:
        for meta in metas:
            msgspec.convert(result, Annotated[kind, meta])
    except msgspec.ValidationError as exc:
        raise _Wrong(describe(hint, unit)) from exc
    return result


def _parse_union(value: object, hint: Any, arguments: tuple[Any, ...], unit: str, place: Place) -> Any:
    arms = [arm for arm in arguments if arm is not types.NoneType]
    if len(arms) == 1:
        return _parse(value, arms[0], unit, place)
    suggestion = None
    for arm in arms:
        try:
            return _parse(value, arm, unit, place)
        except _Wrong as wrong:
            suggestion = suggestion or wrong.suggestion
    raise _Wrong(describe(hint, unit), suggestion=suggestion)
