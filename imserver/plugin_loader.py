"""Finds plugins, validates all of them, and registers all or nothing; loads one of them again (`load_again`).

By name, in this order: the folders of `plugins.paths` (a module or package that defines one subclass of `Plugin`), then
the entry points `imserver.plugins` (where the built-in ones are, too).
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType
from typing import Any

import attrs

from imserver.commands import CommandTable, commands_of, listeners_of
from imserver.config import Config, build_settings
from imserver.config.origin import file_name
from imserver.errors import ConfigError, PluginError
from imserver.permissions import Permissions
from imserver.plugin import Handler, Plugin
from imserver.plugin_rules import check_shape

ENTRY_POINTS = "imserver.plugins"
#: Whose plugins are the server's own: their code changes with an upgrade, which needs a restart.
_OWN_DISTRIBUTION = "imserver"
_MODULE_PREFIX = "imserver_plugin_"

Classes = Mapping[str, type[Plugin]]
_NO_CLASSES: Classes = MappingProxyType({})


@attrs.frozen
class Registry:
    """The enabled plugins in the order of their start, and what they bring."""

    plugins: Sequence[Plugin]
    commands: CommandTable
    settings: dict[str, Any]
    listeners: dict[str, list[tuple[Plugin, Handler]]]
    permissions: Permissions = attrs.field()

    @permissions.default
    def _without_roles(self) -> Permissions:
        return Permissions.of(self.plugins, self.commands)

    @property
    def migrations(self) -> dict[str, Sequence[str]]:
        """Migration scripts by plugin."""
        return {plugin.name: plugin.migrations for plugin in self.plugins}


def load_plugins(config: Config, given: Classes = _NO_CLASSES) -> Registry:
    """Load `plugins.enabled`.

    Args:
        given: classes by name that need not be found; for tests.

    Raises:
        ConfigError: a plugin that is not there, or settings that are wrong.
        PluginError: a plugin breaks the rules, or two claim one command.
    """
    with _at("plugins.enabled", config):
        classes = [given.get(name) or find_plugin(name, config.plugins.paths) for name in config.plugins.enabled]
        plugins = _in_start_order([cls() for cls in classes])
    return _registry_of(plugins, config)


@contextmanager
def _at(key: str, config: Config) -> Iterator[None]:
    """Let an error of the configuration say where it is."""
    try:
        yield
    except ConfigError as exc:
        raise ConfigError(f"{file_name(config.file)}: {key}: {exc}") from exc


def _registry_of(plugins: Sequence[Plugin], config: Config) -> Registry:
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
            with _at(f"[plugins.{section}]", config):
                raise ConfigError(f"this is set, but the plugin {section!r} is not in plugins.enabled")
    return Registry(plugins, table, settings, listeners, Permissions.of(plugins, table, config.roles))


def load_again(registry: Registry, name: str, config: Config) -> Registry:
    """The same plugins with a new instance of one of them, its module imported anew; blocks.

    If this fails, `sys.modules` is as before. If it succeeds and the new instance is not wanted after all, `Modules` goes
    back.

    Raises:
        ConfigError: settings that are wrong.
        PluginError: it cannot be loaded again, breaks the rules, or claims another one's command.
    """
    source = find_source(name, config.plugins.paths)
    with _imported_anew(source.module):
        fresh = _new_instance(find_plugin(name, config.plugins.paths))
        plugins = [fresh if plugin.name == name else plugin for plugin in registry.plugins]
        names = {plugin.name for plugin in plugins}
        for needed in fresh.requires:
            if needed not in names:
                raise PluginError(f"plugin {name} now requires {needed}: add it to plugins.enabled and restart")
        return _registry_of(plugins, config)


def _new_instance(cls: type[Plugin]) -> Plugin:
    try:
        return cls()
    except Exception as exc:
        raise PluginError(f"plugin {cls.name}: {cls.__name__}() failed: {exc!r}") from exc


@attrs.frozen
class Source:
    """Where a plugin's code is: the module's name, and its file."""

    module: str
    file: Path

    @property
    def files(self) -> list[Path]:
        """The module's file, or all of the package's."""
        return sorted(self.file.parent.rglob("*.py")) if self.file.name == "__init__.py" else [self.file]


def find_source(name: str, paths: Sequence[Path]) -> Source:
    """Where the code of a plugin is that can be loaded again.

    Raises:
        PluginError: it is one of the server's own, or there is no such file.
    """
    file = _file_in(name, paths)
    if file is not None:
        return Source(_MODULE_PREFIX + name, file)
    entry = next((entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS) if entry.name == name), None)
    if entry is None:
        raise PluginError(f"plugin {name}: it is no longer in plugins.paths {[str(path) for path in paths]}")
    if entry.dist is not None and entry.dist.name == _OWN_DISTRIBUTION:
        raise PluginError(f"plugin {name} is one of the server's own: restart the server to change it")
    try:
        spec = importlib.util.find_spec(entry.module)
    except (ImportError, ValueError) as exc:
        raise PluginError(f"plugin {name}: {entry.value} cannot be found: {exc}") from exc
    if spec is None or not spec.has_location or spec.origin is None:
        raise PluginError(f"plugin {name}: {entry.module} has no source file; restart the server to change it")
    return Source(entry.module, Path(spec.origin))


class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles the source as it is: a cached compilation is told by size and second alone, which two edits may share."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _UncachedFinder:
    """Finds what is below one module as Python does, without its cache."""

    def __init__(self, root: str) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `sys.meta_path`."""
        if fullname != self._root and not fullname.startswith(f"{self._root}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Uncached(spec.loader.name, spec.loader.path)
        return spec


def _modules_below(root: str) -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name == root or name.startswith(f"{root}.")}


@contextmanager
def _imported_anew(root: str) -> Iterator[None]:
    """Let a module and what is below it be imported again; if the block fails they are the old ones as before."""
    old = _modules_below(root)
    for name in old:
        del sys.modules[name]
    finder = _UncachedFinder(root)
    sys.meta_path.insert(0, finder)
    importlib.invalidate_caches()
    try:
        yield
    except BaseException:
        restore_modules(root, old)
        raise
    finally:
        sys.meta_path.remove(finder)


@attrs.frozen
class Modules:
    """What `sys.modules` has of a plugin, to go back to."""

    root: str
    modules: Mapping[str, ModuleType]

    @classmethod
    def of(cls, source: Source) -> Modules:
        """As it is now."""
        return cls(source.module, _modules_below(source.module))

    def restore(self) -> None:
        """Back to it."""
        restore_modules(self.root, self.modules)


def restore_modules(root: str, modules: Mapping[str, ModuleType]) -> None:
    """Let these be the modules below a name."""
    for name in _modules_below(root):
        del sys.modules[name]
    sys.modules.update(modules)
    parent, _, child = root.rpartition(".")
    if parent in sys.modules and root in modules:
        setattr(sys.modules[parent], child, modules[root])


def _file_in(name: str, paths: Sequence[Path]) -> Path | None:
    return next((candidate for candidate in _candidates(name, paths) if candidate.is_file()), None)


def _candidates(name: str, paths: Sequence[Path]) -> list[Path]:
    """Where a plugin of this name may be: a path of the configuration is a folder, or the one file of a plugin."""
    found: list[Path] = []
    for path in paths:
        if path.suffix == ".py":
            found += [path] if path.stem == name else []
        else:
            found += [path / f"{name}.py", path / name / "__init__.py"]
    return found


def find_plugin(name: str, paths: Sequence[Path]) -> type[Plugin]:
    """The class of a plugin by its name.

    Raises:
        ConfigError: there is none; the message lists those that there are.
        PluginError: its code cannot be loaded or it is no plugin.
    """
    file = _file_in(name, paths)
    if file is not None:
        return _checked(_the_plugin_in(_load_file(name, file), name), name)
    known = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name not in known:
        looked_for = _candidates(name, paths)
        raise ConfigError(
            f"there is no plugin {name!r}; installed are {', '.join(sorted(known)) or 'none'}; "
            + (f"looked for {', '.join(map(str, looked_for))}" if looked_for else "plugins.paths names no place for it")
        )
    try:
        found = known[name].load()
    except Exception as exc:
        raise PluginError(f"plugin {name}: {known[name].value} cannot be loaded: {exc!r}") from exc
    return _checked(found, name)


def _load_file(name: str, path: Path) -> ModuleType:
    module_name = _MODULE_PREFIX + name
    spec = importlib.util.spec_from_file_location(module_name, path, loader=_Uncached(module_name, str(path)))
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {name}: {path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        restore_modules(module_name, {})
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
    check_shape(found)
    return found


def _in_start_order(plugins: Sequence[Plugin]) -> list[Plugin]:
    """Dependencies first; otherwise in the order of `plugins.enabled`."""
    by_name = {plugin.name: plugin for plugin in plugins}
    if len(by_name) != len(plugins):
        raise ConfigError("this names a plugin twice")
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
                raise ConfigError(f"plugin {plugin.name} requires {needed}: add that, too")
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
            with _at(f"[plugins.{plugin.name}]", config):
                raise ConfigError(f"this plugin has no settings; remove {', '.join(raw)}")
        return None
    return build_settings(plugin.Settings, raw, section=f"plugins.{plugin.name}", file=config.file)
