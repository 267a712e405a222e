"""`[plugins.push]`."""

from __future__ import annotations

from typing import Annotated

from attrs import frozen

from imserver.plugin import Meta

Seconds = Annotated[float, Meta(ge=0.05, le=30 * 86400)]


@frozen
class Settings:
    """Offline push: when, by how much at once, and for how long.

    offline_after: a message that no device of a recipient has confirmed for so long is pushed to the recipient's devices.
    preview: what was written is in it; else it is `generic_text`.
    generic_text: stands for what is no text, too.
    timeout: of one try with a provider.
    concurrency: tries with one provider under way at once at most.
    retry_first, retry_most: between two tries: at first, and when it has failed often.
    give_up_after: a message that is older, and could not be pushed, is given up.
    max_jobs: pushes that wait, of all users together; beyond it the oldest are dropped.
    max_devices: devices of one user that are pushed to; beyond it the one that registered longest ago is forgotten.
    """

    offline_after_s: Annotated[float, Meta(ge=0, le=86400)] = 10.0
    preview: bool = True
    generic_text: Annotated[str, Meta(min_length=1, max_length=200)] = "New message"
    timeout_s: Annotated[float, Meta(ge=0.05, le=120)] = 10.0
    concurrency: Annotated[int, Meta(ge=1, le=500)] = 64
    retry_first_s: Seconds = 1.0
    retry_most_s: Seconds = 300.0
    give_up_after_s: Annotated[float, Meta(ge=1, le=30 * 86400)] = 86400.0
    max_jobs: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    max_devices: Annotated[int, Meta(ge=1, le=1000)] = 20
