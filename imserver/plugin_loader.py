"""Finds plugins, validates all of them, and registers all or nothing.

By name, in this order: the folders of `plugins.paths` (a module or package that defines one subclass of `Plugin`), then
the entry points `imserver.plugins` (where the built-in ones are, too).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from imserver.commands import CommandTable, commands_of, listeners_of
from imserver.config import Config, build_settings
from imserver.errors import ConfigError, PluginError
from imserver.plugin import Handler, Plugin

ENTRY_POINTS = "imserver.plugins"


@attrs.frozen
class Registry:
    """The enabled plugins in the order of their start, and what they bring."""

    plugins: Sequence[Plugin]
    commands: CommandTable
    settings: dict[str, Any]
    listeners: dict[str, list[tuple[Plugin, Handler]]]

    @property
    def migrations(self) -> dict[str, Sequence[str]]:
        """Migration scripts by plugin."""
        return {plugin.name: plugin.migrations for plugin in self.plugins}


def load_plugins(config: Config) -> Registry:
    """Load `plugins.enabled`.

    Raises:
        ConfigError: a plugin that is not there, or settings that are wrong.
        PluginError: a plugin breaks the rules, or two claim one command.
    """
    classes = [find_plugin(name, config.plugins.paths) for name in config.plugins.enabled]
    plugins = _in_start_order([cls() for cls in classes])
    table = CommandTable()
    settings: dict[str, Any] = {}
    listeners: dict[str, list[tuple[Plugin, Handler]]] = {}
    for plugin in plugins:
        table.add(commands_of(plugin))
        settings[plugin.name] = _settings(plugin, config)
        for event, handler in listeners_of(plugin):
            listeners.setdefault(event, []).append((plugin, handler))
    for section in config.plugins.settings:
        if section not in settings:
            raise ConfigError(f"[plugins.{section}] is set, but the plugin {section!r} is not in plugins.enabled")
    return Registry(plugins, table, settings, listeners)


def find_plugin(name: str, paths: Sequence[Path]) -> type[Plugin]:
    """The class of a plugin by its name.

    Raises:
        ConfigError: there is none; the message lists those that there are.
        PluginError: its code cannot be loaded or it is no plugin.
    """
    for path in paths:
        for candidate in (path / f"{name}.py", path / name / "__init__.py"):
            if candidate.is_file():
                return _checked(_the_plugin_in(_load_file(name, candidate), name), name)
    known = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name not in known:
        raise ConfigError(
            f"plugins.enabled: there is no plugin {name!r}; installed are {', '.join(sorted(known)) or 'none'}, "
            f"and plugins.paths is {[str(path) for path in paths]}"
        )
    try:
        found = known[name].load()
    except Exception as exc:
        raise PluginError(f"plugin {name}: {known[name].value} cannot be loaded: {exc!r}") from exc
    return _checked(found, name)


def _load_file(name: str, path: Path) -> ModuleType:
    module_name = f"imserver_plugin_{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {name}: {path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[module_name]
        raise PluginError(f"plugin {name}: {path} cannot be loaded: {exc!r}") from exc
    return module


def _the_plugin_in(module: ModuleType, name: str) -> object:
    own = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Plugin) and item.__module__.startswith(module.__name__)
    ]
    named = [item for item in own if getattr(item, "name", None) == name]
    if len(named) != 1:
        raise PluginError(f"plugin {name}: {module.__file__} defines no subclass of Plugin with name = {name!r}")
    return named[0]


def _checked(found: object, name: str) -> type[Plugin]:
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise PluginError(f"plugin {name}: {found!r} is no subclass of imserver.plugin.Plugin")
    if getattr(found, "name", None) != name:
        raise PluginError(f"plugin {name}: its class says name = {getattr(found, 'name', None)!r}")
    return found


def _in_start_order(plugins: Sequence[Plugin]) -> list[Plugin]:
    """Dependencies first; otherwise in the order of `plugins.enabled`."""
    by_name = {plugin.name: plugin for plugin in plugins}
    if len(by_name) != len(plugins):
        raise ConfigError("plugins.enabled names a plugin twice")
    ordered: list[Plugin] = []
    visiting: list[str] = []

    def visit(plugin: Plugin) -> None:
        if plugin in ordered:
            return
        if plugin.name in visiting:
            raise PluginError(f"plugins require each other in a circle: {' -> '.join([*visiting, plugin.name])}")
        visiting.append(plugin.name)
        for needed in plugin.requires:
            if needed not in by_name:
                raise ConfigError(f"plugin {plugin.name} requires {needed}: add it to plugins.enabled")
            visit(by_name[needed])
        for wanted in plugin.wants:
            if wanted in by_name and wanted not in visiting:
                visit(by_name[wanted])
        visiting.pop()
        ordered.append(plugin)

    for plugin in plugins:
        visit(plugin)
    return ordered


def _settings(plugin: Plugin, config: Config) -> Any:
    raw = config.plugins.settings.get(plugin.name, {})
    if plugin.Settings is None:
        if raw:
            raise ConfigError(f"[plugins.{plugin.name}]: this plugin has no settings; remove {', '.join(raw)}")
        return None
    return build_settings(plugin.Settings, raw, section=f"plugins.{plugin.name}", file=config.file)
