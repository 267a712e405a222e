"""Disks and databases that fail: 503 and recovery without a restart, and a clear refusal to start."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import threading

import pytest
from history import History, problems, unacked
from load import Receiver, Sender, join, start
from process import PASSWORD, ServerFailed
from wire import HEARTBEAT, MARK_READ, PULL, REGISTER, SEND, SYNC, direct

TEXT = "x" * 2_000


def fill(alice, bob, prefix, limit=20_000):
    """Send until a send is refused; gives how many were accepted. Every refusal is a 503."""
    for n in range(limit):
        answer = alice.fails((0, 503), SEND, to=bob.user, client_id=f"{prefix}{n}", body=TEXT)
        if answer["code"]:
            assert answer["error"] == "unavailable"
            return n
    raise AssertionError("the disk did not fill up")


def recovers(alice, bob, client_id):
    """Send one message until it is accepted; gives its answer."""
    pause = threading.Event()
    for _ in range(600):
        answer = alice.fails((0, 503), SEND, to=bob.user, client_id=client_id, body="after")
        if answer["code"] == 0:
            return answer
        pause.wait(0.05)
    raise AssertionError("the server did not recover")


def check_full_disk(server, make_room):
    """The story of a full disk, told once for every way to fill one."""
    alice, bob = server.login(), server.login()
    conversation = direct(alice.user, bob.user)
    accepted = fill(alice, bob, "c")
    assert accepted > 0
    rids = [alice.post(SEND, to=bob.user, client_id=f"d{n}", body=TEXT) for n in range(20)]
    answers = [alice.answer(rid) for rid in rids]
    late = sum(answer["code"] == 0 for answer in answers)  # a little room may be left for some
    assert {answer["code"] for answer in answers} <= {0, 503}
    assert late < 20
    stored = bob.pull_all(conversation, limit=200)
    assert [message["seq"] for message in stored] == list(range(1, accepted + late + 1))
    assert bob.ok(SYNC)["conversations"][0]["last_seq"] == accepted + late
    alice.ok(HEARTBEAT)
    marked = bob.fails((0, 503), MARK_READ, conversation_id=conversation, seq=accepted)
    with server.client() as stranger:
        stranger.fails((0, 503), REGISTER, user_id="comes-at-a-bad-time", password=PASSWORD)
    assert bob.unread(conversation) == late + (0 if marked["code"] == 0 else accepted)
    make_room()
    answer = recovers(alice, bob, "after")
    assert not answer.get("duplicate")
    assert answer["seq"] == accepted + late + 1
    pushed = [bob.push() for _ in range(answer["seq"])]
    assert [message["seq"] for message in pushed] == list(range(1, answer["seq"] + 1))
    for n, code in ((n, answers[n]["code"]) for n in (0, 19)):
        again = alice.ok(SEND, to=bob.user, client_id=f"d{n}", body=TEXT)
        assert bool(again.get("duplicate")) == (code == 0)  # what failed left its key free
    stored = bob.pull_all(conversation, limit=200)
    assert [message["seq"] for message in stored] == list(range(1, len(stored) + 1))
    server.restart()
    assert server.again(bob).pull_all(conversation, limit=200) == stored


def test_file_size_limit(make_server):
    """A limit on the size of files, set while it runs, then lifted: 503s, then service, without a restart."""
    server = make_server()
    pid = server.process.pid
    size = max(path.stat().st_size for path in server.data.iterdir())
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 400_000, unlimited[1]))
    check_full_disk(server, lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited))


@pytest.mark.parametrize("shards", [1, 2])
def test_commits_that_fail_under_load(make_server, shards):
    """Time and again no byte can be written, while many send: what is acked is stored, what is refused is not, no holes."""
    server = make_server({"server.shards": shards})
    history = History()
    bob = server.login()
    writers = [server.login() for _ in range(6)]
    senders = [Sender(history, writer.user, [bob.user, writers[0].user], window=1) for writer in writers[1:]]
    receiver = Receiver(history, bob.user, device_id="phone", deliver="missed")
    stop = threading.Event()
    threads = [start(receiver.run, server.again(bob, **receiver.options))]
    sending = [start(sender.run, server.again(writer), stop) for sender, writer in zip(senders, writers[1:], strict=True)]
    unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    for _ in range(6):
        wait_for_more(senders, "acked", 200)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, unlimited[1]))
        wait_for_more(senders, "refused", 10)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
    wait_for_more(senders, "acked", 200)
    stop.set()
    join(sending)
    archive = {}
    for reader in (bob, writers[0]):
        for writer in writers[1:]:
            conversation = direct(reader.user, writer.user)
            archive[conversation] = reader.pull_all(conversation, limit=500)
            assert reader.unread(conversation) == len(archive[conversation])
    ends = {key: len(messages) for key, messages in archive.items() if bob.user in key.split(":")}
    wait_for(lambda: receiver.seen == ends)
    assert server.stop() == 0
    join(threads)
    server.start()
    assert problems(history, archive) == []
    assert unacked(history) == []
    assert receiver.holes == []
    assert [error for client in (*senders, receiver) for error in client.errors] == []
    reader = server.again(bob)
    assert {key: reader.pull_all(key, limit=500) for key in ends} == {key: archive[key] for key in ends}


def wait_for_more(senders, counter, count):
    """Until the sum of one of their counters has grown by `count`."""

    def total():
        return sum(getattr(sender, counter) for sender in senders)

    goal = total() + count
    wait_for(lambda: total() >= goal)


def wait_for(condition):
    """Until a condition holds."""
    pause = threading.Event()
    for _ in range(15_000):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("what was waited for did not come")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, mounted where the test may write."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk(make_server, small_disk):
    """A disk that is really full, until a file goes."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 1024 * 1024)
    server = make_server({"server.data_dir": str(small_disk / "data")})
    server.data = small_disk / "data"
    check_full_disk(server, ballast.unlink)
    server.stop()


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextlib.contextmanager
def database_held(server):
    """Another process that has the database's write lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(server.data / "imserver.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def test_database_locked_by_another_process(make_server):
    """Sends wait or are 503, reads work, nothing is pushed; when the lock goes all is as before."""
    server = make_server()
    alice, bob = server.login(), server.login()
    conversation = direct(alice.user, bob.user)
    alice.text(bob.user, "before", "before")
    assert bob.push()["seq"] == 1
    with database_held(server):
        rids = [alice.post(SEND, to=bob.user, client_id=f"c{n}", body="locked") for n in range(5)]
        assert len(bob.ok(PULL, conversation_id=conversation)["messages"]) == 1
        assert bob.drain() == []
        assert len(bob.ok(PULL, conversation_id=conversation)["messages"]) == 1
    codes = [alice.answer(rid)["code"] for rid in rids]
    assert set(codes) <= {0, 503}
    answer = recovers(alice, bob, "after")
    assert answer["seq"] == 2 + codes.count(0)
    assert [bob.push()["seq"] for _ in range(1 + codes.count(0))] == list(range(2, answer["seq"] + 1))


def test_locked_for_longer_than_anyone_waits(make_server):
    """A lock that stays is answered by 503, not by silence, and is recovered from."""
    server = make_server()
    alice, bob = server.login(), server.login()
    with database_held(server):
        answer = alice.call(SEND, to=bob.user, client_id="c", body="locked")
        assert (answer["code"], answer["error"]) == (503, "unavailable")
        assert answer["retry_after_ms"] > 0
    answer = recovers(alice, bob, "c2")
    assert answer["seq"] == 1
    assert bob.push()["client_id"] == "c2"


class TestRefusesToStart:
    """Exit status 3 and a message that says what is wrong with which file."""

    @staticmethod
    def refusal(server):
        with pytest.raises(ServerFailed) as caught:
            server.start()
        assert caught.value.status == 3, caught.value.text
        assert "Traceback" not in caught.value.text, caught.value.text
        return caught.value.text

    @pytest.fixture
    def used(self, make_server):
        """A server with a little history, stopped."""
        server = make_server()
        alice, bob = server.login(), server.login()
        for n in range(100):
            alice.text(bob.user, TEXT, f"c{n}")
        assert server.stop() == 0
        return server

    @pytest.mark.parametrize("how", ["header", "schema", "empty-of-sense"])
    def test_damaged_database(self, used, how):
        """A damaged file is named, and left as it is."""
        path = used.data / "imserver.db"
        data = bytearray(path.read_bytes())
        if how == "header":
            data[:100] = b"\xff" * 100
        elif how == "schema":
            data[100:4096] = b"\xa5" * 3996
        else:
            data = bytearray(b"this is no database\n" * 500)
        path.write_bytes(data)
        assert "imserver.db" in self.refusal(used)
        assert path.read_bytes() == bytes(data)

    @pytest.mark.parametrize("owner", ["core", "user"])
    def test_newer_database(self, used, owner):
        """A database of a newer program, or of a newer plugin, is refused, and says so."""
        path = used.data / "imserver.db"
        connection = sqlite3.connect(path, isolation_level=None)
        statement = "INSERT INTO migrations SELECT owner, 1000, checksum FROM migrations WHERE owner = ? AND number = 1"
        assert connection.execute(statement, (owner,)).rowcount == 1
        connection.close()
        text = self.refusal(used)
        assert str(path) in text
        assert "newer" in text

    def test_folder_that_cannot_be_made(self, make_server):
        """A `data_dir` below a file cannot be: also for root."""
        server = make_server(start=False)
        (server.folder / "file").write_text("")
        server.settings["server.data_dir"] = str(server.folder / "file" / "data")
        assert str(server.folder / "file") in self.refusal(server)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_folder_that_is_read_only(self, used):
        """A `data_dir` without the right to write."""
        used.data.chmod(0o500)
        try:
            assert str(used.data) in self.refusal(used)
        finally:
            used.data.chmod(0o700)

    def test_read_only_disk(self, make_server, small_disk):
        """A file system mounted read-only: also for root."""
        server = make_server({"server.data_dir": str(small_disk / "data")})
        server.register()
        assert server.stop() == 0
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        assert str(small_disk) in self.refusal(server)
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        server.start()

    def test_port_in_use(self, make_server):
        """A taken address is named."""
        first = make_server(name="first")
        address = "{}:{}".format(*first.address)
        second = make_server({"tcp.listen": address}, name="second", start=False)
        assert address in self.refusal(second)
        first.client().ok(HEARTBEAT)

    def test_two_servers_on_one_folder(self, make_server):
        """The second is refused; the first serves on."""
        first = make_server()
        second = make_server(start=False)
        assert str(first.data) in self.refusal(second)
        alice = first.login()
        alice.text(first.register(), "fine", "c")

    @pytest.mark.parametrize(
        ("key", "value"),
        [("tcp.heartbeet", "30s"), ("tcp.heartbeat", "soon"), ("limits.max_frame", "-1"), ("tcp.listen", "nowhere")],
    )
    def test_bad_configuration(self, make_server, key, value):
        """Exit status 2, the key is named."""
        server = make_server({key: value}, start=False)
        with pytest.raises(ServerFailed) as caught:
            server.start()
        assert caught.value.status == 2, caught.value.text
        assert key.rsplit(".", 1)[1] in caught.value.text


def test_database_made_by_an_earlier_run_keeps_everything(make_server):
    """Start after start on one folder: users, tokens, messages, marks."""
    server = make_server()
    alice, bob = server.login(), server.login()
    for round_number in range(1, 4):
        alice.text(bob.user, f"{round_number}", f"c{round_number}")
        server.restart()
        alice, bob = server.again(alice), server.again(bob)
        assert bob.unread(direct(alice.user, bob.user)) == round_number
