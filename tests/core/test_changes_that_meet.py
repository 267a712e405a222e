"""What meets in the core: pushes with transactions that fail, retention with edits, shards with each other; and bounds."""

import threading

import pytest
from helpers import MESSAGE, running
from test_group_conversations import open_group, say
from test_message_changes import DAY_S, NAME, Test, change, context_of, send

from imserver import conversations, message_changes
from imserver.errors import InternalError, InvalidBody

WAITING = 5009


async def test_a_push_of_a_transaction_leaves_with_it(tmp_path):
    """A background task's push waits for what its transaction writes, also if that comes later, and falls with it."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        bob = await rig.login("bob")
        await open_group(ctx, ["ann", "bob"])

        def push_first(inner, error=None):
            inner.push(["bob"], WAITING, {"topic": str(error)})
            say(inner)
            if error is not None:
                raise error

        with pytest.raises(InvalidBody):
            await ctx.conversations.transact(lambda inner: push_first(inner, InvalidBody("no")))

        def push_and_raise(inner):
            inner.push(["bob"], WAITING, {"topic": "never"})
            raise InvalidBody("no")

        with pytest.raises(InvalidBody):
            await ctx.conversations.transact(push_and_raise)
        rig.store.fail_next()
        with pytest.raises(Exception, match="disk is full"):
            await ctx.conversations.transact(push_first)
        await ctx.conversations.transact(push_first)
        assert await bob.push() == (WAITING, {"topic": "None"})
        command_id, fields = await bob.push()
        assert (command_id, fields["seq"]) == (MESSAGE, 1)
        await bob.ok(6999)
        assert not bob.pushes


async def test_an_edit_that_meets_the_retention_keeps_its_rev(tmp_path):
    """A message that is changed between the look at it and its deletion: no `rev` is given twice, after a restart too."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await send(ctx, "old")
        await send(ctx, "newest")
        rig.clock.advance(5 * DAY_S)
        over, _ = await rig.stores.messages.aged("direct", rig.clock.now_ms() - DAY_S * 1000, 0, 1)
        assert [(one.seq, one.state) for one in over] == [(1, None)]
        assert (await change(ctx, "edit", 1, "edited")).rev == 3
        await ctx.messages._delete(over)
        wall_ms = rig.clock.wall_ms
        assert rig.rows("SELECT rev, state IS NULL, expires_at FROM messages WHERE seq = 1") == [(3, 0, 0)]
    async with running(tmp_path, Test()) as rig:
        rig.clock.wall_ms = wall_ms
        ctx = context_of(rig)
        await ctx.conversations.fetch(NAME)
        assert await ctx.messages.changes(NAME, since_rev=1, limit=10) == (
            await ctx.messages.changes(NAME, since_rev=0, limit=10)
        )
        assert (await change(ctx, "react", 2, "bob", "a")).rev == 4


async def test_names_count_as_memory(tmp_path, monkeypatch):
    """Messages that are brought into memory are bounded by their mentions and reactions as well as by their bodies."""
    monkeypatch.setattr(message_changes, "MAX_OPEN_BYTES", 20_000)
    names = [f"user-{number}" for number in range(50)]
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        changes = rig.conversations.message_changes
        for _ in range(20):
            await send(ctx, "", mentions=names)
        for seq in range(1, 21):
            await change(ctx, "react", seq, "bob", "a")
            assert len(changes._open) <= 5
        for seq in range(1, 21):
            await change(ctx, "recall", seq)
        await change(ctx, "require", 1)
        assert changes._open_bytes == sum(map(message_changes._size, changes._open.values()))


async def test_members_in_memory_are_bounded(tmp_path, monkeypatch):
    """Groups that nobody uses just now leave memory when there are too many members in it, and come back whole."""
    monkeypatch.setattr(conversations, "MAX_MEMBERS", 30)
    users = [f"u{number}" for number in range(10)]
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        known = rig.conversations._by_id
        for _ in range(2):
            for number in range(10):
                name = f"g:{number}"
                found = await ctx.conversations.fetch(name)
                if found is None:
                    await open_group(ctx, users[:-1], name)
                    await ctx.conversations.transact(
                        lambda inner, name=name: inner.conversations.add_members(
                            inner.conversations.require(name), users[-1:]
                        )
                    )
                else:
                    assert list(found.members) == users
                assert sum(len(one.members) for one in known.values()) <= 40
                assert rig.conversations._members_held == sum(len(one.members) for one in known.values())
        await ctx.conversations.transact(
            lambda inner: inner.conversations.remove_members(inner.conversations.require("g:9"), users)
        )
        assert rig.conversations._members_held == sum(len(one.members) for one in known.values())


async def test_hold_keeps_other_shards_out(tmp_path):
    """From `hold` on nobody else writes until the handler has returned or raised; outside of a handler it is refused."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        got = []

        def attempt():
            got.append(rig.journal.lock.acquire(blocking=False))
            if got[-1]:
                rig.journal.lock.release()

        def look(*_):
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()

        with pytest.raises(InternalError):
            ctx.conversations.hold()
        await ctx.conversations.transact(look)
        rig.shard.section.begin()
        ctx.conversations.hold()
        ctx.conversations.hold()
        look()
        rig.shard.section.abandon()
        look()
        assert got == [False, False, True]
