"""What users show of themselves: profiles, the search for them, and when they were last seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from imserver_plugins.user.store.columns import search_key
from imserver_plugins.user.store.statements import Database, Row, Statement, in_chunks

#: Users that one SEARCH_USERS looks at without an index; some milliseconds.
SCANNED_USERS = 20_000


@frozen
class UserSeen:
    """When a user was last seen (milliseconds since the Unix epoch; None: never), and who may know."""

    user_id: str
    seen_at: int | None
    visible_to: str

    def as_told_to(self, reader: str | None) -> int | None:
        """When that was, as this user may know it."""
        return self.seen_at if self.visible_to == "everyone" or reader == self.user_id else None


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


def _end_of(prefix: str) -> str:
    # Above every text that begins with the prefix: the last code point there is.
    return prefix + "\U0010ffff"


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
    return in_chunks(sql, "(?, ?)", seen)
