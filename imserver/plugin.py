"""All that a plugin may import from imserver.

    from attrs import frozen
    from imserver.plugin import Plugin, command

    @frozen
    class Roll:
        sides: int = 6

    class Dice(Plugin):
        name = "dice"

        @command(6001, request=Roll)
        def roll(self, ctx, request):
            return {"value": ctx.random.randint(1, request.sides)}

A handler gets a `Context` and the request (an instance of its request class, already validated) and returns the
response's fields, as a mapping or an attrs instance, or raises an `ImError`.

* A `def` handler runs inside the tick, to completion: it must not block. What it needs and is not in memory it asks for by
  raising `NotLoaded(loader)`; it is then run again, so it reads before it writes.
* An `async def` handler gets a task, a deadline, and counts against the connection's requests in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import attrs
import trio
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from imserver import auth
from imserver.errors import (
    Conflict,
    ConstraintViolated,
    DeadlineExceeded,
    ImError,
    InternalFault,
    InvalidBody,
    NotAuthenticated,
    NotFound,
    NotLoaded,
    PermissionDenied,
    PluginError,
    RateLimited,
    StorageError,
    StorageUnavailable,
    TooLarge,
    Unavailable,
)
from imserver.http_client import HttpAnswer, HttpClient
from imserver.identity import Credentials, Identity
from imserver.protocol.body import check_body, invalid_body
from imserver.protocol.message import Message, direct_conversation_id, parties_of

if TYPE_CHECKING:
    import apsw
    import click

    from imserver.caller import Caller
    from imserver.config import Config
    from imserver.context import AppContext, Context
    from imserver.conversation import Conversation, Draft, Member, Stored
    from imserver.directory import SessionInfo
    from imserver.session import Session

__all__ = [
    "ANYONE",
    "UNSET",
    "USER",
    "AppContext",
    "Caller",
    "ClientId",
    "Conflict",
    "ConstraintViolated",
    "Context",
    "Conversation",
    "ConversationId",
    "Credentials",
    "DeadlineExceeded",
    "Draft",
    "GroupId",
    "Handler",
    "HttpAnswer",
    "HttpClient",
    "Identity",
    "ImError",
    "InternalFault",
    "InvalidBody",
    "Limit",
    "Member",
    "Message",
    "Meta",
    "NotAuthenticated",
    "NotFound",
    "NotLoaded",
    "PermissionDenied",
    "Plugin",
    "PluginError",
    "RateLimited",
    "Raw",
    "Session",
    "SessionInfo",
    "StorageError",
    "StorageUnavailable",
    "Stored",
    "Struct",
    "TooLarge",
    "Unavailable",
    "UnsetType",
    "UserId",
    "auth",
    "check_body",
    "command",
    "direct_conversation_id",
    "invalid_body",
    "known_scopes",
    "load_all",
    "offline_database",
    "on_event",
    "parties_of",
    "role",
    "route",
]

# Identifiers as the wire protocol, section 3, has them.
UserId = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9_.@-]+\Z")]
GroupId = UserId
ConversationId = Annotated[str, Meta(min_length=3, max_length=131)]  # "d:" + 64 + ":" + 64
ClientId = Annotated[str, Meta(min_length=1, max_length=64)]  # its bound is in bytes: checked where it is used
Limit = Annotated[int, Meta(ge=1, le=500)]  # of a page

#: Who may call a command: anyone, also before login.
ANYONE = "anyone"
#: Who may call a command: any session that is logged in.
USER = "user"


def role(name: str) -> str:
    """Who may call a command: users that have this role (`imserver user role NAME ROLE`), those that are `admin`, and those
    whom `[roles]` of the configuration gives its permission, `<plugin>.<name>`.
    """
    return f"role:{name}"


Handler = Callable[..., Any]
_H = TypeVar("_H", bound=Handler)


@attrs.frozen
class CommandMark:
    """What `@command` leaves on a handler; `imserver.commands` makes a table row of it."""

    command_id: int
    request: type | None
    name: str | None
    allow: str
    timeout_s: float | None
    per_second: float | None
    stateless: bool
    bulk: bool


def command(
    command_id: int,
    *,
    request: type | None = None,
    name: str | None = None,
    allow: str = USER,
    timeout_s: float | None = None,
    per_second: float | None = None,
    stateless: bool = False,
    bulk: bool = False,
) -> Callable[[_H], _H]:
    """Make a method of a plugin the handler of a command.

    Args:
        command_id: 1–65535; the plugin's own range (third parties: 6001–65535).
        request: an attrs class or `msgspec.Struct` whose fields are the body's; None: the body's fields are ignored.
        name: in tables and docs, and behind the plugin's name the permission; by default the method's name in capitals.
        allow: `ANYONE`, `USER` (default) or `role("admin")`.
        timeout_s: the deadline of an `async def` handler; by default `limits.request_timeout`.
        per_second: at most so many a second and connection (burst: 2×), beside the connection's own limit.
        stateless: the answer depends on nothing that a commit could still take back (a heartbeat, typing), so it does
            not wait for the disk.
        bulk: the answer of this `async def` handler may be long (over some 64 KiB). On one connection requests of such
            commands run one at a time, and not before the client has read most of what it was sent: what it asks for and
            does not read is not held for it.
    """

    def mark(handler: _H) -> _H:
        handler.__imserver_command__ = CommandMark(  # type: ignore[attr-defined]
            command_id, request, name, allow, timeout_s, per_second, stateless, bulk
        )
        return handler

    return mark


@attrs.frozen
class RouteMark:
    """What `@route` leaves on a handler; `imserver.commands` makes a row of it."""

    method: str
    path: str
    allow: str
    timeout_s: float | None
    name: str | None


def route(
    method: str, path: str, *, allow: str = USER, timeout_s: float | None = None, name: str | None = None
) -> Callable[[_H], _H]:
    """Make an `async def` method `(self, ctx, request)` of a plugin answer HTTP requests.

    `request` is Starlette's; `ctx.session` is the caller. The handler returns a Starlette response, or the fields of a JSON
    answer as a command's handler does, or raises an `ImError`.

    Args:
        method: "GET" (which answers HEAD too), "POST", "PUT", "PATCH", "DELETE" or "HEAD".
        path: as Starlette has it: "/v1/dice/{sides:int}".
        allow: as for `command`.
        timeout_s: how long the handler may take until it returns its response; by default `limits.request_timeout`.
        name: behind the plugin's name the permission, as for `command`; by default the method's name in capitals.
    """

    def mark(handler: _H) -> _H:
        marks = getattr(handler, "__imserver_routes__", ())
        handler.__imserver_routes__ = (*marks, RouteMark(method, path, allow, timeout_s, name))  # type: ignore[attr-defined]
        return handler

    return mark


def on_event(name: str) -> Callable[[_H], _H]:
    """Make a method `(self, ctx, **fields)` a listener of an event of the bus, e.g. "user.disabled".

    `def` only: it runs inside the emitter's call. What it raises is logged and costs the emitter nothing.
    """

    def mark(handler: _H) -> _H:
        handler.__imserver_event__ = name  # type: ignore[attr-defined]
        return handler

    return mark


class Plugin:
    """A service: subclass it, name it, give it commands and hooks.

    One instance serves the whole process. With more than one shard its handlers run in several threads: keep what they
    share in `ctx.cache` and `ctx.db`, which are made for that.
    """

    #: Unique; the config's `[plugins.NAME]` and the table of migrations know the plugin by it.
    name: ClassVar[str]
    #: Plugins that must be enabled too; they start before this one.
    requires: ClassVar[Sequence[str]] = ()
    #: Plugins that start before this one if they are enabled.
    wants: ClassVar[Sequence[str]] = ()
    #: The attrs class of `[plugins.NAME]`; `ctx.settings` is an instance of it.
    Settings: ClassVar[type | None] = None
    #: SQL scripts, the first is number 1. Never change one that was released: add another.
    migrations: ClassVar[Sequence[str]] = ()
    #: What `before_send` has to see: messages of these kinds of conversation, and, unless this is False, those of the type
    #: "text", too. It spares all others the call.
    before_send_kinds: ClassVar[Sequence[str]] = ("direct", "group")
    before_send_texts: ClassVar[bool] = True
    #: Sub-commands of `imserver` that this plugin brings along.
    cli_commands: ClassVar[Sequence[click.Command]] = ()

    async def on_start(self, ctx: AppContext) -> None:
        """The database is there, no listener accepts yet. What it raises stops the start (exit status 3)."""

    async def on_stop(self, ctx: AppContext) -> None:
        """All sessions are gone, the database is still there. It has the drain time left."""

    async def authenticate(self, ctx: AppContext, credentials: Credentials) -> Identity | None:
        """Say whose credentials these are; None: another plugin may know. They come with an HTTP request or a handshake.

        The answer is remembered until it expires or `ctx.directory` hears of an end of any session (`close`, `invalidate`).

        Raises:
            NotAuthenticated: they are wrong.
            PermissionDenied: they are right, and of no use: the account is disabled, say.
        """
        return None

    def on_connect(self, ctx: Context) -> None:
        """A connection is there, nobody has logged in."""

    def on_login(self, ctx: Context) -> None:
        """The session is bound to `ctx.session.user_id`; its pushes wait until the login's answer is out."""

    def on_disconnect(self, ctx: Context) -> None:
        """The connection is gone; `ctx.session.user_id` is None if it never logged in."""

    def before_send(self, ctx: Context, draft: Draft) -> None:
        """A message is about to be stored: change `draft.body`, `draft.type` or `draft.mentions`, or raise an `ImError`.

        May raise `NotLoaded`; it is then called again.
        """

    async def hidden_from(self, ctx: AppContext, reader: str, user_ids: Sequence[str]) -> Iterable[str]:
        """Who of these users hides from `reader`, by committed data: `reader` learns neither that they are online nor,
        in the direct conversation, that they read or type.

        When that changes, emit "user.hidden" or "user.shown" once it is durable: what is remembered of it is asked anew.
        """
        return ()

    def after_commit(self, ctx: AppContext, messages: Sequence[Stored]) -> None:
        """These messages are durable and on their way to the devices. Runs in the shard that took them."""


async def load_all(wanted: Iterable[NotLoaded]) -> None:
    """The loader of a handler that needs several things: bring them in all at once; the first failure ends the others."""
    async with trio.open_nursery() as nursery:
        for exc in wanted:
            nursery.start_soon(exc.loader)


@contextmanager
def offline_database(config: Config) -> Iterator[apsw.Connection]:
    """The database for a plugin's command line, with all enabled plugins' tables; a server may run beside it.

    Write inside `with connection:`, which is one transaction.

    Raises:
        StartError: the database cannot be used.
        ConfigError, PluginError: the configuration's plugins cannot be loaded.
    """
    from imserver.plugin_loader import load_plugins
    from imserver.storage.database import offline

    with offline(config.server.data_dir, load_plugins(config).migrations) as connection:
        yield connection


def known_scopes(config: Config) -> list[str]:
    """What the scopes of an API key may be: "*" (all), "admin" (what needs a role), each enabled plugin ("message" or
    "message.*"), each of their commands and routes ("message.SEND").

    Raises:
        ConfigError, PluginError: the configuration's plugins cannot be loaded.
    """
    from imserver.plugin_loader import load_plugins

    return load_plugins(config).permissions.words


def __getattr__(name: str) -> Any:
    """The classes that a plugin sees in signatures, resolved late: they import this module."""
    if name in ("AppContext", "Context"):
        from imserver import context as module
    elif name in ("Conversation", "Draft", "Member", "Stored"):
        from imserver import conversation as module  # type: ignore[no-redef]
    elif name == "SessionInfo":
        from imserver import directory as module  # type: ignore[no-redef]
    elif name == "Caller":
        from imserver import caller as module  # type: ignore[no-redef]
    elif name == "Session":
        from imserver import session as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
