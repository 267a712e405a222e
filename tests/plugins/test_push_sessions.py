"""Offline push and the ends of sessions: whose phone it was is told nothing more, however the session has ended."""

import pytest
from push_rig import REMOVE_PUSH_TOKEN, SET_PUSH_TOKEN, pushing, recorder, register, say, wait

from imserver.context.database import Pending
from imserver_plugins.user import keys, store
from imserver_plugins.user.store.api_keys import ApiKey

REGISTER, LOGIN, LOGOUT, CHANGE_PASSWORD, LIST_DEVICES, KICK_DEVICE = 1001, 1002, 1005, 1008, 1010, 1011
PASSWORD, OTHER = "a long enough phrase 1", "a long enough phrase 2"
HELD = "SELECT token FROM push_tokens ORDER BY token"


async def log_in(server, device_id, password=PASSWORD):
    """A connection of bob's by his password."""
    client = server.connect()
    await client.request(LOGIN, user_id="bob", password=password, device_id=device_id)
    return client


async def execute(server, sql, params=()):
    """What another process writes into the database."""

    async def write():
        await Pending(server._server.shards[0].write([(sql, params)]), is_single=True)

    await server._in_server(write)


async def told(server, alice):
    """The tokens that a message to bob is pushed to."""
    server.provider.pushes.clear()
    await say(alice, "bob", "secret")
    await wait(server, 15)
    return {push.token for push in server.provider.pushes}


async def test_a_changed_password_silences_the_others_for_good():
    """Devices that lost their session by a change of the password are silent, also when the session is forgotten."""
    async with pushing(settings={"auth.refresh_ttl": "60s"}) as server:
        alice = await server.login("alice")
        await alice.request(REGISTER, user_id="bob", password=PASSWORD)
        thief, desk = await log_in(server, "stolen"), await log_in(server, "desk")
        await register(thief, "t-stolen")
        await register(desk, "t-desk")
        assert await told(server, alice) == {"t-stolen", "t-desk"}
        await desk.request(CHANGE_PASSWORD, old_password=PASSWORD, new_password=OTHER)
        assert await told(server, alice) == {"t-desk"}
        for _ in range(13):
            await wait(server, 10)  # its time is over, and it is forgotten
        assert await server.rows("SELECT 1 FROM user_sessions") == []
        assert "t-stolen" not in await told(server, alice)


async def test_a_device_that_made_room_is_silent():
    """A session that another device's login has put out takes no pushes along."""
    async with pushing(settings={"limits.sessions_per_user": 1}) as server:
        alice = await server.login("alice")
        await alice.request(REGISTER, user_id="bob", password=PASSWORD)
        old = await log_in(server, "old")
        await register(old, "t-old")
        old.close()
        await wait(server, 1)
        new = await log_in(server, "new")
        await register(new, "t-new")
        assert await told(server, alice) == {"t-new"}
        assert await server.rows(HELD) == [("t-new",)]


async def test_an_integrators_user_logs_out_on_a_later_connection():
    """The token was registered before the line was lost: LOGOUT and KICK_DEVICE of the device forget it all the same."""
    async with pushing() as server:
        for end in ("logout", "kick"):
            first = await server.login("bob", device_id="phone")
            await register(first, "t-phone")
            first.close()
            again, desk = await server.login("bob", device_id="phone"), await server.login("bob", device_id="desk")
            await register(desk, "t-desk")
            if end == "logout":
                await again.request(LOGOUT)
            else:
                devices = (await desk.request(LIST_DEVICES))["devices"]
                session_id = next(device["session_id"] for device in devices if device["device_id"] == "phone")
                await desk.request(KICK_DEVICE, session_id=session_id)
            await server.settle()
            assert await server.rows(HELD) == [("t-desk",)], end
            await wait(server, 2)  # the next integrator's token is another one


@pytest.mark.parametrize("what", ["disabled = 1", "tokens_from_ms = 1e15"])
async def test_what_the_command_line_did_while_the_server_was_away(what):
    """A user who was locked out, or logged out everywhere, while nobody could hear of it is pushed to no more."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await register(bob, "t-bob")
        assert await told(server, alice) == {"t-bob"}
        await execute(server, f"UPDATE users SET {what} WHERE user_id = 'bob'")
        assert await told(server, alice) == set()
        assert await server.rows(HELD) == []


async def test_a_back_end_registers_several_devices_of_a_user():
    """An API key is no device: what it registers for one user does not take each other's place."""
    async with pushing() as server:
        alice, bob = await server.login("alice"), await server.login("bob", device_id="desk")
        await register(bob, "t-desk")
        key = keys.new()
        row = ApiKey(key.key_id, "shop", key.secret_hash, frozenset({"push"}), 0, None, None, None)
        await execute(server, *store.api_keys.insert_key(row))
        headers = {"X-API-Key": key.text, "X-IM-User": "bob"}
        for token in ("t1", "t2"):
            body = {"provider": "fcm", "token": token}
            await server.http("POST", f"/v1/commands/{SET_PUSH_TOKEN}", headers=headers, json=body)
        assert await told(server, alice) == {"t1", "t2", "t-desk"}
        answer = await server.http("POST", f"/v1/commands/{REMOVE_PUSH_TOKEN}", headers=headers, json={})
        assert (answer.status, answer.json()["field"]) == (400, "token")
        await server.http("POST", f"/v1/commands/{REMOVE_PUSH_TOKEN}", headers=headers, json={"token": "t1"})
        assert await server.rows(HELD) == [("t-desk",), ("t2",)]


async def test_one_device_in_two_spellings():
    """A provider says which spelling a token has: the phone that is bob's now is told nothing of alice's."""
    apple = recorder()
    apple.check_token = lambda self, token, app: token.lower()
    async with pushing(provider=apple) as server:
        alice, bob, carol = await server.login("alice"), await server.login("bob"), await server.login("carol")
        await register(alice, "ABCD")
        await register(bob, "abcd")
        await say(carol, "alice")
        await say(carol, "bob")
        await wait(server, 15)
        assert [(push.user_id, push.token) for push in server.provider.pushes] == [("bob", "abcd")]
        await bob.request(REMOVE_PUSH_TOKEN, token="ABCD")
        assert await server.rows(HELD) == []
