"""How a sender, or the receiver that is asked, may try to get around `before_send`."""

import itertools

import pytest
import trio
import trio.testing
from helpers import FakeClock
from test_webhook_delivery import SAY, Receiver, asking, hooked

from imserver.plugin import Draft, ImError, NotLoaded, load_all
from imserver_plugins.webhook.client import Answer, PostFailed
from imserver_plugins.webhook.slots import Slots

_numbers = itertools.count(1)


def name():
    return f"k{next(_numbers)}"


def refuses_bad(post):
    """The receiver's rule in these tests."""
    is_bad = "bad" in str(post["message"]["body"]) or "@all" in (post["message"]["mentions"] or ())
    return Answer(200, {}, b'{"action": "refuse"}' if is_bad else b"", True)


def verdicts(rig, *drafts):
    """What the gate says of drafts now, from what it remembers: None: it would ask."""
    for draft in drafts:
        try:
            rig.plugin.before_send(rig.context, draft)
            yield 0
        except NotLoaded:
            yield None
        except ImError as exc:
            yield exc.code


async def test_what_calls_itself_typing_is_asked_about(tmp_path):
    """A message of the type `typing` or `reaction` is a message; what TYPING and REACT let the hooks see is none."""
    receiver = Receiver()
    receiver.answer = refuses_bad
    async with hooked(tmp_path, receiver, asking()) as rig:
        real = (Draft("d:a:b", "a", "typing", "typing", None), Draft("d:a:b", "a", "reaction", "reaction", "+1"))
        assert list(verdicts(rig, *real)) == [0, 0]
        for kind in ("typing", "reaction"):
            for client_id, body in ((name(), "bad"), (kind, "bad" * 20), (kind, {"bad": 1})):
                draft = Draft("d:a:b", "a", client_id, kind, body)
                assert list(verdicts(rig, draft)) == [None], (kind, client_id, body)
        assert list(verdicts(rig, Draft("d:a:b", "a", "typing", "typing", None, mentions=["@all"]))) == [None]


async def test_a_verdict_is_for_all_that_was_asked(tmp_path):
    """The same words with other mentions, or as an answer to something else, are another message."""
    receiver = Receiver()
    receiver.answer = refuses_bad
    async with hooked(tmp_path, receiver, asking()) as rig:
        alice = await rig.login("alice")
        await alice.ok(SAY, client_id="c", to="bob", body="fine")
        conversation = receiver.posts[-1]["message"]["conversation_id"]
        same = Draft(conversation, "alice", "c", "text", "fine")
        others = [Draft(conversation, "alice", "c", "text", "fine", mentions=["@all"])]
        others += [Draft(conversation, "alice", "c", "text", "fine", reply_to=1)]
        assert list(verdicts(rig, same, *others)) == [0, None, None]


@pytest.mark.parametrize("count", [3, 100])
async def test_a_batch_waits_for_its_turn(tmp_path, count):
    """More messages at once than `concurrency`: all are asked about, so many at a time; none slips through unasked."""
    receiver, under_way, most = Receiver(), 0, 0
    receiver.answer = refuses_bad

    async def post(url, headers, body, *, timeout_s, take=receiver.post):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await take(url, headers, body, timeout_s=timeout_s)
        finally:
            under_way -= 1

    receiver.post = post
    async with hooked(tmp_path, receiver, asking(concurrency=2, on_failure="allow", timeout_s=5)) as rig:
        drafts = [Draft("d:alice:bob", "alice", name(), "text", f"bad {number}") for number in range(count)]
        await load(rig, drafts)
        assert list(verdicts(rig, *drafts)) == [403] * count
    assert len(receiver.posts) == count
    assert most == 2


async def load(rig, drafts):
    """As SEND_BATCH does it: all that the hooks ask for at once."""
    wanted = []
    for draft in drafts:
        try:
            rig.plugin.before_send(rig.context, draft)
        except NotLoaded as exc:
            wanted.append(exc)
    await load_all(wanted)


async def test_who_finds_no_place_in_time_is_left_to_the_policy(tmp_path):
    """All places are taken for as long as the time limit: nothing is asked, and the policy decides."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, asking(concurrency=1, timeout_s=0.05)) as rig:
        await rig.plugin._gate._slots.take()
        alice = await rig.login("alice")
        assert (await alice.call(SAY, client_id=name(), to="bob"))["error"] == "check_unavailable"
        assert receiver.posts == []
        rig.plugin._gate._slots.give_back()
        await alice.ok(SAY, client_id=name(), to="bob")


async def test_slots(autojump_clock):
    """Who waits is served in turn; who gives up, before or as its turn comes, takes no place with it."""
    slots, served = Slots(1), []
    await slots.take()

    async def wait(number, patience_s):
        with trio.move_on_after(patience_s):
            await slots.take()
            served.append(number)
            slots.give_back()

    async with trio.open_nursery() as nursery:
        for number, patience_s in enumerate((50, 1, 50)):
            nursery.start_soon(wait, number, patience_s)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(2)
        slots.give_back()
    assert served == [0, 2]
    await slots.take()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 3, 50)
        await trio.testing.wait_all_tasks_blocked()
        slots.give_back()
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        await slots.take()


@pytest.mark.parametrize("policy", ["allow", "refuse"])
async def test_changes_that_are_none(tmp_path, policy):
    """An answer nested without end, and a change that its sender could not have sent: the policy decides."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, asking(on_failure=policy)) as rig:
        alice = await rig.login("alice")
        for answer in (
            b'{"action": "change", "body": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
            b'{"action": "change", "body": "\xff"}',
            b'{"action": "change", "body": {"a": 1}}',
            b'{"action": "change", "body": null}',
            b'{"action": "change", "type": "system"}',
            b'{"action": "change", "type": "typing"}',
            b'{"action": "change", "type": "reaction"}',
        ):
            rig.plugin._gate._standing.failures = 0
            receiver.answer = lambda post, answer=answer: Answer(200, {}, answer, True)
            said = await alice.call(SAY, client_id=name(), to="bob", body="fine")
            assert said["code"] == (0 if policy == "allow" else 503), answer[:60]
        rig.plugin._gate._standing.failures = 0
        receiver.answer = lambda post: Answer(200, {}, b'{"action": "change", "type": "card", "body": {"a": 1}}', True)
        await alice.ok(SAY, client_id=name(), to="bob", body="fine")


async def test_questions_without_an_answer_last_as_long_as_the_slowest(tmp_path):
    """Of several that are asked at once, one fails early and one late: both verdicts are still there."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, asking(on_failure="allow", timeout_s=2), clock=FakeClock()) as rig:
        drafts = [Draft("d:alice:bob", "alice", name(), "text", body) for body in ("early", "late")]
        receiver.answer = lambda post: PostFailed("down")
        await load(rig, drafts[:1])
        rig.context.clock.advance(1.9)
        await load(rig, drafts[1:])
        assert list(verdicts(rig, *drafts)) == [0, 0]
