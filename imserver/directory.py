"""Who is online, on which shard and device. Shared by all shards.

The embedded implementation; a cluster puts routes to other nodes behind the same methods.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from imserver.session import Session


class SessionInfo(Protocol):
    """What a plugin may read of any live session, its own shard's or another's."""

    @property
    def user_id(self) -> str | None: ...
    @property
    def session_id(self) -> str: ...
    @property
    def device_id(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def connected_at_ms(self) -> int: ...
    @property
    def roles(self) -> frozenset[str]: ...


class Directory:
    """Live sessions by user. Reading needs no lock: the tuples are replaced, never changed."""

    def __init__(self) -> None:
        #: user_id -> live sessions
        self.by_user: dict[str, tuple[Session, ...]] = {}
        self._lock = threading.Lock()
        self._by_address: Counter[str] = Counter()
        self._connections = 0
        #: Rises with every end of a session, token or key: who remembers whose credentials were good asks again.
        self.revision = 0

    # ------------------------------------------------------------ connections

    @property
    def connections(self) -> int:
        """How many connections there are, logged in or not."""
        return self._connections

    def admit(self, address: str, *, max_connections: int, per_address: int | None) -> str | None:
        """Count a new connection, unless a bound is reached: then its name. `per_address` None: exempt."""
        with self._lock:
            refused = self.refusal(address, max_connections=max_connections, per_address=per_address)
            if refused is None:
                self._connections += 1
                self._by_address[address] += 1
            return refused

    def refusal(self, address: str, *, max_connections: int, per_address: int | None) -> str | None:
        """The bound that one more connection from here would pass, if any; see `admit`."""
        if self._connections >= max_connections:
            return "limits.max_connections"
        if per_address is not None and self._by_address.get(address, 0) >= per_address:
            return "limits.connections_per_address"
        return None

    def count(self, address: str) -> None:
        """Count a connection that `refusal` had nothing against: an HTTP connection becomes a session."""
        with self._lock:
            self._connections += 1
            self._by_address[address] += 1

    def dismiss(self, address: str) -> None:
        """A connection that was admitted is gone."""
        with self._lock:
            self._connections -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    # ------------------------------------------------------------ sessions

    def enter(self, session: Session) -> Session | None:
        """A session has logged in. Returns the one that it replaces: same user, same device; the caller closes it."""
        with self._lock:
            user_id = session.user_id
            assert user_id is not None
            others = self.by_user.get(user_id, ())
            replaced = next((other for other in others if other.device_id == session.device_id), None)
            self.by_user[user_id] = (*(other for other in others if other is not replaced), session)
            return replaced

    def leave(self, session: Session) -> None:
        """A session is gone; nothing happens if it was not here."""
        with self._lock:
            user_id = session.user_id
            if user_id is None:
                return
            rest = tuple(other for other in self.by_user.get(user_id, ()) if other is not session)
            if rest:
                self.by_user[user_id] = rest
            else:
                self.by_user.pop(user_id, None)

    def sessions(self, user_id: str) -> tuple[Session, ...]:
        """The live sessions of a user, oldest first."""
        return self.by_user.get(user_id, ())

    def close(
        self,
        user_id: str,
        error: str,
        message: str,
        *,
        session_ids: AbstractSet[str] | None = None,
        except_session: SessionInfo | None = None,
    ) -> int:
        """End live sessions with GOAWAY: all of a user's, or those with these session ids; what was known of anybody's
        credentials is forgotten (`revision`).

        From this call on no frame of theirs is carried out, on any shard. Returns how many there were.
        """
        self.invalidate()
        closed = 0
        for session in self.by_user.get(user_id, ()):
            if session is except_session or (session_ids is not None and session.session_id not in session_ids):
                continue
            session.revoke(error, message)
            closed += 1
        return closed

    def invalidate(self) -> None:
        """Some credentials are good no more: remembered ones are looked at again."""
        with self._lock:
            self.revision += 1
