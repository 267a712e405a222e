"""Group conversations in the real core: membership in the order of messages, large groups, transactions, facts."""

import pytest
import trio
from helpers import MESSAGE, running

from imserver import fanout
from imserver.errors import Conflict, InvalidBody, NotLoaded, StorageUnavailable
from imserver.plugin import Plugin
from imserver.storage import changes


class Test(Plugin):
    """Lends its context."""

    __test__ = False  # pytest need not look into it
    name = "test"
    migrations = ("CREATE TABLE notes (name TEXT PRIMARY KEY, value INTEGER) STRICT",)


def context_of(rig, shard=0):
    return rig.shards[shard].router.app_context("test")


async def open_group(ctx, users, group_id="g:g"):
    """A group with these members."""

    def write(inner):
        inner.conversations.require(group_id)
        inner.conversations.open_group(group_id, users)

    await ctx.conversations.transact(write)


def say(ctx, text="hi", group_id="g:g"):
    """A message of the server, pushed to the members."""
    conversation = ctx.conversations.require(group_id)
    stored = ctx.messages.append_system(conversation, text)
    ctx.push(conversation.recipients, MESSAGE, stored.message)
    return stored.seq


async def test_a_very_large_group(tmp_path):
    """Ten thousand members are written, read again, added to and removed."""
    users = [f"u{number:05}" for number in range(10_000)]
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await open_group(ctx, users)
        assert await ctx.conversations.transact(say) == 1
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)

        def change(inner):
            conversation = inner.conversations.require("g:g")
            assert set(conversation.recipients) == set(users)
            assert isinstance(conversation.recipients, tuple)
            assert inner.conversations.add_members(conversation, ["new", users[0]]) == ["new"]
            assert len(inner.conversations.remove_members(conversation, users)) == 10_000
            assert conversation.recipients == ("new",)

        await ctx.conversations.transact(change)
        assert rig.rows("SELECT user_id, joined_seq, read_seq, entered_seq FROM members") == [("new", 1, 1, 1)]
        assert rig.rows("SELECT count(*), min(left_seq), max(left_seq) FROM departures") == [(10_000, 1, 1)]


async def test_departures_are_bounded(tmp_path, monkeypatch):
    """Who is added and removed for ever has the newest of them to be told of."""
    monkeypatch.setattr(changes, "MAX_DEPARTURES", 3)
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        for number in range(6):
            await open_group(ctx, ["ann", "bob"], f"g:{number}")

            def remove(inner, number=number):
                inner.conversations.remove_members(inner.conversations.require(f"g:{number}"), ["bob"])

            await ctx.conversations.transact(remove)
        rows, _ = await ctx.conversations.sync("bob", 1, 100)
        assert [(row.conversation_id, row.is_left) for row in rows] == [("g:3", True), ("g:4", True), ("g:5", True)]
        assert rig.rows("SELECT count(*) FROM departures") == [(3,)]


async def test_a_push_to_many_is_in_order_and_others_do_not_wait(tmp_path, monkeypatch):
    """Its sockets are written in slices; a frame to one of them takes what waits along, in order."""
    monkeypatch.setattr("imserver.shard.MIN_USERS", 20)
    monkeypatch.setattr(fanout, "SLICE", 10)
    users = [f"u{number}" for number in range(60)]
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        peers = [await rig.login(user) for user in users]
        other = await rig.login("other")
        await open_group(ctx, users)
        written = []
        write_slice = rig.shard.spread.write_slice

        def noted():
            before = len(rig.shard.spread)
            write_slice()
            written.append(before - len(rig.shard.spread))

        monkeypatch.setattr(rig.shard.spread, "write_slice", noted)
        for number in range(5):
            await ctx.conversations.transact(lambda inner, number=number: say(inner, f"m{number}"))
            ctx.push([users[-1], "other"], 5009, {"topic": "t", "body": number})
        assert [(await other.push())[1]["body"] for _ in range(5)] == [0, 1, 2, 3, 4]
        for peer in peers:
            seen = [await peer.push() for _ in range(10 if peer is peers[-1] else 5)]
            assert [fields["body"] for command_id, fields in seen if command_id == MESSAGE] == [f"m{n}" for n in range(5)]
            notes = [fields["body"] for command_id, fields in seen if command_id == 5009]
            assert notes == ([0, 1, 2, 3, 4] if peer is peers[-1] else [])
        assert written
        assert max(written) <= 10


async def test_a_push_to_many_over_shards(tmp_path, monkeypatch):
    """Each shard writes its own sessions; a failed commit pushes nothing."""
    monkeypatch.setattr("imserver.shard.MIN_USERS", 3)
    users = [f"u{number}" for number in range(10)]
    async with running(tmp_path, Test(), shards=2) as rig:
        ctx = context_of(rig)
        peers = [await rig.login(user, shard=number % 2) for number, user in enumerate(users)]
        await open_group(ctx, users)
        rig.store.fail_next()
        with pytest.raises(StorageUnavailable):
            await ctx.conversations.transact(lambda inner: say(inner, "lost"))
        await ctx.conversations.transact(lambda inner: say(inner, "kept"))
        for peer in peers:
            assert (await peer.push())[1]["body"] == "kept"


async def test_a_transaction_is_whole(tmp_path):
    """Members, a message, a fact and the plugin's own row: all of them, or none."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await open_group(ctx, ["ann"])
        write = "INSERT INTO notes VALUES ('x', ?) ON CONFLICT DO UPDATE SET value = excluded.value"

        async def load():
            rows = await ctx.db.read("SELECT value FROM notes")
            return rows[0][0] if rows else 0

        def change(inner, value, error=None):
            conversation = inner.conversations.require("g:g")
            before = inner.conversations.fact(conversation, load)
            inner.conversations.add_members(conversation, ["bob"])
            inner.conversations.set_fact(conversation, value)
            inner.db.write(write, (value,))
            say(inner)
            if error is not None:
                raise error
            return before

        def state(inner):
            conversation = inner.conversations.require("g:g")
            fact = inner.conversations.fact(conversation, load)
            return conversation.recipients, conversation.last_seq, fact

        with pytest.raises(InvalidBody):
            await ctx.conversations.transact(lambda inner: change(inner, 1, InvalidBody("no")))
        assert await ctx.conversations.transact(state) == (("ann",), 0, 0)
        rig.store.fail_next()
        with pytest.raises(StorageUnavailable):
            await ctx.conversations.transact(lambda inner: change(inner, 2))
        assert await ctx.conversations.transact(state) == (("ann",), 0, 0)

        def broken(inner):
            change(inner, 3)
            inner.db.write("INSERT INTO notes VALUES ('x', 3)")

        with pytest.raises(StorageUnavailable):  # a plugin's SQL that breaks takes what lies beside it along
            await ctx.conversations.transact(broken)
        assert await ctx.conversations.transact(state) == (("ann",), 0, 0)
        assert rig.rows("SELECT * FROM notes") == []
        assert await ctx.conversations.transact(lambda inner: change(inner, 4)) == 0
        assert await ctx.conversations.transact(state) == (("ann", "bob"), 1, 4)
        assert rig.rows("SELECT * FROM notes") == [("x", 4)]


async def test_a_fact_that_was_read_late_is_not_believed(tmp_path):
    """While it is being read somebody sets it: what was set stands."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await open_group(ctx, ["ann"])
        reads, may_end = trio.Event(), trio.Event()

        async def load():
            reads.set()
            await may_end.wait()
            return "old"

        async def look():
            def read(inner):
                return inner.conversations.fact(inner.conversations.require("g:g"), load)

            assert await ctx.conversations.transact(read) == "new"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await reads.wait()

            def change(inner):
                inner.conversations.set_fact(inner.conversations.require("g:g"), "new")

            await ctx.conversations.transact(change)
            may_end.set()


async def test_a_group_s_id_must_be_looked_up_first(tmp_path):
    """Nothing is opened of which it is not known whether it is there; nor twice."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        with pytest.raises(NotLoaded):
            ctx.conversations.open_group("g:g", ["ann"])
        await open_group(ctx, ["ann"])
        with pytest.raises(Conflict):
            await open_group(ctx, ["bob"])


async def test_settings_and_hiding_reach_sync(tmp_path):
    """A member's own, in that member's SYNC alone."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await open_group(ctx, ["ann", "bob"])
        await ctx.conversations.transact(say)
        (before,), _ = await ctx.conversations.sync("ann", 0, 10)

        def change(inner):
            conversation = inner.conversations.require("g:g")
            inner.conversations.set_settings(conversation, conversation.members["ann"], muted=True)
            inner.conversations.set_settings(conversation, conversation.members["ann"], pinned=True)
            inner.conversations.hide(conversation, conversation.members["ann"])

        await ctx.conversations.transact(change)
        (row,), _ = await ctx.conversations.sync("ann", before.change, 10)
        assert (row.muted, row.pinned, row.is_hidden, row.last_message) == (True, True, True, None)
        assert await ctx.conversations.sync("ann", 0, 10) == ([], False)
        ((row,), _) = await ctx.conversations.sync("bob", 0, 10)
        assert (row.muted, row.pinned, row.is_hidden) == (False, False, False)
        await ctx.conversations.transact(say)
        ((row,), _) = await ctx.conversations.sync("ann", 0, 10)
        assert (row.is_hidden, row.last_message.seq) == (False, 2)
