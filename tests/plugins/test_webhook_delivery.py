"""Lanes, the outbox and the gate of the webhook plugin, with a receiver that is a function."""

import itertools
import json
from contextlib import asynccontextmanager

import helpers
import pytest
import trio
import trio.lowlevel
from helpers import FakeClock, registry_of, running

from imserver_plugins.webhook import delivery, gate, signing
from imserver_plugins.webhook.client import Answer, Client, PostFailed
from imserver_plugins.webhook.plugin import WebhookPlugin
from imserver_plugins.webhook.settings import BeforeSend, Settings, Target

SECRET = "a secret for the tests"
SAY = 2001
_numbers = itertools.count(1)


class Receiver:
    """Takes the place of the HTTP client."""

    def __init__(self):
        self.posts = []
        self.answer = lambda post: Answer(200, {}, b"", True)

    async def post(self, url, headers, body, *, timeout_s):
        await trio.lowlevel.checkpoint()
        post = json.loads(body)
        self.posts.append(post)
        answer = self.answer(post)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def said(self):
        return [
            event["message"]["body"]
            for post in self.posts
            for event in post["events"]
            if event["event"] == "message.accepted"
        ]

    def names(self):
        return [event["event"] for post in self.posts for event in post.get("events", ())]


def target(**fields):
    return Target(**{"name": "crm", "url": "https://example.org/", "secret": SECRET, **fields})


@asynccontextmanager
async def hooked(folder, receiver, settings, **options):
    """A core with the plugin, which was started."""
    plugin = WebhookPlugin()

    def with_settings(*plugins):
        registry = registry_of(*plugins)
        registry.settings[plugin.name] = settings
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "registry_of", with_settings)
        patch.setattr(Client, "make", lambda *_: receiver)
        async with running(folder, plugin, **options) as rig:
            rig.context = rig.shard.router.app_context("webhook")
            rig.plugin = plugin
            await plugin.on_start(rig.context)
            yield rig


async def test_no_target_costs_nothing(tmp_path):
    """Without a target nothing is written, asked or started."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, Settings()) as rig:
        alice = await rig.login("alice")
        await alice.ok(SAY, client_id=f"k{next(_numbers)}", to="bob")
        rig.context.emit("user.created", user_id="carol")
        await rig.context.wait_durable()
        assert rig.rows("SELECT * FROM webhook_outbox") == rig.rows("SELECT * FROM webhook_cursors") == []
        assert not rig.context.activity.tasks
    assert receiver.posts == []


async def test_more_lanes_lose_nothing(tmp_path):
    """With another `concurrency` the lanes begin where the last of the old ones was; a new target begins at the end."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, Settings(targets=(target(concurrency=2),))) as rig:
        alice = await rig.login("alice")
        for name in ("bob", "carol", "dave"):
            await alice.ok(SAY, client_id=f"k{next(_numbers)}", to=name, body=f"to {name}")
        await rig.until(lambda: len(receiver.said()) == 3)
        await rig.until(lambda: min(row[0] for row in rig.rows("SELECT through FROM webhook_cursors")) > 0)
    again = Receiver()
    three = Settings(targets=(target(concurrency=3), target(name="new")))
    async with hooked(tmp_path, again, three) as rig:
        alice = await rig.login("alice")
        await alice.ok(SAY, client_id=f"k{next(_numbers)}", to="bob", body="later")
        await rig.until(lambda: again.said().count("later") == 2)
        of_new = [post for post in again.posts if post["target"] == "new"]
        assert [event["message"]["body"] for post in of_new for event in post["events"]] == ["later"]
        lanes = rig.rows("SELECT lanes, lane FROM webhook_cursors WHERE target = 'crm' ORDER BY lane")
        assert lanes == [(3, 0), (3, 1), (3, 2)]


async def test_types_and_batches(tmp_path):
    """Messages of other types are passed over; one post has no more than `batch` events."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, Settings(targets=(target(types=("custom",), batch=2),))) as rig:
        alice = await rig.login("alice")
        for number in range(5):
            await alice.ok(SAY, client_id=f"k{next(_numbers)}", to="bob", body=f"t{number}")
            await alice.ok(SAY, client_id=f"k{next(_numbers)}", to="bob", body=f"c{number}", type="custom")
        await rig.until(lambda: len(receiver.said()) == 5)
    assert receiver.said() == [f"c{number}" for number in range(5)]
    assert max(len(post["events"]) for post in receiver.posts) <= 2


async def test_the_outbox_is_bounded(tmp_path):
    """At `max_waiting` new events are dropped, which is logged, and room is found again once some are delivered."""
    receiver = Receiver()
    receiver.answer = lambda post: PostFailed("down")
    settings = Settings(targets=(target(events=("user.*",)),), max_waiting=3, retry_first_s=0.05, retry_most_s=0.05)
    async with hooked(tmp_path, receiver, settings) as rig:
        for number in range(5):
            rig.context.emit("user.created", user_id=f"u{number}")
        await rig.context.wait_durable()
        assert rig.rows("SELECT count(*) FROM webhook_outbox") == [(3,)]
        receiver.posts.clear()
        receiver.answer = lambda post: Answer(200, {}, b"", True)
        await rig.until(lambda: rig.rows("SELECT count(*) FROM webhook_outbox") == [(0,)])
        assert [event["user_id"] for post in receiver.posts for event in post["events"]] == ["u0", "u1", "u2"]
        await rig.plugin._count(rig.context)
        rig.context.emit("user.created", user_id="u9")
        await rig.until(lambda: receiver.posts[-1]["events"][-1]["user_id"] == "u9")


async def test_what_is_too_old_is_given_up(tmp_path):
    """An event that could not be delivered for `give_up_after` is put aside; of those `max_dead` are kept."""
    receiver, clock = Receiver(), FakeClock()
    receiver.answer = lambda post: PostFailed("down")
    settings = Settings(
        targets=(target(events=("user.*",), batch=1),),
        give_up_after_s=3600,
        max_dead=2,
        retry_first_s=0.05,
        retry_most_s=0.05,
    )
    async with hooked(tmp_path, receiver, settings, clock=clock) as rig:
        for number in range(3):
            rig.context.emit("user.created", user_id=f"u{number}")
        await rig.until(lambda: len(receiver.posts) > 1)
        assert rig.rows("SELECT count(*) FROM webhook_dead") == [(0,)]
        clock.advance(3601)
        await rig.until(lambda: rig.rows("SELECT count(*) FROM webhook_outbox") == [(0,)])
        dead = rig.rows("SELECT payload, reason FROM webhook_dead ORDER BY id")
        assert [(json.loads(payload)["user_id"], reason) for payload, reason in dead] == [("u1", "down"), ("u2", "down")]


async def test_a_handler_that_raises_tells_nothing(tmp_path):
    """An event lies in the commit of its handler: with the handler it is taken back."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, Settings(targets=(target(events=("*",)),))) as rig:
        section = rig.shard.section
        section.begin()
        rig.context.emit("group.created", group_id="g1")
        section.abandon()
        rig.context.emit("group.created", group_id="g2")
        await rig.until(lambda: receiver.posts)
        assert [event["group_id"] for post in receiver.posts for event in post["events"]] == ["g2"]


async def test_pauses_grow_with_jitter_and_obey(tmp_path):
    """Twice as long each time up to the longest; a Retry-After is kept to, up to the longest."""
    settings = Settings(retry_first_s=1, retry_most_s=60)
    async with hooked(tmp_path, Receiver(), Settings()) as rig:
        way = delivery.Way(target(), settings, (), Receiver())
        lane = delivery.Lane(rig.context, way, 0, 0)
        for failures, longest in ((1, 1), (2, 2), (4, 8), (7, 60), (1000, 60)):
            lane._failures = failures
            pauses = [lane._pause_s(PostFailed("down")) for _ in range(50)]
            assert longest / 2 <= min(pauses) < max(pauses) <= longest
        lane._failures = 1
        assert lane._pause_s(Answer(503, {"retry-after": "30"}, b"", True)) == 30
        assert lane._pause_s(Answer(503, {"retry-after": "9999"}, b"", True)) == 60
        assert lane._pause_s(Answer(503, {"retry-after": "soon"}, b"", True)) <= 1


def asking(**fields):
    return Settings(before_send=BeforeSend(url="https://example.org/", secret=SECRET, **fields))


async def test_the_gate_rests_after_failures(tmp_path):
    """A receiver that fails again and again is not asked for a while; the policy decides meanwhile, then it is asked."""
    receiver, clock = Receiver(), FakeClock()
    receiver.answer = lambda post: PostFailed("down")
    async with hooked(tmp_path, receiver, asking(on_failure="allow"), clock=clock) as rig:
        alice = await rig.login("alice")
        for _ in range(gate.FAILURES_TO_REST + 3):
            await alice.ok(SAY, client_id=f"k{next(_numbers)}", to="bob")
        assert len(receiver.posts) == gate.FAILURES_TO_REST
        clock.advance(gate.REST_S + 1)
        receiver.answer = lambda post: Answer(200, {}, b'{"action": "refuse"}', True)
        await trio.lowlevel.checkpoint()
        refusal = await alice.call(SAY, client_id=f"k{next(_numbers)}", to="bob")
        assert (refusal["code"], refusal["error"]) == (403, "message_refused")


@pytest.mark.parametrize("policy", ["allow", "refuse"])
async def test_answers_that_are_none(tmp_path, policy):
    """A wrong status, an answer that is no JSON, unknown fields, a body that no client could read: the policy decides."""
    receiver = Receiver()
    async with hooked(tmp_path, receiver, asking(on_failure=policy)) as rig:
        alice = await rig.login("alice")
        for answer in (
            Answer(500, {}, b"", True),
            Answer(200, {}, b"nonsense", True),
            Answer(200, {}, b'{"acton": "refuse"}', True),
            Answer(200, {}, b'{"action": "change"}', False),
        ):
            receiver.answer = lambda post, answer=answer: answer
            assert (await alice.call(SAY, client_id=f"k{next(_numbers)}", to="bob"))["code"] == (
                0 if policy == "allow" else 503
            )


async def test_verdicts_that_are_kept_are_counted(tmp_path, monkeypatch):
    """Beyond `MAX_KEPT` the oldest is forgotten."""
    monkeypatch.setattr(gate, "MAX_KEPT", 2)
    async with hooked(tmp_path, Receiver(), asking()) as rig:
        alice = await rig.login("alice")
        for _ in range(5):
            await alice.ok(SAY, client_id=f"k{next(_numbers)}", to="bob")
        assert len(rig.plugin._gate._kept) == 2


def test_keys(tmp_path):
    """A file has one key a line; each of them signs."""
    file = tmp_path / "keys"
    file.write_text(f"{'a' * 32}\n{'b' * 32}\n")
    keys = signing.keys_from("", file)
    assert keys == (b"a" * 32, b"b" * 32)
    signatures = signing.signed_headers(keys, b"{}", 1000)["X-IM-Signature"].split(",")
    assert len(set(signatures)) == 2
    for secret, path in (("", None), ("x" * 16, file), ("short", None), ("", tmp_path / "none")):
        with pytest.raises(ValueError, match="secret"):
            signing.keys_from(secret, path)
