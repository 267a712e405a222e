"""Settings as keys and TOML values again: for people to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from imserver.config.origin import Override
from imserver.config.schema import fields_of
from imserver.config.settings import Config
from imserver.config.units import Address, format_duration, format_size
from imserver.log import MASK, is_secret_name


def as_plain(settings: Any) -> dict[str, Any]:
    """The inverse of `build_settings`, for people: keys and TOML values, with units, secrets masked."""
    plain: dict[str, Any] = {}
    for field in fields_of(type(settings)):
        value = getattr(settings, field.name)
        if value is not None:
            plain[field.key] = MASK if is_secret_name(field.key) else _plain(value, field.unit)
    if isinstance(settings, Config):
        plain["plugins"] |= {name: _plain(table, "") for name, table in settings.plugins.settings.items()}
        if settings.roles:
            plain["roles"] = _plain(settings.roles, "")
    return plain


def _plain(value: Any, unit: str) -> Any:
    if attrs.has(type(value)) and not isinstance(value, Address):
        return as_plain(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if isinstance(key, str) and is_secret_name(key) else _plain(item, unit) for key, item in value.items()
        }
    if isinstance(value, (tuple, list, frozenset)):
        return [_plain(item, unit) for item in value]
    if isinstance(value, Override):
        return value.toml()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and unit:
        return format_size(int(value)) if unit == "bytes" else format_duration(value / (1000 if unit == "ms" else 1))
    return value if isinstance(value, (bool, int, float, str)) else str(value)
