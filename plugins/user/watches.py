"""Who watches whose presence, what they were told of it, and when to look again.

A watched user has one entry for all watchers. A login or the end of a connection only asks for a look; what the look finds
is told if it is something else than was told before. So a client that flaps costs its watchers nothing while it comes back
within the grace, and a push a second at most otherwise.

Who hides from a watcher is watched all the same: the watcher believes that they are offline, until they hide no more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import trio
from attrs import define, field, frozen

from imserver.plugin import TooLarge

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Caller, Session

#: Of one connection; what it watches costs memory until it goes.
MAX_WATCHED = 1000
#: A device that has gone may come back within this long, and nobody is told.
GRACE_S = 1.0
#: Watchers are told of one user no more often than this.
INTERVAL_S = 1.0


@frozen
class Status:
    """What others see of a user, as far as memory knows."""

    online: bool
    platforms: tuple[str, ...] = ()


OFFLINE = Status(False)

#: Sessions, and how to reach the loop that each lives in.
Watchers = list[tuple["Caller", trio.lowlevel.TrioToken]]


@frozen
class News:
    """What to tell, and whom."""

    status: Status
    watchers: Watchers


@define
class _Watched:
    """A user who is watched."""

    told: Status
    #: The watching sessions, and how to reach the loop that each lives in.
    watchers: dict[Caller, trio.lowlevel.TrioToken] = field(factory=dict)
    #: Nothing is told before this; and when to look again, if there is a reason to. Monotonic seconds.
    quiet_until: float = 0.0
    look_at: float | None = None
    #: Users who watch, or did, and see nothing; as many as the watched one hides from at most.
    hidden_from: set[str] = field(factory=set)


class Watches:
    """Who watches whom, in the whole process. Any thread may call any method."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._by_session: dict[Caller, set[str]] = {}
        #: Those with a `look_at`.
        self._stirred: set[str] = set()
        #: (user, reader) whose hiding is looked at just now, and whether it may have changed since that look began.
        self._looks: dict[tuple[str, str], bool] = {}
        self._lock = threading.Lock()
        #: Rises whenever somebody hides from somebody, or does so no more.
        self.revision = 0

    def __len__(self) -> int:
        """How many (watcher, watched) pairs there are."""
        with self._lock:
            return sum(len(user_ids) for user_ids in self._by_session.values())

    def add(
        self, ctx: AppContext, session: Session, user_ids: Iterable[str], hidden: AbstractSet[str], revision: int
    ) -> dict[str, Status] | None:
        """Let a session watch users; in the loop that the session lives in. Returns what it is to believe of each.

        That is what the other watchers were told, so that the next push is news to all of them.

        Args:
            hidden: those who hide from the session's user, as was found when `self.revision` was `revision`.

        Returns:
            None: that may have changed since, and nothing was done.

        Raises:
            TooLarge: it would watch more than `MAX_WATCHED`; it watches no more than before.
        """
        token = trio.lowlevel.current_trio_token()
        user_ids = list(dict.fromkeys(user_ids))
        reader = session.user_id
        assert reader is not None
        with self._lock:
            if revision != self.revision:
                return None
            own = self._by_session.get(session, set())
            if len(own.union(user_ids)) > MAX_WATCHED:
                raise TooLarge(f"a connection watches {MAX_WATCHED} users at most; unwatch some first", field="user_ids")
            if session.is_closed or not user_ids:
                return {}
            self._by_session[session] = own.union(user_ids)
            believed = {}
            for user_id in user_ids:
                entry = self._watched.get(user_id)
                if entry is None:
                    # Entered before the look: who logs in after it finds the entry.
                    entry = self._watched[user_id] = _Watched(OFFLINE)
                    entry.told = status_of(ctx, user_id)
                entry.watchers[session] = token
                if user_id in hidden:
                    entry.hidden_from.add(reader)
                else:
                    entry.hidden_from.discard(reader)
                believed[user_id] = OFFLINE if user_id in hidden else entry.told
            return believed

    def remove(self, session: Caller, user_ids: Iterable[str] | None = None) -> None:
        """Let a session watch some users no more, or (None) none."""
        with self._lock:
            own = self._by_session.get(session)
            if own is None:
                return
            for user_id in list(own) if user_ids is None else own.intersection(user_ids):
                own.discard(user_id)
                entry = self._watched[user_id]
                del entry.watchers[session]
                if not entry.watchers:
                    del self._watched[user_id]
                    self._stirred.discard(user_id)
            if not own:
                del self._by_session[session]

    def begin_look(self, user_id: str, reader: str) -> bool:
        """Whether a user hides from another one may have changed: whether the caller is to look, and say what it found.

        False: nobody needs it, or somebody looks already, who will look again. So what counts in the end was looked for
        behind the last change, in whichever order the changes are told of.
        """
        pair = (user_id, reader)
        with self._lock:
            self.revision += 1
            if pair in self._looks:
                self._looks[pair] = True
                return False
            if not self._is_watched(user_id, reader):
                return False
            self._looks[pair] = False
            return True

    def looks_again(self, user_id: str, reader: str) -> bool:
        """Before a look, which sees what has changed until now. False: nobody watches any more, and the look has ended."""
        pair = (user_id, reader)
        with self._lock:
            if not self._is_watched(user_id, reader):
                del self._looks[pair]
                return False
            self._looks[pair] = False
            return True

    def found(self, user_id: str, reader: str, *, is_hidden: bool) -> News | None:
        """What a look has found, which ends with it; the news that this is. None: look again, it may be wrong by now."""
        pair = (user_id, reader)
        with self._lock:
            if self._looks[pair]:
                return None
            del self._looks[pair]
            return self._hide(user_id, reader) if is_hidden else self._show(user_id, reader)

    def end_look(self, user_id: str, reader: str) -> None:
        """Whoever looked cannot any more."""
        with self._lock:
            del self._looks[user_id, reader]

    def hide(self, user_id: str, reader: str) -> News:
        """A user hides from another one, or may; the news that this is to the other's sessions."""
        with self._lock:
            self.revision += 1
            if (user_id, reader) in self._looks:
                self._looks[user_id, reader] = True  # what it has seen may be from before
            return self._hide(user_id, reader)

    def _is_watched(self, user_id: str, reader: str) -> bool:
        entry = self._watched.get(user_id)
        return entry is not None and any(session.user_id == reader for session in entry.watchers)

    def _hide(self, user_id: str, reader: str) -> News:
        entry = self._watched.get(user_id)
        if entry is None or reader in entry.hidden_from:
            return News(OFFLINE, [])
        watchers = [(session, token) for session, token in entry.watchers.items() if session.user_id == reader]
        if watchers:
            entry.hidden_from.add(reader)
        return News(OFFLINE, watchers if entry.told != OFFLINE else [])

    def _show(self, user_id: str, reader: str) -> News:
        entry = self._watched.get(user_id)
        if entry is None or reader not in entry.hidden_from:
            return News(OFFLINE, [])
        entry.hidden_from.discard(reader)
        watchers = [(session, token) for session, token in entry.watchers.items() if session.user_id == reader]
        return News(entry.told, watchers if entry.told != OFFLINE else [])

    def hides(self, user_id: str, session: Caller) -> bool:
        """Whether a user who is watched hides from this session's user."""
        with self._lock:
            entry = self._watched.get(user_id)
            return entry is not None and session.user_id in entry.hidden_from

    def came(self, user_id: str, now: float) -> None:
        """A device is there: look at its user as soon as may be."""
        with self._lock:
            entry = self._watched.get(user_id)
            if entry is not None:
                at = max(now, entry.quiet_until)
                entry.look_at = at if entry.look_at is None else min(entry.look_at, at)
                self._stirred.add(user_id)

    def went(self, user_id: str, now: float) -> None:
        """A device is gone: look at its user after the grace, unless a look is due already."""
        with self._lock:
            entry = self._watched.get(user_id)
            if entry is not None and (entry.look_at is None or entry.look_at > now):
                entry.look_at = max(now + GRACE_S, entry.quiet_until)
                self._stirred.add(user_id)

    def due(self, now: float) -> list[str]:
        """The users to look at now; they are not due again until something happens to them."""
        if not self._stirred:
            return []
        with self._lock:
            found = []
            for user_id in list(self._stirred):
                entry = self._watched[user_id]
                if entry.look_at is not None and entry.look_at <= now:
                    entry.look_at = None
                    self._stirred.discard(user_id)
                    found.append(user_id)
            return found

    def news(self, user_id: str, status: Status, now: float) -> Watchers:
        """Whom to tell of this status, unless the user `hides` from them then; nobody if it is what they were told last."""
        with self._lock:
            entry = self._watched.get(user_id)
            if entry is None or entry.told == status:
                return []
            entry.told = status
            entry.quiet_until = now + INTERVAL_S
            return list(entry.watchers.items())


def status_of(ctx: AppContext, user_id: str) -> Status:
    """Online until the last device has gone; the platforms that the devices named."""
    live = [session for session in ctx.directory.sessions(user_id) if not session.is_closed]
    return Status(bool(live), tuple(sorted({session.platform for session in live} - {""})))
