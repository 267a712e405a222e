"""TYPING: who is told, how often, and that nothing is stored; in the real core with a clock that stands still."""

from contextlib import closing
from typing import Any

import apsw
import helpers
import msgspec
import pytest

from imserver.plugin import Plugin, command
from imserver_plugins.message import MessagePlugin
from imserver_plugins.message.composing import MAX_MEMBERS, REPEAT_S, TYPINGS_PER_SECOND

ERROR, TYPING, TYPING_PUSH, GET_USER = 3, 2008, 5005, 1006
AB = "d:a:b"
USERS = ("a", "b", "c")


class UserIds(msgspec.Struct):
    """What the message plugin asks for to know who exists."""

    user_ids: list[str]


class Users(Plugin):
    """Stands for the user plugin: three users exist."""

    name = "user"

    @command(GET_USER, request=UserIds, name="GET_USER")
    async def get_user(self, ctx: Any, request: UserIds) -> dict[str, Any]:
        """Those of them who exist."""
        return {"users": [{"user_id": name} for name in request.user_ids if name in USERS]}


class Login(Plugin):
    """A login without passwords, and a barrier behind what was pushed."""

    name = "base"
    login = helpers.Base.login
    barrier = helpers.Base.barrier

    def __init__(self) -> None:
        self.numbers = iter(range(1, 1000))


@pytest.fixture
def open_rig(monkeypatch, tmp_path):
    """The core with the message plugin and its own login."""
    monkeypatch.setattr(helpers, "Base", Login)
    return lambda **options: helpers.running(tmp_path, Users(), MessagePlugin(), **options)


async def told(peer):
    """The pushes 5005 that have come to a peer, as (user, on)."""
    await peer.ok(helpers.BARRIER)
    found = [(fields["user_id"], fields["on"]) for command_id, fields in peer.pushes if command_id == TYPING_PUSH]
    peer.pushes.clear()
    return found


@pytest.mark.parametrize("shards", [1, 2])
async def test_the_other_members_are_told_on_every_device(open_rig, shards):
    """Also before the conversation's first message, over shards; one's own devices are not told, and nothing is stored."""
    async with open_rig(shards=shards) as rig:
        a, a2 = await rig.login("a"), await rig.login("a", shard=shards - 1)
        b, b2 = await rig.login("b"), await rig.login("b", shard=shards - 1)
        c = await rig.login("c")
        await a.ok(TYPING, to="b")
        for peer in (b, b2):
            assert await peer.push() == (TYPING_PUSH, {"conversation_id": AB, "user_id": "a", "on": True})
        await b2.ok(TYPING, conversation_id=AB, on=True)
        for peer in (a, a2):
            assert (await peer.push())[1]["user_id"] == "b"
        for peer in (a, a2, b, b2, c):
            assert await told(peer) == []
        assert rig.rows("SELECT count(*) FROM messages") == [(0,)]
        assert rig.rows("SELECT count(*) FROM conversations") == [(0,)]


async def test_no_answer_is_given_unless_it_is_asked_for(open_rig):
    """Without a rid nothing comes; with one an empty answer."""
    async with open_rig() as rig:
        a, b = await rig.login("a"), await rig.login("b")
        await a.send(TYPING, to="b")
        assert await a.ok(helpers.BARRIER) == {"rid": 2, "code": 0}
        assert not a.pushes
        assert await told(b) == [("a", True)]
        assert await a.ok(TYPING, to="b", on=False) == {"rid": 3, "code": 0}


async def test_who_may_tell_whom(open_rig):
    """Members alone, users who exist alone; to oneself it does nothing."""
    async with open_rig() as rig:
        a, c = await rig.login("a"), await rig.login("c")
        assert (await a.call(TYPING, to="nobody"))["code"] == 404
        assert (await c.call(TYPING, conversation_id=AB))["code"] == 403
        assert (await a.call(TYPING, conversation_id="g:none"))["code"] == 404
        assert (await a.call(TYPING))["field"] == "to"
        await a.ok(TYPING, to="a")
        assert await told(a) == []
        await c.send(TYPING, conversation_id=AB)
        command_id, fields = await c.push()
        assert (command_id, fields["code"], fields["command"]) == (ERROR, 403, TYPING)


async def test_the_same_again_is_told_once_in_a_while(open_rig):
    """ "Still typing" once in `REPEAT_S`, "stopped" once; the clock alone decides."""
    async with open_rig() as rig:
        a, b = await rig.login("a"), await rig.login("b")
        for _ in range(10):
            await a.ok(TYPING, to="b")
        assert await told(b) == [("a", True)]
        rig.clock.advance(REPEAT_S)
        for _ in range(3):
            await a.ok(TYPING, to="b")
        assert await told(b) == [("a", True)]
        for _ in range(3):
            await a.ok(TYPING, to="b", on=False)
        assert await told(b) == [("a", False)]
        rig.clock.advance(REPEAT_S * 3)
        await a.ok(TYPING, to="b", on=False)
        assert await told(b) == []


async def test_a_flapping_typist_costs_three_pushes_at_most(open_rig):
    """On and off without end: a few get through in `REPEAT_S`, and the last word is "off"."""
    async with open_rig() as rig:
        a, b = await rig.login("a"), await rig.login("b")
        for _ in range(3):
            for _ in range(6):
                await a.ok(TYPING, to="b", on=True)
                await a.ok(TYPING, to="b", on=False)
            pushes = await told(b)
            assert 2 <= len(pushes) <= 3
            assert pushes[-1] == ("a", False)
            rig.clock.advance(REPEAT_S)


async def test_other_conversations_are_counted_apart(open_rig):
    """What was told to one says nothing of another."""
    async with open_rig() as rig:
        a, b, c = await rig.login("a"), await rig.login("b"), await rig.login("c")
        await a.ok(TYPING, to="b")
        await a.ok(TYPING, to="c")
        assert await told(b) == await told(c) == [("a", True)]


async def test_requests_are_limited(open_rig):
    """Twice a second's worth at once, then 429; the connection goes on."""
    async with open_rig() as rig:
        a = await rig.login("a")
        codes = [(await a.call(TYPING, to="b"))["code"] for _ in range(3 * TYPINGS_PER_SECOND)]
        assert codes.index(429) in (2 * TYPINGS_PER_SECOND, 2 * TYPINGS_PER_SECOND + 1)
        assert set(codes) == {0, 429}


@pytest.mark.parametrize(("members", "is_told"), [(MAX_MEMBERS, True), (MAX_MEMBERS + 1, False)])
async def test_nobody_is_told_in_a_very_large_group(open_rig, members, is_told):
    """Up to the bound all are, beyond it none."""
    async with open_rig() as rig:
        names = ["a", "b", *(f"m{number}" for number in range(members - 2))]
        with closing(apsw.Connection(str(rig.folder / "imserver.db"))) as connection, connection:
            connection.execute("INSERT INTO conversations VALUES (1, 'g:big', 'group', 0)")
            columns = "conversation, user_id, joined_seq, read_seq, hidden_seq, changed"
            rows = [(name,) for name in names]
            connection.executemany(f"INSERT INTO members ({columns}) VALUES (1, ?, 0, 0, 0, 0)", rows)
        a, b = await rig.login("a"), await rig.login("b")
        await a.ok(TYPING, conversation_id="g:big")
        assert await told(b) == ([("a", True)] if is_told else [])
