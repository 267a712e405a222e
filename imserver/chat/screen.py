"""The full screen, on prompt_toolkit (the extra `imserver[chat]`): conversations on the left, messages, a line to write in.

drawing.py draws the model as it is, whenever something has changed; keys become commands or calls of doing.py, which are
done in Trio tasks. Keys come in the host's asyncio loop, between ticks of Trio: they hand over by the Trio token.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from imserver.chat import guest
from imserver.chat.commands import obey
from imserver.chat.doing import Doing
from imserver.chat.drawing import STYLE, Picture
from imserver.chat.errors import CannotDo, Quit
from imserver.chat.model import Chat
from imserver.client import ClientError, Message

#: How often the screen looks whether somebody has stopped typing without saying so.
REFRESH_S: Final = 1.0


class FullScreen:
    """The face for a terminal.

    Args:
        bell: ring for a message that is not before the user's eyes.
    """

    is_patient = True

    def __init__(self, *, bell: bool = True) -> None:
        self._bell = bell
        self._doing: Doing | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._leaving: Quit | None = None
        self._is_loading = False
        self._looked = trio.Event()
        self._input = Buffer(multiline=True, on_text_changed=self._typed)
        self._picture = Picture(self._input, lambda: self._app.output.get_size())
        self._app: Application[None] = Application(
            layout=self._picture.layout(),
            key_bindings=self._keys(),
            style=STYLE,
            full_screen=True,
            refresh_interval=REFRESH_S,
            mouse_support=False,
        )

    # -------------------------------------------------------------- what a face does

    def changed(self) -> None:
        """Draw again, soon."""
        self._looked.set()
        self._app.invalidate()

    def say(self, text: str) -> None:
        """At the bottom, until Escape."""
        self._picture.say(text)
        self.changed()

    def notice(self, chat: Chat, text: str) -> None:
        """The model shows it."""

    def loaded(self, chat: Chat, messages: list[Message]) -> None:
        """The model shows them."""

    def arrived(self, chat: Chat, message: Message) -> None:
        """Ring, unless it is one's own or the conversation is muted."""
        doing = self._doing
        if self._bell and doing is not None and message.from_ != doing.session.user_id and not chat.is_muted:
            self._app.output.bell()
            self._app.output.flush()

    def altered(self, chat: Chat, message: Message, change: str) -> None:
        """The model shows it."""

    # -------------------------------------------------------------- life

    def host(self, main: Callable[[], Awaitable[int]]) -> int:
        """Run the program that will call `run`, with Trio as the guest of prompt_toolkit's loop."""
        return guest.run(main)

    async def run(self, doing: Doing) -> int:
        """Serve the user until they go.

        Raises:
            Quit: as they have said.
        """
        self._doing = doing
        self._picture.session = doing.session
        self._token = trio.lowlevel.current_trio_token()
        loop = asyncio.get_running_loop()
        ending = (signal.SIGTERM, signal.SIGHUP)
        for number in ending:
            loop.add_signal_handler(number, self._stop)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._look)
                await guest.run_hosted(lambda: self._app.run_async(handle_sigint=False), self._stop)
                self._token = None
                nursery.cancel_scope.cancel()
        finally:
            for number in ending:
                loop.remove_signal_handler(number)
        raise self._leaving or Quit

    def _stop(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    async def _look(self) -> None:
        """What is before the user's eyes is read."""
        while True:
            await self._looked.wait()
            self._looked = trio.Event()
            doing = self._doing
            chat = doing.session.chats.current if doing is not None else None
            if doing is not None and chat is not None and chat.is_opened and self._picture.scroll == 0:
                await doing.seen(chat)

    # -------------------------------------------------------------- keys

    def _soon(self, work: Callable[[Doing], Awaitable[object]]) -> None:
        """Do something of the user's in a Trio task; called from the host loop."""
        if self._token is not None:
            self._token.run_sync_soon(self._start, work)

    def _start(self, work: Callable[[Doing], Awaitable[object]]) -> None:
        if self._nursery is not None and self._token is not None:
            self._nursery.start_soon(self._do, work)

    async def _do(self, work: Callable[[Doing], Awaitable[object]]) -> None:
        assert self._doing is not None
        try:
            await work(self._doing)
        except Quit as going:
            self._leaving = going
            self._stop()
        except (CannotDo, ClientError, OSError, ValueError) as error:
            self.say(str(error))

    def _typed(self, buffer: Buffer) -> None:
        if self._doing is None or self._token is None:
            return
        text = buffer.text
        if text and not text.startswith("/"):
            self._token.run_sync_soon(self._doing.typed)
        elif not text:
            self._token.run_sync_soon(self._doing.stop_typing)

    def _entered(self) -> None:
        """Enter: a command, or a message."""
        text = self._input.text.rstrip()
        if not text.strip() or self._token is None:
            return
        if text.startswith("/") and not text.startswith("//"):
            self._picture.hush()
            self._input.reset(append_to_history=True)
            self._soon(lambda doing: obey(doing, text))
            return
        chat = self._picture.current()
        if chat is None:
            self.say("no conversation is open; /to USER opens one")
            return
        self._input.reset(append_to_history=True)
        self._picture.scroll = 0
        self._picture.hush()
        # In the order of the keys: `run_sync_soon` keeps it, tasks would not.
        self._token.run_sync_soon(self._compose, chat, text[1:] if text.startswith("//") else text)

    def _compose(self, chat: Chat, text: str) -> None:
        if self._doing is None or self._nursery is None:
            return
        try:
            line = self._doing.compose(chat, text)
        except CannotDo as error:
            self.say(str(error))
            self._input.text = text
        else:
            self._nursery.start_soon(self._do, lambda doing: doing.deliver(chat, line))

    def _go(self, step: int, *, unread: bool = False) -> None:
        """Open the next conversation in the list, or the next that has something unread."""
        if self._doing is None:
            return
        chats = self._doing.session.chats
        listed = chats.ordered()
        at = next((index for index, chat in enumerate(listed) if chat is chats.current), -1 if step > 0 else 0)
        candidates = [listed[(at + step * far) % len(listed)] for far in range(1, len(listed) + 1)] if listed else []
        chat = next((one for one in candidates if one.unread or not unread), None)
        if chat is not None:
            self._picture.scroll = 0
            self._soon(lambda doing: doing.open(chat))

    def _page(self, step: int) -> None:
        chat = self._picture.current()
        if chat is None:
            return
        height = max(self._app.output.get_size().rows - 6, 1)
        self._picture.scroll = max(self._picture.scroll + step * height, 0)
        if step > 0 and not self._is_loading and self._picture.scroll + height >= self._picture.count(chat):
            self._is_loading = True
            self._soon(lambda doing: self._older(doing, chat))

    async def _older(self, doing: Doing, chat: Chat) -> None:
        try:
            await doing.load_older(chat)
        finally:
            self._is_loading = False

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        on: dict[tuple[str, ...], Callable[[], object]] = {
            ("enter",): self._entered,
            ("escape", "enter"): lambda: self._input.insert_text("\n"),
            ("c-n",): lambda: self._go(1),
            ("c-p",): lambda: self._go(-1),
            ("tab",): lambda: self._go(1, unread=True),
            ("pageup",): lambda: self._page(1),
            ("pagedown",): lambda: self._page(-1),
            ("c-c",): self._stop,
            ("c-d",): self._stop,
        }
        for names, act in on.items():
            keys.add(*names)(_bound(act))
        # Alone: a key sequence of the terminal begins with it too.
        keys.add("escape", filter=Condition(lambda: self._picture.has_said))(_bound(self._picture.hush))
        return keys


def _bound(act: Callable[[], object]) -> Callable[[KeyPressEvent], Any]:
    def handler(_event: KeyPressEvent) -> None:
        act()

    return handler
