"""Devices to push to, pushes that wait, and all SQL of this plugin.

What is to be pushed is found in the table of messages: their ids, Snowflakes, are in the order of commits, so how far that
has come is one number. A message costs nothing until its recipients have had their time to confirm it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
Read = Callable[..., list[Row]]

MIGRATIONS: Final = (
    """
    -- Devices. session_id, device_id: who registered it; device_id is empty where the client named none.
    -- registered_at: milliseconds since the Unix epoch
    CREATE TABLE push_tokens (
        provider TEXT NOT NULL, token TEXT NOT NULL, app TEXT NOT NULL, user_id TEXT NOT NULL, session_id TEXT NOT NULL,
        device_id TEXT NOT NULL, registered_at INTEGER NOT NULL, PRIMARY KEY (provider, token)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX push_tokens_by_user ON push_tokens (user_id);

    -- Pushes that wait: of a conversation the newest message alone. made_at: when that was sent; due_at: the next try;
    -- done: a JSON list of the tokens that have got it
    CREATE TABLE push_jobs (
        user_id TEXT NOT NULL, conversation INTEGER NOT NULL, provider TEXT NOT NULL, seq INTEGER NOT NULL,
        made_at INTEGER NOT NULL, due_at INTEGER NOT NULL, failures INTEGER NOT NULL, done TEXT NOT NULL,
        PRIMARY KEY (user_id, conversation, provider)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX push_jobs_due ON push_jobs (provider, due_at);
    CREATE INDEX push_jobs_by_age ON push_jobs (made_at);

    -- One row: messages up to `through` were looked at.
    CREATE TABLE push_progress (one INTEGER PRIMARY KEY CHECK (one = 1), through INTEGER NOT NULL) STRICT;
    """,
    """
    -- stored: 1 if the session has a row of its own, and so ends with that; 0: it came by an integrator's token, say
    ALTER TABLE push_tokens ADD COLUMN stored INTEGER NOT NULL DEFAULT 0;
    """,
)

#: Messages that one look goes over, and pushes that one write puts in.
SCANNED: Final = 1000
CHUNK: Final = 500

# The layout of a Snowflake: wire protocol, section 3.
_EPOCH_MS: Final = 1_704_067_200_000
_TIME_SHIFT: Final = 22


def first_id_at(time_ms: int) -> int:
    """No message from before this time has this id or a larger one."""
    return max(0, time_ms - _EPOCH_MS) << _TIME_SHIFT


def time_of(message_id: int) -> int:
    """When a message was sent."""
    return (message_id >> _TIME_SHIFT) + _EPOCH_MS


# ---------------------------------------------------------------- devices


@frozen
class Token:
    """A device to push to."""

    provider: str
    token: str
    app: str
    registered_at: int


# Of a row `t`: its session has not ended, in whatever way and whether or not anybody could say so: a password was changed,
# another device has taken its place, its time is over, the command line has locked the user out.
_IS_GOOD: Final = (
    "(t.stored = 0 OR EXISTS (SELECT 1 FROM user_sessions AS s WHERE s.session_id = t.session_id AND s.revoked = 0)) "
    "AND NOT EXISTS (SELECT 1 FROM users AS u WHERE u.user_id = t.user_id "
    "AND (u.disabled = 1 OR (t.stored = 0 AND u.tokens_from_ms > t.registered_at)))"
)


def set_token(user_id: str, session_id: str, device_id: str, token: Token, max_devices: int) -> list[Statement]:
    """Register a device, in place of what it had registered before; whoever has registered this token last has it.

    Args:
        session_id: "" if there is none: an API key registers many devices.
        device_id: "" if the client has named none.
    """
    return [
        (
            "DELETE FROM push_tokens WHERE user_id = ?1 AND provider = ?2 AND app = ?3 AND token <> ?4 "
            "AND ((session_id <> '' AND session_id = ?5) OR (device_id <> '' AND device_id = ?6))",
            (user_id, token.provider, token.app, token.token, session_id, device_id),
        ),
        (
            "INSERT OR REPLACE INTO push_tokens "
            "(provider, token, app, user_id, session_id, device_id, registered_at, stored) "
            "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, EXISTS (SELECT 1 FROM user_sessions WHERE session_id = ?5)",
            (token.provider, token.token, token.app, user_id, session_id, device_id, token.registered_at),
        ),
        # What is silent anyway takes nobody's place.
        forget_ended(user_id),
        (
            "DELETE FROM push_tokens WHERE user_id = ?1 AND (provider, token) NOT IN (SELECT provider, token "
            "FROM push_tokens WHERE user_id = ?1 ORDER BY registered_at DESC, token = ?2 DESC LIMIT ?3)",
            (user_id, token.token, max_devices),
        ),
    ]


def forget_ended(user_id: str) -> Statement:
    """Forget the user's devices whose session has ended without a word."""
    return f"DELETE FROM push_tokens AS t WHERE user_id = ? AND NOT ({_IS_GOOD})", (user_id,)


def remove_token(user_id: str, token: str) -> Statement:
    """Forget one device of a user."""
    return "DELETE FROM push_tokens WHERE user_id = ? AND token = ?", (user_id, token)


def remove_tokens_of(user_id: str, session_id: str, device_id: str) -> Statement:
    """Forget what one device has registered."""
    return (
        "DELETE FROM push_tokens WHERE user_id = ?1 "
        "AND ((session_id <> '' AND session_id = ?2) OR (device_id <> '' AND device_id = ?3))",
        (user_id, session_id, device_id),
    )


def end_sessions(user_id: str, session_ids: Iterable[str] | None, device_ids: Iterable[str] = ()) -> list[Statement]:
    """Forget the devices of sessions that have ended; None: of all of a user's.

    Args:
        device_ids: those that the sessions named. A session without a row is a new one at each connection, so the device
            may have registered in an earlier one.
    """
    if session_ids is None:
        return [("DELETE FROM push_tokens WHERE user_id = ?", (user_id,))]
    return [
        *(
            ("DELETE FROM push_tokens WHERE user_id = ? AND session_id = ?", (user_id, session_id))
            for session_id in session_ids
        ),
        *(
            ("DELETE FROM push_tokens WHERE user_id = ? AND device_id = ? AND stored = 0", (user_id, device_id))
            for device_id in device_ids
        ),
    ]


def bury(token: Token) -> Statement:
    """Forget a device that is no more, unless it has registered again since."""
    return (
        "DELETE FROM push_tokens WHERE provider = ? AND token = ? AND registered_at = ?",
        (token.provider, token.token, token.registered_at),
    )


def has_tokens(read: Read, providers: Sequence[str]) -> bool:
    """Whether there is anybody to push to."""
    marks = ",".join("?" * len(providers))
    return bool(read(f"SELECT 1 FROM push_tokens WHERE provider IN ({marks}) LIMIT 1", providers))


# ---------------------------------------------------------------- what to push


@frozen
class Unconfirmed:
    """The newest message of a conversation that a user has not confirmed in time; one for each way to reach the user."""

    user_id: str
    number: int
    provider: str
    seq: int
    made_at: int
    is_new: bool


@frozen
class Look:
    """Some of what lies behind the progress: what is to be pushed of it, and how far it was looked at."""

    found: list[Unconfirmed]
    through: int
    #: There is more behind `through`.
    has_more: bool
    #: Pushes that wait already.
    waiting: int


def progress(read: Read) -> tuple[int, bool]:
    """How far it was looked at, and whether that is stored; for the first time it is everything that there is."""
    rows = read("SELECT through FROM push_progress")
    return (rows[0][0], True) if rows else (read("SELECT coalesce(max(id), 0) FROM messages")[0][0], False)


def newest(read: Read, before: int = 2**63 - 1) -> int:
    """The largest id of a message below `before`; 0: there is none."""
    return read("SELECT coalesce(max(id), 0) FROM messages WHERE id < ?", (before,))[0][0] or 0


def advance(through: int) -> Statement:
    """It has come so far."""
    return "INSERT OR REPLACE INTO push_progress VALUES (1, ?)", (through,)


# One statement, since it runs beside the shards: a thread that comes back from SQLite often would often be in their way.
# `newest`: of each conversation the newest message; by then its sender has read what was before. `t.user_id` in the last
# condition: it is asked of those alone who can be reached.
_LOOK: Final = """
    WITH newest AS (
        SELECT conversation, max(seq) AS seq, sender, id FROM messages
        WHERE id > ?1 AND id <= ?2 AND silent IS NULL AND (expires_at IS NULL OR expires_at > ?3) GROUP BY conversation
    )
    SELECT m.user_id, n.conversation, t.provider, n.seq, n.id, NOT EXISTS (
        SELECT 1 FROM push_jobs AS j
        WHERE j.user_id = m.user_id AND j.conversation = n.conversation AND j.provider = t.provider
    )
    FROM newest AS n CROSS JOIN members AS m ON m.conversation = n.conversation
    CROSS JOIN push_tokens AS t ON t.user_id = m.user_id
    WHERE m.muted = 0 AND m.user_id <> n.sender AND max(m.read_seq, m.joined_seq, m.hidden_seq, m.entered_seq) < n.seq
    AND t.provider IN (SELECT value FROM json_each(?4)) AND NOT EXISTS (
        SELECT 1 FROM deliveries AS d WHERE d.user_id = t.user_id AND d.conversation = n.conversation AND d.seq >= n.seq
    )
    GROUP BY m.user_id, n.conversation, t.provider"""


def look(read: Read, providers: Sequence[str], after: int, before: int, now_ms: int) -> Look:
    """What is to be pushed by these providers of the next messages: after < id < before."""
    count, through = read(
        "SELECT count(*), max(id) FROM (SELECT id FROM messages WHERE id > ? AND id < ? ORDER BY id LIMIT ?)",
        (after, before, SCANNED),
    )[0]
    if not count:
        return Look([], after, False, 0)
    rows = read(_LOOK, (after, through, now_ms, json.dumps(list(providers))))
    found = [
        Unconfirmed(user_id, number, provider, seq, time_of(message_id), bool(is_new))
        for user_id, number, provider, seq, message_id, is_new in rows
    ]
    waiting = read("SELECT count(*) FROM push_jobs")[0][0] if found else 0
    return Look(found, through, count == SCANNED, waiting)


def put(one: Unconfirmed, now_ms: int) -> Statement:
    """Let a push wait, in place of an older one of the conversation; unless it was confirmed by now."""
    return (
        "INSERT INTO push_jobs (user_id, conversation, provider, seq, made_at, due_at, failures, done) "
        "SELECT ?1, ?2, ?3, ?4, ?5, ?6, 0, '[]' WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE user_id = ?1 "
        "AND conversation = ?2 AND seq >= ?4) "
        "ON CONFLICT DO UPDATE SET seq = excluded.seq, made_at = excluded.made_at, due_at = excluded.due_at, done = '[]' "
        "WHERE excluded.seq > seq",
        (one.user_id, one.number, one.provider, one.seq, one.made_at, now_ms),
    )


def drop_oldest(count: int) -> Statement:
    """Make room; returns a row for each that went."""
    return (
        "DELETE FROM push_jobs WHERE (user_id, conversation, provider) IN (SELECT user_id, conversation, provider "
        "FROM push_jobs ORDER BY made_at LIMIT ?) RETURNING seq",
        (count,),
    )


# ---------------------------------------------------------------- pushes that wait


@frozen
class Job:
    """A push that waits."""

    user_id: str
    number: int
    provider: str
    seq: int
    made_at: int
    failures: int
    #: A JSON list.
    done: str


@frozen
class Plan:
    """What a job comes to now; `seq` None: to nothing. `tokens`: all of the user's devices with this provider."""

    job: Job
    tokens: list[Token]
    conversation_id: str = ""
    seq: int | None = None
    unread: int = 0
    badge: int = 0
    names: Mapping[str, str] = {}


def plans(read: Read, provider: str, now_ms: int, limit: int) -> list[Plan]:
    """What is due for a provider, longest due first, as things stand in this one read transaction."""
    rows = read(
        "SELECT user_id, conversation, provider, seq, made_at, failures, done FROM push_jobs "
        "WHERE provider = ? AND due_at <= ? ORDER BY due_at LIMIT ?",
        (provider, now_ms, limit),
    )
    jobs = [Job(*row) for row in rows]
    users = sorted({job.user_id for job in jobs})
    standings = {user_id: _Standing.of(read, user_id, own) for user_id, own in _own_messages(read, users).items()}
    tokens: dict[str, list[Token]] = {user_id: _tokens(read, user_id, provider) for user_id in users}
    return [_plan(read, job, tokens[job.user_id], standings[job.user_id], now_ms) for job in jobs]


def _tokens(read: Read, user_id: str, provider: str) -> list[Token]:
    """Of sessions that have not ended."""
    rows = read(
        "SELECT provider, token, app, registered_at FROM push_tokens AS t "
        f"WHERE user_id = ? AND provider = ? AND {_IS_GOOD}",
        (user_id, provider),
    )
    return [Token(*row) for row in rows]


def _own_messages(read: Read, users: Sequence[str]) -> dict[str, dict[int, int]]:
    """By user and conversation the newest message of one's own that `members.read_seq` may not have yet."""
    own: dict[str, dict[int, int]] = {user_id: {} for user_id in users}
    if users:
        rows = read(
            "SELECT sender, conversation, max(seq) FROM messages WHERE id > "
            "coalesce((SELECT value FROM meta WHERE key = 'folded'), 0) "
            f"AND sender IN ({','.join('?' * len(users))}) GROUP BY sender, conversation",
            users,
        )
        for sender, number, seq in rows:
            own[sender][number] = seq
    return own


@frozen
class _Standing:
    """How things stand for a user in the conversations that are not muted, by number: from where unread counts, and how
    many messages that are; and all of those together.
    """

    starts: Mapping[int, tuple[int, int]]
    badge: int

    @classmethod
    def of(cls, read: Read, user_id: str, own: Mapping[int, int]) -> _Standing:
        """Counted as SYNC counts (wire protocol, section 4, "Unread")."""
        rows = read(
            "SELECT m.conversation, max(m.read_seq, m.joined_seq, m.hidden_seq), "
            "coalesce((SELECT max(seq) FROM messages WHERE conversation = m.conversation), 0) "
            "FROM members AS m WHERE m.user_id = ? AND m.muted = 0",
            (user_id,),
        )
        starts = {}
        badge = 0
        for number, start, last_seq in rows:
            start = max(start, own.get(number, 0))
            unread = max(0, last_seq - start)
            if unread:
                unread -= read(
                    "SELECT coalesce(sum(min(silent, seq - ?2)), 0) FROM messages "
                    "WHERE conversation = ?1 AND seq > ?2 AND silent IS NOT NULL",
                    (number, start),
                )[0][0]
            starts[number] = (start, unread)
            badge += unread
        return cls(starts, badge)


def _plan(read: Read, job: Job, tokens: list[Token], standing: _Standing, now_ms: int) -> Plan:
    standing_here = standing.starts.get(job.number)
    if not tokens or standing_here is None:
        return Plan(job, tokens)  # nobody to tell; or muted, or left, by now
    start, unread = standing_here
    conversation_id, entered_seq = read(
        "SELECT c.conversation_id, m.entered_seq FROM members AS m JOIN conversations AS c ON c.number = m.conversation "
        "WHERE m.conversation = ? AND m.user_id = ?",
        (job.number, job.user_id),
    )[0]
    confirmed = read(
        "SELECT coalesce(max(seq), 0) FROM deliveries WHERE user_id = ? AND conversation = ?", (job.user_id, job.number)
    )[0][0]
    found = read(
        "SELECT seq, sender FROM messages WHERE conversation = ? AND seq > ? AND seq <= ? AND silent IS NULL "
        "AND sender <> ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq DESC LIMIT 1",
        (job.number, max(start, entered_seq, confirmed), job.seq, job.user_id, now_ms),
    )
    if not found:
        return Plan(job, tokens)  # read, confirmed, recalled or over by now
    seq, sender = found[0]
    names: dict[str, str] = dict(read("SELECT user_id, nickname FROM users WHERE user_id = ?", (sender,)))
    return Plan(job, tokens, conversation_id, seq, unread, standing.badge, names)


def finish(job: Job) -> Statement:
    """A push waits no more, unless a newer message has come."""
    return (
        "DELETE FROM push_jobs WHERE user_id = ? AND conversation = ? AND provider = ? AND seq = ?",
        (job.user_id, job.number, job.provider, job.seq),
    )


def postpone(job: Job, due_at: int, failures: int, done: str) -> Statement:
    """A push waits for another try, unless a newer message has come, which has its own."""
    return (
        "UPDATE push_jobs SET due_at = ?, failures = ?, done = ? "
        "WHERE user_id = ? AND conversation = ? AND provider = ? AND seq = ?",
        (due_at, failures, done, job.user_id, job.number, job.provider, job.seq),
    )


def drop_of_others(providers: Sequence[str], before_ms: int) -> Statement:
    """Drop what waits for providers that are not there, once it is too old."""
    marks = ",".join("?" * len(providers))
    return f"DELETE FROM push_jobs WHERE provider NOT IN ({marks}) AND made_at < ?", (*providers, before_ms)
