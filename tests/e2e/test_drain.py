"""SIGTERM under load: GOAWAY `draining`, exit status 0, and nothing acked lost."""

import signal
import threading

import pytest
from history import History, problems
from load import Receiver, Sender, join, start
from wire import GOAWAY, direct


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_drain_under_load(make_server, shards, signal_number):
    """Every client is told; what was acked is there; what was answered by 503 is not; the status is 0."""
    server = make_server({"server.shards": shards})
    history = History()
    bob = server.login()
    writers = [server.login() for _ in range(3)]
    senders = [Sender(history, writer.user, [bob.user], 16) for writer in writers]
    receiver = Receiver(history, bob.user, device_id="phone", deliver="missed")
    running = threading.Event()
    idle = server.login()
    threads = [start(receiver.run, server.again(bob, **receiver.options))]
    clients = [server.again(writer) for writer in writers]
    threads += [start(sender.run, client, running) for sender, client in zip(senders, clients, strict=True)]
    waited = threading.Event()
    for _ in range(30_000):
        if sum(sender.acked for sender in senders) >= 300:
            break
        waited.wait(0.002)
    server.process.send_signal(signal_number)
    assert server.wait() == 0
    join(threads)
    assert idle.goaway() == "draining"
    for client in clients:
        # A sender may stop at its first 503, before it has read as far as GOAWAY.
        reasons = [frame.body["error"] for frame in client.pushes if frame.command == GOAWAY]
        assert reasons in (["draining"], [])
    server.start()
    reader = server.again(bob)
    archive = {direct(bob.user, writer.user): reader.pull_all(direct(bob.user, writer.user)) for writer in writers}
    assert problems(history, archive) == []
    assert [error for sender in senders for error in sender.errors] == []
    assert receiver.holes == []
    assert sum(sender.acked for sender in senders) >= 300


def test_no_new_connections_while_draining(make_server):
    """After GOAWAY the port refuses."""
    server = make_server()
    alice = server.login()
    server.terminate()
    assert alice.goaway() == "draining"
    assert server.wait() == 0
    with pytest.raises(ConnectionError):
        server.client()


def test_idle_server_stops(make_server):
    """No clients, no wait: status 0, and the database is closed without a journal left behind."""
    server = make_server()
    assert server.stop() == 0
    assert (server.data / "imserver.db").exists()
    assert not (server.data / "imserver.db-wal").exists() or (server.data / "imserver.db-wal").stat().st_size == 0


def test_client_that_does_not_read_cannot_hold_it(make_server):
    """A recipient that reads nothing is given up at the drain limit at the latest: status 0."""
    server = make_server({"server.drain": "1s"})
    alice, bob = server.login(), server.login(receive_buffer_bytes=4096)
    for n in range(100):
        alice.text(bob.user, "x" * 20_000, f"c{n}")
    assert server.stop() == 0


def test_second_signal_quits_at_once(make_server):
    """A second SIGTERM does not wait for what the first is still waiting for."""
    server = make_server({"server.drain": "300s"})
    alice, bob = server.login(), server.login(receive_buffer_bytes=4096)
    for n in range(100):
        alice.text(bob.user, "x" * 20_000, f"c{n}")
    server.terminate()
    assert alice.goaway() == "draining"
    server.terminate()
    server.wait(60)
    server.start()
    assert len(server.again(bob).pull_all(direct(alice.user, bob.user), limit=100)) == 100
