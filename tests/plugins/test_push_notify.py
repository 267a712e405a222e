"""NOTIFY (5009): who may, to whom it goes, and its bounds."""

import attrs
import pytest
from push_rig import NOTIFY, pushing

from imserver.client.errors import ServerError
from imserver.plugin import Plugin
from imserver_plugins.user import admin

CREATE_GROUP = 4001
PATH = f"/v1/commands/{NOTIFY}"
KEYS = {
    "all": {"*"},
    "plugin": {"push"},
    "command": {"push.NOTIFY"},
    "other command": {"push.PUSH_ACK"},
    "other plugin": {"message"},
    "admin": {"admin"},
}


def keys_of(server):
    """A real API key for each of these, by what it may do."""
    plugins = attrs.evolve(server.config.plugins, enabled=("user", "message", "push"))
    config = attrs.evolve(server.config, plugins=plugins)
    return {name: admin.add_key(config, name.replace(" ", "-"), scopes) for name, scopes in KEYS.items()}


def notice(**fields):
    return {"topic": "news", "body": {"a": 1}, **fields}


async def test_who_may():
    """Admins, and API keys with the scope, for themselves or for a user; nobody else."""
    async with pushing() as server:
        bob, root = await server.login("bob"), await server.login("root", roles=["admin"])
        asked = notice(user_ids=["bob"])
        assert await root.request(NOTIFY, **asked) == {"sessions": 1}
        assert await bob.push(NOTIFY) == {"topic": "news", "body": {"a": 1}}
        with pytest.raises(ServerError) as refusal:
            await bob.request(NOTIFY, **asked)
        assert refusal.value.code == 403
        with pytest.raises(ServerError) as refusal:
            await server.connect().request(NOTIFY, **asked)
        assert refusal.value.code == 401
        assert (await server.http("POST", PATH, json=asked)).status == 401
        assert (await server.http("POST", PATH, json=asked, token=bob.token)).status == 403
        assert (await server.http("POST", PATH, json=asked, token=root.token)).json()["sessions"] == 1
        assert (await bob.push(NOTIFY))["topic"] == "news"
        for name, key in keys_of(server).items():
            for acting in ({}, {"X-IM-User": "bob"}):
                answer = await server.http("POST", PATH, json=asked, headers={"X-API-Key": key, **acting})
                may = name in ("command", "admin")
                assert answer.status == (200 if may else 403), (name, acting)
                await server.settle()
                assert len(bob.pushes) == may
                if may:
                    await bob.push(NOTIFY)


async def test_to_whom():
    """To users (each device once), to a group's members, or to all who are there."""
    async with pushing("friend", "group") as server:
        root = await server.login("root", roles=["admin"])
        bob, tablet = await server.login("bob", device_id="phone"), await server.login("bob", device_id="tablet")
        carol = await server.login("carol")
        everyone = [root, bob, tablet, carol]

        async def told(**target):
            """How many the answer says, and who has got it."""
            answer = await root.request(NOTIFY, **notice(**target))
            await server.settle()
            heard = [client for client in everyone if any(push.command == NOTIFY for push in client.pushes)]
            for client in heard:
                await client.push(NOTIFY)
            assert not any(push.command == NOTIFY for client in everyone for push in client.pushes)
            return answer["sessions"], heard

        assert await told(user_ids=["bob", "bob", "nobody"]) == (2, [bob, tablet])
        assert await told(user_ids=[]) == (0, [])
        assert await told(all=True) == (4, everyone)
        await bob.request(CREATE_GROUP, name="g", group_id="g1", members=["carol"])
        assert await told(group_id="g1") == (3, [bob, tablet, carol])
        with pytest.raises(ServerError) as refusal:
            await told(group_id="g2")
        assert refusal.value.code == 404


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"body": 1}, 400),
        ({"topic": "t", "user_ids": ["bob"]}, 400),
        ({"topic": "", "body": 1, "user_ids": ["bob"]}, 400),
        ({"topic": "t" * 129, "body": 1, "user_ids": ["bob"]}, 400),
        ({"topic": "t", "body": 1}, 400),
        ({"topic": "t", "body": 1, "user_ids": ["bob"], "all": True}, 400),
        ({"topic": "t", "body": 1, "user_ids": ["bob"], "group_id": "g"}, 400),
        ({"topic": "t", "body": 1, "user_ids": ["b b"]}, 400),
        ({"topic": "t", "body": 1, "user_ids": ["bob"] * 501}, 413),
        ({"topic": "t", "body": "x" * 16384, "user_ids": ["bob"]}, 413),
    ],
)
async def test_bounds(fields, code):
    """What is missing, doubled or too much is refused, and nobody hears of it."""
    async with pushing() as server:
        root, bob = await server.login("root", roles=["admin"]), await server.login("bob")
        with pytest.raises(ServerError) as refusal:
            await root.request(NOTIFY, **fields)
        assert refusal.value.code == code
        await server.settle()
        assert bob.pushes == []
        assert await root.request(NOTIFY, topic="t", body=None, user_ids=["bob"] * 500) == {"sessions": 1}
        assert await bob.push(NOTIFY) == {"topic": "t", "body": None}


async def test_the_bus_is_a_door_too():
    """`ctx.emit("notify", …)` from any plugin, as before."""

    class Announcer(Plugin):
        name = "announcer"

        def on_login(self, ctx):
            ctx.emit("notify", user_ids=[ctx.session.user_id], topic="hello", body=ctx.session.user_id)

    async with pushing(Announcer) as server:
        bob = await server.login("bob")
        assert await bob.push(NOTIFY) == {"topic": "hello", "body": "bob"}
