"""Groups over real sockets: what members, strangers and those who have gone get, on one shard and two, and after a kill."""

import itertools

import pytest
from wire import CHANGES, MARK_READ, MESSAGE, PULL, SEND, SYNC

CREATE, GET, UPDATE, DISMISS, ADD, REMOVE, LEAVE, LIST_MEMBERS, SET_ROLE, MUTE, LIST, JOIN, ANSWER = range(4001, 4014)
GROUP = 5008
ENABLED = {"plugins.enabled": '["user", "message", "group", "push"]', "limits.requests_per_second": 0}

_numbers = itertools.count(1)


@pytest.fixture(params=[1, 2])
def server(make_server, request):
    """A server with groups, on one shard and on two."""
    return make_server({**ENABLED, "server.shards": request.param})


def connect(server, count, name="member"):
    """So many new users, each on one connection."""
    return [server.integrated(f"{name}-{next(_numbers)}") for _ in range(count)]


def create(owner, *others, **fields):
    """A group; gives its id. The pushes of that are read."""
    answer = owner.ok(CREATE, name="Tea", members=[other.user for other in others], **fields)
    for client in (owner, *others):
        told(client, "created", answer["group_id"])
        while client.push()["conversation_id"] != answer["conversation_id"]:
            continue
    return answer["group_id"]


def told(client, event, group_id):
    """Wait for a push 5008; those of other events and groups are left out."""
    while True:
        push = client.push(GROUP)
        if (push["event"], push["group_id"]) == (event, group_id):
            return push


def say(client, group_id, body="hi", **fields):
    return client.call(SEND, conversation_id=f"g:{group_id}", client_id=f"c-{next(_numbers)}", body=body, **fields)


def row_of(client, group_id, cursor=None):
    """The group's row in a SYNC, None if it has none; and the next cursor."""
    answer = client.ok(SYNC, limit=500, **({} if cursor is None else {"cursor": cursor}))
    rows = [row for row in answer["conversations"] if row["conversation_id"] == f"g:{group_id}"]
    return (rows[0] if rows else None), answer["next_cursor"]


def test_messages_reach_all_members(server):
    """Pushed to each, in order, found by PULL, and counted as unread until they are read."""
    ann, bob, cyd = connect(server, 3)
    group_id = create(ann, bob, cyd)
    for number in range(3):
        assert say(ann, group_id, f"m{number}")["code"] == 0
    for client in (bob, cyd):
        assert [client.push()["body"] for _ in range(3)] == ["m0", "m1", "m2"]
        row, _ = row_of(client, group_id)
        assert (row["group"], row["unread"], row["last_seq"]) == (group_id, 3, 4)
        assert client.ok(MARK_READ, conversation_id=f"g:{group_id}", seq=3)["unread"] == 1
    assert [message["seq"] for message in bob.ok(PULL, conversation_id=f"g:{group_id}")["messages"]] == [1, 2, 3, 4]
    assert {member["user_id"]: member["role"] for member in cyd.ok(LIST_MEMBERS, group_id=group_id)["members"]} == {
        ann.user: "owner", bob.user: "member", cyd.user: "member"
    }  # fmt: skip


def test_who_comes_later_sees_what_the_group_says(server):
    """From where they came, or all; neither is unread."""
    ann, bob, cyd = connect(server, 3)
    for history, seen in (("joined", ["joined", "after"]), ("all", ["created", "before", "joined", "after"])):
        group_id = create(ann, bob, history=history)
        say(ann, group_id, "before")
        assert ann.ok(ADD, group_id=group_id, user_ids=[cyd.user])["added"] == [cyd.user]
        say(ann, group_id, "after")
        messages = cyd.ok(PULL, conversation_id=f"g:{group_id}")["messages"]
        assert [one["body"]["event"] if one["type"] == "system" else one["body"] for one in messages] == seen
        assert row_of(cyd, group_id)[0]["unread"] == 1


def test_who_has_gone(server):
    """Nothing more is pushed, or answered; SYNC says so once, to devices that knew of the group."""
    ann, bob = connect(server, 2)
    group_id = create(ann, bob)
    row, cursor = row_of(bob, group_id)
    assert row["last_seq"] == 1
    ann.ok(REMOVE, group_id=group_id, user_ids=[bob.user])
    say(ann, group_id, "secret")
    told(bob, "removed", group_id)
    name = f"g:{group_id}"
    for command, fields in ((PULL, {}), (CHANGES, {"since_rev": 0}), (MARK_READ, {"seq": 1})):
        bob.fails(403, command, conversation_id=name, **fields)
    assert say(bob, group_id)["code"] == 403
    assert row_of(bob, group_id)[0] is None
    again, _ = row_of(bob, group_id, cursor)
    assert (again["last_message"], again["unread"]) == (None, 0)
    assert not [frame for frame in bob.drain() if frame[0] == MESSAGE]


def test_a_kick_against_sends(server):
    """Whoever wins: nothing that the kicked one gets or says is behind the place at which they have gone."""
    ann, bob = connect(server, 2)
    group_id = create(ann, bob)
    name = f"g:{group_id}"
    outcomes = set()
    for _ in range(100):
        fields = {"conversation_id": name, "body": "x"}
        first = bob.post(SEND, client_id=f"c-{next(_numbers)}", **fields)
        kick = ann.post(REMOVE, group_id=group_id, user_ids=[bob.user])
        second = bob.post(SEND, client_id=f"c-{next(_numbers)}", **fields)
        own = ann.post(SEND, client_id=f"c-{next(_numbers)}", **fields)
        answers = [bob.answer(first), bob.answer(second)]
        assert ann.answer(kick)["removed"] == [bob.user]
        assert ann.answer(own)["code"] == 0
        messages = ann.pull_all(name)
        removed = max(one["seq"] for one in messages if one["type"] == "system")
        assert all(answer["code"] == 403 or answer["seq"] < removed for answer in answers)
        assert not [one for one in messages if one["from"] == bob.user and one["seq"] > removed]
        assert told(bob, "removed", group_id)["user_ids"] == [bob.user]
        ann.ok(ADD, group_id=group_id, user_ids=[bob.user])
        told(bob, "joined", group_id)
        joined = ann.ok(PULL, conversation_id=name, limit=1)["messages"][0]["seq"]
        seen = []
        while joined not in seen:
            seen.append(bob.push()["seq"])
        assert not [seq for seq in seen if removed <= seq < joined], (seen, removed, joined)
        outcomes.add(tuple(answer["code"] for answer in answers))
    assert outcomes <= {(0, 0), (0, 403), (403, 403)}


def test_groups_survive_a_kill(make_server):
    """Members, roles and mutes are there again, and the order goes on."""
    server = make_server(ENABLED)
    ann, bob, cyd = connect(server, 3)
    group_id = create(ann, bob, cyd)
    ann.ok(SET_ROLE, group_id=group_id, user_id=bob.user, role="admin")
    bob.ok(MUTE, group_id=group_id, user_id=cyd.user, duration_ms=3_600_000)
    ann.ok(REMOVE, group_id=group_id, user_ids=[])
    last = say(ann, group_id)["seq"]
    server.kill()
    server.start()
    ann, bob, cyd = (server.again(client) for client in (ann, bob, cyd))
    assert say(bob, group_id)["seq"] == last + 1
    answer = say(cyd, group_id)
    assert (answer["code"], answer["error"]) == (403, "muted")
    assert ann.ok(GET, group_id=group_id)["group"]["role"] == "owner"
    assert [group["group_id"] for group in cyd.ok(LIST)["groups"]] == [group_id]
