"""The rules for roles, for the command line and the operators' routes."""

from __future__ import annotations

import re

from imserver.plugin import InvalidBody

MAX_ROLES = 32  # arbitrary; they are read at each login
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def checked_role(role: str) -> str:
    """The same, if it may be one.

    Raises:
        InvalidBody: it has characters that are not allowed, or too many.
    """
    if not _ROLE.fullmatch(role):
        raise InvalidBody("a role has 1 to 32 characters out of a-z 0-9 _ -, and begins with a letter", field="role")
    return role


def check_count(roles: frozenset[str]) -> frozenset[str]:
    """The same, if they are not too many.

    Raises:
        InvalidBody: they are.
    """
    if len(roles) > MAX_ROLES:
        raise InvalidBody(f"a user may have {MAX_ROLES} roles", field="roles")
    return roles


def with_role(roles: frozenset[str], role: str, present: bool) -> frozenset[str]:
    """The roles with one more, or one less.

    Raises:
        InvalidBody: the role cannot be one, or there would be too many.
    """
    checked_role(role)
    return check_count(roles | {role} if present else roles - {role})
