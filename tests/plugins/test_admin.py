"""The admin plugin on a real server: who may look, and what there is to see."""

import http.client
import json
import subprocess
import sys

import pytest
from process import PASSWORD

PATHS = ["/v1/admin/stats", "/v1/admin/config", "/v1/admin/plugins"]


def get(server, path, **headers):
    """GET a JSON answer: (status, fields)."""
    host, port = server.ready["http"][0].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture
def administered(make_server):
    """A server of this test's own, and the token of its administrator."""
    server = make_server()
    data = f"server.data_dir={server.data}"
    add = [sys.executable, "-m", "imserver", "user", "add", "root", "--role", "admin", "--password", PASSWORD]
    subprocess.run([*add, "--set", data], check=True, cwd=server.folder, capture_output=True, timeout=60)
    with server.client() as client:
        token = client.login("root", PASSWORD)["token"]
    return server, {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", PATHS)
def test_only_an_administrator_may_look(server, path):
    """Nobody gets 401, a user without the role 403."""
    assert get(server, path)[0] == 401
    user = server.login()
    status, fields = get(server, path, Authorization=f"Bearer {user.token}")
    assert (status, fields["error"]) == (403, "forbidden")


def test_stats_count_what_happens(administered):
    """Messages, requests and errors by command, sessions and commits are those that were."""
    server, auth = administered
    alice, bob = server.login(), server.login()
    before = get(server, "/v1/admin/stats", **auth)[1]
    for index in range(5):
        alice.ok(2001, to=bob.user, client_id=str(index), body="hi")
    alice.fails(404, 2001, to="nobody-there", client_id="x", body="hi")
    after = get(server, "/v1/admin/stats", **auth)[1]
    assert after["messages"] - before["messages"] == 5
    assert after["users_online"] == 2
    assert sum(shard["sessions"] for shard in after["shards"]) == 2
    assert sum(shard["http_connections"] for shard in after["shards"]) == 1
    assert after["commits"] > before["commits"]
    assert after["commit_failures"] == 0
    assert 0 < after["commit_ms"]["p50"] <= after["commit_ms"]["p99"] <= after["commit_ms"]["max"]
    (send,) = (command for command in after["commands"] if command["command"] == 2001)
    assert send == {"command": 2001, "name": "SEND", "requests": 6, "errors": {"404": 1}}
    assert after["started_at"] <= before["time"] <= after["time"]


def test_the_configuration_is_in_force_and_masked(administered):
    """Settings from the command line are there; no secret is."""
    server, auth = administered
    status, fields = get(server, "/v1/admin/config", **auth)
    assert status == 200
    assert fields["config"]["server"]["data_dir"] == str(server.data)
    assert server.secret.decode() not in json.dumps(fields)


def test_plugins_say_what_they_bring(administered):
    """Each plugin has its commands and routes."""
    server, auth = administered
    plugins = {plugin["name"]: plugin for plugin in get(server, "/v1/admin/plugins", **auth)[1]["plugins"]}
    assert {"user", "message", "push", "file", "admin"} <= set(plugins)
    assert {"command": 2001, "name": "SEND", "allow": "user"} in plugins["message"]["commands"]
    assert {"method": "GET", "path": "/v1/admin/stats", "allow": "role:admin"} in plugins["admin"]["routes"]
    assert plugins["admin"]["summary"]
