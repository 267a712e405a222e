"""Message commands and what happens meanwhile (removals, changed roles), retries of those who have gone, pages by size."""

from functools import partial

import pytest
import trio
from test_message_commands import (
    ADD_MEMBERS,
    CHANGES,
    EDIT,
    MESSAGE,
    PULL,
    RECALL,
    REMOVE_MEMBERS,
    SEND,
    SET_ROLE,
    SYNC,
    group,
    only,
    say,
)

from imserver.client import BadRequest, Forbidden, NotFound, Unavailable
from imserver.storage.deliveries import DeliveryStore
from imserver.storage.messages import MessageStore
from imserver.storage.rows import PAGE_BYTES
from imserver.testing import running
from imserver_plugins.message import changing

UPDATE_GROUP, DISMISS_GROUP = 4003, 4004


@pytest.fixture
async def server():
    """A server with groups."""
    async with running(["group"]) as made:
        yield made


@pytest.fixture
async def meanwhile():
    """Lets code of the server's, which has a loop of its own, wait until the test's clients have done something."""
    test = trio.lowlevel.current_trio_token()

    async def wait_for(act):
        server, done, failures = trio.lowlevel.current_trio_token(), trio.Event(), []

        async def run():
            try:
                await act()
            except Exception as exc:
                failures.append(exc)
            finally:
                server.run_sync_soon(done.set)

        test.run_sync_soon(trio.lowlevel.spawn_system_task, run)
        await done.wait()
        assert not failures, failures

    return wait_for


@pytest.mark.parametrize(
    ("command", "method", "fields"), [(PULL, "history", {}), (CHANGES, "changes", {"since_rev": 0})], ids=["pull", "changes"]
)
async def test_who_is_removed_while_they_read_gets_nothing(server, meanwhile, monkeypatch, command, method, fields):
    """What was said behind a removal is in no page, also where the page was asked for before it."""
    alice, bob = await server.login("alice"), await server.login("bob")
    tea = await group(server, alice, bob)
    await say(alice, "for all", tea)
    real = getattr(MessageStore, method)

    async def act():
        await alice.request(REMOVE_MEMBERS, group_id=tea[2:], user_ids=["bob"])
        await say(alice, "not for Bob", tea)

    async def late(*args, **options):
        monkeypatch.setattr(MessageStore, method, real)
        await meanwhile(act)
        return await real(*args, **options)

    monkeypatch.setattr(MessageStore, method, late)
    with pytest.raises(Forbidden):
        await bob.request(command, conversation_id=tea, **fields)


@pytest.mark.parametrize(
    ("command", "method", "fields"), [(PULL, "history", {}), (CHANGES, "changes", {"since_rev": 0})], ids=["pull", "changes"]
)
async def test_who_comes_back_while_they_read_sees_what_came_since(server, meanwhile, monkeypatch, command, method, fields):
    """A page that was asked for before a removal has nothing of the time between that and coming back."""
    alice, bob = await server.login("alice"), await server.login("bob")
    tea = await group(server, alice, bob)
    real = getattr(MessageStore, method)

    async def act():
        await alice.request(REMOVE_MEMBERS, group_id=tea[2:], user_ids=["bob"])
        await say(alice, "not for Bob", tea)
        await alice.request(ADD_MEMBERS, group_id=tea[2:], user_ids=["bob"])
        await say(alice, "for Bob", tea)

    async def late(*args, **options):
        monkeypatch.setattr(MessageStore, method, real)
        await meanwhile(act)
        return await real(*args, **options)

    monkeypatch.setattr(MessageStore, method, late)
    messages = (await bob.request(command, conversation_id=tea, **fields))["messages"]
    assert [message["body"] for message in messages if message["type"] == "text"] == ["for Bob"]


@pytest.mark.parametrize(
    ("command", "method", "fields"), [(PULL, "history", {}), (CHANGES, "changes", {"since_rev": 0})], ids=["pull", "changes"]
)
async def test_a_page_is_no_older_than_what_was_pushed(server, meanwhile, monkeypatch, command, method, fields):
    """An edit that comes between the read and the answer is in the answer: its push went out before."""
    alice, bob = await server.login("alice"), await server.login("bob")
    await say(alice, "first", to="bob")
    real = getattr(MessageStore, method)

    async def slow(*args, **options):
        monkeypatch.setattr(MessageStore, method, real)
        found = await real(*args, **options)
        await meanwhile(partial(alice.request, EDIT, conversation_id="d:alice:bob", seq=1, body="second"))
        return found

    monkeypatch.setattr(MessageStore, method, slow)
    messages = (await bob.request(command, conversation_id="d:alice:bob", **fields))["messages"]
    assert [message["body"] for message in messages] == ["second"]


async def test_what_a_device_missed_is_no_older_than_what_was_pushed(server, meanwhile, monkeypatch):
    """A device that catches up gets a message in its newest state, or its change behind it."""
    alice, other = await server.login("alice"), await server.login("bob")
    await say(alice, "first", to="bob")
    other.close()
    real = DeliveryStore.messages_after

    async def slow(*args):
        monkeypatch.setattr(DeliveryStore, "messages_after", real)
        found = await real(*args)
        await meanwhile(partial(alice.request, EDIT, conversation_id="d:alice:bob", seq=1, body="second"))
        return found

    monkeypatch.setattr(DeliveryStore, "messages_after", slow)
    bob = await server.login("bob", deliver="missed")
    assert (await bob.push(MESSAGE))["body"] == "second"


async def test_what_a_device_missed_ends_with_the_membership(server, meanwhile, monkeypatch):
    """A device that catches up is pushed nothing from behind its user's removal."""
    alice, other = await server.login("alice"), await server.login("bob")
    tea = await group(server, alice)
    await alice.request(ADD_MEMBERS, group_id=tea[2:], user_ids=["bob"])
    await say(alice, "for all", tea)
    other.close()
    real = DeliveryStore.messages_after
    pages = []

    async def act():
        await alice.request(REMOVE_MEMBERS, group_id=tea[2:], user_ids=["bob"])
        await say(alice, "not for Bob", tea)

    async def late(*args):
        if not pages:
            await meanwhile(act)
        pages.append(await real(*args))
        return pages[-1]

    monkeypatch.setattr(DeliveryStore, "messages_after", late)
    bob = await server.login("bob", device_id="phone", deliver="missed")
    await server.settle()
    await say(alice, "hello", to="bob")
    assert (await bob.push(MESSAGE))["body"] == "hello"
    assert pages[0] == []


async def test_who_is_an_admin_no_more_recalls_nothing(server, meanwhile, monkeypatch):
    """The role counts that one has at the recall's place in the order, not at the look before it."""
    alice, bob = await server.login("alice"), await server.login("bob")
    tea = await group(server, alice, bob)
    await alice.request(SET_ROLE, group_id=tea[2:], user_id="bob", role="admin")
    seq = await say(alice, "stays", tea)
    real = changing._moderates
    looks = []

    async def late(*args):
        looks.append(await real(*args))
        if len(looks) == 1:
            await meanwhile(partial(alice.request, SET_ROLE, group_id=tea[2:], user_id="bob", role="member"))
        return looks[-1]

    monkeypatch.setattr(changing, "_moderates", late)
    with pytest.raises(Forbidden):
        await bob.request(RECALL, conversation_id=tea, seq=seq)
    assert looks == [True, False]
    assert (await only(alice, tea, seq))["body"] == "stays"


async def test_roles_that_change_for_ever_end_a_recall(server, meanwhile, monkeypatch):
    """A group whose roles change under every look costs a 503, not a request that never ends."""
    alice, bob = await server.login("alice"), await server.login("bob")
    tea = await group(server, alice, bob)
    seq = await say(bob, "hi", tea)
    real = changing._moderates
    looks = []

    async def late(*args):
        looks.append(await real(*args))
        await meanwhile(partial(alice.request, UPDATE_GROUP, group_id=tea[2:], name=f"Tea {len(looks)}"))
        return looks[-1]

    monkeypatch.setattr(changing, "_moderates", late)
    with pytest.raises(Unavailable):
        await alice.request(RECALL, conversation_id=tea, seq=seq)
    assert len(looks) == changing._MAX_LOOKS


@pytest.mark.parametrize("ended", ["removed", "dismissed", "back"])
async def test_a_retry_of_one_who_has_gone_is_a_duplicate(server, ended):
    """A message that was accepted stays accepted: who asks again, as the answer was lost, is told its place."""
    alice, bob = await server.login("alice"), await server.login("bob")
    tea = await group(server, alice, bob)
    first = await say(alice, "?", tea)
    fields = {"conversation_id": tea, "client_id": "once", "body": "yes", "reply_to": first}
    sent = await bob.request(SEND, **fields)
    if ended == "dismissed":
        await alice.request(DISMISS_GROUP, group_id=tea[2:])
    else:
        await alice.request(REMOVE_MEMBERS, group_id=tea[2:], user_ids=["bob"])
    if ended == "back":
        await alice.request(ADD_MEMBERS, group_id=tea[2:], user_ids=["bob"])
    again = await bob.request(SEND, **fields)
    assert again.pop("duplicate") is True
    assert {name: again[name] for name in ("seq", "message_id")} == {name: sent[name] for name in ("seq", "message_id")}
    for other in ({"body": "no"}, {"client_id": "twice"}, {"store": False}):
        with pytest.raises(NotFound if ended == "back" else Forbidden):
            await bob.request(SEND, **{**fields, **other})


@pytest.mark.parametrize("name", ["typing", "reaction"])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_message_has_no_name_that_hooks_let_pass(server, name, stored):
    """A message whose type says that it is none would go past those who ask before a message is accepted."""
    alice = await server.login("alice")
    await server.login("bob")
    with pytest.raises(BadRequest) as refused:
        await alice.request(SEND, to="bob", client_id="c", body="evil", type=name, store=stored)
    assert refused.value.field == "type"


async def test_pages_count_all_that_a_message_says(server):
    """Mentions and reactions fill a page as bodies do; nothing is lost between pages."""
    alice = await server.login("alice")
    await server.login("bob")
    names = [f"{number:03}-{'x' * 60}" for number in range(500)]
    for _ in range(40):
        seq = await say(alice, "", to="bob", mentions=names)
    for command, fields in ((PULL, {"after_seq": 0}), (CHANGES, {"since_rev": 0})):
        seen = []
        while len(seen) < seq:
            page = (await alice.request(command, conversation_id="d:alice:bob", limit=500, **fields))["messages"]
            assert sum(len("".join(message["mentions"])) for message in page) <= PAGE_BYTES
            seen += [message["seq"] for message in page]
            fields = {name: seen[-1] for name in fields}
        assert seen == list(range(1, 41))


async def test_a_page_of_conversations_is_bounded_by_bytes(server):
    """Each conversation's newest message may be large: SYNC has them in several pages, each once."""
    alice = await server.login("alice")
    others = [f"u{number}" for number in range(6)]
    for other in others:
        await server.login(other)
        await say(alice, "x" * (PAGE_BYTES // 2 - 100), to=other)
    cursor, seen, pages = "", [], []
    more = True
    while more:
        answer = await alice.request(SYNC, cursor=cursor, limit=500)
        pages.append(len(answer["conversations"]))
        seen += [row["peer"] for row in answer["conversations"]]
        cursor, more = answer["next_cursor"], answer["more"]
    assert (seen, pages) == (others, [2, 2, 2])
    await say(alice, "x" * (PAGE_BYTES - 5000), to="u0")
    (row,) = (await alice.request(SYNC, cursor=cursor))["conversations"]
    assert row["peer"] == "u0"
