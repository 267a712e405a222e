"""Presence in the real core, with a clock that stands still: who is told what, when, and how often."""

import json
from contextlib import asynccontextmanager

import pytest
from user_rig import AUTH, opened

from imserver.errors import StorageUnavailable
from imserver.plugin import Conflict
from imserver_plugins.user import presence
from imserver_plugins.user.watches import GRACE_S, INTERVAL_S, MAX_WATCHED

GET_USER, UPDATE_PROFILE, GET_PRESENCE, WATCH_PRESENCE, PRESENCE = 1006, 1007, 1012, 1013, 5006
ONLINE = {"online": True, "platforms": []}
OFFLINE = {"online": False, "platforms": []}


class Scene:
    """A core whose background looks are made by hand: `tell`."""

    def __init__(self, door):
        self.door = door
        self.rig = door.rig
        self.watches = door.state.watches
        self.context = door.router.app_context("user")

    async def login(self, user, *, shard=0, **options):
        """A connection by an integrator's token; the user is made at first sight."""
        peer = self.rig.connect(shard=shard)
        await peer.ok(AUTH, token=self.door.foreign_token(user), **options)
        return peer

    async def leave(self, peer):
        """A client closes, and the server has seen it."""
        peer.close()
        await self.rig.until(lambda: peer.session.is_closed)

    async def tell(self, seconds=0.0):
        """Time goes on; who is due is looked at."""
        self.rig.clock.advance(seconds)
        await presence.tell(self.door.state, self.context)

    async def told(self, peer):
        """The pushes 5006 that have come to a peer since the last call."""
        await peer.ok(GET_PRESENCE, user_ids=[])
        found = [fields for command_id, fields in peer.pushes if command_id == PRESENCE]
        peer.pushes.clear()
        return found

    async def told_states(self, peer):
        """The same, as (user, online)."""
        return [(fields["user_id"], fields["online"]) for fields in await self.told(peer)]


@pytest.fixture
def open_scene(tmp_path, monkeypatch):
    """A `Scene` until its block ends."""
    monkeypatch.setattr(presence, "TICK_S", 3600)  # looks are made by hand

    @asynccontextmanager
    async def open_it(**options):
        async with opened(tmp_path, **options) as door:
            yield Scene(door)

    return open_it


async def test_presence_of_those_who_exist(open_scene):
    """Online by device, with the platforms that they named; last seen afterwards; strangers to the server are left out."""
    async with open_scene() as scene:
        anna = await scene.login("anna")
        bob = await scene.login("bob", platform="ios")
        web = await scene.login("bob", platform="web")
        plain = await scene.login("bob")
        ask = {"user_ids": ["bob", "nobody", "anna", "bob"]}
        assert (await anna.ok(GET_PRESENCE, **ask))["presence"] == [
            {"user_id": "bob", "online": True, "platforms": ["ios", "web"]},
            {"user_id": "anna", **ONLINE},
        ]
        for peer in (bob, plain):
            await scene.leave(peer)
        assert (await anna.ok(GET_PRESENCE, user_ids=["bob"]))["presence"][0]["platforms"] == ["web"]
        scene.rig.clock.advance(5)
        await scene.leave(web)
        seen_at = scene.rig.clock.now_ms()
        scene.rig.clock.advance(60)
        assert (await anna.ok(GET_PRESENCE, user_ids=["bob"]))["presence"] == [
            {"user_id": "bob", **OFFLINE, "last_seen": seen_at}
        ]


async def test_changes_are_pushed_to_those_who_watch(open_scene):
    """Online at once, offline when the grace is over; who does not watch is told nothing."""
    async with open_scene() as scene:
        anna, carl = await scene.login("anna"), await scene.login("carl")
        bob = await scene.login("bob")
        await scene.leave(bob)
        answer = await anna.ok(WATCH_PRESENCE, user_ids=["bob", "carl", "nobody"])
        assert [(one["user_id"], one["online"]) for one in answer["presence"]] == [("bob", False), ("carl", True)]
        bob = await scene.login("bob", platform="ios")
        await scene.tell()
        assert await scene.told(anna) == [{"user_id": "bob", "online": True, "platforms": ["ios"]}]
        await scene.leave(bob)
        seen_at = scene.rig.clock.now_ms()
        await scene.tell(GRACE_S - 0.1)
        assert await scene.told(anna) == []
        await scene.tell(0.1)
        assert await scene.told(anna) == [{"user_id": "bob", **OFFLINE, "last_seen": seen_at}]
        assert await scene.told(carl) == []


async def test_the_background_task_tells(tmp_path):
    """Without anybody's hand."""
    async with opened(tmp_path) as door:
        scene = Scene(door)
        anna, bob = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        await scene.leave(bob)
        scene.rig.clock.advance(GRACE_S)
        assert (await anna.push())[1]["online"] is False


async def test_a_reconnect_within_the_grace_is_not_told(open_scene):
    """A device that comes back in time was never away."""
    async with open_scene() as scene:
        anna, bob = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        for _ in range(5):
            await scene.leave(bob)
            await scene.tell(GRACE_S / 2)
            bob = await scene.login("bob")
            await scene.tell(GRACE_S)
        assert await scene.told(anna) == []


async def test_each_departure_has_its_own_grace(open_scene):
    """The last of two devices may come back as long after it went as an only one."""
    async with open_scene() as scene:
        anna, one, two = await scene.login("anna"), await scene.login("bob"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        await scene.leave(one)
        await scene.tell(GRACE_S * 0.75)
        await scene.leave(two)
        await scene.tell(GRACE_S * 0.75)
        assert await scene.told(anna) == []
        await scene.tell(GRACE_S / 4)
        assert await scene.told_states(anna) == [("bob", False)]


async def test_a_flapping_user_costs_a_push_a_second(open_scene):
    """However often somebody comes and goes, with a new platform each time."""
    async with open_scene() as scene:
        anna = await scene.login("anna")
        await scene.leave(await scene.login("bob"))
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        seconds = 10
        for number in range(seconds * 10):
            await scene.leave(await scene.login("bob", platform=f"p{number}"))
            bob = await scene.login("bob", platform=f"q{number}")
            await scene.tell(0.1)
            await scene.leave(bob)
        pushes = await scene.told(anna)
        assert 2 <= len(pushes) <= seconds / INTERVAL_S + 1
        await scene.tell(GRACE_S + INTERVAL_S)
        assert await scene.told_states(anna) == [("bob", False)]


async def test_online_until_the_last_device_goes(open_scene):
    """One device of two is a change of the platforms alone."""
    async with open_scene() as scene:
        anna = await scene.login("anna")
        one, two = await scene.login("bob", platform="ios"), await scene.login("bob", platform="web")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        await scene.leave(one)
        await scene.tell(GRACE_S)
        assert await scene.told(anna) == [{"user_id": "bob", "online": True, "platforms": ["web"]}]
        await scene.leave(two)
        await scene.tell(GRACE_S)
        assert await scene.told_states(anna) == [("bob", False)]


async def test_a_new_watcher_believes_what_the_others_do(open_scene):
    """Somebody who watches during the grace is told online, so that what follows is news to everybody."""
    async with open_scene() as scene:
        anna, carl, bob = await scene.login("anna"), await scene.login("carl"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        await scene.leave(bob)
        assert (await carl.ok(WATCH_PRESENCE, user_ids=["bob"]))["presence"] == [{"user_id": "bob", **ONLINE}]
        await scene.tell(GRACE_S)
        assert await scene.told_states(anna) == await scene.told_states(carl) == [("bob", False)]


async def test_unwatch(open_scene):
    """No push of those any more, all others as before."""
    async with open_scene() as scene:
        anna, bob, carl = await scene.login("anna"), await scene.login("bob"), await scene.login("carl")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob", "carl"])
        assert await anna.ok(WATCH_PRESENCE, user_ids=["bob", "dora"], unwatch=True) == {"rid": 3, "code": 0, "presence": []}
        await scene.leave(bob)
        await scene.leave(carl)
        await scene.tell(GRACE_S)
        assert await scene.told_states(anna) == [("carl", False)]


async def test_a_watch_ends_with_its_connection(open_scene):
    """Nothing is left of it, also if the connection went while the request was under way."""
    async with open_scene() as scene:
        anna, bob = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob", "anna"])
        assert len(scene.watches) == 2
        await scene.leave(anna)
        assert len(scene.watches) == 0
        assert scene.watches.add(scene.context, anna.session, ["bob"], set(), scene.watches.revision) == {}
        assert len(scene.watches) == 0
        assert not scene.watches._watched
        await scene.leave(bob)
        await scene.tell(GRACE_S)


async def test_a_connection_watches_a_bounded_number(open_scene):
    """500 in one request, `MAX_WATCHED` in all; over it nothing is taken, and those that are watched may be named again."""
    async with open_scene() as scene:
        anna = await scene.login("anna")
        names = [f"u{number}" for number in range(MAX_WATCHED + 1)]
        columns = "user_id, user_id_key, nickname, nickname_key, created_at"
        scene.door.sql(
            f"INSERT INTO users ({columns}) SELECT value, value, value, value, 1 FROM json_each(?)", json.dumps(names)
        )
        for start in range(0, MAX_WATCHED, presence.MAX_USERS):
            await anna.ok(WATCH_PRESENCE, user_ids=names[start : start + presence.MAX_USERS])
        assert (await anna.call(WATCH_PRESENCE, user_ids=names[-1:]))["code"] == 413
        await anna.ok(WATCH_PRESENCE, user_ids=names[:1])
        assert len(scene.watches) == MAX_WATCHED
        too_many = names[: presence.MAX_USERS + 1]
        assert (await anna.call(WATCH_PRESENCE, user_ids=too_many))["field"] == "user_ids"
        assert (await anna.call(GET_PRESENCE, user_ids=too_many))["code"] == 413


async def test_a_request_over_http_cannot_watch(open_scene):
    """There is nobody to push to; it may ask."""
    async with open_scene() as scene:
        await scene.login("anna")
        token = scene.door.foreign_token("bob")
        answer = await scene.door.bearer(token, GET_PRESENCE, user_ids=["anna"])
        assert answer["presence"] == [{"user_id": "anna", **ONLINE}]
        with pytest.raises(Conflict):
            await scene.door.bearer(token, WATCH_PRESENCE, user_ids=["anna"])


async def test_last_seen_is_for_whom_its_user_says(open_scene):
    """`nobody` hides it from answers and pushes, not from oneself; `everyone` shows it again; the setting is one's own."""
    async with open_scene() as scene:
        anna, bob = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        await bob.ok(UPDATE_PROFILE, last_seen="nobody")
        assert (await bob.call(UPDATE_PROFILE, last_seen="friends"))["field"] == "last_seen"
        assert (await bob.ok(GET_USER, user_ids=["bob"]))["users"][0]["last_seen"] == "nobody"
        assert "last_seen" not in (await anna.ok(GET_USER, user_ids=["bob"]))["users"][0]
        await scene.leave(bob)
        await scene.tell(GRACE_S)
        assert await scene.told(anna) == [{"user_id": "bob", **OFFLINE}]
        assert (await anna.ok(GET_PRESENCE, user_ids=["bob"]))["presence"] == [{"user_id": "bob", **OFFLINE}]
        by_http = {"token": scene.door.foreign_token("bob")}
        assert "last_seen" in (await scene.door.http(GET_PRESENCE, by_http, user_ids=["bob"]))["presence"][0]
        await scene.door.http(UPDATE_PROFILE, by_http, last_seen="everyone")
        assert "last_seen" in (await anna.ok(GET_PRESENCE, user_ids=["bob"]))["presence"][0]


async def test_last_seen_is_stored(open_scene):
    """In the table after the next round; what could not be written is written later, and is known meanwhile."""
    async with open_scene() as scene:
        anna, bob = await scene.login("anna"), await scene.login("bob")
        await scene.leave(bob)
        at = scene.rig.clock.now_ms()
        scene.rig.store.fail_next()
        with pytest.raises(StorageUnavailable):
            await presence.write_users_seen(scene.door.state, scene.context)
        assert (await anna.ok(GET_PRESENCE, user_ids=["bob"]))["presence"][0]["last_seen"] == at
        await presence.write_users_seen(scene.door.state, scene.context)
        assert scene.rig.rows("SELECT last_seen_at FROM users WHERE user_id = 'bob'") == [(at,)]
        assert scene.door.state.users_seen.unwritten() == []
        assert (await anna.ok(GET_PRESENCE, user_ids=["bob"]))["presence"][0]["last_seen"] == at


def test_what_is_newer_than_a_write_stays():
    """Somebody seen while the last time was being written is written again."""
    from imserver_plugins.user.state import UsersSeen

    seen = UsersSeen()
    seen.add("bob", 1)
    taken = seen.unwritten()
    seen.add("bob", 2)
    seen.written(taken)
    assert seen.unwritten() == [("bob", 2)]


# ---------------------------------------------------------------- who hides


class Hides:
    """Stands for the plugins' hooks `hidden_from`, and for what makes them say something else."""

    def __init__(self, scene):
        self.scene = scene
        self.pairs = set()
        self.during = None
        for shard in scene.rig.shards:
            shard.router.hidden_from = self.look

    async def look(self, reader, user_ids):
        found = {user_id for user_id in user_ids if (user_id, reader) in self.pairs}
        during, self.during = self.during, None
        if during is not None:
            during()
        return found

    def hide(self, user_id, reader):
        self.pairs.add((user_id, reader))
        self.tell_hidden(user_id, reader)

    def show(self, user_id, reader):
        self.pairs.discard((user_id, reader))
        self.tell_shown(user_id, reader)

    def tell_hidden(self, user_id, reader):
        self.scene.context.emit("user.hidden", user_id=user_id, reader=reader)

    def tell_shown(self, user_id, reader):
        self.scene.context.emit("user.shown", user_id=user_id, reader=reader)

    async def looked(self):
        """Whoever looks who hides has found it."""
        await self.scene.rig.until(lambda: not self.scene.watches._looks)


async def test_who_hides_is_offline_and_stays_so(open_scene):
    """Watchers see the user go, then neither come nor go; when it is over, they see what the others see."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, carl = await scene.login("anna"), await scene.login("carl")
        bob = await scene.login("bob")
        for peer in (anna, carl):
            await peer.ok(WATCH_PRESENCE, user_ids=["bob"])
        hides.hide("bob", "anna")
        assert await scene.told(anna) == [{"user_id": "bob", **OFFLINE}]
        hides.hide("bob", "anna")  # told once
        await scene.leave(bob)
        await scene.tell(INTERVAL_S + GRACE_S)
        bob = await scene.login("bob")
        await scene.tell(INTERVAL_S)
        assert await scene.told_states(anna) == []
        assert await scene.told_states(carl) == [("bob", False), ("bob", True)]
        for command_id in (GET_PRESENCE, WATCH_PRESENCE):
            assert (await anna.ok(command_id, user_ids=["bob"]))["presence"] == [{"user_id": "bob", **OFFLINE}]
        hides.show("bob", "anna")
        await hides.looked()
        assert await scene.told(anna) == [{"user_id": "bob", **ONLINE}]
        await scene.leave(bob)
        await scene.tell(INTERVAL_S + GRACE_S)
        assert await scene.told_states(anna) == await scene.told_states(carl) == [("bob", False)]


async def test_who_hides_while_the_watch_begins(open_scene):
    """Between the look who hides and the entry of the watch: it is seen, whichever way it changed."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, _ = await scene.login("anna"), await scene.login("bob")
        hides.during = lambda: hides.hide("bob", "anna")
        assert (await anna.ok(WATCH_PRESENCE, user_ids=["bob"]))["presence"] == [{"user_id": "bob", **OFFLINE}]
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"], unwatch=True)
        hides.during = lambda: hides.show("bob", "anna")
        assert (await anna.ok(WATCH_PRESENCE, user_ids=["bob"]))["presence"] == [{"user_id": "bob", **ONLINE}]
        assert await scene.told(anna) == []


async def test_news_that_are_on_their_way_when_a_user_hides(open_scene, monkeypatch):
    """They were made before, and would come after: they are not told."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna = await scene.login("anna")
        await scene.leave(await scene.login("bob"))
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        await scene.login("bob")
        held = []
        with monkeypatch.context() as slow:
            slow.setattr(presence, "_push_in", lambda *push: held.append(push))
            await scene.tell()
        hides.hide("bob", "anna")
        assert len(held) == 1
        presence._push_in(*held[0])
        assert await scene.told_states(anna) == [("bob", False)]


async def test_nothing_is_shown_while_nobody_knows_who_hides(open_scene):
    """The database cannot be read: the request fails, and watches nobody."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, _ = await scene.login("anna"), await scene.login("bob")

        def fail():
            raise StorageUnavailable("the disk is gone")

        for command_id in (GET_PRESENCE, WATCH_PRESENCE):
            hides.during = fail
            answer = await anna.call(command_id, user_ids=["bob"])
            assert (answer["code"], answer.keys() & {"presence"}) == (503, set())
        assert len(scene.watches) == 0


async def test_what_hides_is_told_in_another_order_than_it_came(open_scene):
    """BLOCK and UNBLOCK in two shards: what is told last is not what is so; the watcher sees what is."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, _ = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        hides.pairs.add(("bob", "anna"))  # shown, then hidden: that is durable; the other event comes last
        hides.tell_hidden("bob", "anna")
        hides.tell_shown("bob", "anna")
        await hides.looked()
        assert await scene.told_states(anna) == [("bob", False)]
        hides.tell_shown("bob", "anna")  # however late
        await hides.looked()
        assert await scene.told_states(anna) == []
        hides.pairs.clear()
        hides.tell_shown("bob", "anna")
        hides.tell_hidden("bob", "anna")
        await hides.looked()
        assert await scene.told_states(anna) == [("bob", True)]


async def test_who_hides_while_it_is_looked_at(open_scene):
    """What a look has read from before the change does not count, and never shows who hides."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, _ = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        hides.hide("bob", "anna")
        await hides.looked()
        assert await scene.told_states(anna) == [("bob", False)]
        hides.during = lambda: hides.hide("bob", "anna")
        hides.show("bob", "anna")
        await hides.looked()
        assert await scene.told_states(anna) == []
        assert (await anna.ok(WATCH_PRESENCE, user_ids=["bob"]))["presence"] == [{"user_id": "bob", **OFFLINE}]


async def test_who_hides_no_more_while_it_is_looked_at(open_scene):
    """The look is done again, and shows it."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, _ = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        hides.during = lambda: hides.show("bob", "anna")
        hides.hide("bob", "anna")
        await hides.looked()
        assert await scene.told_states(anna) == [("bob", False), ("bob", True)]


async def test_what_a_look_finds_never_shows_who_has_hidden_since(open_scene):
    """In another shard: between that it hides and that another look is asked for, too."""
    async with open_scene() as scene:
        anna, _ = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        assert scene.watches.begin_look("bob", "anna")
        assert scene.watches.looks_again("bob", "anna")
        scene.watches.hide("bob", "anna")
        assert scene.watches.found("bob", "anna", is_hidden=False) is None
        assert scene.watches.hides("bob", anna.session)
        assert scene.watches.looks_again("bob", "anna")
        assert scene.watches.found("bob", "anna", is_hidden=False) is not None
        assert not scene.watches.hides("bob", anna.session)


async def test_a_look_that_fails_is_done_again(open_scene, monkeypatch):
    """The database cannot be read for a while: who hid stays hidden so long, then it is found out."""
    monkeypatch.setattr(presence, "RETRY_S", 0)
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, _ = await scene.login("anna"), await scene.login("bob")
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])
        hides.hide("bob", "anna")
        await hides.looked()
        failed = []

        def fail():
            failed.append(scene.watches.hides("bob", anna.session))
            raise StorageUnavailable("the disk is gone")

        hides.during = fail
        hides.show("bob", "anna")
        await hides.looked()
        assert failed == [True]
        assert await scene.told_states(anna) == [("bob", False), ("bob", True)]


async def test_a_look_ends_with_the_watch(open_scene):
    """Who watches no more has nothing looked at for them; the entry of a look that broke off is gone, too."""
    async with open_scene() as scene:
        hides = Hides(scene)
        anna, _ = await scene.login("anna"), await scene.login("bob")
        hides.during = pytest.fail
        hides.hide("bob", "anna")
        assert not scene.watches._looks
        hides.during = None
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])

        def leave():
            scene.watches.remove(anna.session)
            hides.tell_shown("bob", "anna")

        hides.during = leave
        hides.show("bob", "anna")
        await hides.looked()
        await anna.ok(WATCH_PRESENCE, user_ids=["bob"])

        def break_off():
            raise LookupError("a fault of a hook")

        hides.during = break_off
        hides.show("bob", "anna")
        await hides.looked()
