"""The reader of the log stands still: a stuck collector, a pager that nobody scrolls."""

import fcntl
import json
import os
import select
import signal
import subprocess

import pytest
from process import PASSWORD
from wire import HEARTBEAT


@pytest.fixture
def unread(make_server):
    """A server whose standard error nobody reads beyond its line `ready`."""
    server = make_server(start=False)
    process = subprocess.Popen(
        server.command(), cwd=server.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)  # few lines fill it
    try:
        for line in process.stderr:
            if b'"ready"' in line:
                break
        host, port = json.loads(line)["tcp"][0].rsplit(":", 1)
        server.address = (host, int(port))
        yield server, process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def fill(server, process):
    """Log in until the pipe takes no more; gives a client."""
    client = server.login()
    poll = select.poll()
    # The other end of the same pipe: as the server sees it.
    writing = os.open(f"/proc/{process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    try:
        poll.register(writing, select.POLLOUT)
        for _ in range(100):
            with server.client() as other:
                other.login(client.user, PASSWORD)
            if not poll.poll(0):
                return client
    finally:
        os.close(writing)
    raise AssertionError("the pipe is never full")


def test_the_server_goes_on_and_ends(unread):
    """With a full pipe new clients log in, old ones are answered, and SIGTERM ends the process with status 0."""
    server, process = unread
    client = fill(server, process)
    for _ in range(20):
        with server.client() as other:
            other.login(client.user, PASSWORD)
    assert client.call(HEARTBEAT)["code"] == 0
    client.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
