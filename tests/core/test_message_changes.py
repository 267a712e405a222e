"""Recalls, edits, reactions and the end of stored messages, in the real core: what the machine's model does not reach."""

import itertools

import pytest
from helpers import SAY, running

from imserver import message_changes
from imserver.batch import Write
from imserver.conversation import Draft
from imserver.errors import Conflict, NotFound, NotLoaded, PermissionDenied, TooLarge
from imserver.plugin import Plugin
from imserver.storage.cursors import cursor_statements

NAME = "d:ann:bob"
DAY_S = 86400


class Test(Plugin):
    """Lends its context, and refuses the word "bad"."""

    __test__ = False  # pytest need not look into it
    name = "test"

    def before_send(self, ctx, draft):
        if draft.body == "bad":
            raise PermissionDenied("not this word")
        if draft.body == "shout":
            draft.body = "SHOUT"


_numbers = itertools.count(1)


def context_of(rig):
    return rig.shard.router.app_context("test")


async def send(ctx, body="hi", sender="ann", **fields):
    """A message in the direct conversation; gives its `seq`."""
    client_id = fields.pop("client_id", f"c-{next(_numbers)}")

    def write(inner):
        conversation = inner.conversations.require(NAME) or inner.conversations.open_direct(NAME, ["ann", "bob"])
        return inner.messages.append(conversation, Draft(NAME, sender, client_id, "text", body, **fields))

    return await ctx.conversations.transact(write)


async def change(ctx, kind, *args, **options):
    """`ctx.messages.kind(conversation, …)`, as a `def` handler."""

    def write(inner):
        return getattr(inner.messages, kind)(inner.conversations.require(NAME), *args, **options)

    return await ctx.conversations.transact(write)


async def unread(ctx, user="bob"):
    """By SYNC, and by memory, which must be the same."""
    rows, _ = await ctx.conversations.sync(user, 0, 10)

    def count(inner):
        conversation = inner.conversations.require(NAME)
        return conversation.unread(conversation.members[user])

    assert await ctx.conversations.transact(count) == rows[0].unread
    return rows[0].unread


async def test_each_change_has_its_place(tmp_path):
    """The next `rev` each, none for what changes nothing; PULL, CHANGES and SYNC have the present state."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        for _ in range(3):
            await send(ctx)
        ((before,), _) = await ctx.conversations.sync("bob", 0, 10)
        assert (await change(ctx, "edit", 1, "new")).rev == 4
        assert await change(ctx, "edit", 1, "new") is None
        assert (await change(ctx, "react", 2, "bob", "+1")).reactions == {"+1": ["bob"]}
        assert await change(ctx, "react", 2, "bob", "+1") is None
        assert await unread(ctx) == 3
        assert (await change(ctx, "recall", 3)).rev == 6
        assert await change(ctx, "recall", 3) is None
        assert await unread(ctx) == 2
        with pytest.raises(Conflict):
            await change(ctx, "edit", 3, "again")
        with pytest.raises(Conflict):
            await change(ctx, "react", 3, "bob", "+1")
        for seq in (0, 4, 99):
            with pytest.raises(NotFound):
                await change(ctx, "recall", seq)
        assert (await change(ctx, "react", 2, "bob", "+1", remove=True)).reactions is None
        messages, last_rev = await ctx.messages.changes(NAME, since_rev=3, limit=10)
        assert ([(message.seq, message.rev) for message in messages], last_rev) == ([(1, 4), (3, 6), (2, 7)], 7)
        ((row,), _) = await ctx.conversations.sync("bob", before.change, 10)
        assert (row.last_rev, row.last_message.recalled, row.last_message.body) == (7, True, None)
        assert [message.body for message in (await ctx.messages.history(NAME)).messages] == ["new", "hi", None]


async def test_changes_come_in_pages(tmp_path):
    """Whatever the page's length, nothing is told twice or never."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        for _ in range(6):
            await send(ctx)
        for seq in (5, 2, 5, 1):
            await change(ctx, "edit", seq, f"{next(_numbers)}")
            await send(ctx)
        for limit in (1, 2, 3, 50):
            for since in range(15):
                seen, rev = [], since
                while page := (await ctx.messages.changes(NAME, since_rev=rev, limit=limit))[0]:
                    seen += page
                    rev = page[-1].rev
                whole = [message.rev for message in (await ctx.messages.history(NAME)).messages]
                assert [message.rev for message in seen] == sorted(rev for rev in whole if rev > since)


async def test_a_retry_after_a_change_is_still_a_retry(tmp_path):
    """What was sent first is known by its proof, also after a restart; another content is a conflict."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await send(ctx, "first", client_id="a")
        await send(ctx, "other", client_id="b")
        await change(ctx, "edit", 1, "second")
        await change(ctx, "recall", 2)
        clock = rig.clock
    async with running(tmp_path, Test(), clock=clock) as rig:
        ctx = context_of(rig)
        for client_id, body, seq in (("a", "first", 1), ("b", "other", 2)):
            stored = await send(ctx, body, client_id=client_id)
            assert (stored.seq, stored.message) == (seq, None)
        for client_id in ("a", "b"):
            with pytest.raises(Conflict):
                await send(ctx, "second", client_id=client_id)


async def test_hooks_see_an_edit(tmp_path):
    """Who may not say a thing may not change his words to it; a hook may change them."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await send(ctx)
        with pytest.raises(PermissionDenied):
            await change(ctx, "edit", 1, "bad")
        assert (await change(ctx, "edit", 1, "shout")).body == "SHOUT"


async def test_reactions_are_bounded(tmp_path, monkeypatch):
    """Of one user, in kinds, and all together."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await send(ctx)
        for number in range(message_changes.MAX_REACTIONS_OF_USER):
            await change(ctx, "react", 1, "ann", f"e{number}")
        with pytest.raises(TooLarge):
            await change(ctx, "react", 1, "ann", "one more")
        for number in range(message_changes.MAX_REACTIONS_OF_USER, message_changes.MAX_EMOJI):
            await change(ctx, "react", 1, f"u{number}", f"e{number}")
        with pytest.raises(TooLarge):
            await change(ctx, "react", 1, "bob", "a new kind")
        await change(ctx, "react", 1, "bob", "e0")
        monkeypatch.setattr(message_changes, "MAX_REACTIONS", message_changes.MAX_EMOJI + 1)
        with pytest.raises(TooLarge):
            await change(ctx, "react", 1, "cyd", "e0")
        await change(ctx, "react", 1, "bob", "e0", remove=True)
        await change(ctx, "react", 1, "cyd", "e0")


async def test_messages_in_memory_are_bounded(tmp_path, monkeypatch):
    """Those that were changed leave it again, in number and in bytes, and are read anew."""
    monkeypatch.setattr(message_changes, "MAX_OPEN_MESSAGES", 5)
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        changes = rig.conversations.message_changes
        for _ in range(20):
            await send(ctx, "x" * 1000)
        for seq in range(1, 21):
            await change(ctx, "react", seq, "ann", "a")
            assert len(changes._open) <= 5
        monkeypatch.setattr(message_changes, "MAX_OPEN_MESSAGES", 1000)
        monkeypatch.setattr(message_changes, "MAX_OPEN_BYTES", 3000)
        for seq in range(1, 21):
            assert (await change(ctx, "react", seq, "bob", "a")).reactions == {"a": ["ann", "bob"]}
            assert changes._open_bytes <= 5000


async def test_what_is_on_its_way_to_the_disk_can_be_changed(tmp_path):
    """A change waits for the message that it is about."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        ann = await rig.login("ann")
        await ann.ok(SAY, to="bob")
        rig.store.shut()
        rid = await ann.post(SAY, to="bob")
        await rig.store.wait_entered()
        conversation = rig.conversations.get(NAME)
        with pytest.raises(NotLoaded) as caught:
            ctx.messages.recall(conversation, 2)
        rig.store.open()
        await caught.value.loader()
        assert ctx.messages.recall(conversation, 2).rev == 3
        assert (await ann.answer(rid))["seq"] == 2


# ---------------------------------------------------------------- the end of messages


async def test_expired_messages_go_from_the_disk(tmp_path):
    """In small steps; nothing of them is left but their place, and nobody's unread counts them."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        for number in range(6):
            await send(ctx, "secret", expires_in_ms=1000 if number % 2 else None, mentions=["bob"], client_id=f"k{number}")
        await change(ctx, "edit", 2, "secret two")
        assert await ctx.messages.delete_expired(100) == 0
        rig.clock.advance(2)
        assert await unread(ctx) == 6
        assert [await ctx.messages.delete_expired(2) for _ in range(3)] == [2, 1, 0]
        assert await unread(ctx) == 3
        rows = rig.rows("SELECT seq, length(body), extra IS NULL, expires_at FROM messages WHERE body = x'c0' ORDER BY seq")
        assert rows == [(2, 1, 1, 0), (4, 1, 1, 0), (6, 1, 1, 0)]
        with pytest.raises(NotFound):
            await change(ctx, "recall", 4)
        assert [message.seq for message in (await ctx.messages.history(NAME)).messages] == [1, 3, 5]
        assert (await send(ctx)).seq == 7
        assert (await send(ctx, "secret", client_id="k3", expires_in_ms=1000, mentions=["bob"])).seq == 4
        clock = rig.clock
    async with running(tmp_path, Test(), clock=clock) as rig:
        ctx = context_of(rig)
        assert await unread(ctx) == 4
        assert (await send(ctx, "secret", client_id="k3")).seq == 4
        assert (await send(ctx, "secret", client_id="k1")).seq == 2  # it was edited, too


async def test_retention(tmp_path):
    """What is older than it may be goes, of one kind of conversation, in steps; the rest stays."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        for _ in range(5):
            await send(ctx)
        await change(ctx, "edit", 2, "changed")
        rig.clock.advance(10 * DAY_S)
        for _ in range(2):
            await send(ctx)
        before_ms = rig.clock.now_ms() - DAY_S * 1000
        assert await ctx.messages.delete_older("group", before_ms, 100) == (0, None)
        deleted, after = 0, 0
        while after is not None:
            step, after = await ctx.messages.delete_older("direct", before_ms, 2, after)
            deleted += step
        assert deleted == 5
        assert await ctx.messages.delete_older("direct", before_ms, 100) == (0, None)
        assert [message.seq for message in (await ctx.messages.history(NAME)).messages] == [6, 7]
        assert await unread(ctx) == 2
        messages, last_rev = await ctx.messages.changes(NAME, since_rev=0, limit=10)
        assert ([message.rev for message in messages], last_rev) == ([7, 8], 8)


async def test_receipts(tmp_path):
    """Who has read, and how many have not; not the sender, nor who came later."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)

        def begin(inner):
            inner.conversations.require("g:g")
            conversation = inner.conversations.open_group("g:g", ["ann", "bob", "cyd"])
            inner.messages.append(conversation, Draft("g:g", "ann", "1", "text", "x"))
            inner.conversations.add_members(conversation, ["dan"], history="all")
            inner.conversations.mark_read(conversation, conversation.members["bob"], 1)
            return inner.conversations.readers(conversation, 1, "ann")

        assert await ctx.conversations.transact(begin) == (["bob"], 1)


async def test_a_cursor_never_goes_back_on_disk(tmp_path):
    """Read up to 1, written oneself, and both folded in one commit: the table has the later one."""
    async with running(tmp_path, Test()) as rig:
        ctx = context_of(rig)
        await send(ctx, sender="bob")

        def both(inner):
            conversation = inner.conversations.require(NAME)
            inner.conversations.mark_read(conversation, conversation.members["ann"], 1)
            inner.messages.append(conversation, Draft(NAME, "ann", "x", "text", "x"))
            rows, through = rig.conversations.collect_dirty_cursors()
            rig.journal.open_batch().writes.append(Write(cursor_statements(rows, through), 0))

        await ctx.conversations.transact(both)
        assert rig.rows("SELECT read_seq FROM members WHERE user_id = 'ann'") == [(2,)]
