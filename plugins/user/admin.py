"""What the command line does to users, beside a running server or without one.

A running server notices within two seconds (`background.py`): each change leaves a row in `user_changes`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, InvalidBody, NotFound, auth, offline_database
from imserver_plugins.user import store

if TYPE_CHECKING:
    import apsw

    from imserver.config import Config

_USER_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")  # wire protocol, section 3
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MAX_NICKNAME_CHARS = 64
_MAX_ROLES = 32  # arbitrary; they are read at each login
_KEEP_CHANGES_MS = 86_400_000  # a running server reads them within seconds


def add_user(config: Config, user_id: str, password: str, nickname: str | None = None, roles: Iterable[str] = ()) -> None:
    """Make a user.

    Raises:
        InvalidBody: the id, the password, the nickname or a role is not allowed.
        Conflict: the user exists.
    """
    _check_user_id(user_id)
    roles = sorted({_checked_role(role) for role in roles})
    if len(roles) > _MAX_ROLES:
        raise InvalidBody(f"a user may have {_MAX_ROLES} roles", field="roles")
    if nickname is not None and not 1 <= len(nickname) <= _MAX_NICKNAME_CHARS:
        raise InvalidBody(f"a nickname has 1 to {_MAX_NICKNAME_CHARS} characters", field="nickname")
    auth.check_new_password(password, user_id=user_id)
    hashed = auth.hash_password(password)
    with _transaction(config) as connection:
        if _find(connection, user_id) is not None:
            raise Conflict(f"user {user_id} exists; `imserver user passwd` changes its password", field="user_id")
        statement = store.insert_user(user_id, hashed, nickname=nickname, roles=roles, now_ms=_now_ms(), or_ignore=False)
        connection.execute(*statement)


def set_password(config: Config, user_id: str, password: str) -> None:
    """Give a user (also an integrating system's) a password; all of the user's sessions end.

    Raises:
        InvalidBody: the password is not allowed.
        NotFound: there is no such user.
    """
    auth.check_new_password(password, user_id=user_id)
    hashed = auth.hash_password(password)
    _change(config, user_id, [("UPDATE users SET password = ? WHERE user_id = ?", (hashed, user_id)), *_end(user_id)])


def set_disabled(config: Config, user_id: str, disabled: bool) -> None:
    """Lock a user out, ending all sessions, or let the user in again.

    Raises:
        NotFound: there is no such user.
    """
    statements: list[store.Statement] = [
        ("UPDATE users SET disabled = ? WHERE user_id = ?", (int(disabled), user_id)),
    ]
    _change(config, user_id, [*statements, *_end(user_id)] if disabled else statements)


def set_role(config: Config, user_id: str, role: str, present: bool) -> None:
    """Give a user a role, or take it away.

    Raises:
        InvalidBody: the role has characters that are not allowed, or there are too many.
        NotFound: there is no such user.
    """
    _checked_role(role)
    with _transaction(config) as connection:
        found = _find(connection, user_id)
        if found is None:
            raise _unknown(user_id)
        roles = found | {role} if present else found - {role}
        if len(roles) > _MAX_ROLES:
            raise InvalidBody(f"a user may have {_MAX_ROLES} roles", field="roles")
        statement = ("UPDATE users SET roles = ? WHERE user_id = ?", (store.roles_text(roles), user_id))
        _execute(connection, user_id, [statement])


def issue_token(config: Config, user_id: str, ttl_s: float) -> str:
    """A token for AUTH as an integrating system would sign it; the user need not exist yet.

    Raises:
        InvalidBody: the user id is not allowed, or `ttl_s` is not positive.
        ConfigError, StartError: the secret cannot be used.
    """
    _check_user_id(user_id)
    if ttl_s < 1:
        raise InvalidBody("a token lives for one second at least", field="ttl")
    tokens = auth.AccessTokens(auth.load_secret(config.auth.secret_file))
    return tokens.issue_foreign(user_id, now_ms=_now_ms(), ttl_ms=round(ttl_s * 1000))


@contextmanager
def _transaction(config: Config) -> Iterator[apsw.Connection]:
    # Immediate: a transaction that begins by reading could not write any more once a running server has committed.
    with offline_database(config) as connection:
        connection.transaction_mode = "IMMEDIATE"
        with connection:
            yield connection


def _change(config: Config, user_id: str, statements: Sequence[store.Statement]) -> None:
    with _transaction(config) as connection:
        if _find(connection, user_id) is None:
            raise _unknown(user_id)
        _execute(connection, user_id, statements)


def _execute(connection: apsw.Connection, user_id: str, statements: Sequence[store.Statement]) -> None:
    now_ms = _now_ms()
    for sql, params in statements:
        connection.execute(sql, params)
    connection.execute("DELETE FROM user_changes WHERE changed_at < ?", (now_ms - _KEEP_CHANGES_MS,))
    connection.execute("INSERT INTO user_changes (user_id, changed_at) VALUES (?, ?)", (user_id, now_ms))


def _end(user_id: str) -> list[store.Statement]:
    return [store.revoke(user_id, session_ids=None), store.refuse_older_tokens(user_id, _now_ms())]


def _find(connection: apsw.Connection, user_id: str) -> frozenset[str] | None:
    """The user's roles; None: no such user."""
    rows: list[Any] = list(connection.execute("SELECT roles FROM users WHERE user_id = ?", (user_id,)))
    return store.roles_from(rows[0][0]) if rows else None


def _check_user_id(user_id: str) -> None:
    if not _USER_ID.fullmatch(user_id):
        raise InvalidBody("a user id has 1 to 64 characters out of A-Z a-z 0-9 _ - . @", field="user_id")


def _checked_role(role: str) -> str:
    if not _ROLE.fullmatch(role):
        raise InvalidBody("a role has 1 to 32 characters out of a-z 0-9 _ -, and begins with a letter", field="role")
    return role


def _unknown(user_id: str) -> NotFound:
    return NotFound(f"there is no user {user_id}; `imserver user add` makes one", field="user_id")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
