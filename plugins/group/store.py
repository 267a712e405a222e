"""The tables of groups, and all SQL of this plugin. Writes are statements for the commit in which the members change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from attrs import frozen

if TYPE_CHECKING:
    from imserver_plugins.group.state import Group

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
T = TypeVar("T")


class Database(Protocol):
    """What is used of `ctx.db`."""

    async def read(self, sql: str, params: Sequence[Any] = ..., /) -> list[Row]:
        """Committed rows."""

    async def read_transaction(self, read: Callable[..., T], /) -> T:
        """What `read(query)` makes of committed rows of one moment."""


MIGRATIONS = (
    """
    -- times in milliseconds since the Unix epoch; dismissed_at: null while the group lives
    CREATE TABLE groups (
        group_id TEXT PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL, avatar TEXT, announcement TEXT,
        join_by TEXT NOT NULL, history TEXT NOT NULL, muted INTEGER NOT NULL, created_at INTEGER NOT NULL,
        dismissed_at INTEGER
    ) STRICT, WITHOUT ROWID;

    -- role: admin or member (the owner is in the group's row); muted_until: 0 if never
    CREATE TABLE group_members (
        group_id TEXT NOT NULL, user_id TEXT NOT NULL, role TEXT NOT NULL, muted_until INTEGER NOT NULL,
        joined_at INTEGER NOT NULL, PRIMARY KEY (group_id, user_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX group_members_by_user ON group_members (user_id, group_id);
    CREATE INDEX group_members_special ON group_members (group_id) WHERE role <> 'member' OR muted_until > 0;

    -- requests to join that wait for an answer
    CREATE TABLE group_requests (
        request_id TEXT PRIMARY KEY, group_id TEXT NOT NULL, user_id TEXT NOT NULL, message TEXT NOT NULL,
        created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, UNIQUE (group_id, user_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX group_requests_expiring ON group_requests (expires_at);
    """,
    """
    -- mutes of those who have gone and may come back
    CREATE TABLE group_mutes (
        group_id TEXT NOT NULL, user_id TEXT NOT NULL, muted_until INTEGER NOT NULL, PRIMARY KEY (group_id, user_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX group_mutes_ending ON group_mutes (muted_until);
    """,
)

#: Rows dropped in one step of the cleanup.
CHUNK: Final = 500
_ROWS_PER_STATEMENT: Final = 1000
NOBODY: Final[Mapping[str, int]] = MappingProxyType({})
_GROUP = "group_id, name, owner, avatar, announcement, join_by, history, muted, created_at, dismissed_at"


# ---------------------------------------------------------------- reads


async def load(db: Database, group_id: str) -> tuple[Row, list[Row]] | None:
    """A group's row, and (user_id, role, muted_until) of the members of whom there is something to say.

    Those who have gone and are muted are among them.
    """

    def read(query: Any) -> tuple[Row, list[Row]] | None:
        found = query(f"SELECT {_GROUP} FROM groups WHERE group_id = ?", (group_id,))
        if not found:
            return None
        special = query(
            "SELECT user_id, role, muted_until FROM group_members "
            "WHERE group_id = ?1 AND (role <> 'member' OR muted_until > 0) "
            "UNION ALL SELECT user_id, 'member', muted_until FROM group_mutes WHERE group_id = ?1",
            (group_id,),
        )
        return found[0], special

    return await db.read_transaction(read)


async def list_members(db: Database, group_id: str, after: str, limit: int) -> list[Row]:
    """(user_id, role, muted_until, joined_at) in the order of the user ids."""
    return await db.read(
        "SELECT user_id, role, muted_until, joined_at FROM group_members WHERE group_id = ? AND user_id > ? "
        "ORDER BY user_id LIMIT ?",
        (group_id, after, limit),
    )


async def list_groups(db: Database, user_id: str, after: str, limit: int) -> list[str]:
    """The ids of a user's groups, in order."""
    rows = await db.read(
        "SELECT group_id FROM group_members WHERE user_id = ? AND group_id > ? ORDER BY group_id LIMIT ?",
        (user_id, after, limit),
    )
    return [row[0] for row in rows]


async def count_groups(db: Database, user_ids: Sequence[str]) -> dict[str, int]:
    """How many groups users belong to; who is in none is left out."""
    marks = ",".join("?" * len(user_ids))
    rows = await db.read(
        f"SELECT user_id, count(*) FROM group_members WHERE user_id IN ({marks}) GROUP BY user_id", list(user_ids)
    )
    return dict(rows)


@frozen
class Request:
    """Somebody wants to join a group."""

    request_id: str
    group_id: str
    user_id: str
    message: str
    created_at: int


_REQUEST = "request_id, group_id, user_id, message, created_at"


async def find_request(db: Database, request_id: str, now_ms: int) -> Request | None:
    """A request that waits."""
    rows = await db.read(
        f"SELECT {_REQUEST} FROM group_requests WHERE request_id = ? AND expires_at > ?", (request_id, now_ms)
    )
    return Request(*rows[0]) if rows else None


async def list_requests(db: Database, group_id: str, now_ms: int, limit: int) -> list[Request]:
    """The requests to join a group that wait, oldest first."""
    rows = await db.read(
        f"SELECT {_REQUEST} FROM group_requests WHERE group_id = ? AND expires_at > ? ORDER BY created_at LIMIT ?",
        (group_id, now_ms, limit),
    )
    return [Request(*row) for row in rows]


# ---------------------------------------------------------------- writes


def put(group: Group) -> Statement:
    """A group's row, new or changed."""
    values = (
        group.group_id, group.name, group.owner, group.avatar, group.announcement, group.join, group.history,
        int(group.muted), group.created_at, group.dismissed_at,
    )  # fmt: skip
    return f"INSERT OR REPLACE INTO groups ({_GROUP}) VALUES (?,?,?,?,?,?,?,?,?,?)", values


def enter(group_id: str, user_ids: Sequence[str], now_ms: int, mutes: Mapping[str, int] = NOBODY) -> list[Statement]:
    """Members come; what they asked for is answered by that.

    Args:
        mutes: until when those are muted who are, from an earlier time here.
    """
    statements: list[Statement] = []
    for part in _parts(user_ids):
        values = ",".join(["(?,?,'member',?,?)"] * len(part))
        rows = [value for user_id in part for value in (group_id, user_id, mutes.get(user_id, 0), now_ms)]
        names = "group_id, user_id, role, muted_until, joined_at"
        statements.append((f"INSERT INTO group_members ({names}) VALUES {values}", rows))
        marks = ",".join("?" * len(part))
        statements.append((f"DELETE FROM group_requests WHERE group_id = ? AND user_id IN ({marks})", [group_id, *part]))
        if mutes:
            statements.append((f"DELETE FROM group_mutes WHERE group_id = ? AND user_id IN ({marks})", [group_id, *part]))
    return statements


def leave(group_id: str, user_ids: Sequence[str], mutes: Mapping[str, int] = NOBODY) -> list[Statement]:
    """Members go; their mutes stay."""
    statements: list[Statement] = [
        (f"DELETE FROM group_members WHERE group_id = ? AND user_id IN ({','.join('?' * len(part))})", [group_id, *part])
        for part in _parts(user_ids)
    ]
    statements += [
        ("INSERT OR REPLACE INTO group_mutes VALUES (?, ?, ?)", (group_id, user_id, until))
        for user_id, until in mutes.items()
    ]
    return statements


def forget_mutes(group_id: str, user_ids: Sequence[str]) -> list[Statement]:
    """Of those who have gone."""
    return [
        (f"DELETE FROM group_mutes WHERE group_id = ? AND user_id IN ({','.join('?' * len(part))})", [group_id, *part])
        for part in _parts(user_ids)
    ]


def dismiss(group_id: str) -> list[Statement]:
    """All go."""
    return [
        ("DELETE FROM group_members WHERE group_id = ?", (group_id,)),
        ("DELETE FROM group_requests WHERE group_id = ?", (group_id,)),
        ("DELETE FROM group_mutes WHERE group_id = ?", (group_id,)),
    ]


def mark(group_id: str, user_id: str, role: str, muted_until: int) -> Statement:
    """A member's role and mute."""
    return (
        "UPDATE group_members SET role = ?, muted_until = ? WHERE group_id = ? AND user_id = ?",
        (role, muted_until, group_id, user_id),
    )


def ask(request: Request, expires_at: int, max_requests: int) -> list[Statement]:
    """Store a request to join, unless one of this user's waits or there are too many.

    The last statement gives the id of the one that waits.
    """
    now_ms = request.created_at
    return [
        (
            "DELETE FROM group_requests WHERE group_id = ? AND user_id = ? AND expires_at <= ?",
            (request.group_id, request.user_id, now_ms),
        ),
        (
            "INSERT INTO group_requests SELECT ?, ?, ?, ?, ?, ? WHERE (SELECT count(*) FROM group_requests "
            "WHERE group_id = ? AND expires_at > ?) < ? ON CONFLICT DO NOTHING",
            (
                request.request_id, request.group_id, request.user_id, request.message, now_ms, expires_at,
                request.group_id, now_ms, max_requests,
            ),
        ),
        (
            "SELECT request_id FROM group_requests WHERE group_id = ? AND user_id = ?",
            (request.group_id, request.user_id),
        ),
    ]  # fmt: skip


def drop_request(request_id: str) -> Statement:
    """It was answered."""
    return "DELETE FROM group_requests WHERE request_id = ?", (request_id,)


def drop_expired(now_ms: int) -> Statement:
    """Drop requests whose time is over, a bounded number; returns a row each."""
    return (
        "DELETE FROM group_requests WHERE request_id IN "
        "(SELECT request_id FROM group_requests WHERE expires_at <= ? LIMIT ?) RETURNING request_id",
        (now_ms, CHUNK),
    )


def drop_ended(now_ms: int) -> Statement:
    """As `drop_expired`: mutes of those who have gone that are over."""
    return (
        "DELETE FROM group_mutes WHERE (group_id, user_id) IN "
        "(SELECT group_id, user_id FROM group_mutes WHERE muted_until <= ? LIMIT ?) RETURNING user_id",
        (now_ms, CHUNK),
    )


def _parts(user_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(user_ids), _ROWS_PER_STATEMENT):
        yield user_ids[start : start + _ROWS_PER_STATEMENT]
