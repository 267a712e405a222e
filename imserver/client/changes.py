"""Which changes of messages (recalls, edits, reactions) the application has seen. No I/O, no clock.

Every change takes the next `rev` of its conversation. While a connection lives, pushes come in order and `rev` follows
them. After an absence (SYNC shows a later `rev`), or when the application has no room for an event, the conversation is
*behind*: its pushes are let go, and CHANGES is asked from the last `rev` that was seen until there is no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define

from .state import State

#: One's own messages whose `rev` is not known (the answer to SEND does not tell), to tell them from changes. Arbitrary.
MAX_OWN: Final = 4096


@define
class _Track:
    seen: int  # every change up to here was shown or queued
    target: int = 0  # what CHANGES must reach before pushes count again
    waiting: int = 0  # events that are queued and not yet taken


class Changes:
    """The revisions of all conversations of one user. `state` is changed in place.

    Attributes:
        is_wanted: the application takes events; without it nothing is fetched and `rev` just follows.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self.is_wanted = False
        self._tracks = {name: _Track(at.rev) for name, at in state.positions.items()}
        self._behind: dict[str, None] = {}
        self._own: dict[tuple[str, int], None] = {}

    def known(self, conversation_id: str, last_rev: int) -> None:
        """SYNC shows this conversation at `last_rev`. One that is new to this client begins there."""
        track = self._tracks.get(conversation_id)
        if track is None:
            track = self._tracks[conversation_id] = _Track(last_rev)
        elif last_rev > track.seen:
            self._fall_behind(conversation_id, track, last_rev)
        self._follow(conversation_id, track)

    def pushed(self, conversation_id: str, rev: int, *, has_room: bool = True) -> bool:
        """A push carries `rev`; True if it is new and in order, so that its event may be shown now."""
        track = self._tracks.get(conversation_id)
        if track is None:
            track = self._tracks[conversation_id] = _Track(rev - 1)
        if rev <= track.seen:
            return False
        if conversation_id in self._behind or not has_room:
            self._fall_behind(conversation_id, track, rev)
            return False
        track.seen = rev
        self._follow(conversation_id, track)
        return True

    def sent(self, conversation_id: str, seq: int) -> None:
        """One's own message is at this place: CHANGES will show it, and it is no change."""
        self._own[conversation_id, seq] = None
        if len(self._own) > MAX_OWN:
            del self._own[next(iter(self._own))]

    def is_change(self, conversation_id: str, seq: int, state: Mapping[str, Any]) -> bool:
        """Tell whether an entry of CHANGES, of a message that the application knows, is more than that message."""
        is_marked = any(state.get(name) for name in ("edited_at", "recalled", "reactions"))
        return is_marked or (conversation_id, seq) not in self._own

    def next_fetch(self) -> tuple[str, int] | None:
        """Return the next CHANGES to ask for, as (conversation id, since rev), or None."""
        for name in self._behind:
            return name, self._tracks[name].seen
        return None

    def fetched(self, conversation_id: str, upto_rev: int, *, more: bool) -> None:
        """An answer to CHANGES was dealt with, up to `upto_rev`. An answer that leads nowhere ends the chase."""
        track = self._tracks[conversation_id]
        is_stuck = upto_rev <= track.seen
        track.seen = max(track.seen, upto_rev)
        self._behind.pop(conversation_id, None)
        if not is_stuck and (more or track.seen < track.target):
            self._behind[conversation_id] = None  # at the end: each conversation has its turn
        else:
            track.seen = max(track.seen, track.target)
        self._follow(conversation_id, track)

    def queued(self, conversation_id: str) -> None:
        """An event of this conversation waits for the application."""
        self._tracks[conversation_id].waiting += 1

    def taken(self, conversation_id: str, rev: int) -> None:
        """The application has finished with an event: the state moves."""
        track = self._tracks[conversation_id]
        track.waiting -= 1
        position = self._state.positions.get(conversation_id)
        if position is not None:
            position.rev = max(position.rev, rev)
        self._follow(conversation_id, track)

    def _fall_behind(self, conversation_id: str, track: _Track, rev: int) -> None:
        if not self.is_wanted:
            track.seen = max(track.seen, rev)
            return
        track.target = max(track.target, rev)
        self._behind.setdefault(conversation_id)

    def _follow(self, conversation_id: str, track: _Track) -> None:
        """With nothing queued, what was seen is what is persisted."""
        position = self._state.positions.get(conversation_id)
        if position is not None and not track.waiting:
            position.rev = max(position.rev, track.seen)
