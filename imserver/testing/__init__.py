"""A server inside a test: the real core, a clock that the test moves, clients without ports (docs/reference/testing.md).

    from imserver.testing import running

    async def test_roll():
        async with running(plugins=["dice"], settings={"plugins.dice.sides": 6}) as server:
            alice = await server.login("alice")
            assert 1 <= (await alice.request(6001))["value"] <= 6

It works under pytest-trio and under a plain `trio.run`. What a client is refused is raised as the errors of
`imserver.client` (`Forbidden`, `NotFound`, …; all are a `ServerError`).

* server.py: the server and its thread; clock.py: its time; client.py: a connection; http.py: a request over HTTP
"""

from imserver.testing.client import Client, ConnectionEnded, NothingCame, Push
from imserver.testing.clock import Clock
from imserver.testing.http import HttpAnswer
from imserver.testing.server import Server, running

__all__ = ["Client", "Clock", "ConnectionEnded", "HttpAnswer", "NothingCame", "Push", "Server", "running"]
