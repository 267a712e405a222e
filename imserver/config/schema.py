"""Which keys there are: a settings class as a table of the configuration."""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Hashable, Mapping
from typing import Any

import attrs

from imserver.config.settings import Config, Tls


@attrs.frozen
class Field:
    """One attribute of a settings class, as a key of the configuration."""

    key: str
    name: str
    parameter: str
    hint: Any
    unit: str  # "s", "ms", "bytes" or ""
    default: Any


@functools.cache
def _fields_of(cls: Hashable) -> tuple[Field, ...]:
    assert isinstance(cls, type)
    if not attrs.has(cls):
        raise TypeError(f"{cls!r} is no attrs class")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = []
    for attribute in attrs.fields(cls):
        if not attribute.init or attribute.metadata.get("key", "") is None:
            continue
        match = re.fullmatch(r"(\w+?)_(s|ms|bytes)", attribute.name)
        key, unit = (match[1], match[2]) if match else (attribute.name, "")
        parameter = attribute.alias or attribute.name
        fields.append(Field(key, attribute.name, parameter, hints[attribute.name], unit, attribute.default))
    return tuple(fields)


def fields_of(cls: type) -> tuple[Field, ...]:
    """The keys of a table that is made into this class.

    Raises:
        TypeError: it is no attrs class.
    """
    return _fields_of(cls)


@functools.cache
def sections() -> Mapping[str, tuple[str, ...]]:
    """The sections of the configuration and the keys of each, the plugins' own ones excepted."""
    classes = {"tls": Tls} | {field.key: type(field.default) for field in fields_of(Config) if field.default is not None}
    return {field.key: tuple(inner.key for inner in fields_of(classes[field.key])) for field in fields_of(Config)}


def known_keys() -> tuple[str, ...]:
    """Every dotted key of the configuration, the plugins' own ones excepted."""
    return tuple(f"{section}.{key}" for section, keys in sections().items() for key in keys)
