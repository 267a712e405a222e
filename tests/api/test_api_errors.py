"""Every refusal has the form of section 2: status = code, a stable error, a message, and the field that is wrong."""

import http.client
import json
import socket

import pytest
from api_rig import Site
from wire import direct

TEXT = {"Content-Type": "text/plain"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "error", "field"),
    [
        ("POST", "/v1/messages", {}, {}, 400, "bad_request", "client_id"),
        ("POST", "/v1/messages", {"client_id": "c", "to": "bob"}, {}, 400, "bad_request", "body"),
        ("POST", "/v1/messages", {"client_id": 7, "to": "bob", "body": ""}, {}, 400, "bad_request", "client_id"),
        ("POST", "/v1/messages", {"client_id": "c" * 65, "to": "bob", "body": ""}, {}, 400, "bad_request", "client_id"),
        ("POST", "/v1/messages", {"client_id": "ü" * 33, "to": "bob", "body": ""}, {}, 400, "bad_request", "client_id"),
        ("POST", "/v1/messages", {"client_id": "c", "to": "bob", "body": 7}, {}, 400, "bad_request", "body"),
        ("POST", "/v1/messages", {"client_id": "c", "to": "no/body", "body": ""}, {}, 400, "bad_request", "to"),
        ("POST", "/v1/messages", {"client_id": "c", "to": "nobody-here", "body": ""}, {}, 404, "not_found", "to"),
        ("POST", "/v1/messages", b"[]", {}, 400, "bad_request", None),
        ("POST", "/v1/messages", b"null", {}, 400, "bad_request", None),
        ("POST", "/v1/messages", b'{"client_id": ', {}, 400, "bad_request", None),
        ("POST", "/v1/messages", b'{"client_id": "\xff"}', {}, 400, "bad_request", None),
        ("POST", "/v1/messages", b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", {}, 400, "bad_request", None),
        ("POST", "/v1/messages", b"[]", {"Idempotency-Key": "k"}, 400, "bad_request", None),
        ("POST", "/v1/messages", b'{"client_id"', {"Idempotency-Key": "k"}, 400, "bad_request", None),
        ("POST", "/v1/messages", b"{}", TEXT, 415, "unsupported_media_type", None),
        ("POST", "/v1/messages", b"{}", {"Content-Type": None}, 415, "unsupported_media_type", None),
        ("POST", "/v1/messages", b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, None, None),
        ("POST", "/v1/commands/2001", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, None, None),
        ("PUT", "/v1/conversations/d:a:b/read", b"{}", TEXT, 415, "unsupported_media_type", None),
        ("PUT", "/v1/conversations/d:a:b/read", b"[]", {}, 400, "bad_request", None),
        ("PUT", "/v1/conversations/d:a:b/read", {"seq": "1"}, {}, 400, "bad_request", "seq"),
        ("PUT", "/v1/conversations/x/read", {"seq": 1}, {}, 400, "bad_request", "conversation_id"),
        ("POST", "/v1/messages", b"x" * 1_048_577, {}, 413, "too_large", None),
        ("GET", "/v1/users", None, {}, 400, "bad_request", "user_ids"),
        ("GET", "/v1/users?user_ids=a,,b", None, {}, 400, "bad_request", "user_ids"),
        ("GET", "/v1/users?user_ids=" + ",".join(["u"] * 501), None, {}, 413, "too_large", "user_ids"),
        ("GET", "/v1/users?user_ids=a&user_ids=b", None, {}, 400, "bad_request", "user_ids"),
        ("GET", "/v1/users?user_ids=a&users=b", None, {}, 400, "bad_request", "users"),
        ("GET", "/v1/devices?limit=1", None, {}, 400, "bad_request", "limit"),
        ("GET", "/v1/conversations?limit=x", None, {}, 400, "bad_request", "limit"),
        ("GET", "/v1/conversations?limit=0", None, {}, 400, "bad_request", "limit"),
        ("GET", "/v1/conversations?limit=501", None, {}, 400, "bad_request", "limit"),
        ("GET", "/v1/conversations?limit=null", None, {}, 400, "bad_request", "limit"),
        ("GET", "/v1/conversations?limit=" + "9" * 5000, None, {}, 400, "bad_request", "limit"),
        ("GET", "/v1/conversations?cursor=nonsense", None, {}, 400, "bad_request", "cursor"),
        ("GET", "/v1/conversations/d:a:b/messages?before_seq=null", None, {}, 400, "bad_request", "before_seq"),
        ("GET", "/v1/conversations/d:x:y/messages", None, {}, 403, "forbidden", None),
        ("GET", "/v1/conversations/nonsense/messages", None, {}, 400, "bad_request", "conversation_id"),
        ("GET", "/v1/nothing", None, {}, 404, "not_found", None),
        ("GET", "/v1", None, {}, 404, "not_found", None),
        ("GET", "/v1/users/", None, {}, 404, "not_found", None),
        ("POST", "/v1/commands/65535", {}, {}, 404, "unknown_command", None),
        ("POST", "/v1/commands/-1", {}, {}, 404, "unknown_command", None),
        ("DELETE", "/v1/conversations/d:a:b/messages/" + "9" * 5000, None, {}, 404, "not_found", None),
        ("GET", "/v1/commands/2001", None, {}, 405, "method_not_allowed", None),
        ("PUT", "/v1/users", None, {}, 405, "method_not_allowed", None),
        ("OPTIONS", "/v1/users", None, {}, 405, "method_not_allowed", None),
    ],
)
def test_refusals(alice, bob, method, path, body, headers, status, error, field):
    """One wrong request each."""
    if isinstance(body, dict) and body.get("to") == "bob":
        body = {**body, "to": bob.user}
    answer = alice.ask(method, path, body, headers)
    answer.refused(status, error, field)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/users", "GET, HEAD, POST"),
        ("GET", "/v1/users/me", "PATCH"),
        ("GET", "/v1/commands/send", "POST"),
        ("POST", "/v1/conversations/d:a:b/messages", "GET, HEAD"),
        ("POST", "/v1/files/0123", "GET, HEAD, PATCH, DELETE"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/openapi.json", "GET, HEAD"),
    ],
)
def test_allow_names_every_method(alice, method, path, allow):
    """405 says all methods of the path, not only those of its first route."""
    answer = alice.ask(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)


def test_people_get_text(site):
    """Outside of /v1 an error is a line of text, and what was asked for is not echoed."""
    answer = site.get("/<script>alert(1)</script>")
    assert (answer.status, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    assert b"script" not in answer.body
    assert b"/docs" in answer.body


def test_conflicts_and_limits(site, alice, bob):
    """409 for what exists already; too wide a batch is 413."""
    site.post("/v1/users", {"user_id": alice.user, "password": "correct horse 7 battery"}).refused(409, field="user_id")
    messages = [{"to": bob.user, "client_id": f"c-{n}", "body": "x"} for n in range(101)]
    alice.post("/v1/messages/batch", {"messages": messages}).refused(413, "too_large", "messages")
    assert alice.get("/v1/conversations").done()["conversations"] == []


def test_a_name_in_two_encodings_is_one_user(alice, bob):
    """Percent signs are decoded once, and a line break at the end is not overlooked."""
    conversation = direct(alice.user, bob.user)
    alice.post("/v1/messages", {"to": bob.user, "client_id": "c", "body": "x"}).done()
    twice = "".join(f"%25{ord(one):02x}" for one in conversation)
    alice.get(f"/v1/conversations/{twice}/messages").refused(400)
    assert alice.get(f"/v1/conversations/{conversation}%0a/messages").json.get("messages", []) == []


@pytest.mark.parametrize("sent", [b"", b'{"to": "b'])
def test_a_client_that_goes_away_in_the_middle(site, alice, sent):
    """It costs nothing but its own request: no message, no fault in the log."""
    host, port = site.address.rsplit(":", 1)
    head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: {alice.credentials['Authorization']}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    for path in ("/v1/messages", "/v1/files"):
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            sock.sendall(head.replace("/v1/messages", path).encode() + sent)
    assert alice.get("/v1/conversations").done()["conversations"] == []
    assert not [
        line for line in site.server.logs() if line.get("event") in ("handler_fault", "http_app_fault", "http_fault")
    ]


def test_rate_limit_by_identity(make_server):
    """limits.requests_per_second counts for a user over all connections; another user, and nobody, have their own."""
    server = make_server({"limits.requests_per_second": 2})
    site = Site(server)
    alice, bob = site.integrated(server.register()), site.integrated(server.register())
    answers = [alice.get("/v1/devices") for _ in range(12)]
    refused = [answer for answer in answers if answer.status == 429]
    assert answers[0].status == 200
    assert refused
    fields = refused[0].refused(429, "rate_limited")
    assert 1 <= int(refused[0].headers["retry-after"]) <= -(-fields["retry_after_ms"] // 1000)
    bob.get("/v1/devices").done()
    site.command("hello").done()
    answers = [site.command("hello") for _ in range(12)]
    assert {answer.status for answer in answers} == {200, 429}
    assert site.get("/healthz").status == 200


def test_a_user_named_as_an_address_has_a_limit_of_its_own(make_server):
    """What a user spends is not taken from those who ask without a token from that address."""
    server = make_server({"limits.requests_per_second": 2})
    site = Site(server)
    server.register("127.0.0.1")
    named = site.integrated("127.0.0.1")
    assert {named.get("/v1/devices").status for _ in range(12)} == {200, 429}
    site.command("hello").done()


PATIENT = """
import trio
from imserver.plugin import Plugin, command, route, ANYONE

class Patient(Plugin):
    name = "patient"

    @command(6001, timeout_s=600)
    async def wait(self, ctx, request):
        await trio.sleep_forever()

    @command(6002, name="SEND", allow=ANYONE)
    def send(self, ctx, request):
        return {"who": "patient"}

    @route("GET", "/v1/patient/{rest:path}", allow=ANYONE)
    async def read(self, ctx, request):
        return {"rest": request.path_params["rest"]}

    @route("GET", "/v1/broken", allow=ANYONE)
    async def broken(self, ctx, request):
        raise ValueError("secret text")

    @route("GET", "/app/icon.svg", allow=ANYONE)
    async def icon(self, ctx, request):
        return {"whose": "patient"}
"""


@pytest.fixture
def plugin_settings(tmp_path):
    """Settings with a plugin of the test's own."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "patient.py").write_text(PATIENT)
    return {"plugins.enabled": '["user", "message", "patient"]', "plugins.paths": str(folder)}


def test_draining(make_server, plugin_settings):
    """From GOAWAY on commands and routes are 503 with Retry-After; health is still told."""
    server = make_server({**plugin_settings, "server.drain": "300s"})
    site = Site(server)
    alice = server.login()
    alice.post(6001)
    alice.ok(1)
    host, port = site.address.rsplit(":", 1)
    old = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        server.terminate()
        assert alice.push(2)["error"] == "draining"
        for method, path in (("POST", "/v1/commands/1010"), ("GET", "/v1/patient/x")):
            old.request(method, path, headers={"Authorization": f"Bearer {alice.token}"})
            answer = old.getresponse()
            fields = json.loads(answer.read())
            assert (answer.status, fields["error"], answer.getheader("Retry-After")) == (503, "unavailable", "1")
        old.request("GET", "/livez")
        answer = old.getresponse()
        assert (answer.status, answer.read()) == (200, b"alive\n")
    finally:
        old.close()
    alice.close()
    assert server.wait() == 0


def test_routes_of_plugins(make_server, plugin_settings):
    """A plugin's paths and pages; its faults are 500 with a trace id and no text; another's command name it cannot take."""
    server = make_server(plugin_settings)
    site = Site(server)
    assert site.get("/v1/patient/a/b%20c").done()["rest"] == "a/b c"
    fields = site.get("/v1/broken").refused(500, "internal")
    assert "secret" not in fields["message"]
    server.wait_logged(lambda line: line.get("trace_id", "-") in fields["message"])
    assert site.get("/app/icon.svg").done()["whose"] == "patient"
    site.post("/v1/commands/send", {}).refused(401)
    assert site.post("/v1/commands/6002", {}).done()["who"] == "patient"


def test_two_plugins_that_claim_one_path(make_server, plugin_settings, tmp_path):
    """The server does not start; the message names both and what to do."""
    other = PATIENT.replace("Patient", "Other").replace('"patient"', '"other"').replace("60", "61")
    (tmp_path / "plugins" / "other.py").write_text(other)
    plugin_settings["plugins.enabled"] = '["user", "message", "patient", "other"]'
    server = make_server(plugin_settings, start=False)
    with pytest.raises(Exception, match=r"exit status [23]") as failed:
        server.start()
    assert "GET /v1/patient/{rest:path} is claimed by patient and by other" in str(failed.value)
    assert "Traceback" not in str(failed.value)
