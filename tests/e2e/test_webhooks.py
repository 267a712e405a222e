"""Webhooks between real processes: the receiver is down, slow, wrong, or killed, and so is the server; nothing is lost."""

import hashlib
import hmac
import http.server
import json
import subprocess
import sys
import threading
from collections import defaultdict

import pytest
from wire import SEND, direct

PATIENCE_S = 40
SECRET = "a secret for the tests"


class Receiver:
    """A receiver in this process, on a port of its own: it may be stopped and come back, and says what it is told to."""

    def __init__(self):
        self.posts = []
        self.answers = []  # (status, headers, body) or a function of the post; the last one stays
        self.changed = threading.Condition()
        self.port = 0
        self.server = None
        self.gate = threading.Event()
        self.gate.set()

    def start(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.gate.wait(PATIENCE_S)
                status, headers, body = receiver.take(self.path, dict(self.headers), raw)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    return  # the server was killed, or waited no longer

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def stop(self):
        if self.server is not None:
            self.gate.set()
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None

    def take(self, path, headers, raw):
        with self.changed:
            answer = self.answers.pop(0) if len(self.answers) > 1 else (self.answers or [(200, {}, b"")])[0]
            if callable(answer):
                answer = answer(json.loads(raw))
            self.posts.append((path, headers, raw, answer[0]))
            self.changed.notify_all()
        return answer

    def events(self, *, accepted=True):
        """The events of the posts, in their order; each id once, where it came first."""
        found = {}
        for _, _, raw, status in list(self.posts):
            if 200 <= status < 300 or not accepted:
                for event in json.loads(raw).get("events", ()):
                    found.setdefault(event["id"], event)
        return list(found.values())

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S), self.posts[-3:]

    def bodies(self):
        """What was said, by conversation."""
        said = defaultdict(list)
        for event in self.events():
            if event["event"] == "message.accepted":
                said[event["message"]["conversation_id"]].append(event["message"]["body"])
        return said


@pytest.fixture
def receiver():
    made = Receiver().start()
    yield made
    made.stop()


def settings(receiver, *, events=("message.accepted",), before_send=None, **more):
    """The server's settings; `more` is of the target."""
    target = {"name": "crm", "url": f"http://127.0.0.1:{receiver.port}/in", "secret": SECRET, "events": list(events), **more}
    given = {
        "plugins.enabled": '["user", "message", "friend", "push", "webhook"]',
        "plugins.webhook.targets": f"[{toml(target)}]",
        "plugins.webhook.schemes": '["http", "https"]',
        "plugins.webhook.allowed_networks": '["127.0.0.0/8"]',
        "plugins.webhook.retry_first": "50ms",
        "plugins.webhook.retry_most": "200ms",
    }
    if before_send is not None:
        given["plugins.webhook.before_send"] = toml(
            {"url": f"http://127.0.0.1:{receiver.port}/ask", "secret": SECRET, **before_send}
        )
    return given


def toml(table):
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


def imserver(server, *words):
    """`imserver …` beside the server; gives its output."""
    options = [word for key, value in server.settings.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "imserver", *words, *options], cwd=server.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until_logged(server, words):
    """Until the server's log has these words."""
    waited = threading.Event()
    for _ in range(PATIENCE_S * 50):
        if words in server.text():
            return
        assert server.alive
        waited.wait(0.02)
    raise AssertionError(f"{words!r} is not in the log:\n{server.text()[-2000:]}")


def say(client, peer, texts):
    for text in texts:
        client.text(peer, text, text)


def test_a_post_is_signed_and_has_the_messages(make_server, receiver):
    """What the receiver gets: events with ids, a signature over time and body, each conversation in its order."""
    server = make_server(settings(receiver))
    alice, bob = server.login(), server.login()
    say(alice, bob.user, ["a1", "a2", "a3"])
    receiver.until(lambda: len(receiver.events()) == 3)
    path, headers, raw, _ = receiver.posts[0]
    signed = headers["X-IM-Timestamp"].encode() + b"." + raw
    assert headers["X-IM-Signature"] == "v1=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert (path, headers["Content-Type"]) == ("/in", "application/json")
    messages = [event["message"] for event in receiver.events()]
    assert [(message["seq"], message["body"], message["from"]) for message in messages] == [
        (1, "a1", alice.user), (2, "a2", alice.user), (3, "a3", alice.user),
    ]  # fmt: skip
    assert [event["id"] for event in receiver.events()] == ["m-" + message["message_id"] for message in messages]
    assert json.loads(raw)["target"] == "crm"


@pytest.mark.parametrize("shards", [1, 2])
def test_a_receiver_that_was_down_gets_everything(make_server, receiver, shards):
    """It is away before, during and after a kill -9 of the server; it gets each message once by id, in order."""
    server = make_server({**settings(receiver, batch=3, concurrency=2), "server.shards": shards})
    alice, bob, carol = server.login(), server.login(), server.login()
    said = {direct(alice.user, other.user): [] for other in (bob, carol)}

    def talk(texts):
        for text in texts:
            for other in (bob, carol):
                alice.text(other.user, text, text)
                said[direct(alice.user, other.user)].append(text)

    talk(f"up {n}" for n in range(3))
    receiver.stop()
    talk(f"down {n}" for n in range(10))
    server.kill()
    server.start()
    alice = server.again(alice)
    talk(f"down again {n}" for n in range(10))
    server.kill()
    receiver.start()
    server.start()
    alice = server.again(alice)
    talk(f"up again {n}" for n in range(3))
    receiver.until(lambda: len(receiver.events()) == 52)
    assert receiver.bodies() == said
    assert "Traceback" not in server.text()


def test_killed_while_a_post_is_under_way(make_server, receiver):
    """The receiver has it, its answer is lost: it comes again with the same ids, and nothing else is doubled."""
    receiver.gate.clear()
    server = make_server(settings(receiver))
    alice, bob = server.login(), server.login()
    say(alice, bob.user, ["1", "2"])
    server.kill()
    receiver.gate.set()
    server.start()
    say(server.again(alice), bob.user, ["3"])
    receiver.until(lambda: len(receiver.events()) == 3)
    assert receiver.bodies() == {direct(alice.user, bob.user): ["1", "2", "3"]}


def test_errors_and_slowness_hold_up_and_lose_nothing(make_server, receiver):
    """500s, 429s and an answer that never comes are tried again; the order stays."""
    receiver.answers = [
        (500, {}, b"no"),
        (503, {"Retry-After": "0"}, b""),
        (429, {}, b""),
        (302, {"Location": "/x"}, b""),
        (200, {}, b""),
    ]
    server = make_server(settings(receiver, timeout="300ms"))
    alice, bob = server.login(), server.login()
    say(alice, bob.user, ["1", "2"])
    receiver.until(lambda: len(receiver.events()) == 2)
    assert [status for *_, status in receiver.posts][:4] == [500, 503, 429, 302]
    assert {path for path, *_ in receiver.posts} == {"/in"}
    receiver.gate.clear()
    say(alice, bob.user, ["3"])
    until_logged(server, "no answer within 0.3 s")
    receiver.gate.set()
    receiver.until(lambda: len(receiver.events()) == 3)
    assert receiver.bodies() == {direct(alice.user, bob.user): ["1", "2", "3"]}


def test_a_refused_event_is_put_aside_alone(make_server, receiver):
    """400 for one message of a batch: the others arrive, it waits for `imserver webhook retry` or `drop`."""
    receiver.answers = [lambda post: (400 if any("bad" in str(e) for e in post["events"]) else 200, {}, b"")]
    receiver.gate.clear()
    server = make_server(settings(receiver))
    alice, bob = server.login(), server.login()
    say(alice, bob.user, ["1", "bad", "3", "bad too"])
    receiver.gate.set()
    receiver.until(lambda: len(receiver.events()) == 2)
    say(alice, bob.user, ["5"])
    receiver.until(lambda: len(receiver.events()) == 3)
    listed = imserver(server, "webhook", "list")
    assert "2 given up" in listed
    assert listed.count("HTTP 400") == 2
    receiver.answers = []
    assert imserver(server, "webhook", "retry", "1") == "1 events wait again\n"
    receiver.until(lambda: len(receiver.events()) == 4)
    assert receiver.bodies() == {direct(alice.user, bob.user): ["1", "3", "5", "bad"]}
    assert imserver(server, "webhook", "drop", "--all") == "1 events dropped\n"
    assert "no events were given up" in imserver(server, "webhook", "list")


def test_other_events(make_server, receiver):
    """Users that come, log in and go, and friends: with ids, through a kill -9 while the receiver is away."""
    server = make_server(settings(receiver, events=["user.*", "friend.requested"]))
    receiver.stop()
    alice, bob = server.login(), server.login()
    alice.ok(3001, user_id=bob.user)
    server.kill()
    receiver.start()
    server.start()
    bob = server.again(bob)
    receiver.until(lambda: sum(event["event"] == "user.login" for event in receiver.events()) == 3)
    bob.close()
    receiver.until(lambda: receiver.events()[-1]["event"] == "user.offline")
    of_alice = [event["event"] for event in receiver.events() if event.get("user_id") == alice.user]
    assert of_alice == ["user.created", "user.login", "user.online", "friend.requested"]
    of_bob = [event["event"] for event in receiver.events() if event.get("user_id") == bob.user]
    assert of_bob == ["user.created", "user.login", "user.online", "user.login", "user.online", "user.offline"]
    assert all(event["event"] != "message.accepted" for event in receiver.events())


def test_private_addresses_are_refused(make_server, receiver):
    """Without `allowed_networks` nothing connects to this machine, by whatever name; the events wait."""
    given = settings(receiver)
    given["plugins.webhook.allowed_networks"] = "[]"
    server = make_server(given)
    alice, bob = server.login(), server.login()
    say(alice, bob.user, ["1"])
    until_logged(server, "is no public address")
    assert receiver.posts == []
    server.kill()
    server.settings["plugins.webhook.allowed_networks"] = '["127.0.0.0/8"]'
    server.start()
    receiver.until(lambda: len(receiver.events()) == 1)


def test_before_send(make_server, receiver):
    """A receiver that is asked allows, changes and refuses; without an answer the policy decides."""

    def judge(post):
        if "events" in post:
            return 200, {}, b""
        body = post["message"]["body"]
        if "refuse" in body:
            answer = {"action": "refuse", "message": "not here", "error": "bad_words"}
        elif "change" in body:
            answer = {"action": "change", "body": body.replace("change", "changed")}
        elif "nonsense" in body:
            answer = {"action": "nonsense"}
        else:
            return 204, {}, b""
        return 200, {}, json.dumps(answer).encode()

    receiver.answers = [judge]
    server = make_server(settings(receiver, before_send={"timeout": "2s", "on_failure": "refuse"}))
    alice, bob = server.login(), server.login()
    say(alice, bob.user, ["fine"])
    refusal = alice.fails(403, SEND, to=bob.user, client_id="r", body="refuse me")
    assert (refusal["error"], refusal["message"]) == ("bad_words", "not here")
    first = alice.text(bob.user, "change it", "c")
    again = alice.text(bob.user, "change it", "c")
    assert (again["duplicate"], again["seq"], first["seq"]) == (True, 2, 2)
    assert alice.fails(503, SEND, to=bob.user, client_id="n", body="nonsense")["error"] == "check_unavailable"
    assert [message["body"] for message in bob.pull_all(direct(alice.user, bob.user))] == ["fine", "changed it"]
    asked = [json.loads(raw)["message"]["client_id"] for path, _, raw, _ in receiver.posts if path == "/ask"]
    assert asked == ["fine", "r", "c", "n"]
    receiver.stop()
    assert alice.fails(503, SEND, to=bob.user, client_id="d", body="down")["error"] == "check_unavailable"
    server.stop()
    server.settings = settings(receiver, before_send={"on_failure": "allow"})
    server.settings |= (
        make_server(name="other", start=False).settings | {"server.data_dir": str(server.data)} | server.settings
    )
    server.start()
    assert server.again(alice).text(bob.user, "down", "d")["seq"] == 3


def test_wrong_settings_end_the_start(make_server, receiver):
    """No secret, or a scheme that is not allowed: exit status 3 and a message that says what to do."""
    from process import ServerFailed

    for change, words in (
        ({"secret": ""}, "give secret or secret_file"),
        ({"secret": "short"}, "16 bytes at least"),
        ({"url": "ftp://example.org/"}, "scheme must be one of http, https"),
    ):
        with pytest.raises(ServerFailed) as failed:
            make_server(settings(receiver, **change))
        assert failed.value.status == 3
        assert words in failed.value.text


def test_commands_for_bots(make_server, receiver):
    """A command is told once by id, with its place in the conversation, though the server is killed in between."""
    given = settings(receiver, events=["bot.command"])
    given["plugins.enabled"] = '["user", "message", "bot", "webhook"]'
    server = make_server(given)
    server.register("robo")
    imserver(server, "bot", "add", "robo")
    alice = server.login()
    receiver.stop()
    alice.text("robo", "/roll 2d6", "c1")
    server.kill()
    receiver.start()
    server.start()
    alice = server.again(alice)
    alice.text("robo", "/roll 3d6", "c2")
    receiver.until(lambda: len(receiver.events()) == 2)
    assert [(event["bot"], event["name"], event["arguments"], event["seq"]) for event in receiver.events()] == [
        ("robo", "roll", "2d6", 1), ("robo", "roll", "3d6", 2),
    ]  # fmt: skip
