"""The requests of commands 1001 to 1013 (wire protocol, section 5), and of the operators' routes."""

from __future__ import annotations

from typing import Annotated, Literal

from attrs import field, frozen

from imserver.plugin import UNSET, Limit, Meta, UnsetType, UserId

DeviceId = Annotated[str, Meta(min_length=1, max_length=64)]
Platform = Annotated[str, Meta(max_length=32)]
Nickname = Annotated[str, Meta(min_length=1, max_length=64)]
Avatar = Annotated[str, Meta(max_length=1024)]
Bio = Annotated[str, Meta(max_length=500)]
SessionId = Annotated[str, Meta(min_length=1, max_length=64)]
# Bounds the work; what a new password must be, `auth.check_new_password` says.
Password = Annotated[str, Meta(max_length=1024)]
Token = Annotated[str, Meta(max_length=4096)]
Cursor = Annotated[str, Meta(max_length=1024)]
Role = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]{0,31}\Z")]
Deliver = Literal["new", "missed"]
LastSeenTo = Literal["everyone", "nobody"]


@frozen
class Register:
    """1001."""

    user_id: UserId
    password: Password = field(repr=False)
    nickname: Nickname | None = None


@frozen
class Login:
    """1002."""

    user_id: UserId
    password: Password = field(repr=False)
    device_id: DeviceId | None = None
    platform: Platform = ""
    compress: bool = False
    deliver: Deliver = "new"
    #: SYNC's cursor, "" for all; None: no catch-up wanted.
    sync: Cursor | None = None


@frozen
class Auth:
    """1003."""

    token: Token = field(repr=False)
    device_id: DeviceId | None = None
    platform: Platform = ""
    compress: bool = False
    deliver: Deliver = "new"
    sync: Cursor | None = None


@frozen
class Refresh:
    """1004."""

    refresh_token: Token = field(repr=False)


@frozen
class Logout:
    """1005."""

    all: bool = False


@frozen
class GetUser:
    """1006."""

    user_ids: list[UserId]


@frozen
class UpdateProfile:
    """1007: what is left out stays; null takes an avatar or a bio away. `last_seen`: who is told when one was last seen."""

    nickname: Nickname | UnsetType = UNSET
    avatar: Avatar | UnsetType | None = UNSET
    bio: Bio | UnsetType | None = UNSET
    last_seen: LastSeenTo | UnsetType = UNSET


@frozen
class ChangePassword:
    """1008."""

    old_password: Password = field(repr=False)
    new_password: Password = field(repr=False)


@frozen
class SearchUsers:
    """1009."""

    query: Annotated[str, Meta(min_length=1, max_length=64)]
    limit: Limit = 50
    cursor: Cursor | None = None


@frozen
class KickDevice:
    """1011."""

    session_id: SessionId


@frozen
class GetPresence:
    """1012."""

    user_ids: list[UserId]


@frozen
class WatchPresence:
    """1013: `unwatch` ends it for these users."""

    user_ids: list[UserId]
    unwatch: bool = False


@frozen
class ListUsers:
    """GET /v1/admin/users; the cursor is the last page's last user id."""

    query: Annotated[str, Meta(max_length=64)] = ""
    limit: Limit = 50
    cursor: Annotated[str, Meta(max_length=64)] = ""


@frozen
class DisableUser:
    """POST /v1/admin/users/{user_id}/disable."""

    disabled: bool


@frozen
class KickUser:
    """POST /v1/admin/users/{user_id}/kick; without a session_id all of the user's."""

    session_id: SessionId | None = None


@frozen
class SetRole:
    """POST /v1/admin/users/{user_id}/role."""

    role: Role
    present: bool
