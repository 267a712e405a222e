"""The tables of friends, requests and blocks, and all SQL of this plugin.

What a command may do depends on what other commands do at the same moment, on any shard. So the conditions stand in the
SQL: the writer carries out one unit after another, and what a unit returns tells what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen

Row = tuple[Any, ...]
Statement = tuple[str, Mapping[str, Any]]

PENDING, ACCEPTED, DECLINED = "pending", "accepted", "declined"

MIGRATIONS = (
    """
    -- Two rows a friendship, one for each of the two.
    CREATE TABLE friend_links (
        user_id TEXT NOT NULL,
        friend_id TEXT NOT NULL,
        since INTEGER NOT NULL,
        remark TEXT,                             -- what user_id calls friend_id
        PRIMARY KEY (user_id, friend_id)
    ) STRICT, WITHOUT ROWID;

    -- The last request of one user to another; of two users only one has a request that is pending and not expired.
    CREATE TABLE friend_requests (
        request_id TEXT NOT NULL PRIMARY KEY,    -- begins with the time: their order is that of the requests
        sender TEXT NOT NULL,
        recipient TEXT NOT NULL,
        message TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('pending', 'accepted', 'declined')),
        created_at INTEGER NOT NULL,
        answered_at INTEGER,
        expires_at INTEGER NOT NULL,             -- of the row; a pending one cannot be answered from then on
        UNIQUE (sender, recipient)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX friend_requests_in ON friend_requests (recipient, request_id);
    CREATE INDEX friend_requests_out ON friend_requests (sender, request_id);
    CREATE INDEX friend_requests_pending_in ON friend_requests (recipient, expires_at) WHERE state = 'pending';
    CREATE INDEX friend_requests_pending_out ON friend_requests (sender, expires_at) WHERE state = 'pending';
    CREATE INDEX friend_requests_by_expiry ON friend_requests (expires_at);

    -- Accepting a request makes the friendship, whichever command it was that accepted.
    CREATE TRIGGER friend_requests_accepted AFTER UPDATE OF state ON friend_requests
        WHEN NEW.state = 'accepted' AND OLD.state = 'pending'
    BEGIN
        INSERT INTO friend_links (user_id, friend_id, since)
        VALUES (NEW.sender, NEW.recipient, NEW.answered_at), (NEW.recipient, NEW.sender, NEW.answered_at);
    END;

    CREATE TABLE friend_blocks (
        user_id TEXT NOT NULL,
        blocked_id TEXT NOT NULL,
        since INTEGER NOT NULL,
        PRIMARY KEY (user_id, blocked_id)
    ) STRICT, WITHOUT ROWID;
    """,
)

# Deletions take a bounded number of rows, so that no commit is held up.
CHUNK = 500

# Conditions; `{}` is a column or a parameter.
_IS_FULL = "((SELECT count(*) FROM friend_links WHERE user_id = {}) >= :max_friends)"
_BLOCKS = "EXISTS (SELECT 1 FROM friend_blocks WHERE user_id = {} AND blocked_id = {})"
_ARE_FRIENDS = "EXISTS (SELECT 1 FROM friend_links WHERE user_id = :me AND friend_id = :other)"
_OTHER_ASKS = "sender = :other AND recipient = :me AND state = 'pending' AND expires_at > :now"
_OUT_FULL = (
    "((SELECT count(*) FROM friend_requests WHERE sender = :me AND state = 'pending' AND expires_at > :now) >= :max_pending)"
)
# Requests of those whom the recipient blocks are not shown, so they take nobody's place.
_IN_FULL = (
    "((SELECT count(*) FROM friend_requests r WHERE r.recipient = :other AND r.state = 'pending' AND r.expires_at > :now"
    f" AND NOT {_BLOCKS.format('r.recipient', 'r.sender')}) >= :max_pending)"
)


class Database(Protocol):
    """What is used of `ctx.db`."""

    async def read(self, sql: str, params: Mapping[str, Any] = ..., /) -> list[Row]:
        """Committed rows."""

    def write_all(self, statements: Sequence[Statement], /) -> Awaitable[list[list[Row]]]:
        """Joins the open commit; each statement's rows once it is durable. All or none."""


# ---------------------------------------------------------------- requests


@frozen
class NewRequest:
    """What FRIEND_REQUEST wants to store."""

    request_id: str
    sender: str
    recipient: str
    message: str
    now_ms: int
    expires_at: int


@frozen
class Requested:
    """What came of it, and if nothing did, why.

    accepted: the id of the other's request, which this one crosses and has accepted.
    pending: the id of the one that waits for the other's answer: the new one, or one from before.
    """

    accepted: str | None
    pending: str | None
    are_friends: bool
    #: The sender blocks the recipient.
    blocks: bool
    #: The recipient blocks the sender.
    is_blocked: bool
    #: The other's request waits; it could not be accepted, as one of the two has too many friends.
    other_asks: bool


def request(new: NewRequest, *, max_friends: int, max_pending: int) -> list[Statement]:
    """Accept the other's request if there is one, else store this one; see `requested` for what comes of it."""
    params = {
        "id": new.request_id,
        "me": new.sender,
        "other": new.recipient,
        "message": new.message,
        "now": new.now_ms,
        "expires_at": new.expires_at,
        "max_friends": max_friends,
        "max_pending": max_pending,
    }
    me_blocks, other_blocks = _BLOCKS.format(":me", ":other"), _BLOCKS.format(":other", ":me")
    crossing = (
        f"UPDATE friend_requests SET state = 'accepted', answered_at = :now WHERE {_OTHER_ASKS}"
        f" AND NOT {me_blocks} AND NOT {_IS_FULL.format(':me')} AND NOT {_IS_FULL.format(':other')} RETURNING request_id"
    )
    store = (
        "INSERT INTO friend_requests (request_id, sender, recipient, message, state, created_at, expires_at)"
        " SELECT :id, :me, :other, :message, 'pending', :now, :expires_at"
        f" WHERE NOT {_ARE_FRIENDS} AND NOT {me_blocks}"
        f" AND NOT EXISTS (SELECT 1 FROM friend_requests WHERE {_OTHER_ASKS}) AND NOT {_OUT_FULL} AND NOT {_IN_FULL}"
        " ON CONFLICT (sender, recipient) DO UPDATE SET request_id = excluded.request_id, message = excluded.message,"
        " state = 'pending', created_at = excluded.created_at, expires_at = excluded.expires_at, answered_at = NULL"
        " WHERE friend_requests.state <> 'pending' OR friend_requests.expires_at <= :now"
    )
    look = (
        f"SELECT {_ARE_FRIENDS}, {me_blocks}, {other_blocks},"
        f" EXISTS (SELECT 1 FROM friend_requests WHERE {_OTHER_ASKS}),"
        " (SELECT request_id FROM friend_requests"
        "  WHERE sender = :me AND recipient = :other AND state = 'pending' AND expires_at > :now)"
    )
    return [(crossing, params), (store, params), (look, params)]


def requested(results: Sequence[Sequence[Row]]) -> Requested:
    """What came of the statements of `request`."""
    crossed, _, ((are_friends, blocks, is_blocked, other_asks, pending),) = results
    accepted = crossed[0][0] if crossed else None
    return Requested(accepted, pending, bool(are_friends), bool(blocks), bool(is_blocked), bool(other_asks))


@frozen
class Answered:
    """What came of an answer.

    sender: whose request it is; None: there is no such request, or it is hidden or over.
    is_new: this answer counted.
    state: the request's.
    """

    sender: str | None
    is_new: bool
    state: str


def answer(request_id: str, recipient: str, state: str, *, now_ms: int, max_friends: int) -> list[Statement]:
    """Accept or decline a request that the recipient was sent; see `answered` for what comes of it."""
    params = {"id": request_id, "me": recipient, "state": state, "now": now_ms, "max_friends": max_friends}
    mine = f"request_id = :id AND recipient = :me AND expires_at > :now AND NOT {_BLOCKS.format(':me', 'sender')}"
    sql = f"UPDATE friend_requests SET state = :state, answered_at = :now WHERE {mine} AND state = 'pending'"
    if state == ACCEPTED:
        sql += f" AND NOT {_IS_FULL.format(':me')} AND NOT {_IS_FULL.format('sender')}"
    return [
        (f"{sql} RETURNING request_id", params),
        (f"SELECT sender, state FROM friend_requests WHERE {mine}", params),
    ]


def answered(results: Sequence[Sequence[Row]]) -> Answered:
    """What came of the statements of `answer`."""
    changed, found = results
    sender, state = found[0] if found else (None, "")
    return Answered(sender, bool(changed), state)


@frozen
class RequestRow:
    """A request in a list; `user_id` is the other one."""

    request_id: str
    user_id: str
    message: str
    state: str
    created_at: int
    answered_at: int | None


async def list_requests(
    db: Database, user_id: str, *, incoming: bool, state: str | None, before_id: str, now_ms: int, limit: int
) -> list[RequestRow]:
    """Some of a user's requests, the newest first; those of users who are blocked are left out."""
    own, other = ("recipient", "sender") if incoming else ("sender", "recipient")
    sql = (
        f"SELECT request_id, {other}, message, state, created_at, answered_at FROM friend_requests"
        f" WHERE {own} = :me AND expires_at > :now"
    )
    if incoming:
        sql += f" AND NOT {_BLOCKS.format(':me', 'sender')}"
    if state is not None:
        sql += " AND state = :state"
    if before_id:
        sql += " AND request_id < :before"
    params = {"me": user_id, "now": now_ms, "state": state, "before": before_id, "limit": limit}
    return [RequestRow(*row) for row in await db.read(f"{sql} ORDER BY request_id DESC LIMIT :limit", params)]


def forget_expired(now_ms: int) -> list[Statement]:
    """Drop requests whose time is over, a bounded number; returns a row each."""
    sql = (
        "DELETE FROM friend_requests WHERE request_id IN"
        " (SELECT request_id FROM friend_requests WHERE expires_at <= :now LIMIT :chunk) RETURNING request_id"
    )
    return [(sql, {"now": now_ms, "chunk": CHUNK})]


# ---------------------------------------------------------------- friends


@frozen
class Friend:
    """A friend in a list; `blocks` tells whether the friend blocks the user whose list it is."""

    user_id: str
    since: int
    remark: str | None
    blocks: bool


async def list_friends(db: Database, user_id: str, after_user_id: str, limit: int) -> list[Friend]:
    """Some of a user's friends, in the order of their ids."""
    rows = await db.read(
        f"SELECT friend_id, since, remark, {_BLOCKS.format('friend_id', 'l.user_id')} FROM friend_links l"
        " WHERE l.user_id = :me AND friend_id > :after ORDER BY friend_id LIMIT :limit",
        {"me": user_id, "after": after_user_id, "limit": limit},
    )
    return [Friend(row[0], row[1], row[2], bool(row[3])) for row in rows]


def delete_friend(user_id: str, friend_id: str) -> list[Statement]:
    """End a friendship; the first statement returns rows if there was one."""
    params = {"me": user_id, "other": friend_id}
    pair = "({0} = :me AND {1} = :other OR {0} = :other AND {1} = :me)"
    return [
        (f"DELETE FROM friend_links WHERE {pair.format('user_id', 'friend_id')} RETURNING user_id", params),
        # That one was accepted says nothing any more.
        (f"DELETE FROM friend_requests WHERE {pair.format('sender', 'recipient')} AND state = 'accepted'", params),
    ]


def set_remark(user_id: str, friend_id: str, remark: str | None) -> list[Statement]:
    """What a user calls a friend; returns a row if they are friends."""
    sql = "UPDATE friend_links SET remark = :remark WHERE user_id = :me AND friend_id = :other RETURNING friend_id"
    return [(sql, {"me": user_id, "other": friend_id, "remark": remark})]


# ---------------------------------------------------------------- blocks


def block(user_id: str, blocked_id: str, *, now_ms: int, max_blocked: int) -> list[Statement]:
    """Block a user, and take back what was asked of them.

    The first statement returns a row if that is new, the second (1,) if it is so at the end, else (0,).
    """
    params = {"me": user_id, "other": blocked_id, "now": now_ms, "max_blocked": max_blocked}
    is_blocked = _BLOCKS.format(":me", ":other")
    return [
        (
            "INSERT INTO friend_blocks (user_id, blocked_id, since) SELECT :me, :other, :now"
            " WHERE (SELECT count(*) FROM friend_blocks WHERE user_id = :me) < :max_blocked"
            " ON CONFLICT DO NOTHING RETURNING blocked_id",
            params,
        ),
        (f"SELECT {is_blocked}", params),
        (
            f"DELETE FROM friend_requests WHERE sender = :me AND recipient = :other AND state = 'pending' AND {is_blocked}",
            params,
        ),
    ]


def unblock(user_id: str, blocked_id: str) -> list[Statement]:
    """Block a user no more."""
    sql = "DELETE FROM friend_blocks WHERE user_id = :me AND blocked_id = :other"
    return [(sql, {"me": user_id, "other": blocked_id})]


async def list_blocked(db: Database, user_id: str, after_user_id: str, limit: int) -> list[Row]:
    """(user_id, since) of some of those whom a user blocks, in the order of their ids."""
    return await db.read(
        "SELECT blocked_id, since FROM friend_blocks WHERE user_id = :me AND blocked_id > :after"
        " ORDER BY blocked_id LIMIT :limit",
        {"me": user_id, "after": after_user_id, "limit": limit},
    )


async def blockers_of(db: Database, blocked_id: str, user_ids: Sequence[str]) -> list[str]:
    """Who of these users blocks that one."""
    rows = await db.read(
        "SELECT user_id FROM friend_blocks WHERE blocked_id = :blocked AND user_id IN (SELECT value FROM json_each(:users))",
        {"blocked": blocked_id, "users": json.dumps(list(user_ids))},
    )
    return [user_id for (user_id,) in rows]


async def look(db: Database, sender: str, recipient: str) -> tuple[bool, bool]:
    """Whether the recipient blocks the sender, and whether they are friends."""
    rows = await db.read(f"SELECT {_BLOCKS.format(':other', ':me')}, {_ARE_FRIENDS}", {"me": sender, "other": recipient})
    return bool(rows[0][0]), bool(rows[0][1])
