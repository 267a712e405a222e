"""What sets values beside the defaults: the file, the environment (`IMSERVER_…`), and `--set`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imserver.config.diagnostics import fail_unknown, show
from imserver.config.origin import Override, Place
from imserver.config.schema import known_keys, sections
from imserver.errors import ConfigError

_ENVIRONMENT_PREFIX = "IMSERVER_"


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the file."""
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


#: One value that is set: the source for messages, the parts of the dotted key, the text.
Given = tuple[str, list[str], Override]


def from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    """What `IMSERVER_SECTION__KEY` sets.

    Raises:
        ConfigError: one of our keys is written with one underscore. Others without the double one are none of ours.
    """
    single = {key.replace(".", "_"): key for key in known_keys()}
    for name in sorted(environ):
        if not name.startswith(_ENVIRONMENT_PREFIX):
            continue
        rest = name.removeprefix(_ENVIRONMENT_PREFIX).lower()
        if "__" in rest:
            yield name, rest.split("__"), Override(environ[name], source=name, has_commas=True)
        elif rest in single:
            meant = _ENVIRONMENT_PREFIX + single[rest].replace(".", "__").upper()
            raise ConfigError(f"{name}: two underscores separate a section from its key; did you mean `{meant}`?")


def from_arguments(overrides: Sequence[str]) -> Iterator[Given]:
    """What `--set KEY=VALUE` sets."""
    for argument in overrides:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"--set: got {show(argument, key)}, expected KEY=VALUE such as server.node=3")
        yield "--set", key.strip().split("."), Override(text, source="--set", has_commas=False)


def put(tree: dict[str, Any], source: str, parts: list[str], override: Override) -> None:
    """Set a value in the tree of tables."""
    dotted = ".".join(parts)
    place = Place(source=source, key="", base=Path())
    has_free_keys = (parts[0] == "plugins" and len(parts) > 2) or (parts[0] == "roles" and len(parts) == 2)
    if dotted not in known_keys() and not has_free_keys:
        known = sections()
        if parts[0] not in known:
            fail_unknown(place, parts[0], known, dotted=dotted)
        if len(parts) == 1:
            place.child(dotted).fail(f"is a section; expected one of its keys, such as {dotted}.{known[dotted][0]}")
        fail_unknown(place.child(parts[0]), ".".join(parts[1:]), known[parts[0]])
    here = tree
    for depth, part in enumerate(parts[:-1], 1):
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            place.child(dotted).fail(f"`{'.'.join(parts[:depth])}` is not a table")
    here[parts[-1]] = override
