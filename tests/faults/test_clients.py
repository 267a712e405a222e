"""Clients that are slow, silent, broken, hostile or too many: they lose their connection, nobody else anything."""

import contextlib
import random
import resource
import socket
import struct
import threading
import time

import pytest
from process import Server
from wire import (
    AUTH,
    ERROR,
    GOAWAY,
    HEARTBEAT,
    HELLO,
    MESSAGE,
    PULL,
    SEND,
    ClosedByServer,
    NothingCame,
    direct,
    encode,
)


def closes(client):
    """Wait for the end of the connection; gives the names of the errors that it was told."""
    return [frame.body["error"] for frame in client.read_to_end() if frame.command in (GOAWAY, ERROR)]


class TestSlowReader:
    """A recipient that stops reading."""

    @pytest.mark.parametrize("shards", [1, 2])
    def test_is_closed_and_others_go_on(self, make_server, shards):
        """Over `limits.outbox` it is closed as `slow_consumer`; the sender and the other device miss nothing."""
        server = make_server({"limits.outbox": "256KiB", "server.shards": shards})
        alice, bob = server.login(), server.login()
        slow = server.client(receive_buffer_bytes=4096)
        slow.auth(bob.token, device_id="slow")
        body = "x" * 30_000
        for n in range(1, 401):
            assert alice.text(bob.user, body, f"c{n}")["seq"] == n
            assert bob.push()["seq"] == n
        frames = slow.read_to_end()
        seqs = [frame.body["seq"] for frame in frames if frame.command == MESSAGE]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) < 400
        reasons = [frame.body["error"] for frame in frames if frame.command == GOAWAY]
        assert reasons in (["slow_consumer"], [])
        assert any("slow_consumer" in line for line in server.lines) or reasons
        again = server.again(bob, device_id="slow")
        assert len(again.pull_all(direct(alice.user, bob.user), limit=30)) == 400

    def test_that_asks_and_does_not_read(self, make_server):
        """Answers count too: a client that only asks is closed, and the server's memory is not its to fill."""
        server = make_server({"limits.outbox": "256KiB", "limits.requests_per_second": 0})
        alice, name = server.login(), server.register()
        for n in range(20):
            alice.text(name, "x" * 40_000, f"c{n}")
        greedy = server.client(receive_buffer_bytes=4096, timeout_s=20)
        greedy.auth(alice.token)
        question = encode(2002, {"rid": 1, "conversation_id": direct(alice.user, name), "limit": 20})
        with contextlib.suppress(OSError):  # it is closed, or its own buffers are full because the server reads no more
            greedy.socket.settimeout(5)
            for _ in range(5_000):
                greedy.send_raw(question)
        alice.ok(HEARTBEAT)
        assert resident_bytes(server.process.pid) < 600 * 1024 * 1024

    def test_that_asks_for_much_on_several_connections(self, make_server):
        """As many requests in flight as are allowed, each for a page of 1 MiB: what nobody reads is not made ready."""
        server = make_server()
        alice, name = server.login(), server.register()
        for n in range(20):
            alice.text(name, "x" * 50_000, f"c{n}")
        alice.ok(PULL, conversation_id=direct(alice.user, name), limit=20)
        before = resident_bytes(server.process.pid)
        question = encode(PULL, {"rid": 1, "conversation_id": direct(alice.user, name), "limit": 20})
        greedy = [server.again(alice, device_id=f"greedy-{n}", receive_buffer_bytes=4096) for n in range(5)]
        for client in greedy:
            client.send_raw(question * 64)
        wait_idle(server.process.pid)
        alice.ok(HEARTBEAT)
        # Before, all 5 x 64 pages were held. Now a quarter of `limits.outbox`, one page and what copies take for each.
        assert resident_bytes(server.process.pid) - before < 100 * 1024 * 1024
        for client in greedy:
            assert len(client.read_frame().body["messages"]) == 20


def wait_idle(pid):
    """Return when a process has not worked for half a second; it is given a minute."""
    busy, since = -1.0, time.monotonic()
    until = since + 60
    while time.monotonic() < min(since + 0.5, until):
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        used = int(fields[11]) + int(fields[12])
        if used - busy > 1:  # ticks of 10 ms: the deadlines of idle connections cost less
            busy, since = used, time.monotonic()
        time.sleep(0.02)


def resident_bytes(pid):
    """The memory that a process has in RAM."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


class TestGarbage:
    """Bytes of any kind."""

    def test_random_bytes(self, server):
        """Whatever comes, the server stands and others are served."""
        chance = random.Random(5)
        alice, bob = server.login(), server.login()
        for n in range(60):
            with server.client() as client:
                size = chance.choice([1, 7, 8, 9, 100, 5_000])
                with contextlib.suppress(ConnectionError):
                    client.send_raw(chance.randbytes(size))
                if n % 3:
                    with contextlib.suppress(ClosedByServer, NothingCame):
                        client.read_frame(0.05)
        alice.text(bob.user, "still here", "c")
        assert bob.push()["body"] == "still here"

    def test_random_bodies_in_good_frames(self, server):
        """Random bodies under every command: an ERROR, an answer or the end, never a fault of the server's."""
        chance = random.Random(6)
        alice, bob = server.login(), server.login()
        victim = server.again(alice)
        for _ in range(400):
            command = chance.choice([1, 4, *range(1001, 1012), *range(2001, 2015), 5001, 5002])
            body = chance.randbytes(chance.randrange(0, 60))
            if chance.random() < 0.5:
                body = bytes([0x81, 0xA1, chance.randrange(256)]) + body
            try:
                victim.send_raw(encode(command, body, flags=chance.choice([0, 0, 1, 2, 3])))
                if victim.buffer or chance.random() < 0.1:
                    victim.ok(HEARTBEAT)
            except (ClosedByServer, ConnectionError):
                victim = server.again(alice)
            for frame in victim.pushes:
                assert frame.body.get("code", 0) < 500, frame
            victim.pushes.clear()
        alice.text(bob.user, "still here", "c")
        assert bob.push()["body"] == "still here"

    def test_other_protocols(self, server):
        """HTTP, TLS and SSH on the framed port are closed."""
        for greeting in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            bytes.fromhex("16030100c8010000c40303") + b"\0" * 190,
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ):
            with server.client() as client:
                client.send_raw(greeting)
                closes(client)

    def test_reset_in_mid_frame(self, server):
        """A connection reset inside a frame, a hundred times."""
        alice = server.login()
        for _ in range(100):
            client = server.client()
            client.send_raw(encode(HELLO, {"rid": 1, "client": "x" * 100})[:50])
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        alice.ok(HEARTBEAT)

    def test_reset_with_pushes_under_way(self, server):
        """Recipients that reset the connection while messages fly to them."""
        alice, bob = server.login(), server.login()
        gone = [server.again(bob) for _ in range(10)]
        rids = [alice.post(SEND, to=bob.user, client_id=f"c{n}", body="x" * 5_000) for n in range(50)]
        for client in gone:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        rids += [alice.post(SEND, to=bob.user, client_id=f"d{n}", body="x") for n in range(50)]
        assert [alice.answer(rid)["seq"] for rid in rids] == list(range(1, 101))
        assert [bob.push()["seq"] for _ in range(100)] == list(range(1, 101))


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A server that has little patience."""
    settings = {"tcp.heartbeat": "300ms", "limits.login_timeout": "1s"}
    server = Server(tmp_path_factory.mktemp("hasty"), settings).start()
    yield server
    assert server.stop() == 0, server.text()
    assert "Traceback" not in server.text()


class TestSilence:
    """Peers that say nothing."""

    def test_silent_connection_is_closed(self, hasty):
        """After three heartbeats of silence: GOAWAY `idle`, and the end."""
        alice = hasty.login()
        assert alice.account["heartbeat_ms"] == 300
        assert alice.goaway() == "idle"

    def test_any_frame_is_life(self, hasty):
        """A client that beats stays, long past the limit; bare beats do."""
        alice, silent = hasty.login(), hasty.login()
        pause = threading.Event()
        while True:  # at least as long as the silent one lives
            alice.send_raw(encode(HEARTBEAT))
            assert alice.read_frame().command == HEARTBEAT
            try:
                silent.read_frame(0.05)
                break
            except NothingCame:
                pause.wait(0.05)
        alice.ok(HEARTBEAT)

    def test_pushes_are_no_life(self, hasty):
        """A half-open peer is not kept alive by what is sent to it."""
        alice, bob = hasty.login(), hasty.login()
        for n in range(10_000):
            alice.text(bob.user, "x", f"c{n}")
            try:
                while (command := bob.read_frame().command) != MESSAGE:
                    assert command == GOAWAY
            except ClosedByServer:
                return
        raise AssertionError("pushes keep a silent connection alive")

    def test_login_deadline(self, hasty):
        """Who does not log in is closed, beats or not; half a frame is no excuse."""
        for greeting in (b"", encode(HELLO, {"rid": 1}), encode(HELLO, {"rid": 1})[:-1]):
            client = hasty.client()
            client.send_raw(greeting)
            closes(client)
        beating = hasty.client()
        pause = threading.Event()
        with contextlib.suppress(ClosedByServer, ConnectionError):
            for _ in range(2_000):
                beating.send_raw(encode(HEARTBEAT))
                beating.read_frame()
                pause.wait(0.02)
            raise AssertionError("a stranger may stay for ever")

    def test_half_a_frame_is_no_life(self, hasty):
        """A frame that never ends does not keep a connection open."""
        alice = hasty.login()
        alice.send_raw(encode(HELLO, {"rid": 1, "client": "x" * 100})[:60])
        closes(alice)


class TestTooMany:
    """Bounds on connections."""

    def test_max_connections(self, make_server):
        """Connections beyond `limits.max_connections` are turned away; when some go, others are served."""
        server = make_server({"limits.max_connections": 5})
        clients = [server.client() for _ in range(5)]
        for client in clients:
            client.ok(HELLO)
        for _ in range(10):
            refused(server)
        clients.pop().close()
        eventually_served(server)
        for client in clients:
            client.ok(HEARTBEAT)

    def test_connections_per_address(self, make_server):
        """The same for one address, unless it is exempt."""
        server = make_server({"limits.connections_per_address": 3, "limits.exempt_addresses": "[]"})
        clients = [server.client() for _ in range(3)]
        for client in clients:
            client.ok(HELLO)
        for _ in range(5):
            refused(server)
        clients.pop().close()
        eventually_served(server)

    def test_exempt_addresses(self, make_server):
        """Loopback is exempt by default."""
        server = make_server({"limits.connections_per_address": 3})
        for client in [server.client() for _ in range(8)]:
            client.ok(HELLO)

    def test_the_soft_limit_of_descriptors_is_raised(self, make_server):
        """Started by a shell that allows few files the server takes as many clients as the hard limit has room for."""

        def few_for_now():
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 600))

        server = make_server(preexec=few_for_now)
        clients = [server.client() for _ in range(300)]
        assert [client.call(HELLO)["code"] for client in clients] == [0] * 300
        warning = server.wait_logged(lambda record: record["event"] == "few_descriptors")
        assert (warning["open_files"], warning["max_connections"]) == (600, 100_000)
        for client in clients:
            client.close()

    def test_enough_descriptors_are_no_warning(self, make_server):
        """Where the hard limit has room for all connections nothing is said, and no more is taken than is of use."""
        server = make_server(
            {"limits.max_connections": 50}, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (60, 2000))
        )
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (1050, 2000)
        assert "few_descriptors" not in server.text()

    def test_out_of_descriptors(self, make_server):
        """With its descriptors used up the server keeps those it has, and serves again when some are free."""

        def few_descriptors():
            resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))

        server = make_server(preexec=few_descriptors)
        alice, bob = server.login(), server.login()
        crowd = []
        for _ in range(120):
            with contextlib.suppress(OSError):
                crowd.append(server.client())
        for n in range(20):
            alice.text(bob.user, f"{n}", f"c{n}")
            assert bob.push()["body"] == f"{n}"
        for client in crowd:
            client.close()
        eventually_served(server)
        again = server.again(bob)
        assert len(again.pull_all(direct(alice.user, bob.user))) == 20
        assert "Traceback" not in server.text()


def served(server):
    """Whether a new connection is served."""
    try:
        with server.client(timeout_s=10) as client:
            return client.call(HELLO)["code"] == 0
    except (ClosedByServer, ConnectionError, NothingCame):
        return False


def refused(server):
    """A new connection is closed (with or without a word), not left to wait."""
    try:
        client = server.client()
    except ConnectionError:
        return
    with client, contextlib.suppress(ConnectionError):
        client.post(HELLO)
        client.read_to_end()
        assert not client.responses


def eventually_served(server):
    """The server notices the end of connections in its own time; then it serves again."""
    pause = threading.Event()
    for _ in range(500):
        if served(server):
            return
        pause.wait(0.02)
    raise AssertionError("the server does not serve new connections any more")


def test_many_logins_at_once(server):
    """Thirty logins at the same moment: all succeed (or are told when to come again), and frames of others flow."""
    alice, bob = server.login(), server.login()
    clients = [server.client() for _ in range(30)]
    rids = [(client, client.post(AUTH, token=bob.token)) for client in clients]
    alice.text(bob.user, "meanwhile", "c")
    assert bob.push()["body"] == "meanwhile"
    assert {client.answer(rid)["code"] for client, rid in rids} == {0}
