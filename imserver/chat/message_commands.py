"""Commands on messages: history, search, answer, edit, recall, react, receipts, files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from imserver.chat.doing import Doing
from imserver.chat.errors import CannotDo
from imserver.chat.model import Line, text_of
from imserver.chat.sanitize import clean_line
from imserver.chat.words import Command, here, message_and_rest, needed, path_of

MAX_FOUND: Final = 20


async def _older(doing: Doing, _rest: str) -> None:
    chat = here(doing)
    page = await doing.load_older(chat)
    if not page:
        raise CannotDo("this is the beginning")
    doing.session.face.loaded(chat, page)


async def _search(doing: Doing, rest: str) -> None:
    session = doing.session
    found, more = await session.client.search(needed(rest, "/search TEXT"), limit=MAX_FOUND)
    for message in reversed(found):
        title = clean_line(session.chats.title_of(message.conversation_id))
        text = clean_line(text_of(message), max_chars=160)
        session.face.say(f"{title} #{message.seq}, {message.from_}: {text}")
    session.face.say("there are more; say it more precisely" if more else f"{len(found)} found")


async def _reply(doing: Doing, rest: str) -> None:
    line, text = message_and_rest(doing, rest, is_own=False)
    if not await doing.send(here(doing), needed(text, "/reply TEXT, or /reply #N TEXT"), reply_to=line.seq):
        raise CannotDo("not sent; /retry sends it again")


async def _edit(doing: Doing, rest: str) -> None:
    line, text = message_and_rest(doing, rest, is_own=True)
    needed(text, "/edit and the new text of your last message, or /edit #N TEXT")
    edited_at = await doing.session.client.edit(line.message.conversation_id, line.seq, text)
    _own(doing, line, "edited", {"body": text, "edited_at": edited_at})


async def _recall(doing: Doing, rest: str) -> None:
    line, _ = message_and_rest(doing, rest, is_own=True)
    await doing.session.client.recall(line.message.conversation_id, line.seq)
    _own(doing, line, "recalled", {"recalled": True})


async def _react(doing: Doing, rest: str) -> None:
    line, emoji = message_and_rest(doing, rest, is_own=False)
    needed(emoji, "/react 👍, or /react #N 👍; once more takes it away")
    me, message = doing.session.user_id, line.message
    had = me in message.reactions.get(emoji, ())
    await doing.session.client.react(message.conversation_id, line.seq, emoji, remove=had)
    others = [user_id for user_id in line.message.reactions.get(emoji, ()) if user_id != me]
    reactions = {**line.message.reactions, emoji: others if had else [*others, me]}
    _own(doing, line, "reacted", {"reactions": {key: list(users) for key, users in reactions.items() if users}})


def _own(doing: Doing, line: Line, change: str, state: Mapping[str, Any]) -> None:
    """Show a change of one's own: the server tells it to the others, and this client has its answer."""
    line.message = line.message.with_change(change, state)
    doing.session.face.altered(doing.session.chats.get(line.message.conversation_id), line.message, change)
    doing.session.face.changed()


async def _readers(doing: Doing, rest: str) -> None:
    line, _ = message_and_rest(doing, rest, is_own=True)
    receipts = await doing.session.client.receipts(line.message.conversation_id, line.seq)
    names = ", ".join(receipts.read) or "nobody"
    doing.session.face.say(f"#{line.seq} was read by {names}; {receipts.unread_count} have not")


async def _file(doing: Doing, rest: str) -> None:
    path = path_of(needed(rest, "/file PATH"))
    if not await doing.send_file(here(doing), path):
        raise CannotDo(f"{path.name} is not sent; /retry sends its message again")
    doing.session.face.say(f"{path.name} is sent")


async def _save(doing: Doing, rest: str) -> None:
    first, _, more = rest.partition(" ")
    digits = first.removeprefix("#")
    seq = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else None
    where = more.strip() if seq is not None else rest
    saved = await doing.save(here(doing), seq, path_of(where) if where else None)
    doing.session.face.say(f"saved as {saved}")


async def _retry(doing: Doing, _rest: str) -> None:
    doing.session.face.say(f"{await doing.retry(here(doing))} sent")


COMMANDS: Final[Mapping[str, Command]] = {
    "older": Command("", "load the page before", _older),
    "search": Command("TEXT", "find messages in all conversations", _search),
    "reply": Command("[#N] TEXT", "answer the last message of others, or message N", _reply),
    "edit": Command("[#N] TEXT", "change your last message, or message N", _edit),
    "recall": Command("[#N]", "take your last message back, or message N", _recall),
    "react": Command("[#N] EMOJI", "react to the last message of others, or to N; once more: take it away", _react),
    "readers": Command("[#N]", "who has read your last message, or message N", _readers),
    "file": Command("PATH", "send a file", _file),
    "save": Command("[N] [PATH]", "save the newest file, or that of message N", _save),
    "retry": Command("", "send again what failed", _retry),
}
