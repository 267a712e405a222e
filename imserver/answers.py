"""The frames of answers and refusals, and the refusals that the router itself gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imserver.errors import ImError, NotAuthenticated, NotFound, PermissionDenied, RateLimited, Unavailable
from imserver.protocol.body import encode_frame
from imserver.protocol.frame import FORM, GZIP

if TYPE_CHECKING:
    from imserver.caller import Caller
    from imserver.permissions import Rule
    from imserver.session import Session

ERROR = 3


def error_frame(command_id: int, rid: int, flags: int, error: ImError) -> bytes:
    """A failed request's answer, or, where it cannot be told by `rid`, an ERROR push."""
    fields = error.answer()
    if rid:
        return encode_frame(command_id, {"rid": rid, **fields}, flags)
    return encode_frame(ERROR, {**fields, "command": command_id}, flags)


def answer_frame(session: Session, command_id: int, rid: int, flags: int, fields: Mapping[str, Any]) -> bytes:
    """A request's answer, in its own encoding."""
    return encode_frame(command_id, {"rid": rid, "code": 0, **fields}, flags & FORM | (session.flags or 0) & GZIP)


def unknown(command_id: int) -> NotFound:
    """There is no such command."""
    return NotFound(f"there is no command {command_id} on this server", error="unknown_command")


def nobody(caller: Caller) -> NotAuthenticated:
    """It is for users."""
    if caller.scopes is not None:
        return NotAuthenticated("say which user this is for: the header X-IM-User")
    return NotAuthenticated("log in first (LOGIN or AUTH)")


def forbidden(caller: Caller, rule: Rule) -> PermissionDenied:
    """It is for others, or for an API key with other scopes."""
    if caller.scopes is not None:
        return PermissionDenied(f"this API key has no scope for it; it needs {rule.permission}")
    return PermissionDenied(f"this needs the permission {rule.permission}, which a role gives you; ask an administrator")


def not_stored() -> Unavailable:
    """Its commit failed."""
    return Unavailable("it could not be stored; nothing was; try again")


def refusal_of(frame: bytes, rid: int) -> bytes:
    """The answer to a request whose commit failed, in place of the one that was held."""
    command_id = frame[4] << 8 | frame[5]
    return error_frame(command_id, rid, frame[7] & FORM, not_stored())


def over_rate(excess_s: float) -> RateLimited:
    """It is one too many, by so much."""
    return RateLimited(
        "too many requests in so short a time, of this connection or of this command of its",
        retry_after_ms=max(1, int(excess_s * 1000) + 1),
    )
