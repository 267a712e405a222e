"""Messages that grow, when something goes wrong in the middle: the disk, the sender's rights, the moment."""

from contextlib import asynccontextmanager

import helpers
import pytest
from helpers import FakeClock, registry_of, running

from imserver.plugin import Conflict, PermissionDenied, Plugin
from imserver_plugins.bot import BotPlugin, streams
from imserver_plugins.bot.settings import Settings
from imserver_plugins.bot.streams import Streams

SAY, BEGIN, APPEND, END = 2001, 2021, 2022, 2023
MESSAGE, CHANGED = 5001, 5003
CONVERSATION = "d:alice:writer"


class Judge(Plugin):
    """Refuses, as a mute does, whom the test names, and a word; hides another."""

    name = "judge"

    def __init__(self):
        self.muted = set()

    def before_send(self, ctx, draft):
        if draft.sender in self.muted:
            raise PermissionDenied("you are muted", error="muted")
        if draft.type == "text" and "badword" in draft.body:
            raise PermissionDenied("mind your language", error="bad_words")
        if draft.type == "text":
            draft.body = draft.body.replace("ass ", "*** ")


@asynccontextmanager
async def streaming(folder, **fields):
    """A core with the streams of the bot plugin, whose background task the test is: `rig.sweep()`."""
    plugin, judge = BotPlugin(), Judge()
    settings = Settings(**fields)
    plugin._streams = Streams(settings)

    def with_settings(*plugins):
        registry = registry_of(*plugins)
        registry.settings[plugin.name] = settings
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "registry_of", with_settings)
        async with running(folder, plugin, judge, clock=FakeClock()) as rig:
            rig.judge, rig.streams = judge, plugin._streams
            rig.sweep = lambda: rig.streams.sweep(rig.shard.router.app_context("bot"))
            rig.alice, rig.writer = await rig.login("alice"), await rig.login("writer")
            await rig.shard.router.app_context("bot").db.write("INSERT INTO bots VALUES ('writer', 0, 0)")
            await rig.alice.ok(SAY, to="writer", client_id="q", body="go")
            yield rig


def bodies(rig):
    """What is stored, in its order."""
    return [bytes(row[0])[1:].decode() for row in rig.rows("SELECT body FROM messages ORDER BY id")]


async def begin(rig, client_id, *texts):
    """A message that grows; gives its id."""
    stream_id = (await rig.writer.ok(BEGIN, conversation_id=CONVERSATION, client_id=client_id))["stream_id"]
    for text in texts:
        await rig.writer.ok(APPEND, stream_id=stream_id, text=text)
    return stream_id


async def test_a_disk_that_fails_at_the_end_loses_nothing(tmp_path):
    """END that could not be stored is answered so; it may be added to and ended again, and is stored then."""
    async with streaming(tmp_path) as rig:
        stream_id = await begin(rig, "c", "once ")
        rig.store.fail_next()
        assert (await rig.writer.call(END, stream_id=stream_id))["code"] == 503
        assert bodies(rig) == ["go"]
        await rig.writer.ok(APPEND, stream_id=stream_id, text="more")
        ended = await rig.writer.ok(END, stream_id=stream_id)
        assert (ended["seq"], ended.get("duplicate")) == (2, None)
        assert bodies(rig) == ["go", "once more"]
        again = await rig.writer.ok(END, stream_id=stream_id)
        assert (again["seq"], again["message_id"], again["duplicate"]) == (2, ended["message_id"], True)
        assert (await rig.writer.call(APPEND, stream_id=stream_id, text="late"))["code"] == 409


async def test_a_failed_end_is_stored_by_the_sweep(tmp_path):
    """The sender is gone after an END that failed: what it had said is stored all the same."""
    async with streaming(tmp_path, stream_idle_s=10) as rig:
        stream_id = await begin(rig, "c", "goodbye")
        rig.store.fail_next()
        assert (await rig.writer.call(END, stream_id=stream_id))["code"] == 503
        rig.clock.advance(11)
        rig.store.fail_next()
        await rig.sweep()
        assert bodies(rig) == ["go"]
        await rig.sweep()
        assert bodies(rig) == ["go", "goodbye"]
        await rig.sweep()
        assert rig.streams._streams == {}


async def test_a_sweep_takes_nothing_that_grows(tmp_path):
    """Something is added between the look and the storing of it: it goes on to grow, and nothing of it is lost."""
    async with streaming(tmp_path, stream_idle_s=10) as rig:
        first = await begin(rig, "a", "first")
        second = await begin(rig, "b", "sec")
        rig.clock.advance(11)
        finish = rig.streams._finish

        async def slow(ctx, stream, **more):
            if stream.client_id == "b":
                await rig.writer.ok(APPEND, stream_id=second, text="ond")
            return await finish(ctx, stream, **more)

        rig.streams._finish = slow
        await rig.sweep()
        assert bodies(rig) == ["go", "first"]
        await rig.writer.ok(APPEND, stream_id=second, text=" whole")
        await rig.writer.ok(END, stream_id=second)
        assert bodies(rig) == ["go", "first", "second whole"]
        assert (await rig.writer.call(APPEND, stream_id=first, text="late"))["code"] == 404


async def test_who_is_muted_meanwhile_is_not_heard(tmp_path):
    """Nothing of what a muted sender adds reaches anybody; what it had begun is called off."""
    async with streaming(tmp_path, stream_idle_s=10) as rig:
        stream_id = await begin(rig, "c", "fine")
        assert (await rig.alice.push())[0] == MESSAGE
        assert (await rig.alice.push())[1]["text"] == "fine"
        rig.judge.muted.add("writer")
        assert (await rig.writer.call(APPEND, stream_id=stream_id, text="bad"))["error"] == "muted"
        assert (await rig.writer.call(BEGIN, conversation_id=CONVERSATION, client_id="d"))["error"] == "muted"
        assert (await rig.writer.call(END, stream_id=stream_id))["error"] == "muted"
        rig.clock.advance(11)
        await rig.sweep()
        command, fields = await rig.alice.push()
        assert (command, fields["change"]) == (CHANGED, "aborted")
        assert bodies(rig) == ["go"]


async def test_those_that_are_ended_take_no_room(tmp_path):
    """A user who ends one after another keeps nobody else from beginning, and no text stays in memory."""
    async with streaming(tmp_path, streams=3, streams_per_user=2) as rig:
        for number in range(8):
            stream_id = await begin(rig, f"c{number}", "text")
            await rig.writer.ok(END, stream_id=stream_id)
        await rig.until(lambda: len(rig.streams._streams) == 3)
        assert [stream.text for stream in rig.streams._streams.values()] == [""] * 3
        await begin(rig, "last", "x")
        assert len(bodies(rig)) == 9


async def test_a_slow_disk_keeps_a_bounded_number(tmp_path):
    """Streams that are begun and ended while no commit gets through: twice `streams` are in memory, and no more."""
    async with streaming(tmp_path, streams=3, streams_per_user=3) as rig:
        ids = [await begin(rig, f"c{number}", "text") for number in range(3)]
        rig.store.shut()
        for stream_id in ids:
            await rig.writer.send(END, stream_id=stream_id)
        await rig.until(lambda: all(stream.is_ended for stream in rig.streams._streams.values()))
        for number in range(3):
            await rig.writer.send(BEGIN, conversation_id=CONVERSATION, client_id=f"d{number}")
        await rig.until(lambda: len(rig.streams._streams) == 6)
        for stream in rig.streams._streams.values():
            stream.storing = 1  # as three more END would have it, whose answers the disk holds back
        refused = await rig.writer.post(BEGIN, conversation_id=CONVERSATION, client_id="one too many")
        rig.store.open()
        assert (await rig.writer.answer(refused))["error"] == "too_many_streams"
        assert bodies(rig) == ["go", "text", "text", "text"]


async def test_bots_alone(tmp_path):
    """Nobody else makes messages grow; who was made a bot may a second later."""
    async with streaming(tmp_path) as rig:
        request = {"conversation_id": CONVERSATION, "client_id": "c"}
        refused = await rig.alice.call(BEGIN, **request)
        assert (refused["code"], refused["error"]) == (403, "not_a_bot")
        await rig.shard.router.app_context("bot").db.write("INSERT INTO bots VALUES ('alice', 0, 0)")
        rig.clock.advance(1)
        await rig.alice.ok(BEGIN, **request)


async def test_chunks_pass_the_hooks(tmp_path):
    """What a hook refuses is shown to nobody, also where a word is in two chunks; what was there before goes on."""
    async with streaming(tmp_path) as rig:
        stream_id = await begin(rig, "c", "a bad")
        assert (await rig.writer.call(APPEND, stream_id=stream_id, text="word"))["error"] == "bad_words"
        assert (await rig.writer.call(APPEND, stream_id=stream_id, text="badword"))["error"] == "bad_words"
        assert (await rig.writer.ok(APPEND, stream_id=stream_id, text=" day"))["length"] == 9
        await rig.writer.ok(END, stream_id=stream_id)
        pushes = [(await rig.alice.push())[1] for _ in range(4)]
        assert [push.get("text", push.get("body")) for push in pushes] == ["", "a bad", " day", "a bad day"]


async def test_what_a_hook_changes_is_not_shown_as_it_is(tmp_path):
    """Members get it at the end, as the hook has it; or with the chunk after which the hook lets all of it pass."""
    async with streaming(tmp_path) as rig:
        stream_id = await begin(rig, "c", "an as", "s ", "again")
        await rig.writer.ok(END, stream_id=stream_id)
        pushes = [(await rig.alice.push())[1] for _ in range(3)]
        assert [push.get("text", push.get("body")) for push in pushes] == ["", "an as", "an *** again"]
        stream_id = await begin(rig, "d", "cl", "ass")
        pushes = [(await rig.alice.push())[1] for _ in range(3)]
        assert [(push.get("offset"), push.get("text")) for push in pushes] == [(None, None), (0, "cl"), (2, "ass")]


async def test_begin_can_be_sent_again(tmp_path):
    """Its answer was lost: it is the same message, which is announced once and not called off while it grows."""
    async with streaming(tmp_path, stream_idle_s=10) as rig:
        request = {"conversation_id": CONVERSATION, "client_id": "c"}
        first = await rig.writer.ok(BEGIN, **request)
        rig.clock.advance(9)
        again = await rig.writer.ok(BEGIN, **request)
        assert (again["stream_id"], again["message_id"]) == (first["stream_id"], first["message_id"])
        assert (again["duplicate"], "duplicate" in first) == (True, False)
        rig.clock.advance(9)
        await rig.sweep()
        await rig.writer.ok(APPEND, stream_id=first["stream_id"], text="once")
        await rig.writer.ok(END, stream_id=again["stream_id"])
        pushes = [await rig.alice.push() for _ in range(3)]
        assert [(push[0], push[1].get("change")) for push in pushes] == [
            (MESSAGE, None), (CHANGED, "appended"), (MESSAGE, None),
        ]  # fmt: skip
        other = await rig.writer.ok(BEGIN, conversation_id=CONVERSATION, client_id="d")
        assert other["stream_id"] != first["stream_id"]


async def test_a_chunk_can_be_sent_again(tmp_path):
    """With its `offset` it is there once, however often it comes; one that is not the next one is refused."""
    async with streaming(tmp_path) as rig:
        stream_id = await begin(rig, "c")

        async def append(text, offset):
            return await rig.writer.call(APPEND, stream_id=stream_id, text=text, offset=offset)

        assert (await append("once ", 0))["length"] == 5
        again = await append("once ", 0)
        assert (again["code"], again["length"], again["duplicate"]) == (0, 5, True)
        ahead = await append("later", 6)
        assert (ahead["code"], ahead["error"], ahead["field"], ahead["length"]) == (409, "wrong_offset", "offset", 5)
        other = await append("two ", 0)
        assert (other["code"], other["error"], other["length"]) == (409, "wrong_offset", 5)
        # The same and more: what was not there yet is added.
        assert (await append("ce upon 😀 ", 2))["length"] == 12
        assert (await append("a time", 12))["length"] == 18
        await rig.writer.ok(APPEND, stream_id=stream_id, text=".")
        assert (await append("x", -1))["field"] == "offset"
        await rig.writer.ok(END, stream_id=stream_id)
        assert bodies(rig) == ["go", "once upon 😀 a time."]
        pushes = [(await rig.alice.push())[1] for _ in range(6)]
        assert [(push.get("offset"), push.get("text")) for push in pushes[1:5]] == [
            (0, "once "), (5, "upon 😀 "), (12, "a time"), (18, "."),
        ]  # fmt: skip


async def test_nothing_is_added_to_what_is_being_stored(tmp_path, monkeypatch):
    """From before END looks at the text on: a chunk that is answered with its length is in the message."""
    async with streaming(tmp_path) as rig:
        stream_id = await begin(rig, "c", "whole")
        stream = rig.streams._streams[stream_id]
        store, ended = streams.append, []

        def watched(*args, **more):
            ended.append(stream.is_ended)
            with pytest.raises(Conflict):
                streams._require_growing(stream)
            return store(*args, **more)

        monkeypatch.setattr(streams, "append", watched)
        rig.judge.muted.add("writer")
        assert (await rig.writer.call(END, stream_id=stream_id))["error"] == "muted"
        assert (ended, stream.is_ended) == ([True], False)
        rig.judge.muted.clear()
        await rig.writer.ok(APPEND, stream_id=stream_id, text=" and sound")
        await rig.writer.ok(END, stream_id=stream_id)
        assert ended == [True, True]
        assert bodies(rig) == ["go", "whole and sound"]
