"""`delivered_seq`: what this device has confirmed, whatever the user's others have."""

import itertools

from test_message_commands import ADD_MEMBERS, SEND, SYNC

from imserver.testing import running

PUSH_ACK, CREATE_GROUP, DELETE_CONVERSATION = 5002, 4001, 2010
NAME = "d:alice:bob"
_numbers = itertools.count()


async def confirmed(client, cursor=""):
    """`delivered_seq` of each conversation, as SYNC tells it."""
    answer = await client.request(SYNC, cursor=cursor)
    return {row["conversation_id"]: row["delivered_seq"] for row in answer["conversations"]}


async def say(client, count, **where):
    """So many messages."""
    for _ in range(count):
        await client.request(SEND, client_id=f"c{next(_numbers)}", body="hi", **where)


async def test_devices_confirm_each_for_itself():
    """What the phone has confirmed the laptop has not; connections without a `device_id` are told the highest of all."""
    async with running(["push"]) as server:
        alice = await server.login("alice")
        phone, laptop = [await server.login("bob", device_id=device) for device in ("phone", "laptop")]
        nameless = await server.login("bob")
        await say(alice, 4, to="bob")
        await phone.request(PUSH_ACK, conversation_id=NAME, seq=3)
        assert [await confirmed(one) for one in (phone, laptop, nameless)] == [{NAME: 3}, {NAME: 0}, {NAME: 3}]
        await laptop.request(PUSH_ACK, conversation_id=NAME, seq=1)
        assert [await confirmed(one) for one in (phone, laptop, nameless)] == [{NAME: 3}, {NAME: 1}, {NAME: 3}]
        await nameless.request(PUSH_ACK, conversation_id=NAME, seq=4)
        assert [await confirmed(one) for one in (phone, laptop, nameless)] == [{NAME: 3}, {NAME: 1}, {NAME: 4}]
        connection = server.connect()
        answer = await connection.login("bob", device_id="laptop", sync="")
        assert [row["delivered_seq"] for row in answer["sync"]["conversations"]] == [1]


async def test_what_is_not_for_a_device_counts_as_confirmed():
    """What was there before the user came, readable or not, and what the user has hidden: nothing to catch up with."""
    async with running(["push", "group"]) as server:
        alice = await server.login("alice")
        bob = await server.login("bob", device_id="laptop")
        made = await alice.request(CREATE_GROUP, name="g", history="all")
        group = made["conversation_id"]
        await say(alice, 2, conversation_id=group)
        await alice.request(ADD_MEMBERS, group_id=made["group_id"], user_ids=["bob"])
        [row] = (await bob.request(SYNC))["conversations"]
        assert 2 <= row["delivered_seq"] < row["last_seq"]  # the line that bob came is the first that is his
        await say(alice, 1, conversation_id=group)
        assert await confirmed(bob) == {group: row["delivered_seq"]}
        await bob.request(DELETE_CONVERSATION, conversation_id=group)
        await say(alice, 1, conversation_id=group)
        assert await confirmed(bob) == {group: row["last_seq"] + 1}
