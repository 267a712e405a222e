"""Files on a real server: over sockets, through kill -9, and between clients that are not ours."""

import hashlib
import http.client
import json
import os
import socket
import subprocess
import threading
import time

import pytest
from wire import SEND

PIECE = os.urandom(1 << 16)


class Web:
    """One user's HTTP requests to a real server, each on a connection of its own."""

    def __init__(self, server, user=None):
        self.server = server
        self.client = server.login(user)
        self.user = self.client.user

    @property
    def address(self):
        host, port = self.server.ready["http"][0].rsplit(":", 1)
        return host, int(port)

    @property
    def authorization(self):
        return {"Authorization": f"Bearer {self.client.token}"}

    def ask(self, method, path, headers=None, body=None):
        """(status, headers in lower case, body)."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body, {**self.authorization, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def upload(self, data, **headers):
        status, _, body = self.ask("POST", "/v1/files", {"Content-Type": "text/plain", **headers}, data)
        assert status == 200, body
        return json.loads(body)

    def begin(self, size):
        status, _, body = self.ask("POST", "/v1/files?resumable=1", {"Upload-Length": str(size)})
        assert status == 200, body
        return json.loads(body)["file_id"]

    def stands_at(self, file_id):
        status, headers, body = self.ask("HEAD", f"/v1/files/{file_id}")
        assert (status, body) == (200, b"")
        return int(headers["upload-offset"])

    def open(self, method, path, headers):
        """A connection on which a request's head is sent and its body is to follow."""
        sock = socket.create_connection(self.address, timeout=30)
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{key}: {value}" for key, value in {**self.authorization, **headers}.items()]
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return sock


def until(condition, what):
    """Wait for something that the server does by itself."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def stored(server):
    return [path for path in (server.data / "files").glob("??/*")]


def test_two_users_and_a_file(server):
    """Uploaded by one, named in a message over TCP, read by the other; a third gets what nobody gets."""
    alice, bob, carol = (Web(server) for _ in range(3))
    data = PIECE * 20 + b"end"
    sent = alice.upload(data, **{"X-File-Name": "%C3%A9.txt"})
    assert (sent["size"], sent["name"], sent["sha256"]) == (len(data), "é.txt", hashlib.sha256(data).hexdigest())
    path = f"/v1/files/{sent['file_id']}"
    assert bob.ask("GET", path)[0] == 404
    alice.client.ok(SEND, to=bob.user, client_id="1", type="file", body={"file_id": sent["file_id"]})
    status, headers, body = bob.ask("GET", path)
    assert (status, body) == (200, data)
    assert headers["content-disposition"].startswith("attachment")
    assert bob.ask("GET", path, {"Range": "bytes=65530-65541"})[::2] == (206, data[65530:65542])
    assert bob.ask("GET", path, {"If-None-Match": headers["etag"]})[::2] == (304, b"")
    status, headers, body = bob.ask("HEAD", path)
    assert (status, headers["content-length"], body) == (200, str(len(data)), b"")
    assert carol.ask("GET", path)[::2] == carol.ask("GET", "/v1/files/" + "0" * 32)[::2]
    assert carol.ask("GET", path)[0] == 404
    refused = carol.client.call(SEND, to=bob.user, client_id="1", type="file", body={"file_id": sent["file_id"]})
    assert refused["code"] == 403


def test_nobody_without_a_token(server):
    """401 on every route, before a byte of the body is taken."""
    web = Web(server)
    for method, path in (("POST", "/v1/files"), ("GET", "/v1/files"), ("GET", "/v1/files/x"), ("PATCH", "/v1/files/x"),
                         ("DELETE", "/v1/files/x"), ("HEAD", "/v1/files/x")):  # fmt: skip
        assert web.ask(method, path, {"Authorization": "Bearer no"})[0] == 401, (method, path)


def test_a_refusal_reaches_a_client_that_still_sends(server):
    """413 by its Content-Length: the answer comes, though the body was never taken."""
    web = Web(server)
    sock = web.open("POST", "/v1/files", {"Content-Length": str(1 << 40), "Content-Type": "text/plain"})
    with sock:
        sock.sendall(PIECE)
        assert sock.recv(12) == b"HTTP/1.1 413"


def test_a_client_that_goes_away(make_server):
    """In the middle of a plain upload nothing stays; in the middle of a resumable one what has come."""
    server = make_server()
    web = Web(server)
    with web.open("POST", "/v1/files", {"Content-Length": "1000000"}) as sock:
        sock.sendall(PIECE * 8)
        until(lambda: stored(server), "no byte was written")
    until(lambda: not stored(server), "the bytes of an upload that was given up stay")
    file_id = web.begin(1_000_000)
    with web.open("PATCH", f"/v1/files/{file_id}", {"Content-Length": "1000000", "Upload-Offset": "0"}) as sock:
        sock.sendall(PIECE * 8)
        until(lambda: stored(server) and stored(server)[0].stat().st_size >= 1 << 18, "no byte was written")
    offset = web.stands_at(file_id)
    assert 1 << 18 <= offset <= len(PIECE) * 8
    rest = (PIECE * 16)[offset:1_000_000]
    status, _, body = web.ask("PATCH", f"/v1/files/{file_id}", {"Upload-Offset": str(offset)}, rest)
    assert (status, json.loads(body)["sha256"]) == (200, hashlib.sha256((PIECE * 16)[:1_000_000]).hexdigest())


def test_kill_in_the_middle_of_uploads(make_server):
    """kill -9 during a resumable and a plain upload: the one goes on, the other is forgotten, the quota is exact."""
    server = make_server({"plugins.file.quota": "3MiB"})
    web = Web(server)
    whole = (PIECE * 16)[:1_000_000]
    kept = web.upload(b"kept")
    file_id = web.begin(len(whole))
    resumable = web.open("PATCH", f"/v1/files/{file_id}", {"Content-Length": str(len(whole)), "Upload-Offset": "0"})
    plain = web.open("POST", "/v1/files", {"Content-Length": "1000000"})
    with resumable, plain:
        resumable.sendall(whole[: 10 * len(PIECE)])
        plain.sendall(PIECE * 10)
        until(lambda: sum(path.stat().st_size >= 1 << 18 for path in stored(server)) == 2, "no byte was written")
        server.kill()
    web.client.close()
    server.start()
    web = Web(server, web.user)
    assert web.ask("GET", kept["url"])[::2] == (200, b"kept")
    offset = web.stands_at(file_id)
    assert offset >= 1 << 18
    for start in range(offset, len(whole), 300_000):
        part = whole[start : start + 300_000]
        last = start + len(part) - 1
        status, _, body = web.ask(
            "PATCH", f"/v1/files/{file_id}", {"Content-Range": f"bytes {start}-{last}/{len(whole)}"}, part
        )
        assert status == 200, body
    assert json.loads(body)["sha256"] == hashlib.sha256(whole).hexdigest()
    assert web.ask("GET", f"/v1/files/{file_id}")[2] == whole
    # The plain one's reservation goes with the cleaner's first round.
    until(lambda: json.loads(web.ask("GET", "/v1/files")[2])["used"] == len(whole) + 4, "the reservation stays")
    until(lambda: len(stored(server)) == 2, "its bytes stay")


def test_a_stop_does_not_wait_for_uploads(make_server):
    """SIGTERM with uploads that hang: exit 0, the resumable one goes on after the start, the plain one is gone."""
    server = make_server({"server.drain": "1s"})
    web = Web(server)
    file_id = web.begin(1 << 20)
    resumable = web.open("PATCH", f"/v1/files/{file_id}", {"Content-Length": str(1 << 20), "Upload-Offset": "0"})
    plain = web.open("POST", "/v1/files", {"Content-Length": "1000000"})
    with resumable, plain:
        for sock in (resumable, plain):
            sock.sendall(PIECE * 6)
        until(lambda: len(stored(server)) == 2, "no byte was written")
        web.client.close()
        assert server.stop() == 0
        assert [path.name for path in stored(server)] == [file_id]
    assert "Traceback" not in server.text()
    server.start()
    web = Web(server, web.user)
    offset = web.stands_at(file_id)
    assert offset >= 1 << 17
    status, _, body = web.ask("PATCH", f"/v1/files/{file_id}", {"Upload-Offset": str(offset)}, (PIECE * 16)[offset:])
    assert (status, json.loads(body)["sha256"]) == (200, hashlib.sha256(PIECE * 16).hexdigest())


def test_an_answered_file_and_message_survive_a_kill(make_server):
    """Right after the answers: the file is there, and the peer may read it."""
    server = make_server()
    alice, bob = Web(server), Web(server)
    sent = alice.upload(PIECE)
    alice.client.ok(SEND, to=bob.user, client_id="1", type="image", body={"file_id": sent["file_id"]})
    server.kill()
    alice.client.close()
    bob.client.close()
    server.start()
    bob = Web(server, bob.user)
    assert bob.ask("GET", sent["url"])[::2] == (200, PIECE)


@pytest.mark.parametrize("shards", [1, 2])
def test_many_threads_and_one_quota(make_server, shards):
    """Uploads at once, on one shard and on two: never more than the quota together."""
    server = make_server({"plugins.file.quota": "1MiB", "plugins.file.uploads_per_user": 100, "server.shards": shards})
    web = Web(server)
    statuses = []

    def one():
        statuses.append(web.ask("POST", "/v1/files", {"Content-Type": "text/plain"}, PIECE * 4)[0])

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 4 + [413] * 8
    assert json.loads(web.ask("GET", "/v1/files")[2])["used"] == 1 << 20


def test_a_newer_request_takes_over_across_shards(make_server):
    """The older one may be on another shard: it puts the upload down there."""
    server = make_server({"server.shards": 2})
    web = Web(server)
    file_id = web.begin(1 << 20)
    headers = {"Content-Length": str(1 << 20), "Upload-Offset": "0"}
    hanging = web.open("PATCH", f"/v1/files/{file_id}", headers)
    with hanging:
        hanging.sendall(PIECE * 6)
        until(lambda: stored(server), "no byte was written")
        for _ in range(4):  # some of these reach the other shard
            offset = web.stands_at(file_id)
        status, _, body = web.ask("PATCH", f"/v1/files/{file_id}", {"Upload-Offset": str(offset)}, (PIECE * 16)[offset:])
        assert (status, json.loads(body)["sha256"]) == (200, hashlib.sha256(PIECE * 16).hexdigest())


def test_curl_sends_a_form_and_a_body(server, tmp_path):
    """A client that is not ours, as the manual says it."""
    web = Web(server)
    file = tmp_path / 'a "b".bin'
    file.write_bytes(PIECE * 3)
    url = "http://{}:{}/v1/files".format(*web.address)
    common = ["curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {web.client.token}"]
    try:
        subprocess.run(["curl", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("needs curl")
    quoted = str(file).replace('"', '\\"')
    form = subprocess.run([*common, "-F", f'file=@"{quoted}"', url], capture_output=True)
    plain = subprocess.run([*common, "-H", "X-File-Name: a.bin", "--data-binary", f"@{file}", url], capture_output=True)
    for done in (form, plain):
        assert done.returncode == 0, (done.stdout, done.stderr)
        sent = json.loads(done.stdout)
        assert (sent["sha256"], sent["type"]) == (hashlib.sha256(PIECE * 3).hexdigest(), "application/octet-stream")
        got = subprocess.run([*common, "-r", "5-14", url + "/" + sent["file_id"]], capture_output=True)
        assert got.stdout == PIECE[5:15]
