"""The bounds of the HTTP listener, and what time one side may take from the other."""

from __future__ import annotations

import attrs


@attrs.frozen
class HttpLimits:
    """Every bound of an HTTP connection; the defaults name their precedents."""

    #: Request line and headers together: nginx and Apache allow 8 to 32 KiB.
    max_head_bytes: int = 16 * 1024
    #: Apache's LimitRequestFields.
    max_headers: int = 100
    #: A request's body, but for the paths in `unlimited_paths`; the default of `limits.max_frame`.
    max_body_bytes: int = 1 << 20
    #: Below these the app counts for itself: the server only watches the pace.
    unlimited_paths: tuple[str, ...] = ("/v1/files",)
    #: Open connections at once, in one shard. Beyond it the oldest that has no request under way gives its place.
    max_connections: int = 1000
    #: What one address may have of them: a quarter of the default, so that one alone shuts nobody out.
    max_per_address: int = 250
    #: Beyond `max_connections` so many at once are told why; those beyond are closed without a word. Arbitrary, and small.
    max_refusals: int = 100
    #: For the head to come, from its first byte (of the first one: from the start): OWASP on slow clients.
    head_timeout_s: float = 10.0
    #: For the next piece of a body, and for the client to take the next piece of an answer.
    step_timeout_s: float = 10.0
    #: How far a body, or the taking of an answer, may fall behind …
    patience_s: float = 20.0
    #: … this pace: Apache's mod_reqtimeout has the same two numbers.
    min_bytes_per_s: int = 500
    #: Between two requests.
    keep_alive_s: float = 60.0
    #: For the app, to the start of its answer: above the commands' own deadline (10 s), whose answer says more.
    handler_timeout_s: float = 15.0
    #: For the app, between two pieces of an answer that has begun.
    stream_timeout_s: float = 60.0
    #: What is left of a body that the app has not read is taken up to here, so that the connection can go on.
    drain_bytes: int = 64 * 1024
    #: After the last answer a little of what still comes is taken: closing on unread bytes would lose the answer.
    linger_s: float = 1.0
    linger_bytes: int = 1 << 20

    def limits_body(self, path: str) -> bool:
        """Whether a body that is sent to this path is limited in its length."""
        return not any(path == prefix or path.startswith(prefix + "/") for prefix in self.unlimited_paths)


class Pace:
    """How long a peer may keep us waiting for one transfer: one byte now and then does not hold a task for ever.

    A single wait lasts at most `step_timeout_s`, and waiting uses up `patience_s`, which bytes that move restore at
    `min_bytes_per_s`. Time that the app takes is not the peer's, and is not counted.
    """

    __slots__ = ("_left_s", "_limits")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._left_s = limits.patience_s

    @property
    def allowed_s(self) -> float:
        """How long the next wait may be."""
        return max(0.0, min(self._limits.step_timeout_s, self._left_s))

    def waited(self, seconds: float) -> None:
        """A wait is over."""
        self._left_s -= seconds

    def moved(self, size: int) -> None:
        """Bytes have come or gone."""
        self._left_s = min(self._limits.patience_s, self._left_s + size / self._limits.min_bytes_per_s)
