"""Every command with each of its fields missing or of a wrong type: 400, and `field` names it."""

import pytest
from wire import (
    AUTH,
    CHANGE_PASSWORD,
    CHANGES,
    GET_USER,
    HEARTBEAT,
    KICK_DEVICE,
    LIST_DEVICES,
    LOGIN,
    LOGOUT,
    MARK_READ,
    PULL,
    PUSH_ACK,
    REFRESH,
    REGISTER,
    SEARCH_USERS,
    SEND,
    SEND_BATCH,
    SYNC,
    UPDATE_PROFILE,
    direct,
)

#: command -> (a body that would do, the fields that may not be missing, who sends it: "anyone" or "user").
COMMANDS = {
    "REGISTER": (REGISTER, {"user_id": "fresh", "password": "correct horse 7", "nickname": "F"}, 2, "anyone"),
    "LOGIN": (
        LOGIN,
        {
            "user_id": "fresh",
            "password": "correct horse 7",
            "device_id": "d",
            "platform": "test",
            "compress": False,
            "deliver": "new",
            "sync": "",
        },
        2,
        "anyone",
    ),
    "AUTH": (
        AUTH,
        {"token": "t", "device_id": "d", "platform": "test", "compress": False, "deliver": "new", "sync": ""},
        1,
        "anyone",
    ),
    "REFRESH": (REFRESH, {"refresh_token": "t"}, 1, "anyone"),
    "LOGOUT": (LOGOUT, {"all": False}, 0, "user"),
    "GET_USER": (GET_USER, {"user_ids": ["a"]}, 1, "user"),
    "UPDATE_PROFILE": (UPDATE_PROFILE, {"nickname": "N", "avatar": "a", "bio": "b"}, 0, "user"),
    "CHANGE_PASSWORD": (
        CHANGE_PASSWORD,
        {"old_password": "correct horse 7", "new_password": "correct horse 8"},
        2,
        "user",
    ),
    "SEARCH_USERS": (SEARCH_USERS, {"query": "a", "limit": 10, "cursor": ""}, 1, "user"),
    "KICK_DEVICE": (KICK_DEVICE, {"session_id": "s"}, 1, "user"),
    "SEND": (
        SEND,
        {
            "client_id": "c",
            "body": "text",
            "to": "peer",
            "type": "text",
            "reply_to": 1,
            "mentions": ["peer"],
            "expires_in_ms": 60_000,
            "store": True,
        },
        2,
        "user",
    ),
    "PULL": (PULL, {"conversation_id": "d:a:b", "after_seq": 0, "limit": 10}, 1, "user"),
    "SYNC": (SYNC, {"cursor": "", "limit": 10}, 0, "user"),
    "MARK_READ": (MARK_READ, {"conversation_id": "d:a:b", "seq": 1}, 2, "user"),
    "SEND_BATCH": (SEND_BATCH, {"messages": []}, 1, "user"),
    "CHANGES": (CHANGES, {"conversation_id": "d:a:b", "since_rev": 0, "limit": 10}, 2, "user"),
    "PUSH_ACK": (PUSH_ACK, {"conversation_id": "d:a:b", "seq": 1}, 0, "user"),
}
MISSING = [(name, field) for name, (_, body, needed, _) in COMMANDS.items() for field in list(body)[:needed]]
#: `body` of SEND may be any value; everything else has one type.
TYPED = [(name, field) for name, (_, body, _, _) in COMMANDS.items() for field in body if (name, field) != ("SEND", "body")]
WRONG = {str: [5, ["x"], {"a": 1}], int: ["1", 1.5, [1], True], bool: ["yes", 5, []], list: ["x", 5, {"a": 1}]}
USER_COMMANDS = [name for name, row in COMMANDS.items() if row[3] == "user"]


@pytest.fixture(scope="module")
def users(shared_servers):
    """Two users with one message between them: (token of the first, its id, the peer's id)."""
    server = shared_servers(1)
    with server.login() as alice:
        peer = server.register()
        alice.text(peer, "text", "c")
        return alice.token, alice.user, peer


@pytest.fixture
def send(server, users):
    """Sends one of COMMANDS, on a connection that is logged in where it has to be; gives (client, answer)."""
    token, user, peer = users

    def call(name, change):
        command, body, _, who = COMMANDS[name]
        client = server.client()
        if who == "user":
            client.auth(token)
        real = {"peer": peer, "d:a:b": direct(user, peer)}
        fields = {key: real.get(value, value) if isinstance(value, str) else value for key, value in body.items()}
        change(fields)
        return client, client.call(command, **fields)

    return call


@pytest.mark.parametrize(("name", "field"), MISSING)
def test_missing_field(send, name, field):
    """A missing field is 400 and named, and the connection serves on."""
    client, answer = send(name, lambda body: body.pop(field))
    assert answer["code"] == 400, answer
    assert answer["error"] == "bad_request"
    assert answer["field"] == field
    client.ok(HEARTBEAT)


@pytest.mark.parametrize(("name", "field"), TYPED)
def test_field_of_a_wrong_type(send, name, field):
    """Every wrong type is 400 and named."""
    for value in WRONG[type(COMMANDS[name][1][field])]:
        client, answer = send(name, lambda body, value=value: body.update({field: value}))
        assert answer["code"] == 400, (value, answer)
        assert answer["field"].split(".")[0].split("[")[0] == field, (value, answer)
        client.close()


@pytest.mark.parametrize("name", USER_COMMANDS)
def test_before_login(server, name):
    """401 before login, whatever the body, and the connection may still log in."""
    command, body, _, _ = COMMANDS[name]
    with server.client() as client:
        assert client.fails(401, command, **body)["error"] == "unauthenticated"
        client.fails(401, command)
        client.ok(HEARTBEAT)


def test_list_devices_before_login(server):
    """The one command without fields asks for a login too."""
    with server.client() as client:
        client.fails(401, LIST_DEVICES)


OUT_OF_RANGE = [
    ("SEND", "client_id", ""),
    ("SEND", "client_id", "x" * 65),
    ("SEND", "client_id", "é" * 33),
    ("SEND", "type", ""),
    ("SEND", "type", "x" * 300),
    ("SEND", "reply_to", -1),
    ("SEND", "mentions", ["u"] * 501),
    ("SEND", "expires_in_ms", -1),
    ("PULL", "after_seq", -1),
    ("PULL", "after_seq", 2**64 - 1),
    ("PULL", "limit", 0),
    ("PULL", "limit", -5),
    ("SYNC", "limit", 0),
    ("SYNC", "cursor", "no cursor of ours"),
    ("SYNC", "cursor", "-1"),
    ("SYNC", "cursor", "0x10"),
    ("SYNC", "cursor", "1_0"),
    ("SYNC", "cursor", "f" * 16),
    ("SYNC", "cursor", "f" * 24),
    ("MARK_READ", "seq", -1),
    ("MARK_READ", "seq", 2**64 - 1),
    ("CHANGES", "since_rev", -1),
    ("CHANGES", "since_rev", 2**64 - 1),
    ("CHANGES", "limit", 0),
    ("PUSH_ACK", "seq", -1),
    ("LOGIN", "deliver", "sometimes"),
    ("LOGIN", "device_id", ""),
    ("LOGIN", "device_id", "x" * 500),
    ("REGISTER", "user_id", ""),
    ("REGISTER", "user_id", "x" * 65),
    ("REGISTER", "user_id", "with space"),
    ("REGISTER", "user_id", "with:colon"),
    ("REGISTER", "user_id", "é"),
    ("REGISTER", "password", ""),
    ("REGISTER", "password", "x" * 3000),
    ("UPDATE_PROFILE", "nickname", "x" * 3000),
    ("SEARCH_USERS", "limit", 0),
    ("SEARCH_USERS", "cursor", "\0"),
]


@pytest.mark.parametrize(("name", "field", "value"), OUT_OF_RANGE)
def test_field_out_of_range(send, name, field, value):
    """A value out of its range is 400 (or 413, for a long one), and named."""
    client, answer = send(name, lambda body: body.update({field: value}))
    if isinstance(value, list):
        assert answer["code"] == 413, answer
    else:
        assert answer["code"] in ((400, 413) if isinstance(value, str) and len(value) > 64 else (400,)), answer
    assert answer["field"] == field
    client.ok(HEARTBEAT)


@pytest.mark.parametrize("name", ["PULL", "SYNC", "CHANGES", "SEARCH_USERS"])
def test_limit_of_a_page(send, name):
    """A page holds 500 at most: more is refused, or cut to that."""
    _, answer = send(name, lambda body: (body.update(limit=501), body.pop("cursor", None)))
    assert answer["code"] in (0, 400, 413), answer
    if answer["code"]:
        assert answer["field"] == "limit"
    _, answer = send(name, lambda body: (body.update(limit=500), body.pop("cursor", None)))
    assert answer["code"] == 0, answer


@pytest.mark.parametrize("name", ["PULL", "MARK_READ", "CHANGES", "SEND", "PUSH_ACK"])
@pytest.mark.parametrize("conversation", ["", "x", "d:", "d:a", "q:a:b", "g:no-such-group", "d:a:b:c", "d:" + "a" * 500])
def test_conversations_that_are_none(send, name, conversation):
    """An id that names no conversation of one's own is 400, 403 or 404: no success, and no fault of the server's."""

    def change(body):
        body.pop("to", None)
        body["conversation_id"] = conversation

    client, answer = send(name, change)
    assert answer["code"] in (400, 403, 404, 413), answer
    client.ok(HEARTBEAT)


def test_send_to_nobody(send):
    """SEND needs one of `to` and `conversation_id`."""
    _, answer = send("SEND", lambda body: body.pop("to"))
    assert answer["code"] == 400
    assert answer["field"] in ("to", "conversation_id")


def test_send_to_an_unknown_user(send):
    """404, and nothing about whether the name is merely unusual."""
    _, answer = send("SEND", lambda body: body.update(to="nobody-of-this-name"))
    assert answer["code"] == 404
    assert answer["error"] == "not_found"


def test_body_of_a_text_is_a_string(send):
    """`text` has a string for its body."""
    _, answer = send("SEND", lambda body: body.update(body={"not": "a string"}))
    assert answer["code"] == 400
    assert answer["field"] == "body"


def test_lists_have_a_bound(send):
    """A list beyond its limit is 413 (or 400), and named."""
    for name, field, item in (("GET_USER", "user_ids", "a"), ("SEND", "mentions", "a")):
        _, answer = send(name, lambda body, field=field, item=item: body.update({field: [item] * 20_000}))
        assert answer["code"] in (400, 413), answer
        assert answer["field"] == field
    message = {"to": "peer", "client_id": "c", "body": ""}
    _, answer = send("SEND_BATCH", lambda body: body.update(messages=[message] * 10_000))
    assert answer["code"] in (400, 413), answer


def test_strangers_conversation(server, users):
    """PULL, MARK_READ, CHANGES, SEND and PUSH_ACK on a conversation of two others are refused."""
    _, user, peer = users
    eve = server.login()
    conversation = direct(user, peer)
    eve.fails((403, 404), PULL, conversation_id=conversation)
    eve.fails((403, 404), CHANGES, conversation_id=conversation, since_rev=0)
    eve.fails((403, 404), MARK_READ, conversation_id=conversation, seq=1)
    eve.fails((403, 404), SEND, conversation_id=conversation, client_id="c", body="eve")
    eve.fails((403, 404), PUSH_ACK, conversation_id=conversation, seq=1)
    assert eve.sync_all()[0] == {}
