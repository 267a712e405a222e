"""The friend plugin in the real core, with a disk that waits and fails: what memory knows is never older than an answer."""

import itertools
from contextlib import asynccontextmanager

import attrs
import helpers
import msgspec
import pytest
import trio
from helpers import FakeClock

from imserver.conversation import Draft
from imserver.errors import ImError
from imserver.plugin import Plugin, command, on_event
from imserver_plugins.friend import FriendPlugin, cleanup, store
from imserver_plugins.friend.settings import Settings

FRIEND_REQUEST, FRIEND_ANSWER, LIST_FRIENDS, LIST_FRIEND_REQUESTS, DELETE_FRIEND = 3001, 3002, 3003, 3004, 3005
BLOCK, UNBLOCK, LIST_BLOCKED, SET_REMARK = 3006, 3007, 3008, 3009
SAY, GROUP_SAY, MESSAGE, FRIEND = 2001, 6002, 5001, 5007
DAY_S = 86400


class GetUsers(msgspec.Struct):
    """GET_USER's request."""

    user_ids: list[str]


class GroupSay(msgspec.Struct):
    """A message to a group that exists without members' checks."""

    group: str


class Users(Plugin):
    """Stands for the user plugin: everybody exists but nobody."""

    name = "user"

    @command(1006, request=GetUsers)
    async def get_user(self, ctx, request):
        return {"users": [{"user_id": name, "nickname": name.title()} for name in request.user_ids if name != "nobody"]}


@attrs.frozen
class MessageSettings:
    """As the message plugin has them."""

    require_friendship: bool = False


class Messages(Plugin):
    """Stands for the message plugin; remembers the events of friends."""

    name = "message"

    def __init__(self):
        self.events = []

    @command(GROUP_SAY, request=GroupSay)
    def group_say(self, ctx, request):
        draft = Draft(f"g:{request.group}", ctx.session.user_id, "c", "text", "hi")
        return ctx.messages.fleeting(draft)

    @on_event("friend.requested")
    def requested(self, ctx, **fields):
        self.events.append(("requested", fields))

    @on_event("friend.added")
    def added(self, ctx, **fields):
        self.events.append(("added", fields))

    @on_event("friend.removed")
    def removed(self, ctx, **fields):
        self.events.append(("removed", fields))

    @on_event("friend.blocked")
    def blocked(self, ctx, **fields):
        self.events.append(("blocked", fields))


@asynccontextmanager
async def running(folder, *, require_friendship=False, shards=1, **settings):
    """The core with the plugin, started; `rig.plugin`, `rig.events` and `rig.reads`, the keys that were looked up."""
    plugin, messages = FriendPlugin(), Messages()
    make_registry = helpers.registry_of

    def registry_of(*plugins):
        registry = make_registry(*plugins)
        registry.settings["friend"] = Settings(**settings)
        registry.settings["message"] = MessageSettings(require_friendship)
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "registry_of", registry_of)
        async with helpers.running(folder, Users(), messages, plugin, shards=shards, clock=FakeClock()) as rig:
            rig.plugin, rig.events, rig.reads = plugin, messages.events, []
            rig.context = rig.shard.router.app_context("friend")
            await plugin.on_start(rig.context)
            look = store.look

            async def counted(db, sender, recipient):
                rig.reads.append((sender, recipient))
                return await look(db, sender, recipient)

            patch.setattr(store, "look", counted)
            yield rig


async def refused(peer, command_id, **fields):
    """The name of the error."""
    answer = await peer.call(command_id, **fields)
    assert answer["code"] != 0, answer
    return answer["error"]


# ---------------------------------------------------------------- the cache


async def test_messages_need_no_look_at_the_disk(tmp_path):
    """Who may write is read once for each of the two; a block and its end cost one more look."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        for _ in range(3):
            await alice.ok(SAY, to="bob")
            await bob.ok(SAY, to="alice")
        assert rig.reads == [("alice", "bob"), ("bob", "alice")]
        await alice.ok(BLOCK, user_id="bob")
        for _ in range(3):
            assert await refused(bob, SAY, to="alice") == "blocked"
            await alice.ok(SAY, to="bob")
        assert rig.reads[2:] == [("bob", "alice")]
        await alice.ok(UNBLOCK, user_id="bob")
        await bob.ok(SAY, to="alice")
        await bob.ok(SAY, to="bob")
        await bob.ok(SAY, to="alice")
        assert rig.reads[3:] == [("bob", "alice")]


async def test_groups_know_no_blocks(tmp_path):
    """A message to a group is not looked at, whatever its id looks like."""
    async with running(tmp_path, require_friendship=True) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await alice.ok(BLOCK, user_id="bob")
        await bob.ok(GROUP_SAY, group="d:alice:bob")
        assert rig.reads == []


async def test_refused_while_the_block_is_on_its_way(tmp_path):
    """From the write on the blocked one is refused; neither answer leaves before the block is durable."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await bob.ok(SAY, to="alice")
        await alice.push()
        rig.store.shut()
        block = await alice.post(BLOCK, user_id="bob")
        await rig.store.wait_entered()
        said = await bob.post(SAY, to="alice")
        await rig.until(lambda: rig.shard.router.errors[SAY, 403])
        rig.store.open()
        assert (await alice.answer(block))["code"] == 0
        assert (await bob.answer(said))["error"] == "blocked"
        assert not alice.pushes


async def test_failed_block(tmp_path):
    """A block that could not be stored is 503 and refuses nobody afterwards."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await bob.ok(SAY, to="alice")
        rig.store.fail_next()
        assert await refused(alice, BLOCK, user_id="bob") == "unavailable"
        await bob.ok(SAY, to="alice")
        assert (await alice.ok(LIST_BLOCKED))["users"] == []
        assert rig.events == []
        await alice.ok(BLOCK, user_id="bob")
        assert await refused(bob, SAY, to="alice") == "blocked"


async def test_failed_unblock(tmp_path):
    """An end of a block that could not be stored lets nobody through."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await alice.ok(BLOCK, user_id="bob")
        assert await refused(bob, SAY, to="alice") == "blocked"
        rig.store.fail_next()
        assert await refused(alice, UNBLOCK, user_id="bob") == "unavailable"
        assert await refused(bob, SAY, to="alice") == "blocked"


async def test_failed_end_of_a_friendship(tmp_path):
    """A friendship whose end could not be stored goes on, also where only friends write; one that was stored does not."""
    async with running(tmp_path, require_friendship=True) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        assert await refused(bob, SAY, to="alice") == "not_friends"
        await alice.ok(FRIEND_REQUEST, user_id="bob")
        await bob.ok(FRIEND_REQUEST, user_id="alice")
        await bob.ok(SAY, to="alice")
        rig.store.fail_next()
        assert await refused(alice, DELETE_FRIEND, user_id="bob") == "unavailable"
        await bob.ok(SAY, to="alice")
        await alice.ok(SAY, to="bob")
        await alice.ok(DELETE_FRIEND, user_id="bob")
        assert await refused(bob, SAY, to="alice") == "not_friends"
        assert await refused(alice, SAY, to="bob") == "not_friends"


async def test_failed_acceptance(tmp_path):
    """An acceptance that could not be stored is told to nobody and makes no friends."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        request_id = (await alice.ok(FRIEND_REQUEST, user_id="bob"))["request_id"]
        rig.store.fail_next()
        assert await refused(bob, FRIEND_ANSWER, request_id=request_id, accept=True) == "unavailable"
        assert (await bob.ok(LIST_FRIENDS))["friends"] == []
        assert not alice.pushes
        await bob.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
        assert (await alice.push())[1]["event"] == "accepted"
        assert [event for event, _ in rig.events] == ["requested", "added"]


async def test_load_that_began_before_the_block(tmp_path):
    """A look at the disk that is older than the block does not leave behind that the sender may write."""
    async with running(tmp_path, shards=2) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob", shard=1)
        read, go_on = trio.Event(), trio.Event()
        look = store.look

        async def slow(db, sender, recipient):
            found = await look(db, sender, recipient)
            if not read.is_set():
                read.set()
                await go_on.wait()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "look", slow)
            said = await bob.post(SAY, to="alice")
            await read.wait()
            await alice.ok(BLOCK, user_id="bob")
            go_on.set()
            assert (await bob.answer(said))["error"] == "blocked"
            assert await refused(bob, SAY, to="alice") == "blocked"


async def test_client_that_is_gone_before_the_answer(tmp_path):
    """A block whose client has left is heeded all the same once it is stored, and a request reaches the other."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        carol = await rig.login("carol")
        await bob.ok(SAY, to="alice")
        rig.store.shut()
        await alice.post(BLOCK, user_id="bob")
        await carol.post(FRIEND_REQUEST, user_id="bob")
        await rig.store.wait_entered()
        alice.close()
        carol.close()
        await rig.until(lambda: len(rig.shard.sessions) == 1)
        rig.store.open()
        assert (await bob.push())[1]["user_id"] == "carol"
        assert await refused(bob, SAY, to="alice") == "blocked"


async def test_entries_that_were_dropped_for_others(tmp_path):
    """What the bound of the cache has dropped is read again, and right."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await alice.ok(BLOCK, user_id="bob")
        assert await refused(bob, SAY, to="alice") == "blocked"
        rig.caches["friend"]._max_entries = 1
        await alice.ok(SAY, to="bob")
        assert await refused(bob, SAY, to="alice") == "blocked"
        assert len(rig.caches["friend"]) == 1


# ---------------------------------------------------------------- requests


async def test_requests_expire(tmp_path):
    """A request whose time is over is in no list, cannot be answered, and takes no place; asking again begins anew."""
    async with running(tmp_path, request_ttl_s=DAY_S, max_pending=1) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        first = (await alice.ok(FRIEND_REQUEST, user_id="bob"))["request_id"]
        assert await refused(alice, FRIEND_REQUEST, user_id="carol") == "request_limit"
        rig.clock.advance(DAY_S - 1)
        assert (await alice.ok(FRIEND_REQUEST, user_id="bob"))["request_id"] == first
        rig.clock.advance(1)
        assert await refused(bob, FRIEND_ANSWER, request_id=first, accept=True) == "not_found"
        assert (await bob.ok(LIST_FRIEND_REQUESTS))["requests"] == []
        # It does not cross what is over, either.
        assert (await bob.ok(FRIEND_REQUEST, user_id="alice"))["request_id"] != first
        assert (await bob.ok(LIST_FRIENDS))["friends"] == []
        second = (await alice.ok(FRIEND_REQUEST, user_id="carol"))["request_id"]
        assert second != first


async def test_expired_requests_are_dropped(tmp_path, monkeypatch):
    """Step by step, and no others."""
    async with running(tmp_path, request_ttl_s=DAY_S) as rig:
        alice = await rig.login("alice")
        await alice.ok(FRIEND_REQUEST, user_id="bob")
        rig.clock.advance(DAY_S / 2)
        await alice.ok(FRIEND_REQUEST, user_id="carol")
        rig.clock.advance(DAY_S / 2)
        monkeypatch.setattr(store, "CHUNK", 1)
        assert await cleanup.drop_expired(rig.context)
        assert rig.rows("SELECT recipient FROM friend_requests") == [("carol",)]
        assert not await cleanup.drop_expired(rig.context)


async def test_cleanup_comes_round_by_itself(tmp_path, monkeypatch):
    """The plugin starts it: after a period what has expired is gone."""
    monkeypatch.setattr(cleanup, "PERIOD_S", 0.01)
    async with running(tmp_path, request_ttl_s=DAY_S) as rig:
        alice = await rig.login("alice")
        await alice.ok(FRIEND_REQUEST, user_id="bob")
        rig.clock.advance(DAY_S)
        await rig.until(lambda: rig.rows("SELECT recipient FROM friend_requests") == [])


async def test_events(tmp_path):
    """The bus hears of what happened, once each, and nothing of what a blocked user asks for."""
    async with running(tmp_path) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        request_id = (await alice.ok(FRIEND_REQUEST, user_id="bob"))["request_id"]
        await alice.ok(FRIEND_REQUEST, user_id="bob")
        for _ in range(2):
            await bob.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
        await alice.ok(DELETE_FRIEND, user_id="bob")
        for _ in range(2):
            await bob.ok(BLOCK, user_id="alice")
        await alice.ok(FRIEND_REQUEST, user_id="bob")
        assert rig.events == [
            ("requested", {"user_id": "alice", "friend_id": "bob", "request_id": request_id}),
            ("added", {"user_id": "bob", "friend_id": "alice"}),
            ("removed", {"user_id": "alice", "friend_id": "bob"}),
            ("blocked", {"user_id": "bob", "blocked_id": "alice"}),
        ]


async def test_users_who_are_no_more(tmp_path):
    """A friend whose account is gone is listed by id."""
    async with running(tmp_path) as rig:
        alice = await rig.login("alice")
        await alice.ok(FRIEND_REQUEST, user_id="bob")
        await rig.context.db.write("UPDATE friend_requests SET recipient = 'nobody'")
        (entry,) = (await alice.ok(LIST_FRIEND_REQUESTS, direction="out"))["requests"]
        assert (entry["user_id"], entry["nickname"]) == ("nobody", "nobody")


async def test_order_of_two_friends_who_part_and_meet(tmp_path):
    """However often friends part and meet on two shards at once, both sides agree at the end."""
    async with running(tmp_path, shards=2, require_friendship=True) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob", shard=1)
        for _ in range(10):
            posts = [
                (peer, await peer.post(command_id, user_id=other))
                for command_id, (peer, other) in itertools.product(
                    (FRIEND_REQUEST, DELETE_FRIEND, FRIEND_REQUEST), ((alice, "bob"), (bob, "alice"))
                )
            ]
            for peer, rid in posts:
                assert (await peer.answer(rid))["code"] in (0, 404, 409)
            sides = [(await peer.ok(LIST_FRIENDS))["friends"] for peer in (alice, bob)]
            assert len(sides[0]) == len(sides[1])
            for peer, other in ((alice, "bob"), (bob, "alice")):
                assert (await peer.call(SAY, to=other))["code"] == (0 if sides[0] else 403)


async def test_gate_before_the_start():
    """A plugin that was not started lets nothing pass."""
    with pytest.raises(Exception, match="not started") as caught:
        FriendPlugin().before_send(None, Draft("d:alice:bob", "alice", "c", "text", "hi"))
    assert not isinstance(caught.value, ImError)
