"""Sessions that were opened by a password, their refresh tokens, and integrators' tokens that were revoked."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from imserver_plugins.user.store.statements import CHUNK, Database, Statement, in_chunks


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


async def list_sessions(db: Database, user_id: str) -> list[SessionRow]:
    """A user's sessions, revoked ones included, the longest unseen first; bounded by `limits.sessions_per_user`."""
    rows = await db.read(
        "SELECT session_id, device_id, platform, address, connected_at, last_seen_at, expires_at, revoked"
        " FROM user_sessions WHERE user_id = ? ORDER BY last_seen_at, session_id",
        (user_id,),
    )
    return [SessionRow(r[0], r[1], r[2], r[3], r[4], r[5], r[6], bool(r[7])) for r in rows]


async def session_exists(db: Database, session_id: str) -> bool:
    """Whether the session's row is there, revoked or not."""
    return bool(await db.read("SELECT 1 FROM user_sessions WHERE session_id = ?", (session_id,)))


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


def revoke_tokens(tokens: Sequence[tuple[bytes, int]]) -> list[Statement]:
    """Remember (hash, expires_at) of integrators' tokens that are refused from now on."""
    sql = "INSERT INTO user_revoked_tokens (token_hash, expires_at) VALUES {} ON CONFLICT DO NOTHING"
    return in_chunks(sql, "(?, ?)", tokens)


def mark_seen(seen: Sequence[Seen]) -> list[Statement]:
    """When sessions were last connected, many at once."""
    sql = (
        "WITH seen (session_id, seen_at, connected_at, address) AS (VALUES {})"
        " UPDATE user_sessions SET last_seen_at = max(last_seen_at, seen.seen_at),"
        " connected_at = coalesce(seen.connected_at, user_sessions.connected_at),"
        " address = coalesce(seen.address, user_sessions.address)"
        " FROM seen WHERE user_sessions.session_id = seen.session_id"
    )
    return in_chunks(sql, "(?, ?, ?, ?)", [(s.session_id, s.seen_at, s.connected_at, s.address) for s in seen])


def forget_expired(now_ms: int) -> list[Statement]:
    """Drop what time has ended: a bounded number of rows, so that no commit is held up."""
    return [
        (
            "DELETE FROM user_sessions WHERE session_id IN"
            f" (SELECT session_id FROM user_sessions WHERE expires_at < ? LIMIT {CHUNK})",
            (now_ms,),
        ),
        (
            "DELETE FROM user_revoked_tokens WHERE token_hash IN"
            f" (SELECT token_hash FROM user_revoked_tokens WHERE expires_at < ? LIMIT {CHUNK})",
            (now_ms,),
        ),
    ]
