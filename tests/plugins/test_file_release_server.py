"""The end of holds on real servers: through kill -9, and on two shards at once."""

import threading
import time

import pytest
from test_file_server import PIECE, Web, until
from wire import SEND, direct

PULL, RECALL, EDIT = 2002, 2005, 2006
ROUNDS = 12


def send(web, to, file_id, client_id, **fields):
    return web.client.ok(SEND, to=to, client_id=client_id, type="image", body={"file_id": file_id}, **fields)["seq"]


def can_read(web, file_id):
    status, _, body = web.ask("GET", f"/v1/files/{file_id}")
    assert (status, body) == (200, PIECE) if status == 200 else status == 404
    return status == 200


def killed(server, *webs):
    """kill -9, unless that was done, and the same users on the next process."""
    if server.alive:
        server.kill()
    for web in webs:
        web.client.close()
    server.start()
    return [Web(server, web.user) for web in webs]


def test_what_was_answered_survives_a_kill(make_server):
    """Killed right behind the answers to a recall and an edit: what they ended has ended, and nothing else."""
    server = make_server({"server.shards": 2})
    alice, bob = Web(server), Web(server)
    conversation = direct(alice.user, bob.user)
    recalled, edited, twice, kept = (alice.upload(PIECE)["file_id"] for _ in range(4))
    seq = send(alice, bob.user, recalled, "1")
    other = send(alice, bob.user, edited, "2")
    first = send(alice, bob.user, twice, "3")
    send(alice, bob.user, twice, "4")
    alice.client.ok(RECALL, conversation_id=conversation, seq=first)
    alice.client.ok(RECALL, conversation_id=conversation, seq=seq)
    alice.client.ok(EDIT, conversation_id=conversation, seq=other, body={"file_id": kept})
    alice, bob = killed(server, alice, bob)
    assert [can_read(bob, file_id) for file_id in (recalled, edited, twice, kept)] == [False, False, True, True]
    assert [alice.ask("DELETE", f"/v1/files/{file_id}")[0] for file_id in (recalled, edited, twice, kept)] == [
        200,
        200,
        409,
        409,
    ]


def test_a_kill_at_any_moment_of_a_recall(make_server):
    """Not answered: it has happened or not, and the hold with it; the recall sent again ends it for good."""
    server = make_server({"server.shards": 2})
    alice, bob = Web(server), Web(server)
    conversation = direct(alice.user, bob.user)
    for number in range(4):
        file_id = alice.upload(PIECE)["file_id"]
        seq = send(alice, bob.user, file_id, f"k{number}")
        alice.client.post(RECALL, conversation_id=conversation, seq=seq)
        time.sleep(0.0005 * number)  # the kill is to hit different moments
        alice, bob = killed(server, alice, bob)
        pulled = bob.client.ok(PULL, conversation_id=conversation, after_seq=seq - 1, limit=1)["messages"][0]
        assert can_read(bob, file_id) is not bool(pulled.get("recalled"))
        alice.client.ok(RECALL, conversation_id=conversation, seq=seq)
        assert not can_read(bob, file_id)


def test_messages_that_end_while_the_server_is_down(make_server):
    """After the start nobody else reads what they named; the cleaner's first round gives the file its time."""
    server = make_server()
    alice, bob = Web(server), Web(server)
    file_id = alice.upload(PIECE)["file_id"]
    seq = send(alice, bob.user, file_id, "1", expires_in_ms=1000)
    ends_s = time.monotonic() + 1.1
    assert seq == 1
    server.kill()
    until(lambda: time.monotonic() > ends_s, "time stands still")
    alice, bob = killed(server, alice, bob)
    assert not can_read(bob, file_id)
    until(lambda: b'"is_held":false' in alice.ask("GET", "/v1/files")[2].replace(b" ", b""), "the hold does not end")
    assert can_read(alice, file_id)
    assert alice.ask("DELETE", f"/v1/files/{file_id}")[0] == 200


@pytest.mark.parametrize("shards", [1, 2])
def test_recalls_against_sends_of_the_same_file(make_server, shards):
    """Two devices of one user, one recalls while the other sends: the file is held by what is left, then by nothing."""
    server = make_server({"server.shards": shards})
    alice, bob = Web(server), Web(server)
    second = [Web(server, alice.user) for _ in range(3)]
    conversation = direct(alice.user, bob.user)
    file_id = alice.upload(PIECE)["file_id"]
    left = send(alice, bob.user, file_id, "first")
    for number in range(ROUNDS):
        sent = []
        barrier = threading.Barrier(len(second) + 1)

        def work(web, name, barrier=barrier, sent=sent):
            barrier.wait()
            sent.append(send(web, bob.user, file_id, name))

        threads = [threading.Thread(target=work, args=(web, f"{number}-{place}")) for place, web in enumerate(second)]
        for thread in threads:
            thread.start()
        barrier.wait()
        alice.client.ok(RECALL, conversation_id=conversation, seq=left)
        for thread in threads:
            thread.join()
        assert len(sent) == len(second)
        assert can_read(bob, file_id)
        for seq in sent[1:]:
            alice.client.ok(RECALL, conversation_id=conversation, seq=seq)
        assert can_read(bob, file_id)
        left = sent[0]
    assert alice.ask("DELETE", f"/v1/files/{file_id}")[0] == 409
    alice.client.ok(RECALL, conversation_id=conversation, seq=left)
    assert not can_read(bob, file_id)
    assert bob.client.call(SEND, to=alice.user, client_id="late", type="image", body={"file_id": file_id})["code"] == 403
    assert alice.ask("DELETE", f"/v1/files/{file_id}")[0] == 200
