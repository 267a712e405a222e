"""Whose credentials come with a request over HTTP, and the commands of sessions carried out for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from user_rig import (
    AUTH,
    CHANGE_PASSWORD,
    KICK_DEVICE,
    LIST_DEVICES,
    LOGIN,
    LOGOUT,
    PASSWORD,
    REFRESH,
    WHO,
    Door,
    opened,
)

from imserver.config import Tls
from imserver.identity import Credentials
from imserver.plugin import Conflict, NotAuthenticated, PermissionDenied
from imserver_plugins.user import admin

OTHER_PASSWORD = "staple correct horse"
TLS = Tls(certificate=Path("server.pem"), key=Path("server.key"))


def certificate(*names: str, **fields: Any) -> dict[str, Any]:
    """What `getpeercert` gives for a subject with these commonNames."""
    subject = [(("organizationName", "Example"),), *((("commonName", name),) for name in names)]
    return {"subject": tuple(subject), **fields}


async def is_refused(door: Door, token: str) -> bool:
    """Whether a bearer token is good no more."""
    try:
        await door.authenticate(token=token)
    except NotAuthenticated:
        return True
    return False


# ---------------------------------------------------------------- tokens


async def test_ones_own_token(tmp_path: Path) -> None:
    """It names the user, the session, its device, the roles and the end; nothing stays in memory."""
    async with opened(tmp_path) as door:
        login = await door.user("alice", device_id="phone")
        await door.by_cli(admin.set_role, "alice", "moderator", True)
        identity = await door.authenticate(token=login["token"])
        assert (identity.user_id, identity.session_id, identity.device_id) == ("alice", login["session_id"], "phone")
        assert identity.roles == {"moderator"}
        assert identity.scopes is None
        assert identity.expires_at_ms == login["expires_at"]
        assert door.leaves_nothing()
        assert door.state.last_seen.take() == []


async def test_an_integrators_token(tmp_path: Path) -> None:
    """Its user is made at first sight, once; the token is its own session; nothing stays in memory."""
    async with opened(tmp_path) as door:
        token = door.foreign_token("carol")
        context = door.router.app_context("user")
        first = await door.plugin.authenticate(context, Credentials(token=token))
        assert first == await door.plugin.authenticate(context, Credentials(token=token))
        assert first is not None
        assert (first.user_id, first.device_id, first.roles) == ("carol", "", frozenset())
        assert len(first.session_id) == 64
        assert first.session_id not in token
        assert door.sql("SELECT user_id FROM users") == [("carol",)]
        assert door.leaves_nothing()


async def test_tokens_that_are_good_no_more(tmp_path: Path) -> None:
    """Forged, of an ended session, expired; of a disabled account it is another refusal."""
    async with opened(tmp_path) as door:
        login = await door.user("alice")
        token, foreign = login["token"], door.foreign_token("carol")
        await door.bearer(foreign, WHO)
        assert await is_refused(door, token[:-4] + "AAAA")
        assert await is_refused(door, "")
        await door.by_cli(admin.set_disabled, "carol", True)
        with pytest.raises(PermissionDenied):
            await door.authenticate(token=foreign)
        assert not await is_refused(door, token)
        door.rig.clock.advance(24 * 3600 + 1)
        assert await is_refused(door, token)


async def test_no_credentials_are_not_ours_to_judge(tmp_path: Path) -> None:
    """Another plugin may know."""
    async with opened(tmp_path) as door:
        assert await door.plugin.authenticate(door.router.app_context("user"), Credentials()) is None


async def test_roles_reach_requests_at_once(tmp_path: Path) -> None:
    """`imserver user role` changes what a token that was seen before may do."""
    async with opened(tmp_path) as door:
        token = (await door.user("alice"))["token"]
        assert (await door.bearer(token, WHO))["roles"] == []
        await door.by_cli(admin.set_role, "alice", "admin", True)
        assert (await door.bearer(token, WHO))["roles"] == ["admin"]
        await door.by_cli(admin.set_role, "alice", "admin", False)
        assert (await door.bearer(token, WHO))["roles"] == []


async def test_a_disabled_user_is_out_at_once(tmp_path: Path) -> None:
    """Also with a token that was seen before."""
    async with opened(tmp_path) as door:
        token = (await door.user("alice"))["token"]
        await door.bearer(token, WHO)
        await door.by_cli(admin.set_disabled, "alice", True)
        with pytest.raises((NotAuthenticated, PermissionDenied)):
            await door.bearer(token, WHO)


async def test_a_users_own_credentials_act_for_nobody_else(tmp_path: Path) -> None:
    """X-IM-User beside a token or a user's certificate is refused, not ignored."""
    async with opened(tmp_path, tls=TLS) as door:
        token = (await door.user("alice"))["token"]
        await door.user("bob")
        for shown in ({"token": token}, {"certificate": certificate("alice")}):
            with pytest.raises(PermissionDenied, match="X-IM-User"):
                await door.authenticate(**shown, acting_for="bob")


# ---------------------------------------------------------------- commands


async def test_login_gives_tokens_for_later(tmp_path: Path) -> None:
    """No connection is bound; `sync` comes along; the session is listed as offline."""
    async with opened(tmp_path) as door:
        await door.user("alice", device_id="phone")
        login = await door.http(LOGIN, user_id="alice", password=PASSWORD, device_id="laptop", sync="")
        assert login["sync"] == {"conversations": [], "of": "alice"}
        assert door.leaves_nothing()
        devices = (await door.bearer(login["token"], LIST_DEVICES))["devices"]
        assert {(device["device_id"], device["online"]) for device in devices} == {("phone", False), ("laptop", False)}


async def test_login_replaces_its_device(tmp_path: Path) -> None:
    """The connection of the same device's former session ends, its token too."""
    async with opened(tmp_path) as door:
        old = await door.user("alice", device_id="phone")
        peer = await door.connect(old["token"])
        await door.http(LOGIN, user_id="alice", password=PASSWORD, device_id="phone")
        assert (await peer.rest())[-1][1]["error"] == "replaced"
        assert await is_refused(door, old["token"])


async def test_requests_do_not_count_as_connections(tmp_path: Path) -> None:
    """A user whose connections are all in use may ask over HTTP; a session that has no room is refused as before."""
    async with opened(tmp_path, sessions_per_user=1) as door:
        token = door.foreign_token("carol")
        await door.connect(token)
        for _ in range(3):
            assert (await door.http(AUTH, token=token))["user_id"] == "carol"
        login = await door.user("alice")
        again = await door.http(LOGIN, user_id="alice", password=PASSWORD)  # the first one is not live: it makes room
        assert await is_refused(door, login["token"])
        await door.connect(again["token"])
        with pytest.raises(Conflict) as caught:
            await door.http(LOGIN, user_id="alice", password=PASSWORD)
        assert caught.value.error == "too_many_sessions"


async def test_auth_says_whose_a_token_is(tmp_path: Path) -> None:
    """It binds nothing, and leaves nothing behind."""
    async with opened(tmp_path) as door:
        login, foreign = await door.user("alice"), door.foreign_token("carol")
        answer = await door.http(AUTH, token=login["token"], sync="")
        assert (answer["user_id"], answer["session_id"]) == ("alice", login["session_id"])
        assert answer["sync"]["of"] == "alice"
        assert (await door.http(AUTH, token=foreign))["user_id"] == "carol"
        assert (await door.bearer(foreign, AUTH, token=foreign))["user_id"] == "carol"
        with pytest.raises(Conflict):
            await door.bearer(foreign, AUTH, token=login["token"])
        assert door.leaves_nothing()
        assert door.state.last_seen.take() == []


async def test_refresh(tmp_path: Path) -> None:
    """New tokens without a connection; a session that is refreshed was seen."""
    async with opened(tmp_path) as door:
        login = await door.user("alice")
        door.rig.clock.advance(60)
        fresh = await door.http(REFRESH, refresh_token=login["refresh_token"])
        assert (await door.bearer(fresh["token"], WHO))["user_id"] == "alice"
        assert door.sql("SELECT last_seen_at FROM user_sessions") == [(door.rig.clock.now_ms(),)]
        with pytest.raises(NotAuthenticated):
            await door.http(REFRESH, refresh_token=login["refresh_token"])
        assert await is_refused(door, fresh["token"])


async def test_logout_ends_the_tokens_session(tmp_path: Path) -> None:
    """The token is refused at once, connections of the session end, those of others do not."""
    async with opened(tmp_path) as door:
        login = await door.user("alice", device_id="phone")
        other = await door.http(LOGIN, user_id="alice", password=PASSWORD, device_id="laptop")
        peer, spared = await door.connect(login["token"]), await door.connect(other["token"])
        await door.bearer(login["token"], LOGOUT)
        assert await is_refused(door, login["token"])
        assert (await peer.rest())[-1][1]["error"] == "kicked"
        assert (await spared.ok(WHO))["user_id"] == "alice"
        assert (await door.bearer(other["token"], WHO))["user_id"] == "alice"


@pytest.mark.parametrize("command_id", [LOGOUT, KICK_DEVICE])
async def test_an_integrators_token_logs_itself_out(tmp_path: Path, command_id: int) -> None:
    """It is refused for good, the connections that came by it end; another token of the user is not touched."""
    async with opened(tmp_path) as door:
        token, other = door.foreign_token("carol"), door.foreign_token("carol", jti="2")
        peer, spared = await door.connect(token), await door.connect(other)
        session_id = (await door.authenticate(token=token)).session_id
        await door.bearer(token, command_id, **({"session_id": session_id} if command_id == KICK_DEVICE else {}))
        assert await is_refused(door, token)
        assert (await peer.rest())[-1][1]["error"] == "kicked"
        assert (await spared.ok(WHO))["user_id"] == "carol"
        assert not await is_refused(door, other)
        ((expires_at,),) = door.sql("SELECT expires_at FROM user_revoked_tokens")
        assert expires_at > door.rig.clock.now_ms()
        spared.close()
        await door.rig.until(door.leaves_nothing)


async def test_logout_everywhere_without_a_connection(tmp_path: Path) -> None:
    """Also the token that asks, which says nothing of when it was issued."""
    async with opened(tmp_path) as door:
        token, older = door.foreign_token("carol"), door.foreign_token("carol", iat=1_749_999_000)
        await door.authenticate(token=older)
        await door.bearer(token, LOGOUT, all=True)
        assert await is_refused(door, token)
        assert await is_refused(door, older)


async def test_a_session_id_of_a_token_is_of_no_use_to_others(tmp_path: Path) -> None:
    """Whoever has read it in a log ends nobody's token by it."""
    async with opened(tmp_path) as door:
        token, mine = door.foreign_token("carol"), (await door.user("alice"))["token"]
        session_id = (await door.authenticate(token=token)).session_id
        with pytest.raises(Exception, match="no session with this id"):
            await door.bearer(mine, KICK_DEVICE, session_id=session_id)
        assert not await is_refused(door, token)


async def test_change_password_spares_its_own_session(tmp_path: Path) -> None:
    """The connections of the session that asks over HTTP go on, the others' end."""
    async with opened(tmp_path) as door:
        login = await door.user("alice", device_id="phone")
        other = await door.http(LOGIN, user_id="alice", password=PASSWORD, device_id="laptop")
        spared, peer = await door.connect(login["token"]), await door.connect(other["token"])
        await door.bearer(login["token"], CHANGE_PASSWORD, old_password=PASSWORD, new_password=OTHER_PASSWORD)
        assert (await peer.rest())[-1][1]["error"] == "kicked"
        assert (await spared.ok(WHO))["user_id"] == "alice"
        assert not await is_refused(door, login["token"])
        assert await is_refused(door, other["token"])


# ---------------------------------------------------------------- certificates


async def test_a_certificate_names_a_user(tmp_path: Path) -> None:
    """By its commonName, as long as it is good."""
    async with opened(tmp_path, tls=TLS) as door:
        await door.user("alice")
        await door.by_cli(admin.set_role, "alice", "admin", True)
        identity = await door.authenticate(certificate=certificate("alice", notAfter="Jan  1 00:00:00 2030 GMT"))
        assert (identity.user_id, identity.roles, identity.scopes) == ("alice", {"admin"}, None)
        assert identity.expires_at_ms == 1_893_456_000_000
        with pytest.raises(Conflict, match="no session"):
            await door.http(LOGOUT, {"certificate": certificate("alice")})


@pytest.mark.parametrize("names", [(), ("alice", "bob"), ("nobody",)])
async def test_certificates_that_name_nobody(tmp_path: Path, names: tuple[str, ...]) -> None:
    """None, several, or a stranger: no guess is made."""
    async with opened(tmp_path, tls=TLS) as door:
        await door.user("alice")
        await door.user("bob")
        with pytest.raises(NotAuthenticated, match="commonName"):
            await door.authenticate(certificate=certificate(*names))


async def test_a_certificate_of_a_disabled_user(tmp_path: Path) -> None:
    """The user is out, whatever the authority says."""
    async with opened(tmp_path, tls=TLS) as door:
        await door.user("alice")
        await door.authenticate(certificate=certificate("alice"))
        await door.by_cli(admin.set_disabled, "alice", True)
        with pytest.raises(PermissionDenied):
            await door.authenticate(certificate=certificate("alice"))


async def test_a_token_goes_before_a_certificate(tmp_path: Path) -> None:
    """The certificate is the machine's, the token the user's; a wrong token does not fall back."""
    async with opened(tmp_path, tls=TLS) as door:
        token = (await door.user("alice"))["token"]
        await door.user("bob")
        assert (await door.authenticate(token=token, certificate=certificate("bob"))).user_id == "alice"
        with pytest.raises(NotAuthenticated):
            await door.authenticate(token="wrong", certificate=certificate("bob"))


async def test_connections_by_a_certificate(tmp_path: Path) -> None:
    """They live through a change of roles, are bounded like all, and end with the user's others."""
    async with opened(tmp_path, tls=TLS, sessions_per_user=2) as door:
        await door.user("alice")
        shown = Credentials(certificate=certificate("alice", serialNumber="0A"))

        def connect() -> Any:
            peer = door.rig.connect()
            door.router.log_in(peer.session, shown)
            return peer

        first, second = connect(), connect()
        for peer in (first, second):
            assert (await peer.ok(WHO))["user_id"] == "alice"
        assert (await connect().rest())[-1][1]["error"] == "too_many_sessions"
        await door.by_cli(admin.set_role, "alice", "admin", True)
        assert (await first.ok(WHO))["roles"] == ["admin"]
        door.rig.clock.advance(1)
        # As `imserver user passwd` does; the test's clock is not the command line's.
        await door.by_cli(lambda config: door.sql("UPDATE users SET tokens_from_ms = ?", door.rig.clock.now_ms()))
        await door.by_cli(admin.set_role, "alice", "admin", False)
        for peer in (first, second):
            assert (await peer.rest())[-1][1]["error"] == "kicked"


async def test_a_connection_by_a_certificate_logs_out(tmp_path: Path) -> None:
    """Which closes it; the certificate is as good as before."""
    async with opened(tmp_path, tls=TLS) as door:
        await door.user("alice")
        shown = Credentials(certificate=certificate("alice", serialNumber="0A"))
        for _ in range(2):
            peer = door.rig.connect()
            door.router.log_in(peer.session, shown)
            await peer.ok(LOGOUT)
            assert (await peer.rest())[-1][1]["error"] == "kicked"
