"""The configuration as a whole: what the sources set, over the defaults, converted and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from imserver.config.checks import check
from imserver.config.conversion import build, convert
from imserver.config.diagnostics import fail_unknown
from imserver.config.origin import Place, base_of, file_name
from imserver.config.schema import sections
from imserver.config.settings import Config, Roles
from imserver.config.sources import from_arguments, from_environment, put, read_toml

#: Where the configuration is looked for, in this order, if no file is named.
DEFAULT_FILES = (Path("imserver.toml"), Path("conf/imserver.toml"))


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
    tree: dict[str, Any] = {} if path is None else read_toml(path)
    for source, parts, override in (*from_environment(environ), *from_arguments(overrides)):
        put(tree, source, parts, override)
    place = Place(source=file_name(path), key="", base=base_of(path))

    plugins = tree.get("plugins", {})
    settings: dict[str, Mapping[str, object]] = {}
    if isinstance(plugins, Mapping):
        settings = _take_plugin_tables(plugins, place)
        tree["plugins"] = {key: value for key, value in plugins.items() if key not in settings}
    roles: Roles = convert(tree.pop("roles", {}), Roles, "", place.child("roles"))
    config = build(Config, tree, place)
    config = attrs.evolve(config, roles=MappingProxyType(dict(roles)))
    if "secret_file" not in tree.get("auth", {}):
        config = attrs.evolve(config, auth=attrs.evolve(config.auth, secret_file=config.server.data_dir / "secret"))
    frozen = MappingProxyType({name: MappingProxyType(table) for name, table in settings.items()})
    config = attrs.evolve(config, plugins=attrs.evolve(config.plugins, settings=frozen), file=path)
    check(config, tree, place)
    return config


def _take_plugin_tables(plugins: Mapping[str, Any], place: Place) -> dict[str, Mapping[str, object]]:
    """The tables `[plugins.NAME]`; a single value there is a mistake in a key of `[plugins]`."""
    own = sections()["plugins"]
    tables = {}
    for name, table in plugins.items():
        if name in own:
            continue
        if not isinstance(table, Mapping):
            fail_unknown(place.of(table).child("plugins"), name, own)
        tables[name] = table
    return tables
