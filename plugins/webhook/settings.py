"""`[plugins.webhook]`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from attrs import frozen

from imserver.plugin import Meta

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z", description='1 to 64 letters, digits, "-", "_" and "."')]
Pattern = Annotated[
    str,
    Meta(pattern=r"\A(\*|[a-z_]+\.(\*|[a-z_]+))\Z", description='an event such as "message.accepted", "user.*" or "*"'),
]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Seconds = Annotated[float, Meta(ge=0.05, le=30 * 86400)]


@frozen
class Target:
    """Who is told of events.

    name: stays the same for as long as the receiver does: what it has got is remembered by it.
    url: where the events are posted to.
    secret, secret_file: what the posts are signed with; a file may have several keys, one a line.
    events: which ones; "*" stands for all, "user.*" for all that begin so.
    types: messages of these types alone; empty: of any.
    batch: events in one post at most.
    concurrency: posts under way at once at most; the messages of one conversation are always in order.
    timeout: of one post, from the look-up of the name to the end of the answer.
    """

    name: Name
    url: str
    secret: str = ""
    secret_file: Path | None = None
    events: tuple[Pattern, ...] = ("message.accepted",)
    types: tuple[str, ...] = ()
    batch: Annotated[int, Meta(ge=1, le=1000)] = 100
    concurrency: Annotated[int, Meta(ge=1, le=16)] = 1
    timeout_s: Seconds = 10.0


@frozen
class BeforeSend:
    """Who is asked before a message is accepted.

    on_failure: what becomes of a message if there is no answer in time, or none that can be understood.
    types: messages of these types alone are asked about; empty: of any.
    concurrency: questions under way at once at most; others wait for their turn, within the time limit.
    """

    url: str
    secret: str = ""
    secret_file: Path | None = None
    on_failure: Literal["allow", "refuse"] = "refuse"
    types: tuple[str, ...] = ()
    timeout_s: Annotated[float, Meta(ge=0.05, le=5)] = 2.0
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 64


@frozen
class Settings:
    """The receivers, and the bounds of what waits for them.

    schemes: of the URLs.
    allowed_networks: private addresses that may be connected to all the same.
    ca_file: certificates to trust beside the system's, PEM.
    retry_first, retry_most: between two attempts: at first, and when it has failed often.
    give_up_after: an event that is older, and cannot be delivered, is put aside.
    max_waiting: events other than messages that wait for one target; beyond it new ones are dropped.
    max_dead: events that were put aside, of all targets; beyond it the oldest are dropped.
    """

    targets: tuple[Target, ...] = ()
    before_send: BeforeSend | None = None
    schemes: tuple[Literal["https", "http"], ...] = ("https",)
    allowed_networks: tuple[Network, ...] = ()
    ca_file: Path | None = None
    retry_first_s: Seconds = 1.0
    retry_most_s: Seconds = 300.0
    give_up_after_s: Annotated[float, Meta(ge=1, le=365 * 86400)] = 3 * 86400.0
    max_waiting: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    max_dead: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
