"""RECALL, EDIT, REACT, RECEIPTS, settings, hiding, replies, expiry and retention (wire protocol, section 5)."""

import pytest

from imserver.client import BadRequest, Conflict, Forbidden, NotFound, TooLarge
from imserver.testing import running

SEND, PULL, SYNC, MARK_READ, RECALL, EDIT, REACT, SEARCH, DELETE_CONVERSATION = (
    2001,
    2002,
    2003,
    2004,
    2005,
    2006,
    2007,
    2009,
    2010,
)
RECEIPTS, SETTINGS, CHANGES = 2012, 2013, 2014
BLOCK = 3006
CREATE_GROUP, UPDATE_GROUP, ADD_MEMBERS, REMOVE_MEMBERS, SET_ROLE, MUTE_MEMBER = 4001, 4003, 4005, 4006, 4009, 4010
MESSAGE, MESSAGE_CHANGED = 5001, 5003

AB = "d:alice:bob"
DAY_S = 86400


@pytest.fixture
async def server():
    """A server with groups, friends and search."""
    async with running(["group", "friend", "search"], {"plugins.message.recall_window": "2m"}) as made:
        yield made


async def pair(server):
    """Alice and Bob, each on a device."""
    return await server.login("alice"), await server.login("bob")


async def say(client, body="hi", conversation_id=AB, **fields):
    """Send; the seq."""
    say.count += 1
    where = {"to": fields.pop("to")} if "to" in fields else {"conversation_id": conversation_id}
    return (await client.request(SEND, client_id=f"c{say.count}", body=body, **where, **fields))["seq"]


say.count = 0


async def group(server, owner, *others, **fields):
    """A group of these; its conversation."""
    members = [other.user for other in others]
    answer = await owner.request(CREATE_GROUP, name="Tea", members=members, **fields)
    return answer["conversation_id"]


async def only(client, conversation_id, seq):
    """One message as PULL has it; None: it has none."""
    page = await client.request(PULL, conversation_id=conversation_id, after_seq=seq - 1, limit=1)
    return next((message for message in page["messages"] if message["seq"] == seq), None)


async def row(client, conversation_id=AB, **fields):
    """The conversation in a SYNC; None: it is not there."""
    answer = await client.request(SYNC, **fields)
    found = [one for one in answer["conversations"] if one["conversation_id"] == conversation_id]
    return found[0] if found else None


# ---------------------------------------------------------------- recall


async def test_a_recalled_message_says_nothing(server):
    """Not in PULL, SYNC, CHANGES or the peer's unread; its place stays."""
    alice, bob = await pair(server)
    seq = await say(alice, "a secret", to="bob")
    assert (await row(bob))["unread"] == 1
    assert await alice.request(RECALL, conversation_id=AB, seq=seq) == {}
    pushed = await bob.push(MESSAGE_CHANGED)
    assert pushed == {"conversation_id": AB, "seq": seq, "rev": 2, "change": "recalled", "recalled": True, "by": "alice"}
    for message in (
        await only(bob, AB, seq),
        (await row(bob))["last_message"],
        (await bob.request(CHANGES, conversation_id=AB, since_rev=1))["messages"][0],
    ):
        assert (message["recalled"], message["body"], message["rev"], message["from"]) == (True, None, 2, "alice")
    assert (await row(bob))["unread"] == 0
    assert await say(alice, "next", to="bob") == seq + 1


async def test_a_second_recall_changes_nothing(server):
    """A retry of it is answered as the first, also after the window."""
    alice, bob = await pair(server)
    seq = await say(alice, to="bob")
    await alice.request(RECALL, conversation_id=AB, seq=seq)
    await server.clock.advance(200)
    await alice.request(RECALL, conversation_id=AB, seq=seq)
    await server.settle()
    assert len([push for push in bob.pushes if push.command == MESSAGE_CHANGED]) == 1
    assert (await row(bob))["last_rev"] == 2


async def test_recall_has_a_window(server):
    """Within it the sender may, after it not; the peer never."""
    alice, bob = await pair(server)
    early, late = await say(alice, to="bob"), await say(alice, to="bob")
    with pytest.raises(Forbidden):
        await bob.request(RECALL, conversation_id=AB, seq=early)
    await server.clock.advance(119)
    await alice.request(RECALL, conversation_id=AB, seq=early)
    await server.clock.advance(2)
    with pytest.raises(Forbidden) as refused:
        await alice.request(RECALL, conversation_id=AB, seq=late)
    assert refused.value.error == "recall_window"


@pytest.mark.parametrize("role", ["owner", "admin", "member", "was admin"])
async def test_who_recalls_in_a_group(server, role):
    """The owner and the admins recall anybody's message at any time, others and former admins do not."""
    alice, bob = await pair(server)
    carol = await server.login("carol")
    conversation_id = await group(server, carol, alice, bob)
    group_id = conversation_id[2:]
    seq = await say(bob, conversation_id=conversation_id)
    asker = carol if role == "owner" else alice
    if role in ("admin", "was admin"):
        await carol.request(SET_ROLE, group_id=group_id, user_id="alice", role="admin")
    if role == "was admin":
        await carol.request(SET_ROLE, group_id=group_id, user_id="alice", role="member")
    await server.clock.advance(1000)
    if role in ("owner", "admin"):
        await asker.request(RECALL, conversation_id=conversation_id, seq=seq)
        assert (await only(bob, conversation_id, seq))["recalled"] is True
    else:
        with pytest.raises(Forbidden):
            await asker.request(RECALL, conversation_id=conversation_id, seq=seq)
        assert (await only(bob, conversation_id, seq))["body"] == "hi"


async def test_a_recalled_message_is_not_stored_again(server):
    """Sent again by its client_id it is a duplicate; with another content a conflict, as ever."""
    alice, _ = await pair(server)
    sent = await alice.request(SEND, to="bob", client_id="once", body="oops")
    await alice.request(RECALL, conversation_id=AB, seq=sent["seq"])
    again = await alice.request(SEND, to="bob", client_id="once", body="oops")
    assert (again["seq"], again["duplicate"]) == (sent["seq"], True)
    with pytest.raises(Conflict):
        await alice.request(SEND, to="bob", client_id="once", body="other")


# ---------------------------------------------------------------- edit


async def test_an_edit_reaches_everybody(server):
    """By push to who is there, by CHANGES, PULL and SYNC to who was not; unread is as it was."""
    alice, bob = await pair(server)
    seq = await say(alice, "helo", to="bob")
    answer = await alice.request(EDIT, conversation_id=AB, seq=seq, body="hello")
    pushed = await bob.push(MESSAGE_CHANGED)
    assert (pushed["change"], pushed["body"], pushed["rev"], pushed["edited_at"]) == (
        "edited",
        "hello",
        2,
        answer["edited_at"],
    )
    message = (await bob.request(CHANGES, conversation_id=AB, since_rev=1))["messages"][0]
    assert message == await only(bob, AB, seq) == (await row(bob))["last_message"]
    assert (message["body"], message["edited_at"], message["rev"]) == ("hello", answer["edited_at"], 2)
    assert (await row(bob))["unread"] == 1


async def test_a_second_edit_to_the_same_changes_nothing(server):
    """A retry is answered with the time of the first."""
    alice, _ = await pair(server)
    seq = await say(alice, to="bob")
    first = await alice.request(EDIT, conversation_id=AB, seq=seq, body="new")
    await server.clock.advance(5)
    assert await alice.request(EDIT, conversation_id=AB, seq=seq, body="new") == first
    assert (await only(alice, AB, seq))["rev"] == 2


async def test_what_cannot_be_edited(server):
    """Another's message, a recalled one, one that is not there, a text to something that is none."""
    alice, bob = await pair(server)
    seq = await say(alice, to="bob")
    with pytest.raises(Forbidden):
        await bob.request(EDIT, conversation_id=AB, seq=seq, body="mine")
    with pytest.raises(BadRequest) as wrong:
        await alice.request(EDIT, conversation_id=AB, seq=seq, body={"not": "text"})
    assert wrong.value.field == "body"
    with pytest.raises(NotFound):
        await alice.request(EDIT, conversation_id=AB, seq=seq + 1, body="x")
    with pytest.raises(BadRequest):
        await alice.request(EDIT, conversation_id=AB, seq=0, body="x")
    await alice.request(RECALL, conversation_id=AB, seq=seq)
    with pytest.raises(Conflict):
        await alice.request(EDIT, conversation_id=AB, seq=seq, body="x")


async def test_who_may_not_write_may_not_edit_or_react(server):
    """Blocked in a direct conversation, muted in a group; a reaction is taken back all the same."""
    alice, bob = await pair(server)
    seq = await say(alice, to="bob")
    await alice.request(REACT, conversation_id=AB, seq=seq, emoji="👍")
    await bob.request(BLOCK, user_id="alice")
    for command, fields in ((EDIT, {"body": "x"}), (REACT, {"emoji": "🎉"})):
        with pytest.raises(Forbidden):
            await alice.request(command, conversation_id=AB, seq=seq, **fields)
    await alice.request(REACT, conversation_id=AB, seq=seq, emoji="👍", remove=True)
    assert "reactions" not in await only(bob, AB, seq)

    conversation_id = await group(server, bob, alice)
    seq = await say(alice, conversation_id=conversation_id)
    await bob.request(MUTE_MEMBER, group_id=conversation_id[2:], user_id="alice", duration_ms=60_000)
    for command, fields in ((EDIT, {"body": "x"}), (REACT, {"emoji": "🎉"})):
        with pytest.raises(Forbidden):
            await alice.request(command, conversation_id=conversation_id, seq=seq, **fields)


@pytest.mark.parametrize("new", ["a green apple", "绿色的苹果"])
async def test_search_finds_the_new_text_alone(server, new):
    """At once, and when the index has been made of it."""
    alice, bob = await pair(server)
    seq = await say(alice, "a red pear", to="bob")
    await server.clock.advance(3)  # it is in the index
    await alice.request(EDIT, conversation_id=AB, seq=seq, body=new)
    for _ in range(2):
        for query, seqs in (("apple" if "apple" in new else "苹果", [seq]), ("pear", [])):
            found = await bob.request(SEARCH, query=query)
            assert [message["seq"] for message in found["messages"]] == seqs
        await server.clock.advance(3)
    assert await server.rows("SELECT * FROM search_edited") == []


# ---------------------------------------------------------------- reactions


async def test_reactions_add_up(server):
    """By emoji, in the order in which they came; each once; the last of one takes the emoji away."""
    alice, bob = await pair(server)
    seq = await say(alice, to="bob")
    for client in (bob, alice, bob):
        await client.request(REACT, conversation_id=AB, seq=seq, emoji="👍")
    await bob.request(REACT, conversation_id=AB, seq=seq, emoji="🎉")
    assert (await only(alice, AB, seq))["reactions"] == {"👍": ["bob", "alice"], "🎉": ["bob"]}
    await bob.request(REACT, conversation_id=AB, seq=seq, emoji="🎉", remove=True)
    message = await only(alice, AB, seq)
    assert (message["reactions"], message["rev"]) == ({"👍": ["bob", "alice"]}, 5)
    assert (await row(bob))["unread"] == 1


async def test_a_reaction_is_pushed(server):
    """With the whole new state; the device that asked has it in its answer."""
    alice, bob = await pair(server)
    seq = await say(alice, to="bob")
    await bob.request(REACT, conversation_id=AB, seq=seq, emoji="👍")
    await bob.request(REACT, conversation_id=AB, seq=seq, emoji="👍", remove=True)
    first, second = await alice.push(MESSAGE_CHANGED), await alice.push(MESSAGE_CHANGED)
    assert (first["change"], first["reactions"], first["by"], first["emoji"]) == ("reacted", {"👍": ["bob"]}, "bob", "👍")
    assert (second["reactions"], second["removed"], second["rev"]) == ({}, True, 3)
    await server.settle()
    assert [push for push in bob.pushes if push.command == MESSAGE_CHANGED] == []


@pytest.mark.parametrize("emoji", ["", "a b", "\u0000", "x" * 33, " ", "\u2028"])
async def test_what_is_no_emoji(server, emoji):
    """400, and nothing changes."""
    alice, _ = await pair(server)
    seq = await say(alice, to="bob")
    with pytest.raises(BadRequest) as wrong:
        await alice.request(REACT, conversation_id=AB, seq=seq, emoji=emoji)
    assert wrong.value.field == "emoji"
    assert (await only(alice, AB, seq))["rev"] == 1


async def test_reactions_of_one_user_are_bounded(server):
    """Five; 413 beyond, and one taken back makes room."""
    alice, _ = await pair(server)
    seq = await say(alice, to="bob")
    for emoji in "abcde":
        await alice.request(REACT, conversation_id=AB, seq=seq, emoji=emoji)
    with pytest.raises(TooLarge):
        await alice.request(REACT, conversation_id=AB, seq=seq, emoji="f")
    await alice.request(REACT, conversation_id=AB, seq=seq, emoji="a", remove=True)
    await alice.request(REACT, conversation_id=AB, seq=seq, emoji="f")


@pytest.mark.parametrize(
    ("command", "fields"), [(RECALL, {}), (EDIT, {"body": "x"}), (REACT, {"emoji": "x"}), (RECEIPTS, {})]
)
async def test_strangers_and_late_comers_change_nothing(server, command, fields):
    """403 for who does not belong to it, 404 for what one does not see, and no push of it either."""
    alice, bob = await pair(server)
    carol = await server.login("carol")
    conversation_id = await group(server, alice, bob)
    seq = await say(alice, "before", conversation_id=conversation_id)
    with pytest.raises(Forbidden):
        await carol.request(command, conversation_id=conversation_id, seq=seq, **fields)
    await alice.request(ADD_MEMBERS, group_id=conversation_id[2:], user_ids=["carol"])
    with pytest.raises(NotFound):
        await carol.request(command, conversation_id=conversation_id, seq=seq, **fields)
    await alice.request(command, conversation_id=conversation_id, seq=seq, **fields)
    await server.settle()
    assert [push for push in carol.pushes if push.command == MESSAGE_CHANGED] == []
    with pytest.raises(NotFound):
        await alice.request(command, conversation_id="g:nothing", seq=1, **fields)
    with pytest.raises(NotFound):
        await alice.request(command, conversation_id="d:alice:zoe", seq=1, **fields)


# ---------------------------------------------------------------- receipts


async def test_who_has_read(server):
    """The sender is left out, and who came after the message."""
    alice, bob = await pair(server)
    carol, dan = await server.login("carol"), await server.login("dan")
    conversation_id = await group(server, alice, bob, carol)
    seq = await say(alice, conversation_id=conversation_id)
    receipts = {"conversation_id": conversation_id, "seq": seq}
    assert await alice.request(RECEIPTS, **receipts) == {"read": [], "read_count": 0, "unread_count": 2}
    await bob.request(MARK_READ, **receipts)
    await alice.request(ADD_MEMBERS, group_id=conversation_id[2:], user_ids=["dan"])
    await dan.request(MARK_READ, conversation_id=conversation_id, seq=seq + 1)
    for client in (alice, carol):
        assert await client.request(RECEIPTS, **receipts) == {"read": ["bob"], "read_count": 1, "unread_count": 1}
    await alice.request(REMOVE_MEMBERS, group_id=conversation_id[2:], user_ids=["carol"])
    assert await alice.request(RECEIPTS, **receipts) == {"read": ["bob"], "read_count": 1, "unread_count": 0}


# ---------------------------------------------------------------- for oneself


async def test_a_deleted_conversation_is_gone_for_one(server):
    """Its past does not come back; the next message begins it anew; the peer has all."""
    alice, bob = await pair(server)
    for number in range(3):
        await say(alice, f"m{number}", to="bob")
    cursor = (await bob.request(SYNC))["next_cursor"]
    assert await bob.request(DELETE_CONVERSATION, conversation_id=AB) == {}
    assert await row(bob) is None
    hidden = await row(bob, cursor=cursor)
    assert (hidden["hidden"], hidden["unread"]) == (True, 0)
    assert (await bob.request(PULL, conversation_id=AB))["messages"] == []
    assert (await bob.request(SEARCH, query="m1"))["messages"] == []
    assert len((await alice.request(PULL, conversation_id=AB))["messages"]) == 3
    seq = await say(alice, "again", to="bob")
    back = await row(bob)
    assert (back["unread"], back["last_message"]["seq"], back.get("hidden")) == (1, seq, None)
    assert [message["seq"] for message in (await bob.request(PULL, conversation_id=AB))["messages"]] == [seq]


async def test_settings_of_a_conversation(server):
    """They are one's own, stay, and are told to one's other devices by SYNC."""
    alice, bob = await pair(server)
    await say(alice, to="bob")
    cursor = (await bob.request(SYNC))["next_cursor"]
    answer = await bob.request(SETTINGS, conversation_id=AB, muted=True)
    assert answer == {"conversation_id": AB, "muted": True, "pinned": False}
    assert (await bob.request(SETTINGS, conversation_id=AB, pinned=True))["muted"] is True
    assert await bob.request(SETTINGS, conversation_id=AB) == {"conversation_id": AB, "muted": True, "pinned": True}
    changed = await row(bob, cursor=cursor)
    assert (changed["muted"], changed["pinned"]) == (True, True)
    assert "muted" not in await row(alice)
    with pytest.raises(NotFound):
        await bob.request(SETTINGS, conversation_id="d:bob:zoe", muted=True)


# ---------------------------------------------------------------- what is sent


async def test_a_reply_is_to_something_that_was_seen(server):
    """Not to what is not there yet, nor to what the sender does not see."""
    alice, bob = await pair(server)
    seq = await say(alice, to="bob")
    reply = await say(bob, conversation_id=AB, reply_to=seq)
    assert (await only(alice, AB, reply))["reply_to"] == seq
    for wrong in (reply + 1, 2**62):
        with pytest.raises(NotFound) as refused:
            await say(bob, conversation_id=AB, reply_to=wrong)
        assert refused.value.field == "reply_to"
    await bob.request(DELETE_CONVERSATION, conversation_id=AB)
    with pytest.raises(NotFound):
        await say(bob, conversation_id=AB, reply_to=seq)


async def test_mentions(server):
    """They come as they were sent; everybody is mentioned by the owner and the admins alone."""
    alice, bob = await pair(server)
    conversation_id = await group(server, alice, bob)
    seq = await say(bob, conversation_id=conversation_id, mentions=["alice"])
    assert (await only(alice, conversation_id, seq))["mentions"] == ["alice"]
    await say(alice, conversation_id=conversation_id, mentions=["@all"])
    with pytest.raises(Forbidden):
        await say(bob, conversation_id=conversation_id, mentions=["@all"])


async def test_a_message_to_oneself(server):
    """It is stored, goes to one's other devices, and is not unread."""
    alice, other = await server.login("alice"), await server.login("alice")
    await say(alice, "note", to="alice")
    assert (await other.push(MESSAGE))["body"] == "note"
    found = await row(other, "d:alice:alice")
    assert (found["unread"], found["peer"], found["last_message"]["body"]) == (0, "alice", "note")


async def test_a_retry_after_a_block_is_a_duplicate(server):
    """What was accepted stays accepted: its sender gets the first answer; a new message does not pass."""
    alice, bob = await pair(server)
    first = await alice.request(SEND, to="bob", client_id="lost", body="hi")
    await bob.request(BLOCK, user_id="alice")
    again = await alice.request(SEND, to="bob", client_id="lost", body="hi")
    assert again == {**first, "duplicate": True}
    for client_id, body in (("lost", "other"), ("new", "hi")):
        with pytest.raises(Forbidden):
            await alice.request(SEND, to="bob", client_id=client_id, body=body)


# ---------------------------------------------------------------- how long it is kept


async def test_an_expired_message_leaves_the_disk(server):
    """Nobody sees it from its time on; then its content is deleted and it is not unread; its place stays."""
    alice, bob = await pair(server)
    short, long = await say(alice, "short", to="bob", expires_in_ms=5000), await say(alice, "long", to="bob")
    await server.clock.advance(4)
    assert (await only(bob, AB, short))["body"] == "short"
    await server.clock.advance(3)
    assert await only(bob, AB, short) is None
    assert [one["seq"] for one in (await bob.request(PULL, conversation_id=AB))["messages"]] == [long]
    assert (await row(bob))["unread"] == 1
    assert await server.rows("SELECT seq FROM messages WHERE body = ?", (b"\xc0",)) == [(short,)]
    for command, fields in ((EDIT, {"body": "x"}), (REACT, {"emoji": "x"}), (RECALL, {})):
        with pytest.raises(NotFound):
            await alice.request(command, conversation_id=AB, seq=short, **fields)
    assert await say(alice, to="bob") == long + 1


async def test_retention_by_kind():
    """Direct messages go when they are too old, those of groups stay."""
    async with running(["group"], {"plugins.message.keep_direct": "7d"}) as server:
        alice, bob = await pair(server)
        conversation_id = await group(server, alice, bob)
        for number in range(450):
            await say(alice, f"m{number}", to="bob")
        kept = await say(alice, "kept", conversation_id=conversation_id)
        await server.clock.advance(3 * DAY_S)
        young = await say(alice, "young", to="bob")
        await server.clock.advance(4 * DAY_S + 700)
        page = await bob.request(PULL, conversation_id=AB)
        assert [message["seq"] for message in page["messages"]] == [young]
        assert (await row(bob))["unread"] == 1
        assert (await only(bob, conversation_id, kept))["body"] == "kept"
        assert await server.rows("SELECT count(*) FROM messages WHERE body = ?", (b"\xc0",)) == [(450,)]


async def test_a_page_of_changes_says_whether_there_is_more(server):
    """Page by page all changes come, each once, and the last page says so."""
    alice, bob = await pair(server)
    for number in range(5):
        await say(alice, f"m{number}", to="bob")
    await alice.request(EDIT, conversation_id=AB, seq=1, body="edited")
    await alice.request(RECALL, conversation_id=AB, seq=3)
    seen, since = [], 0
    while True:
        answer = await bob.request(CHANGES, conversation_id=AB, since_rev=since, limit=2)
        seen += [(message["rev"], message["seq"]) for message in answer["messages"]]
        if not answer["more"]:
            break
        assert answer["last_rev"] == answer["messages"][-1]["rev"]  # a client may go on from either
        since = answer["last_rev"]
    assert seen == [(2, 2), (4, 4), (5, 5), (6, 1), (7, 3)]
    assert answer["last_rev"] == 7


async def test_the_newest_visible_message_is_shown(server):
    """Where the newest one's time is over, SYNC has the one before it."""
    alice, bob = await pair(server)
    kept = await say(alice, "kept", to="bob")
    await say(alice, "short", to="bob", expires_in_ms=100)
    assert (await row(bob))["last_message"]["body"] == "short"
    for seconds in (0.5, 5):
        await server.clock.advance(seconds)
        found = await row(bob)
        assert (found["last_message"]["seq"], found["last_seq"]) == (kept, kept + 1)
    await bob.request(DELETE_CONVERSATION, conversation_id=AB)
    await say(alice, "short", to="bob", expires_in_ms=100)
    await server.clock.advance(1)
    assert (await row(bob))["last_message"] is None  # what was hidden stays so


# ---------------------------------------------------------------- who may be added to a group, and who may write


async def test_who_blocks_somebody_is_not_added_by_them(server):
    """To a new group nor to one that is there; others are, and they may add."""
    alice, bob = await pair(server)
    carol = await server.login("carol")
    await bob.request(BLOCK, user_id="alice")
    made = await alice.request(CREATE_GROUP, name="Tea", members=["bob", "carol"])
    assert made["failed"] == [{"user_id": "bob", "error": "forbidden"}]
    added = await alice.request(ADD_MEMBERS, group_id=made["group_id"], user_ids=["bob"])
    assert added == {"added": [], "failed": [{"user_id": "bob", "error": "forbidden"}]}
    added = await carol.request(ADD_MEMBERS, group_id=made["group_id"], user_ids=["bob"])
    assert added == {"added": ["bob"], "failed": []}


async def test_strangers_are_not_added_where_only_friends_write():
    """As many as one request may name are asked about at once."""
    async with running(["group", "friend"], {"plugins.message.require_friendship": True}) as server:
        alice = await server.login("alice")
        names = [f"user-{number}" for number in range(40)]
        for name in names:
            await server.token(name)
        made = await alice.request(CREATE_GROUP, name="Tea", members=names)
        assert made["failed"] == [{"user_id": name, "error": "forbidden"} for name in names]


async def test_an_admin_who_is_muted_does_not_write(server):
    """Muted by the owner, or before being made one; the mute of all is not for admins."""
    alice, bob = await pair(server)
    conversation_id = await group(server, alice, bob)
    group_id = conversation_id[2:]
    await alice.request(SET_ROLE, group_id=group_id, user_id="bob", role="admin")
    await alice.request(UPDATE_GROUP, group_id=group_id, muted=True)
    await say(bob, conversation_id=conversation_id)
    await alice.request(MUTE_MEMBER, group_id=group_id, user_id="bob", duration_ms=60_000)
    with pytest.raises(Forbidden) as refused:
        await say(bob, conversation_id=conversation_id)
    assert refused.value.error == "muted"
    await server.clock.advance(61)
    await say(bob, conversation_id=conversation_id)


async def test_too_many_members_are_named(server):
    """413 with the field that the request has."""
    alice, _ = await pair(server)
    with pytest.raises(TooLarge) as refused:
        await alice.request(CREATE_GROUP, name="Tea", members=[f"u{number}" for number in range(501)])
    assert refused.value.field == "members"


@pytest.mark.parametrize(("command", "fields"), [(3003, {}), (3004, {}), (4011, {}), (4008, {"group_id": "tea"})])
async def test_a_cursor_that_is_none(server, command, fields):
    """400, not a page of something."""
    alice, _ = await pair(server)
    await alice.request(CREATE_GROUP, name="Tea", group_id="tea")
    with pytest.raises(BadRequest) as refused:
        await alice.request(command, cursor="garbage!", **fields)
    assert refused.value.field == "cursor"


async def test_the_last_page_of_a_search_says_so(server):
    """Also where it is full to the last place."""
    alice, bob = await pair(server)
    for number in range(4):
        await say(alice, f"pear {number}", to="bob")
    for later in (0, 3):  # looked through, then in the index
        await server.clock.advance(later)
        first = await bob.request(SEARCH, query="pear", limit=2)
        second = await bob.request(SEARCH, query="pear", limit=2, cursor=first["next_cursor"])
        assert [message["seq"] for message in first["messages"] + second["messages"]] == [4, 3, 2, 1]
        assert "next_cursor" not in second
