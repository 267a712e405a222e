"""What one client does that must cost nobody else anything: each of these once did."""

import threading
import time

from wire import AUTH, ERROR, GZIP, PULL, PUSH_ACK, SEND, SEND_BATCH, direct, encode, sign


def test_a_number_too_large_for_the_row(server):
    """`reply_to` over 64 bits, in JSON, between messages of others in one commit: 400, and theirs are stored."""
    alice, bob, mallory = server.login(), server.login(), server.login(flags=2)
    for number in range(20):
        rids = [alice.post(SEND, to=bob.user, client_id=f"a{number}-{k}", body="x") for k in range(5)]
        mallory.fails(400, SEND, to=bob.user, client_id=f"m{number}", body="x", reply_to=2**64)
        for rid in rids:
            assert alice.answer(rid)["code"] == 0
    messages = bob.pull_all(direct(alice.user, bob.user))
    assert [message["seq"] for message in messages] == list(range(1, 101))
    assert bob.pull_all(direct(mallory.user, bob.user)) == []


def test_missed_messages_come_before_live_ones(sharded_server):
    """`deliver: "missed"` with `sync` while others send: seq rises from 1, whatever the login's gate held back."""
    server = sharded_server
    name = server.register()
    alice = server.login()
    stop = threading.Event()
    sent = []

    def keep_sending():
        while not stop.is_set() and len(sent) < 150:
            sent.append(alice.text(name, "x", f"c{len(sent)}")["seq"])

    thread = threading.Thread(target=keep_sending)
    thread.start()
    try:
        for number in range(5):
            with server.login(name, device_id=f"device-{number}", deliver="missed", sync="") as device:
                upto = max(sent, default=1)
                seen = [device.push()["seq"]]
                while seen[-1] < upto:
                    seen.append(device.push()["seq"])
                assert seen == list(range(1, len(seen) + 1))
    finally:
        stop.set()
        thread.join()


def test_missed_messages_larger_than_the_outbox(make_server):
    """They come at the client's pace: a device that reads is not cut off as a slow consumer."""
    server = make_server({"limits.outbox": "1MiB"})
    name = server.register()
    alice = server.login()
    for number in range(40):
        alice.text(name, "x" * 200_000, f"c{number}")
    bob = server.login(name, device_id="phone", deliver="missed")
    assert [bob.push()["seq"] for _ in range(40)] == list(range(1, 41))
    bob.ok(PUSH_ACK, conversation_id=direct(alice.user, name), seq=40)


def test_pages_of_large_messages(make_server):
    """A page is cut by bytes and never empty before the end; many pages asked for at once all arrive."""
    server = make_server({"limits.outbox": "4MiB"})
    alice, bob = server.login(), server.login()
    conversation = direct(alice.user, bob.user)
    for number in range(12):
        alice.text(bob.user, "x" * 400_000, f"c{number}")
    bob.drain()
    first = bob.ok(PULL, conversation_id=conversation, after_seq=0, limit=500)
    assert 1 <= len(first["messages"]) < 12
    assert (first["first_seq"], first["last_seq"]) == (1, 12)
    assert [message["seq"] for message in bob.pull_all(conversation)] == list(range(1, 13))
    rids = [bob.post(PULL, conversation_id=conversation, after_seq=0, limit=500) for _ in range(16)]
    assert all(bob.answer(rid)["messages"][0]["seq"] == 1 for rid in rids)


def test_gzip_before_login(server):
    """A small frame that inflates to much more than may be sent before login is refused, and not looked into."""
    client = server.client()
    frame = encode(AUTH, {"rid": 1, "token": "x" * 500_000}, flags=GZIP)
    assert len(frame) < 4096
    client.send_raw(frame)
    assert client.push(ERROR)["code"] == 413


def test_a_batch_counts_as_its_messages(make_server):
    """SEND_BATCH is no way around the limit on requests."""
    server = make_server({"limits.requests_per_second": 50})
    alice, bob = server.login(), server.login()
    codes = []
    for number in range(8):
        batch = [{"to": bob.user, "client_id": f"c{number}-{k}", "body": "x"} for k in range(50)]
        codes.append(alice.call(SEND_BATCH, messages=batch)["code"])
    assert codes[0] == 0
    assert 429 in codes


def test_a_token_that_expires_soon(server):
    """The connection ends when its token does, not when the login's deadline would have been."""
    client = server.client()
    client.auth(sign(server.secret, {"sub": "expiring", "exp": int(time.time()) + 2}))
    assert client.goaway(timeout_s=8) == "token_expired"
