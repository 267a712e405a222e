"""Two shards at the same place at the same time, one in the middle of the other's step; what a lock does not cover."""

import trio
from helpers import PATIENCE_S, running
from test_message_changes import NAME, Test, context_of, send


async def test_each_shard_hears_of_its_own_writes(tmp_path):
    """Of two shards that release a batch at once neither takes the other's writes away: who awaits them goes on."""
    async with running(tmp_path, shards=2) as rig:
        first, second = rig.shards
        for shard, other in ((first, second), (second, first)):

            def beside(*args, release=shard._release, other=other):
                other._begin_tick()
                release(*args)

            shard._release = beside
        writes = [shard.router.app_context("base").db.write("SELECT ?", (shard.index,)) for shard in rig.shards]
        with trio.fail_after(PATIENCE_S):
            assert [await write for write in writes] == [[(0,)], [(1,)]]


class Vanishing(dict):
    """Another shard evicts what is here behind each look whether it is."""

    def __contains__(self, key):
        return self.pop(key, None) is not None


async def test_a_message_may_be_evicted_beside_a_look(tmp_path):
    """Who only reads a message in memory holds no lock: they get it, or load it, whatever another shard evicts."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await send(ctx, "still here")
        conversation = await ctx.conversations.fetch(NAME)
        await ctx.conversations.transact(lambda inner: inner.messages.require(conversation, 1))
        changes = rig.conversations.message_changes
        changes._open = Vanishing(changes._open)
        assert ctx.messages.require(conversation, 1).body == "still here"
