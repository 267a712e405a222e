"""The words behind a command: messages by `#NUMBER`, paths, the conversation that is open."""

from __future__ import annotations

import re
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import attrs

from imserver.chat.doing import Doing
from imserver.chat.errors import CannotDo
from imserver.chat.model import Chat, Line, is_servers

_NUMBER: Final = re.compile(r"#([0-9]{1,15})(?:\s+|$)")


@attrs.frozen
class Command:
    """One command.

    Attributes:
        usage: its arguments, as `/help` shows them.
        words: what it does, for `/help`.
        run: does it, with the text behind the name.
    """

    usage: str
    words: str
    run: Callable[[Doing, str], Awaitable[None]]


def here(doing: Doing) -> Chat:
    """The current conversation.

    Raises:
        CannotDo: there is none.
    """
    current = doing.session.chats.current
    if current is None:
        raise CannotDo("no conversation is open; /to USER opens one")
    return current


def group_here(doing: Doing) -> str:
    """The id of the group that is open.

    Raises:
        CannotDo: none is.
    """
    chat = here(doing)
    if not chat.is_group:
        raise CannotDo("this is no group; /group NAME USER … begins one")
    return chat.conversation_id[2:]


def needed(rest: str, usage: str) -> str:
    """What stands behind the command.

    Raises:
        CannotDo: nothing does.
    """
    if not rest:
        raise CannotDo(f"write {usage}")
    return rest


def message_and_rest(doing: Doing, rest: str, *, is_own: bool) -> tuple[Line, str]:
    """The message that `#NUMBER` names, and the words behind it; without a number the latest, of one's own or of others.

    Raises:
        CannotDo: there is none, or it is not loaded.
    """
    chat = here(doing)
    found = _NUMBER.match(rest)
    if found is not None:
        line = chat.line(int(found[1]))
        if line is None:
            raise CannotDo(f"#{found[1]} is not among the messages that are loaded; /older loads more")
        return line, rest[found.end() :]
    for line in reversed(chat.lines):
        is_mine = line.message.from_ == doing.session.user_id
        if is_mine == is_own and not line.message.recalled and not is_servers(line.message):
            return line, rest
    raise CannotDo("there is no message of yours here" if is_own else "there is no message of others here")


def split(rest: str) -> list[str]:
    """Words, those in quotes as one.

    Raises:
        CannotDo: a quote has no end.
    """
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise CannotDo("a quote has no end") from error


def path_of(text: str) -> Path:
    """A path as it is typed or dropped: with spaces as they are, in quotes, or with backslashes."""
    if text[:1] in ("'", '"') or "\\ " in text:
        words = split(text)
        text = words[0] if words else ""
    return Path(text).expanduser()
