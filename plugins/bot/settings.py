"""`[plugins.bot]`."""

from __future__ import annotations

from typing import Annotated

from attrs import frozen

from imserver.plugin import Meta


@frozen
class Settings:
    """The bounds of this plugin.

    posts_per_minute: of one incoming webhook; as many at once.
    post: the body of one.
    streams_per_user, streams: messages that grow, of one user and of all.
    stream: the text of one when it is whole; chunk: what one request adds.
    stream_idle: one to which nothing was added for so long is stored as it is.
    """

    posts_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 60
    post_bytes: Annotated[int, Meta(ge=256, le=1 << 20)] = 64 * 1024
    streams_per_user: Annotated[int, Meta(ge=1, le=1000)] = 8
    streams: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    stream_bytes: Annotated[int, Meta(ge=1, le=1 << 20)] = 256 * 1024
    chunk_bytes: Annotated[int, Meta(ge=1, le=1 << 20)] = 16 * 1024
    stream_idle_s: Annotated[float, Meta(ge=0.1, le=3600)] = 30.0
