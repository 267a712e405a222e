"""Messages that grow, when something goes wrong in the middle: the disk, the sender's rights, the moment."""

from contextlib import asynccontextmanager

import helpers
import pytest
from helpers import FakeClock, registry_of, running

from imserver.plugin import PermissionDenied, Plugin
from imserver_plugins.bot import BotPlugin
from imserver_plugins.bot.settings import Settings
from imserver_plugins.bot.streams import Streams

SAY, BEGIN, APPEND, END = 2001, 2021, 2022, 2023
MESSAGE, CHANGED = 5001, 5003
CONVERSATION = "d:alice:writer"


class Judge(Plugin):
    """Refuses, as a mute does, whom the test names; remembers what it saw."""

    name = "judge"

    def __init__(self):
        self.muted = set()

    def before_send(self, ctx, draft):
        if draft.sender in self.muted:
            raise PermissionDenied("you are muted", error="muted")


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
        assert [stream.parts for stream in rig.streams._streams.values()] == [[], [], []]
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
            stream.is_ended = True  # as three more END would have it, whose answers the disk holds back
        refused = await rig.writer.post(BEGIN, conversation_id=CONVERSATION, client_id="one too many")
        rig.store.open()
        assert (await rig.writer.answer(refused))["error"] == "too_many_streams"
        assert bodies(rig) == ["go", "text", "text", "text"]
