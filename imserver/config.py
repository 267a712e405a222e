"""The configuration: a TOML file, the environment and `--set`, validated into frozen attrs classes.

The classes are in `imserver.settings`. The settings of plugins are made by the same rules, see `build_settings`.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import json
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union

import attrs
import msgspec
from msgspec import Meta

from imserver.errors import ConfigError
from imserver.log import MASK, is_secret_name, mask_secrets
from imserver.settings import Auth, Config, Http, Limits, Network, Plugins, Proxy, Roles, Server, Tcp, Tls
from imserver.units import (
    SIZE,
    Address,
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_size,
)

__all__ = [
    "DEFAULT_FILES",
    "Address",
    "Auth",
    "Config",
    "Http",
    "Limits",
    "Network",
    "Plugins",
    "Proxy",
    "Server",
    "Tcp",
    "Tls",
    "as_plain",
    "build_settings",
    "format_duration",
    "format_size",
    "known_keys",
    "load_config",
    "parse_address",
    "parse_duration",
    "parse_size",
]

#: Where the configuration is looked for, in this order, if no file is named.
DEFAULT_FILES = (Path("imserver.toml"), Path("conf/imserver.toml"))

_ENVIRONMENT_PREFIX = "IMSERVER_"

T = TypeVar("T")


# ---------------------------------------------------------------- loading


def load_config(path: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Config:
    """Read and validate the configuration. Nothing but files is touched: no socket, no folder made.

    Args:
        path: the file; None: the first of `DEFAULT_FILES` that exists, else the defaults alone.
        overrides: `KEY=VALUE` each, with a dotted key and a TOML value or a bare string; a bare string for a list is a
            list of one.
        environ: `IMSERVER_SECTION__KEY` overrides the file and is overridden by `overrides`; a list is a TOML array or
            comma-separated. Variables without the double underscore are none of ours: Kubernetes sets `IMSERVER_PORT`
            and the like.

    Returns:
        The settings. Every path in them is absolute: relative ones are taken from the file's folder, or from the
        current folder when there is no file.

    Raises:
        ConfigError: names the file (or `--set`, or the variable), the key, the value and what was expected.
    """
    if path is None:
        path = next((candidate for candidate in DEFAULT_FILES if candidate.is_file()), None)
    tree: dict[str, Any] = {} if path is None else _read_toml(path)
    for source, parts, override in (*_from_environment(environ), *_from_arguments(overrides)):
        _put(tree, source, parts, override)
    place = _Place(source=_file_name(path), key="", base=_base(path))

    plugins = tree.get("plugins", {})
    settings: dict[str, Mapping[str, object]] = {}
    if isinstance(plugins, Mapping):
        settings = _take_plugin_tables(plugins, place)
        tree["plugins"] = {key: value for key, value in plugins.items() if key not in settings}
    roles: Roles = _convert(tree.pop("roles", {}), Roles, "", place.child("roles"))
    config = _build(Config, tree, place)
    config = attrs.evolve(config, roles=MappingProxyType(dict(roles)))
    if "secret_file" not in tree.get("auth", {}):
        config = attrs.evolve(config, auth=attrs.evolve(config.auth, secret_file=config.server.data_dir / "secret"))
    frozen = MappingProxyType({name: MappingProxyType(table) for name, table in settings.items()})
    config = attrs.evolve(config, plugins=attrs.evolve(config.plugins, settings=frozen), file=path)
    _check(config, tree, place)
    return config


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
    return _build(cls, raw, _Place(source=_file_name(file), key=section, base=_base(file)))


def as_plain(settings: Any) -> dict[str, Any]:
    """The inverse of `build_settings`, for people: keys and TOML values, with units, secrets masked."""
    plain: dict[str, Any] = {}
    for field in _fields(type(settings)):
        value = getattr(settings, field.name)
        if value is not None:
            plain[field.key] = MASK if is_secret_name(field.key) else _plain(value, field.unit)
    if isinstance(settings, Config):
        plain["plugins"] |= {name: _plain(table, "") for name, table in settings.plugins.settings.items()}
        if settings.roles:
            plain["roles"] = _plain(settings.roles, "")
    return plain


def known_keys() -> tuple[str, ...]:
    """Every dotted key of the configuration, the plugins' own ones excepted."""
    return tuple(f"{section}.{key}" for section, keys in _sections().items() for key in keys)


# ---------------------------------------------------------------- where values come from


class _Wrong(Exception):
    """A value is not what it should be; becomes a ConfigError where its key is known."""

    def __init__(self, expected: str, *, suggestion: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.suggestion = suggestion


class _Override(str):
    """The text of a value from the environment or from `--set`, not yet typed; it remembers where it comes from."""

    source: str
    has_commas: bool  # whether a list may be written a,b,c

    def __new__(cls, text: str, *, source: str, has_commas: bool) -> _Override:
        self = super().__new__(cls, text)
        self.source = source
        self.has_commas = has_commas
        return self

    def toml(self) -> Any:
        """The TOML value that the text is, else the text itself."""
        try:
            table = tomllib.loads(f"value = {self}")
        except tomllib.TOMLDecodeError:
            return str(self)
        return table["value"] if len(table) == 1 else str(self)

    def text(self) -> str:
        """The text, without the quotes if it is a TOML string."""
        value = self.toml()
        return value if isinstance(value, str) else str(self)

    def items(self) -> Any:
        """The text as a list."""
        value = self.toml()
        if isinstance(value, list):
            return value
        items = [part.strip() for part in self.split(",")] if self.has_commas else [self.text()]
        return [_Override(item, source=self.source, has_commas=False) for item in items if item]


@attrs.frozen
class _Place:
    """Where a value stands, for messages and for relative paths."""

    source: str
    key: str
    base: Path

    def of(self, value: object) -> _Place:
        return attrs.evolve(self, source=value.source) if isinstance(value, _Override) else self

    def child(self, key: str) -> _Place:
        return attrs.evolve(self, key=f"{self.key}.{key}" if self.key else key)

    def item(self, index: int) -> _Place:
        return attrs.evolve(self, key=f"{self.key}[{index}]")

    def fail(self, problem: str, suggestion: str | None = None) -> NoReturn:
        hint = f"; did you mean `{suggestion}`?" if suggestion else ""
        raise ConfigError(f"{self.source}: {self.key}: {problem}{hint}")


def _file_name(file: Path | None) -> str:
    return "configuration" if file is None else str(file)


def _base(file: Path | None) -> Path:
    return (Path() if file is None else file.parent).absolute()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; expected the configuration, a TOML file") from None
    except OSError as exc:
        raise ConfigError(f"{path}: the configuration cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8 at byte {exc.start}; expected a TOML file") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc


_Given = tuple[str, list[str], _Override]


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    single = {key.replace(".", "_"): key for key in known_keys()}
    for name in sorted(environ):
        if not name.startswith(_ENVIRONMENT_PREFIX):
            continue
        rest = name.removeprefix(_ENVIRONMENT_PREFIX).lower()
        if "__" in rest:
            yield name, rest.split("__"), _Override(environ[name], source=name, has_commas=True)
        elif rest in single:
            meant = _ENVIRONMENT_PREFIX + single[rest].replace(".", "__").upper()
            raise ConfigError(f"{name}: two underscores separate a section from its key; did you mean `{meant}`?")


def _from_arguments(overrides: Sequence[str]) -> Iterator[_Given]:
    for argument in overrides:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"--set: got {_show(argument, key)}, expected KEY=VALUE such as server.node=3")
        yield "--set", key.strip().split("."), _Override(text, source="--set", has_commas=False)


def _put(tree: dict[str, Any], source: str, parts: list[str], override: _Override) -> None:
    dotted = ".".join(parts)
    place = _Place(source=source, key="", base=Path())
    has_free_keys = (parts[0] == "plugins" and len(parts) > 2) or (parts[0] == "roles" and len(parts) == 2)
    if dotted not in known_keys() and not has_free_keys:
        sections = _sections()
        if parts[0] not in sections:
            _fail_unknown(place, parts[0], sections, dotted=dotted)
        if len(parts) == 1:
            place.child(dotted).fail(f"is a section; expected one of its keys, such as {dotted}.{sections[dotted][0]}")
        _fail_unknown(place.child(parts[0]), ".".join(parts[1:]), sections[parts[0]])
    here = tree
    for depth, part in enumerate(parts[:-1], 1):
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            place.child(dotted).fail(f"`{'.'.join(parts[:depth])}` is not a table")
    here[parts[-1]] = override


def _take_plugin_tables(plugins: Mapping[str, Any], place: _Place) -> dict[str, Mapping[str, object]]:
    """The tables `[plugins.NAME]`; a single value there is a mistake in a key of `[plugins]`."""
    own = _sections()["plugins"]
    tables = {}
    for name, table in plugins.items():
        if name in own:
            continue
        if not isinstance(table, Mapping):
            _fail_unknown(place.of(table).child("plugins"), name, own)
        tables[name] = table
    return tables


# ---------------------------------------------------------------- from tables to classes


@attrs.frozen
class _Field:
    """One attribute of a settings class, as a key of the configuration."""

    key: str
    name: str
    parameter: str
    hint: Any
    unit: str  # "s", "ms", "bytes" or ""
    default: Any


@functools.cache
def _fields_of(cls: Hashable) -> tuple[_Field, ...]:
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
        fields.append(_Field(key, attribute.name, parameter, hints[attribute.name], unit, attribute.default))
    return tuple(fields)


def _fields(cls: type) -> tuple[_Field, ...]:
    return _fields_of(cls)


@functools.cache
def _sections() -> Mapping[str, tuple[str, ...]]:
    classes = {"tls": Tls} | {field.key: type(field.default) for field in _fields(Config) if field.default is not None}
    return {field.key: tuple(inner.key for inner in _fields(classes[field.key])) for field in _fields(Config)}


def _build(cls: type[T], raw: object, place: _Place) -> T:
    if not isinstance(raw, Mapping):
        place.of(raw).fail(f"got {_show(raw, place.key)}, expected a table: [{place.key}]")
    fields = {field.key: field for field in _fields(cls)}
    for key, value in raw.items():
        if key not in fields:
            _fail_unknown(place.of(value), key, fields)
    values: dict[str, Any] = {}
    for key, field in fields.items():
        here = place.child(key)
        if key in raw:
            values[field.parameter] = _convert(raw[key], field.hint, field.unit, here)
        elif field.default is attrs.NOTHING:
            here.fail(f"missing; expected {_describe(field.hint, field.unit)}")
        elif isinstance(field.default, Path):
            values[field.parameter] = place.base / field.default
        elif attrs.has(type(field.default)) and not isinstance(field.default, Address):
            values[field.parameter] = _build(type(field.default), {}, here)  # for the paths in it
    try:
        return cls(**values)
    except (TypeError, ValueError) as exc:  # of the class's own validators
        sources = ", ".join(sorted({place.of(value).source for value in raw.values()})) or place.source
        raise ConfigError(f"{sources}: {place.key}: {exc}") from exc


def _convert(value: object, hint: Any, unit: str, place: _Place) -> Any:
    place = place.of(value)
    try:
        return _parse(value, hint, unit, place)
    except _Wrong as wrong:
        place.fail(f"got {_show(value, place.key)}, expected {wrong.expected}", wrong.suggestion)


def _parse(value: object, hint: Any, unit: str, place: _Place) -> Any:
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
        text = value.text() if isinstance(value, _Override) else value
        if text in arguments and isinstance(text, str):
            return text
        raise _Wrong(_describe(hint, unit), suggestion=_near(text, arguments))
    if origin in (tuple, list, Sequence, frozenset):
        items = value.items() if isinstance(value, _Override) else value
        if not isinstance(items, list):
            raise _Wrong(_describe(hint, unit))
        converted = [_convert(item, arguments[0], unit, place.item(index)) for index, item in enumerate(items)]
        return list(converted) if origin is list else frozenset(converted) if origin is frozenset else tuple(converted)
    if origin in (Mapping, dict):
        table = value.toml() if isinstance(value, _Override) else value
        if not isinstance(table, Mapping):
            raise _Wrong(_describe(hint, unit))
        return {key: _convert(item, arguments[1], unit, place.child(key)) for key, item in table.items()}
    if isinstance(hint, type) and attrs.has(hint) and hint is not Address:
        return _build(hint, value.toml() if isinstance(value, _Override) else value, place)
    return _parse_scalar(value, hint, unit, place)


def _parse_scalar(value: object, hint: Any, unit: str, place: _Place) -> Any:
    text = value.text() if isinstance(value, _Override) else value
    typed = value.toml() if isinstance(value, _Override) else value
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
            raise _Wrong(f"{_describe(hint, unit)}: {exc}", suggestion=_near_address(text)) from exc
    if hint in (ipaddress.IPv4Network, ipaddress.IPv6Network) and isinstance(text, str):
        try:
            return hint(text)
        except ValueError as exc:
            raise _Wrong(_describe(hint, unit), suggestion=_near_network(hint, text)) from exc
    if hint in (bool, int, float, str, Path, Address, ipaddress.IPv4Network, ipaddress.IPv6Network):
        raise _Wrong(_describe(hint, unit))
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
        raise _Wrong(_describe(hint, unit), suggestion=suggestion) from exc


def _parse_bounded(value: object, hint: Any, arguments: tuple[Any, ...], unit: str, place: _Place) -> Any:
    base, metas = arguments[0], tuple(extra for extra in arguments[1:] if isinstance(extra, Meta))
    try:
        result = _parse(value, base, unit, place)
    except _Wrong as wrong:
        raise _Wrong(_describe(hint, unit), suggestion=wrong.suggestion) from wrong
    # msgspec knows what a Meta means; only the words of its errors are not for an operator.
    kind: Any = tuple[Any, ...] if isinstance(result, tuple) else type(result)
    try:
        for meta in metas:
            msgspec.convert(result, Annotated[kind, meta])
    except msgspec.ValidationError as exc:
        raise _Wrong(_describe(hint, unit)) from exc
    return result


def _parse_union(value: object, hint: Any, arguments: tuple[Any, ...], unit: str, place: _Place) -> Any:
    arms = [arm for arm in arguments if arm is not types.NoneType]
    if len(arms) == 1:
        return _parse(value, arms[0], unit, place)
    suggestion = None
    for arm in arms:
        try:
            return _parse(value, arm, unit, place)
        except _Wrong as wrong:
            suggestion = suggestion or wrong.suggestion
    raise _Wrong(_describe(hint, unit), suggestion=suggestion)


# ---------------------------------------------------------------- checks that need more than one value


def _check(config: Config, tree: Mapping[str, Any], place: _Place) -> None:
    def at(section: str, key: str) -> _Place:
        return place.of(tree.get(section, {}).get(key)).child(f"{section}.{key}")

    listening: list[Address] = []
    for section, addresses in (("tcp", config.tcp.listen), ("http", config.http.listen)):
        for address in addresses:
            if address.port and address in listening:
                at(section, "listen").fail(f'got "{address}" twice, expected different addresses for the listeners')
            listening.append(address)
    if not listening:
        at("tcp", "listen").fail("got [] here and in http.listen, expected one address to listen on at least")
    lists: tuple[tuple[str, str, Sequence[object]], ...] = (
        ("http", "allowed_origins", config.http.allowed_origins),
        ("limits", "exempt_addresses", config.limits.exempt_addresses),
        ("proxy", "trusted", config.proxy.trusted),
        ("plugins", "enabled", config.plugins.enabled),
        ("plugins", "paths", config.plugins.paths),
    )
    for section, key, values in lists:
        twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
        if twice is not None:
            at(section, key).fail(f'got "{twice}" twice, expected a list without duplicates')
    if config.tls is not None:
        for key, file in (
            ("certificate", config.tls.certificate),
            ("key", config.tls.key),
            ("client_ca", config.tls.client_ca),
        ):
            if file is not None and not (file.is_file() and os.access(file, os.R_OK)):
                at("tls", key).fail(f'got "{file}", expected a PEM file that exists and can be read')
        if config.tls.client_ca is None and config.tls.client_certificates != "none":
            at("tls", "client_ca").fail("missing; expected the PEM file of the authority that client certificates come from")
    if config.proxy.protocol and not config.proxy.trusted:
        at("proxy", "trusted").fail("got [], expected the networks of the proxies that send the PROXY header")
    for folder in config.plugins.paths:
        if not folder.is_dir():
            at("plugins", "paths").fail(f'got "{folder}", expected a folder that exists')
    if config.server.data_dir.exists() and not config.server.data_dir.is_dir():
        at("server", "data_dir").fail(f'got "{config.server.data_dir}", expected a folder, which is made if it is missing')


# ---------------------------------------------------------------- words


def _describe(hint: Any, unit: str) -> str:
    """What a value of this type is, for "expected …"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        metas = [extra for extra in arguments[1:] if isinstance(extra, Meta)]
        words = next((meta.description for meta in metas if meta.description), None)
        return words or " ".join([_describe(arguments[0], unit), *(_describe_bounds(meta, unit) for meta in metas)])
    if origin in (Union, types.UnionType):
        arms = dict.fromkeys(_describe(arm, unit) for arm in arguments if arm is not types.NoneType)
        return " or ".join(arms)
    if origin is Literal:
        choices = [json.dumps(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if origin in (tuple, list, Sequence, frozenset):
        return f"a list; each is {_describe(arguments[0], unit)}"
    if hint in (int, float) and unit == "bytes":
        return 'a size such as 4096, "64KiB" or "1MiB"'
    if hint in (int, float) and unit:
        return 'a duration such as "250ms", "30s", "2m", "24h" or "30d", or a number of seconds,'
    network = 'an address or network such as "10.0.0.0/8" or "::1"'
    names: dict[Any, str] = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a string",
        Path: "a path (a string)",
        Address: 'an address such as "127.0.0.1:9000" or "[::1]:9000", port 0 to 65535',
        ipaddress.IPv4Network: network,
        ipaddress.IPv6Network: network,
    }
    return names.get(hint, "a table")


def _describe_bounds(meta: Meta, unit: str) -> str:
    def show(bound: float) -> str:
        if unit == "bytes":
            return format_size(int(bound))
        return format_duration(bound / (1000 if unit == "ms" else 1)) if unit else str(bound)

    if meta.ge is not None and meta.le is not None:
        return f"from {show(meta.ge)} to {show(meta.le)}"
    bounds = (
        ("of at least", meta.ge), ("above", meta.gt), ("of at most", meta.le), ("below", meta.lt),
    )  # fmt: skip
    words = [f"{word} {show(bound)}" for word, bound in bounds if bound is not None]
    lengths = (("of at least", meta.min_length), ("of at most", meta.max_length))
    words += [f"{word} {length} characters or items" for word, length in lengths if length is not None]
    if meta.multiple_of is not None:
        words.append(f"in multiples of {show(meta.multiple_of)}")
    if meta.pattern is not None:
        words.append(f"that matches {meta.pattern}")
    return ", ".join(words)


def _show(value: object, key: str) -> str:
    """The bad value, short and in TOML's spelling; a secret stays one."""
    if is_secret_name(key.rpartition(".")[2].partition("[")[0]):
        return MASK
    if isinstance(value, (str, bool, int, list, Mapping)):
        text = json.dumps(mask_secrets(value), ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= 100 else text[:97] + "…"


def _near(word: object, candidates: Iterable[object]) -> str | None:
    words = [candidate for candidate in candidates if isinstance(candidate, str)]
    return next(iter(difflib.get_close_matches(word.lower(), words, n=1)), None) if isinstance(word, str) else None


def _near_address(text: str) -> str | None:
    if re.fullmatch(r"\*?:[0-9]+", text):
        return "0.0.0.0" + text.lstrip("*")
    if re.fullmatch(r"[0-9]{1,5}", text):
        return f"127.0.0.1:{text}"
    host, _, port = text.rpartition(":")
    try:
        return f"[{ipaddress.IPv6Address(host)}]:{port}" if port else None
    except ValueError:
        return None


def _near_network(hint: type, text: str) -> str | None:
    try:
        return str(hint(text, strict=False))
    except ValueError:
        return None


def _fail_unknown(place: _Place, key: str, siblings: Iterable[str], *, dotted: str | None = None) -> NoReturn:
    siblings = tuple(siblings)
    suggestion = _near(key, siblings)
    if suggestion is None:  # a right key in the wrong section
        suggestion = next((known for known in known_keys() if known.rpartition(".")[2] == key), None)
    kind = "section" if not place.key else "key"
    listed = f"; there are {', '.join(siblings)}" if suggestion is None else ""
    place.child(dotted or key).fail(f"unknown {kind}{listed}", suggestion)


def _plain(value: Any, unit: str) -> Any:
    if attrs.has(type(value)) and not isinstance(value, Address):
        return as_plain(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if isinstance(key, str) and is_secret_name(key) else _plain(item, unit) for key, item in value.items()
        }
    if isinstance(value, (tuple, list, frozenset)):
        return [_plain(item, unit) for item in value]
    if isinstance(value, _Override):
        return value.toml()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and unit:
        return format_size(int(value)) if unit == "bytes" else format_duration(value / (1000 if unit == "ms" else 1))
    return value if isinstance(value, (bool, int, float, str)) else str(value)
