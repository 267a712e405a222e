"""What a change of members or of a stored message writes: SQL for the journal, as statements of one unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imserver.conversation import Member

Statement = tuple[str, Sequence[Any]]

#: Conversations that a user was removed from and whose devices can still learn of it; the oldest are forgotten beyond.
MAX_DEPARTURES = 1000

#: MessagePack's nil: the body of a message whose content is gone.
NO_BODY = b"\xc0"

_ROWS_PER_STATEMENT = 1000


def enter(number: int, members: Sequence[Member], change: int) -> list[Statement]:
    """Members come into a conversation.

    Args:
        change: the change number.
    """
    statements: list[Statement] = []
    for part in _parts(members):
        values = ",".join(["(?,?,?,?,?,?,?)"] * len(part))
        rows = [
            value
            for member in part
            for value in (
                number, member.user_id, member.joined_seq, member.read_seq, member.hidden_seq, change, member.entered_seq
            )
        ]  # fmt: skip
        names = "conversation, user_id, joined_seq, read_seq, hidden_seq, changed, entered_seq"
        statements.append((f"INSERT INTO members ({names}) VALUES {values}", rows))
        marks = ",".join("?" * len(part))
        users = [member.user_id for member in part]
        statements.append((f"DELETE FROM departures WHERE conversation = ? AND user_id IN ({marks})", [number, *users]))
    return statements


def leave(number: int, members: Sequence[Member], left_seq: int, change: int) -> list[Statement]:
    """Members are gone from a conversation, and their devices will be told."""
    statements: list[Statement] = []
    for part in _parts(members):
        users = [member.user_id for member in part]
        marks = ",".join("?" * len(part))
        statements.append((f"DELETE FROM members WHERE conversation = ? AND user_id IN ({marks})", [number, *users]))
        rows = [value for user_id in users for value in (user_id, number, left_seq, change)]
        statements.append((f"INSERT INTO departures VALUES {','.join(['(?,?,?,?)'] * len(part))}", rows))
        statements.append(
            (
                f"DELETE FROM departures WHERE user_id IN ({marks}) AND changed <= (SELECT changed FROM departures AS kept "
                "WHERE kept.user_id = departures.user_id ORDER BY changed DESC LIMIT 1 OFFSET ?)",
                [*users, MAX_DEPARTURES],
            )
        )
    return statements


def hide(number: int, user_id: str, hidden_seq: int, change: int) -> list[Statement]:
    """A member does not want to see what was."""
    return [
        (
            "UPDATE members SET hidden_seq = ?, changed = ? WHERE conversation = ? AND user_id = ?",
            (hidden_seq, change, number, user_id),
        )
    ]


def settings(number: int, user_id: str, muted: bool, pinned: bool, change: int) -> list[Statement]:
    """A member's settings of a conversation."""
    return [
        (
            "UPDATE members SET muted = ?, pinned = ?, changed = ? WHERE conversation = ? AND user_id = ?",
            (int(muted), int(pinned), change, number, user_id),
        )
    ]


def touch(number: int, change: int) -> Statement:
    """All members' devices are to look at a conversation again."""
    return "UPDATE conversations SET changed = ? WHERE number = ?", (change, number)


def change_state(number: int, seq: int, rev: int, state: bytes) -> Statement:
    """A message's state changes, its content does not."""
    return (
        "UPDATE messages SET rev = ?, state = ? WHERE conversation = ? AND seq = ?",
        (rev, state, number, seq),
    )


def change_body(number: int, seq: int, rev: int, state: bytes, body: bytes) -> Statement:
    """A message has another content from now on."""
    return (
        "UPDATE messages SET rev = ?, state = ?, body = ? WHERE conversation = ? AND seq = ?",
        (rev, state, body, number, seq),
    )


def take_content(number: int, seq: int, rev: int, state: bytes) -> Statement:
    """A message's content is gone, its place stays; nobody's unread counts it."""
    return (
        "UPDATE messages SET rev = ?, state = ?, body = ?, extra = NULL, silent = 1 WHERE conversation = ? AND seq = ?",
        (rev, state, NO_BODY, number, seq),
    )


def delete_content(number: int, seq: int, state: bytes | None) -> Statement:
    """A message is in no answer any more; its place stays, and its row is small."""
    # One that was changed since somebody looked keeps a state: its `rev` is not in the order of `seq`.
    return (
        "UPDATE messages SET state = coalesce(?, CASE WHEN state IS NOT NULL THEN x'90' END), body = ?, extra = NULL, "
        "silent = 1, expires_at = 0 WHERE conversation = ? AND seq = ?",
        (state, NO_BODY, number, seq),
    )


def _parts(members: Sequence[Member]) -> Iterable[Sequence[Member]]:
    for start in range(0, len(members), _ROWS_PER_STATEMENT):
        yield members[start : start + _ROWS_PER_STATEMENT]
