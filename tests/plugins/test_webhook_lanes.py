"""What may go wrong in a lane of the webhook plugin, and must not hold it up, lose anything, or fill the disk."""

import itertools
import json

import pytest
import trio
import trio.testing
from helpers import FakeClock
from test_webhook_delivery import SAY, Receiver, hooked, target

from imserver.plugin import Draft
from imserver_plugins.webhook import delivery
from imserver_plugins.webhook.client import Answer, PostFailed
from imserver_plugins.webhook.events import gone_event
from imserver_plugins.webhook.settings import Settings

_numbers = itertools.count(1)
QUICK = {"retry_first_s": 0.05, "retry_most_s": 0.05}


async def say(client, *texts):
    for text in texts:
        await client.ok(SAY, client_id=f"k{next(_numbers)}", to="bob", body=text)


def only_conversation(rig):
    """The one conversation there is."""
    return rig.rows("SELECT conversation_id FROM conversations")[0][0]


async def test_a_fault_ends_no_lane(tmp_path, monkeypatch):
    """What nobody foresaw is logged, and the lane tries again: the target is not held up unseen until a restart."""
    monkeypatch.setattr(delivery, "_FAULT_S", 0.01)
    receiver = Receiver()
    faults = iter([ValueError("unforeseen"), RecursionError("unforeseen")])

    async def post(url, headers, body, *, timeout_s, take=receiver.post):
        fault = next(faults, None)
        if fault is not None:
            raise fault
        return await take(url, headers, body, timeout_s=timeout_s)

    receiver.post = post
    async with hooked(tmp_path, receiver, Settings(targets=(target(),))) as rig:
        alice = await rig.login("alice")
        await say(alice, "1", "2")
        await rig.until(lambda: rig.rows("SELECT through FROM webhook_cursors") == rig.rows("SELECT max(id) FROM messages"))
        assert receiver.said()[-1] == "2"


async def test_a_receiver_that_refuses_everything_is_not_believed_for_long(tmp_path, monkeypatch):
    """Some refusals in a row are put aside at once; then each takes as long as a failure: it may be the receiver's fault."""
    monkeypatch.setattr(delivery, "REFUSALS_AT_ONCE", 3)
    receiver = Receiver()
    receiver.answer = lambda post: Answer(400, {}, b"", True)
    settings = Settings(targets=(target(batch=1),), retry_first_s=1000, retry_most_s=1000)
    async with hooked(tmp_path, receiver, settings) as rig:
        alice = await rig.login("alice")
        await say(alice, *"123456789")
        await rig.until(lambda: rig.rows("SELECT count(*) FROM webhook_dead") == [(4,)])
        await trio.testing.wait_all_tasks_blocked()
        assert rig.rows("SELECT count(*) FROM webhook_dead") == [(4,)]
        assert receiver.said() == ["1", "2", "3", "4"]


async def test_refusals_between_successes_cost_no_time(tmp_path, monkeypatch):
    """One that is taken says that the receiver is well: what it refuses then is put aside at once again."""
    monkeypatch.setattr(delivery, "REFUSALS_AT_ONCE", 1)
    receiver = Receiver()
    receiver.answer = lambda post: Answer(400 if "bad" in str(post) else 200, {}, b"", True)
    settings = Settings(targets=(target(batch=1),), retry_first_s=1000, retry_most_s=1000)
    async with hooked(tmp_path, receiver, settings) as rig:
        alice = await rig.login("alice")
        await say(alice, "bad 1", "2", "bad 3", "4", "bad 5", "6")
        await rig.until(lambda: "6" in receiver.said())
        assert rig.rows("SELECT count(*) FROM webhook_dead") == [(3,)]


async def test_what_is_no_business_of_a_target_is_noted_now_and_then(tmp_path):
    """A target of another type of messages does not begin at the beginning after each restart."""
    receiver, clock = Receiver(), FakeClock()
    async with hooked(tmp_path, receiver, Settings(targets=(target(types=("custom",)),)), clock=clock) as rig:
        alice = await rig.login("alice")
        await say(alice, "1", "2")
        last = rig.rows("SELECT max(id) FROM messages")

        def is_noted():
            clock.advance(delivery.NOTE_S)
            return rig.rows("SELECT through FROM webhook_cursors") == last

        await rig.until(is_noted)
    assert receiver.posts == []


async def test_a_target_without_messages_has_no_place_among_them(tmp_path):
    """It is not behind by all that was ever said; should it want messages one day, it begins with the new ones."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, Settings(targets=(target(events=("user.*",)),))) as rig:
        alice = await rig.login("alice")
        await say(alice, "before")
        assert rig.rows("SELECT * FROM webhook_cursors") == []
    async with hooked(tmp_path, receiver, Settings(targets=(target(events=("*",)),))) as rig:
        alice = await rig.login("alice")
        await say(alice, "behind")
        await rig.until(lambda: "behind" in receiver.said())
    assert receiver.said() == ["behind"]


async def test_what_was_delivered_makes_room(tmp_path):
    """`max_waiting` is of what waits, not of what came since the last look at the table."""
    receiver = Receiver()
    settings = Settings(targets=(target(events=("user.*",)),), max_waiting=3)
    async with hooked(tmp_path, receiver, settings) as rig:
        for number in range(10):
            rig.context.emit("user.created", user_id=f"u{number}")
            await rig.until(lambda number=number: len(receiver.names()) > number)
            await rig.until(lambda: rig.rows("SELECT count(*) FROM webhook_outbox") == [(0,)])
            await trio.testing.wait_all_tasks_blocked()
    assert len(receiver.names()) == 10


async def test_a_slow_target_does_not_hold_up_another(tmp_path):
    """One whose posts take for ever, and one that fails; the third has everything."""
    receiver = Receiver()

    async def post(url, headers, body, *, timeout_s, take=receiver.post):
        if "slow" in url:
            await trio.sleep_forever()
        if "down" in url:
            raise PostFailed("down")
        return await take(url, headers, body, timeout_s=timeout_s)

    receiver.post = post
    targets = [target(name=name, url=f"https://{name}.example/") for name in ("slow", "down", "good")]
    async with hooked(tmp_path, receiver, Settings(targets=tuple(targets), **QUICK)) as rig:
        alice = await rig.login("alice")
        for number in range(20):
            await say(alice, f"{number}")
        await rig.until(lambda: len(receiver.said()) == 20)
        waiting = dict(rig.rows("SELECT target, through FROM webhook_cursors"))
        assert waiting["slow"] == waiting["down"] < waiting["good"]


async def test_expired_before_it_was_told_of(tmp_path):
    """Its place is told, under its id and the time at which it was sent: the same however often."""
    clock = FakeClock()
    receiver = Receiver()
    receiver.answer = lambda post: PostFailed("down")
    settings = Settings(targets=(target(),), retry_first_s=0.05, retry_most_s=0.05)
    async with hooked(tmp_path, receiver, settings, clock=clock) as rig:
        alice = await rig.login("alice")
        await say(alice, "before")
        conversation_id = only_conversation(rig)

        def append(ctx):
            draft = Draft(conversation_id, "alice", "c", "text", "secret", expires_in_ms=1000)
            ctx.messages.append(ctx.conversations.require(conversation_id), draft)

        await rig.context.conversations.transact(append)
        sent_at = clock.now_ms()
        clock.advance(2)
        assert await rig.context.messages.delete_expired(10) == 1
        receiver.posts.clear()
        receiver.answer = lambda post: Answer(200, {}, b"", True)
        await rig.until(lambda: rig.rows("SELECT through FROM webhook_cursors") == rig.rows("SELECT max(id) FROM messages"))
    last = receiver.posts[-1]["events"][-1]
    assert (last["time"], last["message"]["expired"], last["message"]["seq"]) == (sent_at, True, 2)
    assert "secret" not in str(receiver.posts[-1])
    number = int(last["message"]["message_id"], 16)
    assert json.loads(gone_event(number, last["message"]["conversation_id"], 1, 2).payload) == last


@pytest.mark.parametrize("lanes", [1, 3])
async def test_order_within_a_conversation(tmp_path, lanes):
    """A receiver that fails three posts of four, and refuses one of these: each conversation keeps its order."""
    receiver = Receiver()
    turns = itertools.count()
    receiver.answer = lambda post: Answer((200, 500, 413, 503)[next(turns) % 4], {}, b"", True)
    settings = Settings(targets=(target(batch=3, concurrency=lanes),), **QUICK)
    async with hooked(tmp_path, receiver, settings) as rig:
        alice = await rig.login("alice")
        for number in range(12):
            for peer in ("bob", "carol", "dave"):
                await alice.ok(SAY, client_id=f"k{next(_numbers)}", to=peer, body=f"{peer} {number}")
        first = []

        def all_told():
            first[:] = list(dict.fromkeys(receiver.said()))
            return len(first) == 36

        await rig.until(all_told)
    for peer in ("bob", "carol", "dave"):
        assert [text for text in first if text.startswith(peer)] == [f"{peer} {number}" for number in range(12)]
