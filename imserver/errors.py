"""Every error of imserver, and which of them a client ever sees.

ImserverError
├─ ConfigError                start-up: the configuration is wrong; exit status 2
├─ StartError                 start-up: a port, the database or a plugin refuses; exit status 3
├─ PluginError                a plugin breaks the rules of its API
│   └─ CommandConflictError   two plugins claim one command ID
├─ ProtocolError              the peer broke the framing rules (the sans-I/O layer)
├─ ImError                    the ONLY family whose text reaches a client
├─ StorageError               the database failed
│   ├─ ConstraintViolated     a write broke a constraint of its table; nothing of that write is stored
│   └─ StorageUnavailable     disk full, locked, read-only, damaged: the commit failed
└─ InternalError              "should never happen, please report"
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, ClassVar

#: What a plugin's code may raise without harm to others: all but what belongs to Trio (`trio.Cancelled`). A `sys.exit()`
#: somewhere in a library must not end the server.
FAULTS = (Exception, SystemExit, KeyboardInterrupt, BaseExceptionGroup)


class ImserverError(Exception):
    """The base of every error that imserver raises on purpose."""


class ConfigError(ImserverError):
    """The configuration is wrong; the message names the file, the key and what was expected. Exit status 2."""


class StartError(ImserverError):
    """The server cannot start (a port is taken, the database is damaged or newer). Exit status 3."""


class PluginError(ImserverError):
    """A plugin breaks the rules of `imserver.plugin`; the message names the plugin and the rule."""


class CommandConflictError(PluginError):
    """Two plugins claim one command ID; the message names both."""


class ProtocolError(ImserverError):
    """The peer broke the framing rules of the wire protocol, section 1.

    `code` and `error` go into the ERROR push that answers it. `fatal` says that no frame boundary is known any more:
    the connection is closed after the answer.
    """

    def __init__(self, message: str, *, code: int = 400, error: str = "bad_request", fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.error = error
        self.fatal = fatal


class InternalError(ImserverError):
    """Should never happen; please report it."""


# ---------------------------------------------------------------- what reaches a client


class ImError(ImserverError):
    """A refusal whose text the client is meant to read (wire protocol, section 2).

    Args:
        message: for a person; says what to do.
        error: the stable snake_case name, if it is more precise than the class's own.
        field: the field of the request's body that is wrong.
        retry_after_ms: when it makes sense to try again.
    """

    code: ClassVar[int] = 500
    error: str = "internal"

    def __init__(
        self, message: str, *, error: str | None = None, field: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        if error is not None:
            self.error = error
        self.field = field
        self.retry_after_ms = retry_after_ms

    def answer(self) -> dict[str, Any]:
        """The fields of the error answer, `rid` excepted."""
        fields: dict[str, Any] = {"code": self.code, "error": self.error, "message": self.message}
        if self.field is not None:
            fields["field"] = self.field
        if self.retry_after_ms is not None:
            fields["retry_after_ms"] = self.retry_after_ms
        return fields


class InvalidBody(ImError):
    """400: the body misses a field, or one has the wrong type or range."""

    code = 400
    error = "bad_request"


class NotAuthenticated(ImError):
    """401: not logged in, or the token or password is wrong. Never says which."""

    code = 401
    error = "unauthenticated"


class PermissionDenied(ImError):
    """403: logged in, but not allowed."""

    code = 403
    error = "forbidden"


class NotFound(ImError):
    """404: unknown command, user, group or message."""

    code = 404
    error = "not_found"


class Conflict(ImError):
    """409: it exists already, or the state does not allow it."""

    code = 409
    error = "conflict"


class TooLarge(ImError):
    """413: a frame, body or list over its limit."""

    code = 413
    error = "too_large"


class RateLimited(ImError):
    """429: too many; carries `retry_after_ms`."""

    code = 429
    error = "rate_limited"


class InternalFault(ImError):
    """500: a fault of the server's; the message carries a trace id, never a stack."""

    code = 500
    error = "internal"


class Unavailable(ImError):
    """503: overloaded, draining, or the disk is down; carries `retry_after_ms`."""

    code = 503
    error = "unavailable"

    def __init__(self, message: str, *, retry_after_ms: int = 1000, error: str | None = None) -> None:
        super().__init__(message, error=error, retry_after_ms=retry_after_ms)


class DeadlineExceeded(ImError):
    """504: a handler ran past its deadline."""

    code = 504
    error = "timeout"


# ---------------------------------------------------------------- storage


class StorageError(ImserverError):
    """The database failed."""


class ConstraintViolated(StorageError):
    """A write broke a constraint of its table; nothing of that write is stored, others in its commit are."""


class StorageUnavailable(StorageError):
    """The disk is full, read-only or damaged, or the database is locked: the commit failed and nothing of it is stored."""


# ---------------------------------------------------------------- control flow of handlers


class NotLoaded(Exception):
    """Raised by a `def` handler that needs what is not in memory (DESIGN: the router parks the connection).

    Args:
        loader: an async function without arguments that brings it into memory (a cache, a conversation).
        key: loads of the same key are done once for all that wait.
    """

    def __init__(self, loader: Callable[[], Awaitable[object]], key: Hashable = None) -> None:
        super().__init__("not in memory")
        self.loader = loader
        self.key = key if key is not None else loader
