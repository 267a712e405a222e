"""One push to very many sessions: it waits for its commit as one, and its writes are spread over ticks.

The frame is put into every outbox at once, so each session has its frames in order. What takes long is to write ten thousand
sockets: a tick writes a slice of them, and whatever is to be written besides goes out in its own tick, ahead of the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from imserver.batch import Held
from imserver.protocol.body import encode_frame

if TYPE_CHECKING:
    from imserver.session import Session
    from imserver.shard import Shard

#: A push to more users is spread.
MIN_USERS = 500
#: So many of its sockets are written in one tick: a few milliseconds.
SLICE = 250


class Fanout:
    """The sessions of one shard and encoding that a push goes to. It stands in a batch where a session does."""

    __slots__ = ("sessions", "shard")

    #: As of a session: not one whose outbox may be filled as it is.
    is_plain = False
    takes_frames = True

    def __init__(self, shard: Shard, sessions: Sequence[Session]) -> None:
        self.shard = shard
        self.sessions = sessions

    def deliver_released(self, frame: bytes, what: object) -> None:
        """See `Session.deliver_released`."""
        self.shard.spread.add(self.sessions, frame, what)

    def revoke(self, error: str, message: str) -> None:
        """See `Session.revoke`."""
        for session in self.sessions:
            session.revoke(error, message)


def gather(
    by_user: Mapping[str, Sequence[Session]], user_ids: Iterable[str], command: int, body: Any, except_session: object
) -> list[Held]:
    """A push to many users as one frame for each shard and encoding of their sessions."""
    nobody: Sequence[Session] = ()
    fanouts: dict[tuple[Shard, int | None], list[Session]] = {}
    for user_id in user_ids:
        for session in by_user.get(user_id, nobody):
            if session is except_session:
                continue
            key = (session.shard, session.flags)
            sessions = fanouts.get(key)
            if sessions is None:
                sessions = fanouts[key] = []
            sessions.append(session)
    encoded: dict[int | None, bytes] = {}
    held: list[Held] = []
    for (shard, flags), sessions in fanouts.items():
        frame = encoded.get(flags)
        if frame is None:
            frame = encoded[flags] = encode_frame(command, body, flags or 0)
        held.append((cast("Session", Fanout(shard, sessions)), frame, body))
    return held


class Spread:
    """The outboxes of a shard that got something from a push to many and are still to be written."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Session, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sessions: Sequence[Session], frame: bytes, what: object) -> None:
        """Put a frame into all outboxes."""
        waiting = self._waiting
        size = len(frame)
        for session in sessions:
            if session.is_plain:
                session.out.append(frame)
                session.out_bytes += size
                waiting[session] = None
            else:
                session.deliver_released(frame, what)

    def write_slice(self) -> None:
        """Write some of them. What another frame was added to since is written by its tick, with all that waits."""
        waiting = self._waiting
        for _ in range(min(SLICE, len(waiting))):
            session, _none = waiting.popitem(last=False)
            if session.has_output and not session.is_dirty:
                session.flush()
