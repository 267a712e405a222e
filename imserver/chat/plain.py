"""Lines in, lines out: for scripts, pipes, screen readers, and terminals that can do nothing else.

What is said by the program goes to standard error; standard output has messages alone, each as

    2026-11-21 12:50 #7 alice: hello
        the second line of the same message

so that no message can look like another one: only the first line of one begins at the margin. A message that was changed
comes once more, with `(edited)`, `(recalled)` or its reactions behind the number.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TextIO

import trio

from imserver.chat.commands import obey
from imserver.chat.doing import Doing
from imserver.chat.model import Chat, reactions_of, text_of
from imserver.chat.sanitize import clean_line, clean_text
from imserver.client import Message

MAX_LINE_BYTES: Final = 256 * 1024
_READ_BYTES: Final = 64 * 1024
_INDENT: Final = "    "


class LineTooLong(Exception):
    """A line of the input is longer than a message may be."""


class Plain:
    """The face for lines.

    Args:
        has_commands: lines that begin with `/` are commands; otherwise every line is a message as it stands. Then, too, who
            types and who has read is told.
        as_json: messages come out as one JSON object a line.
        follow: at the end of the input it stays, and goes on to print.
    """

    is_patient = False

    def __init__(
        self,
        *,
        has_commands: bool,
        as_json: bool = False,
        follow: bool = False,
        out: TextIO | None = None,
        descriptor: int = 0,
    ) -> None:
        self._has_commands = has_commands
        self._as_json = as_json
        self._follow = follow
        self._out = sys.stdout if out is None else out
        self._descriptor = descriptor

    def changed(self) -> None:
        """Nothing to redraw."""

    def say(self, text: str) -> None:
        """To standard error."""
        print(clean_text(text).replace("\n", "\n" + _INDENT), file=sys.stderr, flush=True)

    def notice(self, chat: Chat, text: str) -> None:
        """To standard error, where a person is served."""
        if self._has_commands:
            self.say(f"({f'#{chat.title}: ' if chat.is_group else ''}{text})")

    def arrived(self, chat: Chat, message: Message) -> None:
        """Print a message."""
        self._print(chat, message, "")

    def loaded(self, chat: Chat, messages: list[Message]) -> None:
        """Print them in their order."""
        for message in messages:
            self._print(chat, message, "")

    def altered(self, chat: Chat, message: Message, change: str) -> None:
        """Print the message once more, as it is now."""
        self._print(chat, message, change)

    def _print(self, chat: Chat, message: Message, change: str) -> None:
        line = json_line(message, change) if self._as_json else shown_line(chat, message, change)
        print(line, file=self._out, flush=True)

    def host(self, main: Callable[[], Awaitable[int]]) -> int:
        """Run the program that will call `run`."""
        return trio.run(main, strict_exception_groups=True)

    async def run(self, doing: Doing) -> int:
        """Send each line of the input to the current conversation, until its end."""
        failures = 0
        async for line in lines_of(self._descriptor):
            if not line.strip():
                continue
            if self._has_commands and line.startswith("/") and not line.startswith("//"):
                failures += not await obey(doing, line)
            else:
                failures += not await self._send(doing, line[1:] if self._has_commands and line.startswith("//") else line)
            chat = doing.session.chats.current
            if chat is not None and self._has_commands:
                await doing.seen(chat)
        if self._follow:
            await trio.sleep_forever()
        return 1 if failures else 0

    async def _send(self, doing: Doing, text: str) -> bool:
        chat = doing.session.chats.current
        if chat is None:
            self.say("nobody to send it to: say --to USER, or /to USER")
            return False
        line = doing.compose(chat, text)
        if await doing.deliver(chat, line):
            return True
        self.say(f"not sent: {line.note}: {clean_line(text)}")
        return False


def shown_line(chat: Chat, message: Message, change: str = "") -> str:
    """A message for a person; what the sender chose is clean, and its further lines are indented."""
    when = datetime.fromtimestamp(message.sent_at / 1000).strftime("%Y-%m-%d %H:%M") if message.sent_at else "-"
    sender = clean_line(message.from_) or "*"
    where = f" {clean_line(chat.title)}" if chat.is_group else ""
    answers = f" (to #{message.reply_to})" if message.reply_to else ""
    what = f" ({change})" if change in ("edited", "recalled") else ""
    reactions = f" [{clean_line(reactions_of(message), max_chars=200)}]" if message.reactions else ""
    head = f"{when}{where} #{message.seq}{what}{reactions}{answers} {sender}: "
    return head + clean_text(text_of(message)).replace("\n", "\n" + _INDENT)


def json_line(message: Message, change: str = "") -> str:
    """A message for a program: one line of ASCII, whatever is in it. With `change` it is a known one in a new state."""
    fields: dict[str, Any] = {
        "conversation_id": message.conversation_id,
        "seq": message.seq,
        "message_id": message.message_id,
        "from": message.from_,
        "sent_at": message.sent_at,
        "type": message.type,
        "body": message.body,
    }
    more = {
        "change": change,
        "reply_to": message.reply_to,
        "recalled": message.recalled,
        "edited_at": message.edited_at,
        "reactions": message.reactions,
    }
    return json.dumps({**fields, **{name: value for name, value in more.items() if value}}, default=_base64)


def _base64(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


async def lines_of(descriptor: int) -> AsyncIterator[str]:
    """The lines of the input, read in a thread, since it may be a file. Not by `sys.stdin`: a thread that still waits in it
    at the end of the process would hold its lock.

    Raises:
        LineTooLong: one has more than `MAX_LINE_BYTES`.
    """
    rest = b""
    while data := await trio.to_thread.run_sync(os.read, descriptor, _READ_BYTES, abandon_on_cancel=True):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise LineTooLong(f"a line of more than {MAX_LINE_BYTES} bytes")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")
