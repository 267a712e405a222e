"""What is on the full screen, and how it looks: drawn out of the model whenever prompt_toolkit asks.

Drawing happens in the host's asyncio loop, between ticks of Trio: nothing in here may call Trio.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import BufferControl, HSplit, Layout, VSplit, Window
from prompt_toolkit.layout.controls import FormattedTextControl, UIContent, UIControl
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from imserver.chat import rows
from imserver.chat.commands import help_text
from imserver.chat.model import Chat
from imserver.chat.sanitize import clean_line, clean_text
from imserver.chat.session import Session

#: What the program has said, the latest at the bottom of the screen.
MAX_SAID: Final = 200
SAID_ROWS: Final = 8
LIST_COLUMNS: Final = 24
KEYS: Final = (
    "Write /to USER to begin. Enter sends, Alt+Enter begins a new line. Tab goes to the next conversation with something "
    "unread, Ctrl+N and Ctrl+P to the next and the previous one. PageUp and PageDown scroll, and load older messages. "
    "Escape takes away what the program has said. Ctrl+C ends."
)
STYLE: Final = Style.from_dict(
    {
        "name": "bold ansicyan",
        "own": "bold ansigreen",
        "meta": "ansibrightblack",
        "tick": "ansigreen",
        "failed": "ansired",
        "system": "italic ansibrightblack",
        "quote": "ansibrightblack",
        "gone": "italic ansibrightblack",
        "current": "reverse",
        "muted": "ansibrightblack",
        "unread": "bold ansiyellow",
        "title": "bold",
        "said": "ansiyellow",
        "status": "reverse",
        "lost": "bold reverse ansired",
    }
)


class _Rows(UIControl):
    """Rows from the bottom up; `scroll` rows are below the edge."""

    def __init__(self, draw: Callable[[int, int], list[rows.Row]]) -> None:
        self._draw = draw

    def create_content(self, width: int, height: int | None) -> UIContent:
        shown: list[StyleAndTextTuples] = [[*row] for row in self._draw(width, height or 1)]
        return UIContent(get_line=lambda at: shown[at], line_count=len(shown), show_cursor=False)


class Picture:
    """What is shown.

    Args:
        input: what the user writes.
        size: the terminal's rows and columns.

    Attributes:
        session: None before the login.
        scroll: how many rows of the open conversation are below the edge.
    """

    def __init__(self, input: Buffer, size: Callable[[], Size]) -> None:
        self.input = input
        self.session: Session | None = None
        self.scroll = 0
        self._size = size
        self._said: deque[str] = deque(maxlen=MAX_SAID)
        self._said_rows = 0  # of what was said last; a long answer is shown whole, if the screen has room

    def say(self, text: str) -> None:
        """Show something that is no message, until `hush`."""
        lines = clean_text(text).split("\n")
        self._said.extend(lines)
        self._said_rows = max(len(lines), min(len(self._said), SAID_ROWS))

    def hush(self) -> None:
        """Take away what was said."""
        self._said.clear()

    @property
    def has_said(self) -> bool:
        """There is something to take away."""
        return bool(self._said)

    def current(self) -> Chat | None:
        """The conversation that is open."""
        return None if self.session is None else self.session.chats.current

    def count(self, chat: Chat) -> int:
        """How many rows the conversation has, at the width of now."""
        columns = max(self._size().columns - LIST_COLUMNS - 1, 1)
        assert self.session is not None
        return len(rows.chat_rows(chat, self.session.user_id, columns, 1_000_000, get_cwidth))

    def layout(self) -> Layout:
        """What is where."""
        write = Window(
            BufferControl(self.input, input_processors=[BeforeInput("> ")]),
            height=lambda: min(self.input.document.line_count, 5),
            wrap_lines=True,
        )
        talk = HSplit(
            [
                Window(FormattedTextControl(self._title), height=1),
                Window(_Rows(self._chat)),
                Window(FormattedTextControl(self._said_text), height=self._said_height, wrap_lines=True),
                Window(FormattedTextControl(self._typists), height=1),
            ]
        )
        body = VSplit([Window(_Rows(self._list), width=LIST_COLUMNS), Window(width=1, char="│"), talk])
        return Layout(HSplit([body, Window(FormattedTextControl(self._status), height=1), write]), write)

    def _list(self, columns: int, height: int) -> list[rows.Row]:
        if self.session is None:
            return []
        chats = self.session.chats
        return rows.list_rows(chats.ordered()[:height], chats.current, columns, get_cwidth)

    def _chat(self, columns: int, height: int) -> list[rows.Row]:
        chat = self.current()
        if chat is None or self.session is None:
            return [[("", line)] for line in rows.wrapped(f"{KEYS}\n\n{help_text()}", columns, get_cwidth)][:height]
        found = rows.chat_rows(chat, self.session.user_id, columns, self.scroll + height, get_cwidth)
        self.scroll = max(min(self.scroll, len(found) - height), 0)
        shown = found[: len(found) - self.scroll][-height:]
        return [[("", "")] for _ in range(height - len(shown))] + shown

    def _title(self) -> StyleAndTextTuples:
        chat = self.current()
        if chat is None:
            return [("class:title", "imserver chat")]
        name = clean_line(chat.title)
        there = "" if chat.is_online is None else ", on line" if chat.is_online else ", away"
        return [("class:title", f"#{name}" if chat.is_group else f"{name}{there}")]

    def _said_height(self) -> int:
        return min(len(self._said), self._said_rows, max(self._size().rows - 5, 1))

    def _said_text(self) -> StyleAndTextTuples:
        return [("class:said", "\n".join(list(self._said)[-self._said_height() or len(self._said) :]))]

    def _typists(self) -> StyleAndTextTuples:
        chat = self.current()
        names = [] if chat is None else [clean_line(name) for name in chat.typists(time.monotonic())]
        more = f" (PageDown: {self.scroll} rows below)" if self.scroll else ""
        return [("class:meta", (f"{', '.join(names[:3])} types …" if names else "") + more)]

    def _status(self) -> StyleAndTextTuples:
        if self.session is None:
            return [("class:status", "")]
        session = self.session
        columns = self._size().columns
        if not session.is_connected:
            lost = f"{session.user_id}: no connection, trying again ({session.client.last_failure})"
            return [("class:lost", rows.fit(f" {clean_line(lost, max_chars=300)}", columns, get_cwidth))]
        unread = sum(chat.unread for chat in session.chats.by_id.values() if not chat.is_muted)
        text = f" {clean_line(session.user_id)}: connected, {unread} unread   /help, Ctrl+N next, Tab unread, Ctrl+C quit"
        return [("class:status", rows.fit(text, columns, get_cwidth))]
