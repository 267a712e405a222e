"""Accounts: who may log in, and as what."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, frozen

from imserver_plugins.user.store.columns import roles_from, roles_text, search_key
from imserver_plugins.user.store.statements import Database, Row, Statement


@frozen
class Account:
    """A user as far as logging in is concerned."""

    user_id: str
    password: str | None
    disabled: bool
    roles: frozenset[str]
    tokens_from_ms: int
    #: Of the session that it was found by; "": it was not.
    device_id: str = ""


_ACCOUNT = "user_id, password, disabled, roles, tokens_from_ms"


def _account(row: Row) -> Account:
    return Account(row[0], row[1], bool(row[2]), roles_from(row[3]), row[4])


def insert_user(
    user_id: str, password: str | None, *, nickname: str | None, roles: Iterable[str] = (), now_ms: int, or_ignore: bool
) -> Statement:
    """A new user. One that exists is a constraint violated, or with `or_ignore` left alone."""
    name = user_id if nickname is None else nickname
    sql = (
        "INSERT INTO users (user_id, user_id_key, password, nickname, nickname_key, roles, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
    )
    if or_ignore:
        sql += " ON CONFLICT DO NOTHING"
    return sql, (user_id, search_key(user_id), password, name, search_key(name), roles_text(roles), now_ms)


async def find_account(db: Database, user_id: str) -> Account | None:
    """The account of a user id, if there is one."""
    rows = await db.read(f"SELECT {_ACCOUNT} FROM users WHERE user_id = ?", (user_id,))
    return _account(rows[0]) if rows else None


async def find_account_and_device(db: Database, user_id: str, device_id: str | None) -> tuple[Account | None, bool]:
    """The account, and whether it was logged in to from this device before (as far as is remembered)."""
    rows = await db.read(
        f"SELECT {_ACCOUNT}, EXISTS (SELECT 1 FROM user_sessions s WHERE s.user_id = u.user_id AND s.device_id = ?)"
        " FROM users u WHERE user_id = ?",
        (device_id, user_id),
    )
    return (_account(rows[0]), bool(rows[0][5])) if rows else (None, False)


async def find_foreign_account(db: Database, user_id: str, token_hash: bytes) -> tuple[Account | None, bool]:
    """The account that an integrator's token speaks of, and whether that token was revoked."""
    rows = await db.read(
        f"SELECT {_ACCOUNT} FROM users WHERE user_id = ?"
        " UNION ALL SELECT NULL, NULL, 1, '[]', 0 FROM user_revoked_tokens WHERE token_hash = ?",
        (user_id, token_hash),
    )
    accounts = [_account(row) for row in rows if row[0] is not None]
    return (accounts[0] if accounts else None), len(rows) > len(accounts)


async def find_account_of_session(db: Database, session_id: str, user_id: str) -> Account | None:
    """The account of a session that is not revoked; None: revoked, unknown, or another user's."""
    rows = await db.read(
        "SELECT u.user_id, u.password, u.disabled, u.roles, u.tokens_from_ms, s.device_id"
        " FROM user_sessions s JOIN users u ON u.user_id = s.user_id"
        " WHERE s.session_id = ? AND s.user_id = ? AND s.revoked = 0",
        (session_id, user_id),
    )
    return evolve(_account(rows[0]), device_id=rows[0][5]) if rows else None


def change_password(user_id: str, *, old: str, new: str) -> Statement:
    """Replace one hash by another, if it is still that one; returns a row if it was."""
    return "UPDATE users SET password = ? WHERE user_id = ? AND password = ? RETURNING user_id", (new, user_id, old)


def set_disabled(user_id: str, disabled: bool) -> Statement:
    """Lock a user out or in; returns a row if there is such a user."""
    return "UPDATE users SET disabled = ? WHERE user_id = ? RETURNING user_id", (int(disabled), user_id)


def change_roles(user_id: str, *, old: Iterable[str], new: Iterable[str]) -> Statement:
    """Replace a user's roles, if they are still the old ones; returns a row if they were."""
    sql = "UPDATE users SET roles = ? WHERE user_id = ? AND roles = ? RETURNING user_id"
    return sql, (roles_text(new), user_id, roles_text(old))


def refuse_older_tokens(user_id: str, now_ms: int) -> Statement:
    """From now on integrators' tokens that were issued before are refused."""
    return "UPDATE users SET tokens_from_ms = ? WHERE user_id = ?", (now_ms, user_id)
