"""PUSH_ACK of several conversations at once."""

import pytest
from push_rig import PUSH_ACK, pushing, register, say, wait

from imserver.client.errors import Forbidden

AB, AC = "d:alice:bob", "d:alice:carol"


async def test_one_conversation_too_many_spoils_no_others():
    """Who has just left a group confirms the other conversations all the same: they are not pushed; 403 if none is left."""
    async with pushing() as server:
        alice, bob, carol = await server.login("alice"), await server.login("bob"), await server.login("carol")
        await register(bob, "t-bob")
        await register(carol, "t-carol")
        await say(alice, "bob")
        await say(alice, "carol")
        await bob.request(PUSH_ACK, acks={AC: 1, AB: 1, "g:0123456789abcdef": 5})
        for acks in ({AC: 1}, {AC: 1, "g:0123456789abcdef": 5}):
            with pytest.raises(Forbidden):
                await bob.request(PUSH_ACK, acks=acks)
        await bob.request(PUSH_ACK, acks={})
        await wait(server, 15)
        assert {push.user_id for push in server.provider.pushes} == {"carol"}


async def test_many_conversations_that_are_not_in_memory():
    """As after a restart: they are brought in all at once, so that the bound on loads is not theirs."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        await say(alice, "bob")
        await bob.request(PUSH_ACK, acks={**{f"d:bob:u{number:03}": 1 for number in range(100)}, AB: 1})
        await wait(server, 15)
        assert not server.provider.pushes
