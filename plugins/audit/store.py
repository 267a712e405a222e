"""The table, and all SQL of this plugin.

What changes users and API keys is noticed by triggers: so it is in the log whoever changed it, the command line included,
and in the same commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from imserver_plugins.audit.chain import GENESIS, Entry, Head

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
Read = Callable[..., list[Row]]

_NOW: Final = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"

MIGRATIONS: Final = (
    f"""
    -- at: milliseconds since the Unix epoch; fields: a JSON object; hash: see chain.py, NULL for about a second
    CREATE TABLE audit_log (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, event TEXT NOT NULL, fields TEXT NOT NULL, hash BLOB
    ) STRICT;
    CREATE INDEX audit_log_unsealed ON audit_log (id) WHERE hash IS NULL;

    -- Against accidents: who can write the file can drop these, and is found out by the hashes.
    CREATE TRIGGER audit_log_stays BEFORE DELETE ON audit_log BEGIN
        SELECT RAISE(ABORT, 'the audit log is never shortened');
    END;
    CREATE TRIGGER audit_log_is_fixed BEFORE UPDATE ON audit_log
        WHEN OLD.hash IS NOT NULL OR NEW.id <> OLD.id OR NEW.at <> OLD.at OR NEW.event <> OLD.event
            OR NEW.fields <> OLD.fields BEGIN
        SELECT RAISE(ABORT, 'the audit log is never changed');
    END;

    CREATE TRIGGER audit_user_created AFTER INSERT ON users BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW}, 'user_created',
            json_object('user_id', NEW.user_id, 'roles', json(NEW.roles)));
    END;
    CREATE TRIGGER audit_user_disabled AFTER UPDATE OF disabled ON users WHEN NEW.disabled <> OLD.disabled BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW},
            CASE WHEN NEW.disabled THEN 'user_archived' ELSE 'user_updated' END,
            json_object('user_id', NEW.user_id, 'disabled', json(CASE WHEN NEW.disabled THEN 'true' ELSE 'false' END)));
    END;
    CREATE TRIGGER audit_user_roles AFTER UPDATE OF roles ON users WHEN NEW.roles <> OLD.roles BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW}, 'privilege_permissions_changed',
            json_object('user_id', NEW.user_id, 'before', json(OLD.roles), 'after', json(NEW.roles)));
    END;
    CREATE TRIGGER audit_user_sessions AFTER UPDATE OF tokens_from_ms ON users
        WHEN NEW.tokens_from_ms <> OLD.tokens_from_ms BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW}, 'authn_token_revoked',
            json_object('user_id', NEW.user_id, 'sessions', 'all'));
    END;
    CREATE TRIGGER audit_user_deleted AFTER DELETE ON users BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW}, 'user_deleted', json_object('user_id', OLD.user_id));
    END;
    CREATE TRIGGER audit_key_created AFTER INSERT ON user_api_keys BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW}, 'authn_token_created',
            json_object('key', NEW.name, 'key_id', NEW.key_id, 'scopes', json(NEW.scopes)));
    END;
    CREATE TRIGGER audit_key_revoked AFTER UPDATE OF revoked_at ON user_api_keys
        WHEN NEW.revoked_at IS NOT NULL AND OLD.revoked_at IS NULL BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW}, 'authn_token_revoked',
            json_object('key', NEW.name, 'key_id', NEW.key_id));
    END;
    """,
    f"""
    -- Whoever sets it: the user, the command line, a login that renews an old hash, somebody who writes the file.
    CREATE TRIGGER audit_user_password AFTER UPDATE OF password ON users WHEN NEW.password IS NOT OLD.password BEGIN
        INSERT INTO audit_log (at, event, fields) VALUES ({_NOW}, 'user_updated',
            json_object('user_id', NEW.user_id, 'changed', 'password'));
    END;
    """,
)

_COLUMNS: Final = "id, at, event, fields, hash"


def add(at_ms: int, event: str, fields: str) -> Statement:
    """A new entry."""
    return "INSERT INTO audit_log (at, event, fields) VALUES (?, ?, ?)", (at_ms, event, fields)


def head(read: Read) -> Head:
    """The end of the chain."""
    rows = read("SELECT id, hash FROM audit_log WHERE hash IS NOT NULL ORDER BY id DESC LIMIT 1")
    return Head(*rows[0]) if rows else Head(0, GENESIS)


def unsealed(read: Read, limit: int) -> tuple[Head, list[Entry]]:
    """The end of the chain, and what comes behind it."""
    rows = read(f"SELECT {_COLUMNS} FROM audit_log WHERE hash IS NULL ORDER BY id LIMIT ?", (limit,))
    return head(read), [Entry(*row) for row in rows]


def seal(sealed: Sequence[tuple[int, bytes]]) -> list[Statement]:
    """Put the hashes in."""
    return [("UPDATE audit_log SET hash = ? WHERE id = ? AND hash IS NULL", (hash_, id_)) for id_, hash_ in sealed]


ALL: Final = f"SELECT {_COLUMNS} FROM audit_log ORDER BY id"

#: The newest entry that was ever written, also if it is there no more.
LAST_ID: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'audit_log'"

#: The newest first: an event or its beginning (`authn_*`), whoever is named in it, and so many.
CHOSEN: Final = f"""
    SELECT {_COLUMNS} FROM audit_log WHERE (?1 IS NULL OR event GLOB ?1) AND (?2 IS NULL OR EXISTS (
        SELECT 1 FROM json_each(fields) WHERE value = ?2)) AND id > ?3 ORDER BY id DESC LIMIT ?4"""
