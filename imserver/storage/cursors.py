"""Read cursors that own messages moved: memory knows them at once, the table of members in steps.

Up to a Snowflake, the **fold**, the table has them all; from there on they are worked out from the messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imserver.storage.database import Query

# Statements take a bounded number of parameters.
_CURSORS_PER_STATEMENT = 5000


def folded(query: Query) -> int:
    """Up to this Snowflake, every sender's own messages are in the table of members."""
    rows = query("SELECT value FROM meta WHERE key = 'folded'")
    return int(rows[0][0]) if rows else 0


def cursor_statements(rows: list[tuple[int, str, int]] | None, through: int) -> list[tuple[str, Any]]:
    """Write the read cursors that own messages moved, and that they hold through this Snowflake.

    Args:
        rows: (conversation number, user, read_seq); None: work them out from the messages.
    """
    statements: list[tuple[str, Any]] = []
    if rows is None:
        statements.append(
            (
                "UPDATE members SET read_seq = max(read_seq, own.seq) FROM ("
                "SELECT conversation, sender, max(seq) AS seq FROM messages WHERE id > "
                "coalesce((SELECT value FROM meta WHERE key = 'folded'), 0) GROUP BY conversation, sender) AS own "
                "WHERE members.conversation = own.conversation AND members.user_id = own.sender",
                (),
            )
        )
    for start in range(0, len(rows or ()), _CURSORS_PER_STATEMENT):
        part = (rows or [])[start : start + _CURSORS_PER_STATEMENT]
        values = ",".join(["(?,?,?)"] * len(part))
        statements.append(
            (
                f"WITH own(conversation, user_id, seq) AS (VALUES {values}) "
                "UPDATE members SET read_seq = max(read_seq, own.seq) FROM own "
                "WHERE members.conversation = own.conversation AND members.user_id = own.user_id",
                [value for row in part for value in row],
            )
        )
    statements.append(("INSERT OR REPLACE INTO meta VALUES ('folded', ?)", (through,)))
    return statements
