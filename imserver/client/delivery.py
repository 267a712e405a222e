"""Every message once, in order: the state machine between the wire and the application. No I/O, no clock.

In: pushes in any order, with gaps and repeats; the numbers of one's own sends; answers to SYNC and PULL.
Out: messages, contiguous by `seq` in each conversation; the PULLs that are wanted; the confirmations that are due.

A conversation has three marks, taken <= got <= head:

    taken   the application has finished with everything up to here; this is what is confirmed and persisted
    got     everything up to here is with the application or in `ready`, or is known not to be for it
    head    the highest `seq` that is known to exist

While got < head a PULL is wanted. Its answer is the truth: what it leaves out (expired, before one joined) does not exist
for this user. Nothing here grows with what the server sends: when `ready` is full a pushed message only moves
`head`, and is pulled when there is room. So the connection is read all the time, whatever the application does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from attrs import Factory, define, frozen

from .state import Position, State
from .taking import take
from .types import Conversation, Message

#: Messages that wait for the application, over all conversations. Arbitrary: a second of a busy day.
MAX_READY = 1024

#: Messages that came before their turn, per conversation and over all. More than a few in one conversation means a
#: real gap, which a PULL fills with these too. Arbitrary.
MAX_EARLY = 32
MAX_EARLY_TOTAL = 1024


#: Changes that are remembered while a PULL of their conversation is under way, those of the lowest messages. More than a
#: page has messages, so that a page is cut only where it must be.
MAX_CHANGED = 512


class History(Enum):
    """Where a client without a saved state begins in each conversation that it finds at its first login."""

    UNDELIVERED = "undelivered"  # after what this device has confirmed to the server
    UNREAD = "unread"  # after what the user has read or this device has confirmed
    NEW = "new"  # at the end: what is sent from now on
    ALL = "all"  # at the beginning


@frozen
class Pull:
    """A PULL that is wanted: `conversation_id` after `after_seq`; `upto_seq` is the head as known when it was asked for."""

    conversation_id: str
    after_seq: int
    upto_seq: int
    limit: int


@define
class _Track:
    """The marks of one conversation; `position` is the part that is persisted."""

    position: Position
    got: int | None = None  # None: pushed before SYNC told where to begin
    outstanding: int = 0  # messages in `ready` or with the application
    early: dict[int, Message | None] = Factory(dict)  # beyond got + 1; None: one's own
    changed: dict[int, int] | None = None  # while a PULL is under way: seq -> rev of what has changed meanwhile
    doubtful_seq: int | None = None  # from here on any may have changed: `changed` is full

    @property
    def is_lagging(self) -> bool:
        return self.got is not None and self.got < self.position.head_seq

    def note_change(self, seq: int, rev: int) -> None:
        """Remember that a PULL under way may have read this message before its change."""
        if self.changed is None:
            return
        self.changed[seq] = max(rev, self.changed.get(seq, 0))
        if len(self.changed) > MAX_CHANGED:
            highest = max(self.changed)
            del self.changed[highest]
            self.doubtful_seq = min(highest, self.doubtful_seq or highest)

    def is_overtaken(self, message: Message) -> bool:
        """Tell whether this state of the message may be older than a change that came before it."""
        if self.doubtful_seq is not None and message.seq >= self.doubtful_seq:
            return True
        return self.changed is not None and message.rev < self.changed.get(message.seq, 0)

    def pull(self, *, is_under_way: bool) -> None:
        """A PULL is asked for, which shows all changes that came before; or it is over."""
        self.changed = {} if is_under_way else None
        self.doubtful_seq = None


class Delivery:
    """The state machine of all conversations of one user.

    Args:
        state: what is remembered; changed in place.
        history: where to begin without a saved state.
        max_ready: the bound on messages that wait for the application (a page of a PULL may come on top).
    """

    def __init__(self, state: State, *, history: History = History.UNDELIVERED, max_ready: int = MAX_READY) -> None:
        self._state = state
        self._history = history
        self._max_ready = max_ready
        self._ready: deque[Message] = deque()
        self._tracks = {name: _Track(at, got=at.taken_seq) for name, at in state.positions.items()}
        self._lagging: dict[str, None] = {name: None for name, track in self._tracks.items() if track.is_lagging}
        self._acks: dict[str, int] = {}
        self._lazy_acks: dict[str, int] = {}  # own messages and holes: they ride with the next real confirmation
        self._early_total = 0
        self._wants_sync = False
        self._unknown: dict[str, bool] = {}  # pushed before SYNC showed it -> a SYNC was asked since
        #: The client ids of sends that have no answer yet: such a message, when it comes by PULL, is one's own.
        self.sending: set[str] = set()

    # -------------------------------------------------------------- in

    def pushed(self, message: Message) -> None:
        """Take in one MESSAGE push."""
        if message.seq <= 0:  # not stored: now or never
            if len(self._ready) < self._max_ready:
                self._ready.append(message)
            return
        self._arrived(message.conversation_id, message.seq, None if self._is_own(message) else message)

    def sent(self, conversation_id: str, seq: int) -> None:
        """Note that this client's own message has this place: it is skipped."""
        self._arrived(conversation_id, seq, None)

    def synced(self, conversations: Iterable[Conversation], cursor: str, *, more: bool) -> None:
        """Take in one page of SYNC. The cursor moves with the heads, so nothing between two pages is forgotten."""
        for entry in conversations:
            track = self._track(entry.conversation_id)
            track.position.head_seq = max(track.position.head_seq, entry.last_seq)
            if track.got is None:
                self._begin(entry.conversation_id, track, self._first_seq(entry, track) - 1)
            self._settle(entry.conversation_id, track)
        if cursor:
            self._state.cursor = cursor
        self._wants_sync = more
        if more:
            return
        self._state.has_synced = True
        for name in [name for name, was_asked in self._unknown.items() if was_asked]:
            # Pushed, and SYNC does not list it: begin with what was pushed.
            track = self._tracks[name]
            self._begin(name, track, min(track.early, default=track.position.head_seq + 1) - 1)
            self._settle(name, track)
        self._wants_sync = bool(self._unknown)

    def sync_asked(self) -> None:
        """A SYNC is about to be asked: what was pushed until now must be in its answer."""
        self._unknown = dict.fromkeys(self._unknown, True)

    def forget_cursor(self) -> None:
        """The server does not take the cursor: ask for everything; the marks of the conversations stand."""
        self._state.cursor = ""
        self._wants_sync = True

    def pulled(self, pull: Pull, messages: Iterable[Message], last_seq: int = 0) -> None:
        """Take in the answer to `pull`: ascending `seq`, not necessarily up to its limit."""
        track = self._tracks[pull.conversation_id]
        track.position.head_seq = max(track.position.head_seq, last_seq)
        page = [m for m in messages if m.seq > pull.after_seq and m.conversation_id == pull.conversation_id]
        for message in page:
            if track.is_overtaken(message):
                break  # it and what follows is pulled again
            self._advance(track, message.seq - 1)
            self._deliver(track, message.seq, None if self._is_own(message) else message)
        if not page:
            self._advance(track, pull.upto_seq)
        track.pull(is_under_way=False)
        self._settle(pull.conversation_id, track)

    def unavailable(self, pull: Pull) -> None:
        """The server refuses this history (no longer a member): go on after it."""
        self.pulled(pull, ())

    def update(self, conversation_id: str, seq: int, changes: Mapping[str, Any]) -> bool:
        """Apply a change to a message that the application has not seen yet; False if it has seen it.

        Args:
            changes: the new state, with the wire's names.
        """
        track = self._tracks.get(conversation_id)
        rev = take(changes, "rev", int, 0)
        if track is None or track.got is None or seq > track.got:
            if track is not None:
                track.note_change(seq, rev)
            if track is not None and track.early.get(seq) is not None:
                self._drop_early(track, seq)  # it is pulled again, in its new state
                track.position.head_seq = max(track.position.head_seq, seq)
                self._settle(conversation_id, track)
            return True
        for index, message in enumerate(self._ready):
            if message.seq == seq and message.conversation_id == conversation_id:
                if rev < message.rev:
                    return True  # it was pulled in a later state
                self._ready[index] = message.with_change(str(changes.get("change")), changes)
                return True
        return False

    # -------------------------------------------------------------- out

    @property
    def has_ready(self) -> bool:
        """A message waits for the application."""
        return bool(self._ready)

    @property
    def wants_sync(self) -> bool:
        """SYNC has more pages, or a message came for a conversation that no SYNC has shown yet."""
        return self._wants_sync

    @property
    def has_acks(self) -> bool:
        """Confirmations are due."""
        return bool(self._acks)

    @property
    def is_behind(self) -> bool:
        """Some conversation has messages that are not here yet."""
        return bool(self._lagging)

    def next_message(self) -> Message | None:
        """Hand the next message to the application, which says `taken` when it is done with it."""
        return self._ready.popleft() if self._ready else None

    def taken(self, message: Message) -> None:
        """The application has finished with this message: the state moves, a confirmation is due."""
        if message.seq <= 0:
            return
        track = self._tracks[message.conversation_id]
        track.outstanding -= 1
        track.position.taken_seq = message.seq
        self._settle(message.conversation_id, track)
        self._acks[message.conversation_id] = track.position.taken_seq
        self._lazy_acks.pop(message.conversation_id, None)

    def next_pull(self, limit: int) -> Pull | None:
        """Return the next PULL to make, or None: nothing is missing, or the application has enough to do."""
        if not self._lagging or len(self._ready) >= self._max_ready:
            return None
        name = next(iter(self._lagging))
        del self._lagging[name]
        self._lagging[name] = None  # to the end: each conversation has its turn
        track = self._tracks[name]
        assert track.got is not None, "a conversation without a beginning never lags"
        track.pull(is_under_way=True)
        return Pull(name, track.got, track.position.head_seq, limit)

    def due_acks(self, limit: int) -> dict[str, int]:
        """Return up to `limit` confirmations (conversation -> seq) and forget them; `owe` takes them back."""
        due: dict[str, int] = {}
        for acks in (self._acks, self._lazy_acks):
            for name in list(acks)[: limit - len(due)]:
                due[name] = max(acks.pop(name), due.get(name, 0))
        return due

    def hurry(self) -> None:
        """Make every confirmation due: this is the end."""
        self.owe(self._lazy_acks)
        self._lazy_acks.clear()

    def owe(self, acks: Mapping[str, int]) -> None:
        """Take back confirmations that did not reach the server."""
        for name, seq in acks.items():
            self._acks[name] = max(seq, self._acks.get(name, 0))

    # -------------------------------------------------------------- inside

    def _is_own(self, message: Message) -> bool:
        return message.from_ == self._state.user_id and (
            message.client_id in self.sending or message.client_id.startswith(self._state.sender + ".")
        )

    def _track(self, conversation_id: str) -> _Track:
        track = self._tracks.get(conversation_id)
        if track is None:
            track = self._tracks[conversation_id] = _Track(Position(0, 0))
        return track

    def _first_seq(self, entry: Conversation, track: _Track) -> int:
        """Return the `seq` at which a conversation that is new to this client begins for the application."""
        if self._history is History.ALL:
            return 1
        if self._state.has_synced:  # it came into being while we were here or away: nothing of it was seen
            return entry.delivered_seq + 1
        match self._history:
            case History.NEW:
                return min(entry.last_seq + 1, *track.early) if track.early else entry.last_seq + 1
            case History.UNREAD:
                return max(entry.read_seq, entry.delivered_seq) + 1
            case _:
                return entry.delivered_seq + 1

    def _begin(self, conversation_id: str, track: _Track, got: int) -> None:
        self._unknown.pop(conversation_id, None)
        track.got = got
        track.position.taken_seq = got
        track.position.head_seq = max(track.position.head_seq, got)
        self._state.positions[conversation_id] = track.position
        for seq in [seq for seq in track.early if seq <= got]:
            self._drop_early(track, seq)

    def _arrived(self, conversation_id: str, seq: int, message: Message | None) -> None:
        """A message (None: one's own) turned up at its place."""
        track = self._track(conversation_id)
        track.position.head_seq = max(track.position.head_seq, seq)
        if track.got is None and seq == 1:
            self._begin(conversation_id, track, 0)  # we were here when it began: there is nothing to ask
        if track.got is None:
            self._wants_sync = True
            self._unknown.setdefault(conversation_id, False)
            self._keep_early(track, seq, message)
            return
        if seq == track.got + 1:
            # One's own takes no room; another's waits for a PULL while the application has enough to do.
            if message is None or len(self._ready) < self._max_ready:
                self._deliver(track, seq, message)
        elif seq > track.got:
            self._keep_early(track, seq, message)
        self._settle(conversation_id, track)

    def _deliver(self, track: _Track, seq: int, message: Message | None) -> None:
        """Move `got` to `seq`, where it stands just before it or was passed already."""
        assert track.got is not None
        if seq <= track.got:
            return
        if seq in track.early:
            early = self._drop_early(track, seq)
            message = None if early is None else message
        track.got = seq
        if message is not None:
            track.outstanding += 1
            self._ready.append(message)

    def _advance(self, track: _Track, upto: int) -> None:
        """Move `got` to `upto`: of what lies between, only what came early exists."""
        assert track.got is not None
        for seq in sorted(seq for seq in track.early if seq <= upto):
            self._deliver(track, seq, track.early[seq])
        track.got = max(track.got, upto)

    def _settle(self, conversation_id: str, track: _Track) -> None:
        """Let early messages take their turn, then bring the marks and the list of who lags up to date."""
        if track.got is None:
            return
        while (seq := track.got + 1) in track.early:
            message = track.early[seq]
            if message is not None and len(self._ready) >= self._max_ready:
                break
            self._deliver(track, seq, message)
        if not track.outstanding and track.position.taken_seq < track.got:
            track.position.taken_seq = track.got
            self._lazy_acks[conversation_id] = track.got
        track.position.head_seq = max(track.position.head_seq, track.got)
        if track.is_lagging:
            self._lagging.setdefault(conversation_id)
        else:
            self._lagging.pop(conversation_id, None)

    def _keep_early(self, track: _Track, seq: int, message: Message | None) -> None:
        # One's own marks are kept beyond the bounds: they are as many as one sends while a gap is open, and without them
        # one's own message would come back by PULL under an application's own client id.
        if seq not in track.early and (
            message is None or (len(track.early) < MAX_EARLY and self._early_total < MAX_EARLY_TOTAL)
        ):
            track.early[seq] = message
            self._early_total += 1

    def _drop_early(self, track: _Track, seq: int) -> Message | None:
        self._early_total -= 1
        return track.early.pop(seq)
