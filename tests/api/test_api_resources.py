"""Every resource path that exists does its command's work, and answers what /openapi.json says."""

import json

import pytest
import scenes_of_groups
from api_rig import Described, Site
from process import PASSWORD
from wire import GET_USER, HELLO, SEND, direct

from imserver.http.resources import RESOURCES

TYPING = 5005


class Scene:
    """Two users, one message, and what a path needs that is not in it."""

    def __init__(self, site):
        self.site = site
        self.alice, self.bob = site.new_user(), site.new_user()
        self.conversation = direct(self.alice.user, self.bob.user)
        self.alice.post("/v1/messages", {"to": self.bob.user, "body": "first", "client_id": "c-1"}).done()


def session(scene):
    """The tokens of a login by password."""
    return scene.site.post("/v1/sessions", {"user_id": scene.alice.user, "password": PASSWORD}).done()


def register(scene):
    answer = scene.site.post("/v1/users", {"user_id": f"{scene.alice.user}-new", "password": PASSWORD})
    assert answer.done()["user_id"] == f"{scene.alice.user}-new"
    return answer


def login(scene):
    answer = scene.site.post("/v1/sessions", {"user_id": scene.alice.user, "password": PASSWORD, "sync": ""})
    (conversation,) = answer.done()["sync"]["conversations"]
    assert (conversation["conversation_id"], conversation["peer"]) == (scene.conversation, scene.bob.user)
    return answer


def refresh(scene):
    answer = scene.site.post("/v1/sessions/refresh", {"refresh_token": session(scene)["refresh_token"]})
    assert scene.site.by_token(answer.done()["token"]).get("/v1/devices").status == 200
    return answer


def log_out(scene):
    first, second = (scene.site.by_token(session(scene)["token"]) for _ in range(2))
    answer = first.ask("DELETE", "/v1/sessions/current")
    assert (first.get("/v1/devices").status, second.get("/v1/devices").status) == (401, 200)
    return answer


def log_out_everywhere(scene):
    first, second = (scene.site.by_token(session(scene)["token"]) for _ in range(2))
    answer = first.ask("DELETE", "/v1/sessions")
    assert (first.get("/v1/devices").status, second.get("/v1/devices").status) == (401, 401)
    return answer


def get_users(scene):
    answer = scene.alice.get(f"/v1/users?user_ids={scene.bob.user},{scene.alice.user},nobody")
    assert [user["user_id"] for user in answer.done()["users"]] == [scene.bob.user, scene.alice.user]
    return answer


def update_profile(scene):
    answer = scene.alice.ask("PATCH", "/v1/users/me", {"nickname": "Ali", "bio": "on rails", "avatar": "a.png"})
    (shown,) = scene.bob.get(f"/v1/users?user_ids={scene.alice.user}").done()["users"]
    assert (shown["nickname"], shown["bio"], shown["avatar"]) == ("Ali", "on rails", "a.png")
    return answer


def change_password(scene):
    new = "another horse 8 staple"
    answer = scene.alice.ask("PUT", "/v1/users/me/password", {"old_password": PASSWORD, "new_password": new})
    scene.site.post("/v1/sessions", {"user_id": scene.alice.user, "password": PASSWORD}).refused(401)
    scene.site.post("/v1/sessions", {"user_id": scene.alice.user, "password": new}).done()
    return answer


def search_users(scene):
    answer = scene.alice.get(f"/v1/users/search?query={scene.bob.user}&limit=1")
    assert [user["user_id"] for user in answer.done()["users"]] == [scene.bob.user]
    return answer


def list_devices(scene):
    with scene.site.server.login(scene.alice.user, device_id="phone") as client:
        answer = scene.alice.get("/v1/devices")
        (device,) = answer.done()["devices"]
        assert (device["device_id"], device["online"]) == ("phone", True)
        assert client.call(HELLO)["code"] == 0
    return answer


def kick_device(scene):
    other = session(scene)
    answer = scene.alice.ask("DELETE", f"/v1/devices/{other['session_id']}")
    scene.site.by_token(other["token"]).get("/v1/devices").refused(401)
    scene.alice.ask("DELETE", f"/v1/devices/{other['session_id']}").refused(404, "not_found", "session_id")
    return answer


def send(scene):
    with scene.site.server.login(scene.bob.user) as receiver:
        answer = scene.alice.post("/v1/messages", {"to": scene.bob.user, "body": "second", "client_id": "c-2"})
        assert answer.done()["seq"] == 2
        assert receiver.push()["body"] == "second"
    return answer


def send_batch(scene):
    good = {"conversation_id": scene.conversation, "body": "in a batch", "client_id": "c-3"}
    answer = scene.alice.post("/v1/messages/batch", {"messages": [good, {**good, "client_id": ""}, good]})
    first, second, third = answer.done()["results"]
    assert (first["seq"], second["field"], third["duplicate"]) == (2, "client_id", True)
    return answer


def sync(scene):
    answer = scene.bob.get("/v1/conversations?limit=10")
    (conversation,) = answer.done()["conversations"]
    assert (conversation["unread"], conversation["last_message"]["body"]) == (1, "first")
    cursor = answer.json["next_cursor"]
    assert scene.bob.get(f"/v1/conversations?cursor={cursor}").done()["conversations"] == []
    return answer


def pull(scene):
    answer = scene.bob.get(f"/v1/conversations/{scene.conversation}/messages?after_seq=0&limit=1")
    assert [(message["seq"], message["from"]) for message in answer.done()["messages"]] == [(1, scene.alice.user)]
    escaped = scene.conversation.replace(":", "%3A")
    assert scene.bob.get(f"/v1/conversations/{escaped}/messages").json["messages"] == answer.json["messages"]
    return answer


def changes(scene):
    answer = scene.bob.get(f"/v1/conversations/{scene.conversation}/changes?since_rev=0")
    assert [message["rev"] for message in answer.done()["messages"]] == [1]
    return answer


def mark_read(scene):
    answer = scene.bob.ask("PUT", f"/v1/conversations/{scene.conversation}/read", {"seq": 1})
    assert answer.done()["unread"] == 0
    assert scene.bob.get("/v1/conversations").json["conversations"][0]["read_seq"] == 1
    return answer


def typing(scene):
    with scene.site.server.login(scene.bob.user) as receiver:
        answer = scene.alice.post(f"/v1/conversations/{scene.conversation}/typing", {})
        assert receiver.push(TYPING) == {"conversation_id": scene.conversation, "user_id": scene.alice.user, "on": True}
    return answer


def presence(scene):
    with scene.site.server.login(scene.bob.user, platform="cli"):
        answer = scene.alice.get(f"/v1/presence?user_ids={scene.bob.user}")
        (shown,) = answer.done()["presence"]
        assert (shown["user_id"], shown["online"], shown["platforms"]) == (scene.bob.user, True, ["cli"])
    return answer


def search(scene):
    answer = scene.bob.get("/v1/messages/search?query=first")
    assert [message["body"] for message in answer.done()["messages"]] == ["first"]
    return answer


def befriend(scene):
    """The answer to a request, and the one to its acceptance."""
    request = scene.alice.post("/v1/friends/requests", {"user_id": scene.bob.user, "message": "it is me"})
    accepted = scene.bob.post(f"/v1/friends/requests/{request.done()['request_id']}", {"accept": True})
    accepted.done()
    return request, accepted


def request_friendship(scene):
    return befriend(scene)[0]


def answer_request(scene):
    return befriend(scene)[1]


def list_friends(scene):
    befriend(scene)
    answer = scene.alice.get("/v1/friends?limit=10")
    assert [friend["user_id"] for friend in answer.done()["friends"]] == [scene.bob.user]
    return answer


def list_requests(scene):
    scene.alice.post("/v1/friends/requests", {"user_id": scene.bob.user}).done()
    answer = scene.bob.get("/v1/friends/requests?direction=in")
    assert [request["user_id"] for request in answer.done()["requests"]] == [scene.alice.user]
    return answer


def delete_friend(scene):
    befriend(scene)
    answer = scene.alice.ask("DELETE", f"/v1/friends/{scene.bob.user}")
    assert scene.bob.get("/v1/friends").done()["friends"] == []
    return answer


def remark(scene):
    befriend(scene)
    answer = scene.alice.ask("PUT", f"/v1/friends/{scene.bob.user}/remark", {"remark": "from school"})
    assert scene.alice.get("/v1/friends").done()["friends"][0]["remark"] == "from school"
    return answer


def block(scene):
    answer = scene.bob.ask("PUT", f"/v1/blocked/{scene.alice.user}")
    answer.done()
    scene.alice.post("/v1/messages", {"to": scene.bob.user, "body": "x", "client_id": "c-9"}).refused(403, "blocked")
    return answer


def unblock(scene):
    block(scene)
    answer = scene.bob.ask("DELETE", f"/v1/blocked/{scene.alice.user}")
    scene.alice.post("/v1/messages", {"to": scene.bob.user, "body": "x", "client_id": "c-10"}).done()
    return answer


def list_blocked(scene):
    block(scene)
    answer = scene.bob.get("/v1/blocked")
    assert [user["user_id"] for user in answer.done()["users"]] == [scene.alice.user]
    return answer


SCENES = {
    **scenes_of_groups.SCENES,
    ("GET", "/v1/messages/search"): search,
    ("POST", "/v1/friends/requests"): request_friendship,
    ("POST", "/v1/friends/requests/{request_id}"): answer_request,
    ("GET", "/v1/friends"): list_friends,
    ("GET", "/v1/friends/requests"): list_requests,
    ("DELETE", "/v1/friends/{user_id}"): delete_friend,
    ("PUT", "/v1/friends/{user_id}/remark"): remark,
    ("PUT", "/v1/blocked/{user_id}"): block,
    ("DELETE", "/v1/blocked/{user_id}"): unblock,
    ("GET", "/v1/blocked"): list_blocked,
    ("POST", "/v1/users"): register,
    ("POST", "/v1/sessions"): login,
    ("POST", "/v1/sessions/refresh"): refresh,
    ("DELETE", "/v1/sessions/current"): log_out,
    ("DELETE", "/v1/sessions"): log_out_everywhere,
    ("GET", "/v1/users"): get_users,
    ("PATCH", "/v1/users/me"): update_profile,
    ("PUT", "/v1/users/me/password"): change_password,
    ("GET", "/v1/users/search"): search_users,
    ("GET", "/v1/devices"): list_devices,
    ("DELETE", "/v1/devices/{session_id}"): kick_device,
    ("GET", "/v1/presence"): presence,
    ("POST", "/v1/messages"): send,
    ("POST", "/v1/messages/batch"): send_batch,
    ("GET", "/v1/conversations"): sync,
    ("GET", "/v1/conversations/{conversation_id}/messages"): pull,
    ("GET", "/v1/conversations/{conversation_id}/changes"): changes,
    ("PUT", "/v1/conversations/{conversation_id}/read"): mark_read,
    ("POST", "/v1/conversations/{conversation_id}/typing"): typing,
}


@pytest.mark.parametrize(("method", "path"), SCENES, ids=lambda value: value.replace("/v1/", ""))
def test_resource(site, described, method, path):
    """It does what its command does, and its answer is as declared, field by field."""
    answer = SCENES[method, path](Scene(site))
    answer.done()
    described.check_answer(method, path, answer)


def test_every_resource_is_tried(described):
    """A path whose command comes to this server needs a scene here; others are no paths yet."""
    there = {
        (resource.method, path)
        for resource in RESOURCES
        for path in [resource.path.replace(":int", "")]
        if resource.method.lower() in described.api["paths"].get(path, {})
    }
    assert there == set(SCENES)


def test_paths_of_commands_that_do_not_exist(make_server):
    """No plugin has them: 404, and the description does not promise them."""
    site = Site(make_server({"plugins.enabled": '["user", "message", "push"]'}))
    site.post("/v1/groups", {"name": "x"}).refused(404, "not_found")
    assert not any(path.startswith("/v1/groups") for path in Described(site).api["paths"])


def test_every_command_by_number_and_name(site, alice, described):
    """POST /v1/commands/{id or name}, in any case, with the same answer; HELLO needs nobody and no body."""
    numbers = {path.rpartition("/")[2] for path in described.api["paths"] if path.startswith("/v1/commands/")}
    for number in numbers:
        summary = described.operation("POST", f"/v1/commands/{number}")["summary"]
        name = summary.split()[1].rstrip(":")
        by_number = site.post(f"/v1/commands/{number}", b"[]").json
        assert (by_number["code"], by_number["error"]) in {(400, "bad_request"), (401, "unauthenticated")}
        for form in (name, name.lower()):
            assert site.post(f"/v1/commands/{form}", b"[]").json == by_number
    site.post("/v1/commands/2999", {}).refused(404, "unknown_command")
    site.post("/v1/commands/no_such", {}).refused(404, "unknown_command")
    answer = site.post("/v1/commands/hello")
    assert answer.done()["version"] == 1
    described.check_answer("POST", "/v1/commands/4", answer)


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (1, {}),
        (4, {"client": "x"}),
        (1003, "token"),
        (1006, {"user_ids": []}),
        (2003, {}),
        (5002, {"acks": {}}),
    ],
)
def test_answers_of_commands(site, alice, described, number, fields):
    """What has no path of its own answers as declared, too."""
    if fields == "token":
        fields = {"token": alice.credentials["Authorization"].split()[1], "sync": ""}
        alice = site
    answer = alice.command(number, **fields)
    answer.done()
    described.check_answer("POST", f"/v1/commands/{number}", answer)


def test_head_and_get(alice):
    """HEAD: the same headers as GET, and no body."""
    got, headed = alice.get("/v1/conversations"), alice.ask("HEAD", "/v1/conversations")
    assert (headed.status, headed.body) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"] == str(len(got.body))
    assert headed.headers["cache-control"] == got.headers["cache-control"] == "no-store"


def test_messages_by_all_doors(site, alice, bob):
    """What one sends by HTTP another one gets over TCP, and the other way round; JSON keeps what it is given."""
    body = {"n": 2**53 + 1, "f": 1.5, "text": "你好 <b>", "deep": [[{}], None, True]}
    with site.server.login(bob.user) as client:
        alice.post("/v1/messages", {"to": bob.user, "type": "custom", "body": body, "client_id": "c-1"}).done()
        assert client.push()["body"] == body
        assert client.call(SEND, to=alice.user, body="back", client_id="c-2")["seq"] == 2
    path = f"/v1/conversations/{direct(alice.user, bob.user)}/messages"
    assert [message["body"] for message in alice.get(path).json["messages"]] == [body, "back"]


def test_no_session_is_left_by_requests(site, alice):
    """AUTH and LOGIN over HTTP bind nothing: who logs in by HTTP is not online, and no connection is counted."""
    token = alice.credentials["Authorization"].split()[1]
    for _ in range(3):
        site.command("auth", token=token).done()
    with site.server.login() as watcher:
        (profile,) = watcher.ok(GET_USER, user_ids=[alice.user])["users"]
        assert profile["user_id"] == alice.user
        assert alice.get("/v1/devices").done()["devices"] == []
        assert b"\nimserver_users_online 1.0\n" in site.get("/metrics").body
    site.logged_in(alice.user)
    (device,) = alice.get("/v1/devices").done()["devices"]
    assert not device["online"]


def test_idempotency(alice, bob):
    """The same key twice: one message, the first answer. Another body under it: 409. Header and field are one thing."""
    message = {"to": bob.user, "body": "once"}
    key = {"Idempotency-Key": "order-4711"}
    for path in ("/v1/messages", "/v1/commands/2001", "/v1/commands/send"):
        answer = alice.post(path, message, headers=key).done()
        assert answer["seq"] == 1
        assert answer.get("duplicate", False) == (path != "/v1/messages")
    assert alice.post("/v1/messages", {**message, "client_id": "order-4711"}).done()["duplicate"]
    assert alice.post("/v1/messages", {**message, "client_id": "order-4711"}, headers=key).done()["duplicate"]
    alice.post("/v1/messages", {**message, "body": "twice"}, headers=key).refused(409, "idempotency_conflict")
    alice.post("/v1/messages", {**message, "client_id": "other"}, headers=key).refused(400, field="client_id")
    alice.post("/v1/messages", message).refused(400, field="client_id")
    for bad in ("", "x" * 65, "é"):
        alice.post("/v1/messages", message, headers={"Idempotency-Key": bad}).refused(400, field="client_id")
    alice.post("/v1/messages", {**message, "client_id": 7}, headers=key).refused(400, field="client_id")
    # It is the sender's: another one may have the same.
    assert bob.post("/v1/messages", {"to": alice.user, "body": "once"}, headers=key).done()["seq"] == 2


def test_an_idempotency_key_keeps_the_body_as_it_is(alice, bob):
    """Numbers beyond what a float holds come through, though the key had to be put in."""
    text = b'{"to": "%s", "type": "custom", "body": {"n": 18446744073709551615, "f": 0.1}}' % bob.user.encode()
    alice.post("/v1/messages", text, headers={"Idempotency-Key": "k"}).done()
    answer = bob.get(f"/v1/conversations/{direct(alice.user, bob.user)}/messages")
    assert json.loads(answer.body)["messages"][0]["body"] == {"n": 2**64 - 1, "f": 0.1}


def test_push_ack_over_http(site, alice, bob):
    """A confirmation over HTTP moves the user's mark of what has been delivered, as one over TCP does."""
    alice.post("/v1/messages", {"to": bob.user, "body": "x", "client_id": "c"}).done()
    conversation = direct(alice.user, bob.user)
    bob.command("push_ack", conversation_id=conversation, seq=1).done()
    bob.command("push_ack", conversation_id=conversation).refused(400, field="seq")
    alice.command("push_ack", conversation_id=direct(bob.user, site.new_user().user), seq=1).refused(403)
