"""Who asks: the part of a session that a handler sees, whatever door the request came in by.

A live connection is a `Session`. A request over HTTP has a `Caller` of its own: nothing can be pushed to it, the directory
does not know it, and the plugins' connection hooks do not run for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from imserver.identity import Identity
from imserver.permissions import ADMIN

if TYPE_CHECKING:
    from imserver.session import Session
    from imserver.shard import Shard


class Caller:
    """Who asks.

    Attributes that plugins may read: `user_id` (None before login), `session_id`, `device_id`, `platform`, `roles`,
    `scopes` (None: no API key), `address`, `connected_at_ms`, `deliver`, `expires_at_ms`, `is_closed`; `data` is theirs,
    one entry a plugin.
    """

    __slots__ = (
        "address",
        "connected_at_ms",
        "contexts",
        "data",
        "deliver_mode",
        "device_id",
        "expires_at_ms",
        "has_own_device",
        "is_revoked",
        "platform",
        "rate",
        "rates",
        "roles",
        "scopes",
        "session_id",
        "shard",
        "takes_frames",
        "user_id",
    )

    #: Pushes reach it. Commands that would be for nothing without them may refuse where this is false.
    is_live = False

    def __init__(self, shard: Shard, address: str) -> None:
        self.shard = shard
        self.address = address
        self.connected_at_ms = shard.clock.now_ms()
        #: Frames are carried out. False once the session is closing or revoked, by whatever thread.
        self.takes_frames = True
        #: Somebody ended it: what was dispatched and has not begun is not carried out either.
        self.is_revoked = False
        self.user_id: str | None = None
        self.session_id = ""
        self.device_id = ""
        #: The client named its device; else the id was made up for this one connection.
        self.has_own_device = False
        self.platform = ""
        self.roles: frozenset[str] = frozenset()
        self.scopes: frozenset[str] | None = None
        self.deliver_mode = "new"
        self.expires_at_ms: int | None = None
        self.data: dict[str, Any] = {}
        self.contexts: dict[object, Any] = {}
        #: The connection's rate limit: when its bucket is empty again (monotonic seconds); and by command.
        self.rate = 0.0
        self.rates: dict[int, float] = {}

    @property
    def deliver(self) -> str:
        """The option of LOGIN: "new" or "missed"."""
        return self.deliver_mode

    @property
    def is_closed(self) -> bool:
        """It takes no more frames."""
        return not self.takes_frames

    def outranks(self, roles: Iterable[str]) -> bool:
        """Whether it may all that somebody with these roles may: nobody gives more than that, or takes it from others."""
        if ADMIN in self.roles:
            return True
        permissions = self.shard.router.permissions
        return permissions.held_by(roles) <= permissions.held_by(self.roles, self.scopes)

    def identify(self, identity: Identity) -> None:
        """It is this one that asks."""
        self.user_id = identity.user_id
        self.session_id = identity.session_id
        self.device_id = identity.device_id
        self.has_own_device = bool(identity.device_id)
        self.roles = identity.roles
        self.scopes = identity.scopes
        self.expires_at_ms = identity.expires_at_ms

    def bind(self, user_id: str, session_id: str, device_id: str | None) -> Session | None:
        """It belongs to this user from now on. Returns the one that it replaces."""
        self.user_id = user_id
        self.session_id = session_id
        self.has_own_device = bool(device_id)
        self.device_id = device_id or ""
        return None

    def set_encoding(self, encoding: int) -> None:
        """The encoding of pushes, JSON or 0: an option of HELLO."""

    def set_compress(self, compress: bool) -> None:
        """Whether pushes may be compressed: an option of LOGIN."""

    def close_after_answer(self, error: str, message: str) -> None:
        """Carry out no further frame; the router says GOAWAY behind the running request's answer."""
        self.takes_frames = False

    def charge(self, requests: float) -> None:
        """Count a request as so many more against the connection's rate limit."""
        if self.shard.limits.requests_per_second:
            self.rate = max(self.rate, self.shard.now) + requests / self.shard.limits.requests_per_second
