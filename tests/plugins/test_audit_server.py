"""The audit log of a real server and its command line."""

import json
import sqlite3
import subprocess
import sys
import threading

import pytest
from wire import AUTH, LOGIN, LOGOUT

PATIENCE = 1000


@pytest.fixture
def server(make_server):
    return make_server({"plugins.enabled": '["user", "message", "audit"]', "plugins.audit.failures_per_minute": 3})


def imserver(server, *words, status=0):
    """`imserver …` beside the server; gives its output."""
    options = [word for key, value in server.settings.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "imserver", *words, *options], cwd=server.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def entries(server):
    return [json.loads(line) for line in imserver(server, "audit", "export").splitlines()]


def happened(server):
    """(event, user) of each entry."""
    return [(entry["event"], entry["fields"].get("user_id")) for entry in entries(server)]


def until_sealed(server):
    """Until every entry has its hash."""
    waited = threading.Event()
    for _ in range(PATIENCE):
        if all(entry["hash"] for entry in entries(server)):
            return
        waited.wait(0.02)
    raise AssertionError("entries stay without a hash")


def test_what_is_entered(server):
    """Users, logins and failures, and what the command line changes beside the server; through a kill -9."""
    alice = server.login()
    with server.client() as other:
        other.fails(401, LOGIN, user_id=alice.user, password="wrong word 1")
    imserver(server, "user", "role", alice.user, "admin")
    imserver(server, "token", "key", "add", "shop", "--scope", "message")
    imserver(server, "token", "key", "revoke", "shop")
    alice.ok(LOGOUT)
    server.kill()
    server.start()
    imserver(server, "user", "disable", alice.user)
    user = alice.user
    assert happened(server) == [
        ("sys_startup", None),
        ("user_created", user),
        ("authn_login_success", user),
        ("authn_login_fail", user),
        ("privilege_permissions_changed", user),
        ("authn_token_created", None),
        ("authn_token_revoked", None),
        ("session_logout", user),
        ("sys_startup", None),
        ("user_archived", user),
        ("authn_token_revoked", user),
    ]
    fields = [entry["fields"] for entry in entries(server)]
    assert fields[4] == {"user_id": user, "before": [], "after": ["admin"]}
    assert (fields[5]["key"], fields[5]["scopes"]) == ("shop", ["message"])
    assert fields[3] == {"user_id": user, "address": "127.0.0.1"}
    assert "authn_login_fail" in imserver(server, "audit", "list", "--event", "authn_*")
    assert "user_created" not in imserver(server, "audit", "list", "--event", "authn_*")
    assert "shop" not in imserver(server, "audit", "list", "--user", user)
    until_sealed(server)
    assert "11 entries are as they were written" in imserver(server, "audit", "verify")


def test_strangers_do_not_fill_it(server):
    """Failures beyond `failures_per_minute` are counted."""
    with server.client() as client:
        for number in range(6):
            client.fails(401, LOGIN, user_id=f"nobody-{number}", password="wrong word 1")
        client.fails(401, AUTH, token="x")
    failures = [event for event, _ in happened(server) if event == "authn_login_fail"]
    assert len(failures) == 3


def test_tampering_is_found(server):
    """The table takes neither DELETE nor UPDATE; whoever gets around that is found by `verify`."""
    server.login()
    until_sealed(server)
    head = imserver(server, "audit", "verify").splitlines()[-1].removeprefix("head ")
    assert server.stop() == 0
    path = server.data / "imserver.db"
    database = sqlite3.connect(path)
    for sql in ("DELETE FROM audit_log WHERE id = 2", "UPDATE audit_log SET fields = '{}' WHERE id = 2"):
        with pytest.raises(sqlite3.IntegrityError, match="the audit log is never"):
            database.execute(sql)
        database.rollback()
    imserver(server, "audit", "verify", "--expect", head)
    database.execute("DROP TRIGGER audit_log_is_fixed")
    database.execute("UPDATE audit_log SET fields = '{}' WHERE id = 2")
    database.commit()
    database.close()
    assert "tampered with: entry 2 is not what was written" in imserver(server, "audit", "verify", status=1)


def test_a_password_set_beside_the_server(server):
    """By the command line, which has no session: it is there, with the end of all sessions."""
    alice = server.login()
    known = len(entries(server))
    imserver(server, "user", "passwd", alice.user, "--password", "another correct horse 8")
    assert happened(server)[known:] == [("user_updated", alice.user), ("authn_token_revoked", alice.user)]
    assert entries(server)[known]["fields"]["changed"] == "password"
    assert "another correct horse" not in imserver(server, "audit", "export") + server.text()


def test_one_failure_does_not_hide_another(server):
    """Whoever causes many refusals of one kind hides nothing of another kind, and how many there were is said."""
    alice = server.login()
    with server.client() as client:
        for number in range(6):
            client.fails(401, LOGIN, user_id=f"nobody-{number}", password="wrong word 1")
    alice.ok(LOGOUT)
    server.stop()
    events = [entry["event"] for entry in entries(server)]
    assert (events.count("authn_login_fail"), events.count("session_logout")) == (3, 1)
    last = entries(server)[-2:]
    assert [(entry["event"], entry["fields"].get("entries")) for entry in last] == [
        ("audit_suppressed", 3), ("sys_shutdown", None),
    ]  # fmt: skip
    assert all(entry["hash"] for entry in last)


def test_deletions_are_found(server):
    """Rows that are gone, from the middle or the end, or changed places: `verify` fails, whatever the triggers would say."""
    for _ in range(3):
        server.login()
    until_sealed(server)
    assert server.stop() == 0
    path = server.data / "imserver.db"
    whole = path.read_bytes()
    swapped = [f"UPDATE audit_log SET id = {new} WHERE id = {old}" for old, new in ((2, 1000), (3, 2), (1000, 3))]
    for statements, words in (
        (["DELETE FROM audit_log WHERE id = (SELECT max(id) FROM audit_log)"], "are missing"),
        (["DELETE FROM audit_log WHERE id = 3"], "entry 3 is missing"),
        (swapped, "entry 2 is not what was written there"),
        (["UPDATE audit_log SET hash = NULL WHERE id = 3"], "entry 3 has no hash, and entry 4 has one"),
    ):
        path.write_bytes(whole)
        database = sqlite3.connect(path)
        for sql in ("DROP TRIGGER audit_log_stays", "DROP TRIGGER audit_log_is_fixed", *statements):
            database.execute(sql)
        database.commit()
        database.close()
        assert words in imserver(server, "audit", "verify", status=1)
    path.write_bytes(whole)
    imserver(server, "audit", "verify")
