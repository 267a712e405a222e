"""`imserver backup` beside a server under load, `kill -9`, `imserver restore`: what was acked is there, once, in order."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import threading

import pytest
import trio
from history import History
from load import Receiver, Sender, join, start
from process import PASSWORD
from wire import MARK_READ, MESSAGE, SEND, direct

from imserver.client import State, open_client

CREATE_GROUP = 4001


def imserver(server, *words, status=0):
    """The command line with the settings of a server; gives what it printed."""
    settings = [word for key, value in server.settings.items() for word in ("--set", f"{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")}
    done = subprocess.run(
        [sys.executable, "-m", "imserver", *map(str, words), *settings],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout.strip() if status == 0 else done.stderr


def ask(server, token, method, path, body=None):
    """One HTTP request: (status, body)."""
    host, port = server.ready["http"][0].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        headers = {"Authorization": f"Bearer {token}", **({"Content-Type": "text/plain"} if body else {})}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Uploader:
    """Uploads files and deletes every other one, until it is told to stop."""

    def __init__(self, server, token):
        self.server = server
        self.token = token
        self.kept = {}  # id -> SHA-256, of those that were answered
        self.errors = []

    def run(self, stop):
        try:
            while not stop.is_set():
                for is_kept in (True, False):
                    data = os.urandom(4096)
                    status, body = ask(self.server, self.token, "POST", "/v1/files", data)
                    assert status == 200, body
                    file_id = json.loads(body)["file_id"]
                    if is_kept:
                        self.kept[file_id] = hashlib.sha256(data).hexdigest()
                    else:
                        assert ask(self.server, self.token, "DELETE", f"/v1/files/{file_id}")[0] == 200
        except (ConnectionError, http.client.HTTPException):
            pass  # the server was killed
        except Exception as exc:
            self.errors.append(exc)


def wait_for(is_so):
    """Until it is so, for half a minute."""
    waited = threading.Event()
    for _ in range(15_000):
        if is_so():
            return
        waited.wait(0.002)
    raise AssertionError("it did not come to be")


@pytest.mark.parametrize("shards", [2])
def test_backup_under_load_is_restored(make_server, tmp_path, shards):
    """All that was acked before the backup began is there; no new message gets a number that a client has already."""
    server = make_server({"server.shards": shards})
    history = History()
    people = [server.login() for _ in range(2)]
    writers = [server.login() for _ in range(3)]
    senders = [Sender(history, writer.user, [person.user for person in people], 16) for writer in writers]
    receivers = [Receiver(history, person.user, device_id="phone", deliver="new") for person in people]
    uploader = Uploader(server, people[0].token)
    stop = threading.Event()
    threads = [
        *(start(r.run, server.again(p, **r.options)) for p, r in zip(people, receivers, strict=True)),
        *(start(s.run, server.again(w), stop) for w, s in zip(writers, senders, strict=True)),
        start(uploader.run, stop),
    ]
    wait_for(lambda: all(sender.acked > 100 for sender in senders) and len(uploader.kept) > 2)
    with history.lock:
        acked = dict(history.acked)
    files = dict(uploader.kept)
    backup = imserver(server, "backup", tmp_path / "backup")
    made_at = sum(sender.acked for sender in senders)
    wait_for(lambda: sum(sender.acked for sender in senders) > made_at + 200)
    # A conversation that the backup does not know, and where a client stood in those that it knows.
    late = people[0].text(people[1].user, "after the backup", "late")
    server.kill()
    join(threads)
    assert [*uploader.errors, *(e for s in senders for e in s.errors), *(e for r in receivers for e in r.errors)] == []

    assert imserver(server, "backup", "verify", backup).startswith("ok: ")
    other = make_server({"server.shards": shards}, name="other", start=False)
    imserver(other, "restore", backup)
    other.start()
    reader, peer = other.client(), other.client()
    reader.login(people[0].user, PASSWORD)
    peer.auth(people[1].token)
    for client in (reader, peer):
        rows, _ = client.sync_all()
        for writer in writers:
            conversation = direct(client.user, writer.user)
            messages = client.pull_all(conversation, limit=500)
            assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
            assert rows[conversation]["unread"] == len(messages)
            assert rows[conversation]["last_message"] == messages[-1]
            stored = [(m["client_id"], (m["seq"], m["message_id"])) for m in messages]
            wanted = [(key[2], place) for key, place in acked.items() if key[0] == conversation]
            assert set(wanted) <= set(stored)
            assert len({client_id for client_id, _ in stored}) == len(stored)
            assert [client_id for client_id, _ in stored] == history.sent[conversation, writer.user][: len(stored)]
            assert client.ok(MARK_READ, conversation_id=conversation, seq=1)["unread"] == len(messages) - 1
            # What this client has seen of the time that is lost is below all that is sent from now on.
            seen = max(receiver.seen.get(conversation, 0) for receiver in receivers)
            assert client.ok(MARK_READ, conversation_id=conversation, seq=seen + 1)["unread"] == 0
            new = client.text(writer.user, "after the restore", "new")
            assert new["seq"] > seen > 0
            assert client.pull_all(conversation)[-1]["seq"] == new["seq"]
    assert reader.text(peer.user, "in a new conversation", "again")["seq"] > late["seq"]
    assert peer.push(MESSAGE)["body"] == "in a new conversation"
    assert peer.unread(direct(reader.user, peer.user)) == 1
    group = reader.ok(CREATE_GROUP, name="new", members=[peer.user])["conversation_id"]
    names = reader.user, peer.user
    other.restart()
    reader, peer = (other.client() for _ in range(2))
    for client, name in zip((reader, peer), names, strict=True):
        client.login(name, PASSWORD)
    for number in range(1, 3):
        sent = reader.ok(SEND, conversation_id=group, client_id=f"g-{number}", body="in a new group")
        assert sent["seq"] > late["seq"]
        assert peer.unread(group) == number
    for file_id, sha256 in files.items():
        status, body = ask(other, people[0].token, "GET", f"/v1/files/{file_id}")
        assert (status, hashlib.sha256(body).hexdigest()) == (200, sha256)
    assert other.stop() == 0, other.text()


async def test_client_library_goes_on_after_a_restore(make_server, tmp_path):
    """A client whose state knows more than the backup gets every new message, in old conversations and in lost ones."""
    server = make_server()
    ann, ben, cem = (server.login() for _ in range(3))
    state = State()
    names = [client.user for client in (ann, ben, cem)]

    async def take(count):
        async with open_client("{}:{}".format(*server.address), state=state) as client:
            await client.login(names[0], PASSWORD, device_id="phone")
            found = []
            with trio.fail_after(30):
                async for message in client.messages():
                    found.append(message.body)
                    client.ack(message)
                    if len(found) == count:
                        return found

    ben.text(names[0], "kept", "1")
    assert await take(1) == ["kept"]
    backup = imserver(server, "backup", tmp_path / "backup")
    for number in range(3):
        ben.text(names[0], f"lost {number}", f"lost {number}")
        cem.text(names[0], f"lost, too, {number}", f"lost {number}")
    assert len(await take(6)) == 6
    assert "stop it" in imserver(server, "restore", "--replace", backup, status=1)
    assert ben.text(names[0], "lost: the server has gone on", "lost") is not None
    for client in (ann, ben, cem):
        client.close()
    server.kill()
    aside = imserver(server, "restore", "--replace", backup)
    assert aside.startswith(f"{server.data}.before-restore-")
    server.start()
    ben, cem = server.client(), server.client()
    for client, name in ((ben, names[1]), (cem, names[2])):
        client.login(name, PASSWORD)
        client.text(names[0], f"new from {name}", "new")
    assert sorted(await take(2)) == sorted(f"new from {name}" for name in names[1:])
    assert ben.unread(direct(*sorted(names[:2]))) == 0
