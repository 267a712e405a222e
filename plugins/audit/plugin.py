"""The plugin: what is entered into the log, and the task that puts the hashes in."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec
import trio
from attrs import define, frozen

from imserver.plugin import Meta, Plugin, StorageError, on_event
from imserver_plugins.audit import chain, cli, store

if TYPE_CHECKING:
    import click

    from imserver.plugin import AppContext

_SEAL_EVERY_S: Final = 1.0
_SEALED_AT_ONCE: Final = 1000
_TELL_EVERY: Final = 3600  # seals
_WINDOW_MS: Final = 60_000
#: Of the fields of one entry, and of one of them, as JSON; what is longer is cut, so that the others are there.
_MAX_FIELDS_CHARS: Final = 4096
_MAX_FIELD_CHARS: Final = 512

#: Entries that anybody can cause as often as they like. Each kind has a bound of its own: by causing many of one nobody
#: hides another.
_BY_ANYBODY: Final = (
    "authn_login_fail", "authn_key_fail", "authn_token_reuse", "authz_fail", "input_validation_fail", "excess_",
)  # fmt: skip
#: Kinds that are told apart; what a plugin makes up beyond that shares one bound.
_MAX_KINDS: Final = 32


@frozen
class Settings:
    """`[plugins.audit]`

    failures_per_minute: entries of one kind on what anybody can cause; beyond it they are counted, and one entry says how
        many there were.
    """

    failures_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)] = 600


@define
class _Window:
    """The minute that runs, of one kind of entry."""

    begins_ms: int
    entered: int = 0
    suppressed: int = 0


class AuditPlugin(Plugin):
    """Writes down what matters, so that it cannot be changed unseen."""

    name = "audit"
    requires = ("user",)
    wants = ("group",)
    Settings = Settings
    migrations: ClassVar[Sequence[str]] = store.MIGRATIONS
    cli_commands: ClassVar[Sequence[click.Command]] = cli.COMMANDS

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    async def on_start(self, ctx: AppContext) -> None:
        """Enter the start, and begin to put hashes in."""
        self._enter(ctx, "sys_startup", {"server": ctx.config.server.name})
        await ctx.wait_durable()
        await self._seal(ctx)
        await self._tell_head(ctx)
        ctx.start_soon(self._run, ctx)

    async def on_stop(self, ctx: AppContext) -> None:
        """Enter the stop, and put its hash in."""
        self._enter_suppressed(ctx, is_over=True)
        self._enter(ctx, "sys_shutdown", {"server": ctx.config.server.name})
        await ctx.wait_durable()
        await self._seal(ctx)
        await self._tell_head(ctx)

    # ------------------------------------------------------------ what is entered

    @on_event("audit")
    def audit(self, ctx: AppContext, *, what: str, **fields: Any) -> None:
        """`ctx.emit("audit", what="authz_fail", user_id=…)`: an entry, in the commit of the handler that runs."""
        if what.startswith(_BY_ANYBODY) and not self._has_room(ctx, what):
            return
        self._enter(ctx, what, fields)

    @on_event("group.created")
    def group_created(self, ctx: AppContext, **fields: Any) -> None:
        """A group has its first owner."""
        self._enter(ctx, "group_created", fields)

    @on_event("group.dismissed")
    def group_dismissed(self, ctx: AppContext, **fields: Any) -> None:
        """A group is no more."""
        self._enter(ctx, "group_deleted", fields)

    @on_event("group.role")
    def group_role(self, ctx: AppContext, **fields: Any) -> None:
        """A member may more than before, or less; the owner changes so, too."""
        self._enter(ctx, "privilege_permissions_changed", fields)

    def _enter(self, ctx: AppContext, event: str, fields: dict[str, Any]) -> None:
        plain = {key: _short(value) for key, value in fields.items() if value is not None}
        text = msgspec.json.encode(plain).decode()
        if len(text) > _MAX_FIELDS_CHARS:
            text = msgspec.json.encode({"left_out": f"{len(text)} characters"}).decode()
        ctx.db.write(*store.add(ctx.clock.now_ms(), event, text))

    def _has_room(self, ctx: AppContext, what: str) -> bool:
        now_ms = ctx.clock.now_ms()
        with self._lock:
            kind = what if what in self._windows or len(self._windows) < _MAX_KINDS else ""
            window = self._windows.setdefault(kind, _Window(now_ms))
            if window.entered < ctx.settings.failures_per_minute and not self._is_over(window, now_ms):
                window.entered += 1
                return True
            if self._is_over(window, now_ms) and not window.suppressed:
                self._windows[kind] = _Window(now_ms, entered=1)
                return True
            # Also behind the minute's end, until the background task has entered how many there were.
            window.suppressed += 1
            return False

    @staticmethod
    def _is_over(window: _Window, now_ms: int) -> bool:
        return not 0 <= now_ms - window.begins_ms < _WINDOW_MS

    def _enter_suppressed(self, ctx: AppContext, *, is_over: bool = False) -> None:
        """Say how many entries there are not, of the minutes that are over; `is_over`: of all, for the stop."""
        now_ms = ctx.clock.now_ms()
        with self._lock:
            over = {kind: one for kind, one in self._windows.items() if is_over or self._is_over(one, now_ms)}
            for kind in over:
                del self._windows[kind]
        for kind, window in over.items():
            if window.suppressed:
                self._enter(ctx, "audit_suppressed", {"entries": window.suppressed, "of": kind or None})

    # ------------------------------------------------------------ the chain

    async def _run(self, ctx: AppContext) -> None:
        rounds = 0
        while True:
            await trio.sleep(_SEAL_EVERY_S)
            rounds += 1
            try:
                self._enter_suppressed(ctx)
                await self._seal(ctx)
                if rounds % _TELL_EVERY == 0:
                    await self._tell_head(ctx)
            except StorageError as exc:
                # The disk is full, say: that has its own alarm, and the next round may find it mended.
                ctx.log.warning("audit_seal_failed", error=str(exc))

    async def _seal(self, ctx: AppContext) -> None:
        """Put in the hashes that are missing."""
        while True:
            head, entries = await ctx.db.read_transaction(lambda read: store.unsealed(read, _SEALED_AT_ONCE))
            if entries:
                await ctx.db.write_all(store.seal(chain.seal(head, entries)))
            if len(entries) < _SEALED_AT_ONCE:
                return

    async def _tell_head(self, ctx: AppContext) -> None:
        """Into the server's log, which may be kept elsewhere: `imserver audit verify --expect` takes it."""
        head = await ctx.db.read_transaction(store.head)
        ctx.log.info("audit_head", head=str(head))


def _short(value: Any) -> Any:
    """A field, or what there is room for."""
    if isinstance(value, str):
        return value if len(value) <= _MAX_FIELD_CHARS else value[:_MAX_FIELD_CHARS] + "…"
    if isinstance(value, (bool, int, float)):
        return value
    text = msgspec.json.encode(value).decode()
    return value if len(text) <= _MAX_FIELD_CHARS else text[:_MAX_FIELD_CHARS] + "…"
