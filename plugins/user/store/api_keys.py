"""The keys of back ends."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from imserver_plugins.user.store.columns import roles_from, roles_text
from imserver_plugins.user.store.statements import Database, Row, Statement, in_chunks


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
    return in_chunks(sql, "(?, ?)", used)
