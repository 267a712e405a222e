"""Commands on friends and blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imserver.chat.doing import Doing
from imserver.chat.errors import CannotDo
from imserver.chat.words import Command, needed

PAGE: Final = 500


async def _friends(doing: Doing, _rest: str) -> None:
    friends = doing.session.client.friends
    listed, more = await friends.list_friends(limit=PAGE)
    asking, _ = await friends.list_requests(state="pending", limit=PAGE)
    lines = [
        f"{one.user_id}{f' ({one.remark})' if one.remark else ''}{', on line' if one.is_online else ''}" for one in listed
    ]
    lines += ["… and more"] if more else []
    lines += [f"{one.user_id} asks: /accept {one.user_id}, or /decline {one.user_id}" for one in asking]
    doing.session.face.say("\n".join(lines) or "no friends yet; /friend USER asks somebody")


async def _friend(doing: Doing, rest: str) -> None:
    user_id, _, words = needed(rest, "/friend USER, and perhaps some words").partition(" ")
    await doing.session.client.friends.request(user_id, words.strip())
    doing.session.face.say(f"{user_id} is asked")


async def _accept(doing: Doing, rest: str) -> None:
    await _answer(doing, needed(rest, "/accept USER"), True)


async def _decline(doing: Doing, rest: str) -> None:
    await _answer(doing, needed(rest, "/decline USER"), False)


async def _answer(doing: Doing, user_id: str, accept: bool) -> None:
    friends = doing.session.client.friends
    asked = [one for one in (await friends.list_requests(state="pending", limit=PAGE))[0] if one.user_id == user_id]
    if not asked:
        raise CannotDo(f"{user_id} does not ask for your friendship")
    await friends.answer(asked[0].request_id, accept)
    doing.session.face.say(f"you and {user_id} are friends now" if accept else f"{user_id} is declined")


async def _unfriend(doing: Doing, rest: str) -> None:
    await doing.session.client.friends.delete(needed(rest, "/unfriend USER"))
    doing.session.face.say(f"you and {rest} are no friends any more")


async def _block(doing: Doing, rest: str) -> None:
    await doing.session.client.friends.block(needed(rest, "/block USER"))
    doing.session.face.say(f"{rest} cannot write to you")


async def _unblock(doing: Doing, rest: str) -> None:
    await doing.session.client.friends.unblock(needed(rest, "/unblock USER"))
    doing.session.face.say(f"{rest} can write to you")


COMMANDS: Final[Mapping[str, Command]] = {
    "friends": Command("", "your friends, and who asks to be one", _friends),
    "friend": Command("USER [WORDS]", "ask for a friendship", _friend),
    "accept": Command("USER", "accept who asks", _accept),
    "decline": Command("USER", "decline who asks", _decline),
    "unfriend": Command("USER", "end a friendship", _unfriend),
    "block": Command("USER", "take no messages from a user", _block),
    "unblock": Command("USER", "take messages again", _unblock),
}
