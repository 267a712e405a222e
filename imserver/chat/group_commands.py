"""Commands on groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imserver.chat.doing import Doing
from imserver.chat.errors import CannotDo
from imserver.chat.words import Command, group_here, here, needed, split
from imserver.client import Role

MEMBERS_PAGE: Final = 500
_ROLES: Final[Mapping[str, Role]] = {"owner": "owner", "admin": "admin", "member": "member"}


async def _group(doing: Doing, rest: str) -> None:
    words = split(rest)
    if not words:
        raise CannotDo('write /group NAME USER USER …; a name of several words is in quotes: /group "the team" bob')
    session = doing.session
    made = await session.client.groups.create(words[0], words[1:])
    session.name_group(made.group_id, words[0])
    await doing.open(session.chats.get(made.conversation_id))
    _say_failed(doing, made.failed)


async def _join(doing: Doing, rest: str) -> None:
    words = split(needed(rest, "/join GROUP, by its id"))
    group_id, message = words[0].removeprefix("#"), " ".join(words[1:])
    groups = doing.session.client.groups
    if await groups.join(group_id, message) is not None:
        doing.session.face.say("asked; the owner or an admin of the group must agree")
        return
    doing.session.name_group(group_id, (await groups.get(group_id)).name)
    await doing.open(doing.session.chats.get(f"g:{group_id}"))


async def _add(doing: Doing, rest: str) -> None:
    added = await doing.session.client.groups.add_members(group_here(doing), split(needed(rest, "/add USER …")))
    doing.session.face.say(f"added: {', '.join(added.added) or 'nobody'}")
    _say_failed(doing, added.failed)


async def _remove(doing: Doing, rest: str) -> None:
    removed = await doing.session.client.groups.remove_members(group_here(doing), split(needed(rest, "/remove USER …")))
    doing.session.face.say(f"removed: {', '.join(removed) or 'nobody'}")


async def _admit(doing: Doing, rest: str) -> None:
    await _answer(doing, needed(rest, "/admit USER"), True)


async def _refuse(doing: Doing, rest: str) -> None:
    await _answer(doing, needed(rest, "/refuse USER"), False)


async def _answer(doing: Doing, user_id: str, accept: bool) -> None:
    groups = doing.session.client.groups
    asked = [one for one in (await groups.get(group_here(doing))).join_requests if one.user_id == user_id]
    if not asked:
        raise CannotDo(f"{user_id} does not ask to join this group")
    await groups.answer_join(asked[0].request_id, accept)


async def _members(doing: Doing, _rest: str) -> None:
    members, more = await doing.session.client.groups.list_members(group_here(doing), limit=MEMBERS_PAGE)
    lines = [one.user_id if one.role == "member" else f"{one.user_id} ({one.role})" for one in members]
    doing.session.face.say("\n".join([*lines, *(["… and more"] if more else [])]))


async def _role(doing: Doing, rest: str) -> None:
    words = split(rest)
    role = _ROLES.get(words[1]) if len(words) == 2 else None
    if role is None:
        raise CannotDo("write /role USER admin, or member, or owner")
    await doing.session.client.groups.set_role(group_here(doing), words[0], role)


async def _leave(doing: Doing, _rest: str) -> None:
    chat = here(doing)
    await doing.session.client.groups.leave(group_here(doing))
    doing.session.chats.forget(chat.conversation_id)
    doing.session.face.say(f"you have left #{chat.title}")
    doing.session.face.changed()


def _say_failed(doing: Doing, failed: Mapping[str, str]) -> None:
    for user_id, error in failed.items():
        doing.session.face.say(f"{user_id} is not added: {error.replace('_', ' ')}")


COMMANDS: Final[Mapping[str, Command]] = {
    "group": Command("NAME [USER …]", "begin a group", _group),
    "add": Command("USER …", "add users to this group", _add),
    "remove": Command("USER …", "remove users from this group", _remove),
    "members": Command("", "who is in this group", _members),
    "role": Command("USER ROLE", "make a member admin, member, or owner in your place", _role),
    "leave": Command("", "leave this group", _leave),
    "join": Command("GROUP [WORDS]", "join a group, or ask to, by its id", _join),
    "admit": Command("USER", "let in who asks to join this group", _admit),
    "refuse": Command("USER", "do not let in who asks", _refuse),
}
