"""`AppContext`: what a plugin has of the server in one shard, whoever asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from imserver.batch import FAILED, OPEN, Batch
from imserver.config import as_plain
from imserver.context.conversations import ConversationsApi
from imserver.context.database import PluginDatabase
from imserver.context.messages import MessagesApi
from imserver.context.periodic import repeat
from imserver.errors import InternalError, StorageUnavailable

if TYPE_CHECKING:
    import random

    from imserver.cache import Cache
    from imserver.caller import Caller
    from imserver.clock import Clock
    from imserver.config import Config
    from imserver.directory import Directory
    from imserver.figures import Figures
    from imserver.plugin import Plugin
    from imserver.shard import Shard

T = TypeVar("T")


class Activity:
    """What runs in one shard on behalf of one instance of a plugin: a reload waits for its requests and ends its tasks."""

    __slots__ = ("requests", "tasks")

    def __init__(self) -> None:
        #: Requests that take longer than a tick.
        self.requests = 0
        #: Background tasks.
        self.tasks: set[trio.CancelScope] = set()


class AppContext:
    """What a plugin has of the server, in one shard.

    Attributes:
        settings: an instance of the plugin's `Settings`, or None.
        config, clock, random, log, cache, db, directory, messages, conversations: see their classes.
    """

    #: A request's own: if something that it wrote is lost, the request has failed. Others go on after a failure.
    is_of_one_request = False

    _is_async = True  # what follows a write may do so after other handlers ran

    def __init__(self, shard: Shard, plugin: Plugin, settings: Any, cache: Cache) -> None:
        self._shard = shard
        self.plugin = plugin
        self.settings = settings
        self.config: Config = shard.config
        self.clock: Clock = shard.clock
        self.random: random.Random = shard.random
        self.log = shard.log.bind(plugin=plugin.name)
        self.cache = cache
        #: The API's own.
        self.activity = Activity()
        self.directory: Directory = shard.directory
        #: The batches that this context wrote to and that `wait_durable` has not seen the end of.
        self._unfinished: list[Batch] = []
        self._make_apis()

    def _make_apis(self) -> None:
        self.db = PluginDatabase(self._shard, self)
        self.messages = MessagesApi(self._shard, self)
        self.conversations = ConversationsApi(self._shard, self)

    def _for_def_handler(self) -> AppContext:
        """What `transact` gives to what it runs."""
        return self

    @property
    def figures(self) -> Figures:
        """How the whole server is doing: `snapshot()`, `plugins`."""
        figures = self._shard.figures
        if figures is None:
            raise InternalError("there are no figures before the server is put together")
        return figures

    def plain_config(self) -> dict[str, Any]:
        """The whole configuration as keys and TOML values, secrets masked: for people to look at."""
        return as_plain(self.config)

    def of(self, plugin: str) -> AppContext:
        """The same for another plugin: with its cache and settings."""
        return self._shard.router.app_context(plugin)

    def has_written(self) -> None:
        """What this context does next may rest on a batch that is not durable yet."""
        if self._is_async:
            newest = self._shard.newest_batch
            self._unfinished = [batch for batch in self._unfinished if batch is not newest and self._matters(batch)]
            if newest is not None:
                self._unfinished.append(newest)

    def _matters(self, batch: Batch) -> bool:
        return batch.state == OPEN or (batch.state == FAILED and self.is_of_one_request)

    async def wait_durable(self) -> None:
        """Wait until all that was written through this context is durable.

        Raises:
            StorageUnavailable: it could not be.
        """
        unfinished, self._unfinished = self._unfinished, []
        for batch in unfinished:
            await self._shard.wait_batch(batch)

    def push(self, user_ids: Iterable[str], command: int, body: Any, *, except_session: Caller | None = None) -> None:
        """Send a push to every live session of these users.

        It leaves when what its handler could have seen (`def`: memory; `async def`: committed data) and what it wrote is
        durable. It is encoded once an encoding.

        Args:
            body: a mapping, attrs or Struct instance, as the wire protocol's section 5 has it.
        """
        if self.is_of_one_request and any(batch.state == FAILED for batch in self._unfinished):
            raise StorageUnavailable("what this push tells of could not be stored")
        # Inside of a handler (`transact`, a listener) it rests on what that does, and is dropped with it.
        if self._shard.section.in_handler or any(batch.state == OPEN for batch in self._unfinished):
            self._shard.push(user_ids, command, body, except_session)
        else:
            self._shard.push_committed(user_ids, command, body, except_session)

    async def hidden_from(self, reader: str, user_ids: Sequence[str]) -> set[str]:
        """Who of these users hides from `reader`, as the plugins' hooks of this name say; see `Plugin.hidden_from`.

        The events "user.hidden" and "user.shown" (`user_id`, `reader`) say when that changes: who remembers an answer
        forgets it then.
        """
        return await self._shard.router.hidden_from(reader, user_ids)

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the listeners of an event (`@on_event`), at once."""
        self._shard.router.emit(self._shard, event, fields)
        self.has_written()  # what a listener wrote is in the same commit

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a background task; it ends with the server. What it raises is logged and ends that task alone."""
        self._shard.start_plugin_task(self, task, *args)

    def start_periodic(self, step: Callable[..., Awaitable[object]], *args: Any, period_s: float, name: str) -> None:
        """Carry out `await step(*args)` every so often as a background task, the first time after one period.

        What a step raises as an `ImError` or a StorageError is logged, and the next period tries again; anything else ends
        the task.

        Args:
            step: returns True if there is more to do than one step takes: the next one follows shortly.
            period_s: seconds from the end of one round to the next.
            name: what it does, for the log: `NAME_failed`.
        """
        self.start_soon(partial(repeat, period_s=period_s, name=name), self.log, step, *args)

    async def run_sync_in_thread(
        self, function: Callable[..., T], *args: Any, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """Run what blocks in a worker thread."""
        return await trio.to_thread.run_sync(function, *args, limiter=limiter or self._shard.worker_limiter)
