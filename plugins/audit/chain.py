"""The chain: each entry's hash has the one before in it, so whoever changes an entry has to change all that follow.

The hashes are put in by the server about a second after the entries, in their order: entries come from several processes
(the command line writes beside the server), and their order is known when they are committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from attrs import frozen

#: What stands before the first entry.
GENESIS: Final = bytes(32)


@frozen
class Entry:
    """A row of the log. `hash` None: it is not in the chain yet."""

    id: int
    at: int
    event: str
    fields: str
    hash: bytes | None


@frozen
class Head:
    """The end of the chain: put down elsewhere, it proves that nothing up to it was changed since."""

    id: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.id}:{self.hash.hex()}"


class Broken(Exception):
    """The log is not as it was written; the message says where."""


def hash_of(before: bytes, entry: Entry) -> bytes:
    """The hash of an entry behind one with this hash."""
    said = msgspec.json.encode([entry.id, entry.at, entry.event, entry.fields])
    return hashlib.sha256(before + said).digest()


def seal(head: Head, entries: Sequence[Entry]) -> list[tuple[int, bytes]]:
    """(id, hash) of the entries that follow the head."""
    sealed = []
    before = head.hash
    for entry in entries:
        before = hash_of(before, entry)
        sealed.append((entry.id, before))
    return sealed


def verify(entries: Iterable[Entry], last_id: int, expected: Sequence[Head] = ()) -> tuple[Head, int]:
    """Go through the whole log; its head, and how many entries at its end have no hash yet.

    Args:
        last_id: of the newest entry that was ever written.
        expected: heads that were put down elsewhere.

    Raises:
        Broken: an entry was changed, taken away or put in between.
    """
    head, unsealed, at = Head(0, GENESIS), 0, 0
    missing = {one.id: one for one in expected}
    for entry in entries:
        at += 1
        if entry.id != at:
            raise Broken(f"entry {at} is missing")
        if entry.hash is None:
            unsealed += 1
            continue
        if unsealed:
            raise Broken(f"entry {at - unsealed} has no hash, and entry {at} has one")
        if entry.hash != hash_of(head.hash, entry):
            raise Broken(f"entry {at} is not what was written there, or the one before it is not")
        head = Head(at, entry.hash)
        if at in missing and missing.pop(at) != head:
            raise Broken(f"entry {at} has another hash than the one that was put down")
    if at != last_id:
        raise Broken(f"entries {at + 1} to {last_id} are missing" if at < last_id else "there are entries that nobody wrote")
    if missing:
        raise Broken(f"entry {min(missing)}, whose hash was put down, is missing")
    return head, unsealed
