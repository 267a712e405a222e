"""Plugins for the tests of `imserver.testing`."""

from typing import Any

import attrs
import trio

from imserver.plugin import (
    ANYONE,
    AppContext,
    Conflict,
    Context,
    NotFound,
    Plugin,
    command,
    role,
    route,
)

ROLL, WAIT, NOTE, SECRET, TELL, THREAD = 6001, 6002, 6003, 6004, 6005, 6006
TOLD = 6100


@attrs.frozen
class Settings:
    """`[plugins.dice]`"""

    sides: int = 6
    every_s: float = 1.0


@attrs.frozen
class Wait:
    """6002"""

    seconds: float


@attrs.frozen
class Text:
    """6003 and 6005"""

    text: str
    to: str = ""


class Dice(Plugin):
    """One of everything."""

    name = "dice"
    Settings = Settings
    migrations = ("CREATE TABLE dice_notes (text TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;",)

    def __init__(self) -> None:
        self.ticks = 0
        self.gone: list[str] = []

    async def on_start(self, ctx: AppContext) -> None:
        """Start counting."""
        ctx.start_soon(self._count, ctx)

    async def _count(self, ctx: AppContext) -> None:
        while True:
            await trio.sleep(ctx.settings.every_s)
            await ctx.run_sync_in_thread(lambda: None)
            self.ticks += 1

    def on_disconnect(self, ctx: Context) -> None:
        """Remember who left."""
        self.gone.append(ctx.session.user_id or "")

    @command(ROLL, allow=ANYONE)
    def roll(self, ctx: Context, request: Any) -> dict[str, Any]:
        """How many sides, how many ticks, and the time."""
        return {"sides": ctx.settings.sides, "ticks": self.ticks, "now": ctx.clock.now_ms(), "gone": self.gone}

    @command(WAIT, request=Wait)
    async def wait(self, ctx: Context, request: Wait) -> dict[str, Any]:
        """Answer later."""
        await trio.sleep(request.seconds)
        return {"waited": request.seconds}

    @command(NOTE, request=Text)
    async def note(self, ctx: Context, request: Text) -> dict[str, Any]:
        """Keep a text, once."""
        rows = await ctx.db.write("INSERT INTO dice_notes VALUES (?) ON CONFLICT DO NOTHING RETURNING text", (request.text,))
        if not rows:
            raise Conflict("it is there", error="noted", field="text")
        return {}

    @command(SECRET, allow=role("admin"))
    def secret(self, ctx: Context, request: Any) -> dict[str, Any]:
        """For admins."""
        return {"user": ctx.session.user_id, "roles": sorted(ctx.session.roles)}

    @command(TELL, request=Text)
    def tell(self, ctx: Context, request: Text) -> dict[str, Any]:
        """Push a text to a user."""
        ctx.push([request.to], TOLD, {"text": request.text, "from": ctx.session.user_id})
        return {}

    @route("GET", "/v1/dice/{sides:int}", allow=ANYONE)
    async def page(self, ctx: Context, request: Any) -> dict[str, Any]:
        """Who asks, and what for."""
        if request.path_params["sides"] == 0:
            raise NotFound("there is no such die")
        return {"sides": request.path_params["sides"], "user": ctx.session.user_id, "query": dict(request.query_params)}
