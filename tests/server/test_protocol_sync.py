"""Coming back: PULL, SYNC, CHANGES, MARK_READ, PUSH_ACK, `sync` and `deliver: "missed"` at login, unread counts."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import (
    AUTH,
    CHANGES,
    GOAWAY,
    HEARTBEAT,
    MARK_READ,
    MESSAGE,
    PULL,
    PUSH_ACK,
    READ,
    SEND,
    SYNC,
    direct,
)

ARCHIVE_MESSAGES = 120


@pytest.fixture(scope="module")
def archive(shared_servers):
    """One conversation of ARCHIVE_MESSAGES by both sides: (server, token, conversation id, the messages)."""
    server = shared_servers(1)
    with server.login() as alice, server.login() as bob:
        conversation = direct(alice.user, bob.user)
        for n in range(ARCHIVE_MESSAGES):
            (alice, bob)[n % 3 == 0].ok(SEND, conversation_id=conversation, client_id=f"c{n}", body=f"{n}")
        messages = alice.pull_all(conversation)
        assert [message["body"] for message in messages] == [f"{n}" for n in range(ARCHIVE_MESSAGES)]
        return server, alice.token, conversation, messages


PAGES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = st.lists(st.one_of(st.integers(1, 50), st.sampled_from([1, 119, 120, 121, 500])), min_size=1, max_size=6)


def sizes_forever(sizes):
    while True:
        yield from sizes


@pytest.fixture
def client(archive):
    """A connection of a reader of the archive."""
    server, token, _, _ = archive
    client = server.client()
    client.auth(token)
    return client


class TestPull:
    """PULL: any page sizes give the archive without hole or repeat."""

    @PAGES
    @given(sizes=SIZES)
    def test_forwards(self, client, archive, sizes):
        """By `after_seq`, from the oldest."""
        _, _, conversation, messages = archive
        found, after = [], 0
        for limit in sizes_forever(sizes):
            answer = client.ok(PULL, conversation_id=conversation, after_seq=after, limit=limit)
            page = answer["messages"]
            assert len(page) == min(limit, ARCHIVE_MESSAGES - after)
            assert (answer["first_seq"], answer["last_seq"]) == (1, ARCHIVE_MESSAGES)
            if not page:
                break
            found += page
            after = page[-1]["seq"]
        assert found == messages

    @PAGES
    @given(sizes=SIZES)
    def test_backwards(self, client, archive, sizes):
        """By `before_seq`, from the newest; each page ascends."""
        _, _, conversation, messages = archive
        found, before = [], None
        for limit in sizes_forever(sizes):
            bound = {} if before is None else {"before_seq": before}
            page = client.ok(PULL, conversation_id=conversation, limit=limit, **bound)["messages"]
            if not page:
                break
            found = page + found
            before = page[0]["seq"]
        assert found == messages

    def test_default_and_edges(self, client, archive):
        """50 unless told; bounds beyond both ends are empty pages."""
        _, _, conversation, messages = archive
        assert client.ok(PULL, conversation_id=conversation)["messages"] == messages[-50:]
        assert client.ok(PULL, conversation_id=conversation, after_seq=0)["messages"] == messages[:50]
        assert client.ok(PULL, conversation_id=conversation, after_seq=10**9)["messages"] == []
        assert client.ok(PULL, conversation_id=conversation, before_seq=1)["messages"] == []
        assert client.ok(PULL, conversation_id=conversation, before_seq=10**9, limit=2)["messages"] == messages[-2:]

    @PAGES
    @given(sizes=SIZES)
    def test_changes(self, client, archive, sizes):
        """CHANGES from the beginning, by any pages, is the archive in `rev` order."""
        _, _, conversation, messages = archive
        found, since = [], 0
        for limit in sizes_forever(sizes):
            page = client.ok(CHANGES, conversation_id=conversation, since_rev=since, limit=limit)
            assert len(page["messages"]) <= limit
            found += page["messages"]
            if not page["more"]:
                break
            since = page["messages"][-1]["rev"]
        assert found == messages
        revs = [message["rev"] for message in found]
        assert revs == sorted(set(revs))
        assert page["last_rev"] == revs[-1]
        assert client.ok(CHANGES, conversation_id=conversation, since_rev=revs[-1])["messages"] == []


class TestSync:
    """SYNC: all conversations, then what changed since."""

    def test_row(self, pair):
        """Each field of a row, for both sides."""
        alice, bob = pair
        conversation = direct(alice.user, bob.user)
        alice.text(bob.user, "one", "a")
        alice.text(bob.user, "two", "b")
        rows, _ = bob.sync_all()
        row = rows[conversation]
        assert list(rows) == [conversation]
        assert row["last_seq"] == 2
        assert row["last_rev"] == row["last_message"]["rev"]
        assert row["read_seq"] == 0
        assert row["unread"] == 2
        assert row["last_message"]["body"] == "two"
        assert row["delivered_seq"] == 0
        assert alice.user in str(row["peer"])
        mine = alice.sync_all()[0][conversation]
        assert (mine["read_seq"], mine["unread"]) == (2, 0)
        assert bob.user in str(mine["peer"])

    def test_nobody_wrote(self, server):
        """A new user has no conversations and a cursor that works."""
        alice, bob = server.login(), server.login()
        rows, cursor = alice.sync_all()
        assert rows == {}
        bob.text(alice.user, "first", "c")
        rows, later = alice.sync_all(cursor)
        assert list(rows) == [direct(alice.user, bob.user)]
        assert later != cursor

    def test_only_what_changed(self, server):
        """After the cursor: conversations with something new, oldest change first, and nothing else."""
        alice = server.login()
        people = [server.login() for _ in range(4)]
        for person in people:
            person.text(alice.user, "hi", "c")
        rows, cursor = alice.sync_all()
        assert len(rows) == 4
        assert alice.sync_all(cursor)[0] == {}
        people[2].text(alice.user, "again", "d")
        people[0].text(alice.user, "again", "d")
        rows, cursor = alice.sync_all(cursor)
        assert list(rows) == [direct(alice.user, people[n].user) for n in (2, 0)]
        assert alice.sync_all(cursor)[0] == {}

    def test_pages(self, server):
        """By pages of one: every conversation, none twice while nothing happens."""
        alice = server.login()
        people = [server.register() for _ in range(5)]
        for person in people:
            alice.text(person, "hi", "c")
        found, cursor = [], None
        while True:
            page = alice.ok(SYNC, limit=1, **({} if cursor is None else {"cursor": cursor}))
            assert len(page["conversations"]) <= 1
            found += [row["conversation_id"] for row in page["conversations"]]
            cursor = page["next_cursor"]
            if not page["more"]:
                break
        assert found == [direct(alice.user, person) for person in people]

    def test_changes_while_paging_are_not_skipped(self, server):
        """What happens between two pages is in a later page or in the next SYNC."""
        alice = server.login()
        people = [server.login() for _ in range(3)]
        for person in people:
            person.text(alice.user, "1", "a")
        page = alice.ok(SYNC, limit=2)
        people[0].text(alice.user, "2", "b")
        last = {row["conversation_id"]: row["last_seq"] for row in page["conversations"]}
        rows, _ = alice.sync_all(page["next_cursor"], limit=2)
        last |= {key: row["last_seq"] for key, row in rows.items()}
        assert last == {direct(alice.user, person.user): 2 - bool(n) for n, person in enumerate(people)}

    def test_reading_is_a_change(self, pair, server):
        """What one device read, another learns by SYNC."""
        alice, bob = pair
        conversation = direct(alice.user, bob.user)
        alice.text(bob.user, "one", "a")
        device = server.again(bob)
        rows, cursor = device.sync_all()
        assert rows[conversation]["unread"] == 1
        bob.ok(MARK_READ, conversation_id=conversation, seq=1)
        rows, _ = device.sync_all(cursor)
        assert (rows[conversation]["unread"], rows[conversation]["read_seq"]) == (0, 1)

    @pytest.mark.parametrize("restart", ["restart", "kill"])
    def test_cursor_after_restart(self, make_server, restart):
        """A cursor is good after a restart and after a kill."""
        server = make_server()
        alice, bob = server.login(), server.login()
        alice.text(bob.user, "one", "a")
        _, cursor = bob.sync_all()
        if restart == "kill":
            server.kill()
            server.start()
        else:
            server.restart()
        alice, bob = server.again(alice), server.again(bob)
        assert bob.sync_all(cursor)[0] == {}
        alice.text(bob.user, "two", "b")
        assert bob.sync_all(cursor)[0][direct(alice.user, bob.user)]["last_seq"] == 2


class TestSyncAtLogin:
    """`sync` at LOGIN and AUTH."""

    def test_answer_is_syncs(self, pair, server):
        """The login's `sync` is what SYNC answers, from the beginning and from a cursor."""
        alice, bob = pair
        alice.text(bob.user, "one", "a")
        first = server.again(bob, sync="").account["sync"]
        assert set(first) >= {"conversations", "next_cursor", "more"}
        assert [row["last_seq"] for row in first["conversations"]] == [1]
        later = server.again(bob, sync=first["next_cursor"]).account["sync"]
        assert later["conversations"] == []
        assert server.login(bob.user, sync="").account["sync"]["conversations"] == first["conversations"]

    def test_bad_cursor(self, pair, server):
        """The login stands, since its tokens must reach the client; the refusal is SYNC's own, in `sync`."""
        alice, bob = pair
        with server.client() as client:
            refusal = client.ok(AUTH, token=bob.token, sync="no cursor of ours")["sync"]
            assert (refusal["code"], refusal["field"]) == (400, "cursor")
            alice.text(bob.user, "x", "a")
            assert client.push()["seq"] == 1

    def test_no_message_falls_between(self, sharded_server):
        """Login after login under a stream of messages: what is not in the snapshot is pushed."""
        alice, bob = sharded_server.login(), sharded_server.login()
        conversation = direct(alice.user, bob.user)
        rids = []
        for n in range(30):
            rids += [alice.post(SEND, to=bob.user, client_id=f"{n}-{k}", body="x") for k in range(10)]
            device = sharded_server.again(bob, sync="")
            known = {row["conversation_id"]: row["last_seq"] for row in device.account["sync"]["conversations"]}
            top = alice.answer(rids[-1])["seq"]
            seen = known.get(conversation, 0)
            while seen < top:
                message = device.push()
                assert message["seq"] <= seen + 1, "a message fell between the snapshot and the pushes"
                seen = max(seen, message["seq"])
            device.close()


class TestUnread:
    """Unread is exact after every command, on every device, and after a restart."""

    def test_after_every_command(self, make_server):
        """Sends of both sides, reads on both devices, a restart and a kill, against a model of one line."""
        server = make_server()
        alice, bob = server.login(), server.login()
        conversation = direct(alice.user, bob.user)
        senders = []  # who sent seq 1, 2, 3 …
        read = {alice.user: 0, bob.user: 0}

        def check():
            for person in (alice, bob):
                expected = sum(1 for sender in senders[read[person.user] :] if sender != person.user)
                row = server.again(person).sync_all()[0][conversation]
                assert (row["unread"], row["read_seq"]) == (expected, read[person.user])
                assert person.unread(conversation) == expected

        def say(person):
            senders.append(person.user)
            answer = person.ok(SEND, conversation_id=conversation, client_id=f"c{len(senders)}", body="x")
            assert answer["seq"] == len(senders)
            read[person.user] = len(senders)

        def mark(person, seq):
            answer = server.again(person).ok(MARK_READ, conversation_id=conversation, seq=seq)
            read[person.user] = max(read[person.user], seq)
            assert answer["unread"] == sum(1 for sender in senders[read[person.user] :] if sender != person.user)

        for step in "aab":
            say(alice if step == "a" else bob)
            check()
        for _ in range(4):
            say(alice)
        check()
        for seq in (5, 3, 5, 6):  # forward, back (which it does not go), again, forward
            mark(bob, seq)
            check()
        server.restart()
        alice, bob = server.again(alice), server.again(bob)
        check()
        say(bob)
        say(alice)
        check()
        server.kill()
        server.start()
        alice, bob = server.again(alice), server.again(bob)
        check()
        mark(bob, len(senders))
        mark(alice, 1)
        check()

    def test_read_is_pushed(self, pair, server):
        """The reader's other devices and the peer get READ; the reading connection gets the count."""
        alice, bob = pair
        device, watcher = server.again(bob), server.again(alice)
        conversation = direct(alice.user, bob.user)
        for n in range(3):
            alice.text(bob.user, "x", f"c{n}")
        assert bob.ok(MARK_READ, conversation_id=conversation, seq=2)["unread"] == 1
        for client in (alice, watcher, device):
            assert client.push(READ) == {"conversation_id": conversation, "user_id": bob.user, "seq": 2}

    def test_never_beyond_the_last(self, pair):
        """A mark beyond the end is refused or stops at the end: what comes later is unread."""
        alice, bob = pair
        conversation = direct(alice.user, bob.user)
        alice.text(bob.user, "x", "a")
        answer = bob.fails((0, 400), MARK_READ, conversation_id=conversation, seq=1_000)
        if answer["code"] == 0:
            assert answer["unread"] == 0
        alice.text(bob.user, "x", "b")
        assert bob.unread(conversation) == (1 if answer["code"] == 0 else 2)


class TestPushAck:
    """PUSH_ACK, per device and conversation, cumulative."""

    def test_both_forms(self, server):
        """Answered with a `rid`; seen as `delivered_seq`; never back, never beyond the end."""
        alice, carol = server.login(), server.login()
        bob = server.login(device_id="phone")
        one, two = direct(alice.user, bob.user), direct(carol.user, bob.user)
        for n in range(4):
            alice.text(bob.user, "x", f"c{n}")
            carol.text(bob.user, "x", f"c{n}")
        bob.ok(PUSH_ACK, conversation_id=one, seq=3)
        bob.ok(PUSH_ACK, acks={one: 2, two: 4})
        rows, _ = bob.sync_all()
        assert (rows[one]["delivered_seq"], rows[two]["delivered_seq"]) == (3, 4)
        bob.fails((0, 400), PUSH_ACK, conversation_id=one, seq=99)
        assert bob.sync_all()[0][one]["delivered_seq"] in (3, 4)
        assert bob.sync_all()[0][one]["unread"] == 4

    def test_without_rid_no_answer(self, pair):
        """It is a confirmation, not a question."""
        alice, bob = pair
        alice.text(bob.user, "x", "c")
        bob.push()
        bob.send(PUSH_ACK, {"conversation_id": direct(alice.user, bob.user), "seq": 1})
        bob.ok(HEARTBEAT)
        assert [frame for frame in bob.pushes if frame.command != READ] == []

    def test_empty(self, pair):
        """Neither form is 400."""
        _, bob = pair
        bob.fails(400, PUSH_ACK)
        bob.fails(400, PUSH_ACK, acks={"x": "y"})
        bob.fails(400, PUSH_ACK, acks=[1])


class TestDeliverMissed:
    """`deliver: "missed"`: a client that never asks SYNC."""

    def test_what_was_missed_then_live(self, sharded_server):
        """In `seq` order from the first unconfirmed; then what is new."""
        server = sharded_server
        alice, carol, name = server.login(), server.login(), server.register()
        for n in range(5):
            alice.text(name, f"a{n}", f"c{n}")
            carol.text(name, f"b{n}", f"c{n}")
        bob = server.login(name, device_id="phone", deliver="missed")
        missed = [bob.push() for _ in range(10)]
        for person, letter in ((alice, "a"), (carol, "b")):
            mine = [message["body"] for message in missed if message["from"] == person.user]
            assert mine == [f"{letter}{n}" for n in range(5)]
        alice.text(name, "live", "live")
        assert bob.push()["body"] == "live"
        bob.ok(PUSH_ACK, acks={direct(alice.user, name): 6, direct(carol.user, name): 3})
        bob.close()
        carol.text(name, "b5", "c5")
        bob = server.login(name, device_id="phone", deliver="missed")
        assert [bob.push()["body"] for _ in range(3)] == ["b3", "b4", "b5"]
        carol.text(name, "the next", "c6")
        assert bob.push()["body"] == "the next"

    def test_window(self, server):
        """256 frames ahead of the confirmations, not one more; each confirmation moves it on; live ones wait."""
        alice, name = server.login(), server.register()
        conversation = direct(alice.user, name)
        rids = [alice.post(SEND, to=name, client_id=f"c{n}", body="x") for n in range(600)]
        assert alice.answer(rids[-1])["seq"] == 600
        bob = server.login(name, device_id="phone", deliver="missed")
        seen = [bob.push()["seq"] for _ in range(256)]
        alice.text(name, "live", "live")
        assert [frame for frame in bob.drain() if frame.command == MESSAGE] == []
        while len(seen) < 601:
            bob.send(PUSH_ACK, {"conversation_id": conversation, "seq": seen[-1] - 100})
            before = len(seen)
            limit = min(601, seen[-1] - 100 + 256)
            seen += [bob.push()["seq"] for _ in range(limit - before)]
            assert limit > before
        assert seen == list(range(1, 602))
        assert [frame for frame in bob.drain() if frame.command == MESSAGE] == []

    def test_each_device_has_its_own(self, server):
        """What one device confirmed another still gets."""
        alice, name = server.login(), server.register()
        alice.text(name, "x", "c")
        for device in ("phone", "tablet"):
            bob = server.login(name, device_id=device, deliver="missed")
            assert bob.push()["seq"] == 1
            bob.ok(PUSH_ACK, conversation_id=direct(alice.user, name), seq=1)

    def test_needs_a_device_id(self, server):
        """Without a device of its own there is nothing to be missed: 400 naming `device_id`, or all is missed."""
        alice, bob = server.login(), server.login()
        alice.text(bob.user, "x", "c")
        with server.client() as client:
            answer = client.fails((0, 400), AUTH, token=bob.token, deliver="missed")
            if answer["code"]:
                assert answer["field"] == "device_id"
            else:
                assert client.push()["seq"] == 1

    def test_survives_a_restart(self, make_server):
        """Confirmations that were answered count after a kill."""
        server = make_server()
        alice, name = server.login(), server.register()
        conversation = direct(alice.user, name)
        for n in range(6):
            alice.text(name, f"{n}", f"c{n}")
        bob = server.login(name, device_id="phone", deliver="missed")
        assert [bob.push()["seq"] for _ in range(6)] == list(range(1, 7))
        bob.ok(PUSH_ACK, conversation_id=conversation, seq=4)
        server.kill()
        server.start()
        bob = server.again(bob, device_id="phone", deliver="missed")
        assert [bob.push()["seq"] for _ in range(2)] == [5, 6]
        server.again(alice).text(name, "6", "c6")
        assert bob.push()["seq"] == 7

    def test_under_load(self, sharded_server):
        """Login after login while messages stream in: each connection sees a run of seqs without a hole."""
        alice, name = sharded_server.login(), sharded_server.register()
        conversation = direct(alice.user, name)
        first = sharded_server.login(name, device_id="phone", deliver="missed")
        token, confirmed, rids = first, 0, []
        for n in range(15):
            rids += [alice.post(SEND, to=name, client_id=f"{n}-{k}", body="x") for k in range(20)]
            bob = sharded_server.again(token, device_id="phone", deliver="missed")
            expected = confirmed + 1
            top = alice.answer(rids[-1])["seq"]
            while expected <= top:
                assert bob.push()["seq"] == expected
                expected += 1
            confirmed = top - 7
            bob.ok(PUSH_ACK, conversation_id=conversation, seq=confirmed)
            assert [frame for frame in bob.pushes if frame.command == GOAWAY] == []
