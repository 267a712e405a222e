"""The tables, by migrations: never change one that was released, add another."""

from __future__ import annotations

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
