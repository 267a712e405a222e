"""What a plugin's class has to look like, found out before anything of it runs.

A hook of the wrong kind would do nothing at all: an `async def before_send` makes a coroutine that nobody awaits, and what
it would have refused is stored.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from imserver.errors import PluginError

if TYPE_CHECKING:
    from imserver.plugin import Plugin

#: Hook -> how many arguments it gets besides `self`.
_ASYNC_HOOKS = {"on_start": 1, "on_stop": 1, "authenticate": 2}
_DEF_HOOKS = {"on_connect": 1, "on_login": 1, "on_disconnect": 1, "before_send": 2, "after_commit": 2}
_SEQUENCES = ("requires", "wants", "migrations")


def check_shape(plugin: type[Plugin]) -> None:
    """Refuse a class whose hooks, handlers or attributes could not work.

    Raises:
        PluginError: the message names the attribute and what it has to be.
    """
    for attribute in _SEQUENCES:
        if isinstance(getattr(plugin, attribute), str):
            raise PluginError(f'plugin {plugin.name}: {attribute} is a string; write a tuple: {attribute} = ("…",)')
    for hooks, is_async in ((_ASYNC_HOOKS, True), (_DEF_HOOKS, False)):
        for hook, count in hooks.items():
            function = getattr(plugin, hook, None)
            if function is None:
                continue
            if inspect.iscoroutinefunction(function) != is_async:
                raise PluginError(f"plugin {plugin.name}: {hook}() has to be {'an async def' if is_async else 'a def'}")
            _check_arguments(plugin, hook, function, count)
    for attribute in dir(plugin):
        function = getattr(plugin, attribute)
        if hasattr(function, "__imserver_command__") or hasattr(function, "__imserver_routes__"):
            _check_arguments(plugin, attribute, function, 2)


def _check_arguments(plugin: type[Plugin], attribute: str, function: Any, count: int) -> None:
    try:
        inspect.signature(function).bind(*[None] * (count + 1))
    except TypeError as exc:
        wanted = "(self, ctx, request)" if attribute not in {**_ASYNC_HOOKS, **_DEF_HOOKS} else f"self and {count} more"
        raise PluginError(f"plugin {plugin.name}: {attribute}() has to take {wanted}: {exc}") from exc
