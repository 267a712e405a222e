"""Which users are bots, the incoming webhooks, how far the messages were read for commands; and all SQL of this plugin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
Read = Callable[..., list[Row]]

MIGRATIONS: Final = (
    """
    -- since: the newest message when the user became a bot; commands from before are none. created_at: ms since the epoch
    CREATE TABLE bots (user_id TEXT NOT NULL PRIMARY KEY, since INTEGER NOT NULL, created_at INTEGER NOT NULL) STRICT;

    -- Messages up to this id were looked at for commands. One row.
    CREATE TABLE bot_progress (one INTEGER PRIMARY KEY CHECK (one = 1), through INTEGER NOT NULL) STRICT;
    INSERT INTO bot_progress VALUES (1, 0);

    -- secret_hash: SHA-256
    CREATE TABLE bot_hooks (
        hook_id TEXT NOT NULL PRIMARY KEY, secret_hash BLOB NOT NULL, conversation_id TEXT NOT NULL, user_id TEXT NOT NULL,
        created_at INTEGER NOT NULL, revoked_at INTEGER
    ) STRICT;
    """,
)

#: Messages that one step goes over, and the longest text that may be a command.
SCANNED: Final = 500
MAX_COMMAND_BYTES: Final = 4096


@frozen
class Candidate:
    """A text message that may be a command."""

    message_id: int
    conversation_id: str
    seq: int
    sender: str
    body: bytes
    bots: tuple[str, ...]


@frozen
class Hook:
    """An incoming webhook that is good."""

    secret_hash: bytes
    conversation_id: str
    user_id: str


def hash_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def candidates(read: Read) -> tuple[list[Candidate], int, bool]:
    """The next messages that may be commands for bots; how far the look went, and whether there is more."""
    begins = read("SELECT max(through, (SELECT min(since) FROM bots)) FROM bot_progress WHERE EXISTS (SELECT 1 FROM bots)")
    if not begins:
        return [], 0, False
    after = begins[0][0]
    count, last = read(
        "SELECT count(*), max(id) FROM (SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT ?)", (after, SCANNED)
    )[0]
    if not count:
        return [], 0, False
    rows = read(
        # A MessagePack string has a head of one to three bytes; what follows is the text.
        "SELECT m.id, c.conversation_id, m.seq, m.sender, m.body, m.conversation FROM messages AS m "
        "JOIN conversations AS c ON c.number = m.conversation WHERE m.id > ? AND m.id <= ? AND m.type = 'text' "
        "AND length(m.body) <= ? AND instr(substr(m.body, 1, 4), x'2f') ORDER BY m.id",
        (after, last, MAX_COMMAND_BYTES),
    )
    found = []
    for message_id, conversation_id, seq, sender, body, number in rows:
        bots = read(
            "SELECT b.user_id FROM members AS m JOIN bots AS b ON b.user_id = m.user_id "
            "WHERE m.conversation = ? AND m.user_id <> ? AND b.since < ? ORDER BY b.user_id",
            (number, sender, message_id),
        )
        if bots:
            found.append(Candidate(message_id, conversation_id, seq, sender, body, tuple(row[0] for row in bots)))
    return found, last, count == SCANNED


def advance(through: int) -> Statement:
    """Messages up to here were looked at."""
    return "UPDATE bot_progress SET through = ? WHERE one = 1", (through,)


def hook(read: Read, hook_id: str) -> Hook | None:
    """An incoming webhook; None: there is none, or no longer, or its bot may do nothing."""
    rows = read(
        "SELECT h.secret_hash, h.conversation_id, h.user_id FROM bot_hooks AS h JOIN users AS u ON u.user_id = h.user_id "
        "WHERE h.hook_id = ? AND h.revoked_at IS NULL AND NOT u.disabled",
        (hook_id,),
    )
    return Hook(*rows[0]) if rows else None


IS_BOT: Final = "SELECT count(*) FROM bots WHERE user_id = ?"

# ---------------------------------------------------------------- the command line

USER_EXISTS: Final = "SELECT count(*) FROM users WHERE user_id = ?"
CONVERSATION_EXISTS: Final = """
    SELECT count(*) FROM conversations AS c JOIN members AS m ON m.conversation = c.number
    WHERE c.conversation_id = ? AND m.user_id = ?"""
ADD: Final = "INSERT OR IGNORE INTO bots SELECT ?, coalesce(max(id), 0), ? FROM messages"
REMOVE: Final = "DELETE FROM bots WHERE user_id = ? RETURNING user_id"
BOTS: Final = "SELECT user_id, created_at FROM bots ORDER BY user_id"
ADD_HOOK: Final = "INSERT INTO bot_hooks VALUES (?, ?, ?, ?, ?, NULL)"
REVOKE_HOOK: Final = "UPDATE bot_hooks SET revoked_at = ? WHERE hook_id = ? AND revoked_at IS NULL RETURNING hook_id"
HOOKS: Final = "SELECT hook_id, conversation_id, user_id, created_at, revoked_at FROM bot_hooks ORDER BY created_at, hook_id"
