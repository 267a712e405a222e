"""The end of a hold against what happens at the same time: sends, failed commits, other hands; in steps, and from before."""

from contextlib import asynccontextmanager

import apsw
import pytest
from file_rig import site

from imserver.errors import NotLoaded, PermissionDenied, StorageUnavailable
from imserver.plugin import Plugin
from imserver.protocol.body import encode_msgpack
from imserver.storage.migrations import CORE, migrate
from imserver_plugins.file import access, cleanup, store
from imserver_plugins.file.cleanup import Cleaner

DIRECT = "d:alice:bob"
DAY_MS = 86_400_000


def handle(files, handler):
    """Run this as a `def` handler does its work."""
    section = files.rig.shard.section
    section.begin()
    try:
        handler(files.app)
    except BaseException:
        section.abandon()
        raise
    section.seal()
    section.release()


async def bring_in(files, stored):
    """A message to be changed is in memory."""
    conversation = files.app.conversations.require(stored.conversation_id)
    while True:
        try:
            files.app.messages.require(conversation, stored.seq)
        except NotLoaded as exc:
            await exc.loader()
        else:
            return


def recall(files, stored, *, tells=True):
    """As the plugin `message` recalls it."""

    def handler(ctx):
        conversation = ctx.conversations.require(stored.conversation_id)
        ctx.messages.recall(conversation, stored.seq)
        if tells:
            told = {"conversation_id": stored.conversation_id, "seq": stored.seq, "message_id": stored.message_id}
            ctx.emit("message.recalled", **told, type="image", by="alice", recalled=True)

    handle(files, handler)


def rows(files):
    holders = files.rig.rows("SELECT conversation_id FROM file_holders ORDER BY 1")
    return [row[0] for row in holders], files.rig.rows("SELECT conversation, seq FROM file_messages ORDER BY 1, 2")


def is_held(files):
    ((expires_at,),) = files.rows("expires_at")
    return expires_at is None


async def may(files, user, file_id):
    return (await files.get(user, file_id)).status == 200


@asynccontextmanager
async def sent(folder, *more):
    """A site, a file, and the message from alice to bob that names it, ready to be recalled."""
    async with site(folder, *more) as files:
        file_id = (await files.upload("alice"))["file_id"]
        stored = await files.say("alice", "bob", file_id)
        await bring_in(files, stored)
        yield files, file_id, stored


@pytest.mark.parametrize("is_recall_first", [True, False])
async def test_a_recall_and_a_send_in_one_commit(tmp_path, is_recall_first):
    """Whichever is first in the order: the message that remains holds the file, and it alone."""
    async with sent(tmp_path) as (files, file_id, stored):
        await files.app.cache.fetch(file_id, lambda: known(files, file_id))
        commits = len(files.rig.store.committed)
        steps = [lambda: recall(files, stored), lambda: files.send("alice", "bob", file_id)]
        for step in steps if is_recall_first else reversed(steps):
            step()
        await files.rig.shard.wait_settled()
        assert len(files.rig.store.committed) == commits + 1
        assert rows(files) == ([DIRECT], [(1, stored.seq + 1)])
        assert is_held(files)
        assert await may(files, "bob", file_id)


@pytest.mark.parametrize("is_recall_first", [True, False])
async def test_a_recall_and_a_message_to_another_conversation_in_one_commit(tmp_path, is_recall_first):
    """It is held there and does not begin to expire; the peer of the one reads it no more, that of the other does."""
    async with sent(tmp_path) as (files, file_id, stored):
        await files.say("alice", "carol", None, type="text", body="hello")
        await files.app.cache.fetch(file_id, lambda: known(files, file_id))
        steps = [lambda: recall(files, stored), lambda: files.send("alice", "carol", file_id)]
        for step in steps if is_recall_first else reversed(steps):
            step()
        await files.rig.shard.wait_settled()
        assert rows(files) == (["d:alice:carol"], [(2, 2)])
        assert is_held(files)
        assert [await may(files, user, file_id) for user in ("alice", "bob", "carol")] == [True, False, True]


async def known(files, file_id):
    now_ms = files.rig.clock.now_ms()
    held = frozenset(await store.holders(files.app.db, file_id, now_ms))
    return access.Known(await store.find(files.app.db, file_id), held, files.rig.clock.monotonic())


async def test_a_recall_whose_commit_fails(tmp_path):
    """Nothing is released; the next try releases it."""
    async with sent(tmp_path) as (files, file_id, stored):
        files.rig.store.fail_next()
        recall(files, stored)
        with pytest.raises(StorageUnavailable):
            await files.app.wait_durable()
        assert rows(files) == ([DIRECT], [(1, stored.seq)])
        assert await may(files, "bob", file_id)
        while True:
            try:
                recall(files, stored)
            except NotLoaded as exc:
                await exc.loader()
            else:
                break
        await files.rig.shard.wait_settled()
        assert rows(files) == ([], [])
        assert not await may(files, "bob", file_id)


async def test_a_recall_that_is_taken_back(tmp_path):
    """Its handler raises behind it: nothing is released, and what waits for its commit gives up."""
    async with sent(tmp_path) as (files, file_id, stored):

        def handler(ctx):
            ctx.messages.recall(ctx.conversations.require(DIRECT), stored.seq)
            ctx.emit("message.recalled", conversation_id=DIRECT, seq=stored.seq, type="image")
            raise PermissionDenied("after all")

        with pytest.raises(PermissionDenied):
            handle(files, handler)
        await files.rig.shard.wait_settled()
        assert rows(files) == ([DIRECT], [(1, stored.seq)])
        assert await may(files, "bob", file_id)


async def test_a_change_that_nobody_tells_of(tmp_path):
    """Some plugin recalls by itself: nobody else reads the file from then on, and the cleaner finds what remains."""
    async with sent(tmp_path) as (files, file_id, stored):
        recall(files, stored, tells=False)
        await files.rig.shard.wait_settled()
        assert [await may(files, user, file_id) for user in ("alice", "bob")] == [True, False]
        assert rows(files) == ([DIRECT], [(1, stored.seq)])
        await Cleaner(files.state, files.app).round()
        assert rows(files) == ([], [])
        assert not is_held(files)


async def test_a_message_that_is_over_and_still_there(tmp_path):
    """Nothing has deleted it yet: nobody else reads what it names, soon nobody sends it on; the cleaner notes it."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        await files.say("alice", "bob", file_id, expires_in_ms=5000)
        await files.say("bob", "carol", None, type="text", body="hello")
        await files.app.cache.fetch(file_id, lambda: known(files, file_id))
        files.rig.clock.advance(4.999)
        assert await may(files, "bob", file_id)
        files.rig.clock.advance(0.001)
        assert not await may(files, "bob", file_id)
        assert files.rig.rows("SELECT length(body) > 1 FROM messages WHERE seq = 1 AND conversation = 1") == [(1,)]
        files.rig.clock.advance(6)
        with pytest.raises(PermissionDenied):
            await files.say("bob", "carol", file_id)
        cleaner = Cleaner(files.state, files.app)
        cleaner._named_to = store.Named(99, 1)  # it is not where this one stands in the order
        await cleaner.round()
        assert rows(files) == ([], [])
        assert not is_held(files)


async def test_what_the_cleaner_found_and_is_there_again(tmp_path):
    """Between its look and its write an edit has named the file again: that write ends nothing."""
    async with sent(tmp_path) as (files, file_id, stored):
        now_ms = files.rig.clock.now_ms()
        found = store.Named(1, stored.seq)
        await files.app.db.write_all(store.release_gone(found, now_ms, expires_at=now_ms))
        assert rows(files) == ([DIRECT], [(1, stored.seq)])
        assert is_held(files)
        assert await may(files, "bob", file_id)


async def test_the_cleaner_looks_in_steps(tmp_path, monkeypatch):
    """So many messages a round, from the first to the last and again; holds by others are left alone."""
    monkeypatch.setattr(cleanup, "LOOKED_A_ROUND", 3)
    monkeypatch.setattr(cleanup, "_RELEASED_AT_ONCE", 2)
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        messages = [await files.say("alice", peer, file_id) for peer in "bcdefgh"]
        for stored in (messages[0], messages[4], messages[6]):
            await bring_in(files, stored)
            recall(files, stored, tells=False)
        await files.rig.shard.wait_settled()
        cleaner = Cleaner(files.state, files.app)
        left = []
        for _ in range(3):
            await cleaner.round()
            left.append(len(rows(files)[1]))
        assert left == [6, 5, 4]
        assert rows(files)[0] == [f"d:alice:{peer}" for peer in "cdeg"]
        assert is_held(files)
        for stored in (messages[1], messages[2], messages[3], messages[5]):
            await bring_in(files, stored)
            recall(files, stored, tells=False)
        await files.rig.shard.wait_settled()
        await cleaner.round()
        assert len(rows(files)[1]) == 1
        await cleaner.round()
        assert rows(files) == ([], [])
        assert not is_held(files)


async def test_a_disk_that_fails_does_not_lose_a_release(tmp_path):
    """The cleaner's write fails: its next round does it."""
    async with sent(tmp_path) as (files, _, stored):
        recall(files, stored, tells=False)
        await files.rig.shard.wait_settled()
        cleaner = Cleaner(files.state, files.app)
        files.rig.store.fail_next()
        await cleaner.round()
        assert rows(files) == ([DIRECT], [(1, stored.seq)])
        await cleaner.round()
        assert rows(files) == ([], [])


async def test_a_message_that_another_hook_changes(tmp_path):
    """What it names is in the message no more when it is stored: that file is not held."""

    class Changer(Plugin):
        name = "changer"

        def before_send(self, ctx, draft):
            draft.body = {"file_id": "0" * 32}

    async with site(tmp_path, Changer()) as files:
        file_id = (await files.upload("alice"))["file_id"]
        await files.say("alice", "bob", file_id)
        assert rows(files) == ([], [])
        assert not is_held(files)


# ---------------------------------------------------------------- a database from before


def test_holds_from_before_are_found(tmp_path):
    """The messages that name a file are found by their bodies; what none names expires; what is nested is kept."""
    connection = apsw.Connection(str(tmp_path / "old.db"))
    migrate(connection, {"core": CORE, "file": store.MIGRATIONS[:1]})
    run = connection.execute
    ids = {name: name * 32 for name in "abcdef"}
    for file_id in ids.values():
        columns = "file_id, owner, state, name, type, size, resumable, created_at, expires_at"
        run(f"INSERT INTO files ({columns}) VALUES (?, 'alice', 1, 'x', 'a/b', 1, 0, 1, NULL)", (file_id,))
    for number, conversation_id in ((1, DIRECT), (2, "d:alice:carol")):
        run("INSERT INTO conversations VALUES (?, ?, 'direct', 0)", (number, conversation_id))
    held = [("a", DIRECT), ("b", DIRECT), ("b", "d:alice:carol"), ("c", DIRECT), ("d", DIRECT), ("e", DIRECT)]
    for name, conversation_id in held:
        run("INSERT INTO file_holders VALUES (?, ?, 1)", (ids[name], conversation_id))
    bodies = [
        (1, 1, "image", {"width": 3, "file_id": ids["a"], "name": "é"}, 5000),
        (1, 2, "custom", {"quoted": {"file_id": ids["f"]}, "file_id": ids["b"]}, None),
        (2, 1, "file", None, None),  # it named b and was recalled
        (1, 3, "text", f"file_id {ids['c']}", None),
        (1, 4, "location", {"file_id": ids["c"]}, None),
        (1, 5, "video", {"file_id": ids["d"]}, None),
        (1, 6, "video", {"file_id": ids["d"], "again": True}, None),
        (2, 2, "video", {"file_id": ids["e"]}, None),  # without the note that it holds
    ]
    for place, (conversation, seq, kind, body, expires_at) in enumerate(bodies):
        run(
            "INSERT INTO messages (id, conversation, seq, rev, sender, client_id, type, body, expires_at)"
            " VALUES (?, ?, ?, ?, 'alice', ?, ?, ?, ?)",
            (place + 1, conversation, seq, seq, f"c{place}", kind, encode_msgpack(body), expires_at),
        )
    migrate(connection, {"core": CORE, "file": store.MIGRATIONS})
    found = list(run("SELECT conversation, seq, file_id, expires_at FROM file_messages ORDER BY 1, 2"))
    assert found == [
        (1, 1, ids["a"], 5000), (1, 2, ids["b"], None), (1, 5, ids["d"], None), (1, 6, ids["d"], None),
    ]  # fmt: skip
    assert list(run("SELECT file_id, conversation_id FROM file_holders ORDER BY 1")) == [
        (ids["a"], DIRECT), (ids["b"], DIRECT), (ids["d"], DIRECT),
    ]  # fmt: skip
    expiring = list(
        run("SELECT file_id, expires_at - unixepoch() * 1000 FROM files WHERE expires_at IS NOT NULL ORDER BY 1")
    )
    assert [file_id for file_id, _ in expiring] == [ids["c"], ids["e"], ids["f"]]
    assert all(DAY_MS - 60_000 <= left_ms <= DAY_MS for _, left_ms in expiring)
    connection.close()
