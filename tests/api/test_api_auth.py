"""Who asks: tokens, API keys, certificates; and that what has ended is over at once."""

import json
import subprocess
import time

import pytest
from api_rig import Site, run_cli
from certificates import Authority
from process import PASSWORD
from wire import direct, sign


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer " + "x" * 5000,
        "Token x",
        "Bearer é",
    ],
)
def test_no_token(site, authorization):
    """Whatever is wrong with it: 401, and what to show instead."""
    answer = Site(site.server, Authorization=authorization).get("/v1/devices")
    answer.refused(401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_tokens_that_are_not_ours(site, alice):
    """Another secret, no algorithm, expired, for nobody: 401 each, and nothing says which."""
    now = int(time.time())
    secret = site.server.secret
    tokens = [
        sign(b"x" * 32, {"sub": alice.user, "exp": now + 60}),
        sign(secret, {"sub": alice.user, "exp": now + 60}, algorithm="none"),
        sign(secret, {"sub": alice.user, "exp": now - 60}),
        sign(secret, {"sub": "nobody/at all", "exp": now + 60}),
        sign(secret, {"exp": now + 60}),
        sign(secret, {"sub": alice.user}),
    ]
    for token in tokens:
        site.by_token(token).get("/v1/devices").refused(401, "unauthenticated")


def test_a_token_that_expires(site, alice):
    """It is good until then, though it was found good before and remembered."""
    short = site.integrated(alice.user, lasts_s=2)
    assert short.get("/v1/devices").status == 200
    deadline = time.monotonic() + 20
    while (answer := short.get("/v1/devices")).status == 200 and time.monotonic() < deadline:
        pass
    answer.refused(401, "unauthenticated")


def test_scheme_in_any_case(site, alice):
    """`bearer` is `Bearer`."""
    token = alice.credentials["Authorization"].split()[1]
    Site(site.server, Authorization=f"bearer  {token} ").get("/v1/devices").done()


def test_a_revoked_token_is_over_at_once(site):
    """After LOGOUT, a change of the password, KICK_DEVICE: the next request is refused, though the last was answered."""
    user = site.server.register()
    first, second, third = (site.logged_in(user) for _ in range(3))
    for one in (first, second, third):
        one.get("/v1/devices").done()
    first.ask("DELETE", "/v1/sessions/current").done()
    first.get("/v1/devices").refused(401)
    second.ask("PUT", "/v1/users/me/password", {"old_password": PASSWORD, "new_password": PASSWORD + " new"}).done()
    third.get("/v1/devices").refused(401)
    second.get("/v1/devices").done()


def test_a_disabled_user(site, alice):
    """Disabled by an administrator over HTTP: the token is refused at once; a fresh one is 403."""
    admin = site.new_user()
    run_cli(site.server, "user", "role", admin.user, "admin")
    deadline = time.monotonic() + 20
    while (answer := admin.get("/v1/admin/users?limit=1")).status == 403 and time.monotonic() < deadline:
        pass
    answer.done()
    alice.get("/v1/admin/users").refused(403, "forbidden")
    alice.get("/v1/devices").done()
    admin.post(f"/v1/admin/users/{alice.user}/disable", {"disabled": True}).done()
    assert alice.get("/v1/devices").status in (401, 403)
    site.integrated(alice.user).get("/v1/devices").refused(403, "forbidden")
    site.post("/v1/sessions", {"user_id": alice.user, "password": PASSWORD}).refused(403)
    admin.post(f"/v1/admin/users/{alice.user}/disable", {"disabled": False}).done()
    site.logged_in(alice.user).get("/v1/devices").done()


def test_admin_routes_answer_as_declared(site, described, alice):
    """What the description says of the admin's paths is what they answer."""
    admin = site.by_key(f"admin-{alice.user}", "*", "admin")
    wanted = [
        ("GET", "/v1/admin/stats", None),
        ("GET", "/v1/admin/config", None),
        ("GET", "/v1/admin/plugins", None),
        ("GET", "/v1/admin/users", None),
        ("GET", "/v1/admin/users/{user_id}/sessions", None),
        ("POST", "/v1/admin/users/{user_id}/role", {"role": "helper", "present": True}),
        ("POST", "/v1/admin/users/{user_id}/kick", {}),
        ("POST", "/v1/admin/users/{user_id}/disable", {"disabled": True}),
    ]
    for method, path, body in wanted:
        answer = admin.ask(method, path.replace("{user_id}", alice.user), body)
        answer.done()
        described.check_answer(method, path, answer)
    assert {path for path in described.api["paths"] if path.startswith("/v1/admin")} == {path for _, path, _ in wanted}


def test_files_answer_as_declared(site, described, alice):
    """What the description says of the files' paths is what they answer."""
    uploaded = alice.post("/v1/files", b"bytes", headers={"Content-Type": "text/plain"})
    described.check_answer("POST", "/v1/files", uploaded)
    begun = alice.post("/v1/files?resumable=1", headers={"Upload-Length": "5"})
    described.check_answer("POST", "/v1/files", begun)
    url = begun.done()["upload_url"]
    described.check_answer("PATCH", "/v1/files/{file_id}", alice.ask("PATCH", url, b"x", {"Upload-Offset": "4"}))
    described.check_answer("PATCH", "/v1/files/{file_id}", alice.ask("PATCH", url, b"bytes", {"Upload-Offset": "0"}))
    described.check_answer("GET", "/v1/files", alice.get("/v1/files?limit=1"))
    described.check_answer("DELETE", "/v1/files/{file_id}", alice.ask("DELETE", uploaded.json["url"]))
    responses = described.operation("GET", "/v1/files/{file_id}")["responses"]
    statuses = [alice.get(url, headers={"Range": wanted}).status for wanted in ("bytes=0-1", "bytes=9-", "pages=1")]
    assert statuses == [206, 416, 200]
    assert set(map(str, statuses)) <= set(responses)


# ---------------------------------------------------------------- API keys


def test_an_api_key_acts_for_users(site, alice, bob):
    """With its scope it sends for whom X-IM-User names; without the name it can only do what needs no user."""
    key = site.by_key(f"send-{alice.user}", "message.SEND", "user.REGISTER")
    as_alice = Site(site.server, alice.user, **key.credentials, **{"X-IM-User": alice.user})
    message = {"to": bob.user, "client_id": "k", "body": "by a back end"}
    as_alice.post("/v1/messages", message).done()
    (shown,) = bob.get(f"/v1/conversations/{direct(alice.user, bob.user)}/messages").done()["messages"]
    assert (shown["from"], shown["body"]) == (alice.user, "by a back end")
    assert "X-IM-User" in key.post("/v1/messages", message).refused(401)["message"]
    assert "message.SYNC" in as_alice.get("/v1/conversations").refused(403, "forbidden")["message"]
    as_alice.get("/v1/files").refused(403, "forbidden")
    as_alice.get("/v1/admin/stats").refused(403, "forbidden")
    key.post("/v1/users", {"user_id": f"{alice.user}-made", "password": PASSWORD}).done()
    Site(site.server, **key.credentials, **{"X-IM-User": "nobody-here"}).post("/v1/messages", message).refused(404)
    Site(site.server, **key.credentials, **{"X-IM-User": "no/body"}).post("/v1/messages", message).refused(400)


def test_credentials_that_do_not_go_together(site, alice):
    """A token beside a key, a token for somebody else, a name without a key, a key that is none."""
    key = site.by_key(f"both-{alice.user}", "*")
    Site(site.server, **key.credentials, **alice.credentials).get("/v1/devices").refused(400)
    Site(site.server, **alice.credentials, **{"X-IM-User": alice.user}).get("/v1/devices").refused(403)
    Site(site.server, **{"X-IM-User": alice.user}).get("/v1/devices").refused(401)
    Site(site.server, **{"X-API-Key": "imk_nonsense", "X-IM-User": alice.user}).get("/v1/devices").refused(401)
    Site(site.server, **{"X-API-Key": "imk_nonsense"}).command("hello").refused(401)


def test_a_revoked_key_is_over_within_seconds(site, alice):
    """The command line ends it while the server runs."""
    key = site.by_key(f"gone-{alice.user}", "user", user=alice.user)
    key.get("/v1/devices").done()
    run_cli(site.server, "token", "key", "revoke", f"gone-{alice.user}")
    deadline = time.monotonic() + 20
    while (answer := key.get("/v1/devices")).status == 200 and time.monotonic() < deadline:
        pass
    answer.refused(401, "unauthenticated")


def test_the_admin_scope_is_a_role(site, alice):
    """It opens /v1/admin without a user; every other scope does not."""
    site.by_key(f"admin-only-{alice.user}", "admin").get("/v1/admin/stats").done()
    site.by_key(f"star-only-{alice.user}", "*").get("/v1/admin/stats").refused(403, "forbidden")


# ---------------------------------------------------------------- certificates


def test_a_client_certificate(make_server, tmp_path):
    """By TLS a certificate is its user over HTTP; a token beside it counts instead of it."""
    authority = Authority()
    files = authority.server_files(tmp_path)
    settings = {
        "tls.certificate": files.certificate,
        "tls.key": files.key,
        "tls.client_ca": authority.write(tmp_path / "ca.pem"),
        "tls.client_certificates": "optional",
        # Users are made over TLS, which the rig's own client does not speak.
        "auth.registration": "open",
    }
    server = make_server(settings)
    own = authority.client_files(tmp_path, "alice")

    def curl(path, *words):
        words = ["curl", "-sS", "--cacert", tmp_path / "ca.pem", *words, f"https://{server.ready['http'][0]}{path}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    as_json = ("-H", "Content-Type: application/json", "-d")
    for user in ("alice", "bob"):
        curl("/v1/users", *as_json, json.dumps({"user_id": user, "password": PASSWORD}))
    mine = ("--cert", own.certificate, "--key", own.key)
    sent = json.dumps({"to": "bob", "body": "x", "client_id": "c"})
    assert curl("/v1/messages", *mine, *as_json, sent)["conversation_id"] == direct("alice", "bob")
    assert curl("/v1/messages", *as_json, sent)["code"] == 401
    token = sign(server.secret, {"sub": "bob", "exp": int(time.time()) + 60})
    (conversation,) = curl("/v1/conversations", *mine, "-H", f"Authorization: Bearer {token}")["conversations"]
    assert conversation["peer"] == "alice"
    assert curl("/v1/discover")["endpoints"]["ws"].startswith("wss://")
