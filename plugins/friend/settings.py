"""`[plugins.friend]`."""

from __future__ import annotations

from typing import Annotated

from attrs import frozen

from imserver.plugin import Meta

# The counts are taken by the writer, in the commit that they guard: the bounds keep that below a millisecond.
MaxFriends = Annotated[int, Meta(ge=1, le=50_000)]
MaxPending = Annotated[int, Meta(ge=1, le=10_000)]
MaxBlocked = Annotated[int, Meta(ge=1, le=50_000)]


@frozen
class Settings:
    """The bounds of this plugin.

    max_friends: of one user.
    max_pending: requests that wait for an answer, those a user has sent and those a user was sent, each.
    max_blocked: users that one user blocks.
    request_ttl: how long a request can be answered, and is listed.
    """

    max_friends: MaxFriends = 5000
    max_pending: MaxPending = 500
    max_blocked: MaxBlocked = 5000
    request_ttl_s: Annotated[float, Meta(ge=1)] = 30 * 86400.0
