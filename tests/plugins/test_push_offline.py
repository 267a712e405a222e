"""Offline push: who is pushed to, when, and with what; at the virtual clock, with a provider that is a list."""

import msgspec
import pytest
from push_rig import (
    MARK_READ,
    MESSAGE,
    MUTE,
    PUSH_ACK,
    RECALL,
    REMOVE_PUSH_TOKEN,
    SET_PUSH_TOKEN,
    pushing,
    recorder,
    register,
    say,
    wait,
)

from imserver.client.errors import ServerError
from imserver.plugin import ANYONE, InvalidBody, NotFound, Plugin, RateLimited, Unavailable, command

AB = "d:alice:bob"
LOGOUT, LIST_DEVICES, KICK_DEVICE = 1005, 1010, 1011


class Ending(msgspec.Struct):
    """Which sessions of bob's end; None: all."""

    sessions: list[str] | None = None
    event: str = "session.ended"


async def jobs(server):
    return await server.rows("SELECT user_id, seq FROM push_jobs ORDER BY user_id, seq")


async def test_an_open_socket_is_no_confirmation():
    """A device that is connected and has got the message, but does not confirm it, is pushed to after 10 s, not before."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob", device_id="phone")
        await register(bob, "t-bob")
        sent = await say(alice, "bob", "are you there?")
        assert (await bob.push(MESSAGE))["seq"] == 1
        await wait(server, 9.4)
        assert server.provider.pushes == []
        assert await jobs(server) == []
        await wait(server, 1.6)
        (push,) = server.provider.pushes
        assert (push.token, push.user_id, push.conversation_id, push.seq) == ("t-bob", "bob", AB, 1)
        assert (push.message_id, push.sender, push.title, push.text) == (
            sent["message_id"], "alice", "alice", "are you there?",
        )  # fmt: skip
        assert (push.badge, push.unread, push.type, push.sent_at) == (1, 1, "text", sent["sent_at"])
        assert push.expires_at == sent["sent_at"] + 86_400_000
        assert await jobs(server) == []
        await wait(server, 60)
        assert len(server.provider.pushes) == 1


@pytest.mark.parametrize("how", ["ack", "quiet ack", "read", "answer"])
async def test_what_was_confirmed_in_time_is_not_pushed(how):
    """PUSH_ACK with or without `rid`, MARK_READ or an answer of one's own, from any device, within 10 s: no push."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob", device_id="desk")
        await register(bob, "t-bob")
        await say(alice, "bob")
        await wait(server, 9.3)
        if how == "ack":
            await bob.request(PUSH_ACK, conversation_id=AB, seq=1)
        elif how == "quiet ack":  # gathered for a second: past the tenth
            await bob.send(PUSH_ACK, conversation_id=AB, seq=1)
            await bob.request(1)
        elif how == "read":
            await bob.request(MARK_READ, conversation_id=AB, seq=1)
        else:
            await say(bob, "alice")
        await wait(server, 30)
        assert server.provider.pushes == []
        assert await jobs(server) == []


async def test_who_has_no_device_costs_nothing():
    """Without a token, and for the sender, there is no job; a user without a socket is pushed to."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(alice, "t-alice")
        await say(alice, "bob")
        await wait(server, 15)
        assert server.provider.pushes == []
        await register(bob, "t-bob")
        bob.close()
        await say(alice, "bob", "now")
        await wait(server, 11)
        assert [(push.user_id, push.seq, push.badge) for push in server.provider.pushes] == [("bob", 2, 2)]


async def test_one_push_a_conversation_carries_the_newest():
    """Ten messages are one push with the newest; another conversation has its own, and they do not collapse."""
    async with pushing() as server:
        alice, bob, carol = await server.login("alice"), await server.login("bob"), await server.login("carol")
        await register(bob, "t-bob")
        for number in range(10):
            await say(alice, "bob", f"n{number}")
        await say(carol, "bob", "c")
        await wait(server, 11)
        pushes = {push.conversation_id: push for push in server.provider.pushes}
        assert len(server.provider.pushes) == 2
        assert (pushes[AB].text, pushes[AB].seq, pushes[AB].unread, pushes[AB].badge) == ("n9", 10, 10, 11)
        assert (pushes["d:bob:carol"].unread, pushes["d:bob:carol"].badge) == (1, 11)
        assert pushes[AB].collapse_id != pushes["d:bob:carol"].collapse_id
        await say(alice, "bob", "later")
        await wait(server, 11)
        again = server.provider.pushes[-1]
        assert (again.collapse_id, again.text, again.badge) == (pushes[AB].collapse_id, "later", 12)


async def test_one_job_while_the_provider_is_down():
    """What comes while the provider does not work takes the place of what waits; then it is one push, the newest."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        server.provider.fail = staticmethod(lambda push: Unavailable("down", retry_after_ms=0))
        await say(alice, "bob", "first")
        await wait(server, 11)
        await say(alice, "bob", "second")
        await wait(server, 11)
        assert await jobs(server) == [("bob", 2)]
        assert len(server.provider.pushes) >= 2
        server.provider.fail = staticmethod(lambda push: None)
        server.provider.pushes.clear()
        await wait(server, 60)
        assert [(push.seq, push.text) for push in server.provider.pushes] == [(2, "second")]
        assert await jobs(server) == []


async def test_the_badge_is_exact():
    """Unread of all conversations that are not muted, as SYNC counts it: own, read and system messages are not in it."""
    async with pushing() as server:
        alice, bob, carol, dave = [await server.login(name) for name in ("alice", "bob", "carol", "dave")]
        await register(bob, "t-bob")
        for peer in (alice, carol, dave):
            for number in range(3):
                await say(peer, "bob", f"{number}")
        await say(bob, "carol", "I have read yours")
        await say(carol, "bob", "one more")
        await bob.request(MARK_READ, conversation_id=AB, seq=2)
        await server.settle()
        await bob.request(MUTE, conversation_id="d:bob:dave")
        rows = (await bob.request(2003))["conversations"]
        unread = {row["conversation_id"]: row["unread"] for row in rows}
        assert unread == {AB: 1, "d:bob:carol": 1, "d:bob:dave": 3}
        await wait(server, 11)
        assert {push.conversation_id: push.unread for push in server.provider.pushes} == {AB: 1, "d:bob:carol": 1}
        assert {push.badge for push in server.provider.pushes} == {2}


async def test_muted_conversations_are_silent():
    """Muted before the message, or while its push waits: none comes."""
    async with pushing() as server:
        alice, bob, carol = [await server.login(name) for name in ("alice", "bob", "carol")]
        await register(bob, "t-bob")
        await say(alice, "bob")
        await server.settle()
        await bob.request(MUTE, conversation_id=AB)
        await wait(server, 11)
        assert server.provider.pushes == []
        server.provider.fail = staticmethod(lambda push: Unavailable("down", retry_after_ms=0))
        await say(carol, "bob")
        await wait(server, 11)
        assert await jobs(server) == [("bob", 1)]
        await bob.request(MUTE, conversation_id="d:bob:carol")
        server.provider.fail = staticmethod(lambda push: None)
        server.provider.pushes.clear()
        await wait(server, 60)
        assert (server.provider.pushes, await jobs(server)) == ([], [])


@pytest.mark.parametrize("how", ["ack", "read"])
async def test_what_is_confirmed_while_it_waits_is_cancelled(how):
    """A push that waits for its provider is dropped when the message is confirmed or read."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        server.provider.fail = staticmethod(lambda push: Unavailable("down", retry_after_ms=0))
        await say(alice, "bob")
        await wait(server, 11)
        assert await jobs(server) == [("bob", 1)]
        await bob.request(PUSH_ACK if how == "ack" else MARK_READ, conversation_id=AB, seq=1)
        server.provider.fail = staticmethod(lambda push: None)
        server.provider.pushes.clear()
        await wait(server, 60)
        assert (server.provider.pushes, await jobs(server)) == ([], [])


async def test_what_was_recalled_is_not_pushed():
    """A recalled message has no push of its own; what was said before it has."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob", "keep")
        await wait(server, 1)
        await say(alice, "bob", "regret")
        await wait(server, 1)
        await alice.request(RECALL, conversation_id=AB, seq=2)
        await wait(server, 11)
        assert [(push.seq, push.text, push.badge) for push in server.provider.pushes] == [(1, "keep", 1)]


async def test_a_device_that_is_no_more_is_forgotten():
    """NotFound: its token is deleted; the user's other device still gets its pushes, each once."""
    async with pushing() as server:
        alice, phone, tablet = (
            await server.login("alice"),
            await server.login("bob", device_id="phone"),
            await server.login("bob", device_id="tablet"),
        )
        await register(phone, "t-phone")
        await register(tablet, "t-tablet")
        server.provider.fail = staticmethod(lambda push: NotFound("gone") if push.token == "t-phone" else None)
        await say(alice, "bob")
        await wait(server, 15)
        assert sorted(push.token for push in server.provider.pushes) == ["t-phone", "t-tablet"]
        assert await server.rows("SELECT token FROM push_tokens") == [("t-tablet",)]
        assert await jobs(server) == []


async def test_only_the_device_that_failed_is_tried_again():
    """RateLimited for one device: the other one is not pushed to twice, and `retry_after_ms` is kept to."""
    async with pushing() as server:
        alice, phone, tablet = (
            await server.login("alice"),
            await server.login("bob", device_id="phone"),
            await server.login("bob", device_id="tablet"),
        )
        await register(phone, "t-phone")
        await register(tablet, "t-tablet")
        server.provider.fail = staticmethod(
            lambda push: RateLimited("slowly", retry_after_ms=30_000) if push.token == "t-phone" else None
        )
        await say(alice, "bob")
        await wait(server, 30)
        assert sorted(push.token for push in server.provider.pushes) == ["t-phone", "t-tablet"]
        server.provider.fail = staticmethod(lambda push: None)
        await wait(server, 15)
        assert sorted(push.token for push in server.provider.pushes) == ["t-phone", "t-phone", "t-tablet"]
        assert await jobs(server) == []


async def test_refusals_and_faults():
    """A push that is refused for good is not tried again; a provider's own fault is, until `give_up_after`."""
    async with pushing(settings={"plugins.push.give_up_after": "1m"}) as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        server.provider.fail = staticmethod(lambda push: InvalidBody("no"))
        await say(alice, "bob")
        await wait(server, 30)
        assert (len(server.provider.pushes), await jobs(server)) == (1, [])
        server.provider.fail = staticmethod(lambda push: ZeroDivisionError("a bug"))
        await say(alice, "bob")
        await wait(server, 40)
        assert len(server.provider.pushes) > 2
        assert await jobs(server) == [("bob", 2)]
        await wait(server, 200)
        assert await jobs(server) == []


async def test_a_dead_provider_is_left_alone():
    """While it does not work it is tried less and less, however much waits for it; nothing is lost."""
    async with pushing(settings={"plugins.push.concurrency": 1}) as server:
        alice = await server.login("alice")
        for number in range(10):
            await register(await server.login(f"u{number}"), f"t{number}")
        server.provider.fail = staticmethod(lambda push: Unavailable("down", retry_after_ms=0))
        for number in range(10):
            await say(alice, f"u{number}")
        await wait(server, 300)
        assert 5 <= len(server.provider.pushes) <= 20
        server.provider.fail = staticmethod(lambda push: None)
        server.provider.pushes.clear()
        await wait(server, 301)
        assert sorted(push.user_id for push in server.provider.pushes) == [f"u{number}" for number in range(10)]
        assert await jobs(server) == []


async def test_a_newer_message_is_for_all_devices():
    """While one device fails another message comes: the device that had the first one gets the second, too."""
    async with pushing() as server:
        alice = await server.login("alice")
        for name in ("phone", "tablet"):
            await register(await server.login("bob", device_id=name), name)
        server.provider.fail = staticmethod(
            lambda push: RateLimited("slowly", retry_after_ms=60_000) if push.token == "tablet" else None
        )
        await say(alice, "bob", "first")
        await wait(server, 12)
        await say(alice, "bob", "second")
        await wait(server, 12)
        got = [push.text for push in server.provider.pushes if push.token == "phone"]
        assert got == ["first", "second"]


async def test_what_is_recalled_while_it_waits_gives_way():
    """The newest message of a waiting push is recalled: the push has the one before it."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        server.provider.fail = staticmethod(lambda push: Unavailable("down", retry_after_ms=0))
        await say(alice, "bob", "keep")
        await say(alice, "bob", "regret")
        await wait(server, 12)
        assert await jobs(server) == [("bob", 2)]
        await alice.request(RECALL, conversation_id=AB, seq=2)
        server.provider.fail = staticmethod(lambda push: None)
        server.provider.pushes.clear()
        await wait(server, 60)
        assert [(push.seq, push.text, push.badge) for push in server.provider.pushes] == [(1, "keep", 1)]
        assert await jobs(server) == []


async def test_own_messages_are_read_at_once(monkeypatch):
    """Who writes has read what was before, also while the table of members does not say so yet."""
    monkeypatch.setattr("imserver.server._FOLD_INTERVAL_S", 1e6)
    async with pushing() as server:
        alice, bob, carol = [await server.login(name) for name in ("alice", "bob", "carol")]
        await register(bob, "t-bob")
        await say(carol, "bob")
        await say(bob, "carol")
        await say(alice, "bob", "first")
        await wait(server, 1)
        await say(bob, "alice")
        await say(alice, "bob", "second")
        await wait(server, 12)
        newest = server.provider.pushes[-1]
        assert (newest.text, newest.unread, newest.badge) == ("second", 1, 1)
        assert {push.text for push in server.provider.pushes} == {"second"}


async def test_the_jobs_are_bounded():
    """At `max_jobs` the oldest go."""
    async with pushing(settings={"plugins.push.max_jobs": 3}) as server:
        alice = await server.login("alice")
        server.provider.fail = staticmethod(lambda push: Unavailable("down", retry_after_ms=0))
        for number in range(5):
            user = await server.login(f"u{number}")
            await register(user, f"t{number}")
            await say(alice, f"u{number}")
            await wait(server, 1)
        await wait(server, 12)
        assert [user for user, _ in await jobs(server)] == ["u2", "u3", "u4"]


async def test_tokens():
    """A device has one token of a kind, the newest; a token has one owner, the last; a user has `max_devices`."""
    async with pushing(settings={"plugins.push.max_devices": 3}) as server:
        bob, carol = await server.login("bob", device_id="phone"), await server.login("carol")
        await register(bob, "t1")
        await register(bob, "t2")
        held = "SELECT user_id, token FROM push_tokens ORDER BY registered_at, token"
        assert await server.rows(held) == [("bob", "t2")]
        await register(carol, "t2")
        assert await server.rows(held) == [("carol", "t2")]
        for number in range(4):
            await wait(server, 0.01)
            device = await server.login("bob", device_id=f"d{number}")
            await register(device, f"d{number}")
        assert await server.rows(held) == [("carol", "t2"), ("bob", "d1"), ("bob", "d2"), ("bob", "d3")]
        await device.request(REMOVE_PUSH_TOKEN, token="d1")
        await carol.request(REMOVE_PUSH_TOKEN, token="d2")  # not hers
        await device.request(REMOVE_PUSH_TOKEN)
        await carol.request(REMOVE_PUSH_TOKEN)
        await carol.request(REMOVE_PUSH_TOKEN)
        assert await server.rows(held) == [("bob", "d2")]


async def test_sessions_that_end_take_their_tokens_along():
    """The events `session.ended`, of some sessions or all, and `user.disabled`: those devices are pushed to no more."""

    class Ender(Plugin):
        name = "ender"

        @command(6010, request=Ending, allow=ANYONE)
        def end(self, ctx, request):
            if request.event == "user.disabled":
                ctx.emit("user.disabled", user_id="bob")
            else:
                sessions = None if request.sessions is None else set(request.sessions)
                ctx.emit("session.ended", user_id="bob", session_ids=sessions)
            return {}

    async with pushing(Ender) as server:
        sessions = {}
        for name in ("d1", "d2", "d3", "d4"):
            device = server.connect()
            sessions[name] = (await device.login("bob", device_id=name))["session_id"]
            await register(device, name)
        held = "SELECT token FROM push_tokens ORDER BY token"
        await device.request(6010, sessions=[sessions["d1"], sessions["d3"]])
        assert await server.rows(held) == [("d2",), ("d4",)]
        await device.request(6010, sessions=[])
        assert await server.rows(held) == [("d2",), ("d4",)]
        await device.request(6010)
        assert await server.rows(held) == []
        await register(device, "d4")
        await device.request(6010, event="user.disabled")
        assert await server.rows(held) == []


async def test_logout_and_kick_take_tokens_along():
    """LOGOUT of a session, KICK_DEVICE of another, LOGOUT of all: those devices' tokens are deleted."""
    held = "SELECT token FROM push_tokens ORDER BY token"
    async with pushing() as server:
        devices = [await server.login("bob", device_id=f"d{number}") for number in range(4)]
        for number, device in enumerate(devices):
            await register(device, f"t{number}")
        await devices[0].request(LOGOUT)
        await server.settle()
        assert await server.rows(held) == [("t1",), ("t2",), ("t3",)]
        listed = (await devices[1].request(LIST_DEVICES))["devices"]
        session_id = next(device["session_id"] for device in listed if device["device_id"] == "d2")
        await devices[1].request(KICK_DEVICE, session_id=session_id)
        await server.settle()
        assert await server.rows(held) == [("t1",), ("t3",)]
        await devices[1].request(LOGOUT, all=True)
        await server.settle()
        assert await server.rows(held) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"provider": "fcm"},
        {"provider": "pager", "token": "t"},
        {"provider": "FCM!", "token": "t"},
        {"provider": "fcm", "token": ""},
        {"provider": "fcm", "token": "with space"},
        {"provider": "fcm", "token": "t" * 4097},
        {"provider": "fcm", "token": "t", "app": "a b"},
    ],
)
async def test_bad_tokens_are_refused(fields):
    """400 for what is missing, malformed, too long, or of a provider that is not there: it names those that are."""
    async with pushing() as server:
        bob = await server.login("bob")
        with pytest.raises(ServerError) as refusal:
            await bob.request(SET_PUSH_TOKEN, **fields)
        assert refusal.value.code == 400
        if fields["provider"] == "pager":
            assert "it does by: fcm" in str(refusal.value)
        assert await server.rows("SELECT * FROM push_tokens") == []


async def test_the_text_follows_the_settings():
    """Without `preview`, and of what is no text, there is `generic_text`; a long text is cut."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob", "x" * 500)
        await wait(server, 11)
        await say(alice, "bob", {"file_id": "f"}, type="image")
        await wait(server, 11)
        assert [push.text for push in server.provider.pushes] == ["x" * 199 + "…", "New message"]
    settings = {"plugins.push.preview": False, "plugins.push.generic_text": "Psst", "plugins.push.offline_after": "2s"}
    async with pushing(settings=settings) as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob", "secret")
        await wait(server, 3)
        assert [push.text for push in server.provider.pushes] == ["Psst"]


async def test_a_stop_forgets_nothing(tmp_path):
    """A message whose ten seconds are not over, and a push that waits, are pushed by the next server; the rest is not."""
    kind = recorder()
    async with pushing(folder=tmp_path, provider=kind) as server:
        alice, bob, carol = [await server.login(name) for name in ("alice", "bob", "carol")]
        await register(bob, "t-bob")
        await register(carol, "t-carol")
        await say(alice, "carol", "was pushed")
        await wait(server, 11)
        kind.fail = staticmethod(lambda push: Unavailable("down", retry_after_ms=0))
        await say(alice, "bob", "waits")
        await wait(server, 11)
        await say(alice, "carol", "is young")
    kind.fail = staticmethod(lambda push: None)
    kind.pushes.clear()
    async with pushing(folder=tmp_path, provider=kind) as server:
        await wait(server, 60)
        assert sorted(push.text for push in kind.pushes) == ["is young", "waits"]


async def test_expired_messages_are_not_pushed():
    """A message whose time is over before its push goes is none."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob", expires_in_ms=5000)
        await wait(server, 15)
        assert server.provider.pushes == []
