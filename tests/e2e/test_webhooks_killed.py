"""A receiver of webhooks and the server, both killed with -9 again and again under load: every event once by id."""

import collections
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
from history import History, unacked
from load import Sender, join, start
from wire import direct

ROUNDS = int(os.environ.get("IMSERVER_KILL_ROUNDS", "3"))
SENDERS, PEOPLE, WINDOW = 3, 2, 4
EDIT = 2006
PATIENCE_S = 60


class Receiver:
    """The process `hook_receiver.py`, which may be killed and come back on the same port."""

    def __init__(self, folder):
        self.path = folder / "posts"
        self.path.touch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    def start(self):
        script = pathlib.Path(__file__).with_name("hook_receiver.py")
        words = [sys.executable, str(script), str(self.port), str(self.path)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"
        return self

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def posts(self):
        """The events of each post that was put down, in the order of their coming."""
        whole, _, _ = self.path.read_text().rpartition("\n")  # behind it is one that is being put down
        return [json.loads(line)["events"] for line in whole.splitlines()]


@pytest.fixture
def receiver(tmp_path):
    made = Receiver(tmp_path).start()
    yield made
    made.kill()


def until(condition, what):
    """Until it holds; `what` says how far it came."""
    waited = threading.Event()
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s, what()
        waited.wait(0.01)


def wait_for_acks(senders, count):
    goal = sum(sender.acked for sender in senders) + count
    until(lambda: sum(sender.acked for sender in senders) >= goal, lambda: "the senders got no answers")


def heard(receiver):
    """Each event once by id, in the order of their first coming; all repeats must say the same."""
    found = {}
    for events in receiver.posts():
        for event in events:
            known = found.setdefault(event["id"], event)
            if event["event"] != "message.accepted":
                assert known == event, "one id for two events"
            else:
                assert known["message"]["message_id"] == event["message"]["message_id"], "one id for two messages"
    return found


@pytest.mark.timeout(60 + 60 * ROUNDS)
@pytest.mark.parametrize(("shards", "concurrency"), [(1, 1), (2, 3)])
def test_every_event_once_by_id(make_server, receiver, shards, concurrency):
    """Rounds of load in which the receiver is killed twice and the server once; then the receiver's notes are judged."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    target = {
        "name": "crm",
        "url": f"http://127.0.0.1:{receiver.port}/",
        "secret": "a secret for the tests",
        "events": ["message.accepted", "message.edited"],
        "batch": 20,
        "concurrency": concurrency,
    }
    fields = ", ".join(f"{key} = {json.dumps(value)}" for key, value in target.items())
    server = make_server(
        {
            "server.shards": shards,
            "plugins.enabled": '["user", "message", "webhook"]',
            "plugins.webhook.targets": f"[{{{fields}}}]",
            "plugins.webhook.schemes": '["http"]',
            "plugins.webhook.allowed_networks": '["127.0.0.0/8"]',
            "plugins.webhook.retry_first": "50ms",
            "plugins.webhook.retry_most": "200ms",
        }
    )
    history = History()
    people = [server.login() for _ in range(PEOPLE)]
    writers = [server.login() for _ in range(SENDERS)]
    senders = [Sender(history, writer.user, [person.user for person in people], WINDOW) for writer in writers]
    sending = list(zip(writers, senders, strict=True))
    edited = collections.defaultdict(list)
    for client in people + writers:
        client.close()
    for number in range(ROUNDS):
        running = threading.Event()
        threads = [start(sender.run, server.again(writer), running) for writer, sender in sending]
        wait_for_acks(senders, chance.randrange(20, 200))
        receiver.kill()
        wait_for_acks(senders, chance.randrange(20, 200))
        receiver.start()
        wait_for_acks(senders, chance.randrange(20, 200))
        receiver.kill()
        receiver.start()
        editor, other = server.again(writers[0]), people[0].user
        for seq in range(1, 6):
            body = f"edit {number} of {seq}"
            editor.ok(EDIT, conversation_id=direct(editor.user, other), seq=seq, body=body)
            edited[direct(editor.user, other)].append(body)
        wait_for_acks(senders, chance.randrange(1, 200))
        server.kill()
        join(threads)
        editor.close()
        server.start()
    stop = threading.Event()
    stop.set()
    join([start(sender.run, server.again(writer), stop) for writer, sender in sending])
    assert unacked(history) == []
    archive = {}
    for person in people:
        client = server.again(person)
        for writer in writers:
            conversation = direct(person.user, writer.user)
            archive[conversation] = ["m-" + message["message_id"] for message in client.pull_all(conversation, limit=500)]
    wanted = sum(map(len, archive.values())) + sum(map(len, edited.values()))
    until(lambda: len(heard(receiver)) >= wanted, lambda: f"seed {seed}: {len(heard(receiver))} of {wanted} events came")
    got, changes = collections.defaultdict(list), collections.defaultdict(list)
    for event_id, event in heard(receiver).items():
        if event["event"] == "message.accepted":
            got[event["message"]["conversation_id"]].append(event_id)
        else:
            changes[event["conversation_id"]].append(event["body"])
    assert got == archive, f"seed {seed}"
    assert changes == edited, f"seed {seed}"
    assert "Traceback" not in server.text()
    posted = sum(map(len, receiver.posts()))
    print(f"{wanted} events, {posted - wanted} of them twice, in {len(receiver.posts())} posts")
