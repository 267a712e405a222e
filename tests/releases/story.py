"""What a server of an earlier release was told, and all that its users can read, then and by the present program."""

import http.client
import json

from wire import PULL, REGISTER, SEND, SYNC, UPDATE_PROFILE, direct

PASSWORD = "an old password 7"
USERS = ("release-alice", "release-bob", "release-carol")
GROUP = "release-tea"
CONVERSATIONS = (direct(*USERS[:2]), direct(*USERS[1:]), f"g:{GROUP}")

GET_USER, MARK_READ, RECALL, EDIT, REACT, SEARCH, RECEIPTS, SETTINGS = 1006, 2004, 2005, 2006, 2007, 2009, 2012, 2013
FRIEND_REQUEST, FRIEND_ANSWER, LIST_FRIENDS, BLOCK, LIST_BLOCKED, SET_REMARK = 3001, 3002, 3003, 3006, 3008, 3009
CREATE_GROUP, GET_GROUP, UPDATE_GROUP, LEAVE_GROUP, LIST_MEMBERS, SET_ROLE = 4001, 4002, 4003, 4007, 4008, 4009


def ask(server, token, method, path, body=None, headers=None):
    """(status, type, body) of an HTTP request."""
    host, port = server.ready["http"][0].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read()
    finally:
        connection.close()


def log_in(server, user):
    """By the password: a token of the release may be over."""
    client = server.client()
    client.login(user, PASSWORD, device_id="release-device")
    return client


def tell(server):
    """Let three users do a little of everything that lasts; returns the id of a file."""
    for user in USERS:
        with server.client() as nobody:
            nobody.ok(REGISTER, user_id=user, password=PASSWORD, nickname=user.title())
    alice, bob, carol = (log_in(server, user) for user in USERS)
    alice.ok(UPDATE_PROFILE, bio="Grüße 👋", last_seen="nobody")

    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    headers = {"Content-Type": "image/png", "X-File-Name": "p.png"}
    status, _, body = ask(server, alice.token, "POST", "/v1/files", picture, headers)
    assert status == 200, body
    file_id = json.loads(body)["file_id"]

    first, _, group = CONVERSATIONS
    for number in range(12):
        sender, to = ((alice, bob), (bob, alice))[number % 2]
        sender.text(to.user, f"message {number} of the release", f"c{number}")
    alice.ok(SEND, to=bob.user, client_id="image", type="image", body={"file_id": file_id})
    alice.ok(SEND, to=bob.user, client_id="custom", type="x.poll", body={"question": "?", "of": [1, 2.5, None, True]})
    bob.ok(SEND, to=alice.user, client_id="reply", body="a reply", reply_to=1)
    alice.ok(EDIT, conversation_id=first, seq=1, body="edited marmalade")
    bob.ok(REACT, conversation_id=first, seq=1, emoji="👍")
    alice.ok(RECALL, conversation_id=first, seq=3)
    bob.ok(MARK_READ, conversation_id=first, seq=7)
    bob.ok(SETTINGS, conversation_id=first, muted=True, pinned=True)
    carol.text(bob.user, "hello", "c")

    request_id = alice.ok(FRIEND_REQUEST, user_id=bob.user)["request_id"]
    bob.ok(FRIEND_ANSWER, request_id=request_id, accept=True)
    alice.ok(SET_REMARK, user_id=bob.user, remark="Bobby")
    bob.ok(BLOCK, user_id=carol.user)

    alice.ok(CREATE_GROUP, group_id=GROUP, name="Tea", members=[bob.user, carol.user], join="approval")
    alice.ok(UPDATE_GROUP, group_id=GROUP, announcement="at five")
    alice.ok(SET_ROLE, group_id=GROUP, user_id=bob.user, role="admin")
    for number in range(4):
        alice.ok(SEND, conversation_id=group, client_id=f"g{number}", body=f"to the group {number}", mentions=[bob.user])
    carol.ok(LEAVE_GROUP, group_id=GROUP)
    bob.ok(SEND, conversation_id=group, client_id="last", body="carol has left")
    for client in (alice, bob, carol):
        client.close()
    return file_id


def read(server, file_id):
    """Everything that the users can read, as JSON has it."""
    everything = {}
    for user in USERS:
        client = log_in(server, user)
        mine = everything[user] = {}
        mine["sync"] = sorted(client.ok(SYNC)["conversations"], key=lambda one: one["conversation_id"])
        for one in mine["sync"]:
            conversation_id = one["conversation_id"]
            mine[conversation_id] = client.ok(PULL, conversation_id=conversation_id, after_seq=0, limit=500)
        mine["users"] = client.ok(GET_USER, user_ids=list(USERS))["users"]
        mine["friends"] = client.ok(LIST_FRIENDS)["friends"]
        mine["blocked"] = client.ok(LIST_BLOCKED)["users"]
        mine["found"] = client.ok(SEARCH, query="marmalade")
        group = client.call(GET_GROUP, group_id=GROUP)
        mine["group"] = group.get("group", group["code"])
        members = client.call(LIST_MEMBERS, group_id=GROUP)
        mine["members"] = members.get("members", members["code"])
        receipts = client.call(RECEIPTS, conversation_id=CONVERSATIONS[0], seq=5)
        mine["receipts"] = receipts.get("read", receipts["code"])
        status, content_type, body = ask(server, client.token, "GET", f"/v1/files/{file_id}")
        mine["file"] = [status, content_type, body.hex() if status == 200 else None]
        client.close()
    return json.loads(json.dumps(everything))
