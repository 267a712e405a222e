"""Friends, groups, users and operations on messages: each method against a real server, with its errors."""

import sys
from contextlib import asynccontextmanager

import pytest
import trio
from test_client_server import connector, log_in

from imserver.client import (
    Added,
    BadRequest,
    Conflict,
    ConversationSettings,
    Draft,
    Forbidden,
    Friend,
    FriendEvent,
    GroupEvent,
    MessageChanged,
    NotFound,
    Notify,
    Presence,
    Read,
    Receipts,
    Sent,
    Typing,
    open_client,
)


@asynccontextmanager
async def on_line(server, user_id, **options):
    """A client of this user, and its events from before the login on."""
    async with open_client(connector(server), backoff_max_s=0.05, **options) as client:
        events = client.events()
        await log_in(client, user_id)
        yield client, events


async def next_of(events, kind):
    """The next event of one class; others are let go."""
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the events have ended")


# ------------------------------------------------------------------ friends


async def test_a_friendship_from_the_request_to_its_end(server):
    """Request, both lists, answer, remark, end; and a typed event for each on the other side."""
    async with (
        on_line(server, "f-anna") as (anna, anna_events),
        on_line(server, "f-ben") as (ben, ben_events),
    ):
        request_id = await anna.friends.request("f-ben", "it is Anna")
        assert await next_of(ben_events, FriendEvent) == FriendEvent("requested", "f-anna", request_id, "it is Anna")
        [[request], cursor] = await ben.friends.list_requests(state="pending")
        assert (request.request_id, request.user_id, request.message, cursor) == (request_id, "f-anna", "it is Anna", None)
        assert [one.state for one in (await anna.friends.list_requests("out"))[0]] == ["pending"]
        await ben.friends.answer(request_id, True)
        assert await next_of(anna_events, FriendEvent) == FriendEvent("accepted", "f-ben", request_id)
        await anna.friends.set_remark("f-ben", "the tall one")
        [[friend], _] = await anna.friends.list_friends()
        assert friend == Friend("f-ben", "f-ben", friend.since, True, "the tall one")
        assert friend.since > 1_700_000_000_000
        await anna.friends.set_remark("f-ben", "")
        assert (await anna.friends.list_friends())[0][0].remark is None
        await anna.friends.delete("f-ben")
        assert await next_of(ben_events, FriendEvent) == FriendEvent("deleted", "f-anna")
        assert (await ben.friends.list_friends()) == ([], None)


async def test_friends_come_in_pages_and_crossing_requests_are_accepted(server):
    """A page names the next one's cursor; a request that meets its counterpart makes a friendship at once."""
    async with on_line(server, "p-anna") as (anna, events):
        for name in ("p-1", "p-2", "p-3"):
            async with on_line(server, name) as (other, _):
                await other.friends.request("p-anna")
            await anna.friends.request(name)
            assert (await next_of(events, FriendEvent)).event == "requested"
            crossed = await next_of(events, FriendEvent)
            assert (crossed.event, crossed.user_id, crossed.by) == ("accepted", name, "p-anna")
        first, cursor = await anna.friends.list_friends(limit=2)
        rest, end = await anna.friends.list_friends(limit=2, cursor=cursor)
        assert [friend.user_id for friend in first + rest] == ["p-1", "p-2", "p-3"]
        assert end is None


async def test_a_blocked_user_is_refused_until_unblocked(server):
    """BLOCK, LIST_BLOCKED, UNBLOCK; the blocked one's send ends as Forbidden."""
    async with on_line(server, "b-anna") as (anna, _), on_line(server, "b-ben") as (ben, _):
        await anna.friends.block("b-ben")
        [[blocked], cursor] = await anna.friends.list_blocked()
        assert (blocked.user_id, cursor) == ("b-ben", None)
        with pytest.raises(Forbidden):
            await ben.send("b-anna", "hello?")
        await anna.friends.unblock("b-ben")
        assert (await anna.friends.list_blocked())[0] == []
        assert (await ben.send("b-anna", "hello")).seq == 1


async def test_wrong_friend_requests_are_refused_with_their_class(server):
    """No such user and no such request are NotFound, a field out of bounds is BadRequest and named."""
    async with on_line(server, "w-anna") as (anna, _):
        with pytest.raises(NotFound):
            await anna.friends.request("w-nobody")
        with pytest.raises(NotFound):
            await anna.friends.answer("w-none", True)
        with pytest.raises(NotFound):
            await anna.friends.delete("w-nobody")
        with pytest.raises(BadRequest) as caught:
            await anna.friends.request("w-anna2", "x" * 501)
        assert caught.value.field == "message"


# ------------------------------------------------------------------ groups


async def test_a_group_from_its_beginning_to_its_end(server):
    """All that its owner and its members can do with a group, typed, with the events that the others get."""
    async with on_line(server, "g-anna") as (anna, _), on_line(server, "g-ben") as (ben, events):
        async with on_line(server, "g-cleo"):
            pass
        made = await anna.groups.create("The team", ["g-ben", "g-nobody"], group_id="g-team")
        assert (made.group_id, made.conversation_id, made.failed) == ("g-team", "g:g-team", {"g-nobody": "not_found"})
        created = await next_of(events, GroupEvent)
        assert (created.event, created.group_id, created.by, created.fields["name"]) == (
            "created",
            "g-team",
            "g-anna",
            "The team",
        )
        assert await anna.groups.add_members("g-team", ["g-cleo", "g-ben"]) == Added(
            ("g-cleo",), {"g-ben": "already_member"}
        )
        assert (await next_of(events, GroupEvent)).user_ids == ("g-cleo",)
        await anna.groups.update("g-team", name="Team", announcement="at noon", muted=True)
        changed = await next_of(events, GroupEvent)
        assert (changed.event, changed.fields["name"], changed.fields["muted"]) == ("updated", "Team", True)
        group = await ben.groups.get("g-team")
        assert (group.name, group.announcement, group.muted, group.role) == ("Team", "at noon", True, "member")
        assert (group.member_count, group.owner, group.conversation_id) == (3, "g-anna", "g:g-team")
        with pytest.raises(Forbidden):
            await ben.send("g:g-team", "may I?")
        await anna.groups.update("g-team", announcement="", muted=False)
        assert (await ben.groups.get("g-team")).announcement is None
        await anna.groups.set_role("g-team", "g-ben", "admin")
        members, cursor = await ben.groups.list_members("g-team", limit=2)
        assert [(one.user_id, one.role) for one in members] == [("g-anna", "owner"), ("g-ben", "admin")]
        assert [one.user_id for one in (await ben.groups.list_members("g-team", cursor=cursor))[0]] == ["g-cleo"]
        until = await ben.groups.mute_member("g-team", "g-cleo", 60_000)
        assert (await ben.groups.list_members("g-team"))[0][2].muted_until == until
        assert await ben.groups.mute_member("g-team", "g-cleo", 0) == 0
        assert await ben.groups.remove_members("g-team", ["g-cleo", "g-nobody"]) == ("g-cleo",)
        assert [one.group_id for one in (await ben.groups.list_groups())[0]] == ["g-team"]
        with pytest.raises(Conflict):
            await anna.groups.leave("g-team")
        await ben.groups.leave("g-team")
        assert await ben.groups.list_groups() == ([], None)
        with pytest.raises(Forbidden):
            await ben.groups.get("g-team")
        await anna.groups.dismiss("g-team")
        with pytest.raises(NotFound):
            await anna.groups.get("g-team")


async def test_joining_at_once_and_by_asking(server):
    """JOIN_GROUP of an open group gives None, of one with approval a request, which ANSWER_JOIN grants."""
    async with on_line(server, "j-anna") as (anna, events), on_line(server, "j-ben") as (ben, _):
        await anna.groups.create("Open", group_id="j-open", join="open")
        assert await ben.groups.join("j-open") is None
        await anna.groups.create("Ask", group_id="j-ask", join="approval")
        request_id = await ben.groups.join("j-ask", "please")
        async for event in events:
            if isinstance(event, GroupEvent) and event.event == "join_requested":
                break
        assert (event.by, event.fields) == ("j-ben", {"request_id": request_id, "message": "please"})
        [asked] = (await anna.groups.get("j-ask")).join_requests
        assert (asked.request_id, asked.user_id, asked.message) == (request_id, "j-ben", "please")
        await anna.groups.answer_join(request_id, True)
        assert {one.group_id for one in (await ben.groups.list_groups())[0]} == {"j-open", "j-ask"}
        await anna.groups.create("Closed", group_id="j-closed")
        with pytest.raises(Forbidden):
            await ben.groups.join("j-closed")


async def test_a_group_conversation_reaches_every_member(server):
    """What one member sends, the others receive, after the server's own message that the group was made."""
    async with on_line(server, "c-anna") as (anna, _), on_line(server, "c-ben") as (ben, _):
        made = await anna.groups.create("Chat", ["c-ben"])
        sent = await anna.send(made.conversation_id, "hello all", mentions=["c-ben"])
        messages = ben.messages()
        system = await anext(messages)
        assert (system.type, system.from_, system.body["event"]) == ("system", "", "created")
        got = await anext(messages)
        assert (got.conversation_id, got.seq, got.body, got.mentions) == (
            made.conversation_id,
            sent.seq,
            "hello all",
            ("c-ben",),
        )


# ------------------------------------------------------------------ operations on messages


async def test_recall_edit_and_reactions_reach_the_other_side_typed(server):
    """RECALL, EDIT, REACT: each comes as MessageChanged, which makes the new message out of the old one."""
    async with on_line(server, "m-anna") as (anna, _), on_line(server, "m-ben") as (ben, events):
        sent = await anna.send("m-ben", "helo")
        message = await anext(ben.messages())
        edited_at = await anna.edit(sent.conversation_id, sent.seq, "hello")
        changed = await next_of(events, MessageChanged)
        message = changed.apply_to(message)
        assert (changed.change, message.body, message.edited_at) == ("edited", "hello", edited_at)
        await anna.react(sent.conversation_id, sent.seq, "👍")
        message = (await next_of(events, MessageChanged)).apply_to(message)
        assert (message.reactions, message.body) == ({"👍": ("m-anna",)}, "hello")
        await anna.react(sent.conversation_id, sent.seq, "👍", remove=True)
        message = (await next_of(events, MessageChanged)).apply_to(message)
        assert message.reactions == {}
        await anna.recall(sent.conversation_id, sent.seq)
        changed = await next_of(events, MessageChanged)
        message = changed.apply_to(message)
        assert (changed.change, message.recalled, message.body, message.rev) == ("recalled", True, None, changed.rev)
        [pulled] = (await ben.pull(sent.conversation_id)).messages
        assert (pulled.recalled, pulled.body, pulled.rev) == (True, None, changed.rev)
        page = await ben.changes(sent.conversation_id, 0)
        assert ([one.seq for one in page.messages], page.last_rev, page.more) == ([1], changed.rev, False)
        with pytest.raises(ValueError, match="another one"):
            changed.apply_to(await anna_message(anna, ben))


async def anna_message(anna, ben):
    """One more message of Anna's, as Ben gets it."""
    await anna.send(ben.user_id, "more")
    return (await ben.pull("d:m-anna:m-ben")).messages[-1]


async def test_operations_on_messages_of_others_are_refused(server):
    """Nobody edits or recalls another's message, nor one that is not there; a recalled one takes no edit and no reaction."""
    async with on_line(server, "r-anna") as (anna, _), on_line(server, "r-ben") as (ben, _):
        sent = await anna.send("r-ben", "mine")
        place = (sent.conversation_id, sent.seq)
        with pytest.raises(Forbidden):
            await ben.edit(*place, "yours")
        with pytest.raises(Forbidden):
            await ben.recall(*place)
        with pytest.raises(NotFound):
            await anna.recall(sent.conversation_id, 99)
        await anna.recall(*place)
        with pytest.raises(Conflict):
            await anna.edit(*place, "again")
        with pytest.raises(Conflict):
            await ben.react(*place, "👍")


async def test_receipts_settings_and_deletion(server):
    """RECEIPTS names the readers, CONVERSATION_SETTINGS keeps what was set, DELETE_CONVERSATION hides for one alone."""
    async with on_line(server, "s-anna") as (anna, events), on_line(server, "s-ben") as (ben, _):
        sent = await anna.send("s-ben", "one")
        name = sent.conversation_id
        assert await anna.receipts(name, sent.seq) == Receipts((), 1)
        await anext(ben.messages())
        await ben.mark_read(name, sent.seq)
        assert await next_of(events, Read) == Read(name, "s-ben", sent.seq)
        assert await anna.receipts(name, sent.seq) == Receipts(("s-ben",), 0)
        assert await ben.set_conversation(name, pinned=True) == ConversationSettings(muted=False, pinned=True)
        assert await ben.set_conversation(name, muted=True) == ConversationSettings(muted=True, pinned=True)
        [shown] = (await ben.sync()).conversations
        assert (shown.conversation_id, shown.peer, shown.muted, shown.pinned) == (name, "s-anna", True, True)
        await ben.delete_conversation(name)
        assert [one.conversation_id for one in (await ben.sync()).conversations] == []
        assert len((await anna.pull(name)).messages) == 1


async def test_batches_replies_and_typing(server):
    """A batch has a result for each draft, a refused one among them; a reply names its message; TYPING comes."""
    async with on_line(server, "t-anna") as (anna, _), on_line(server, "t-ben") as (ben, events):
        first, refused, second = await anna.send_batch(
            [Draft("t-ben", "one"), Draft("t-nobody", "lost"), Draft("t-ben", "two", reply_to=1)]
        )
        assert isinstance(first, Sent)
        assert isinstance(refused, NotFound)
        assert (first.seq, second.seq) == (1, 2)
        messages = ben.messages()
        assert [(await anext(messages)).reply_to for _ in range(2)] == [None, 1]
        assert anna.typing("t-ben")
        assert await next_of(events, Typing) == Typing(first.conversation_id, "t-anna", True)
        assert anna.typing(first.conversation_id, False)
        assert not (await next_of(events, Typing)).is_on


async def test_presence_and_devices(server):
    """WATCH_PRESENCE tells who is there and then who comes; GET_PRESENCE asks once; KICK_DEVICE ends a session."""
    async with on_line(server, "o-anna") as (anna, events):
        async with on_line(server, "o-ben"):
            [there] = await anna.watch_presence(["o-ben"])
            assert (there.is_online, there.platforms) == (True, ("python",))
        assert (await next_of(events, Presence)).is_online is False
        assert [one.is_online for one in await anna.get_presence(["o-ben", "o-anna"])] == [False, True]
        assert await anna.watch_presence(["o-ben"], unwatch=True) == []
        with pytest.raises(NotFound):
            await anna.kick_device("no-such-session")


async def test_push_tokens_and_notices(make_server):
    """A token of no known provider is refused, taking back none is well; NOTIFY is for admins alone."""
    server = make_server()
    async with on_line(server, "anna") as (anna, events):
        with pytest.raises(BadRequest):
            await anna.set_push_token("nobody", "0123456789abcdef")
        await anna.remove_push_token()
        with pytest.raises(Forbidden):
            await anna.notify("news", everybody=True)
    words = ["user", "role", "--set", f"server.data_dir={server.data}", "anna", "admin"]
    await trio.run_process([sys.executable, "-m", "imserver", *words])
    async with on_line(server, "ben") as (_, events), on_line(server, "anna") as (anna, _):
        assert await anna.notify("news", {"n": 1}, user_ids=["ben"]) == 1
        assert await next_of(events, Notify) == Notify("news", {"n": 1})


# ------------------------------------------------------------------ away


class Line:
    """A way to the server that can be cut and mended."""

    def __init__(self, server):
        self.server = server
        self.is_cut = False
        self.stream = None

    async def __call__(self):
        if self.is_cut:
            raise OSError("the line is cut")
        self.stream = await trio.open_tcp_stream(*self.server.address)
        return self.stream

    def cut(self):
        """From now on nothing gets through."""
        self.is_cut = True
        self.stream.socket.shutdown(trio.socket.SHUT_RDWR)


async def test_changes_made_while_away_come_once_as_events(server):
    """An edit, a recall and a reaction behind a cut line: one event each after the reconnect, none again after the next."""
    line = Line(server)
    async with on_line(server, "a-anna") as (anna, _), open_client(line, backoff_max_s=0.05) as ben:
        events = ben.events()
        await log_in(ben, "a-ben")
        messages = ben.messages()
        places = [await anna.send("a-ben", text) for text in ("one", "two", "three")]
        kept = {message.seq: message for message in [await anext(messages) for _ in places]}
        name = places[0].conversation_id
        line.cut()
        await ben.wait_connected(False)
        await anna.edit(name, 1, "ONE")
        await anna.recall(name, 2)
        await anna.react(name, 3, "🎉")
        line.is_cut = False
        for _ in places:
            changed = await next_of(events, MessageChanged)
            kept[changed.seq] = changed.apply_to(kept[changed.seq])
        assert (kept[1].body, kept[2].recalled, kept[3].reactions) == ("ONE", True, {"🎉": ("a-anna",)})
        line.cut()
        await ben.wait_connected(False)
        await anna.edit(name, 3, "THREE")
        line.is_cut = False
        last = await next_of(events, MessageChanged)
        assert (last.seq, last.apply_to(kept[3]).body) == (3, "THREE")  # nothing of before comes again


async def test_a_message_recalled_before_it_was_seen_comes_recalled(server):
    """Sent and recalled while away: the message comes in its present state, and no event is made of it."""
    line = Line(server)
    async with on_line(server, "u-anna") as (anna, _), open_client(line, backoff_max_s=0.05) as ben:
        events = ben.events()
        await log_in(ben, "u-ben")
        line.cut()
        await ben.wait_connected(False)
        sent = await anna.send("u-ben", "oops")
        await anna.recall(sent.conversation_id, sent.seq)
        line.is_cut = False
        got = await anext(ben.messages())
        assert (got.seq, got.recalled, got.body) == (1, True, None)
        await anna.send("u-ben", "well")
        await anna.edit(sent.conversation_id, 2, "Well")
        got = await anext(ben.messages())
        if got.body == "well":
            got = (await next_of(events, MessageChanged)).apply_to(got)
        assert got.body == "Well"


async def test_being_removed_from_a_group_ends_what_comes_from_it(server):
    """A member who was removed while away is told so by SYNC, and the client goes on with other conversations."""
    line = Line(server)
    async with on_line(server, "x-anna") as (anna, _), open_client(line, backoff_max_s=0.05) as ben:
        await log_in(ben, "x-ben")
        made = await anna.groups.create("Out", ["x-ben"])
        messages = ben.messages()
        assert (await anext(messages)).type == "system"
        cursor = (await ben.sync()).next_cursor
        line.cut()
        await ben.wait_connected(False)
        await anna.groups.remove_members(made.group_id, ["x-ben"])
        await anna.send(made.conversation_id, "without you")
        await anna.send("x-ben", "sorry")
        line.is_cut = False
        got = await anext(messages)
        while got.conversation_id == made.conversation_id:
            assert got.body != "without you"
            got = await anext(messages)
        assert got.body == "sorry"
        left = [one.is_left for one in (await ben.sync(cursor)).conversations if one.conversation_id == made.conversation_id]
        assert left == [True]
        with pytest.raises(Forbidden):
            await ben.send(made.conversation_id, "hello?")
