"""Bots on a real server: commands, incoming webhooks and messages that grow."""

import http.client
import json
import sqlite3
import subprocess
import sys
import threading

import pytest
from process import PASSWORD
from wire import SEND, direct

BEGIN, APPEND, END = 2021, 2022, 2023
MESSAGE, CHANGED = 5001, 5003
ENABLED = '["user", "message", "friend", "push", "bot"]'


@pytest.fixture
def server(make_server):
    return make_server(
        {
            "plugins.enabled": ENABLED,
            "plugins.bot.posts_per_minute": 5,
            "plugins.bot.stream": "40B",
            "plugins.bot.chunk": "20B",
            "plugins.bot.streams_per_user": 2,
            "plugins.bot.post": "1KiB",
        }
    )


def bot(server):
    """A client of a new user, who is a bot."""
    client = server.login()
    imserver(server, "bot", "add", client.user)
    return client


def imserver(server, *words, status=0):
    """`imserver …` beside the server; gives its output."""
    options = [word for key, value in server.settings.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "imserver", *words, *options], cwd=server.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def post(server, path, body, **headers):
    """(status, the answer's fields)."""
    host, port = server.ready["http"][0].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, raw, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


# ---------------------------------------------------------------- incoming webhooks


def test_a_url_posts_as_its_bot(server):
    """A text, another type, the same key twice; to everybody's devices; then the URL is revoked."""
    alice = server.login()
    server.register("news")
    imserver(server, "bot", "hook", "add", f"d:{alice.user}:nobody", "--as", "news", status=1)
    path = imserver(server, "bot", "hook", "add", direct(alice.user, "news"), "--as", "news").strip()
    status, first = post(server, path, {"text": "it rains"})
    assert (status, first["seq"]) == (200, 1)
    pushed = alice.push(MESSAGE)
    assert (pushed["from"], pushed["body"], pushed["type"]) == ("news", "it rains", "text")
    assert post(server, path, {"type": "card", "body": {"a": 1}}, **{"Idempotency-Key": "k"})[1]["seq"] == 2
    again = post(server, path, {"type": "card", "body": {"a": 1}, "client_id": "k"})[1]
    assert (again["seq"], again["duplicate"]) == (2, True)
    assert alice.push(MESSAGE)["body"] == {"a": 1}
    for wrong in ({}, {"text": ""}, {"text": 5}, b"{", {"type": "text", "body": {}}):
        refused = post(server, path, wrong)
        assert refused[0] in (400, 429), refused
    hook_id = path.split("/")[3]
    assert hook_id in imserver(server, "bot", "hook", "list")
    assert path.split("/")[4] not in imserver(server, "bot", "hook", "list") + server.text()
    imserver(server, "bot", "hook", "revoke", hook_id)
    assert post(server, path, {"text": "late"})[0] == 404


def test_urls_are_guarded(server):
    """A wrong secret is no hook, posts are limited in number and size, and a disabled bot says nothing."""
    alice = server.login()
    server.register("guarded")
    path = imserver(server, "bot", "hook", "add", direct(alice.user, "guarded"), "--as", "guarded").strip()
    assert post(server, path[:-1] + "?", {"text": "x"})[0] == 404
    assert post(server, "/v1/hooks/none/none", {"text": "x"})[0] == 404
    assert post(server, path, {"text": "x" * 2000})[0] == 413
    answers = [post(server, path, {"text": f"{number}"})[0] for number in range(6)]
    assert answers == [200] * 4 + [429] * 2
    imserver(server, "user", "disable", "guarded")
    assert post(server, path, {"text": "x"})[0] == 404


# ---------------------------------------------------------------- messages that grow


def test_a_message_grows_and_is_stored_once(server):
    """Members see each chunk; the whole is stored at its end, under one client_id, also if END is asked twice."""
    alice, writer = server.login(), bot(server)
    alice.text(writer.user, "tell me", "q")
    conversation = direct(alice.user, writer.user)
    begun = writer.ok(BEGIN, conversation_id=conversation, client_id="answer")
    announced = alice.push(MESSAGE)
    assert (announced["client_id"], announced["streaming"], announced.get("seq")) == ("answer", True, None)
    for chunk in ("once ", "upon ", "a time"):
        writer.ok(APPEND, stream_id=begun["stream_id"], text=chunk)
    chunks = [alice.push(CHANGED) for _ in range(3)]
    assert [(one["change"], one["offset"], one["text"]) for one in chunks] == [
        ("appended", 0, "once "), ("appended", 5, "upon "), ("appended", 10, "a time"),
    ]  # fmt: skip
    assert {one["message_id"] for one in chunks} == {begun["message_id"]} == {announced["message_id"]}
    assert len(alice.pull_all(conversation)) == 1
    ended = writer.ok(END, stream_id=begun["stream_id"])
    assert ended["seq"] == 2
    whole = alice.push(MESSAGE)
    assert (whole["seq"], whole["body"], whole["client_id"]) == (2, "once upon a time", "answer")
    assert writer.ok(END, stream_id=begun["stream_id"])["duplicate"]
    assert [message["body"] for message in alice.pull_all(conversation)] == ["tell me", "once upon a time"]
    writer.fails(409, APPEND, stream_id=begun["stream_id"], text="more")


def test_growing_is_bounded(server):
    """Chunks, the whole, and how many grow; nobody adds to another's, or where they do not belong."""
    alice, writer = server.login(), bot(server)
    alice.text(writer.user, "go", "q")
    conversation = direct(alice.user, writer.user)
    streams = [writer.ok(BEGIN, conversation_id=conversation, client_id=f"s{number}")["stream_id"] for number in range(2)]
    assert writer.fails(413, BEGIN, conversation_id=conversation, client_id="s2")["error"] == "too_many_streams"
    writer.fails(413, APPEND, stream_id=streams[0], text="x" * 21)
    writer.ok(APPEND, stream_id=streams[0], text="x" * 20)
    writer.ok(APPEND, stream_id=streams[0], text="x" * 20)
    writer.fails(413, APPEND, stream_id=streams[0], text="x")
    alice.fails(404, APPEND, stream_id=streams[0], text="x")
    alice.fails(404, END, stream_id=streams[0])
    writer.fails(404, BEGIN, conversation_id="d:a:b", client_id="x")
    bot(server).fails(403, BEGIN, conversation_id=conversation, client_id="x")
    writer.ok(END, stream_id=streams[0])
    writer.ok(BEGIN, conversation_id=conversation, client_id="s3")


def test_what_is_left_is_stored_as_it_is(make_server):
    """A message that nobody adds to any more is stored; one that is empty is called off; a stop stores all."""
    server = make_server({"plugins.enabled": ENABLED, "plugins.bot.stream_idle": "200ms"})
    alice, writer = server.login(), bot(server)
    alice.text(writer.user, "go", "q")
    conversation = direct(alice.user, writer.user)
    empty = writer.ok(BEGIN, conversation_id=conversation, client_id="empty")
    begun = writer.ok(BEGIN, conversation_id=conversation, client_id="left")
    writer.ok(APPEND, stream_id=begun["stream_id"], text="and then")
    pushes = [alice.push(MESSAGE), alice.push(MESSAGE)]
    assert [push.get("seq") for push in pushes] == [None, None]
    whole = alice.push(MESSAGE, timeout_s=20)
    assert (whole["seq"], whole["body"], whole["client_id"]) == (2, "and then", "left")
    changes = [alice.push(CHANGED, timeout_s=20) for _ in range(2)]
    assert {(change["change"], change["message_id"]) for change in changes} == {
        ("appended", begun["message_id"]), ("aborted", empty["message_id"]),
    }  # fmt: skip
    last = writer.ok(BEGIN, conversation_id=conversation, client_id="last")
    writer.ok(APPEND, stream_id=last["stream_id"], text="goodbye")
    token = alice.token
    alice.close()
    writer.close()
    assert server.stop() == 0
    server.start()
    with server.client() as again:
        again.auth(token)
        assert again.pull_all(conversation)[-1]["body"] == "goodbye"


# ---------------------------------------------------------------- commands


LISTENER = """
from imserver.plugin import Plugin, on_event

class Ear(Plugin):
    name = "ear"
    requires = ("bot",)
    migrations = ("CREATE TABLE ear_heard (id INTEGER PRIMARY KEY, what TEXT NOT NULL) STRICT",)

    @on_event("bot.command")
    def heard(self, ctx, **fields):
        text = " ".join(str(fields[key]) for key in ("bot", "name", "arguments", "user_id", "seq"))
        ctx.db.write("INSERT INTO ear_heard (what) VALUES (?)", (text,))
"""


def heard(server, count):
    """What the listener has written, once it is so much."""
    waited = threading.Event()
    rows = []
    for _ in range(1000):
        with sqlite3.connect(f"file:{server.data}/imserver.db?mode=ro", uri=True) as database:
            rows = [row[0] for row in database.execute("SELECT what FROM ear_heard ORDER BY id")]
        database.close()
        if len(rows) >= count:
            return rows
        waited.wait(0.02)
    raise AssertionError(rows)


def test_commands_are_told_once(make_server, tmp_path):
    """`/name …` to a bot, through kill -9 after kill -9: each is told once, with its place; other texts are none."""
    folder = tmp_path / "ears"
    folder.mkdir()
    (folder / "ear.py").write_text(LISTENER)
    enabled = '["user", "message", "friend", "push", "bot", "ear"]'
    server = make_server({"plugins.enabled": enabled, "plugins.paths": json.dumps([str(folder)])})
    server.register("robo")
    alice, bob = server.login(), server.login()
    alice.text("robo", "/before it was a bot", "c0")
    imserver(server, "bot", "add", "robo")
    assert imserver(server, "bot", "list").startswith("robo  since")
    alice.text("robo", "/Roll  2d6 now", "c1")
    alice.text("robo", "no /command", "c2")
    alice.text("robo", "/", "c3")
    alice.text(bob.user, "/roll", "c4")
    expected = [f"robo roll 2d6 now {alice.user} 2"]
    assert heard(server, 1) == expected
    for number in range(3):
        alice.text("robo", f"/n{number}", f"k{number}")
        server.kill()
        server.start()
        alice = server.again(alice)
        expected.append(f"robo n{number}  {alice.user} {5 + number}")
    alice.text("robo", "/roll@other x", "c5")
    alice.text("robo", "/roll@robo x", "c6")
    expected.append(f"robo roll x {alice.user} 9")
    assert heard(server, 5) == expected
    imserver(server, "bot", "remove", "robo")
    alice.ok(SEND, to="robo", client_id="c7", body="/late")
    assert "Traceback" not in server.text()
    assert PASSWORD not in server.text()
