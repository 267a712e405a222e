"""What another process, the command line, has changed: the running server reads it about once a second."""

from __future__ import annotations

from imserver_plugins.user.store.statements import CHUNK, Database

#: In `user_changes`: not a user was changed but the API keys. No user id is empty.
KEYS_CHANGED = ""


async def last_change(db: Database) -> int:
    """The number of the newest change; 0: there was none."""
    rows = await db.read("SELECT coalesce(max(change_id), 0) FROM user_changes")
    return int(rows[0][0])


async def changes_after(db: Database, change_id: int) -> list[tuple[int, str]]:
    """(change_id, user_id) of the changes since, oldest first, at most 500."""
    rows = await db.read(
        f"SELECT change_id, user_id FROM user_changes WHERE change_id > ? ORDER BY change_id LIMIT {CHUNK}",
        (change_id,),
    )
    return [(row[0], row[1]) for row in rows]
