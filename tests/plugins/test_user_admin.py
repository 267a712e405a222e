"""What the command line does to users, on a database in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import attrs
import pytest

from imserver.config import Config
from imserver.plugin import Conflict, ImError, InvalidBody, NotFound, auth, offline_database
from imserver_plugins.user import admin

PASSWORD = "correct horse battery"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The defaults, in a folder of its own."""
    config = Config()
    return attrs.evolve(
        config,
        server=attrs.evolve(config.server, data_dir=tmp_path),
        auth=attrs.evolve(config.auth, secret_file=tmp_path / "secret"),
    )


def rows(config: Config, sql: str) -> list[tuple[Any, ...]]:
    """Look into the database."""
    with offline_database(config) as connection:
        return list(connection.execute(sql))


def add_session(config: Config, user_id: str) -> None:
    """A session as LOGIN stores it."""
    with offline_database(config) as connection:
        connection.execute(
            "INSERT INTO user_sessions VALUES (?, ?, 'phone', '', '', 1, 1, ?, x'00', 9e12, 0)".replace(
                "9e12", "9999999999999"
            ),
            (f"s-{user_id}", user_id, user_id.encode()),
        )


def test_add_user(config: Config) -> None:
    """With roles and a nickname; the password is stored as its hash; once."""
    admin.add_user(config, "alice", PASSWORD, nickname="Alice", roles=("moderator", "admin", "admin"))
    ((user_id, password, nickname, roles, disabled),) = rows(
        config, "SELECT user_id, password, nickname, roles, disabled FROM users"
    )
    assert (user_id, nickname, roles, disabled) == ("alice", "Alice", '["admin", "moderator"]', 0)
    assert password.startswith("$argon2id$")
    with pytest.raises(Conflict, match="user passwd"):
        admin.add_user(config, "alice", PASSWORD)


@pytest.mark.parametrize(
    ("user_id", "password", "nickname", "roles", "field"),
    [
        ("a b", PASSWORD, None, (), "user_id"),
        ("alice\n", PASSWORD, None, (), "user_id"),
        ("", PASSWORD, None, (), "user_id"),
        ("a" * 65, PASSWORD, None, (), "user_id"),
        ("alice", "12345678", None, (), "password"),
        ("alice", PASSWORD, "", (), "nickname"),
        ("alice", PASSWORD, "x" * 65, (), "nickname"),
        ("alice", PASSWORD, None, ("Admin",), "role"),
        ("alice", PASSWORD, None, ("",), "role"),
        ("alice", PASSWORD, None, [f"r{number}" for number in range(33)], "roles"),
    ],
)
def test_add_user_is_validated(
    config: Config, user_id: str, password: str, nickname: str | None, roles: tuple[str, ...], field: str
) -> None:
    """As strictly as REGISTER; nothing is stored."""
    with pytest.raises(InvalidBody) as caught:
        admin.add_user(config, user_id, password, nickname, roles)
    assert caught.value.field == field
    assert rows(config, "SELECT * FROM users") == []


def test_set_password_ends_the_sessions(config: Config) -> None:
    """The new hash, no session, no older token, and a row that tells a running server; others are not touched."""
    for user_id in ("alice", "bob"):
        admin.add_user(config, user_id, PASSWORD)
        add_session(config, user_id)
    before = rows(config, "SELECT password FROM users WHERE user_id = 'alice'")
    admin.set_password(config, "alice", "another good password")
    assert rows(config, "SELECT password FROM users WHERE user_id = 'alice'") != before
    assert rows(config, "SELECT user_id, tokens_from_ms > 0 FROM users ORDER BY 1") == [("alice", 1), ("bob", 0)]
    assert rows(config, "SELECT user_id, revoked FROM user_sessions ORDER BY 1") == [("alice", 1), ("bob", 0)]
    assert rows(config, "SELECT user_id FROM user_changes") == [("alice",)]
    with pytest.raises(InvalidBody):
        admin.set_password(config, "alice", "short")


def test_disable_and_enable(config: Config) -> None:
    """Disabling ends the sessions; enabling does not bring them back."""
    admin.add_user(config, "alice", PASSWORD)
    add_session(config, "alice")
    admin.set_disabled(config, "alice", True)
    assert rows(config, "SELECT disabled, tokens_from_ms > 0 FROM users") == [(1, 1)]
    admin.set_disabled(config, "alice", False)
    assert rows(config, "SELECT disabled FROM users") == [(0,)]
    assert rows(config, "SELECT revoked FROM user_sessions") == [(1,)]
    assert rows(config, "SELECT count(*) FROM user_changes") == [(2,)]


def test_roles_are_given_and_taken(config: Config) -> None:
    """Twice is once; what is not there can be taken away; sessions go on."""
    admin.add_user(config, "alice", PASSWORD)
    add_session(config, "alice")
    for role, present, expected in (
        ("admin", True, '["admin"]'),
        ("admin", True, '["admin"]'),
        ("bot", True, '["admin", "bot"]'),
        ("admin", False, '["bot"]'),
        ("admin", False, '["bot"]'),
    ):
        admin.set_role(config, "alice", role, present)
        assert rows(config, "SELECT roles FROM users") == [(expected,)]
    assert rows(config, "SELECT revoked FROM user_sessions") == [(0,)]
    with pytest.raises(InvalidBody):
        admin.set_role(config, "alice", "no such role!", True)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: admin.set_password(config, "nobody", PASSWORD),
        lambda config: admin.set_disabled(config, "nobody", True),
        lambda config: admin.set_role(config, "nobody", "admin", True),
    ],
)
def test_a_user_that_is_not_there(config: Config, change: Callable[[Config], None]) -> None:
    """The message says what to do; no change is announced."""
    with pytest.raises(NotFound, match="user add"):
        change(config)
    assert rows(config, "SELECT * FROM user_changes") == []


def test_a_running_server_does_not_get_in_the_way(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server cannot commit between the look and the change, after which the change would be refused as stale."""
    admin.add_user(config, "alice", PASSWORD)
    look = admin._find
    server = apsw.Connection(str(config.server.data_dir / "imserver.db"))

    def look_while_the_server_writes(connection: apsw.Connection, user_id: str) -> frozenset[str] | None:
        found = look(connection, user_id)
        with pytest.raises(apsw.BusyError):
            server.execute("UPDATE users SET bio = 'busy'")
        return found

    monkeypatch.setattr(admin, "_find", look_while_the_server_writes)
    admin.set_role(config, "alice", "admin", True)
    admin.set_disabled(config, "alice", True)
    server.execute("UPDATE users SET bio = 'free'")
    server.close()
    assert rows(config, "SELECT roles, disabled, bio FROM users") == [('["admin"]', 1, "free")]


def test_issue_token(config: Config) -> None:
    """An integrator's token for anybody, signed with the secret of the file, which is made if there is none."""
    token = admin.issue_token(config, "shopper", 60)
    tokens = auth.AccessTokens(config.auth.secret_file.read_bytes().strip())
    claims = tokens.verify(token, now_ms=admin._now_ms())
    assert (claims.user_id, claims.session_id) == ("shopper", None)
    for user_id, ttl_s in (("a b", 60), ("shopper", 0), ("shopper", -1)):
        with pytest.raises(ImError):
            admin.issue_token(config, user_id, ttl_s)
