"""What a plugin keeps at a conversation, over a reload (docs/howto/reload-a-plugin.md)."""

from imserver.testing import running

CREATE_GROUP, ADD = 4001, 6001

PLUGIN = """
from attrs import frozen
from imserver.plugin import ConversationId, Plugin, command

@frozen
class Where:
    conversation_id: ConversationId

@frozen
class Kept:
    value: int

class Tally(Plugin):
    name = "tally"
    requires = ("group",)
    migrations = ("CREATE TABLE tally_counts (conversation_id TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;",)

    @command(6001, request=Where)
    def add(self, ctx, request):
        async def load():
            rows = await ctx.db.read("SELECT value FROM tally_counts WHERE conversation_id = ?", (request.conversation_id,))
            return Kept(rows[0][0] if rows else 0)
        conversation = ctx.conversations.require(request.conversation_id)
        before = ctx.conversations.fact(conversation, load)
        ctx.conversations.set_fact(conversation, Kept(before.value + {step}))
        ctx.db.write("INSERT OR REPLACE INTO tally_counts VALUES (?, ?)", (request.conversation_id, before.value + {step}))
        return {{"value": before.value + {step}, "is_own": isinstance(before, Kept)}}
"""


async def test_a_fact_stays_as_the_old_code_left_it(tmp_path):
    """The new code goes on from the old one's value, which is of the old module's class; so does a server after this one."""
    file = tmp_path / "tally.py"
    file.write_text(PLUGIN.format(step=1))
    async with running(["group", file], folder=tmp_path / "data") as server:
        alice = await server.login("alice")
        where = (await alice.request(CREATE_GROUP, name="lunch"))["conversation_id"]
        assert await alice.request(ADD, conversation_id=where) == {"value": 1, "is_own": True}
        file.write_text(PLUGIN.format(step=10))
        await server.reload("tally")
        assert await alice.request(ADD, conversation_id=where) == {"value": 11, "is_own": False}
        assert await alice.request(ADD, conversation_id=where) == {"value": 21, "is_own": True}
        assert await server.rows("SELECT value FROM tally_counts") == [(21,)]
    async with running(["group", file], folder=tmp_path / "data") as server:
        alice = await server.login("alice")
        assert await alice.request(ADD, conversation_id=where) == {"value": 31, "is_own": True}
