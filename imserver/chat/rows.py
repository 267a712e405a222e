"""Messages and conversations as rows of a screen: texts with styles, cut to a width. No I/O.

A row is what prompt_toolkit calls formatted text: (style, text) pairs. All that others have chosen goes through
sanitize.py here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from imserver.chat.model import Chat, Line, is_servers, reactions_of, text_of
from imserver.chat.sanitize import clean_line, clean_text

Row = list[tuple[str, str]]
#: The width of a text on the screen, in columns.
Width = Callable[[str], int]

INDENT: Final = 2
#: One's own messages: on their way, refused, with the server, read by the peer.
TICKS: Final = {"sending": "…", "failed": "!", "sent": "✓", "read": "✓✓"}


def wrapped(text: str, columns: int, width: Width) -> Iterator[str]:
    """The lines of a text, none wider than `columns`; broken at spaces where there are some."""
    for line in text.split("\n"):
        start, used, space = 0, 0, -1
        at = 0
        while at < len(line):
            wide = width(line[at])
            if used + wide > columns and at > start:
                cut = space if space > start else at
                yield line[start:cut]
                start = cut + 1 if space > start else cut
                at, used, space = start, 0, -1
                continue
            if line[at] == " ":
                space = at
            used += wide
            at += 1
        yield line[start:]


def fit(text: str, columns: int, width: Width) -> str:
    """A text of one line, cut or filled to exactly `columns`."""
    used, shown = 0, []
    for char in text:
        wide = width(char)
        if used + wide > columns:
            break
        shown.append(char)
        used += wide
    return "".join(shown) + " " * (columns - used)


def tick_of(chat: Chat, line: Line) -> str:
    """The mark of one's own message."""
    is_read = line.state == "sent" and not chat.is_group and 0 < line.seq <= chat.peer_read_seq
    return TICKS["read" if is_read else line.state]


def line_rows(chat: Chat, line: Line, user_id: str, columns: int, width: Width) -> list[Row]:
    """One message: its head, what it answers, its text."""
    message = line.message
    is_own = message.from_ == user_id
    if is_servers(message):
        text = clean_text(text_of(message))
        return [[("class:system", f"— {part}")] for part in wrapped(text, max(columns - INDENT, 1), width)]
    when = datetime.fromtimestamp(message.sent_at / 1000).strftime("%d %b %H:%M") if message.sent_at else ""
    head: Row = [("class:own" if is_own else "class:name", clean_line(message.from_) or "*")]
    head.append(("class:meta", f" {when}" + (f" #{message.seq}" if message.seq else "")))
    if message.edited_at:
        head.append(("class:meta", " (edited)"))
    if is_own:
        head.append(("class:failed" if line.state == "failed" else "class:tick", f" {tick_of(chat, line)}"))
    if message.reactions:
        head.append(("class:meta", f" {clean_line(reactions_of(message))}"))
    rows = [head]
    if message.reply_to:
        rows.append([("class:quote", " " * INDENT + fit(f"> {_quoted(chat, message.reply_to)}", columns - INDENT, width))])
    style = "class:gone" if message.recalled else "class:failed" if line.state == "failed" else ""
    for part in wrapped(clean_text(text_of(message)), max(columns - INDENT, 1), width):
        rows.append([(style, " " * INDENT + part)])
    if line.note:
        note = clean_line(f"not sent: {line.note}; /retry sends it again", max_chars=300)
        rows += [[("class:failed", " " * INDENT + part)] for part in wrapped(note, max(columns - INDENT, 1), width)]
    return rows


def _quoted(chat: Chat, seq: int) -> str:
    line = chat.line(seq)
    if line is None:
        return f"#{seq}"
    return f"{clean_line(line.message.from_)}: {clean_line(text_of(line.message), max_chars=120)}"


def chat_rows(chat: Chat, user_id: str, columns: int, wanted: int, width: Width) -> list[Row]:
    """The last `wanted` rows of a conversation, or all of them if they are fewer."""
    groups: list[list[Row]] = []
    count = 0
    for line in reversed([*chat.lines, *chat.pending]):
        groups.append(line_rows(chat, line, user_id, columns, width))
        count += len(groups[-1])
        if count >= wanted:
            break
    return [row for group in reversed(groups) for row in group][-wanted:]


def list_rows(chats: Iterable[Chat], current: Chat | None, columns: int, width: Width) -> list[Row]:
    """The list of conversations, one row each."""
    rows: list[Row] = []
    for chat in chats:
        count = f" {chat.unread}" if chat.unread else ""
        mark = "#" if chat.is_group else "●" if chat.is_online else " "
        name = fit(f"{mark} {clean_line(chat.title)}", max(columns - len(count), 0), width)
        style = "class:current" if chat is current else "class:muted" if chat.is_muted else ""
        rows.append([(style, name), (f"{style} class:unread", count)])
    return rows
