"""Commands: a text `/name arguments` in a conversation with a bot becomes the event `bot.command`.

They are found in the stored messages, in their order. That one was found is noted in the commit in which its listeners
write: so none is told twice or never, whatever happens to the server.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from attrs import frozen

from imserver.plugin import ImError, StorageError
from imserver_plugins.bot import store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imserver.plugin import AppContext

_COMMAND: Final = re.compile(r"/([A-Za-z0-9_]{1,32})(?:@([A-Za-z0-9_.@-]{1,64}))?(?:\s+(.*))?\Z", re.DOTALL)
#: Between two looks while nothing is heard.
_LOOK_S: Final = 2.0
_AGAIN_S: Final = 1.0


@frozen
class Parsed:
    """A command: `/name@to arguments`."""

    name: str
    to: str | None
    arguments: str


def parse(text: str) -> Parsed | None:
    """What a text commands; None: it is none."""
    match = _COMMAND.match(text)
    if match is None:
        return None
    return Parsed(match[1].lower(), match[2], (match[3] or "").strip())


class Follower:
    """The background task."""

    def __init__(self, ctx: AppContext) -> None:
        self._ctx = ctx
        self._bell = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def ring_soon(self) -> None:
        """There may be a command; from any thread."""
        try:
            self._token.run_sync_soon(self._ring)
        except trio.RunFinishedError:
            return  # it is found at the next start

    def _ring(self) -> None:
        self._bell.set()

    async def run(self) -> None:
        """Tell of commands until cancelled."""
        while True:
            self._bell = trio.Event()
            try:
                has_more = await self.step()
            except (StorageError, ImError) as exc:
                # The disk is full, say: that has its own alarm, and nothing was noted.
                self._ctx.log.warning("bot_commands_failed", error=str(exc))
                await trio.sleep(_AGAIN_S)
                continue
            if not has_more:
                with trio.move_on_after(_LOOK_S):
                    await self._bell.wait()

    async def step(self) -> bool:
        """Look at the next messages; whether there are more."""
        found, through, has_more = await self._ctx.db.read_transaction(store.candidates)
        if through:
            events = [event for one in found for event in _events(one)]
            await self._ctx.conversations.transact(lambda ctx: _tell(ctx, events, through))
        return has_more


def _tell(ctx: AppContext, events: Sequence[dict[str, Any]], through: int) -> None:
    ctx.db.write(*store.advance(through))
    for event in events:
        ctx.emit("bot.command", **event)


def _events(one: store.Candidate) -> list[dict[str, Any]]:
    body = msgspec.msgpack.decode(one.body)
    parsed = parse(body) if isinstance(body, str) else None
    if parsed is None:
        return []
    return [
        {
            "event_id": f"c-{one.message_id:016x}-{bot}",
            "bot": bot,
            "name": parsed.name,
            "arguments": parsed.arguments,
            "user_id": one.sender,
            "conversation_id": one.conversation_id,
            "seq": one.seq,
            "message_id": f"{one.message_id:016x}",
        }
        for bot in one.bots
        if parsed.to in (None, bot)
    ]
