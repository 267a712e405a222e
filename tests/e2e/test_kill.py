"""kill -9 under load: nothing acked is lost, doubled or reordered, and everybody comes back to everything."""

import os
import random
import threading

import pytest
from history import History, problems, unacked
from load import Receiver, Sender, join, start
from wire import direct

ROUNDS = int(os.environ.get("IMSERVER_KILL_ROUNDS", "3"))
SENDERS, PEOPLE, WINDOW = 4, 3, 24


def wait_for_acks(senders, count):
    """Until the senders have got `count` more answers; an ended sender would otherwise be waited for for ever."""
    goal = sum(sender.acked for sender in senders) + count
    waited = threading.Event()
    for _ in range(30_000):
        if sum(sender.acked for sender in senders) >= goal:
            return
        waited.wait(0.002)
    raise AssertionError("the senders got no answers")


@pytest.mark.timeout(60 + 60 * ROUNDS)
@pytest.mark.parametrize("shards", [1, 2])
def test_kill_rounds(make_server, shards):
    """Rounds of load, kill -9 at a random moment, restart and resend; then the whole history is judged."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    server = make_server({"server.shards": shards})
    history = History()
    people = [server.login() for _ in range(PEOPLE)]
    writers = [server.login() for _ in range(SENDERS)]
    senders = [Sender(history, writer.user, [person.user for person in people], WINDOW) for writer in writers]
    receivers = [
        (person, Receiver(history, person.user, device_id=device, deliver=deliver))
        for person in people
        for device, deliver in (("phone", "missed"), ("laptop", "new"))
    ]
    sending = list(zip(writers, senders, strict=True))
    for client in people + writers:
        client.close()
    for number in range(ROUNDS):
        running = threading.Event()
        threads = []
        if number % 2:  # every other time the receivers come back into the stream
            threads += [start(sender.run, server.again(writer), running) for writer, sender in sending]
        threads += [start(receiver.run, server.again(person, **receiver.options)) for person, receiver in receivers]
        if not number % 2:
            threads += [start(sender.run, server.again(writer), running) for writer, sender in sending]
        wait_for_acks(senders, chance.randrange(1, 3_000))
        server.kill()
        join(threads)
        server.start()
    # The last round: everything that was not answered is sent again and answered, nothing new.
    threads = [start(receiver.run, server.again(person, **receiver.options)) for person, receiver in receivers]
    stop = threading.Event()
    stop.set()
    join([start(sender.run, server.again(writer), stop) for writer, sender in sending])
    archive = {}
    for person in people:
        client = server.again(person)
        rows, _ = client.sync_all()
        for writer in writers:
            conversation = direct(person.user, writer.user)
            archive[conversation] = client.pull_all(conversation, limit=500)
            assert rows[conversation]["last_seq"] == len(archive[conversation])
            assert rows[conversation]["unread"] == len(archive[conversation])
    wait_until_seen(receivers, archive)
    assert server.stop() == 0
    join(threads)
    wrong = problems(history, archive)
    assert wrong == [], f"seed {seed}: {len(wrong)} problems: {wrong[:10]}"
    assert unacked(history) == []
    assert [error for sender in senders for error in sender.errors] == []
    assert [error for _, receiver in receivers for error in receiver.errors] == []
    assert [hole for _, receiver in receivers for hole in receiver.holes] == [], f"seed {seed}"
    assert sum(sender.acked for sender in senders) == sum(len(messages) for messages in archive.values())
    assert "Traceback" not in server.text()


def wait_until_seen(receivers, archive):
    """Until every device that gets what it missed has the newest message of each of its conversations."""
    waited = threading.Event()
    for person, receiver in receivers:
        if receiver.options["deliver"] != "missed":
            continue
        ends = {key: len(messages) for key, messages in archive.items() if person.user in key.split(":")}
        for _ in range(15_000):
            if receiver.seen == ends:
                break
            waited.wait(0.002)
        assert receiver.seen == ends


def test_killed_while_starting_and_idle(make_server):
    """Kill after kill, without load and straight after the start, changes nothing."""
    server = make_server()
    alice, bob = server.login(), server.login()
    for n in range(1, 4):
        alice.text(bob.user, f"{n}", f"c{n}")
        server.kill()
        server.start()
        server.kill()
        server.start()
        alice, bob = server.again(alice), server.again(bob)
        assert [message["body"] for message in bob.pull_all(direct(alice.user, bob.user))] == [
            f"{k}" for k in range(1, n + 1)
        ]
