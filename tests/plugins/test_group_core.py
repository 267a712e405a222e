"""The group plugin in the real core: rules, and what happens when the disk fails or several ask at once."""

import itertools
import random
from contextlib import asynccontextmanager

import helpers
import msgspec
import pytest
import trio
from helpers import FakeClock

from imserver.conversation import Draft
from imserver.plugin import Plugin, command
from imserver_plugins.group import GroupPlugin, cleanup, store
from imserver_plugins.group.settings import Settings

CREATE, GET, UPDATE, DISMISS, ADD, REMOVE, LEAVE, LIST_MEMBERS, SET_ROLE, MUTE, LIST, JOIN, ANSWER = range(4001, 4014)
WRITE, MESSAGE, GROUP, BARRIER = 6002, 5001, 5008, helpers.BARRIER
DAY_S = 86400
UNLIMITED = {"requests_per_second": 0}


class GetUsers(msgspec.Struct):
    """GET_USER's request."""

    user_ids: list[str]


class Write(msgspec.Struct):
    """A message to a group."""

    group_id: str
    client_id: str
    type: str = "text"
    mentions: list[str] | None = None


class Users(Plugin):
    """Stands for the user plugin: everybody exists but nobody."""

    name = "user"

    @command(1006, request=GetUsers)
    async def get_user(self, ctx, request):
        return {"users": [{"user_id": name, "nickname": name.title()} for name in request.user_ids if name != "nobody"]}


class Messages(Plugin):
    """Stands for the message plugin; a SEND without a check of its own."""

    name = "message"

    @command(WRITE, request=Write)
    def write(self, ctx, request):
        conversation = ctx.conversations.require(f"g:{request.group_id}")
        draft = Draft(
            f"g:{request.group_id}", ctx.session.user_id, request.client_id, request.type, "hi", mentions=request.mentions
        )
        stored = ctx.messages.append(conversation, draft)
        ctx.push(conversation.recipients, MESSAGE, stored.message, except_session=ctx.session)
        return {"seq": stored.seq}


@asynccontextmanager
async def running(folder, *, shards=1, **settings):
    """The core with the plugin, started."""
    plugin = GroupPlugin()
    make_registry = helpers.registry_of

    def registry_of(*plugins):
        registry = make_registry(*plugins)
        registry.settings["group"] = Settings(**settings)
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "registry_of", registry_of)
        async with helpers.running(
            folder, Users(), Messages(), plugin, shards=shards, clock=FakeClock(), limits=UNLIMITED
        ) as rig:
            rig.context = rig.shard.router.app_context("group")
            await plugin.on_start(rig.context)
            yield rig


_numbers = itertools.count(1)


async def write(peer, group_id="g", **fields):
    """Send; gives the answer."""
    return await peer.call(WRITE, group_id=group_id, client_id=f"c-{next(_numbers)}", **fields)


async def refused(peer, command_id, **fields):
    """The code and name of the error."""
    answer = await peer.call(command_id, **fields)
    assert answer["code"] != 0, answer
    return answer["code"], answer["error"]


async def pushes(peer):
    """All that was pushed to it so far, as (command, fields)."""
    await peer.ok(BARRIER)
    found = list(peer.pushes)
    peer.pushes.clear()
    return found


async def told(peer):
    """The events of 5008 that it was told of."""
    return [
        (fields["event"], fields["by"], fields.get("user_ids"))
        for command_id, fields in await pushes(peer)
        if command_id == GROUP
    ]


async def members_of(peer, group_id="g", **fields):
    """LIST_MEMBERS as {user: role}."""
    answer = await peer.ok(LIST_MEMBERS, group_id=group_id, **fields)
    return {member["user_id"]: member["role"] for member in answer["members"]}


async def group_of(rig, *users, **fields):
    """A group `g` of the first one's; their connections, with nothing in them."""
    peers = [await rig.login(user) for user in users]
    await peers[0].ok(CREATE, group_id="g", name="G", members=list(users[1:]), **fields)
    for peer in peers:
        await pushes(peer)
    return peers


# ---------------------------------------------------------------- what a group is


async def test_a_group_is_created_and_told_of(tmp_path):
    """Its members get the message of the server and the push; who cannot be added is named."""
    async with running(tmp_path) as rig:
        ann, bob, cyd = await rig.login("ann"), await rig.login("bob"), await rig.login("cyd")
        answer = await ann.ok(CREATE, name="Tea", members=["bob", "nobody", "ann", "bob"], join="open")
        assert answer["conversation_id"] == f"g:{answer['group_id']}"
        assert answer["failed"] == [{"user_id": "nobody", "error": "not_found"}]
        (message, push) = await pushes(bob)
        assert (message[0], message[1]["type"], message[1]["from"], message[1]["seq"]) == (MESSAGE, "system", "", 1)
        assert message[1]["body"] == {"event": "created", "by": "ann", "user_ids": ["ann", "bob"], "name": "Tea"}
        assert push == (GROUP, {"group_id": answer["group_id"], **message[1]["body"]})
        assert len(await pushes(ann)) == 2
        assert await pushes(cyd) == []
        group = (await bob.ok(GET, group_id=answer["group_id"]))["group"]
        assert group == {
            "group_id": answer["group_id"], "name": "Tea", "owner": "ann", "join": "open", "history": "joined",
            "member_count": 2, "created_at": rig.clock.now_ms(), "role": "member",
        }  # fmt: skip
        assert (await bob.ok(LIST))["groups"] == [group]
        assert "role" not in (await cyd.ok(GET, group_id=answer["group_id"]))["group"]
        assert (await cyd.ok(LIST))["groups"] == []


async def test_an_id_is_used_once_for_ever(tmp_path):
    """Also after the group was dismissed, and after a restart."""
    async with running(tmp_path) as rig:
        ann, bob = await group_of(rig, "ann", "bob")
        assert await refused(bob, CREATE, group_id="g", name="x") == (409, "already_exists")
        await ann.ok(DISMISS, group_id="g")
        assert await told(bob) == [("dismissed", "ann", None)]
        assert await refused(bob, CREATE, group_id="g", name="x") == (409, "already_exists")
        assert await refused(ann, GET, group_id="g") == (404, "not_found")
        assert (await write(ann))["code"] == 403
    async with running(tmp_path) as rig:
        ann = await rig.login("ann")
        assert await refused(ann, CREATE, group_id="g", name="x") == (409, "already_exists")
        assert await refused(ann, GET, group_id="g") == (404, "not_found")
        assert (await ann.ok(LIST))["groups"] == []


async def test_everything_survives_a_restart(tmp_path):
    """Roles, mutes and settings are read from the file again."""
    async with running(tmp_path) as rig:
        ann, *_ = await group_of(rig, "ann", "bob", "cyd", "dan")
        await ann.ok(SET_ROLE, group_id="g", user_id="bob", role="admin")
        await ann.ok(MUTE, group_id="g", user_id="cyd", duration_ms=3_600_000)
        await ann.ok(
            UPDATE, group_id="g", name="New", announcement="Read me", avatar="a.png", history="all", join="approval"
        )
        await ann.ok(SET_ROLE, group_id="g", user_id="dan", role="owner")
        before = (await ann.ok(GET, group_id="g"))["group"], await members_of(ann)
    assert before[1] == {"ann": "admin", "bob": "admin", "cyd": "member", "dan": "owner"}
    async with running(tmp_path) as rig:
        ann, cyd = await rig.login("ann"), await rig.login("cyd")
        assert ((await ann.ok(GET, group_id="g"))["group"], await members_of(ann)) == before
        assert (await write(cyd))["error"] == "muted"
        rig.clock.advance(3601)
        assert (await write(cyd))["code"] == 0


# ---------------------------------------------------------------- who may do what


async def test_roles(tmp_path):
    """Each command by the owner, an admin, a member and a stranger."""
    async with running(tmp_path) as rig:
        ann, adm, bob, out = await group_of(rig, "ann", "adm", "bob", "out")
        await ann.ok(SET_ROLE, group_id="g", user_id="adm", role="admin")
        await ann.ok(ADD, group_id="g", user_ids=["ad2"])
        await ann.ok(SET_ROLE, group_id="g", user_id="ad2", role="admin")
        await ann.ok(REMOVE, group_id="g", user_ids=["out"])
        forbidden = {
            out: [
                (GET, {}), (UPDATE, {"name": "x"}), (DISMISS, {}), (ADD, {"user_ids": ["x"]}),
                (REMOVE, {"user_ids": ["bob"]}), (LEAVE, {}), (LIST_MEMBERS, {}), (JOIN, {}),
                (SET_ROLE, {"user_id": "bob", "role": "admin"}), (MUTE, {"user_id": "bob", "duration_ms": 1}),
            ],
            bob: [
                (UPDATE, {"name": "x"}), (DISMISS, {}), (REMOVE, {"user_ids": ["adm"]}),
                (SET_ROLE, {"user_id": "bob", "role": "admin"}), (MUTE, {"user_id": "adm", "duration_ms": 1}),
            ],
            adm: [
                (DISMISS, {}), (REMOVE, {"user_ids": ["ann"]}), (REMOVE, {"user_ids": ["bob", "ad2"]}),
                (SET_ROLE, {"user_id": "bob", "role": "admin"}), (MUTE, {"user_id": "ann", "duration_ms": 1}),
                (MUTE, {"user_id": "ad2", "duration_ms": 1}), (MUTE, {"user_id": "adm", "duration_ms": 1}),
            ],
        }  # fmt: skip
        for peer, commands in forbidden.items():
            for command_id, fields in commands:
                code, _ = await refused(peer, command_id, group_id="g", **fields)
                assert code == 403, (command_id, fields)
        assert await refused(ann, LEAVE, group_id="g") == (409, "owner")
        assert await refused(ann, SET_ROLE, group_id="g", user_id="ann", role="member") == (409, "owner")
        assert await refused(ann, SET_ROLE, group_id="g", user_id="out", role="admin") == (404, "not_found")
        assert await members_of(bob) == {"ann": "owner", "adm": "admin", "ad2": "admin", "bob": "member"}
        assert (await adm.ok(REMOVE, group_id="g", user_ids=["bob", "out"]))["removed"] == ["bob"]
        assert (await ann.ok(REMOVE, group_id="g", user_ids=["adm", "ad2"]))["removed"] == ["adm", "ad2"]


async def test_who_may_write(tmp_path):
    """Not a stranger, nor who is muted; while all are, the owner and the admins."""
    async with running(tmp_path) as rig:
        ann, bob, cyd = await group_of(rig, "ann", "bob", "cyd")
        out = await rig.login("out")
        assert (await write(out))["error"] == "not_a_member"
        assert (await write(bob, mentions=["@all"]))["code"] == 403
        assert (await write(ann, mentions=["@all"]))["code"] == 0
        until = (await ann.ok(MUTE, group_id="g", user_id="bob", duration_ms=60_000))["muted_until"]
        assert until == rig.clock.now_ms() + 60_000
        answer = await write(bob)
        assert (answer["code"], answer["error"], answer["retry_after_ms"]) == (403, "muted", 60_000)
        assert (await write(cyd))["code"] == 0
        await ann.ok(MUTE, group_id="g", user_id="bob", duration_ms=0)
        assert (await write(bob))["code"] == 0
        await ann.ok(UPDATE, group_id="g", muted=True)
        assert (await write(bob))["error"] == "group_muted"
        await ann.ok(SET_ROLE, group_id="g", user_id="bob", role="admin")
        assert (await write(bob))["code"] == 0
        assert (await bob.ok(GET, group_id="g"))["group"]["muted"] is True


async def test_who_has_gone_gets_nothing_of_what_comes(tmp_path):
    """The push that says so is the last; who comes again sees what comes from then on."""
    async with running(tmp_path) as rig:
        ann, bob = await group_of(rig, "ann", "bob")
        await write(ann)
        await ann.ok(REMOVE, group_id="g", user_ids=["bob"])
        await write(ann)
        found = await pushes(bob)
        assert [command_id for command_id, _ in found] == [MESSAGE, GROUP]
        assert found[1][1] == {"group_id": "g", "event": "removed", "by": "ann", "user_ids": ["bob"]}
        assert (await bob.ok(LIST))["groups"] == []
        assert (await ann.ok(ADD, group_id="g", user_ids=["bob"]))["added"] == ["bob"]
        conversation = rig.conversations.get("g:g")
        member = conversation.members["bob"]
        assert member.joined_seq == member.read_seq == member.entered_seq == 4
        assert conversation.unread(member) == 0  # "joined" is the server's
        assert [command_id for command_id, _ in await pushes(bob)] == [MESSAGE, GROUP]


async def test_history_for_those_who_come_later(tmp_path):
    """All of it where the group says so; none of it is unread."""
    async with running(tmp_path) as rig:
        ann, _ = await group_of(rig, "ann", "bob", history="all")
        await write(ann)
        await ann.ok(ADD, group_id="g", user_ids=["cyd"])
        conversation = rig.conversations.get("g:g")
        member = conversation.members["cyd"]
        assert (member.first_visible, member.entered_seq, conversation.unread(member)) == (0, 2, 0)


# ---------------------------------------------------------------- joining


async def test_joining_an_open_group(tmp_path):
    """At once, and once."""
    async with running(tmp_path) as rig:
        _, bob = await group_of(rig, "ann", "bob", join="open")
        cyd = await rig.login("cyd")
        assert (await cyd.ok(JOIN, group_id="g"))["joined"] is True
        assert await told(bob) == [("joined", "cyd", ["cyd"])]
        assert await refused(cyd, JOIN, group_id="g") == (409, "already_member")
        assert await refused(cyd, JOIN, group_id="none") == (404, "not_found")


async def test_joining_by_approval(tmp_path):
    """The owner and the admins are asked, and one answers; the same request is the same."""
    async with running(tmp_path) as rig:
        ann, adm, bob = await group_of(rig, "ann", "adm", "bob", join="approval")
        await ann.ok(SET_ROLE, group_id="g", user_id="adm", role="admin")
        for peer in (ann, adm, bob):
            await pushes(peer)
        cyd = await rig.login("cyd")
        asked = (await cyd.ok(JOIN, group_id="g", message="me?"))["request_id"]
        assert (await cyd.ok(JOIN, group_id="g"))["request_id"] == asked
        push = (GROUP, {"group_id": "g", "event": "join_requested", "by": "cyd", "request_id": asked, "message": "me?"})
        assert await pushes(ann) == await pushes(adm) == [push]
        assert await pushes(bob) == []
        (shown,) = (await adm.ok(GET, group_id="g"))["group"]["join_requests"]
        assert (shown["request_id"], shown["user_id"], shown["message"]) == (asked, "cyd", "me?")
        assert "join_requests" not in (await bob.ok(GET, group_id="g"))["group"]
        assert (await refused(bob, ANSWER, request_id=asked, accept=True))[0] == 403
        assert (await refused(bob, ADD, group_id="g", user_ids=["cyd"]))[0] == 403
        await adm.ok(ANSWER, request_id=asked, accept=True)
        assert await told(cyd) == [("joined", "adm", ["cyd"])]
        assert await refused(ann, ANSWER, request_id=asked, accept=True) == (404, "not_found")
        dan = await rig.login("dan")
        asked = (await dan.ok(JOIN, group_id="g"))["request_id"]
        await ann.ok(ANSWER, request_id=asked, accept=False)
        assert "dan" not in await members_of(ann)
        assert (await dan.ok(JOIN, group_id="g"))["request_id"] != asked


async def test_requests_end(tmp_path, monkeypatch):
    """After their time they are no more; the rows go in small steps."""
    async with running(tmp_path, request_ttl_s=DAY_S) as rig:
        ann, _ = await group_of(rig, "ann", "bob", join="approval")
        cyd = await rig.login("cyd")
        asked = (await cyd.ok(JOIN, group_id="g"))["request_id"]
        rig.clock.advance(DAY_S + 1)
        assert await refused(ann, ANSWER, request_id=asked, accept=True) == (404, "not_found")
        assert rig.rows("SELECT count(*) FROM group_requests") == [(1,)]
        monkeypatch.setattr(store, "CHUNK", 1)
        assert await cleanup.drop_expired(rig.context)
        assert rig.rows("SELECT count(*) FROM group_requests") == [(0,)]
        assert not await cleanup.drop_expired(rig.context)


# ---------------------------------------------------------------- bounds


async def test_bounds(tmp_path):
    """Members of a group, admins, requests, groups of a user: each at its bound and beyond."""
    async with running(tmp_path, max_members=3, max_admins=1, max_requests=1, max_groups=2) as rig:
        ann, _ = await group_of(rig, "ann", "bob", join="approval")
        assert (await ann.ok(ADD, group_id="g", user_ids=["cyd"]))["added"] == ["cyd"]
        assert await refused(ann, ADD, group_id="g", user_ids=["dan"]) == (409, "group_full")
        assert await refused(ann, CREATE, name="x", members=["b", "c", "d"]) == (409, "group_full")
        await ann.ok(SET_ROLE, group_id="g", user_id="bob", role="admin")
        assert await refused(ann, SET_ROLE, group_id="g", user_id="cyd", role="admin") == (409, "admin_limit")
        await ann.ok(REMOVE, group_id="g", user_ids=["cyd"])
        dan, eve = await rig.login("dan"), await rig.login("eve")
        await dan.ok(JOIN, group_id="g")
        assert await refused(eve, JOIN, group_id="g") == (409, "request_limit")
        await ann.ok(CREATE, name="2", members=["bob"])
        assert await refused(ann, CREATE, name="3") == (409, "group_limit")
        answer = await eve.ok(CREATE, name="4", group_id="e", members=["ann"], join="open")
        assert answer["failed"] == [{"user_id": "ann", "error": "group_limit"}]
        assert await refused(ann, JOIN, group_id="e") == (409, "group_limit")
        await ann.ok(DISMISS, group_id="g")
        assert (await ann.ok(JOIN, group_id="e"))["joined"] is True
        many = [f"u{number}" for number in range(501)]
        assert await refused(eve, ADD, group_id="e", user_ids=many) == (413, "too_large")
        assert await refused(eve, REMOVE, group_id="e", user_ids=many) == (413, "too_large")


async def test_the_groups_of_a_user_are_bounded_whatever_happens_at_once(tmp_path):
    """Twenty add her at the same time, to as many groups; two have room for her."""
    async with running(tmp_path, max_groups=2) as rig:
        owners = [await rig.login(f"o{number}") for number in range(20)]
        for number, owner in enumerate(owners):
            await owner.ok(CREATE, name="x", group_id=f"g{number}")
        rids = [await owner.post(ADD, group_id=f"g{number}", user_ids=["ann"]) for number, owner in enumerate(owners)]
        added = [(await owner.answer(rid))["added"] for owner, rid in zip(owners, rids, strict=True)]
        assert sum(map(len, added)) <= 2
        assert rig.rows("SELECT count(*) FROM group_members WHERE user_id = 'ann'")[0][0] == sum(map(len, added))


async def test_others_cannot_take_all_of_a_users_groups(tmp_path):
    """They add to four fifths of them, by either way; the rest is for what one makes, joins or asked to join."""
    async with running(tmp_path, max_groups=5) as rig:
        ann, eve = await rig.login("ann"), await rig.login("eve")
        for number in range(4):
            assert "failed" not in await eve.ok(CREATE, name="x", group_id=f"e{number}", members=["ann"])
        full = [{"user_id": "ann", "error": "group_limit"}]
        bob = await rig.login("bob")
        assert (await bob.ok(CREATE, name="x", group_id="b", members=["ann"], join="open"))["failed"] == full
        assert (await bob.ok(ADD, group_id="b", user_ids=["ann"]))["failed"] == full
        assert await ann.ok(CREATE, name="mine", group_id="mine")
        assert await refused(ann, JOIN, group_id="b") == (409, "group_limit")
        await ann.ok(DISMISS, group_id="mine")
        assert (await ann.ok(JOIN, group_id="b"))["joined"] is True
        assert rig.rows("SELECT count(*) FROM group_members WHERE user_id = 'ann'") == [(5,)]


# ---------------------------------------------------------------- a disk that fails


async def test_a_change_that_is_not_stored_has_not_happened(tmp_path):
    """Members, roles and mutes: memory goes back with the disk, and the next attempt works."""
    async with running(tmp_path) as rig:
        ann, bob = await group_of(rig, "ann", "bob")
        attempts = [
            (ADD, {"user_ids": ["cyd"]}),
            (REMOVE, {"user_ids": ["bob"]}),
            (SET_ROLE, {"user_id": "bob", "role": "admin"}),
            (MUTE, {"user_id": "bob", "duration_ms": 1000}),
            (UPDATE, {"muted": True}),
            (DISMISS, {}),
        ]
        for command_id, fields in attempts:
            rig.store.fail_next()
            assert await refused(ann, command_id, group_id="g", **fields) == (503, "unavailable")
            assert await members_of(ann) == {"ann": "owner", "bob": "member"}
            assert (await write(bob))["code"] == 0
            await rig.until(lambda: not rig.shard.waiting)
        rig.store.fail_next()
        assert await refused(ann, CREATE, group_id="h", name="H") == (503, "unavailable")
        await ann.ok(CREATE, group_id="h", name="H")
        assert await told(bob) == []
        for command_id, fields in (*attempts[2:5], *attempts[:2], attempts[5]):
            await ann.ok(command_id, group_id="g", **fields)


async def test_nothing_comes_behind_a_kick(tmp_path):
    """A thousand times somebody is kicked while he writes and is written to: nothing of his or for him is behind it."""
    order = random.Random(4)
    outcomes = set()
    async with running(tmp_path) as rig:
        ann, bob = await group_of(rig, "ann", "bob")
        for _ in range(1000):
            asked = [(bob, WRITE, {}), (bob, WRITE, {}), (ann, REMOVE, {"user_ids": ["bob"]}), (ann, WRITE, {})]
            order.shuffle(asked)
            rids = []
            for peer, command_id, fields in asked:
                if command_id == WRITE:
                    fields["client_id"] = f"c-{next(_numbers)}"
                rids.append((peer, command_id, await peer.post(command_id, group_id="g", **fields)))
                for _ in range(order.choice([0, 0, 0, 1, 5])):
                    await trio.lowlevel.checkpoint()
            own = [await peer.answer(rid) for peer, command_id, rid in rids if peer is bob]
            assert [answer["code"] for peer, _, rid in rids if peer is ann for answer in [await peer.answer(rid)]] == [0, 0]
            ((left,),) = rig.rows("SELECT left_seq FROM departures WHERE user_id = 'bob'")
            assert all(answer["code"] == 403 or answer["seq"] <= left for answer in own)
            seen = [fields["seq"] for command_id, fields in await pushes(bob) if command_id == MESSAGE]
            assert all(seq <= left for seq in seen), (seen, left)
            assert rig.rows("SELECT count(*) FROM messages WHERE sender = 'bob' AND seq > ?", (left,)) == [(0,)]
            outcomes.add(tuple(answer["code"] for answer in own))
            await ann.ok(ADD, group_id="g", user_ids=["bob"])
            await pushes(bob)
            await pushes(ann)
    assert outcomes == {(0, 0), (0, 403), (403, 403)}, "there was no race"
