"""Requests over HTTP that wait for the disk: who asked may be locked out before their turn."""

import pytest
import trio

import imserver.testing
from imserver.context.database import Pending
from imserver.journal import Journal
from imserver.router import Router

SEND = 2001


@pytest.fixture
def disk(monkeypatch):
    """`disk["is_full"]`: the journal has no room, from the moment on when the next request was let in."""
    state = {"is_full": False, "fills": False}
    admit = Router._admit

    def admitted(self, caller, command_id):
        endpoint = admit(self, caller, command_id)
        if state["fills"] and command_id == SEND:
            state["is_full"] = True
        return endpoint

    monkeypatch.setattr(Journal, "is_full", property(lambda journal: state["is_full"]))
    monkeypatch.setattr(Router, "_admit", admitted)
    return state


@pytest.mark.parametrize("locked", [True, False])
async def test_who_is_locked_out_while_the_request_waits(disk, locked):
    """It is refused, as a frame of theirs would be; without that it is carried out once there is room."""
    answers = []
    async with imserver.testing.running() as server, trio.open_nursery() as nursery:
        token = await server.token("alice")
        await server.token("bob")

        async def send():
            body = {"to": "bob", "client_id": "c1", "body": "hi"}
            answers.append(await server.http("POST", f"/v1/commands/{SEND}", token=token, json=body))

        async def lock_out():
            shard = server._server.shards[0]
            await Pending(shard.write([("UPDATE users SET disabled = 1 WHERE user_id = 'alice'", ())]), is_single=True)
            shard.directory.invalidate()

        disk["fills"] = True
        nursery.start_soon(send)
        while not disk["is_full"]:
            await server.clock.advance(0.01)
        await server.clock.advance(1)
        assert answers == []
        if locked:
            await server._in_server(lock_out)
        disk["is_full"] = disk["fills"] = False
        while not answers:
            await server.clock.advance(0.1)
        assert answers[0].status == (403 if locked else 200)
        assert await server.rows("SELECT count(*) FROM messages") == [(0 if locked else 1,)]
