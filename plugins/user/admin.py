"""What the command line does to users and API keys, beside a running server or without one.

A running server notices within two seconds (`background.py`): each change leaves a row in `user_changes`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from imserver.plugin import Conflict, InvalidBody, NotFound, auth, offline_database
from imserver_plugins.user import keys, store
from imserver_plugins.user.roles import check_count, checked_role, with_role
from imserver_plugins.user.store.api_keys import ApiKey
from imserver_plugins.user.store.columns import roles_from
from imserver_plugins.user.store.statements import Statement

if TYPE_CHECKING:
    import apsw

    from imserver.config import Config

_USER_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")  # wire protocol, section 3
_KEY_NAME = _USER_ID  # so that the commonName of a certificate can be one
_MAX_NICKNAME_CHARS = 64
_KEEP_CHANGES_MS = 86_400_000  # a running server reads them within seconds


def add_user(config: Config, user_id: str, password: str, nickname: str | None = None, roles: Iterable[str] = ()) -> None:
    """Make a user.

    Raises:
        InvalidBody: the id, the password, the nickname or a role is not allowed.
        Conflict: the user exists.
    """
    _check_user_id(user_id)
    roles = sorted(check_count(frozenset(checked_role(role) for role in roles)))
    if nickname is not None and not 1 <= len(nickname) <= _MAX_NICKNAME_CHARS:
        raise InvalidBody(f"a nickname has 1 to {_MAX_NICKNAME_CHARS} characters", field="nickname")
    auth.check_new_password(password, user_id=user_id)
    hashed = auth.hash_password(password)
    with _transaction(config) as connection:
        if _find(connection, user_id) is not None:
            raise Conflict(f"user {user_id} exists; `imserver user passwd` changes its password", field="user_id")
        statement = store.accounts.insert_user(
            user_id, hashed, nickname=nickname, roles=roles, now_ms=_now_ms(), or_ignore=False
        )
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
    statements = [store.accounts.set_disabled(user_id, disabled)]
    _change(config, user_id, [*statements, *_end(user_id)] if disabled else statements)


def set_role(config: Config, user_id: str, role: str, present: bool) -> None:
    """Give a user a role, or take it away.

    Raises:
        InvalidBody: the role has characters that are not allowed, or there are too many.
        NotFound: there is no such user.
    """
    checked_role(role)
    with _transaction(config) as connection:
        old = _find(connection, user_id)
        if old is None:
            raise _unknown(user_id)
        _execute(connection, user_id, [store.accounts.change_roles(user_id, old=old, new=with_role(old, role, present))])


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


def add_key(config: Config, name: str, scopes: Iterable[str], expires_s: float | None = None) -> str:
    """Make an API key; what is returned is to be had never again.

    Args:
        scopes: what it may do: one of `known_scopes` at least.
        expires_s: how long it is good; None: until it is revoked.

    Raises:
        InvalidBody: the name or a scope is not allowed, or `expires_s` is not positive.
        Conflict: there is a key of this name.
        ConfigError, PluginError: the plugins, whose names scopes are, cannot be loaded.
    """
    from imserver.plugin import known_scopes

    if not _KEY_NAME.fullmatch(name):
        raise InvalidBody("a key's name has 1 to 64 characters out of A-Z a-z 0-9 _ - . @", field="name")
    known = known_scopes(config)
    spelled = {scope.lower(): scope for scope in known}  # as in `[roles]`
    given = frozenset(scopes)
    unknown = sorted(scope for scope in given if scope.lower() not in spelled)
    if unknown or not given:
        problem = f"there is no scope {unknown[0]!r}" if unknown else "a key needs a scope"
        raise InvalidBody(f"{problem}; there are {', '.join(known)}", field="scope")
    wanted = frozenset(spelled[scope.lower()] for scope in given)
    if expires_s is not None and expires_s < 1:
        raise InvalidBody("a key is good for one second at least", field="expires")
    shown, now_ms = keys.new(), _now_ms()
    expires_at = None if expires_s is None else now_ms + round(expires_s * 1000)
    key = ApiKey(shown.key_id, name, shown.secret_hash, wanted, now_ms, expires_at, None, None)
    with _transaction(config) as connection:
        if any(other.name == name and other.revoked_at is None for other in _keys(connection)):
            raise Conflict(f"there is a key {name}; `imserver token key revoke {name}` ends it", field="name")
        connection.execute(*store.api_keys.insert_key(key))
    return shown.text


def list_keys(config: Config) -> list[ApiKey]:
    """All API keys, revoked ones included, the oldest first."""
    with offline_database(config) as connection:
        return _keys(connection)


def revoke_key(config: Config, name: str) -> None:
    """End an API key; a running server refuses it within seconds.

    Raises:
        NotFound: there is no key of this name, or it is revoked already.
    """
    with _transaction(config) as connection:
        if not list(connection.execute(*store.api_keys.revoke_key(name, _now_ms()))):
            raise NotFound(f"there is no key {name} that is not revoked; see `imserver token key list`", field="name")
        _announce(connection, store.changes.KEYS_CHANGED)


def _keys(connection: apsw.Connection) -> list[ApiKey]:
    return [store.api_keys.key_from(row) for row in connection.execute(store.api_keys.ALL_KEYS)]


@contextmanager
def _transaction(config: Config) -> Iterator[apsw.Connection]:
    # Immediate: a transaction that begins by reading could not write any more once a running server has committed.
    with offline_database(config) as connection:
        connection.transaction_mode = "IMMEDIATE"
        with connection:
            yield connection


def _change(config: Config, user_id: str, statements: Sequence[Statement]) -> None:
    with _transaction(config) as connection:
        if _find(connection, user_id) is None:
            raise _unknown(user_id)
        _execute(connection, user_id, statements)


def _execute(connection: apsw.Connection, user_id: str, statements: Sequence[Statement]) -> None:
    for sql, params in statements:
        connection.execute(sql, params)
    _announce(connection, user_id)


def _announce(connection: apsw.Connection, user_id: str) -> None:
    """Tell a running server, which reads these rows about once a second."""
    now_ms = _now_ms()
    connection.execute("DELETE FROM user_changes WHERE changed_at < ?", (now_ms - _KEEP_CHANGES_MS,))
    connection.execute("INSERT INTO user_changes (user_id, changed_at) VALUES (?, ?)", (user_id, now_ms))


def _end(user_id: str) -> list[Statement]:
    return [store.sessions.revoke(user_id, session_ids=None), store.accounts.refuse_older_tokens(user_id, _now_ms())]


def _find(connection: apsw.Connection, user_id: str) -> frozenset[str] | None:
    """The user's roles; None: no such user."""
    rows: list[Any] = list(connection.execute("SELECT roles FROM users WHERE user_id = ?", (user_id,)))
    return roles_from(rows[0][0]) if rows else None


def _check_user_id(user_id: str) -> None:
    if not _USER_ID.fullmatch(user_id):
        raise InvalidBody("a user id has 1 to 64 characters out of A-Z a-z 0-9 _ - . @", field="user_id")


def _unknown(user_id: str) -> NotFound:
    return NotFound(f"there is no user {user_id}; `imserver user add` makes one", field="user_id")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
