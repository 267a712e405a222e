"""Groups under requests that meet: checks that nothing overtakes, kicks against sends, answers that cross."""

import itertools
import random
import threading

import pytest
from helpers import MESSAGE
from test_group_core import WRITE, group_of, members_of, pushes, refused, running, write

from imserver_plugins.group import cleanup, gate, groups, joining, members, state

CREATE, GET, UPDATE, DISMISS, ADD, REMOVE, LEAVE, LIST_MEMBERS, SET_ROLE, MUTE, LIST, JOIN, ANSWER = range(4001, 4014)

_numbers = itertools.count(1)


def lock_is_free(rig):
    """Whether another shard's thread could write now."""
    got = []

    def attempt():
        got.append(rig.journal.lock.acquire(blocking=False))
        if got[0]:
            rig.journal.lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return got[0]


@pytest.mark.parametrize(
    ("command_id", "fields"),
    [
        (UPDATE, {"name": "H"}),
        (ADD, {"user_ids": ["carol"]}),
        (REMOVE, {"user_ids": ["bob"]}),
        (SET_ROLE, {"user_id": "bob", "role": "admin"}),
        (MUTE, {"user_id": "bob", "duration_ms": 1000}),
        (DISMISS, {}),
    ],
)
async def test_no_other_shard_comes_between_a_look_and_its_write(tmp_path, monkeypatch, command_id, fields):
    """What a change of a group is made from cannot be changed by another shard before it is written."""
    free = []
    async with running(tmp_path) as rig:
        ann, _ = await group_of(rig, "ann", "bob")
        real = state.find_own

        def looked(*args, **options):
            found = real(*args, **options)
            free.append(lock_is_free(rig))
            return found

        for module in (groups, members, joining):
            if hasattr(module, "find_own"):
                monkeypatch.setattr(module, "find_own", looked)
        await ann.ok(command_id, group_id="g", **fields)
        assert free
        assert not any(free)
        assert lock_is_free(rig), "it is kept no longer than that"


async def test_a_request_is_answered_once(tmp_path):
    """Two who answer at once: the first answer counts, and the other one is told that it did not."""
    async with running(tmp_path) as rig:
        ann, bob = await group_of(rig, "ann", "bob", join="approval")
        await ann.ok(SET_ROLE, group_id="g", user_id="bob", role="admin")
        cyd = await rig.login("cyd")
        asked = (await cyd.ok(JOIN, group_id="g"))["request_id"]
        rig.store.shut()
        declined = await ann.post(ANSWER, request_id=asked, accept=False)
        await rig.store.wait_entered()
        accepted = await bob.post(ANSWER, request_id=asked, accept=True)
        assert (await bob.answer(accepted))["error"] == "answered"
        rig.store.open()
        assert (await ann.answer(declined))["code"] == 0
        assert "cyd" not in await members_of(ann)
        assert await refused(bob, ANSWER, request_id=asked, accept=True) == (404, "not_found")


async def test_who_was_added_meanwhile_asks_no_more(tmp_path, monkeypatch):
    """A request to join that crosses with being added leaves no request behind."""
    async with running(tmp_path) as rig:
        (ann,) = await group_of(rig, "ann", join="approval")
        bob = await rig.login("bob")
        real = joining._ask

        async def late(*args):
            await ann.ok(ADD, group_id="g", user_ids=["bob"])
            return await real(*args)

        monkeypatch.setattr(joining, "_ask", late)
        assert await refused(bob, JOIN, group_id="g") == (409, "already_member")
        assert rig.rows("SELECT count(*) FROM group_requests") == [(0,)]


async def test_a_mute_is_not_lost_by_leaving(tmp_path):
    """Who leaves and comes back is as muted as before, after a restart too, and until the mute ends."""
    async with running(tmp_path) as rig:
        ann, bob = await group_of(rig, "ann", "bob", join="open")
        until = (await ann.ok(MUTE, group_id="g", user_id="bob", duration_ms=5_000_000))["muted_until"]
        await bob.ok(LEAVE, group_id="g")
        await bob.ok(JOIN, group_id="g")
        assert (await write(bob))["error"] == "muted"
        await bob.ok(LEAVE, group_id="g")
    async with running(tmp_path) as rig:
        ann, bob = await rig.login("ann"), await rig.login("bob")
        await bob.ok(JOIN, group_id="g")
        assert (await write(bob))["error"] == "muted"
        (listed,) = [one for one in (await ann.ok(LIST_MEMBERS, group_id="g"))["members"] if one["user_id"] == "bob"]
        assert listed["muted_until"] == until
        await bob.ok(LEAVE, group_id="g")
        rig.clock.advance(5001)
        await cleanup.drop_expired(rig.context)
        assert rig.rows("SELECT count(*) FROM group_mutes") == [(0,)]
        await bob.ok(JOIN, group_id="g")
        assert (await write(bob))["code"] == 0


async def test_mutes_of_those_who_have_gone_are_bounded(tmp_path, monkeypatch):
    """Beyond the bound those nearest to their end are forgotten, in memory and on disk."""
    monkeypatch.setattr(state, "MAX_AWAY", 2)
    async with running(tmp_path) as rig:
        ann, *_ = await group_of(rig, "ann", "bob", "carol", "dan")
        for number, user in enumerate(("bob", "carol", "dan")):
            await ann.ok(MUTE, group_id="g", user_id=user, duration_ms=1_000_000 + number)
        await ann.ok(REMOVE, group_id="g", user_ids=["bob", "carol", "dan"])
        assert rig.rows("SELECT user_id FROM group_mutes ORDER BY user_id") == [("carol",), ("dan",)]
        await ann.ok(ADD, group_id="g", user_ids=["bob", "carol", "dan"])
        muted = [one["user_id"] for one in (await ann.ok(LIST_MEMBERS, group_id="g"))["members"] if "muted_until" in one]
        assert muted == ["carol", "dan"]


async def test_handing_over_makes_no_more_admins_than_allowed(tmp_path):
    """Who hands a group over is an admin where there is room for one, else a plain member, after a restart too."""
    async with running(tmp_path, max_admins=1) as rig:
        ann, bob, _ = await group_of(rig, "ann", "bob", "cyd")
        await ann.ok(SET_ROLE, group_id="g", user_id="bob", role="owner")
        await bob.ok(SET_ROLE, group_id="g", user_id="cyd", role="owner")
        roles = {"ann": "admin", "bob": "member", "cyd": "owner"}
        assert await members_of(ann) == roles
        assert (await bob.ok(GET, group_id="g"))["group"]["role"] == "member"
    async with running(tmp_path, max_admins=1) as rig:
        ann = await rig.login("ann")
        assert await members_of(ann) == roles
        assert (await ann.ok(GET, group_id="g"))["group"]["role"] == "admin"


async def test_no_other_shard_comes_between_a_hook_and_the_message(tmp_path, monkeypatch):
    """Who is found to be allowed to write is still so at the message's place in the order."""
    free = []
    async with running(tmp_path) as rig:
        _, bob = await group_of(rig, "ann", "bob")
        real = state.find

        def looked(*args):
            found = real(*args)
            free.append(lock_is_free(rig))
            return found

        monkeypatch.setattr(gate, "find", looked)
        assert (await write(bob))["code"] == 0
        assert free == [False]


def members_by_group(rig, column, table):
    """A number of each group's only member beside the owner."""
    rows = rig.rows(
        f"SELECT substr(c.conversation_id, 3), x.{column} FROM {table} x "
        "JOIN conversations c ON c.number = x.conversation WHERE x.user_id <> 'ann'"
    )
    return dict(rows)


@pytest.mark.parametrize(("shards", "rounds"), [(1, 2000), (2, 10_000)])
async def test_thousands_of_kicks_against_sends(tmp_path, shards, rounds):
    """Ten thousand times a member is kicked among messages of theirs and to them: nothing of either is behind the kick.

    Many rounds are in flight at once, each with a group and a member of its own, over as many shards.
    """
    order = random.Random(5)
    lanes = 200
    outcomes = {}
    async with running(tmp_path, shards=shards, max_groups=10_000) as rig:
        owner = await rig.login("ann")
        kicked = [await rig.login(f"m-{lane}", shard=lane % shards) for lane in range(lanes)]
        for lane, peer in enumerate(kicked):
            await owner.ok(CREATE, group_id=f"{lane}", name="G", members=[peer.session.user_id])
        entered = dict.fromkeys(map(str, range(lanes)), 0)
        for _ in range(rounds // lanes):
            turns = []
            for lane, peer in enumerate(kicked):
                remove = (owner, REMOVE, {"user_ids": [peer.session.user_id]})
                turn = [(lane, *one) for one in ((peer, WRITE, {}), remove, (owner, WRITE, {}), (peer, WRITE, {}))]
                order.shuffle(turn)
                turns.append(turn)
            posted = []
            for lane, peer, command_id, fields in (one for step in zip(*turns, strict=True) for one in step):
                if command_id == WRITE:
                    fields["client_id"] = f"c-{next(_numbers)}"
                posted.append((lane, peer, await peer.post(command_id, group_id=f"{lane}", **fields)))
            own = [[] for _ in kicked]
            for lane, peer, rid in posted:
                answer = await peer.answer(rid)
                if peer is owner:
                    assert answer["code"] == 0
                else:
                    own[lane].append((answer["code"], answer.get("seq", 0)))
            left = members_by_group(rig, "left_seq", "departures")
            said = members_by_group(rig, "seq", "(SELECT conversation, sender AS user_id, max(seq) AS seq FROM messages "
                                    "WHERE sender <> '' GROUP BY conversation, sender)")  # fmt: skip
            for lane, peer in enumerate(kicked):
                group_id = f"{lane}"
                codes = tuple(code for code, _ in own[lane])
                outcomes[codes] = outcomes.get(codes, 0) + 1
                assert all(seq <= left[group_id] for _, seq in own[lane])
                assert said.get(group_id, 0) <= left[group_id]
                for command_id, fields in await pushes(peer):
                    if command_id == MESSAGE:
                        assert fields["conversation_id"] == f"g:{group_id}"
                        assert entered[group_id] < fields["seq"] <= left[group_id]
            back = [
                await owner.post(ADD, group_id=f"{lane}", user_ids=[peer.session.user_id])
                for lane, peer in enumerate(kicked)
            ]
            assert [(await owner.answer(rid))["code"] for rid in back] == [0] * lanes
            owner.pushes.clear()
            entered = members_by_group(rig, "entered_seq", "members")
    assert set(outcomes) == {(0, 0), (0, 403), (403, 403)}, "there was no race"
    assert sum(outcomes.values()) == rounds
