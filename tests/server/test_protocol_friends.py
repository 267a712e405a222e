"""Friends and blocks over real sockets: every command of 3001–3009, every push 5007, and what they do to SEND."""

import itertools

import pytest
from process import ServerFailed
from wire import GET_USER, MESSAGE, SEND, SEND_BATCH, SYNC, direct

FRIEND_REQUEST, FRIEND_ANSWER, LIST_FRIENDS, LIST_FRIEND_REQUESTS, DELETE_FRIEND = 3001, 3002, 3003, 3004, 3005
BLOCK, UNBLOCK, LIST_BLOCKED, SET_REMARK = 3006, 3007, 3008, 3009
TYPING, TYPING_PUSH, FRIEND = 2008, 5005, 5007
MARK_READ, RECEIPTS, READ = 2004, 2012, 5004
GET_PRESENCE, WATCH_PRESENCE, PRESENCE = 1012, 1013, 5006

_numbers = itertools.count(1)


def connect(server, count=2, name="friend"):
    """So many new users, each on one connection."""
    return [server.integrated(f"{name}-{next(_numbers)}") for _ in range(count)]


def befriend(alice, bob):
    """The two become friends; the pushes of that are read."""
    request_id = alice.ok(FRIEND_REQUEST, user_id=bob.user)["request_id"]
    bob.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
    assert alice.push(FRIEND)["event"] == "accepted"
    assert bob.push(FRIEND)["event"] == "requested"
    return request_id


def friends_of(client, **fields):
    """LIST_FRIENDS as {user_id: entry}."""
    return {friend["user_id"]: friend for friend in client.ok(LIST_FRIENDS, **fields)["friends"]}


def requests_of(client, **fields):
    return client.ok(LIST_FRIEND_REQUESTS, **fields)["requests"]


def all_pages(client, command, key, limit):
    """All entries of a list, page by page; each page but the last is full."""
    entries, cursor = [], None
    while True:
        page = client.ok(command, limit=limit, **({} if cursor is None else {"cursor": cursor}))
        entries += page[key]
        cursor = page.get("next_cursor")
        if cursor is None:
            assert len(page[key]) <= limit
            return entries
        assert len(page[key]) == limit


def says(client, to, code=0, error=None, **fields):
    """SEND a text and check how it was answered."""
    answer = client.call(SEND, to=to.user, client_id=f"c-{next(_numbers)}", body="hello", **fields)
    assert (answer["code"], answer.get("error")) == (code, error), answer
    return answer


# ---------------------------------------------------------------- requests


def test_request_and_acceptance(sharded_server):
    """A request reaches all devices of the other, an acceptance all of the requester's, and both lists have the friend."""
    alice, bob = connect(sharded_server)
    alice2, bob2 = sharded_server.again(alice), sharded_server.again(bob)
    request_id = alice.ok(FRIEND_REQUEST, user_id=bob.user, message="it's me")["request_id"]
    asked = {"event": "requested", "user_id": alice.user, "request_id": request_id, "message": "it's me"}
    assert bob.push(FRIEND) == bob2.push(FRIEND) == asked
    (incoming,) = requests_of(bob)
    (outgoing,) = requests_of(alice, direction="out")
    assert incoming.pop("user_id") == alice.user
    assert outgoing.pop("user_id") == bob.user
    assert (incoming.pop("nickname"), outgoing.pop("nickname")) == (alice.user, bob.user)
    assert incoming == outgoing
    created_at = incoming.pop("created_at")
    assert incoming == {"request_id": request_id, "message": "it's me", "state": "pending"}
    assert requests_of(alice) == requests_of(bob, direction="out") == []

    bob.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
    accepted = {"event": "accepted", "user_id": bob.user, "request_id": request_id}
    assert alice.push(FRIEND) == alice2.push(FRIEND) == accepted
    assert bob2.push(FRIEND) == accepted | {"user_id": alice.user, "by": bob.user}
    assert requests_of(bob) == requests_of(alice, direction="out") == []  # it waits no more
    (entry,) = requests_of(alice, direction="out", state="accepted")
    assert (entry["state"], entry["answered_at"] >= created_at) == ("accepted", True)
    friends = friends_of(alice)
    since = friends[bob.user].pop("since")
    assert since == entry["answered_at"]
    assert friends == {bob.user: {"user_id": bob.user, "nickname": bob.user, "online": True}}
    assert friends_of(bob)[alice.user]["since"] == since
    assert [frame.command for frame in bob.drain(0.1)] == []


def test_decline(sharded_server):
    """A declined request makes no friends, is told as such, and may be made again."""
    alice, bob = connect(sharded_server)
    first = alice.ok(FRIEND_REQUEST, user_id=bob.user)["request_id"]
    bob.ok(FRIEND_ANSWER, request_id=first, accept=False)
    assert alice.push(FRIEND) == {"event": "declined", "user_id": bob.user, "request_id": first}
    assert bob.push(FRIEND) == {"event": "requested", "user_id": alice.user, "request_id": first}
    assert friends_of(alice) == friends_of(bob) == {}
    assert [entry["state"] for entry in requests_of(alice, direction="out", state="all")] == ["declined"]
    second = alice.ok(FRIEND_REQUEST, user_id=bob.user)["request_id"]
    assert second != first
    assert bob.push(FRIEND)["request_id"] == second
    bob.fails(404, FRIEND_ANSWER, request_id=first, accept=True)
    assert [entry["state"] for entry in requests_of(bob)] == ["pending"]


def test_repeated_request(sharded_server):
    """The same request again has the same answer and tells nobody."""
    alice, bob = connect(sharded_server)
    answers = {alice.ok(FRIEND_REQUEST, user_id=bob.user, message=text)["request_id"] for text in ("a", "b")}
    assert len(answers) == 1
    assert [frame.body["message"] for frame in bob.drain(0.2)] == ["a"]
    assert [entry["message"] for entry in requests_of(bob)] == ["a"]


def test_repeated_answer(sharded_server):
    """The same answer again is a success and tells nobody; the contrary is 409."""
    alice, bob = connect(sharded_server)
    request_id = befriend(alice, bob)
    bob.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
    assert bob.fails(409, FRIEND_ANSWER, request_id=request_id, accept=False)["error"] == "conflict"
    assert alice.drain(0.2) == []
    assert list(friends_of(alice)) == [bob.user]


def test_crossing_requests(sharded_server):
    """Who asks somebody by whom they were asked has a friend at once, and all devices of both know."""
    alice, bob = connect(sharded_server)
    alice2 = sharded_server.again(alice)
    request_id = alice.ok(FRIEND_REQUEST, user_id=bob.user)["request_id"]
    bob.push(FRIEND)
    assert bob.ok(FRIEND_REQUEST, user_id=alice.user)["request_id"] == request_id
    accepted = {"event": "accepted", "user_id": bob.user, "request_id": request_id}
    assert alice.push(FRIEND) == alice2.push(FRIEND) == accepted
    assert bob.push(FRIEND) == accepted | {"user_id": alice.user, "by": bob.user}
    assert list(friends_of(alice)) == [bob.user]
    assert list(friends_of(bob)) == [alice.user]
    assert bob.fails(409, FRIEND_REQUEST, user_id=alice.user)["error"] == "already_friends"
    assert requests_of(bob, state="pending") == requests_of(alice, direction="out", state="pending") == []


def test_requests_that_cross_at_the_same_moment(sharded_server):
    """Whichever comes first, both are friends in the end, and exactly one request was accepted."""
    clients = connect(sharded_server, 12)
    for alice, bob in itertools.pairwise(clients):
        rids = [(alice, alice.post(FRIEND_REQUEST, user_id=bob.user)), (bob, bob.post(FRIEND_REQUEST, user_id=alice.user))]
        answers = [client.answer(rid) for client, rid in rids]
        assert [answer["code"] for answer in answers] == [0, 0]
        assert answers[0]["request_id"] == answers[1]["request_id"]
        assert bob.user in friends_of(alice)
        assert alice.user in friends_of(bob)


def test_refused_requests(sharded_server):
    """Oneself, nobody, and somebody who is a friend already."""
    alice, bob = connect(sharded_server)
    for command in (FRIEND_REQUEST, BLOCK):
        assert alice.fails(400, command, user_id=alice.user)["field"] == "user_id"
        assert alice.fails(404, command, user_id="nobody-here")["field"] == "user_id"
    befriend(alice, bob)
    for client, other in ((alice, bob), (bob, alice)):
        assert client.fails(409, FRIEND_REQUEST, user_id=other.user)["error"] == "already_friends"


def test_answers_to_what_is_not_ones_own(sharded_server):
    """Only the one who was asked can answer."""
    alice, bob, carol = connect(sharded_server, 3)
    request_id = alice.ok(FRIEND_REQUEST, user_id=bob.user)["request_id"]
    for client in (alice, carol):
        assert client.fails(404, FRIEND_ANSWER, request_id=request_id, accept=True)["field"] == "request_id"
    bob.fails(404, FRIEND_ANSWER, request_id="0" * 28, accept=True)
    assert friends_of(bob) == {}


@pytest.mark.parametrize(
    ("command", "fields", "field"),
    [
        (FRIEND_REQUEST, {}, "user_id"),
        (FRIEND_REQUEST, {"user_id": "a b"}, "user_id"),
        (FRIEND_REQUEST, {"user_id": "bob", "message": "x" * 501}, "message"),
        (FRIEND_ANSWER, {"request_id": "x"}, "accept"),
        (FRIEND_ANSWER, {"request_id": "x" * 65, "accept": True}, "request_id"),
        (LIST_FRIENDS, {"limit": 501}, "limit"),
        (LIST_FRIENDS, {"cursor": "x" * 65}, "cursor"),
        (LIST_FRIEND_REQUESTS, {"direction": "up"}, "direction"),
        (LIST_FRIEND_REQUESTS, {"state": "odd"}, "state"),
        (DELETE_FRIEND, {}, "user_id"),
        (BLOCK, {}, "user_id"),
        (UNBLOCK, {"user_id": ""}, "user_id"),
        (LIST_BLOCKED, {"limit": 0}, "limit"),
        (SET_REMARK, {"user_id": "bob"}, "remark"),
        (SET_REMARK, {"user_id": "bob", "remark": "x" * 65}, "remark"),
    ],
)
def test_bounds_of_the_fields(server, command, fields, field):
    """What is missing, or beyond its bound, is 400 and named."""
    (alice,) = connect(server, 1)
    assert alice.fails(400, command, **fields)["field"] == field


@pytest.mark.parametrize("command", range(FRIEND_REQUEST, SET_REMARK + 1))
def test_nobody_has_no_friends(server, command):
    """Before login all of it is 401."""
    with server.client() as client:
        client.fails(401, command)


# ---------------------------------------------------------------- friends


def test_delete_friend(sharded_server):
    """A friendship ends on both sides, remarks and all, and both sides' devices know."""
    alice, bob = connect(sharded_server)
    befriend(alice, bob)
    alice2 = sharded_server.again(alice)
    alice.ok(SET_REMARK, user_id=bob.user, remark="Bobby")
    alice.ok(DELETE_FRIEND, user_id=bob.user)
    assert bob.push(FRIEND) == {"event": "deleted", "user_id": alice.user}
    assert alice2.push(FRIEND) == {"event": "deleted", "user_id": bob.user, "by": alice.user}
    assert alice.drain(0.1) == []
    assert friends_of(alice) == friends_of(bob) == {}
    assert requests_of(bob) == requests_of(alice, direction="out") == []
    for client, other in ((alice, bob), (bob, alice)):
        assert client.fails(404, DELETE_FRIEND, user_id=other.user)["field"] == "user_id"
    befriend(bob, alice)
    assert "remark" not in friends_of(alice)[bob.user]


def test_remarks(sharded_server):
    """A remark is one's own alone; empty or null takes it away; there is none of strangers."""
    alice, bob, carol = connect(sharded_server, 3)
    befriend(alice, bob)
    alice.ok(SET_REMARK, user_id=bob.user, remark="鲍勃")
    assert friends_of(alice)[bob.user]["remark"] == "鲍勃"
    assert "remark" not in friends_of(bob)[alice.user]
    for nothing in ("", None):
        alice.ok(SET_REMARK, user_id=bob.user, remark="x")
        alice.ok(SET_REMARK, user_id=bob.user, remark=nothing)
        assert "remark" not in friends_of(alice)[bob.user]
    alice.fails(404, SET_REMARK, user_id=carol.user, remark="x")
    bob.close()
    assert friends_of(alice)[bob.user]["nickname"] == bob.user


def test_friends_are_online_while_they_are_connected(sharded_server):
    """`online` follows the connections; who blocks the asker is shown as offline."""
    alice, bob = connect(sharded_server)
    befriend(alice, bob)
    assert friends_of(alice)[bob.user]["online"] is True
    bob.ok(BLOCK, user_id=alice.user)
    assert friends_of(alice)[bob.user]["online"] is False
    assert friends_of(bob)[alice.user]["online"] is True


def test_pages(sharded_server):
    """All three lists come page by page, each entry once, in order."""
    alice, *others = connect(sharded_server, 8)
    names = sorted(other.user for other in others)
    for other in others:
        other.ok(FRIEND_REQUEST, user_id=alice.user)
        alice.ok(BLOCK, user_id=other.user)
    for limit in (1, 3, 7):
        assert [user["user_id"] for user in all_pages(alice, LIST_BLOCKED, "users", limit)] == names
    assert requests_of(alice) == []
    for other in others:
        alice.ok(UNBLOCK, user_id=other.user)
    for limit in (1, 3, 7):
        found = all_pages(alice, LIST_FRIEND_REQUESTS, "requests", limit)
        assert [entry["user_id"] for entry in found] == [other.user for other in reversed(others)]
    for entry in found:
        alice.ok(FRIEND_ANSWER, request_id=entry["request_id"], accept=True)
    for limit in (1, 3, 7):
        assert [friend["user_id"] for friend in all_pages(alice, LIST_FRIENDS, "friends", limit)] == names
    assert "next_cursor" not in alice.ok(LIST_FRIENDS)


# ---------------------------------------------------------------- blocks


def test_block(sharded_server):
    """The blocked one's messages are refused, stored or not, alone or in a batch; the blocker's own are not."""
    alice, bob, carol = connect(sharded_server, 3)
    says(bob, alice)
    assert alice.push()["body"] == "hello"
    alice.ok(BLOCK, user_id=bob.user)
    alice.ok(BLOCK, user_id=bob.user)
    says(bob, alice, 403, "blocked")
    says(bob, alice, 403, "blocked", store=False)
    batch = [{"to": to.user, "client_id": f"b-{to.user}", "body": "x"} for to in (alice, carol)]
    results = bob.ok(SEND_BATCH, messages=batch)["results"]
    assert [(result["code"], result.get("error")) for result in results] == [(403, "blocked"), (0, None)]
    assert carol.push()["body"] == "x"
    says(alice, bob)
    assert bob.push()["from"] == alice.user
    says(carol, alice)
    assert alice.push()["from"] == carol.user
    assert alice.drain(0.2) == []
    (entry,) = alice.ok(LIST_BLOCKED)["users"]
    assert entry.pop("since") > 1_600_000_000_000
    assert entry == alice.ok(GET_USER, user_ids=[bob.user])["users"][0]
    assert bob.ok(LIST_BLOCKED)["users"] == []

    alice.ok(UNBLOCK, user_id=bob.user)
    alice.ok(UNBLOCK, user_id=bob.user)
    says(bob, alice)
    assert alice.push()["from"] == bob.user
    assert alice.ok(LIST_BLOCKED)["users"] == []


def test_block_before_the_first_message(sharded_server):
    """A conversation that has not begun does not begin with a refused message."""
    alice, bob = connect(sharded_server)
    alice.ok(BLOCK, user_id=bob.user)
    says(bob, alice, 403, "blocked")
    assert alice.ok(SYNC)["conversations"] == bob.ok(SYNC)["conversations"] == []


def test_block_and_typing(sharded_server):
    """That the blocked one types is not told, nor that the blocker does."""
    alice, bob = connect(sharded_server)
    says(bob, alice)
    alice.push()
    alice.ok(BLOCK, user_id=bob.user)
    assert bob.fails(403, TYPING, to=alice.user)["error"] == "blocked"
    alice.ok(TYPING, to=bob.user)
    assert bob.drain(0.2) == []
    assert alice.drain(0.2) == []


def presence_of(client, name):
    """What GET_PRESENCE and WATCH_PRESENCE say of a user, who is watched from then on."""
    (asked,) = client.ok(GET_PRESENCE, user_ids=[name])["presence"]
    (watched,) = client.ok(WATCH_PRESENCE, user_ids=[name])["presence"]
    return asked, watched


def pushes_of(client, command):
    return [frame.body for frame in client.drain(0.2) if frame.command == command]


def test_who_is_blocked_does_not_see_the_blocker_come_and_go(sharded_server):
    """Who watches sees the blocker go before BLOCK is answered, then nothing, and sees the blocker come at UNBLOCK."""
    alice, bob, carl = connect(sharded_server, 3)
    watchers = [bob, *(sharded_server.again(bob) for _ in range(3)), carl]
    online = {"user_id": alice.user, "online": True, "platforms": []}
    offline = {"user_id": alice.user, "online": False, "platforms": []}
    for watcher in watchers:
        assert presence_of(watcher, alice.user) == (online, online)

    alice.ok(BLOCK, user_id=bob.user)
    for device in watchers[:-1]:
        assert device.push(PRESENCE) == offline
    late = sharded_server.again(bob)
    for device in (bob, late):
        assert presence_of(device, alice.user) == (offline, offline)
    assert presence_of(alice, bob.user)[0]["online"]

    name = alice.user
    alice.close()
    assert carl.push(PRESENCE)["online"] is False
    alice = sharded_server.integrated(name, platform="ios")
    assert carl.push(PRESENCE) == {**online, "platforms": ["ios"]}
    for device in (*watchers[:-1], late):
        assert pushes_of(device, PRESENCE) == []

    alice.ok(UNBLOCK, user_id=bob.user)
    for device in (*watchers[:-1], late):
        assert device.push(PRESENCE) == {**online, "platforms": ["ios"]}
        assert presence_of(device, name)[0]["online"]
    assert pushes_of(carl, PRESENCE) == []


def test_who_is_blocked_does_not_see_the_blocker_read_and_type(sharded_server):
    """Neither 5004 nor 5005, nor a name in RECEIPTS, until UNBLOCK; the blocker's own devices are told as ever."""
    alice, bob = connect(sharded_server)
    own = sharded_server.again(alice)
    conversation_id = direct(alice.user, bob.user)
    for _ in range(3):
        says(bob, alice)
    alice.ok(MARK_READ, conversation_id=conversation_id, seq=1)
    alice.ok(TYPING, to=bob.user)
    assert [bob.push(READ)["seq"], bob.push(TYPING_PUSH)["on"]] == [1, True]

    alice.ok(BLOCK, user_id=bob.user)
    alice.ok(MARK_READ, conversation_id=conversation_id, seq=2)
    alice.ok(TYPING, to=bob.user, on=False)
    assert [frame.command for frame in bob.drain(0.2)] == []
    assert [own.push(READ)["seq"] for _ in range(2)] == [1, 2]
    receipts = {"conversation_id": conversation_id, "seq": 2}
    hidden = bob.ok(RECEIPTS, **receipts)
    assert (hidden["read"], hidden["read_count"], hidden["unread_count"]) == ([], 0, 1)

    alice.ok(UNBLOCK, user_id=bob.user)
    assert bob.ok(RECEIPTS, **receipts)["read"] == [alice.user]
    alice.ok(MARK_READ, conversation_id=conversation_id, seq=3)
    assert bob.push(READ)["seq"] == 3


def test_request_of_a_blocked_user(sharded_server):
    """It is answered like any other, but nobody hears of it until the block ends."""
    alice, bob = connect(sharded_server)
    alice.ok(BLOCK, user_id=bob.user)
    request_id = bob.ok(FRIEND_REQUEST, user_id=alice.user)["request_id"]
    assert bob.ok(FRIEND_REQUEST, user_id=alice.user)["request_id"] == request_id
    assert [entry["state"] for entry in requests_of(bob, direction="out")] == ["pending"]
    assert alice.drain(0.2) == []
    assert requests_of(alice) == []
    alice.fails(404, FRIEND_ANSWER, request_id=request_id, accept=True)
    assert alice.fails(409, FRIEND_REQUEST, user_id=bob.user)["error"] == "conflict"
    assert friends_of(alice) == {}
    alice.ok(UNBLOCK, user_id=bob.user)
    assert [entry["request_id"] for entry in requests_of(alice)] == [request_id]
    alice.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
    assert list(friends_of(alice)) == [bob.user]


def test_block_takes_ones_own_request_back(sharded_server):
    """Who blocks somebody wants nothing of them; a friendship stays."""
    alice, bob, carol = connect(sharded_server, 3)
    request_id = alice.ok(FRIEND_REQUEST, user_id=bob.user)["request_id"]
    alice.ok(BLOCK, user_id=bob.user)
    assert requests_of(alice, direction="out") == requests_of(bob) == []
    bob.fails(404, FRIEND_ANSWER, request_id=request_id, accept=True)
    befriend(alice, carol)
    alice.ok(BLOCK, user_id=carol.user)
    assert list(friends_of(alice)) == [carol.user]
    assert list(friends_of(carol)) == [alice.user]


def test_batch_to_many_who_were_never_looked_up(sharded_server):
    """A batch may go to more people than a handler may ask for loads."""
    alice, *others = connect(sharded_server, 21)
    batch = [{"to": other.user, "client_id": "first", "body": "x"} for other in others]
    assert [result["code"] for result in alice.ok(SEND_BATCH, messages=batch)["results"]] == [0] * 20


def test_block_against_sends(sharded_server):
    """Of messages that race with BLOCK those that were accepted are stored and pushed, the others neither."""
    for _ in range(8):
        alice, bob = connect(sharded_server)
        says(bob, alice)
        rids = [bob.post(SEND, to=alice.user, client_id=f"r-{n}", body="x") for n in range(10)]
        block = alice.post(BLOCK, user_id=bob.user)
        rids += [bob.post(SEND, to=alice.user, client_id=f"s-{n}", body="x") for n in range(20)]
        assert alice.answer(block)["code"] == 0
        says(bob, alice, 403, "blocked")
        answers = [bob.answer(rid) for rid in rids]
        assert {(answer["code"], answer.get("error")) for answer in answers} <= {(0, None), (403, "blocked")}
        stored = alice.pull_all(direct(alice.user, bob.user))
        assert len(stored) == 1 + sum(answer["code"] == 0 for answer in answers)
        assert [alice.push()["seq"] for _ in stored] == [message["seq"] for message in stored]
        assert [frame for frame in alice.pushes if frame.command == MESSAGE] == []


def test_nothing_comes_behind_the_answer_to_block(server):
    """On one shard what was accepted before BLOCK is pushed before its answer, and nothing after it."""
    for _ in range(8):
        alice, bob = connect(server)
        says(bob, alice)
        rids = [bob.post(SEND, to=alice.user, client_id=f"r-{n}", body="x") for n in range(10)]
        block = alice.post(BLOCK, user_id=bob.user)
        rids += [bob.post(SEND, to=alice.user, client_id=f"s-{n}", body="x") for n in range(20)]
        assert alice.answer(block)["code"] == 0
        before = len(alice.pushes)
        accepted = sum(bob.answer(rid)["code"] == 0 for rid in rids)
        assert before == 1 + accepted
        assert alice.drain(0.05)[before:] == []


# ---------------------------------------------------------------- settings, restarts


def test_restart_keeps_all(make_server):
    """Friends, remarks, requests and blocks are there after a restart, and a kill."""
    server = make_server()
    names = ["anna", "ben", "cleo", "dora"]
    anna, ben, cleo, dora = (server.integrated(name) for name in names)
    befriend(anna, ben)
    anna.ok(SET_REMARK, user_id="ben", remark="B")
    request_id = cleo.ok(FRIEND_REQUEST, user_id="anna", message="hi")["request_id"]
    anna.ok(BLOCK, user_id="dora")
    says(dora, anna, 403, "blocked")
    server.restart()
    server.kill()
    server.start()
    anna, ben, cleo, dora = (server.integrated(name) for name in names)
    assert friends_of(anna)["ben"]["remark"] == "B"
    assert [(entry["request_id"], entry["message"]) for entry in requests_of(anna)] == [(request_id, "hi")]
    says(dora, anna, 403, "blocked")
    says(cleo, anna)
    cleo.ok(FRIEND_REQUEST, user_id="anna")
    anna.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
    assert sorted(friends_of(anna)) == ["ben", "cleo"]


@pytest.mark.parametrize("shards", [1, 2])
def test_only_friends_may_write(make_server, shards):
    """With `require_friendship` a stranger's messages are refused, a friend's are not, and nothing old is known."""
    server = make_server({"plugins.message.require_friendship": "true", "server.shards": shards})
    alice, bob, carol = connect(server, 3)
    for _ in range(3):
        says(alice, bob, 403, "not_friends")
        says(bob, alice, 403, "not_friends", store=False)
        befriend(alice, bob)
        says(alice, bob)
        says(bob, alice)
        assert (alice.push()["from"], bob.push()["from"]) == (bob.user, alice.user)
        bob.ok(DELETE_FRIEND, user_id=alice.user)
        assert alice.push(FRIEND)["event"] == "deleted"
    says(alice, alice)
    says(alice, carol, 403, "not_friends")
    # Who is a stranger does not learn of a block, a friend does.
    bob.ok(BLOCK, user_id=alice.user)
    says(alice, bob, 403, "not_friends")
    bob.ok(UNBLOCK, user_id=alice.user)
    alice.ok(FRIEND_REQUEST, user_id=bob.user)
    bob.ok(FRIEND_REQUEST, user_id=alice.user)
    bob.ok(BLOCK, user_id=alice.user)
    says(alice, bob, 403, "blocked")
    says(bob, alice)


def test_only_friends_needs_the_plugin(make_server):
    """A server that could not tell friends from strangers does not start."""
    with pytest.raises(ServerFailed) as caught:
        make_server({"plugins.message.require_friendship": "true", "plugins.enabled": '["user", "message", "push"]'})
    assert caught.value.status == 3
    assert "plugins.message.require_friendship" in caught.value.text


def test_bounds_of_the_lists(make_server):
    """At the bounds on friends, requests and blocks it is 409 with a name of its own, on either side."""
    server = make_server({"plugins.friend.max_friends": 1, "plugins.friend.max_pending": 2, "plugins.friend.max_blocked": 1})
    alice, bob, carol, dave, erin = connect(server, 5)
    # Friends: of the one who answers, and of the one who asked.
    befriend(alice, bob)
    request_id = carol.ok(FRIEND_REQUEST, user_id=alice.user)["request_id"]
    assert alice.fails(409, FRIEND_ANSWER, request_id=request_id, accept=True)["error"] == "friend_limit"
    assert alice.fails(409, FRIEND_REQUEST, user_id=carol.user)["error"] == "friend_limit"
    alice.ok(FRIEND_ANSWER, request_id=request_id, accept=False)
    request_id = bob.ok(FRIEND_REQUEST, user_id=carol.user)["request_id"]
    assert carol.fails(409, FRIEND_ANSWER, request_id=request_id, accept=True)["error"] == "friend_limit"
    carol.ok(FRIEND_ANSWER, request_id=request_id, accept=False)
    assert friends_of(carol) == {}
    # Requests: those sent, and those that somebody was sent; who is blocked takes nobody's place.
    for other in (alice, bob):
        dave.ok(FRIEND_REQUEST, user_id=other.user)
    assert dave.fails(409, FRIEND_REQUEST, user_id=carol.user)["error"] == "request_limit"
    assert "request_id" in dave.ok(FRIEND_REQUEST, user_id=bob.user)
    carol.ok(FRIEND_REQUEST, user_id=alice.user)
    assert erin.fails(409, FRIEND_REQUEST, user_id=alice.user)["error"] == "request_limit"
    alice.ok(BLOCK, user_id=carol.user)
    erin.ok(FRIEND_REQUEST, user_id=alice.user)
    # Blocks.
    assert alice.fails(409, BLOCK, user_id=dave.user)["error"] == "block_limit"
    alice.ok(BLOCK, user_id=carol.user)
    says(dave, alice)
    alice.ok(UNBLOCK, user_id=carol.user)
    alice.ok(BLOCK, user_id=dave.user)
    says(dave, alice, 403, "blocked")
