"""SEARCH in the real core: whose messages are found, in which order and pages, and how the index follows the messages."""

from contextlib import asynccontextmanager, closing
from typing import Any

import apsw
import helpers
import msgspec
import pytest

from imserver.context.database import PluginDatabase
from imserver.conversation import Draft
from imserver.errors import StorageUnavailable
from imserver.plugin import Plugin, command
from imserver_plugins.search import SearchPlugin, indexer
from imserver_plugins.search.plugin import SEARCHES_PER_SECOND
from imserver_plugins.search.store import index, searching

SEARCH, SAY, PUT, CHANGE, LEAVE = 2009, helpers.SAY, 6100, 6101, 6102


class PutRequest(msgspec.Struct, kw_only=True):
    """A message of any kind."""

    to: str
    body: Any
    type: str = "text"
    expires_in_ms: int | None = None


class ChangeRequest(msgspec.Struct, kw_only=True):
    """Another body for a message; None: it is recalled."""

    conversation_id: str
    seq: int
    body: Any = None


class LeaveRequest(msgspec.Struct, kw_only=True):
    """Who is removed."""

    conversation_id: str
    user: str


class Put(Plugin):
    """Stores what the test wants, and tells its place; changes it."""

    name = "put"

    def __init__(self) -> None:
        self.count = 0

    @command(PUT, request=PutRequest)
    def put(self, ctx: Any, request: PutRequest) -> dict[str, Any]:
        """Store it."""
        sender = ctx.session.user_id
        parties = sorted([sender, request.to])
        conversation = helpers.conversation_of(ctx, f"d:{parties[0]}:{parties[1]}", parties)
        self.count += 1
        draft = Draft(conversation.conversation_id, sender, f"p-{self.count}", request.type, request.body)
        draft.expires_in_ms = request.expires_in_ms
        return {"seq": ctx.messages.append(conversation, draft).seq}

    @command(CHANGE, request=ChangeRequest)
    def change(self, ctx: Any, request: ChangeRequest) -> dict[str, Any]:
        """Edit or recall it."""
        conversation = ctx.conversations.require(request.conversation_id)
        if request.body is None:
            ctx.messages.recall(conversation, request.seq)
        else:
            ctx.messages.edit(conversation, request.seq, request.body)
        return {}

    @command(LEAVE, request=LeaveRequest)
    def leave(self, ctx: Any, request: LeaveRequest) -> dict[str, Any]:
        """End a membership."""
        conversation = ctx.conversations.require(request.conversation_id)
        ctx.conversations.remove_members(conversation, [request.user])
        return {}


class Scene:
    """A core whose index is filled by hand: `index`."""

    def __init__(self, rig):
        self.rig = rig
        self.context = rig.shard.router.app_context("search")

    async def index(self):
        """Take all messages into the index; how many there were."""
        total = 0
        while count := await indexer.step(self.context):
            total += count
        return total

    def indexed(self, word):
        """How many messages the index has this term of."""
        return self.sql("SELECT count(*) FROM search_index WHERE search_index MATCH ?", word)[0][0]

    def sql(self, sql, *params):
        """Change the database from outside."""
        with closing(apsw.Connection(str(self.rig.folder / "imserver.db"))) as connection, connection:
            return connection.execute(sql, params).fetchall()


@pytest.fixture
def open_scene(tmp_path, monkeypatch):
    """A `Scene` until its block ends; searches are not limited."""
    monkeypatch.setattr(SearchPlugin.search, "__imserver_command__", _unlimited())

    @asynccontextmanager
    async def open_it(**options):
        async with helpers.running(tmp_path, Put(), SearchPlugin(), **options) as rig:
            yield Scene(rig)

    return open_it


def _unlimited():
    from attrs import evolve

    return evolve(SearchPlugin.search.__imserver_command__, per_second=None)


async def texts(peer, query, **fields):
    """What a search finds, over all pages."""
    bodies, cursor = [], None
    for _ in range(200):
        answer = await peer.ok(SEARCH, query=query, **fields, **({} if cursor is None else {"cursor": cursor}))
        bodies += [message["body"] for message in answer["messages"]]
        cursor = answer.get("next_cursor")
        if cursor is None:
            return bodies
    raise AssertionError("pages without end")


@pytest.fixture(params=["tail", "index", "both"])
def how(request):
    """Whether the messages are in the index when they are looked for."""
    return request.param


async def put_all(scene, how, peer, messages):
    """Store messages and index all, half, or none of them."""
    for number, fields in enumerate(messages):
        await peer.ok(PUT, **fields)
        if how == "index" or (how == "both" and number == len(messages) // 2):
            await scene.index()
        scene.rig.clock.advance(1)


async def test_ones_own_conversations_alone(open_scene, how):
    """Words and Chinese, newest first, as whole messages; nobody finds what others wrote to each other."""
    async with open_scene() as scene:
        a, b, c = await scene.rig.login("a"), await scene.rig.login("b"), await scene.rig.login("c")
        await put_all(scene, how, a, [
            {"to": "b", "body": "Hello Bob"},
            {"to": "c", "body": "hello Carl"},
            {"to": "b", "body": "今天天气很好"},
            {"to": "b", "body": {"name": "Hello.pdf", "file_id": "f"}, "type": "file"},
            {"to": "a", "body": "hello to myself"},
        ])  # fmt: skip
        file = {"name": "Hello.pdf", "file_id": "f"}
        assert await texts(a, "hello") == ["hello to myself", file, "hello Carl", "Hello Bob"]
        assert await texts(b, "HELLO") == [file, "Hello Bob"]
        assert await texts(c, "hello") == ["hello Carl"]
        assert await texts(c, "天气") == []
        assert await texts(b, "天气") == await texts(b, "天") == ["今天天气很好"]
        assert await texts(a, "hello", conversation_id="d:a:b") == [file, "Hello Bob"]
        assert await texts(c, "hello", conversation_id="d:a:b") == []
        assert await texts(a, "hello", conversation_id="g:none") == []
        (message,) = (await b.ok(SEARCH, query="bob"))["messages"]
        assert (message["conversation_id"], message["seq"], message["from"]) == ("d:a:b", 1, "a")


async def test_by_sender_and_time(open_scene, how):
    """`from`, `since` (from this moment on) and `until` (before it)."""
    async with open_scene() as scene:
        a, b = await scene.rig.login("a"), await scene.rig.login("b")
        start = scene.rig.clock.now_ms()
        await put_all(scene, how, a, [{"to": "b", "body": f"word {number}"} for number in range(4)])
        await b.ok(PUT, to="a", body="word of b")
        assert await texts(a, "word", **{"from": "b"}) == ["word of b"]
        assert await texts(a, "word", **{"from": "nobody"}) == []
        assert await texts(a, "word", since=start + 2000, until=start + 3000) == ["word 2"]
        assert await texts(a, "word", since=start + 10_000) == []
        assert await texts(a, "word", until=start) == []
        assert len(await texts(a, "word", since=0, until=2**53)) == 5


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
async def test_pages_have_everything_once(open_scene, how, limit):
    """Also while new messages come and the index moves on."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await put_all(scene, how, a, [{"to": "b" if number % 2 else "c", "body": f"word {number}"} for number in range(9)])
        expected = [f"word {number}" for number in reversed(range(9))]
        assert await texts(a, "word", limit=limit) == expected
        answer = await a.ok(SEARCH, query="word", limit=4)
        assert [message["body"] for message in answer["messages"]] == expected[:4]
        await a.ok(PUT, to="b", body="word 9")
        await scene.index()
        assert await texts(a, "word", cursor=None, limit=500, until=None) == ["word 9", *expected]
        rest = await a.ok(SEARCH, query="word", cursor=answer["next_cursor"])
        assert [message["body"] for message in rest["messages"]] == expected[4:]
        assert "next_cursor" not in rest


async def test_what_a_member_may_not_see_is_not_found(open_scene, how):
    """From before one joined, what one has hidden, and what has expired."""
    async with open_scene() as scene:
        a, b, c = await scene.rig.login("a"), await scene.rig.login("b"), await scene.rig.login("c")
        await put_all(scene, how, a, [{"to": "b", "body": f"word {number}"} for number in range(3)])
        await a.ok(PUT, to="b", body="word that ends", expires_in_ms=1000)
        assert await texts(a, "ends") == ["word that ends"]
        scene.rig.clock.advance(1)
        assert await texts(a, "ends") == []
        first = await a.ok(SEARCH, query="word", limit=3)
        assert len(first["messages"]) == 3, "what has expired takes no room on a page"
        scene.sql("UPDATE members SET hidden_seq = 1 WHERE user_id = 'a'")
        scene.sql("UPDATE members SET joined_seq = 2 WHERE user_id = 'b'")
        assert await texts(a, "word") == ["word 2", "word 1"]
        assert await texts(b, "word") == ["word 2"]
        assert await texts(c, "word") == []
        scene.sql("DELETE FROM members WHERE user_id = 'b'")
        assert await texts(b, "word") == []


async def test_a_change_of_the_body_is_seen(open_scene):
    """The index may be behind: what no longer says it is not found, and what was recalled has nothing to say."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await a.ok(PUT, to="b", body="secret word")
        await scene.index()
        scene.sql("UPDATE messages SET body = ?", msgspec.msgpack.encode("other word"))
        assert await texts(a, "secret") == []
        assert await texts(a, "word") == ["other word"]
        scene.sql("DELETE FROM messages")
        assert await texts(a, "word") == []


async def test_recalled_messages_are_left_out(open_scene, how):
    """Whether the index has heard of it or not."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await put_all(scene, how, a, [{"to": "b", "body": "word one"}, {"to": "b", "body": "word two"}])
        await a.ok(CHANGE, conversation_id="d:a:b", seq=1)
        assert await texts(a, "word") == ["word two"]
        await scene.index()
        assert await texts(a, "word") == ["word two"]


async def test_an_edited_message_is_found_in_its_conversation_alone(open_scene):
    """Before and after the index has its new text."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await a.ok(PUT, to="b", body="plan")
        await a.ok(PUT, to="c", body="nothing")
        await scene.index()
        await a.ok(CHANGE, conversation_id="d:a:b", seq=1, body="secret plan")
        for _ in range(2):
            assert await texts(a, "secret", conversation_id="d:a:c") == []
            assert await texts(a, "secret", conversation_id="d:a:b") == await texts(a, "secret") == ["secret plan"]
            await scene.index()


async def test_who_is_removed_while_it_is_searched_gets_nothing(open_scene, monkeypatch):
    """Of that conversation; the page of the others is as it was."""
    async with open_scene() as scene:
        a, b = await scene.rig.login("a"), await scene.rig.login("b")
        await a.ok(PUT, to="b", body="word one")
        await b.ok(PUT, to="c", body="word two")
        read_transaction = PluginDatabase.read_transaction

        async def and_is_removed(*args):
            page = await read_transaction(*args)
            assert len(page.messages) == 2
            await a.ok(LEAVE, conversation_id="d:a:b", user="b")
            return page

        monkeypatch.setattr(PluginDatabase, "read_transaction", and_is_removed)
        assert [message["body"] for message in (await b.ok(SEARCH, query="word"))["messages"]] == ["word two"]


async def test_what_changes_while_it_is_searched_is_searched_again(open_scene, monkeypatch):
    """Nobody is given an older state than they were told of."""
    async with open_scene() as scene:
        a, b = await scene.rig.login("a"), await scene.rig.login("b")
        await a.ok(PUT, to="b", body="word one")
        await a.ok(PUT, to="b", body="word two")
        read_transaction, reads = PluginDatabase.read_transaction, []

        async def and_is_edited(*args):
            page = await read_transaction(*args)
            reads.append(len(page.messages))
            if len(reads) == 1:
                await a.ok(CHANGE, conversation_id="d:a:b", seq=1, body="other")
            return page

        monkeypatch.setattr(PluginDatabase, "read_transaction", and_is_edited)
        assert await texts(b, "word") == ["word two"]
        assert reads == [2, 1]
        scene.rig.store.fail_next()
        assert (await a.call(CHANGE, conversation_id="d:a:b", seq=1, body="lost"))["code"] == 503
        assert await texts(b, "word") == ["word two"]
        assert reads == [2, 1, 1], "a change that could not be stored is none"


async def test_a_page_is_one_read(open_scene, how, monkeypatch):
    """However many messages are on it: each read is a way to another thread and back."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await put_all(scene, how, a, [{"to": f"u{number % 3}", "body": f"word {number}"} for number in range(20)])
        database, reads = scene.rig.database, []
        read_transaction = database.read_transaction

        async def counted(*args):
            reads.append(args)
            return await read_transaction(*args)

        monkeypatch.setattr(database, "read_transaction", counted)
        assert len((await a.ok(SEARCH, query="word"))["messages"]) == 20
        assert len(reads) == 1


async def test_hostile_queries_are_words(open_scene, how):
    """No syntax of FTS5 gets through: each is answered, and finds what has its words."""
    async with open_scene() as scene:
        a, b = await scene.rig.login("a"), await scene.rig.login("b")
        await put_all(
            scene, how, a, [{"to": "b", "body": "near and or not terms secret"}, {"to": "c", "body": "secret of c"}]
        )
        everything = ["near and or not terms secret"]
        assert await texts(b, 'secret" OR "secret') == everything
        assert await texts(b, "terms : secret") == everything
        assert await texts(b, "NEAR(near and)") == everything
        assert await texts(b, "NOT secret*") == everything
        for query in ('"', "*", "secre*", "^near ^of", '") WHERE ("', "\ue0002 secret of", "\0", "{terms}: of", "a" * 256):
            assert await texts(b, query) == [], query
        assert (await a.call(SEARCH, query=""))["field"] == "query"
        assert (await a.call(SEARCH, query="a" * 257))["field"] == "query"


@pytest.mark.parametrize("cursor", ["x", "-1", "+1", "0x1", "1_0", "f" * 16, "8000000000000000", " 1"])
async def test_a_cursor_that_was_never_given_is_refused(open_scene, cursor):
    """400, and the field."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        answer = await a.call(SEARCH, query="a", cursor=cursor)
        assert (answer["code"], answer["field"]) == (400, "cursor")


async def test_somebody_with_very_many_conversations(open_scene, how, monkeypatch):
    """They are asked for in several queries, whose answers are one list."""
    monkeypatch.setattr(searching, "_CONVERSATIONS_A_QUERY", 2)
    monkeypatch.setattr(searching, "_CANDIDATES_A_STEP", 3)
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await put_all(scene, how, a, [{"to": f"u{number % 7}", "body": f"word {number}"} for number in range(20)])
        assert await texts(a, "word", limit=4) == [f"word {number}" for number in reversed(range(20))]


async def test_the_work_of_a_search_is_bounded(open_scene, monkeypatch):
    """Pages may be short or empty, and go on: candidates, bytes read, and the messages beyond the index are counted."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for _ in range(12):
            await a.ok(PUT, to="b", body="好你 你吗")  # it has the terms of 好你吗
        await scene.index()
        monkeypatch.setattr(searching, "_CANDIDATES_A_STEP", 2)
        monkeypatch.setattr(searching, "MAX_CANDIDATES", 4)
        short = await a.ok(SEARCH, query="好你吗")
        assert short["messages"] == []
        assert "next_cursor" in short
        assert await texts(a, "好你吗") == []
        assert len(await texts(a, "你吗")) == 12

        monkeypatch.setattr(searching, "MAX_PAGE_BYTES", 20)
        assert len((await a.ok(SEARCH, query="你吗"))["messages"]) == 2
        assert len(await texts(a, "你吗")) == 12
        monkeypatch.setattr(searching, "MAX_READ_BYTES", 1)
        assert len((await a.ok(SEARCH, query="你吗"))["messages"]) == 1
        assert len(await texts(a, "你吗")) == 12

        monkeypatch.undo()
        monkeypatch.setattr(searching, "MAX_TAIL", 2)
        for number in range(4):
            await a.ok(PUT, to="b", body=f"new {number}")
        short = await a.ok(SEARCH, query="new")
        assert [message["body"] for message in short["messages"]] == ["new 3", "new 2"]
        assert await texts(a, "new") == ["new 3", "new 2", "new 1", "new 0"]
        assert len(await texts(a, "你吗")) == 12
        monkeypatch.undo()
        monkeypatch.setattr(searching, "MAX_CANDIDATES", 3)
        assert len((await a.ok(SEARCH, query="new"))["messages"]) == 3
        assert await texts(a, "new") == ["new 3", "new 2", "new 1", "new 0"]
        await scene.index()
        assert await texts(a, "new") == ["new 3", "new 2", "new 1", "new 0"]


async def test_long_bodies_are_found_by_their_beginning(open_scene, how):
    """A long text by its first words; a large value of another type not at all."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        long = "first " + "你" * index.MAX_BODY_BYTES
        await put_all(scene, how, a, [
            {"to": "b", "body": long},
            {"to": "b", "body": {"name": "first", "data": "x" * index.MAX_BODY_BYTES}, "type": "file"},
            {"to": "b", "body": "second " + "y" * 300},
            {"to": "b", "body": "third " + "y" * 40},
        ])  # fmt: skip
        assert await texts(a, "first") == [long]
        assert len(await texts(a, "second")) == len(await texts(a, "third")) == 1


async def test_the_index_and_its_progress_are_one(open_scene):
    """A commit that fails leaves neither; the next step does the same again, once."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for number in range(5):
            await a.ok(PUT, to="b", body=f"word {number}")
        scene.rig.store.fail_next()
        with pytest.raises(StorageUnavailable):
            await indexer.step(scene.context)
        assert scene.rig.rows("SELECT through FROM search_progress") == [(0,)]
        assert scene.rig.rows("SELECT count(*) FROM search_index") == [(0,)]
        assert await scene.index() == 5
        newest = scene.rig.rows("SELECT max(id) FROM messages")
        assert scene.rig.rows("SELECT through FROM search_progress") == newest
        assert await scene.index() == 0
        assert len(await texts(a, "word")) == 5


async def test_a_batch_is_bounded(open_scene, monkeypatch):
    """However many wait; what has no text moves the progress on all the same."""
    monkeypatch.setattr(indexer, "BATCH", 3)
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for number in range(7):
            await a.ok(PUT, to="b", body={"n": number}, type="custom")
        assert [await indexer.step(scene.context) for _ in range(4)] == [3, 3, 1, 0]
        assert scene.rig.rows("SELECT through FROM search_progress") == scene.rig.rows("SELECT max(id) FROM messages")


async def test_edits_do_not_keep_the_index_from_new_messages(open_scene, monkeypatch):
    """However many there are, all the time: both go on, in each step."""
    monkeypatch.setattr(indexer, "BATCH", 4)
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for number in range(10):
            await a.ok(PUT, to="b", body=f"word {number}")
        for number in range(1, 6):
            for seq in range(1, 5):
                await a.ok(CHANGE, conversation_id="d:a:b", seq=seq, body=f"word edit{number}")
            await indexer.step(scene.context)
        assert scene.rig.rows("SELECT through FROM search_progress") == scene.rig.rows("SELECT max(id) FROM messages")
        await scene.index()
        assert (scene.indexed("edit5"), scene.indexed("edit4"), scene.indexed("word")) == (4, 0, 10)


async def test_words_leave_with_their_messages(open_scene):
    """Recalled, expired, too old to be kept, or edited so that no text is left: none of their terms stays in the index."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await a.ok(PUT, to="b", body="recalled")
        await a.ok(PUT, to="b", body="old")
        scene.rig.clock.advance(10)
        await a.ok(PUT, to="b", body="expired", expires_in_ms=1000)
        await a.ok(PUT, to="b", body={"name": "renamed"}, type="file")
        await a.ok(PUT, to="b", body="stays")
        await scene.index()
        words = ("recalled", "old", "expired", "renamed", "stays")
        assert [scene.indexed(word) for word in words] == [1, 1, 1, 1, 1]
        await a.ok(CHANGE, conversation_id="d:a:b", seq=1)
        await a.ok(CHANGE, conversation_id="d:a:b", seq=4, body={"nameless": 1})
        scene.rig.clock.advance(1)
        assert await scene.context.messages.delete_expired(10) == 1
        await scene.context.messages.delete_older("direct", scene.rig.clock.now_ms() - 5000, 10)
        await scene.index()
        assert [scene.indexed(word) for word in words] == [0, 0, 0, 0, 1]
        assert scene.rig.rows("SELECT count(*) FROM search_gone") == scene.rig.rows("SELECT count(*) FROM search_edited")
        assert scene.rig.rows("SELECT count(*) FROM search_gone") == [(0,)]
        assert await texts(a, "stays") == ["stays"]


async def test_words_leave_in_small_steps(open_scene, monkeypatch):
    """However many messages go at once; also one that goes before it comes into the index."""
    monkeypatch.setattr(indexer, "GONE", 2)
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for _ in range(5):
            await a.ok(PUT, to="b", body="word")
        await scene.index()
        await a.ok(PUT, to="b", body="word")
        for seq in range(1, 7):
            await a.ok(CHANGE, conversation_id="d:a:b", seq=seq)
        left = []
        for _ in range(3):
            await indexer.step(scene.context)
            left.append(scene.indexed("word"))
        assert left == [3, 1, 0]
        assert await indexer.step(scene.context) == 0


async def test_a_body_that_was_nothing_for_a_while_is_found(open_scene):
    """An edit may give a message nil, and the next one words: these are in the index at the end."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        await a.ok(PUT, to="b", body={"name": "first"}, type="custom")
        await scene.index()
        for body in (None, {"name": "second"}):
            scene.sql("UPDATE messages SET body = ?, rev = rev + 1", msgspec.msgpack.encode(body))
        await scene.index()
        assert (scene.indexed("first"), scene.indexed("second")) == (0, 1)


async def test_words_from_before_leave_too(tmp_path, monkeypatch):
    """An index of a version that kept the words of messages without content: it is gone over, once and in small steps."""
    monkeypatch.setattr(indexer, "SWEPT", 2)
    with monkeypatch.context() as patch:
        patch.setattr(SearchPlugin, "migrations", index.MIGRATIONS[:2])
        async with helpers.running(tmp_path, Put(), SearchPlugin()) as rig:
            a = await rig.login("a")
            for number in range(7):
                await a.ok(PUT, to="b", body=f"word{number} word")
            database = rig.shard.router.app_context("search").db
            await database.write_all(index.index(await database.read_transaction(lambda read: index.unindexed(read, 10))))
            for seq in (1, 4, 5):
                await a.ok(CHANGE, conversation_id="d:a:b", seq=seq)
    async with helpers.running(tmp_path, Put(), SearchPlugin()) as rig:
        scene = Scene(rig)
        assert scene.indexed("word") == 7
        assert [await indexer.step(scene.context) for _ in range(5)] == [2, 2, 2, 1, 0]
        assert [scene.indexed(f"word{number}") for number in range(7)] == [0, 1, 1, 0, 0, 1, 1]


async def fill_notes(scene, kind):
    """As many notes of a kind as are kept: of messages that are not there, for their number is seen at their ends."""
    scene.sql(f"INSERT INTO search_{kind} (n, id) VALUES (1, 1), (100000, 2)")


async def test_edits_that_were_not_noted_are_found(open_scene, monkeypatch):
    """While nothing fills the index its notes stay bounded; then it is gone over, in small steps."""
    monkeypatch.setattr(indexer, "BATCH", 4)
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for number in range(7):
            await a.ok(PUT, to="b", body=f"word{number}")
        await scene.index()
        await fill_notes(scene, "edited")
        for seq in (2, 7):
            await a.ok(CHANGE, conversation_id="d:a:b", seq=seq, body="edited")
        await a.ok(CHANGE, conversation_id="d:a:b", seq=3, body="edited")
        await a.ok(CHANGE, conversation_id="d:a:b", seq=3)
        assert scene.rig.rows("SELECT id FROM search_edited") == [(1,), (2,)]
        assert await indexer.step(scene.context) == 0  # that it begins
        assert scene.rig.rows("SELECT count(*) FROM search_edited") == [(0,)]
        await a.ok(CHANGE, conversation_id="d:a:b", seq=5, body="later")  # noted, as ever
        assert scene.rig.rows("SELECT count(*) FROM search_edited") == [(1,)]
        assert [await indexer.step(scene.context) for _ in range(5)] == [4, 2, 2, 1, 0]
        found = [scene.indexed(f"word{number}") for number in range(7)]
        assert (found, scene.indexed("edited"), scene.indexed("later")) == ([1, 0, 0, 1, 0, 1, 0], 2, 1)
        assert sorted(await texts(a, "edited")) == ["edited", "edited"]
        assert scene.rig.rows("SELECT count(*) FROM search_lost") == [(0,)]


async def test_words_leave_with_messages_that_were_not_noted(open_scene, monkeypatch):
    """The same with messages whose content went: without a look at the texts of the others."""
    monkeypatch.setattr(index, "unswept_texts", pytest.fail)
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for number in range(3):
            await a.ok(PUT, to="b", body=f"word{number}")
        await scene.index()
        await fill_notes(scene, "gone")
        await a.ok(CHANGE, conversation_id="d:a:b", seq=2)
        assert scene.rig.rows("SELECT id FROM search_gone") == [(1,), (2,)]
        await indexer.step(scene.context)
        await scene.index()
        assert [scene.indexed(f"word{number}") for number in range(3)] == [1, 0, 1]
        await a.ok(CHANGE, conversation_id="d:a:b", seq=1)
        assert scene.rig.rows("SELECT count(*) FROM search_gone") == [(1,)]


async def test_a_message_that_is_edited_all_the_time_keeps_no_note_old(open_scene):
    """Its note goes behind the others: else their number, seen at its ends, would seem to be more and more."""
    async with open_scene() as scene:
        a = await scene.rig.login("a")
        for _ in range(2):
            await a.ok(PUT, to="b", body="word")
        for number, seq in enumerate((1, 2, 1)):
            await a.ok(CHANGE, conversation_id="d:a:b", seq=seq, body=f"edit{number}")
        noted = "SELECT seq FROM search_edited e JOIN messages m ON m.id = e.id ORDER BY n"
        assert scene.rig.rows(noted) == [(2,), (1,)]


async def test_notes_from_before_are_kept_or_counted(tmp_path, monkeypatch):
    """A version that kept all notes: they are there still, or that there were too many is known."""
    with monkeypatch.context() as patch:
        patch.setattr(SearchPlugin, "migrations", index.MIGRATIONS[:3])
        async with helpers.running(tmp_path, Put(), SearchPlugin()) as rig:
            scene = Scene(rig)
            scene.sql("INSERT INTO search_gone VALUES (7), (8)")
            numbers = "WITH RECURSIVE some(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM some WHERE i <= 100000)"
            scene.sql(f"{numbers} INSERT INTO search_edited SELECT i FROM some")
    async with helpers.running(tmp_path, Put(), SearchPlugin()) as rig:
        assert rig.rows("SELECT id FROM search_gone") == [(7,), (8,)]
        assert rig.rows("SELECT count(*) FROM search_edited") == [(100_000,)]
        assert rig.rows("SELECT kind FROM search_lost") == [("edited",)]


async def test_the_background_task_fills_the_index(tmp_path, monkeypatch):
    """It goes on after a failure, which it logs."""
    monkeypatch.setattr(indexer, "IDLE_S", 0.01)
    plugin = SearchPlugin()
    async with helpers.running(tmp_path, Put(), plugin) as rig:
        a = await rig.login("a")
        await a.ok(PUT, to="b", body="word")
        rig.store.fail_next()
        await plugin.on_start(rig.shard.router.app_context("search"))
        await rig.until(lambda: rig.rows("SELECT count(*) FROM search_index") == [(1,)])
        await a.ok(PUT, to="b", body="word again")
        await rig.until(lambda: rig.rows("SELECT count(*) FROM search_index") == [(2,)])


async def test_searches_are_limited(tmp_path):
    """Twice a second's worth at once, then 429."""
    async with helpers.running(tmp_path, Put(), SearchPlugin()) as rig:
        a = await rig.login("a")
        codes = [(await a.call(SEARCH, query="a"))["code"] for _ in range(3 * SEARCHES_PER_SECOND)]
        assert codes.index(429) in (2 * SEARCHES_PER_SECOND, 2 * SEARCHES_PER_SECOND + 1)
        assert set(codes) == {0, 429}
