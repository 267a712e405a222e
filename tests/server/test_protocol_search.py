"""SEARCH of a real server, over one shard and two, and over a restart."""

import pytest
from wire import JSON, direct

SEARCH = 2009


def bodies(client, query, **fields):
    """What one page of a search finds."""
    return [message["body"] for message in client.ok(SEARCH, query=query, **fields)["messages"]]


def test_what_was_just_sent_is_found(sharded_server):
    """By both sides, in either encoding, as the very message that was pushed; by nobody else."""
    alice, bob, carl = sharded_server.login(), sharded_server.login(), sharded_server.login()
    alice.text(bob.user, "Hello, 世界您好!", "c1")
    alice.text(carl.user, "hello carl", "c2")
    pushed = bob.push()
    assert bob.ok(SEARCH, query="hello")["messages"] == [pushed]
    for query in ("您好", "世", '"hello"', "界您 HELLO"):
        assert bodies(sharded_server.again(bob, flags=JSON), query) == ["Hello, 世界您好!"]
    assert bodies(alice, "hello") == ["hello carl", "Hello, 世界您好!"]
    assert bodies(alice, "hello", conversation_id=direct(alice.user, carl.user)) == ["hello carl"]
    assert bodies(alice, "hello", **{"from": bob.user}) == []
    assert bodies(carl, "您好") == []


def test_it_is_found_after_a_restart(make_server):
    """Whether the index had come that far or not; page by page."""
    server = make_server()
    alice, bob = server.login(), server.login()
    name, peer = alice.user, bob.user
    for number in range(30):
        alice.text(peer, f"word {number}", f"c{number}")
    server.restart()
    bob = server.login(peer)
    found, cursor = [], {}
    while cursor is not None:
        page = bob.ok(SEARCH, query="word", limit=7, **cursor)
        found += [message["seq"] for message in page["messages"]]
        cursor = {"cursor": page["next_cursor"]} if "next_cursor" in page else None
    assert found == list(range(30, 0, -1))
    assert bodies(bob, "word", **{"from": name}, limit=1) == ["word 29"]


def test_a_message_is_found_as_pull_has_it(server):
    """With its reply, mentions, end, edit and reactions; also what was never changed."""
    alice, bob = server.login(), server.login()
    conversation = direct(alice.user, bob.user)
    alice.text(bob.user, "word one", "c1")
    alice.ok(2001, to=bob.user, client_id="c2", body="word two", reply_to=1, mentions=[bob.user], expires_in_ms=3_600_000)
    alice.ok(2001, to=bob.user, client_id="c3", type="file", body={"name": "word.pdf", "n": [1, None, b"x"]})
    bob.ok(2007, conversation_id=conversation, seq=2, emoji="👍")
    alice.ok(2006, conversation_id=conversation, seq=2, body="word two again")
    pulled = bob.ok(2002, conversation_id=conversation)["messages"]
    assert {"reply_to", "mentions", "expires_at", "edited_at", "reactions"} < pulled[1].keys()
    assert bob.ok(SEARCH, query="word")["messages"] == pulled[::-1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("query", ""), ("query", "x" * 257), ("query", 1), ("cursor", "zz"), ("limit", 0), ("limit", 501), ("since", -1),
     ("until", "now"), ("conversation_id", ""), ("from", "not an id")],
)  # fmt: skip
def test_fields_are_checked(server, field, value):
    """400, and the field by its name on the wire."""
    alice = server.login()
    answer = alice.fails(400, SEARCH, **{"query": "a", field: value})
    assert answer["field"] == field
