"""The plugins as a shard has them: their contexts, their hooks, the listeners of the bus, and what comes of their faults."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imserver.context import AppContext, Context
from imserver.errors import FAULTS, ImError, InternalFault, StorageUnavailable, Unavailable
from imserver.log import get_logger
from imserver.plugin import Plugin

if TYPE_CHECKING:
    from imserver.cache import Cache
    from imserver.caller import Caller
    from imserver.plugin_loader import Registry
    from imserver.protocol.message import Message
    from imserver.session import Session
    from imserver.shard import Shard


class Hooks:
    """See the module.

    Args:
        shard: whose plugins these are.
        registry: the plugins.
        caches: by plugin; shared by all shards.
    """

    def __init__(self, shard: Shard, registry: Registry, caches: Mapping[str, Cache]) -> None:
        self._shard = shard
        self._log = get_logger("router")
        self.apps: Mapping[str, AppContext] = {
            plugin.name: AppContext(shard, plugin, registry.settings[plugin.name], caches[plugin.name])
            for plugin in registry.plugins
        }
        #: The contexts that the last reload of each plugin replaced.
        self._retired: dict[str, AppContext] = {}
        self._take_hooks(registry)

    def _take_hooks(self, registry: Registry) -> None:
        self.authenticators = self._hooks(registry.plugins, "authenticate")
        self._connect_hooks = self._hooks(registry.plugins, "on_connect")
        self._login_hooks = self._hooks(registry.plugins, "on_login")
        self._disconnect_hooks = self._hooks(registry.plugins, "on_disconnect")
        # What one of these raises reaches the sender.
        self._shard.send_hooks.replace(plugin for plugin in registry.plugins if "before_send" in overridden(type(plugin)))
        self._commit_hooks = self._hooks(registry.plugins, "after_commit")
        self._hiding_hooks = self._hooks(registry.plugins, "hidden_from")
        self._listeners = registry.listeners

    @staticmethod
    def _hooks(plugins: Sequence[Plugin], name: str) -> list[tuple[str, Callable[..., Any]]]:
        return [(plugin.name, getattr(plugin, name)) for plugin in plugins if name in overridden(type(plugin))]

    def app_context(self, plugin: str) -> AppContext:
        """The context of a plugin without a session."""
        return self.apps[plugin]

    def context(self, session: Caller, owner: str, *, is_async: bool) -> Any:
        """A plugin's context at a session, kept for the next time."""
        return self._context(session, self.apps.get(owner), owner, is_async=is_async)

    def _context(self, session: Caller, app: AppContext | None, owner: str, *, is_async: bool) -> Any:
        key = owner if app is None else (app, "async") if is_async else app
        context = session.contexts.get(key)
        if context is None:
            # The connection's own commands need no more than the session.
            context = session if app is None else Context(app, session, is_async=is_async)
            session.contexts[key] = context
        return context

    def route_context(self, plugin: str, caller: Caller) -> Context:
        """The context of a plugin's HTTP route."""
        return context_of_request(self.apps[plugin], caller)

    def retired_context(self, plugin: Plugin, caller: Caller) -> Context:
        """The context of a route of an instance that was replaced between the request's arrival and its turn.

        Raises:
            Unavailable: it was replaced more than once since.
        """
        app = self._retired.get(plugin.name)
        if app is None or app.plugin is not plugin:
            raise Unavailable("this service was reloaded meanwhile; ask again")
        return context_of_request(app, caller)

    def fault(self, name: str, command_id: int, owner: str, session: Caller | None, exc: BaseException) -> ImError:
        """What the client is told of an exception that should not have come this far; the log has the rest."""
        if isinstance(exc, BaseExceptionGroup):
            wanted, rest = exc.split(ImError)
            if wanted is not None and rest is None and len(wanted.exceptions) == 1:
                only = wanted.exceptions[0]
                if isinstance(only, ImError):
                    return only
        if isinstance(exc, StorageUnavailable):
            return Unavailable("the database cannot be used just now; try again")
        trace_id = secrets.token_hex(8)
        self._log.error(
            "handler_fault",
            command=command_id,
            name=name,
            plugin=owner,
            user=None if session is None else session.user_id,
            session=None if session is None else session.session_id,
            trace_id=trace_id,
            exc_info=exc,
        )
        return InternalFault(f"the server made a mistake; its log has the details under {trace_id}")

    def connected(self, session: Session) -> None:
        """A connection was accepted."""
        self._run_hooks(self._connect_hooks, session)

    def logged_in(self, session: Session) -> None:
        """A session was bound to its user."""
        self._run_hooks(self._login_hooks, session)

    def disconnected(self, session: Session) -> None:
        """A session takes no more frames."""
        self._run_hooks(self._disconnect_hooks, session)

    def _run_hooks(self, hooks: Iterable[tuple[str, Callable[..., Any]]], session: Session) -> None:
        for owner, hook in hooks:
            try:
                hook(self.context(session, owner, is_async=True))
            except FAULTS:
                self._log.exception("hook_fault", plugin=owner, hook=hook.__name__, user=session.user_id)

    def after_commit(self, messages: list[Message]) -> None:
        """Tell the plugins of messages that are durable now."""
        for owner, hook in self._commit_hooks:
            try:
                hook(self.apps[owner], messages)
            except FAULTS:
                self._log.exception("hook_fault", plugin=owner, hook="after_commit")

    async def hidden_from(self, reader: str, user_ids: Sequence[str]) -> set[str]:
        """Who of these users hides from `reader`. What a hook raises reaches the asker: in doubt nothing is shown."""
        hidden: set[str] = set()
        for owner, hook in self._hiding_hooks:
            hidden.update(await hook(self.apps[owner], reader, user_ids))
        return hidden

    def emit(self, shard: Shard, event: str, fields: Mapping[str, Any]) -> None:
        """Run the listeners of an event."""
        for plugin, listener in self._listeners.get(event, ()):
            try:
                listener(self.apps[plugin.name], **fields)
            except FAULTS:
                self._log.exception("listener_fault", plugin=plugin.name, bus_event=event)


def context_of_request(app: AppContext, caller: Caller) -> Context:
    """A context of its own: what one request has written is no other one's to wait for."""
    context = Context(app, caller, is_async=True)
    context.is_of_one_request = True
    return context


def overridden(cls: type[Plugin]) -> set[str]:
    """The hooks that a plugin's class, or a base of its own, defines."""
    return {name for base in cls.__mro__ if base not in (Plugin, object) for name in vars(base)}
