"""The same over HTTP for API keys: what their scopes open, for the user that they act for and for nobody."""

import pytest
import trio
from matrix_rig import key, outcome, server

from imserver.plugin import InvalidBody, Plugin, command, role, route
from imserver.testing import running
from imserver_plugins.user import admin, keys, store
from imserver_plugins.user.store.api_keys import ApiKey

#: What is asked: name -> (method, path, body).
REQUESTS = {
    "message.SEND": ("POST", "/v1/messages", lambda: {"to": "bob", "client_id": key(), "body": "x"}),
    "message.SYNC": ("GET", "/v1/conversations", None),
    "user.LIST_DEVICES": ("GET", "/v1/devices", None),
    "user.REGISTER": ("POST", "/v1/users", lambda: {"user_id": f"new-{key()}", "password": "correct horse battery"}),
    "file.OWN_FILES": ("GET", "/v1/files", None),
    "user.LIST_USERS": ("GET", "/v1/admin/users", None),
    "user.KICK": ("POST", "/v1/admin/users/bob/kick", dict),
    "admin.STATS": ("GET", "/v1/admin/stats", None),
    "keyed.CLOSE": ("POST", "/v1/commands/6001", dict),
}
#: A key's scopes -> what becomes of each of these, in their order: for alice (X-IM-User), and for nobody. A key has no
#: user's roles, and what needs a role is given by its name, or by the scope admin.
#:                  SEND SYNC DEVICES REGISTER FILES | LIST_USERS KICK STATS CLOSE
TABLE = {
    (): "403 403 403 403 403 403 403 403 403",
    ("message",): "ok ok 403 403 403 403 403 403 403",
    ("message.*",): "ok ok 403 403 403 403 403 403 403",
    ("message.SEND",): "ok 403 403 403 403 403 403 403 403",
    ("file.OWN_FILES", "user.REGISTER"): "403 403 403 ok ok 403 403 403 403",
    ("user",): "403 403 ok ok 403 403 403 403 403",
    ("user.KICK",): "403 403 403 403 403 403 ok 403 403",
    ("keyed.CLOSE",): "403 403 403 403 403 403 403 403 ok",
    ("*",): "ok ok ok ok ok 403 403 403 403",
    ("admin",): "403 403 403 403 403 ok ok ok ok",
    ("*", "admin"): "ok ok ok ok ok ok ok ok ok",
}
#: Of what a user does a key without one is told to name one, before its scopes are looked at.
FOR_USERS = ("message.SEND", "message.SYNC", "user.LIST_DEVICES", "file.OWN_FILES")


class Keyed(Plugin):
    """A command for administrators, and a route that writes."""

    name = "keyed"

    @command(6001, allow=role("admin"))
    def close(self, ctx, request):
        """Says for whom it was."""
        return {"for": ctx.session.user_id}

    @route("POST", "/v1/keyed")
    async def write(self, ctx, request):
        """Says that it has begun."""
        return {}

    @route("GET", "/v1/keyed")
    async def look(self, ctx, request):
        """Writes nothing."""
        return {}


async def make_key(site, name, scopes):
    """A key as `imserver token key add` stores it; also one without scopes, which that refuses."""
    shown = keys.new()
    row = ApiKey(shown.key_id, name, shown.secret_hash, frozenset(scopes), site.clock.now_ms(), None, None, None)

    async def insert():
        await site._server.shards[0].router.app_context("user").db.write(*store.api_keys.insert_key(row))

    await site._in_server(insert)
    return shown.text


@pytest.mark.parametrize("scopes", TABLE, ids=lambda scopes: "+".join(scopes) or "none")
async def test_scopes(scopes):
    """Each request, for a user and for nobody."""
    wrong = []
    async with server(None, Keyed) as site:
        for user in ("alice", "bob"):
            await site.token(user)
        await site.token("root", ["admin"])
        text = await make_key(site, "shop", scopes)
        for user in ("alice", "root", None):
            headers = {"X-API-Key": text} | ({"X-IM-User": user} if user else {})
            for (name, (method, path, body)), expected in zip(REQUESTS.items(), TABLE[scopes].split(), strict=True):
                answer = await site.http(method, path, headers=headers, json=body and body())
                found = "ok" if answer.status == 200 else outcome(answer.status, answer.json()["error"])
                wanted = "401" if user is None and name in FOR_USERS else expected
                if found != wanted:
                    wrong.append(f"{name} for {user}: {found} instead of {wanted}")
    assert wrong == []


async def test_a_key_without_a_user_administers():
    """What needs a role takes a key for nobody, as a command and as a route."""
    async with server(None, Keyed) as site:
        text = await make_key(site, "ops", ["keyed.CLOSE"])
        answer = await site.http("POST", "/v1/commands/6001", headers={"X-API-Key": text}, json={})
        assert answer.json() == {"code": 0, "for": None}


async def test_a_key_that_may_set_roles_gives_no_more_than_it_has():
    """By user.SET_ROLE alone no administrator is made, and none is touched."""
    async with server(None, Keyed) as site:
        await site.token("alice")
        await site.token("root", ["admin"])
        text = await make_key(site, "hr", ["user.SET_ROLE", "user.DISABLE"])

        async def ask(path, body):
            return (await site.http("POST", f"/v1/admin/users/{path}", headers={"X-API-Key": text}, json=body)).status

        assert await ask("alice/role", {"role": "admin", "present": True}) == 403
        assert await ask("root/role", {"role": "admin", "present": False}) == 403
        assert await ask("root/disable", {"disabled": True}) == 403
        assert await ask("alice/disable", {"disabled": True}) == 200


def test_scopes_are_the_permissions(tmp_path):
    """One vocabulary, in whatever case; what is none is refused with what there is."""
    from imserver.config import load_config

    config = load_config(None, [f"server.data_dir={tmp_path}"], {})
    admin.add_key(config, "shop", ["MESSAGE.send", "user.kick", "File.*"])
    (shop,) = admin.list_keys(config)
    assert shop.scopes == {"message.SEND", "user.KICK", "file.*"}
    with pytest.raises(InvalidBody, match=r"no scope 'user\.nothing'.*user\.SET_ROLE"):
        admin.add_key(config, "bad", ["user.nothing"])


async def test_routes_that_write_wait_for_the_disk(monkeypatch):
    """While the journal is full a POST to a plugin's route waits, as commands do; a GET does not."""
    async with running([Keyed]) as site:
        token = await site.token("alice")
        journal = type(site._server.shards[0].journal)
        monkeypatch.setattr(journal, "is_full", True)
        statuses = []

        async def post():
            statuses.append((await site.http("POST", "/v1/keyed", token=token)).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post)
            for _ in range(3):
                assert (await site.http("GET", "/v1/keyed", token=token)).status == 200
            assert statuses == []
            monkeypatch.undo()
            while not statuses:
                await site.clock.advance(0.1)
        assert statuses == [200]


async def test_wrong_tokens_get_429_with_retry_after():
    """At the real door: the sixty-first of an address within a minute, and a good one is let in still."""
    async with running([], {"limits.exempt_addresses": []}) as site:
        good = await site.token("alice")
        statuses = [(await site.http("GET", "/v1/devices", token="bad")).status for _ in range(60)]
        assert set(statuses) == {401}
        refused = await site.http("GET", "/v1/devices", token="bad")
        assert (refused.status, refused.json()["error"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await site.http("GET", "/v1/devices", token=good)).status == 200
