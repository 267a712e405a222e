"""The command table as data: ID, name, request, who may call, rate, deadline, owner."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from imserver.errors import CommandConflictError, PluginError
from imserver.plugin import ANYONE, USER, CommandMark, Handler, RouteMark

if TYPE_CHECKING:
    from imserver.context import Context
    from imserver.plugin import Plugin

#: Ranges of wire protocol, section 5, and who may claim IDs in them. 1-999 are the connection's own.
LAST_CONNECTION_ID = 999
LAST_ID = 65535


@attrs.frozen
class Command:
    """One row of the table."""

    command_id: int
    name: str
    owner: str
    request: type | None
    #: "anyone", "user" or "role:NAME"
    allow: str
    handler: Handler
    is_async: bool
    timeout_s: float | None
    per_second: float | None
    is_stateless: bool
    is_bulk: bool = False

    @property
    def role(self) -> str | None:
        """The role that it names, if one; see `imserver.permissions` for who has it."""
        return _role_of(self.allow)

    @property
    def permission(self) -> str:
        """What `[roles]` and the scopes of API keys call it."""
        return f"{self.owner}.{self.name}"


@attrs.frozen
class Route:
    """A path that a plugin answers over HTTP."""

    method: str
    path: str
    owner: str
    #: "anyone", "user" or "role:NAME"
    allow: str
    handler: Handler
    timeout_s: float | None
    name: str = ""

    @property
    def role(self) -> str | None:
        """The role that it names, if one; see `imserver.permissions` for who has it."""
        return _role_of(self.allow)

    @property
    def permission(self) -> str:
        """What `[roles]` and the scopes of API keys call it."""
        return f"{self.owner}.{self.name}"


def _role_of(allow: str) -> str | None:
    return allow.removeprefix("role:") if allow.startswith("role:") else None


class CommandTable:
    """All commands by ID. Rows are added a plugin at a time: all of them or none."""

    def __init__(self) -> None:
        self._rows: dict[int, Command] = {}

    def __iter__(self) -> Iterator[Command]:
        return iter(sorted(self._rows.values(), key=lambda row: row.command_id))

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, command_id: int) -> Command | None:
        """The row with this ID."""
        return self._rows.get(command_id)

    def add(self, rows: Iterable[Command]) -> None:
        """Add a plugin's rows.

        Raises:
            CommandConflictError: an ID is taken; the message names both owners.
        """
        fresh: dict[int, Command] = {}
        for row in rows:
            taken = self._rows.get(row.command_id) or fresh.get(row.command_id)
            if taken is not None:
                raise CommandConflictError(
                    f"command {row.command_id} is claimed by {taken.owner} ({taken.name}) and by {row.owner} ({row.name}); "
                    f"disable one of them in plugins.enabled or give one another ID"
                )
            fresh[row.command_id] = row
        self._rows.update(fresh)


def commands_of(plugin: Plugin, *, first_id: int = LAST_CONNECTION_ID + 1) -> list[Command]:
    """The rows that a plugin's `@command` methods make.

    Raises:
        PluginError: an ID out of range, or a mark that makes no sense.
    """
    rows = []
    for attribute, function in _marked(type(plugin), "__imserver_command__"):
        mark: CommandMark = function.__imserver_command__
        if not first_id <= mark.command_id <= LAST_ID:
            raise PluginError(
                f"plugin {plugin.name}: command {mark.command_id} of {attribute}() is not in {first_id}–{LAST_ID}"
            )
        _check_allow(plugin, attribute, mark.allow)
        is_async = inspect.iscoroutinefunction(function)
        if mark.bulk and not is_async:
            raise PluginError(f"plugin {plugin.name}: {attribute}() is bulk, so it must be an async def")
        rows.append(
            Command(
                command_id=mark.command_id,
                name=mark.name or attribute.upper(),
                owner=plugin.name,
                request=mark.request,
                allow=mark.allow,
                handler=getattr(plugin, attribute),
                is_async=is_async,
                timeout_s=mark.timeout_s,
                per_second=mark.per_second,
                is_stateless=mark.stateless,
                is_bulk=mark.bulk,
            )
        )
    return rows


def routes_of(plugin: Plugin) -> list[Route]:
    """The rows that a plugin's `@route` methods make.

    Raises:
        PluginError: a mark that makes no sense.
    """
    rows = []
    for attribute, function in _marked(type(plugin), "__imserver_routes__"):
        marks: tuple[RouteMark, ...] = function.__imserver_routes__
        for mark in marks:
            _check_allow(plugin, attribute, mark.allow)
            if not inspect.iscoroutinefunction(function) or not mark.path.startswith("/"):
                raise PluginError(f"plugin {plugin.name}: @route needs a leading / and an async def {attribute}()")
            handler = _route_handler(plugin, getattr(plugin, attribute))
            name = mark.name or attribute.upper()
            rows.append(Route(mark.method.upper(), mark.path, plugin.name, mark.allow, handler, mark.timeout_s, name))
    return rows


def _route_handler(plugin: Plugin, handler: Handler) -> Handler:
    """The handler as a reload needs it: its requests are counted, and it gets its own instance's context."""

    @functools.wraps(handler)
    async def handle(ctx: Context, request: Any) -> Any:
        if ctx.plugin is plugin:
            return await _counted(handler, ctx, request)
        # The plugin was reloaded since this request was let in: it ends in the code that it began in.
        own = ctx.of_retired(plugin)
        result = await _counted(handler, own, request)
        await own.wait_durable()
        return result

    return handle


async def _counted(handler: Handler, ctx: Context, request: Any) -> Any:
    ctx.activity.requests += 1
    try:
        return await handler(ctx, request)
    finally:
        ctx.activity.requests -= 1


def _check_allow(plugin: Plugin, attribute: str, allow: str) -> None:
    if allow not in (ANYONE, USER) and not allow.startswith("role:"):
        raise PluginError(f"plugin {plugin.name}: allow={allow!r} of {attribute}() is no ANYONE, USER or role(…)")


def listeners_of(plugin: Plugin) -> list[tuple[str, Handler]]:
    """The (event name, method) pairs that a plugin's `@on_event` methods make."""
    return [
        (function.__imserver_event__, getattr(plugin, attribute))
        for attribute, function in _marked(type(plugin), "__imserver_event__")
    ]


def _marked(cls: type, mark: str) -> Iterator[tuple[str, Any]]:
    """Methods that carry a mark, those of base classes included, each name once."""
    seen: set[str] = set()
    for base in cls.__mro__:
        for attribute, function in vars(base).items():
            if attribute not in seen and hasattr(function, mark):
                yield attribute, function
            seen.add(attribute)
