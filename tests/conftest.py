"""Fixtures of the black-box tests: real server processes, shared where a test leaves no trace on others."""

import pytest
import wire
from process import Server


@pytest.fixture(autouse=True)
def _close_clients():
    """Close every connection that a test left open: an unclosed socket would warn, and warnings are errors."""
    yield
    for client in list(wire.OPEN):
        client.close()


def pytest_make_parametrize_id(config, val, argname):
    """Bytes by their length: what is random in them must not make another test of it in each worker process."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory):
    """Servers by number of shards, started when first asked for; at the end stopped and judged by their log."""
    servers = {}

    def get(shards):
        if shards not in servers:
            folder = tmp_path_factory.mktemp(f"server-{shards}")
            servers[shards] = Server(folder, {"server.shards": shards}).start()
        server = servers[shards]
        assert server.alive, f"an earlier test ended the shared server:\n{server.text()[-4000:]}"
        return server

    yield get
    for server in servers.values():
        assert server.alive, server.text()[-4000:]
        assert server.stop() == 0, server.text()[-4000:]
        assert "Traceback" not in server.text(), server.text()[-8000:]


@pytest.fixture
def server(shared_servers):
    """The shared server of one shard."""
    return shared_servers(1)


@pytest.fixture(params=[1, 2], ids=["1-shard", "2-shards"])
def sharded_server(request, shared_servers):
    """The shared server of one shard, then the one of two: for what crosses shards."""
    return shared_servers(request.param)


@pytest.fixture
def make_server(tmp_path):
    """A factory of servers of this test's own: `make_server({...settings})`, not started; all are gone afterwards."""
    made = []

    def make(settings=None, *, name="server", start=True, preexec=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        server = Server(folder, settings, preexec=preexec)
        made.append(server)
        return server.start() if start else server

    yield make
    for server in made:
        server.discard()


@pytest.fixture
def pair(server):
    """Two new users, logged in on the shared server: (alice, bob)."""
    return server.login(), server.login()
