"""What can go wrong in the client, and what the caller knows when it does.

ClientError
├─ ServerError          the server refused: definite, nothing was carried out (one subclass per code)
├─ RequestTimeout       no answer before the deadline: the request may or may not have been carried out
├─ ConnectionLost       the connection went before the answer: the same doubt
├─ FrameTooLarge        refused on this side, never sent
├─ RemoteProtocolError  the server sent bytes that break the protocol
├─ SessionEnded         the server ended this session for good: SessionReplaced, SessionKicked, AuthenticationLost
└─ ClientClosed         used after its `async with` block
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The base of every error that this package raises on purpose."""


class ServerError(ClientError):
    """The server's answer was an error: a definite result.

    Attributes:
        code: the error code (HTTP's where HTTP has one).
        error: the stable snake_case name, such as `rate_limited`. Test this one, not the message.
        message: for a person.
        field: the field of the request that was wrong, where the server named one.
        retry_after_ms: how long to wait before the same request can succeed, where the server said.
        command: the ID of the command that was refused.

    Source: docs/reference/protocol.md, "Requests, responses, pushes".
    """

    def __init__(
        self,
        code: int,
        error: str,
        message: str,
        *,
        field: str | None = None,
        retry_after_ms: int | None = None,
        command: int | None = None,
    ) -> None:
        where = f" (field {field!r})" if field else ""
        super().__init__(f"{code} {error}: {message}{where}")
        self.code = code
        self.error = error
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.command = command

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any], command: int | None = None) -> ServerError:
        """Make the error of the right class out of an answer whose `code` is not 0."""
        code = _integer(answer.get("code")) or 500
        error = answer.get("error")
        message = answer.get("message")
        field = answer.get("field")
        kind = _BY_CODE.get(code, ServerError)
        return kind(
            code,
            error if isinstance(error, str) else f"code_{code}",
            message if isinstance(message, str) else "",
            field=field if isinstance(field, str) else None,
            retry_after_ms=_integer(answer.get("retry_after_ms")),
            command=command,
        )


class BadRequest(ServerError):
    """400: the body misses a field, or one has the wrong type or range; `field` names it."""


class Unauthenticated(ServerError):
    """401: not logged in, or the token or password is wrong."""


class Forbidden(ServerError):
    """403: logged in, but not allowed."""


class NotFound(ServerError):
    """404: no such command, user, group or message."""


class Conflict(ServerError):
    """409: it exists already, or the state does not allow it."""


class TooLarge(ServerError):
    """413: a frame, body or list over the server's limit."""


class RateLimited(ServerError):
    """429: too many requests; wait `retry_after_ms`."""


class InternalFault(ServerError):
    """500: a fault of the server's; `message` carries its trace id."""


class Unavailable(ServerError):
    """503: overloaded, draining, or a dependency is down; wait `retry_after_ms`."""


class ServerTimeout(ServerError):
    """504: the handler ran past its deadline on the server. Unlike the others it may have been carried out."""


_BY_CODE: dict[int, type[ServerError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: RateLimited,
    500: InternalFault,
    503: Unavailable,
    504: ServerTimeout,
}


class RequestTimeout(ClientError):
    """No answer came before the deadline. The request may or may not have been carried out.

    A message whose `send` ended so is sent again safely with the same `client_id`.
    """


class ConnectionLost(ClientError):
    """The connection went before the answer came. The request may or may not have been carried out.

    Raised only for commands that cannot be repeated blindly (REGISTER, CHANGE_PASSWORD, …); the others
    are asked again on the next connection.
    """


class FrameTooLarge(ClientError):
    """The request is larger than the server's `max_frame`; it was not sent."""


class RemoteProtocolError(ClientError):
    """The server sent what the protocol does not allow. The connection is closed and made anew."""


class SessionEnded(ClientError):
    """The server ended this session for good; the client does not reconnect. Leaves the `async with` block.

    Attributes:
        error: the server's name for it: `replaced`, `kicked`, `unauthenticated`, …
        message: for a person.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}" if message else error)
        self.error = error
        self.message = message


class SessionReplaced(SessionEnded):
    """Another connection logged in with this user and `device_id`. Give each running client its own `device_id`."""


class SessionKicked(SessionEnded):
    """The session was ended by the user, from another device, or by the server's owner."""


class AuthenticationLost(SessionEnded):
    """The access token died and could not be refreshed: log in again."""


class ClientClosed(ClientError):
    """The client was used after its `async with` block had ended."""


class CannotConnect(OSError):
    """No transport could be opened; another attempt follows. The application reads the text in `RequestTimeout`.

    Attributes:
        retry_after_s: how long the server asked to wait, in seconds; 0 where it did not.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def _integer(value: object) -> int | None:
    """Return `value` when it is an integer at or above 0 (and no boolean)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
