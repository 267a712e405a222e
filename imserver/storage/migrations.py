"""Numbered SQL scripts, run at start in one transaction; a database newer than the program is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import apsw

from imserver.errors import StartError

#: "IMSV": tells our files from other programs' (PRAGMA application_id).
APPLICATION_ID = 0x494D5356

#: The tables of the core. The first script is number 1; never change a released one, add another.
CORE = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

    -- changed: the change number (a Snowflake) of the last change that is no new message
    CREATE TABLE conversations (
        number INTEGER PRIMARY KEY, conversation_id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, changed INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE members (
        conversation INTEGER NOT NULL, user_id TEXT NOT NULL, joined_seq INTEGER NOT NULL, read_seq INTEGER NOT NULL,
        hidden_seq INTEGER NOT NULL, changed INTEGER NOT NULL, PRIMARY KEY (conversation, user_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX members_by_user ON members (user_id, conversation);

    -- id: the Snowflake, so rows are appended in order; silent: 1 for what nobody's unread counts, else null
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, seq INTEGER NOT NULL, rev INTEGER NOT NULL,
        silent INTEGER, sender TEXT NOT NULL, client_id TEXT NOT NULL, type TEXT NOT NULL, body BLOB NOT NULL,
        expires_at INTEGER, extra BLOB
    ) STRICT;
    CREATE UNIQUE INDEX messages_in_order ON messages (conversation, seq);
    CREATE INDEX messages_silent ON messages (conversation, seq) WHERE silent IS NOT NULL;

    -- what a device has confirmed; written_at: milliseconds since the Unix epoch
    CREATE TABLE deliveries (
        user_id TEXT NOT NULL, device_id TEXT NOT NULL, conversation INTEGER NOT NULL, seq INTEGER NOT NULL,
        written_at INTEGER NOT NULL, PRIMARY KEY (user_id, device_id, conversation)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    -- entered_seq: the newest message when the member came; it is joined_seq, or that is 0: who came sees what was before
    ALTER TABLE members ADD COLUMN entered_seq INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN muted INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;

    -- who was removed, for their devices to be told; changed: the change number
    CREATE TABLE departures (
        user_id TEXT NOT NULL, conversation INTEGER NOT NULL, left_seq INTEGER NOT NULL, changed INTEGER NOT NULL,
        PRIMARY KEY (user_id, conversation)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX departures_in_order ON departures (user_id, changed);

    -- state: of a message that was changed since it came: see imserver/conversation.py, `State`. Its rev is no more in the
    -- order of seq then. A row whose content is deleted has expires_at 0.
    ALTER TABLE messages ADD COLUMN state BLOB;
    CREATE UNIQUE INDEX messages_changed ON messages (conversation, rev) WHERE state IS NOT NULL;
    CREATE INDEX messages_expiring ON messages (expires_at) WHERE expires_at > 0;
    """,
)


def migrate(connection: apsw.Connection, owners: Mapping[str, Sequence[str]]) -> None:
    """Bring the tables of each owner up to date.

    Args:
        owners: scripts by owner, "core" first, then plugins by name.

    Raises:
        StartError: the database was written by a newer program, or a released script was changed. Nothing is changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (owner TEXT NOT NULL, number INTEGER NOT NULL, "
            "checksum TEXT NOT NULL, PRIMARY KEY (owner, number)) STRICT, WITHOUT ROWID"
        )
        for owner, scripts in owners.items():
            _migrate_owner(connection, owner, scripts)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except BaseException:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


#: What an owner's scripts were, by number; and how one is noted.
DONE = "SELECT number, checksum FROM migrations WHERE owner = ?"
NOTE = "INSERT INTO migrations VALUES (?, ?, ?)"


def _migrate_owner(connection: apsw.Connection, owner: str, scripts: Sequence[str]) -> None:
    done = dict(connection.execute(DONE, (owner,)))
    for number, script, checksum in missing(owner, scripts, done, connection.db_filename("main")):
        connection.execute(script)
        connection.execute(NOTE, (owner, number, checksum))


def missing(owner: str, scripts: Sequence[str], done: Mapping[int, str], database: object) -> list[tuple[int, str, str]]:
    """The scripts that a database has not seen: (number, script, checksum) each.

    Args:
        done: the checksums of those that it has, by number.
        database: its name, for messages.

    Raises:
        StartError: it was written by a newer program, or a released script was changed.
    """
    found = []
    newest = max(done, default=0)
    if newest > len(scripts):
        raise StartError(
            f"the database {database} is newer than this program: its tables of `{owner}` are at "
            f"migration {newest}, this version knows {len(scripts)}. Run the newer version, or restore a backup from "
            f"before the upgrade."
        )
    for number, script in enumerate(scripts, start=1):
        checksum = hashlib.sha256(script.encode()).hexdigest()[:16]
        if number not in done:
            found.append((number, script, checksum))
        elif done[number] != checksum:
            raise StartError(
                f"migration {number} of `{owner}` is not the one that {database} was made with; a "
                f"released script must never change: add another one instead."
            )
    return found
