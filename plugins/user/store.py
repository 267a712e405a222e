"""The tables of users and sessions, and all SQL of this plugin."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol

from attrs import evolve, frozen

Statement = tuple[str, Sequence[Any]]
Row = tuple[Any, ...]

MIGRATIONS = (
    """
    CREATE TABLE users (
        user_id TEXT NOT NULL PRIMARY KEY,
        user_id_key TEXT NOT NULL,               -- for the search: folded to lower case
        password TEXT,                           -- an argon2id PHC string; NULL: an integrating system's user
        nickname TEXT NOT NULL,
        nickname_key TEXT NOT NULL,              -- for the search, as above
        avatar TEXT,
        bio TEXT,
        roles TEXT NOT NULL DEFAULT '[]',        -- a JSON list
        disabled INTEGER NOT NULL DEFAULT 0,
        tokens_from_ms INTEGER NOT NULL DEFAULT 0,  -- an integrator's token from before is refused
        created_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX users_by_id_key ON users (user_id_key, user_id);
    CREATE INDEX users_by_nickname_key ON users (nickname_key, user_id);

    -- One row for each device that has logged in with a password. A revoked one stays until its time is over: the
    -- account knows its device by it.
    CREATE TABLE user_sessions (
        session_id TEXT NOT NULL PRIMARY KEY,
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        platform TEXT NOT NULL,
        address TEXT NOT NULL,
        connected_at INTEGER NOT NULL,
        last_seen_at INTEGER NOT NULL,
        family_hash BLOB NOT NULL UNIQUE,        -- SHA-256 of the part that all its refresh tokens share
        member_hash BLOB NOT NULL,               -- SHA-256 of the one that is good
        expires_at INTEGER NOT NULL,             -- of that refresh token
        revoked INTEGER NOT NULL DEFAULT 0,
        UNIQUE (user_id, device_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX user_sessions_by_expiry ON user_sessions (expires_at);

    -- Integrators' tokens whose session was ended before they expired.
    CREATE TABLE user_revoked_tokens (
        token_hash BLOB NOT NULL PRIMARY KEY,
        expires_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX user_revoked_tokens_by_expiry ON user_revoked_tokens (expires_at);

    -- What another process (the command line) has changed: the running server reads it about once a second.
    CREATE TABLE user_changes (
        change_id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id TEXT NOT NULL,
        changed_at INTEGER NOT NULL
    ) STRICT;
    """,
    """
    -- Keys of back ends. A revoked one stays, for the list; its name may be given again.
    CREATE TABLE user_api_keys (
        key_id TEXT NOT NULL PRIMARY KEY,        -- the part of the key that is no secret
        name TEXT NOT NULL,
        secret_hash BLOB NOT NULL,               -- SHA-256 of the secret part
        scopes TEXT NOT NULL,                    -- a JSON list
        created_at INTEGER NOT NULL,
        expires_at INTEGER,                      -- NULL: never
        revoked_at INTEGER,
        last_used_at INTEGER                     -- to the minute
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX user_api_keys_by_name ON user_api_keys (name) WHERE revoked_at IS NULL;
    """,
    """
    ALTER TABLE users ADD COLUMN last_seen_at INTEGER;                           -- NULL: never connected
    ALTER TABLE users ADD COLUMN last_seen TEXT NOT NULL DEFAULT 'everyone';     -- who is told: everyone, nobody
    """,
)

#: In `user_changes`: not a user was changed but the API keys. No user id is empty.
KEYS_CHANGED = ""

#: Users that one SEARCH_USERS looks at without an index; some milliseconds.
SCANNED_USERS = 20_000

# Statements take a bounded number of parameters.
_CHUNK = 500


class Database(Protocol):
    """What is used of `ctx.db`."""

    async def read(self, sql: str, params: Sequence[Any] = ..., /) -> list[Row]:
        """Committed rows."""

    def write(self, sql: str, params: Sequence[Any] = ..., /) -> Awaitable[list[Row]]:
        """Joins the open commit; the rows of RETURNING once it is durable."""

    def write_all(self, statements: Sequence[Statement], /) -> Awaitable[list[list[Row]]]:
        """The same for several statements: all or none."""


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


@frozen
class ApiKey:
    """A back end's key."""

    key_id: str
    name: str
    secret_hash: bytes
    scopes: frozenset[str]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None

    def is_good(self, now_ms: int) -> bool:
        """It opens the door: neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now_ms)


@frozen
class SessionRow:
    """A session that was opened by a password."""

    session_id: str
    device_id: str
    platform: str
    address: str
    connected_at: int
    last_seen_at: int
    expires_at: int
    revoked: bool


@frozen
class NewSession:
    """What LOGIN stores."""

    session_id: str
    user_id: str
    device_id: str
    platform: str
    address: str
    now_ms: int
    family_hash: bytes
    member_hash: bytes
    expires_at: int


@frozen
class Seen:
    """When and from where a session was last connected; `connected_at` and `address` None: unchanged."""

    session_id: str
    seen_at: int
    connected_at: int | None
    address: str | None


@frozen
class UserSeen:
    """When a user was last seen (milliseconds since the Unix epoch; None: never), and who may know."""

    user_id: str
    seen_at: int | None
    visible_to: str

    def as_told_to(self, reader: str | None) -> int | None:
        """When that was, as this user may know it."""
        return self.seen_at if self.visible_to == "everyone" or reader == self.user_id else None


def search_key(text: str) -> str:
    """What names are compared by in a search."""
    return text.casefold()


def roles_from(text: str) -> frozenset[str]:
    """The roles (or scopes) of a row."""
    return frozenset(json.loads(text))


def roles_text(roles: Iterable[str]) -> str:
    """The roles (or scopes) for a row."""
    return json.dumps(sorted(set(roles)))


# ---------------------------------------------------------------- users

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


async def session_exists(db: Database, session_id: str) -> bool:
    """Whether the session's row is there, revoked or not."""
    return bool(await db.read("SELECT 1 FROM user_sessions WHERE session_id = ?", (session_id,)))


def change_password(user_id: str, *, old: str, new: str) -> Statement:
    """Replace one hash by another, if it is still that one; returns a row if it was."""
    return "UPDATE users SET password = ? WHERE user_id = ? AND password = ? RETURNING user_id", (new, user_id, old)


async def find_profiles(db: Database, user_ids: Sequence[str]) -> list[Row]:
    """(user_id, nickname, avatar, bio, created_at, last_seen) of those that exist; at most 500 ids."""
    marks = ", ".join("?" * len(user_ids))
    sql = f"SELECT user_id, nickname, avatar, bio, created_at, last_seen FROM users WHERE user_id IN ({marks})"
    return await db.read(sql, tuple(user_ids))


def update_profile(user_id: str, changes: dict[str, str | None]) -> Statement:
    """Set some of nickname, avatar, bio and last_seen; `changes` is not empty."""
    columns: list[str] = [name for name in ("nickname", "avatar", "bio", "last_seen") if name in changes]
    values: list[Any] = [changes[name] for name in columns]
    nickname = changes.get("nickname")
    if nickname is not None:
        columns.append("nickname_key")
        values.append(search_key(nickname))
    assignments = ", ".join(f"{name} = ?" for name in columns)
    return f"UPDATE users SET {assignments} WHERE user_id = ?", (*values, user_id)


async def search_by_id(db: Database, key: str, after_user_id: str | None, limit: int) -> list[Row]:
    """Users whose id begins with `key` (folded), in the order of the folded id: a page of profiles."""
    after = ("", "") if after_user_id is None else (search_key(after_user_id), after_user_id)
    return await db.read(
        "SELECT user_id, nickname, avatar, bio, created_at FROM users"
        " WHERE user_id_key >= ? AND user_id_key < ? AND (user_id_key, user_id) > (?, ?) AND disabled = 0"
        " ORDER BY user_id_key, user_id LIMIT ?",
        (key, _end_of(key), *after, limit),
    )


async def search_by_nickname(db: Database, key: str, after: tuple[str, str], limit: int) -> list[Row]:
    """Users whose nickname begins with `key`, but not their id; profiles and, last, the nickname's key."""
    return await db.read(
        "SELECT user_id, nickname, avatar, bio, created_at, nickname_key FROM users"
        " WHERE nickname_key >= ? AND nickname_key < ? AND (nickname_key, user_id) > (?, ?) AND disabled = 0"
        " AND NOT (user_id_key >= ? AND user_id_key < ?)"
        " ORDER BY nickname_key, user_id LIMIT ?",
        (key, _end_of(key), *after, key, _end_of(key), limit),
    )


async def search_in_nicknames(db: Database, key: str, after_user_id: str, limit: int) -> tuple[list[Row], str | None]:
    """Users whose nickname has `key` inside, and neither begins with it nor does their id; by user id, profiles.

    There is no index for that: at most `SCANNED_USERS` are looked at.

    Returns:
        The rows; and the last user looked at if there are more to look at and the rows are not over the limit.
    """
    rows = await db.read(
        "SELECT user_id, nickname, avatar, bio, created_at FROM (SELECT * FROM users WHERE user_id > ?"
        " ORDER BY user_id LIMIT ?) WHERE instr(nickname_key, ?) > 1 AND disabled = 0"
        " AND NOT (user_id_key >= ? AND user_id_key < ?) ORDER BY user_id LIMIT ?",
        (after_user_id, SCANNED_USERS, key, key, _end_of(key), limit),
    )
    if len(rows) == limit:
        return rows, None
    last = await db.read(
        "SELECT user_id FROM users WHERE user_id > ? ORDER BY user_id LIMIT 1 OFFSET ?",
        (after_user_id, SCANNED_USERS - 1),
    )
    return rows, last[0][0] if last else None


async def find_users_seen(db: Database, user_ids: Sequence[str]) -> list[UserSeen]:
    """When users were last seen; at most 500 ids, those that exist."""
    marks = ", ".join("?" * len(user_ids))
    rows = await db.read(f"SELECT user_id, last_seen_at, last_seen FROM users WHERE user_id IN ({marks})", tuple(user_ids))
    return [UserSeen(*row) for row in rows]


def mark_users_seen(seen: Sequence[tuple[str, int]]) -> list[Statement]:
    """When users (user_id, ms) were last seen, many at once."""
    sql = (
        "WITH seen (user_id, at) AS (VALUES {}) UPDATE users"
        " SET last_seen_at = max(coalesce(last_seen_at, 0), seen.at) FROM seen WHERE users.user_id = seen.user_id"
    )
    return _in_chunks(sql, "(?, ?)", seen)


async def list_users(db: Database, part: str, after_user_id: str, limit: int) -> list[Row]:
    """A page by user id of (user_id, nickname, created_at, disabled, roles): of those whose id or nickname has `part`
    (folded; "" is in all) in it. For operators: without an index, so a rare part costs a walk through the table.
    """
    sql = "SELECT user_id, nickname, created_at, disabled, roles FROM users WHERE user_id > ?"
    params: tuple[Any, ...] = (after_user_id,)
    if part:
        pattern = "%" + part.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
        sql += r" AND (user_id_key LIKE ? ESCAPE '\' OR nickname_key LIKE ? ESCAPE '\')"
        params += (pattern, pattern)
    return await db.read(f"{sql} ORDER BY user_id LIMIT ?", (*params, limit))


def set_disabled(user_id: str, disabled: bool) -> Statement:
    """Lock a user out or in; returns a row if there is such a user."""
    return "UPDATE users SET disabled = ? WHERE user_id = ? RETURNING user_id", (int(disabled), user_id)


def change_roles(user_id: str, *, old: Iterable[str], new: Iterable[str]) -> Statement:
    """Replace a user's roles, if they are still the old ones; returns a row if they were."""
    sql = "UPDATE users SET roles = ? WHERE user_id = ? AND roles = ? RETURNING user_id"
    return sql, (roles_text(new), user_id, roles_text(old))


def _end_of(prefix: str) -> str:
    # Above every text that begins with the prefix: the last code point there is.
    return prefix + "\U0010ffff"


# ---------------------------------------------------------------- sessions


async def list_sessions(db: Database, user_id: str) -> list[SessionRow]:
    """A user's sessions, revoked ones included, the longest unseen first; bounded by `limits.sessions_per_user`."""
    rows = await db.read(
        "SELECT session_id, device_id, platform, address, connected_at, last_seen_at, expires_at, revoked"
        " FROM user_sessions WHERE user_id = ? ORDER BY last_seen_at, session_id",
        (user_id,),
    )
    return [SessionRow(r[0], r[1], r[2], r[3], r[4], r[5], r[6], bool(r[7])) for r in rows]


def open_session(session: NewSession, *, password: str, evict: Sequence[str], max_sessions: int) -> list[Statement]:
    """Store a session in place of its device's old one.

    It is stored only if the user still has this password, is not disabled, and has fewer than `max_sessions` others
    (0: no limit) once those in `evict` are gone. The first two statements return the session ids that ended; the last
    one returns a row if the session was stored.
    """
    is_good = "EXISTS (SELECT 1 FROM users WHERE user_id = ? AND password = ? AND disabled = 0)"
    good = (session.user_id, password)
    evict = evict or ("",)
    marks = ", ".join("?" * len(evict))
    return [
        (
            f"DELETE FROM user_sessions WHERE user_id = ? AND device_id = ? AND {is_good} RETURNING session_id",
            (session.user_id, session.device_id, *good),
        ),
        (
            f"DELETE FROM user_sessions WHERE user_id = ? AND session_id IN ({marks}) AND {is_good} RETURNING session_id",
            (session.user_id, *evict, *good),
        ),
        (
            "INSERT INTO user_sessions (session_id, user_id, device_id, platform, address, connected_at, last_seen_at,"
            " family_hash, member_hash, expires_at) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
            f" WHERE {is_good} AND (? = 0 OR (SELECT count(*) FROM user_sessions WHERE user_id = ?) < ?)"
            " RETURNING session_id",
            (
                session.session_id,
                session.user_id,
                session.device_id,
                session.platform,
                session.address,
                session.now_ms,
                session.now_ms,
                session.family_hash,
                session.member_hash,
                session.expires_at,
                *good,
                max_sessions,
                session.user_id,
                max_sessions,
            ),
        ),
    ]


async def family_exists(db: Database, family_hash: bytes) -> bool:
    """Whether a refresh token of this family was ever given out (and its row is still there)."""
    return bool(await db.read("SELECT 1 FROM user_sessions WHERE family_hash = ?", (family_hash,)))


def rotate(family_hash: bytes, old: bytes, new: bytes, *, now_ms: int, expires_at: int) -> list[Statement]:
    """Exchange a refresh token, or end the family if it is not the good one.

    The first statement returns (session_id, user_id) if it was exchanged; the second one if it was the wrong one of a
    family that was alive, which has ended now.
    """
    return [
        (
            # Whoever comes by HTTP alone is seen here: a session in use is not the first to make room for another.
            "UPDATE user_sessions SET member_hash = ?, expires_at = ?, last_seen_at = max(last_seen_at, ?)"
            " WHERE family_hash = ? AND member_hash = ?"
            " AND revoked = 0 AND expires_at > ?"
            " AND EXISTS (SELECT 1 FROM users u WHERE u.user_id = user_sessions.user_id AND u.disabled = 0)"
            " RETURNING session_id, user_id",
            (new, expires_at, now_ms, family_hash, old, now_ms),
        ),
        (
            "UPDATE user_sessions SET revoked = 1 WHERE family_hash = ? AND member_hash NOT IN (?, ?) AND revoked = 0"
            " RETURNING session_id, user_id",
            (family_hash, old, new),
        ),
    ]


def revoke(user_id: str, *, session_ids: Sequence[str] | None, keep: str | None = None) -> Statement:
    """End some of a user's sessions, or (None) all, but for `keep`; returns the ids of those that were alive."""
    sql = "UPDATE user_sessions SET revoked = 1 WHERE user_id = ? AND revoked = 0 AND session_id <> ?"
    params: tuple[str, ...] = (user_id, keep or "")
    if session_ids is not None:
        sql += f" AND session_id IN ({', '.join('?' * len(session_ids))})"
        params += tuple(session_ids)
    return sql + " RETURNING session_id", params


def revoke_if_password(user_id: str, password: str, *, keep: str | None) -> Statement:
    """End all sessions but `keep`, if the user has this password (that is: a change before it went through)."""
    return (
        "UPDATE user_sessions SET revoked = 1 WHERE user_id = ? AND revoked = 0 AND session_id <> ?"
        " AND EXISTS (SELECT 1 FROM users WHERE user_id = ? AND password = ?) RETURNING session_id",
        (user_id, keep or "", user_id, password),
    )


def refuse_older_tokens(user_id: str, now_ms: int) -> Statement:
    """From now on integrators' tokens that were issued before are refused."""
    return "UPDATE users SET tokens_from_ms = ? WHERE user_id = ?", (now_ms, user_id)


def revoke_tokens(tokens: Sequence[tuple[bytes, int]]) -> list[Statement]:
    """Remember (hash, expires_at) of integrators' tokens that are refused from now on."""
    sql = "INSERT INTO user_revoked_tokens (token_hash, expires_at) VALUES {} ON CONFLICT DO NOTHING"
    return _in_chunks(sql, "(?, ?)", tokens)


def mark_seen(seen: Sequence[Seen]) -> list[Statement]:
    """When sessions were last connected, many at once."""
    sql = (
        "WITH seen (session_id, seen_at, connected_at, address) AS (VALUES {})"
        " UPDATE user_sessions SET last_seen_at = max(last_seen_at, seen.seen_at),"
        " connected_at = coalesce(seen.connected_at, user_sessions.connected_at),"
        " address = coalesce(seen.address, user_sessions.address)"
        " FROM seen WHERE user_sessions.session_id = seen.session_id"
    )
    return _in_chunks(sql, "(?, ?, ?, ?)", [(s.session_id, s.seen_at, s.connected_at, s.address) for s in seen])


def forget_expired(now_ms: int) -> list[Statement]:
    """Drop what time has ended: a bounded number of rows, so that no commit is held up."""
    return [
        (
            "DELETE FROM user_sessions WHERE session_id IN"
            f" (SELECT session_id FROM user_sessions WHERE expires_at < ? LIMIT {_CHUNK})",
            (now_ms,),
        ),
        (
            "DELETE FROM user_revoked_tokens WHERE token_hash IN"
            f" (SELECT token_hash FROM user_revoked_tokens WHERE expires_at < ? LIMIT {_CHUNK})",
            (now_ms,),
        ),
    ]


def _in_chunks(sql: str, marks: str, rows: Sequence[Sequence[Any]]) -> list[Statement]:
    statements: list[Statement] = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        statements.append((sql.format(", ".join([marks] * len(chunk))), [value for row in chunk for value in row]))
    return statements


# ---------------------------------------------------------------- API keys

_KEY = "SELECT key_id, name, secret_hash, scopes, created_at, expires_at, revoked_at, last_used_at FROM user_api_keys"
#: All keys, revoked ones included, in the order in which they were made.
ALL_KEYS = f"{_KEY} ORDER BY created_at, key_id"


def key_from(row: Row) -> ApiKey:
    """The key of a row."""
    return ApiKey(row[0], row[1], row[2], roles_from(row[3]), *row[4:])


async def find_key(db: Database, key_id: str) -> ApiKey | None:
    """A key by its id, whether it is still good or not."""
    rows = await db.read(f"{_KEY} WHERE key_id = ?", (key_id,))
    return key_from(rows[0]) if rows else None


async def find_key_by_name(db: Database, name: str) -> ApiKey | None:
    """The key that has this name and is not revoked."""
    rows = await db.read(f"{_KEY} WHERE name = ? AND revoked_at IS NULL", (name,))
    return key_from(rows[0]) if rows else None


def insert_key(key: ApiKey) -> Statement:
    """A new key; one of the same name that is not revoked is a constraint violated."""
    sql = "INSERT INTO user_api_keys (key_id, name, secret_hash, scopes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
    return sql, (key.key_id, key.name, key.secret_hash, roles_text(key.scopes), key.created_at, key.expires_at)


def revoke_key(name: str, now_ms: int) -> Statement:
    """End a key; returns its id if there was one."""
    return "UPDATE user_api_keys SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL RETURNING key_id", (now_ms, name)


def mark_keys_used(used: Sequence[tuple[str, int]]) -> list[Statement]:
    """When keys (key_id, ms) were last used, many at once."""
    sql = (
        "WITH used (key_id, at) AS (VALUES {}) UPDATE user_api_keys"
        " SET last_used_at = max(coalesce(last_used_at, 0), used.at) FROM used WHERE user_api_keys.key_id = used.key_id"
    )
    return _in_chunks(sql, "(?, ?)", used)


# ---------------------------------------------------------------- changes by another process


async def last_change(db: Database) -> int:
    """The number of the newest change; 0: there was none."""
    rows = await db.read("SELECT coalesce(max(change_id), 0) FROM user_changes")
    return int(rows[0][0])


async def changes_after(db: Database, change_id: int) -> list[tuple[int, str]]:
    """(change_id, user_id) of the changes since, oldest first, at most 500."""
    rows = await db.read(
        f"SELECT change_id, user_id FROM user_changes WHERE change_id > ? ORDER BY change_id LIMIT {_CHUNK}",
        (change_id,),
    )
    return [(row[0], row[1]) for row in rows]
