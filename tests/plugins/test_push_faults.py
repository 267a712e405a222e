"""Offline push when something is wrong: a disk that cannot be read, a fault of our own, a clock that is off."""

import pytest
from push_rig import pushing, register, say, wait

from imserver.errors import StorageUnavailable
from imserver.plugin import HttpAnswer, InvalidBody, Unavailable
from imserver.testing.clock import ServerTime
from imserver_plugins.push import store
from imserver_plugins.push_apns.plugin import refusal_of


@pytest.mark.parametrize("failure", [StorageUnavailable("the disk is away"), ZeroDivisionError("our own fault")])
async def test_a_message_that_cannot_be_read_is_pushed_later(monkeypatch, failure):
    """The look at the message fails for a while: its push waits, and is made when that is over."""
    from imserver.context.messages import MessagesApi

    is_broken = True
    whole = MessagesApi.history

    async def history(self, *args, **kwargs):
        if is_broken:
            raise failure
        return await whole(self, *args, **kwargs)

    monkeypatch.setattr(MessagesApi, "history", history)
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob", "hello")
        await wait(server, 20)
        assert server.provider.pushes == []
        assert await server.rows("SELECT user_id, seq FROM push_jobs") == [("bob", 1)]
        is_broken = False
        await wait(server, 30)
        assert [push.text for push in server.provider.pushes] == ["hello"]
        assert await server.rows("SELECT * FROM push_jobs") == []


@pytest.mark.parametrize("step", ["look", "plans"])
@pytest.mark.parametrize("failure", [StorageUnavailable("the disk is away"), ZeroDivisionError("our own fault")])
async def test_the_tasks_outlive_a_fault(monkeypatch, step, failure):
    """A look that fails is not the last one."""
    whole, is_broken = getattr(store, step), False

    def broken(*args):
        if is_broken:
            raise failure
        return whole(*args)

    monkeypatch.setattr(store, step, broken)
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob", "hello")
        await wait(server, 9)
        is_broken = True
        await wait(server, 3)
        assert server.provider.pushes == []
        is_broken = False
        await wait(server, 20)
        assert [push.text for push in server.provider.pushes] == ["hello"]


class Shift:
    """The server's wall clock is off by so many seconds."""

    def __init__(self, monkeypatch):
        self.seconds = 0
        true = ServerTime.now_ms
        monkeypatch.setattr(ServerTime, "now_ms", lambda clock: true(clock) + self.seconds * 1000)


async def test_a_clock_that_was_ahead_while_nobody_had_a_device(monkeypatch):
    """What is sent once it has been set right is pushed, not when the wrong time has come again."""
    clock = Shift(monkeypatch)
    async with pushing() as server:
        clock.seconds = 86_400 * 365
        await wait(server, 40)
        clock.seconds = 0
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob", "hello")
        await wait(server, 11)
        assert [push.text for push in server.provider.pushes] == ["hello"]


async def test_a_clock_that_steps_back(monkeypatch):
    """Messages whose ids run ahead of the clock have their ten seconds, too: not none, and not an hour."""
    clock = Shift(monkeypatch)
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        clock.seconds = 3600
        await say(alice, "bob", "ahead")
        await wait(server, 1)
        clock.seconds = 0
        await wait(server, 15)
        assert [push.text for push in server.provider.pushes] == ["ahead"]
        for text in ("one", "two"):
            server.provider.pushes.clear()
            await say(alice, "bob", text)
            await wait(server, 9)
            assert server.provider.pushes == []
            await wait(server, 3)
            assert [push.text for push in server.provider.pushes] == [text]


def test_a_connection_that_apple_finds_idle_costs_no_push():
    """APNs says 400 IdleTimeout of the connection: the push is tried again; other words with 400 are about the push."""
    assert type(refusal_of(HttpAnswer(400, {}, b""), "IdleTimeout")) is Unavailable
    assert type(refusal_of(HttpAnswer(400, {}, b""), "BadDeviceToken")) is InvalidBody
