"""What this plugin asks of the database: statements for a commit, and many rows in few of them."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

Statement = tuple[str, Sequence[Any]]
Row = tuple[Any, ...]

#: Rows of one statement: they take a bounded number of parameters.
CHUNK = 500


class Database(Protocol):
    """What is used of `ctx.db`."""

    async def read(self, sql: str, params: Sequence[Any] = ..., /) -> list[Row]:
        """Committed rows."""

    def write(self, sql: str, params: Sequence[Any] = ..., /) -> Awaitable[list[Row]]:
        """Joins the open commit; the rows of RETURNING once it is durable."""

    def write_all(self, statements: Sequence[Statement], /) -> Awaitable[list[list[Row]]]:
        """The same for several statements: all or none."""


def in_chunks(sql: str, marks: str, rows: Sequence[Sequence[Any]]) -> list[Statement]:
    """One statement for each `CHUNK` of the rows; `marks`, once a row, stand where `sql` has its `{}`."""
    statements: list[Statement] = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        statements.append((sql.format(", ".join([marks] * len(chunk))), [value for row in chunk for value in row]))
    return statements
