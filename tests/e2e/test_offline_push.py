"""Offline push by real processes: a gateway that is there, away, slow or killed, and a server that is killed."""

import hashlib
import hmac
import http.server
import json
import threading

import pytest
from wire import PUSH_ACK, direct

SET_PUSH_TOKEN = 5010
LOGOUT = 1005
SECRET = "a secret for the tests"
PATIENCE_S = 40


class Gateway:
    """Takes pushes on a port of its own; it may be stopped and come back."""

    def __init__(self):
        self.port = 0
        self.server = None
        self.posts = []
        self.status = 200
        self.news = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()

    def start(self):
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with gateway.news:
                    gateway.posts.append((dict(self.headers), body))
                    gateway.news.notify_all()
                gateway.gate.wait(PATIENCE_S)
                try:
                    self.send_response(gateway.status)
                    self.send_header("Content-Length", "0")
                    self.send_header("Connection", "close")
                    self.end_headers()
                except OSError:
                    return  # the server was killed, or waited no longer

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        if self.server is not None:
            self.gate.set()
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def pushes(self):
        return [json.loads(body) for _, body in list(self.posts)]

    def until(self, condition):
        with self.news:
            assert self.news.wait_for(lambda: condition(self.pushes()), PATIENCE_S), self.pushes()


@pytest.fixture
def gateway():
    made = Gateway().start()
    yield made
    made.stop()


def settings(gateway, **more):
    return {
        "plugins.enabled": '["user", "message", "push", "push_http"]',
        "plugins.push_http.url": f"http://127.0.0.1:{gateway.port}/push",
        "plugins.push_http.secret": SECRET,
        "plugins.push.offline_after": "1s",
        "plugins.push.retry_first": "50ms",
        "plugins.push.retry_most": "200ms",
        **more,
    }


def device(server, token, **options):
    """A user with a device that is pushed to."""
    client = server.login(**options)
    client.ok(SET_PUSH_TOKEN, provider="http", token=token)
    return client


def texts(pushes, token):
    return [push["text"] for push in pushes if push["token"] == token]


@pytest.mark.parametrize("shards", [1, 2])
def test_kill_forgets_nothing(make_server, gateway, shards):
    """kill -9 before the time is over, and while pushes wait for the gateway: the newest of each conversation comes."""
    server = make_server(settings(gateway, **{"server.shards": shards}))
    alice, bob, carol = server.login(), device(server, "t-bob"), device(server, "t-carol")
    gateway.stop()
    alice.text(bob.user, "waits", "1")
    for _ in range(3):  # looked at and found by then, or not: whatever it is, it is not forgotten
        server.kill()
        server.start()
        alice = server.again(alice)
        alice.text(carol.user, "is young", "2")
        alice.text(carol.user, "is newest", "3")
    server.kill()
    gateway.start()
    server.start()
    gateway.until(lambda pushes: "waits" in texts(pushes, "t-bob") and "is newest" in texts(pushes, "t-carol"))
    last = [push for push in gateway.pushes() if push["token"] == "t-carol"][-1]
    assert (last["badge"], last["unread"], last["seq"], last["from"]) == (2, 2, 2, alice.user)
    assert last["conversation_id"] == direct(alice.user, carol.user)
    for headers, body in gateway.posts:
        signed = headers["X-IM-Timestamp"].encode() + b"." + body
        assert headers["X-IM-Signature"] == "v1=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert "Traceback" not in server.text()


def test_killed_while_a_push_is_under_way(make_server, gateway):
    """The gateway has it, its answer is lost: it comes again, with the same collapse id."""
    server = make_server(settings(gateway))
    alice, bob = server.login(), device(server, "t-bob")
    gateway.gate.clear()
    alice.text(bob.user, "twice", "1")
    gateway.until(lambda pushes: len(pushes) == 1)
    server.kill()
    gateway.gate.set()
    server.start()
    gateway.until(lambda pushes: len(pushes) == 2)
    first, second = gateway.pushes()
    assert (first["collapse_id"], first["seq"], first["text"]) == (second["collapse_id"], second["seq"], "twice")


def test_a_stop_while_a_push_is_under_way(make_server, gateway):
    """The stop does not wait for it, and it comes again after the start."""
    server = make_server(settings(gateway))
    alice, bob = server.login(), device(server, "t-bob")
    gateway.gate.clear()
    alice.text(bob.user, "again", "1")
    gateway.until(lambda pushes: len(pushes) == 1)
    assert server.stop() == 0
    assert "Traceback" not in server.text()
    gateway.gate.set()
    server.start()
    gateway.until(lambda pushes: texts(pushes, "t-bob") == ["again", "again"])


def test_a_gateway_that_hangs_holds_up_nobody(make_server, gateway):
    """While every push hangs, messages and confirmations are answered; when it hangs no more, the newest comes."""
    server = make_server(settings(gateway, **{"plugins.push.timeout": "300ms"}))
    alice, bob = server.login(), device(server, "t-bob")
    gateway.gate.clear()
    alice.text(bob.user, "hangs", "1")
    gateway.until(lambda pushes: len(pushes) >= 2)
    for number in range(50):
        alice.text(bob.user, f"n{number}", f"n{number}")
    bob.ok(PUSH_ACK, conversation_id=direct(alice.user, bob.user), seq=51)
    gateway.gate.set()
    alice.text(bob.user, "the end", "e")
    gateway.until(lambda pushes: texts(pushes, "t-bob")[-1] == "the end")
    assert (gateway.pushes()[-1]["unread"], gateway.pushes()[-1]["seq"]) == (52, 52)
    assert "Traceback" not in server.text()


def test_a_device_that_logs_out_is_not_pushed_to(make_server, gateway):
    """LOGOUT forgets the device's token; the user's other device still has its pushes."""
    server = make_server(settings(gateway))
    alice, phone = server.login(), device(server, "t-phone", device_id="phone")
    tablet = server.login(phone.user, device_id="tablet")
    tablet.ok(SET_PUSH_TOKEN, provider="http", token="t-tablet")
    phone.ok(LOGOUT)
    alice.text(phone.user, "hello", "1")
    gateway.until(lambda pushes: texts(pushes, "t-tablet") == ["hello"])
    alice.text(phone.user, "again", "2")
    gateway.until(lambda pushes: texts(pushes, "t-tablet") == ["hello", "again"])
    assert texts(gateway.pushes(), "t-phone") == []


def test_a_gateway_says_that_a_device_is_gone(make_server, gateway):
    """410: it is not asked again."""
    server = make_server(settings(gateway))
    alice, bob, carol = server.login(), device(server, "t-bob"), device(server, "t-carol")
    gateway.status = 410
    alice.text(bob.user, "one", "1")
    gateway.until(lambda pushes: texts(pushes, "t-bob") == ["one"])
    gateway.status = 200
    alice.text(bob.user, "two", "2")
    alice.text(carol.user, "three", "3")
    gateway.until(lambda pushes: texts(pushes, "t-carol") == ["three"])
    assert texts(gateway.pushes(), "t-bob") == ["one"]
