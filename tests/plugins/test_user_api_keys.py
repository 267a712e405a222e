"""API keys of back ends: made and revoked by the command line, shown with requests over HTTP."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import attrs
import pytest
import structlog.testing
import trio
from click.testing import CliRunner
from user_rig import LOGIN, LOGOUT, PASSWORD, REGISTER, WHO, Door, opened

from imserver.cli import main
from imserver.cli.context import CliContext
from imserver.config import Config, Tls
from imserver.plugin import (
    Conflict,
    InvalidBody,
    NotAuthenticated,
    NotFound,
    PermissionDenied,
    RateLimited,
    StorageUnavailable,
    offline_database,
)
from imserver_plugins.user import admin, background, keys
from imserver_plugins.user.store.api_keys import ApiKey

KEY_TLS = Tls(certificate=Path("server.pem"), key=Path("server.key"), client_identity="api_key")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The defaults, in a folder of its own."""
    config = Config()
    return attrs.evolve(config, server=attrs.evolve(config.server, data_dir=tmp_path))


async def refusal(door: Door, key: str) -> str:
    """What somebody who shows this key is told."""
    with pytest.raises(NotAuthenticated) as caught:
        await door.authenticate(api_key=key)
    return caught.value.message


# ---------------------------------------------------------------- making and revoking


def test_a_key_is_stored_as_its_hash(config: Config) -> None:
    """256 random bits, shown once; the database has the SHA-256 of the secret and nothing else of it."""
    text = admin.add_key(config, "shop", ["message", "user.REGISTER"])
    match = re.fullmatch(r"imk_([0-9a-f]{16})_([0-9a-f]{64})", text)
    assert match is not None
    assert admin.add_key(config, "blog", ["*"]) != text
    row = next(key for key in admin.list_keys(config) if key.name == "shop")
    assert (row.key_id, row.secret_hash) == (match[1], hashlib.sha256(match[2].encode()).digest())
    assert (row.scopes, row.expires_at, row.revoked_at, row.last_used_at) == ({"message", "user.REGISTER"}, None, None, None)
    assert match[2] not in repr(keys.read(text))
    with offline_database(config) as connection:
        stored = list(connection.execute("SELECT * FROM user_api_keys"))
    assert match[2] not in repr(stored)


@pytest.mark.parametrize(
    ("name", "scopes", "expires_s", "field"),
    [
        ("", ["*"], None, "name"),
        ("a b", ["*"], None, "name"),
        ("a" * 65, ["*"], None, "name"),
        ("shop", [], None, "scope"),
        ("shop", ["message", "mesage"], None, "scope"),
        ("shop", ["message.NOTHING"], None, "scope"),
        ("shop", ["*"], 0.5, "expires"),
    ],
)
def test_what_a_key_may_not_be(config: Config, name: str, scopes: list[str], expires_s: float | None, field: str) -> None:
    """Nothing is stored; who asks for an unknown scope is told which there are."""
    with pytest.raises(InvalidBody) as caught:
        admin.add_key(config, name, scopes, expires_s)
    assert caught.value.field == field
    if field == "scope":
        for known in ("*", "admin", "message", "message.SEND", "user.LOGIN"):
            assert f" {known}" in caught.value.message
    assert admin.list_keys(config) == []


def test_a_name_is_one_keys_at_a_time(config: Config) -> None:
    """Once it is revoked, the name may be given anew; revoking what is not there says so."""
    admin.add_key(config, "shop", ["*"])
    with pytest.raises(Conflict, match="key revoke shop"):
        admin.add_key(config, "shop", ["*"])
    admin.revoke_key(config, "shop")
    with pytest.raises(NotFound, match="key list"):
        admin.revoke_key(config, "shop")
    admin.add_key(config, "shop", ["message"])
    assert [key.revoked_at is None for key in admin.list_keys(config)] == [False, True]


def test_the_command_line(config: Config, tmp_path: Path) -> None:
    """`token key add` prints the key alone, `list` everything but it, `revoke` ends it; `token NAME` is what it was."""

    def run(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, [*words, "--set", f"server.data_dir={tmp_path}"], obj=CliContext())
        assert done.exit_code == status, done.output
        return done.output

    text = run("token", "key", "add", "shop", "--scope", "message", "--scope", "admin", "--expires", "90d").strip()
    shown = keys.read(text)
    assert shown is not None
    run("token", "key", "add", "old", "--scope", "*")
    assert run("token", "key", "revoke", "old") == "key old revoked\n"
    run("token", "key", "revoke", "old", status=1)
    assert "message.SEND" in run("token", "key", "add", "bad", "--scope", "nothing", status=1)
    assert "--scope" in run("token", "key", "add", "bad", status=2)
    header, *rows = run("token", "key", "list").splitlines()
    assert header.split("  ")[0] == "NAME"
    (shop,) = (row for row in rows if row.startswith("shop "))
    assert re.search(
        rf"{shown.key_id}  good +\d{{4}}-\d\d-\d\d \d\d:\d\d  \d{{4}}-\d\d-\d\d \d\d:\d\d  never +admin message$", shop
    )
    assert shown.secret not in shop
    (old,) = (row for row in rows if row.startswith("old "))
    assert " revoked " in old
    for words in (("alice",), ("issue", "alice"), ("--ttl", "15m", "alice"), ("issue", "key")):
        assert run("token", *words).count(".") == 2
    assert " key " in CliRunner().invoke(main, ["token", "--help"]).output


# ---------------------------------------------------------------- showing one


async def test_a_key_that_acts_for_nobody(tmp_path: Path) -> None:
    """It has its scopes and no user; the role admin comes by its scope alone."""
    async with opened(tmp_path) as door:
        plain = await door.authenticate(api_key=await door.key("shop", "user", "message.SEND", expires_s=60))
        assert (plain.user_id, plain.roles, plain.scopes) == (None, frozenset(), {"user", "message.SEND"})
        ((expires_at,),) = door.sql("SELECT expires_at FROM user_api_keys")
        assert plain.expires_at_ms == expires_at
        assert plain.session_id == "key:shop"  # for the log
        admin_key = await door.authenticate(api_key=await door.key("ops", "admin"))
        assert (admin_key.roles, admin_key.scopes) == ({"admin"}, {"admin"})
        assert (await door.authenticate(api_key=await door.key("all", "*"))).roles == frozenset()


async def test_a_key_that_acts_for_a_user(tmp_path: Path) -> None:
    """X-IM-User is who asks; the user's own roles are not the key's; scopes are kept."""
    async with opened(tmp_path) as door:
        await door.user("alice")
        await door.by_cli(admin.set_role, "alice", "admin", True)
        key = await door.key("shop", "message")
        assert await door.http(WHO, {"api_key": key, "acting_for": "alice"}) == {"user_id": "alice", "roles": []}
        with pytest.raises(NotAuthenticated, match="X-IM-User"):
            await door.http(WHO, {"api_key": key})
        with pytest.raises(PermissionDenied, match="scope"):
            await door.http(REGISTER, {"api_key": key}, user_id="bob", password=PASSWORD)


async def test_whom_a_key_cannot_act_for(tmp_path: Path) -> None:
    """Somebody who is not there, who is locked out, or who could not be: each refusal says which."""
    async with opened(tmp_path) as door:
        await door.user("alice")
        key = await door.key("shop")
        with pytest.raises(NotFound):
            await door.authenticate(api_key=key, acting_for="nobody")
        for wrong in ("", "a b", "a" * 65):
            with pytest.raises(InvalidBody):
                await door.authenticate(api_key=key, acting_for=wrong)
        await door.authenticate(api_key=key, acting_for="alice")
        await door.by_cli(admin.set_disabled, "alice", True)
        with pytest.raises(PermissionDenied):
            await door.authenticate(api_key=key, acting_for="alice")


async def test_wrong_keys_look_alike(tmp_path: Path) -> None:
    """No key, an unknown id, a wrong secret, an expired one and a revoked one."""
    async with opened(tmp_path) as door:
        good, revoked = await door.key("shop"), await door.key("old")
        expiring = await door.key("short", expires_s=60)
        door.sql("UPDATE user_api_keys SET expires_at = ? WHERE name = 'short'", door.rig.clock.now_ms() + 60_000)
        await door.authenticate(api_key=expiring)
        door.rig.clock.advance(60)
        await door.by_cli(admin.revoke_key, "old")
        last = "0" if good[-1] != "0" else "1"
        wrong = ["", "imk_", good.upper(), good[:-1] + last, "imk_" + "0" * 16 + good[20:], good + "0", revoked, expiring]
        assert len({await refusal(door, key) for key in wrong}) == 1
        await door.authenticate(api_key=good)


async def test_a_revoked_key_is_logged_by_its_name(tmp_path: Path) -> None:
    """So that the operator finds who still uses it; no faster than wrong keys are looked at, and never with the secret."""
    async with opened(tmp_path) as door:
        key = await door.key("old")
        await door.by_cli(admin.revoke_key, "old")
        with structlog.testing.capture_logs() as lines:
            for _ in range(70):
                with pytest.raises((NotAuthenticated, RateLimited)):
                    await door.authenticate(api_key=key)
        found = [line for line in lines if line["event"] == "authn_key_fail"]
        assert len(found) == 60
        assert (found[0]["key"], found[0]["address"], found[0]["revoked"]) == ("old", "192.0.2.1", True)
        assert key.rpartition("_")[2] not in repr(lines)


async def test_a_revoked_key_stops_working_at_once(tmp_path: Path) -> None:
    """Also where it was seen a moment ago: a running server hears of what the command line has done."""
    async with opened(tmp_path) as door:
        key = await door.key("shop")
        await door.user("alice")
        for _ in range(2):
            await door.http(WHO, {"api_key": key, "acting_for": "alice"})
        await door.by_cli(admin.revoke_key, "shop")
        with pytest.raises(NotAuthenticated):
            await door.http(WHO, {"api_key": key, "acting_for": "alice"})


async def test_last_use_is_written_once_a_minute(tmp_path: Path) -> None:
    """Requests write nothing; the background task does, and a key in use is seen again afterwards."""
    async with opened(tmp_path) as door:
        context = door.router.app_context("user")
        key, _idle = await door.key("shop"), await door.key("idle")

        async def last_uses() -> dict[str, int | None]:
            await background.write_key_uses(door.state, context)
            return dict(door.sql("SELECT name, last_used_at FROM user_api_keys"))  # type: ignore[arg-type]

        for minute in range(3):
            for _ in range(3):
                await door.authenticate(api_key=key)
            assert dict(door.sql("SELECT name, last_used_at FROM user_api_keys"))["idle"] is None  # type: ignore[arg-type]
            assert await last_uses() == {"shop": door.rig.clock.now_ms(), "idle": None}, minute
            door.rig.clock.advance(60)
        revision = door.rig.directory.revision
        await background.write_key_uses(door.state, context)
        assert door.rig.directory.revision == revision  # no key was used: nothing is forgotten


async def test_last_use_outlives_a_full_disk(tmp_path: Path) -> None:
    """What could not be written is written the next time."""
    async with opened(tmp_path) as door:
        context = door.router.app_context("user")
        await door.authenticate(api_key=await door.key("shop"))
        used_at = door.rig.clock.now_ms()
        door.rig.store.fail_next()
        with pytest.raises(StorageUnavailable):
            await background.write_key_uses(door.state, context)
        assert door.sql("SELECT last_used_at FROM user_api_keys") == [(None,)]
        with trio.fail_after(20):
            while door.sql("SELECT last_used_at FROM user_api_keys") != [(used_at,)]:
                try:
                    await background.write_key_uses(door.state, context)
                except StorageUnavailable:
                    await trio.sleep(0.01)  # the journal tries the disk again


async def test_wrong_keys_are_limited_by_address(tmp_path: Path) -> None:
    """The sixty-first within a minute is told to wait; a good key from there is let in, other addresses are not touched."""
    async with opened(tmp_path) as door:
        good = await door.key("shop")
        for _ in range(60):
            await refusal(door, "imk_nonsense")
        with pytest.raises(RateLimited) as caught:
            await door.authenticate(api_key="imk_nonsense")
        assert caught.value.retry_after_ms
        await door.authenticate(api_key=good)
        for address in ("192.0.2.2", "127.0.0.1"):
            with pytest.raises(NotAuthenticated):
                await door.authenticate(api_key="imk_nonsense", address=address)
        door.rig.clock.advance(60)
        await refusal(door, "imk_nonsense")


# ---------------------------------------------------------------- commands by a key


async def test_a_key_has_no_session_to_end(tmp_path: Path) -> None:
    """LOGOUT is refused; all=true ends the user's own."""
    async with opened(tmp_path) as door:
        token = (await door.user("alice"))["token"]
        shown = {"api_key": await door.key("shop"), "acting_for": "alice"}
        with pytest.raises(Conflict, match="no session"):
            await door.http(LOGOUT, shown)
        await door.authenticate(token=token)
        await door.http(LOGOUT, shown, all=True)
        with pytest.raises(NotAuthenticated):
            await door.authenticate(token=token)
        await door.http(WHO, shown)


async def test_a_back_end_makes_users(tmp_path: Path) -> None:
    """Its key opens a closed registration, and its address is not the users'."""
    async with opened(tmp_path, auth={"registration": "closed"}, registrations_per_hour=1) as door:
        shown = {"api_key": await door.key("shop", "user.REGISTER", "user.LOGIN")}
        for user_id in ("alice", "bob", "carol"):
            await door.http(REGISTER, shown, user_id=user_id, password=PASSWORD)
        with pytest.raises(PermissionDenied):
            await door.http(REGISTER, user_id="dave", password=PASSWORD)
        assert (await door.http(LOGIN, shown, user_id="alice", password=PASSWORD))["user_id"] == "alice"


async def test_a_certificate_stands_for_a_key(tmp_path: Path) -> None:
    """Its commonName is the key's name: its scopes, its expiry, its end."""
    async with opened(tmp_path, tls=KEY_TLS) as door:
        await door.user("alice")
        await door.key("shop", "message")
        certificate = {"subject": ((("commonName", "shop"),),), "notAfter": "Jan  1 00:00:00 2030 GMT"}
        identity = await door.authenticate(certificate=certificate, acting_for="alice")
        assert (identity.user_id, identity.scopes, identity.expires_at_ms) == ("alice", {"message"}, 1_893_456_000_000)
        door.sql("UPDATE user_api_keys SET expires_at = 1800000000000")
        door.rig.directory.invalidate()
        assert (await door.authenticate(certificate=certificate)).expires_at_ms == 1_800_000_000_000
        await door.by_cli(admin.revoke_key, "shop")
        with pytest.raises(NotAuthenticated, match="commonName"):
            await door.authenticate(certificate=certificate)


def test_a_key_is_compared_with_its_own_hash() -> None:
    """The same secret under another id, or another secret, opens nothing; what is no key is none."""
    shown = keys.new()
    row = ApiKey(shown.key_id, "shop", shown.secret_hash, frozenset("*"), 1, None, None, None)
    assert shown.opens(row)
    assert keys.read(shown.text) == shown
    assert not keys.new().opens(row)
    assert keys.read(shown.text + "\n") is None
