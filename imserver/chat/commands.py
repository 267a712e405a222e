"""The commands that begin with `/`, for both faces: the table, `/help`, and what concerns conversations as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imserver.chat import friend_commands, group_commands, message_commands
from imserver.chat.doing import Doing
from imserver.chat.errors import CannotDo, Quit
from imserver.chat.model import Chat
from imserver.chat.words import Command, here, needed
from imserver.client import ClientError

MAX_LISTED: Final = 50


async def obey(doing: Doing, line: str) -> bool:
    """Carry out a line that begins with `/`; what goes wrong is said on the session's face. Returns whether it went well.

    Raises:
        Quit: the user wants to go.
    """
    name, _, rest = line[1:].strip().partition(" ")
    command = COMMANDS.get(name.lower())
    try:
        if command is None:
            raise CannotDo("there is no such command; /help tells what there is, and // begins a text with a slash")
        await command.run(doing, rest.strip())
    except (CannotDo, ClientError, OSError, ValueError) as error:
        doing.session.face.say(f"/{name}: {error}")
        return False
    return True


def help_text(prefix: str = "") -> str:
    """All commands, one a line."""
    width = max(len(f"/{name} {command.usage}") for name, command in COMMANDS.items())
    return "\n".join(f"{prefix}{f'/{name} {one.usage}':{width}}  {one.words}" for name, one in COMMANDS.items())


def list_line(chat: Chat) -> str:
    """One conversation in a list."""
    name = f"#{chat.title}" if chat.is_group else chat.title
    marks = [
        f"{chat.unread} unread" if chat.unread else "",
        "on line" if chat.is_online else "",
        "pinned" if chat.is_pinned else "",
        "muted" if chat.is_muted else "",
    ]
    return ", ".join([name, *filter(None, marks)])


async def _help(doing: Doing, _rest: str) -> None:
    doing.session.face.say(help_text() + "\n#N is a message's number; without it the latest is meant.")


async def _to(doing: Doing, rest: str) -> None:
    await doing.open(await doing.find(needed(rest, "/to USER, or /to #GROUP")))


async def _list(doing: Doing, _rest: str) -> None:
    chats = doing.session.chats.ordered()
    if not chats:
        raise CannotDo("no conversation yet; /to USER opens one")
    doing.session.face.say("\n".join(map(list_line, chats[:MAX_LISTED])))


async def _settings(doing: Doing, *, muted: bool | None = None, pinned: bool | None = None) -> None:
    chat = here(doing)
    settings = await doing.session.client.set_conversation(chat.conversation_id, muted=muted, pinned=pinned)
    chat.is_muted, chat.is_pinned = settings.muted, settings.pinned
    doing.session.face.say(list_line(chat))
    doing.session.face.changed()


async def _mute(doing: Doing, _rest: str) -> None:
    await _settings(doing, muted=not here(doing).is_muted)


async def _pin(doing: Doing, _rest: str) -> None:
    await _settings(doing, pinned=not here(doing).is_pinned)


async def _delete(doing: Doing, rest: str) -> None:
    chat = here(doing)
    if rest != "yes":
        raise CannotDo("this hides the conversation and all that is in it from you, for ever: write /delete yes")
    await doing.session.client.delete_conversation(chat.conversation_id)
    doing.session.chats.forget(chat.conversation_id)
    doing.session.face.changed()


async def _logout(_doing: Doing, _rest: str) -> None:
    raise Quit(forget=True)


async def _quit(_doing: Doing, _rest: str) -> None:
    raise Quit


COMMANDS: Final[Mapping[str, Command]] = {
    "help": Command("", "this list", _help),
    "to": Command("USER or #GROUP", "open a conversation", _to),
    "list": Command("", "the conversations, with what is unread", _list),
    **message_commands.COMMANDS,
    **group_commands.COMMANDS,
    **friend_commands.COMMANDS,
    "mute": Command("", "ring no more for this conversation, or again", _mute),
    "pin": Command("", "keep this conversation at the top, or no more", _pin),
    "delete": Command("yes", "hide this conversation and its past from yourself", _delete),
    "logout": Command("", "end the session, forget the token, and quit", _logout),
    "quit": Command("", "quit; the session stays, if it is remembered", _quit),
}
