"""The operators' routes: listing users and sessions, locking out, ending sessions, roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog.testing
from starlette.requests import Request
from starlette.routing import compile_path
from user_rig import LOGIN, PASSWORD, WHO, Door, opened

from imserver.caller import Caller
from imserver.commands import routes_of
from imserver.plugin import Conflict, InvalidBody, NotAuthenticated, NotFound, PermissionDenied
from imserver_plugins.user import admin, store


async def call(door: Door, caller: Caller, method: str, path: str, body: Any = None, query: str = "") -> dict[str, Any]:
    """Ask a route as the HTTP server does once it has let the caller in."""
    content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    for route in routes_of(door.plugin):
        match = compile_path(route.path)[0].match(path)
        if match and route.method == method:
            assert route.role == "admin"
            scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": [],
                     "path_params": match.groupdict()}  # fmt: skip
            answer: dict[str, Any] = await route.handler(door.router.route_context("user", caller), Request(scope, receive))
            return answer
    raise AssertionError(f"no route {method} {path}")


async def administrator(door: Door) -> Caller:
    """A request of an administrator called root."""
    token = (await door.user("root"))["token"]
    await door.by_cli(admin.set_role, "root", "admin", True)
    return await door.caller(token=token)


async def test_users_are_listed(tmp_path: Path) -> None:
    """All that the page shows, and no more: no hash of a password."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        await door.connect(door.foreign_token("alice"))
        await door.connect(door.foreign_token("alice"))
        await door.by_cli(admin.set_disabled, "root", True)
        (alice, listed) = (await call(door, root, "GET", "/v1/admin/users"))["users"]
        now_ms = door.rig.clock.now_ms()
        assert alice == {
            "user_id": "alice", "nickname": "alice", "created_at": now_ms, "disabled": False, "roles": [], "online": 2,
        }  # fmt: skip
        assert (listed["user_id"], listed["disabled"], listed["roles"], listed["online"]) == ("root", True, ["admin"], 0)


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pages_have_everybody_once(tmp_path: Path, limit: int) -> None:
    """By user id; the last page has no cursor."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        names = ["Zoe", "ann", "bob", "root", "zed"]
        for name in names:
            if name != "root":
                await door.authenticate(token=door.foreign_token(name))
        found: list[str] = []
        query = f"limit={limit}"
        while True:
            page = await call(door, root, "GET", "/v1/admin/users", query=query)
            found += [user["user_id"] for user in page["users"]]
            if "next_cursor" not in page:
                break
            query = f"limit={limit}&cursor={page['next_cursor']}"
        assert found == names


async def test_the_search_takes_its_query_literally(tmp_path: Path) -> None:
    """A part of the id or the nickname in any case; what is special in LIKE is not here."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        for user_id, nickname in (("a_b", "Anna"), ("axb", "100%"), ("c.d", "back\\slash")):
            await door.by_cli(admin.add_user, user_id, PASSWORD, nickname=nickname)

        async def search(query: str) -> list[str]:
            page = await call(door, root, "GET", "/v1/admin/users", query=f"query={query}")
            return [user["user_id"] for user in page["users"]]

        assert await search("_") == ["a_b"]
        assert await search("%25") == ["axb"]
        assert await search("%5C") == ["c.d"]
        assert await search("NN") == ["a_b"]
        assert await search("XB") == ["axb"]
        assert await search("") == ["a_b", "axb", "c.d", "root"]
        assert await search("'") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        (f"query={'a' * 65}", "query"),
        (f"cursor={'a' * 65}", "cursor"),
    ],
)
async def test_parameters_are_checked(tmp_path: Path, query: str, field: str) -> None:
    """The refusal names the one that is wrong."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        with pytest.raises(InvalidBody) as caught:
            await call(door, root, "GET", "/v1/admin/users", query=query)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("disable", None, "disabled"),
        ("disable", {"disabled": "yes"}, "disabled"),
        ("disable", b"{", None),
        ("disable", b"\xff", None),
        ("disable", [], None),
        ("kick", {"session_id": ""}, "session_id"),
        ("role", {"role": "Admin", "present": True}, "role"),
        ("role", {"role": "admin"}, "present"),
    ],
)
async def test_bodies_are_checked(tmp_path: Path, path: str, body: Any, field: str | None) -> None:
    """Nothing is changed."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        token = (await door.user("alice"))["token"]
        with pytest.raises(InvalidBody) as caught:
            await call(door, root, "POST", f"/v1/admin/users/alice/{path}", body)
        assert caught.value.field == field
        assert (await door.bearer(token, WHO))["roles"] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "sessions", None),
        ("POST", "disable", {"disabled": True}),
        ("POST", "kick", {}),
        ("POST", "role", {"role": "admin", "present": True}),
    ],
)
async def test_a_user_that_is_not_there(tmp_path: Path, method: str, path: str, body: Any) -> None:
    """404, and no such user afterwards."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        with pytest.raises(NotFound):
            await call(door, root, method, f"/v1/admin/users/nobody/{path}", body)
        assert door.sql("SELECT user_id FROM users") == [("root",)]


async def test_sessions_are_listed(tmp_path: Path) -> None:
    """Live ones and stored ones."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        online = await door.user("alice", device_id="phone")
        await door.http(LOGIN, user_id="alice", password=PASSWORD, device_id="laptop")
        await door.connect(online["token"])
        sessions = (await call(door, root, "GET", "/v1/admin/users/alice/sessions"))["sessions"]
        assert {(one["session_id"] == online["session_id"], one["online"]) for one in sessions} == {
            (True, True),
            (False, False),
        }
        assert all({"device_id", "platform", "address", "connected_at"} < set(one) for one in sessions)


async def test_locking_a_user_out(tmp_path: Path) -> None:
    """Connections end, tokens of both kinds are refused at once; enabled again, a new login is needed."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        own, foreign = (await door.user("alice"))["token"], door.foreign_token("alice", iat=1_749_999_000)
        peers = [await door.connect(own), await door.connect(foreign)]
        await door.bearer(own, WHO)
        with structlog.testing.capture_logs() as lines:
            assert await call(door, root, "POST", "/v1/admin/users/alice/disable", {"disabled": True}) == {
                "user_id": "alice",
                "disabled": True,
            }
        for peer in peers:
            assert (await peer.rest())[-1][1]["error"] == "kicked"
        for token in (own, foreign):
            with pytest.raises((NotAuthenticated, PermissionDenied)):
                await door.authenticate(token=token)
        await call(door, root, "POST", "/v1/admin/users/alice/disable", {"disabled": False})
        for token in (own, foreign):
            with pytest.raises(NotAuthenticated):
                await door.authenticate(token=token)
        await door.http(LOGIN, user_id="alice", password=PASSWORD)
        (line,) = (line for line in lines if line["event"] == "user_disabled")
        assert (line["user_id"], line["by"], line["address"]) == ("alice", "root", "192.0.2.1")


async def test_nobody_locks_themself_out(tmp_path: Path) -> None:
    """Neither by disabling nor by giving the role away: somebody must be left to undo it."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        with pytest.raises(Conflict):
            await call(door, root, "POST", "/v1/admin/users/root/disable", {"disabled": True})
        with pytest.raises(Conflict):
            await call(door, root, "POST", "/v1/admin/users/root/role", {"role": "admin", "present": False})
        assert door.sql("SELECT disabled, roles FROM users") == [(0, '["admin"]')]


async def test_kicking_one_session(tmp_path: Path) -> None:
    """It ends, its token too; others go on; one that is another user's is not found."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        first = await door.user("alice", device_id="phone")
        other = await door.http(LOGIN, user_id="alice", password=PASSWORD, device_id="laptop")
        peer = await door.connect(first["token"])
        path, body = "/v1/admin/users/alice/kick", {"session_id": first["session_id"]}
        assert (await call(door, root, "POST", path, body))["ended"] == 1
        assert (await peer.rest())[-1][1]["error"] == "kicked"
        with pytest.raises(NotAuthenticated):
            await door.authenticate(token=first["token"])
        await door.authenticate(token=other["token"])
        for session_id in (first["session_id"], root.session_id, "nothing"):
            with pytest.raises(NotFound):
                await call(door, root, "POST", path, {"session_id": session_id})
        await door.authenticate(token=other["token"])
        assert door.sql("SELECT revoked FROM user_sessions WHERE user_id = 'root'") == [(0,)]


async def test_kicking_all_sessions(tmp_path: Path) -> None:
    """Stored ones, live ones, and integrators' tokens; the user may log in again."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        own, foreign = (await door.user("alice"))["token"], door.foreign_token("alice")
        peer = await door.connect(foreign)
        assert (await call(door, root, "POST", "/v1/admin/users/alice/kick"))["ended"] == 2
        assert (await peer.rest())[-1][1]["error"] == "kicked"
        for token in (own, foreign):
            with pytest.raises(NotAuthenticated):
                await door.authenticate(token=token)
        assert (await door.http(LOGIN, user_id="alice", password=PASSWORD))["user_id"] == "alice"
        await call(door, root, "GET", "/v1/admin/users")


async def test_an_administrators_own_token_is_spared(tmp_path: Path) -> None:
    """Whoever ends another's sessions by an integrator's token goes on."""
    async with opened(tmp_path) as door:
        token = door.foreign_token("root")
        root = await door.caller(token=token)
        await door.user("alice")
        for path, body in (("kick", {}), ("disable", {"disabled": True})):
            await call(door, root, "POST", f"/v1/admin/users/alice/{path}", body)
            assert (await door.authenticate(token=token)).user_id == "root"


async def test_roles_are_given_and_taken(tmp_path: Path) -> None:
    """They reach requests and live connections at once; their number is bounded."""
    async with opened(tmp_path) as door:
        root = await administrator(door)
        token = (await door.user("alice"))["token"]
        peer = await door.connect(token)
        path = "/v1/admin/users/alice/role"
        assert (await call(door, root, "POST", path, {"role": "admin", "present": True}))["roles"] == ["admin"]
        assert (await peer.ok(WHO))["roles"] == ["admin"]
        assert (await door.bearer(token, WHO))["roles"] == ["admin"]
        assert (await call(door, root, "POST", path, {"role": "admin", "present": False}))["roles"] == []
        assert (await peer.ok(WHO))["roles"] == []
        assert (await door.bearer(token, WHO))["roles"] == []
        door.sql("UPDATE users SET roles = ? WHERE user_id = 'alice'", store.columns.roles_text(f"r{n}" for n in range(32)))
        with pytest.raises(InvalidBody):
            await call(door, root, "POST", path, {"role": "one-more", "present": True})


async def test_an_admin_key_is_named_in_the_log(tmp_path: Path) -> None:
    """Where no user asks, the log says which key."""
    async with opened(tmp_path) as door:
        await door.user("alice")
        caller = await door.caller(api_key=await door.key("ops", "admin"))
        with structlog.testing.capture_logs() as lines:
            await call(door, caller, "POST", "/v1/admin/users/alice/kick", {})
        (line,) = (line for line in lines if line["event"] == "user_kicked")
        assert (line["by"], line["by_session"], line["user_id"]) == (None, "key:ops", "alice")
