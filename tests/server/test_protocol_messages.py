"""SEND and its options, order, idempotency, SEND_BATCH; on one shard and on two."""

import threading
import time

import pytest
from wire import (
    CHANGES,
    HEARTBEAT,
    MARK_READ,
    PULL,
    SEND,
    SEND_BATCH,
    SYNC,
    direct,
)


class TestSend:
    """One message from one user to another."""

    def test_answer_push_and_archive_agree(self, sharded_server):
        """The same message in the answer, in the push, in PULL, in SYNC and in CHANGES."""
        alice, bob = sharded_server.login(), sharded_server.login()
        conversation = direct(alice.user, bob.user)
        before_ms = time.time() * 1000
        sent = alice.text(bob.user, "héllo 你好", "my-id-1")
        assert sent["conversation_id"] == conversation
        assert sent["seq"] == 1
        assert len(sent["message_id"]) == 16
        assert sent["message_id"] == f"{int(sent['message_id'], 16):016x}"
        assert int(sent["message_id"], 16) < 2**63
        assert "duplicate" not in sent or sent["duplicate"] is False
        assert before_ms - 60_000 < sent["sent_at"] < time.time() * 1000 + 60_000
        stamp_ms = (int(sent["message_id"], 16) >> 22) + 1_704_067_200_000
        assert abs(stamp_ms - sent["sent_at"]) < 60_000
        push = bob.push()
        assert push == {
            "conversation_id": conversation,
            "seq": 1,
            "rev": push["rev"],
            "message_id": sent["message_id"],
            "client_id": "my-id-1",
            "from": alice.user,
            "sent_at": sent["sent_at"],
            "type": "text",
            "body": "héllo 你好",
        }
        assert push["rev"] >= 1
        assert bob.ok(PULL, conversation_id=conversation)["messages"] == [push]
        assert alice.ok(PULL, conversation_id=conversation)["messages"] == [push]
        assert alice.sync_all()[0][conversation]["last_message"] == push
        assert bob.ok(CHANGES, conversation_id=conversation, since_rev=0)["messages"] == [push]

    def test_by_conversation_id(self, pair):
        """A direct conversation can be written to by its id, before anything was said in it."""
        alice, bob = pair
        conversation = direct(alice.user, bob.user)
        assert alice.ok(SEND, conversation_id=conversation, client_id="c", body="hi")["seq"] == 1
        assert bob.push()["conversation_id"] == conversation
        assert bob.ok(SEND, conversation_id=conversation, client_id="c", body="ho")["seq"] == 2

    def test_types_and_optional_fields(self, pair):
        """`type`, any value as the body, `reply_to` and `mentions` arrive as sent."""
        alice, bob = pair
        alice.text(bob.user, "first", "c0")
        bob.push()
        values = [None, True, 0, -5, 2**53, 1.5, "s", [], {}, [1, [2, {"k": None}]], {"": "empty key"}]
        for n, value in enumerate(values):
            kind = ["image", "file", "audio", "video", "location", "card", "custom"][n % 7]
            fields = {"reply_to": 1, "mentions": [bob.user]} if n % 2 else {}
            alice.ok(SEND, to=bob.user, client_id=f"v{n}", type=kind, body=value, **fields)
            push = bob.push()
            assert (push["type"], push["body"]) == (kind, value)
            assert {key: push[key] for key in ("reply_to", "mentions") if key in push} == fields

    def test_message_ids_rise(self, pair):
        """In one conversation ids sort as `seq` does."""
        alice, bob = pair
        ids = [(alice, bob)[n % 2].text((bob, alice)[n % 2].user, "x", f"c{n}")["message_id"] for n in range(20)]
        assert ids == sorted(ids)
        assert len(set(ids)) == 20

    def test_pipelined_sends_keep_their_order(self, sharded_server):
        """Hundreds in flight to three people: in each conversation seq is 1, 2, 3 … in the order sent."""
        alice = sharded_server.login()
        people = [sharded_server.login() for _ in range(3)]
        rids = [(n, alice.post(SEND, to=people[n % 3].user, client_id=f"c{n}", body=f"{n}")) for n in range(300)]
        for n, rid in rids:
            answer = alice.answer(rid)
            assert (answer["code"], answer["seq"]) == (0, n // 3 + 1)
        for who, person in enumerate(people):
            pushed = [person.push() for _ in range(100)]
            assert [message["seq"] for message in pushed] == list(range(1, 101))
            assert [int(message["body"]) for message in pushed] == list(range(who, 300, 3))
            assert person.pull_all(direct(alice.user, person.user)) == pushed

    def test_many_senders_one_conversation(self, sharded_server):
        """Devices of both sides write at once: seq is dense, every device sees the same, rising order."""
        alice, bob = sharded_server.login(), sharded_server.login()
        writers = [alice, bob, *(sharded_server.again(person) for person in (alice, bob, alice, bob))]
        conversation = direct(alice.user, bob.user)
        watcher = sharded_server.again(bob)
        failures = []

        def write(number, client):
            try:
                rids = [
                    client.post(SEND, conversation_id=conversation, client_id=f"{number}-{n}", body=f"{number} {n}")
                    for n in range(40)
                ]
                seqs = [client.answer(rid)["seq"] for rid in rids]
                assert seqs == sorted(seqs)
            except Exception as exc:
                failures.append(exc)

        threads = [threading.Thread(target=write, args=row) for row in enumerate(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        pushed = [watcher.push() for _ in range(240)]
        assert [message["seq"] for message in pushed] == list(range(1, 241))
        for number in range(6):
            mine = [message["body"] for message in pushed if message["body"].startswith(f"{number} ")]
            assert mine == [f"{number} {n}" for n in range(40)]
        assert bob.pull_all(conversation) == pushed

    def test_to_oneself(self, server):
        """A note to oneself is stored once, or refused; nothing breaks."""
        alice = server.login()
        other = server.again(alice)
        answer = alice.fails((0, 400, 403), SEND, to=alice.user, client_id="c", body="note")
        if answer["code"] == 0:
            assert other.push()["body"] == "note"
            assert len(alice.pull_all(answer["conversation_id"])) == 1
            assert alice.unread(answer["conversation_id"]) == 0
        alice.ok(HEARTBEAT)


def test_expired_messages_are_gone(pair):
    """`expires_in_ms`: pushed now, in no page once expired; the numbers of the others stay as they are."""
    alice, bob = pair
    conversation = direct(alice.user, bob.user)
    alice.text(bob.user, "short", "a", expires_in_ms=1)
    alice.text(bob.user, "long", "b", expires_in_ms=3_600_000)
    assert [bob.push()["seq"] for _ in range(2)] == [1, 2]
    pause = threading.Event()
    for _ in range(500):
        messages = bob.pull_all(conversation)
        if [message["seq"] for message in messages] == [2]:
            break
        pause.wait(0.02)
    assert [(message["seq"], message["body"]) for message in messages] == [(2, "long")]
    assert alice.text(bob.user, "next", "c")["seq"] == 3


class TestStoreFalse:
    """`store: false`."""

    def test_reaches_online_devices_alone(self, sharded_server):
        """Pushed without `seq`, and in no archive; the conversation's own numbers do not move."""
        alice, bob = sharded_server.login(), sharded_server.login()
        device = sharded_server.again(bob)
        alice.ok(SEND, to=bob.user, client_id="fleeting", body="now or never", store=False)
        for client in (bob, device):
            push = client.push()
            assert (push["body"], push["from"]) == ("now or never", alice.user)
            assert push.get("seq") is None
        assert bob.sync_all()[0].get(direct(alice.user, bob.user), {"last_seq": 0})["last_seq"] == 0
        assert alice.text(bob.user, "stored", "c")["seq"] == 1
        assert [message["body"] for message in bob.pull_all(direct(alice.user, bob.user))] == ["stored"]
        assert bob.unread(direct(alice.user, bob.user)) == 1

    def test_keeps_its_place_among_the_stored(self, pair):
        """Stored and fleeting messages of one connection arrive in the order sent."""
        alice, bob = pair
        for n in range(40):
            alice.post(SEND, to=bob.user, client_id=f"c{n}", body=f"{n}", store=n % 2 == 0)
        assert [int(bob.push()["body"]) for _ in range(40)] == list(range(40))

    def test_to_nobody_online(self, server):
        """It is a success that nobody hears."""
        alice, name = server.login(), server.register()
        alice.ok(SEND, to=name, client_id="c", body="unheard", store=False)
        bob = server.login(name, deliver="missed", device_id="d")
        alice.text(name, "heard", "c2")
        assert bob.push()["body"] == "heard"


class TestIdempotency:
    """The same `client_id` again."""

    @staticmethod
    def same(first, second):
        assert second["duplicate"] is True
        for field in ("conversation_id", "seq", "message_id", "sent_at"):
            assert second[field] == first[field]

    def test_on_the_same_and_on_another_connection(self, sharded_server):
        """The first answer again, marked; nothing stored or pushed twice."""
        alice, bob = sharded_server.login(), sharded_server.login()
        first = alice.text(bob.user, "once", "key")
        self.same(first, alice.text(bob.user, "once", "key"))
        for _ in range(3):
            self.same(first, sharded_server.again(alice).text(bob.user, "once", "key"))
        assert alice.text(bob.user, "next", "key-2")["seq"] == 2
        assert [bob.push()["body"] for _ in range(2)] == ["once", "next"]
        assert len(bob.pull_all(direct(alice.user, bob.user))) == 2

    def test_another_body_or_type(self, pair):
        """409 `idempotency_conflict`, and nothing is stored."""
        alice, bob = pair
        alice.text(bob.user, "once", "key")
        for fields in ({"body": "twice"}, {"body": "once", "type": "custom"}):
            answer = alice.fails(409, SEND, to=bob.user, client_id="key", **fields)
            assert answer["error"] == "idempotency_conflict"
        assert len(bob.pull_all(direct(alice.user, bob.user))) == 1

    def test_keys_belong_to_sender_and_conversation(self, server):
        """The peer, and the same sender elsewhere, may use the same key."""
        alice, bob, carol = server.login(), server.login(), server.login()
        for sender, to in ((alice, bob), (bob, alice), (alice, carol)):
            assert not sender.text(to.user, f"from {sender.user}", "key").get("duplicate")

    def test_by_to_and_by_conversation_id(self, pair):
        """Both ways to name the conversation meet the same key."""
        alice, bob = pair
        first = alice.text(bob.user, "once", "key")
        conversation = direct(alice.user, bob.user)
        self.same(first, alice.ok(SEND, conversation_id=conversation, client_id="key", body="once"))

    def test_twice_in_one_packet(self, sharded_server):
        """The second is a duplicate of a message that is not yet durable."""
        alice, bob = sharded_server.login(), sharded_server.login()
        rids = [alice.post(SEND, to=bob.user, client_id="key", body="once") for _ in range(5)]
        first, *rest = [alice.answer(rid) for rid in rids]
        for other in rest:
            self.same(first, other)
        assert len(bob.pull_all(direct(alice.user, bob.user))) == 1

    def test_at_once_from_many_connections(self, sharded_server):
        """Of many simultaneous sends of one key one is stored, and all get its answer."""
        alice, bob = sharded_server.login(), sharded_server.login()
        clients = [alice, *(sharded_server.again(alice) for _ in range(5))]
        rids = [
            [(client, client.post(SEND, to=bob.user, client_id=f"key-{n}", body="once")) for client in clients]
            for n in range(20)
        ]
        for n, row in enumerate(rids):
            answers = [client.answer(rid) for client, rid in row]
            assert [answer["code"] for answer in answers] == [0] * 6, n
            assert len({(answer["seq"], answer["message_id"]) for answer in answers}) == 1
            assert [bool(answer.get("duplicate")) for answer in answers].count(False) == 1
        assert len(bob.pull_all(direct(alice.user, bob.user))) == 20

    @pytest.mark.parametrize("shards", [1, 2])
    def test_after_stop_and_after_kill(self, make_server, shards):
        """Keys are known after a restart, after kill -9, and far behind the newest message; conflicts too."""
        server = make_server({"server.shards": shards})
        alice, bob = server.login(), server.login()
        first = alice.text(bob.user, "once", "key")
        rids = [alice.post(SEND, to=bob.user, client_id=f"fill-{n}", body="x") for n in range(1_500)]
        assert [alice.answer(rid)["code"] for rid in rids] == [0] * 1_500
        for how in (server.restart, lambda: (server.kill(), server.start())):
            how()
            again = server.login(alice.user)
            self.same(first, again.text(bob.user, "once", "key"))
            assert again.text(bob.user, "x", "fill-1499")["duplicate"] is True
            answer = again.fails(409, SEND, to=bob.user, client_id="key", body="else")
            assert answer["error"] == "idempotency_conflict"
        assert again.text(bob.user, "next", "new")["seq"] == 1_502
        assert len(again.pull_all(direct(alice.user, bob.user), limit=500)) == 1_502


class TestBatch:
    """SEND_BATCH."""

    def test_order_and_answers(self, pair):
        """A response for each, in order; the recipients get them in order."""
        alice, bob = pair
        messages = [{"to": bob.user, "client_id": f"c{n}", "body": f"{n}"} for n in range(50)]
        results = alice.ok(SEND_BATCH, messages=messages)["results"]
        assert [(result["code"], result["seq"]) for result in results] == [(0, n) for n in range(1, 51)]
        pushed = [bob.push() for _ in range(50)]
        assert [message["body"] for message in pushed] == [f"{n}" for n in range(50)]
        assert [message["message_id"] for message in pushed] == [result["message_id"] for result in results]

    def test_failures_are_their_own(self, server):
        """What fails fails alone, with code and error of its own; the rest is sent."""
        alice, bob, carol = server.login(), server.login(), server.login()
        alice.text(bob.user, "first", "taken")
        results = alice.ok(
            SEND_BATCH,
            messages=[
                {"to": bob.user, "client_id": "a", "body": "good"},
                {"to": "nobody-of-this-name", "client_id": "b", "body": "lost"},
                {"to": bob.user, "client_id": "taken", "body": "conflict"},
                {"to": bob.user, "client_id": "taken", "body": "first"},
                {"to": carol.user, "client_id": "c", "body": "good too"},
            ],
        )["results"]
        assert [result["code"] for result in results] == [0, 404, 409, 0, 0]
        assert results[2]["error"] == "idempotency_conflict"
        assert results[3]["duplicate"] is True
        assert [results[n]["seq"] for n in (0, 3, 4)] == [2, 1, 1]
        assert [bob.push()["body"] for _ in range(2)] == ["first", "good"]
        assert carol.push()["body"] == "good too"

    def test_empty(self, server):
        """No messages, no results (or 400): nothing breaks."""
        alice = server.login()
        answer = alice.fails((0, 400), SEND_BATCH, messages=[])
        assert answer.get("results", []) == []


def test_rate_limit(make_server):
    """Over the rate a request is 429 with a time to wait, is not carried out, and the connection lives."""
    server = make_server({"limits.requests_per_second": 20})
    alice, bob = server.login(), server.login()
    rids = [alice.post(SEND, to=bob.user, client_id=f"c{n}", body=f"{n}") for n in range(200)]
    answers = [alice.answer(rid) for rid in rids]
    refused = [answer for answer in answers if answer["code"] == 429]
    accepted = [answer for answer in answers if answer["code"] == 0]
    assert len(refused) + len(accepted) == 200
    assert refused
    assert len(accepted) >= 20
    assert {answer["error"] for answer in refused} == {"rate_limited"}
    assert all(answer["retry_after_ms"] > 0 for answer in refused)
    assert [answer["seq"] for answer in accepted] == list(range(1, len(accepted) + 1))
    assert len(bob.pull_all(direct(alice.user, bob.user), limit=500)) == len(accepted)


def test_in_flight_limit_loses_nothing(server):
    """Far more reads in flight than `limits.in_flight`: each is answered, by success or by 429, none is forgotten."""
    alice, bob = server.login(), server.login()
    alice.text(bob.user, "x", "c")
    conversation = direct(alice.user, bob.user)
    rids = [alice.post((PULL, SYNC, CHANGES)[n % 3], conversation_id=conversation, since_rev=0) for n in range(300)]
    codes = [alice.answer(rid)["code"] for rid in rids]
    assert set(codes) <= {0, 429, 503}
    assert codes.count(0) >= 64


def test_a_reader_that_hangs_up(sharded_server):
    """A recipient that disappears in mid-stream costs the sender and the other device nothing."""
    alice, bob = sharded_server.login(), sharded_server.login()
    gone = [sharded_server.again(bob) for _ in range(4)]
    rids = []
    for n in range(200):
        rids.append(alice.post(SEND, to=bob.user, client_id=f"c{n}", body=f"{n}"))
        if n % 50 == 25:
            gone.pop().close()
    assert [alice.answer(rid)["seq"] for rid in rids] == list(range(1, 201))
    assert [bob.push()["seq"] for _ in range(200)] == list(range(1, 201))


def test_a_sender_that_hangs_up_was_heard(sharded_server):
    """What was sent before a clean close is carried out, in order and without a hole."""
    bob = sharded_server.login()
    alice = sharded_server.login()
    for n in range(50):
        alice.send(SEND, {"to": bob.user, "client_id": f"c{n}", "body": f"{n}"})
    alice.socket.shutdown(1)
    assert [bob.push()["body"] for _ in range(50)] == [f"{n}" for n in range(50)]


def test_mark_read_without_reading(pair):
    """A SEND moves the sender's own mark: nothing of one's own is ever unread."""
    alice, bob = pair
    conversation = direct(alice.user, bob.user)
    alice.text(bob.user, "1", "a")
    alice.text(bob.user, "2", "b")
    bob.text(alice.user, "3", "a")
    assert bob.unread(conversation) == 0
    assert alice.unread(conversation) == 1
    assert alice.ok(MARK_READ, conversation_id=conversation, seq=3)["unread"] == 0
