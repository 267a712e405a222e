"""What depends on several requests at once, or on headers that come twice."""

import http.client
import json
import threading

import pytest
from api_rig import JSON_TYPE, Site


def at_once(count, ask):
    """Run `ask(i)` in so many threads together; gives what they return."""
    answers, start = [], threading.Barrier(count)

    def one(index):
        start.wait()
        answers.append(ask(index))

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def send_headers(site, path, headers):
    """One request with these headers, also with two of a name; gives (status, fields)."""
    host, port = site.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.putrequest("GET", path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_rate_limit_holds_for_requests_at_once(make_server):
    """Requests that are under way together share one bucket: no more than the burst goes through."""
    server = make_server({"limits.requests_per_second": 2, "server.shards": 1})
    alice = Site(server).integrated(server.register())

    def send(index):
        message = {"to": alice.user, "client_id": f"m{index}", "body": "x"}
        return alice.ask("POST", "/v1/messages", message, headers=JSON_TYPE).status

    statuses = at_once(60, send)
    assert set(statuses) == {200, 429}
    assert statuses.count(200) < 30, statuses.count(200)


def test_plugin_routes_count_too(make_server):
    """A path of a plugin's takes from the same bucket as commands."""
    server = make_server({"limits.requests_per_second": 2, "server.shards": 1})
    alice = Site(server).integrated(server.register())
    statuses = [alice.ask("GET", "/v1/files").status for _ in range(40)]
    assert set(statuses) == {200, 429}
    assert alice.ask("GET", "/v1/devices").status == 429


def test_one_key_at_once_is_one_message(alice, bob):
    """The same Idempotency-Key on forty connections together: one message, thirty-nine duplicates of it."""

    def send(_):
        headers = {"Idempotency-Key": "at-once"}
        return alice.post("/v1/messages", {"to": bob.user, "body": "once"}, headers=headers).done()

    answers = at_once(40, send)
    assert len({answer["message_id"] for answer in answers}) == 1
    assert sum(not answer.get("duplicate") for answer in answers) == 1


@pytest.mark.parametrize(
    "twice",
    [
        [("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
        [("X-API-Key", "a"), ("X-API-Key", "b"), ("X-IM-User", "alice")],
        [("X-API-Key", "a"), ("X-IM-User", "alice"), ("X-IM-User", "bob")],
    ],
    ids=["authorization", "key", "user"],
)
@pytest.mark.parametrize("path", ["/v1/devices", "/v1/files"], ids=["command", "plugin-route"])
def test_credentials_that_come_twice(site, path, twice):
    """Who asks is said once: a proxy in front may have looked at the other one."""
    status, fields = send_headers(site, path, twice)
    assert (status, fields["error"]) == (400, "bad_request")
    assert "comes twice" in fields["message"]


def test_two_good_tokens_are_refused(alice, bob):
    """Not even two tokens that are good name a user: neither's devices are shown."""
    headers = [("Authorization", who.credentials["Authorization"]) for who in (alice, bob)]
    status, fields = send_headers(alice, "/v1/devices", headers)
    assert status == 400
    assert "devices" not in fields
