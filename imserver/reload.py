"""Puts another instance of a plugin in the place of the one that runs, while the server serves.

The order: its module is imported anew (in a worker thread), its rules are checked, its new migrations run as one unit of a
commit, its `on_start` runs. If any of this fails the old instance is where it was. Then each shard changes over between two
of its ticks: commands, hooks, listeners, routes. What has begun ends in the old instance; when it has, the old one's
`on_stop` runs and its background tasks end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from imserver.cache import Cache
from imserver.commands import Command, CommandTable, Route, commands_of, routes_of
from imserver.connection import add_connection_commands
from imserver.context.application import Activity, AppContext
from imserver.context.database import Pending
from imserver.errors import FAULTS, ImserverError, PluginError
from imserver.log import get_logger
from imserver.plugin_loader import Modules, Registry, find_source, load_again
from imserver.storage.migrations import DONE, NOTE, missing

if TYPE_CHECKING:
    from imserver.config import Config
    from imserver.directory import Directory
    from imserver.figures import Figures
    from imserver.plugin import Plugin
    from imserver.shard import Shard

#: How long a plugin's `on_start` and `on_stop` may take at a reload.
START_S = 30.0
STOP_S = 30.0
#: How long a shard may take to come round; it does ten times a second.
CHANGE_S = 30.0
#: What the old instance's requests may take beyond their own deadlines.
_GRACE_S = 1.0
_LOOK_S = 0.02
#: How often `--dev` looks at the files.
WATCH_S = 1.0

T = TypeVar("T")


class ReloadError(PluginError):
    """The plugin was not reloaded, and runs as before; the message says why."""


class Reloader:
    """Reloads the plugins of one server, one at a time. It lives in the first shard's thread.

    Args:
        registry: the plugins that run at the start; `registry` is always those that run now.
        directory, figures: the server's.
        caches: by plugin, at the start.
        renew_app: makes a shard's HTTP application anew, in its thread.
        reread: reads the configuration again; None: settings stay as they are.
    """

    def __init__(
        self,
        config: Config,
        shards: Sequence[Shard],
        directory: Directory,
        figures: Figures,
        registry: Registry,
        caches: Mapping[str, Cache],
        renew_app: Callable[[Shard], None],
        reread: Callable[[], Config] | None,
    ) -> None:
        self.registry = registry
        self._config = config
        self._shards = shards
        self._directory = directory
        self._figures = figures
        self._caches = dict(caches)
        self._renew_app = renew_app
        self._reread = reread
        self._turn = trio.Lock()
        self._log = get_logger("reload")

    async def handle(self, request: Mapping[str, Any]) -> str:
        """See `imserver.control`: `{"command": "reload", "plugin": NAME}`."""
        name = request.get("plugin")
        if request.get("command") != "reload" or not isinstance(name, str):
            raise ReloadError('this server knows {"command": "reload", "plugin": NAME}')
        return await self.reload(name)

    async def reload(self, name: str) -> str:
        """Reload a plugin; returns what to tell the operator, once the old instance is gone.

        Raises:
            ReloadError: it was not reloaded and runs as before.
        """
        async with self._turn:
            try:
                return await self._reload(name)
            except ReloadError as exc:
                self._log.error("plugin_reload_failed", plugin=name[:64], reason=str(exc), advice="the old one goes on")
                raise
            except FAULTS as exc:  # ours, or odd code of a plugin: nothing that the server should end for
                self._log.exception("plugin_reload_fault", plugin=name[:64])
                raise ReloadError(f"plugin {name[:64]} was not reloaded: {exc!r}; the log has the details") from exc

    # ------------------------------------------------------------ the steps

    async def _reload(self, name: str) -> str:
        old = next((plugin for plugin in self.registry.plugins if plugin.name == name), None)
        if self._shards[0].router.is_draining:
            raise ReloadError("the server is stopping")
        if old is None:
            names = ", ".join(plugin.name for plugin in self.registry.plugins)
            raise ReloadError(f"there is no plugin {name[:64]!r} in plugins.enabled; there are {names}")
        try:
            modules = Modules.of(find_source(name, self._config.plugins.paths))
            config, registry = await trio.to_thread.run_sync(self._load, name)
        except ImserverError as exc:
            raise ReloadError(str(exc)) from exc
        fresh = next(plugin for plugin in registry.plugins if plugin.name == name)
        try:
            return await self._exchange(old, fresh, registry, config)
        except BaseException:
            if self.registry is not registry:
                modules.restore()
            raise

    def _load(self, name: str) -> tuple[Config, Registry]:
        config = self._config
        if self._reread is not None:
            settings = dict(config.plugins.settings)
            settings.pop(name, None)
            again = self._reread().plugins.settings
            if name in again:
                settings[name] = again[name]
            config = attrs.evolve(config, plugins=attrs.evolve(config.plugins, settings=MappingProxyType(settings)))
        try:
            return config, load_again(self.registry, name, config)
        except SystemExit as exc:
            raise ReloadError(f"plugin {name}: its module ends the program (sys.exit)") from exc

    async def _exchange(self, old: Plugin, fresh: Plugin, registry: Registry, config: Config) -> str:
        name, first = fresh.name, self._shards[0]
        table = CommandTable()
        add_connection_commands(table)
        table.add(registry.commands)
        scripts = await self._migrate(fresh)
        cache, old_cache = Cache(name), self._caches[name]
        old_cache.twin, cache.twin = cache, old_cache
        app = AppContext(first, fresh, registry.settings[name], cache)
        has_started = False
        try:
            await self._start(fresh, app)
            has_started = True
            retired = await self._change_over(first, registry, table, app, config)
        except BaseException:
            old_cache.twin = None
            if has_started:
                await self._stop(fresh, app)
            _end_tasks(app.activity)
            raise
        self.registry = registry
        self._config = config
        self._caches[name] = cache
        contexts = {first: retired}
        for shard in self._shards[1:]:
            own = AppContext(shard, fresh, registry.settings[name], cache)
            try:
                contexts[shard] = await self._change_over(shard, registry, table, own, config)
            except ReloadError as exc:  # the first one could, so this is no fault of the plugin's
                self._log.error("shard_not_reloaded", shard=shard.index, reason=str(exc), advice="restart the server")
        self._directory.invalidate()  # what its `authenticate` found is looked at again
        self._figures.take_plugins(registry.plugins)
        ids = sorted(row.command_id for row in commands_of(fresh))
        self._log.info("plugin_reloaded", plugin=name, migrations=scripts, commands=ids)
        said = f"plugin {name} reloaded; its commands are {', '.join(map(str, ids)) or 'none'}"
        said += await self._retire(old, contexts)
        old_cache.twin = cache.twin = None
        return said

    async def _migrate(self, plugin: Plugin) -> int:
        """Run the scripts that the database has not seen: all or none. Returns how many."""
        shard = self._shards[0]
        try:
            done = {number: checksum for number, checksum in await shard.database.read(DONE, (plugin.name,))}
            todo = missing(plugin.name, plugin.migrations, done, shard.database.path)
            if todo:
                statements: list[tuple[str, Any]] = []
                for number, script, checksum in todo:
                    statements += [(script, ()), (NOTE, (plugin.name, number, checksum))]
                await Pending(shard.write(statements), is_single=False)
        except ImserverError as exc:
            raise ReloadError(f"plugin {plugin.name}: its migrations did not run: {exc}") from exc
        return len(todo)

    async def _start(self, plugin: Plugin, app: AppContext) -> None:
        try:
            with trio.fail_after(START_S):
                await plugin.on_start(app)
        except trio.TooSlowError as exc:
            raise ReloadError(f"plugin {plugin.name}: on_start took more than {START_S:g} s") from exc
        except FAULTS as exc:
            self._log.exception("plugin_start_fault", plugin=plugin.name)
            raise ReloadError(f"plugin {plugin.name} cannot start: {exc!r}") from exc

    async def _stop(self, plugin: Plugin, app: AppContext) -> bool:
        """Whether `on_stop` went well."""
        try:
            with trio.fail_after(STOP_S):
                await plugin.on_stop(app)
        except FAULTS:
            self._log.exception("plugin_stop_fault", plugin=plugin.name)
            return False
        return True

    async def _change_over(
        self, shard: Shard, registry: Registry, table: CommandTable, app: AppContext, config: Config
    ) -> AppContext:
        """Let a shard use the new instance from now on; returns its context of the old one.

        Raises:
            ReloadError: the shard cannot, and goes on as before.
        """

        def change() -> AppContext:
            before = shard.registry, shard.table
            config_before = shard.config
            retired = shard.replace_plugin(registry, table, app, config)
            try:
                self._renew_app(shard)
            except Exception:
                shard.replace_plugin(*before, retired, config_before)
                raise
            return retired

        try:
            return await _in_thread_of(shard, change)
        except ImserverError as exc:
            raise ReloadError(str(exc)) from exc
        except trio.TooSlowError as exc:
            raise ReloadError(f"shard {shard.index} did not come round in {CHANGE_S:g} s") from exc

    async def _retire(self, old: Plugin, contexts: Mapping[Shard, AppContext]) -> str:
        """Wait for what runs in the old instance, then stop it. Returns what there is to say about it."""
        said = ""
        limits = self._shards[0].limits
        rows: list[Command | Route] = [*commands_of(old), *routes_of(old)]
        longest_s = max([limits.request_timeout_s, *(row.timeout_s for row in rows if row.timeout_s is not None)])
        with trio.move_on_after(longest_s + _GRACE_S):
            # Looked at, not signalled: it spans threads, and happens once.
            while any(app.activity.requests for app in contexts.values()):  # noqa: ASYNC110
                await trio.sleep(_LOOK_S)
        left = sum(app.activity.requests for app in contexts.values())
        if left:
            self._log.warning("plugin_reload_requests_left", plugin=old.name, requests=left)
            said += f"; {left} requests still run in the old code"
        if not await self._stop(old, contexts[self._shards[0]]):
            said += "; on_stop of the old code failed, the log has why"
        for shard, app in contexts.items():
            shard.post(partial(_end_tasks, app.activity))
        return said

    # ------------------------------------------------------------ --dev

    async def watch(self) -> None:
        """Reload the plugins whose files change, until cancelled."""
        seen = await trio.to_thread.run_sync(self._stamps)
        self._log.info("watching", plugins=sorted(seen))
        while True:
            await trio.sleep(WATCH_S)
            found = await trio.to_thread.run_sync(self._stamps)
            for name, stamps in found.items():
                if seen.get(name) != stamps:
                    with suppress(ReloadError):  # it is in the log; the next change of the file may mend it
                        await self.reload(name)
            seen = found

    def _stamps(self) -> dict[str, dict[Path, tuple[int, int]]]:
        """When the files of each plugin that can be reloaded were last changed, and their sizes."""
        found: dict[str, dict[Path, tuple[int, int]]] = {}
        for plugin in self.registry.plugins:
            stamps = {}
            try:
                for file in find_source(plugin.name, self._config.plugins.paths).files:
                    stat = file.stat()
                    stamps[file] = (stat.st_mtime_ns, stat.st_size)
            except (PluginError, OSError):
                continue  # not one that can be reloaded, or its files are just being replaced
            found[plugin.name] = stamps
        return found


def _end_tasks(activity: Activity) -> None:
    for scope in list(activity.tasks):
        scope.cancel()


async def _in_thread_of(shard: Shard, call: Callable[[], T]) -> T:
    """What a call gives that runs in a shard's thread, between two of its ticks."""
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()
    results: list[T] = []
    failures: list[Exception] = []

    wanted = [call]

    def run() -> None:
        try:
            results.append(wanted.pop()())
        except IndexError:
            return  # nobody waits for it any more
        except Exception as exc:
            failures.append(exc)
        token.run_sync_soon(done.set)

    shard.post(run)
    try:
        with trio.fail_after(CHANGE_S):
            await done.wait()
    except BaseException:
        if wanted:
            wanted.clear()
            raise
    if failures:
        raise failures[0]
    return results[0]
