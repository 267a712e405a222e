"""`[plugins.group]`."""

from __future__ import annotations

from typing import Annotated

from attrs import frozen

from imserver.plugin import Meta


@frozen
class Settings:
    """The bounds of this plugin.

    max_members: of one group.
    max_groups: that one user belongs to; others may add a user to four fifths of them.
    max_admins: of one group, beside its owner.
    max_requests: to join one group, that wait for an answer.
    request_ttl: how long such a request can be answered.
    """

    max_members: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    max_groups: Annotated[int, Meta(ge=1, le=10_000)] = 500
    max_admins: Annotated[int, Meta(ge=0, le=1000)] = 50
    max_requests: Annotated[int, Meta(ge=1, le=10_000)] = 500
    request_ttl_s: Annotated[float, Meta(ge=1)] = 30 * 86400.0
