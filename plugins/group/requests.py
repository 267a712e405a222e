"""The bodies of the group commands, as the wire protocol's section 5 has them."""

from __future__ import annotations

from typing import Annotated, Literal

from attrs import field, frozen

from imserver.plugin import UNSET, GroupId, Limit, Meta, UnsetType, UserId

#: Users in one request.
MAX_USERS = 500

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Avatar = Annotated[str, Meta(max_length=1024)]
Announcement = Annotated[str, Meta(max_length=4096)]
JoinMessage = Annotated[str, Meta(max_length=500)]
RequestId = Annotated[str, Meta(min_length=1, max_length=64)]
#: The last one of the page before.
Cursor = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_.@-]*\Z")]
Join = Literal["open", "approval", "invite"]
History = Literal["joined", "all"]
Role = Literal["owner", "admin", "member"]
#: At most ten years.
Duration = Annotated[int, Meta(ge=0, le=10 * 365 * 86_400_000)]


@frozen
class CreateGroup:
    """4001."""

    name: Name
    group_id: GroupId | None = None
    members: list[UserId] = field(factory=list)
    join: Join = "invite"
    history: History = "joined"


@frozen
class GetGroup:
    """4002."""

    group_id: GroupId


@frozen
class UpdateGroup:
    """4003: what is left out stays; null takes an avatar or an announcement away."""

    group_id: GroupId
    name: Name | UnsetType = UNSET
    avatar: Avatar | UnsetType | None = UNSET
    announcement: Announcement | UnsetType | None = UNSET
    join: Join | UnsetType = UNSET
    history: History | UnsetType = UNSET
    muted: bool | UnsetType = UNSET


@frozen
class DismissGroup:
    """4004."""

    group_id: GroupId


@frozen
class AddMembers:
    """4005."""

    group_id: GroupId
    user_ids: list[UserId]


@frozen
class RemoveMembers:
    """4006."""

    group_id: GroupId
    user_ids: list[UserId]


@frozen
class LeaveGroup:
    """4007."""

    group_id: GroupId


@frozen
class ListMembers:
    """4008."""

    group_id: GroupId
    limit: Limit = 50
    cursor: Cursor = ""


@frozen
class SetRole:
    """4009."""

    group_id: GroupId
    user_id: UserId
    role: Role


@frozen
class MuteMember:
    """4010."""

    group_id: GroupId
    user_id: UserId
    duration_ms: Duration


@frozen
class ListGroups:
    """4011."""

    limit: Limit = 50
    cursor: Cursor = ""


@frozen
class JoinGroup:
    """4012."""

    group_id: GroupId
    message: JoinMessage = field(default="", repr=False)


@frozen
class AnswerJoin:
    """4013."""

    request_id: RequestId
    accept: bool
