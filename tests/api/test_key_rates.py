"""The rate limit of requests over HTTP: whose it is."""

import imserver.testing

NOTIFY, SEND = 5009, 2001


async def ask(server, command, **options):
    return (
        await server.http("POST", f"/v1/commands/{command}", json={"topic": "x", "body": 1, "all": True}, **options)
    ).status


async def test_strangers_do_not_use_up_what_a_back_end_has():
    """Requests without credentials count by address, those of an API key by the key, those of a user by the user."""
    async with imserver.testing.running(settings={"limits.requests_per_second": 5}) as server:
        token = await server.token("alice")
        for _ in range(12):
            stranger = await ask(server, SEND)
        assert stranger == 429
        key = {"X-API-Key": server._operator.key}
        assert await ask(server, NOTIFY, headers=key) == 200
        assert await ask(server, SEND, token=token) == 400
        for _ in range(12):
            back_end = await ask(server, NOTIFY, headers=key)
        assert back_end == 429
        assert await ask(server, SEND, token=token) == 400
