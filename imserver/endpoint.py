"""A command as the dispatch wants it, with what each request of it would have to look up else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from imserver.errors import DeadlineExceeded
from imserver.plugin import ANYONE
from imserver.protocol.body import BodyDecoder

if TYPE_CHECKING:
    from imserver.commands import Command
    from imserver.config import Limits
    from imserver.context import AppContext
    from imserver.permissions import Rule

HEARTBEAT = 1


class Endpoint:
    """One command as the dispatch wants it."""

    __slots__ = (
        "app",
        "command",
        "command_id",
        "context_key",
        "decode",
        "handler",
        "interval_s",
        "is_async",
        "is_bulk",
        "is_heartbeat",
        "is_stateless",
        "needs_user",
        "owner",
        "requests",
        "roles",
        "rule",
        "scopes",
        "timeout_s",
    )

    def __init__(self, command: Command, rule: Rule, limits: Limits, app: AppContext | None) -> None:
        self.command = command
        #: Its plugin's context: a request that has begun ends with the one that it began with, whatever is reloaded
        #: meanwhile. None: one of the connection's own.
        self.app = app
        self.context_key: object = command.owner if app is None else app
        self.command_id = command.command_id
        self.decode = BodyDecoder(command.request, limits.max_frame_bytes).decode
        self.handler = command.handler
        self.is_async = command.is_async
        self.is_bulk = command.is_bulk
        self.is_stateless = command.is_stateless
        self.is_heartbeat = command.command_id == HEARTBEAT
        self.needs_user = command.allow != ANYONE
        self.rule = rule
        self.roles = rule.roles
        self.scopes = rule.scopes
        self.owner = command.owner
        #: How many were asked for.
        self.requests = 0
        self.timeout_s = command.timeout_s or limits.request_timeout_s
        self.interval_s = 1 / command.per_second if command.per_second else 0.0


def begin(endpoint: Endpoint) -> None:
    """A request of it takes longer than this tick: a reload waits for it."""
    if endpoint.app is not None:
        endpoint.app.activity.requests += 1


def end(endpoint: Endpoint) -> None:
    """Behind `begin`."""
    if endpoint.app is not None:
        endpoint.app.activity.requests -= 1


class Deadline:
    """`with Deadline(seconds)`: past it, DeadlineExceeded."""

    __slots__ = ("_scope",)

    def __init__(self, timeout_s: float) -> None:
        self._scope = trio.move_on_after(timeout_s)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *exc_info: Any) -> bool | None:
        swallowed = self._scope.__exit__(*exc_info)
        if self._scope.cancelled_caught:
            raise DeadlineExceeded("the request ran past its deadline; whether it took effect is not known")
        return swallowed
