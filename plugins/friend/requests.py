"""The bodies of the friend commands, as the wire protocol's section 5 has them."""

from __future__ import annotations

from typing import Annotated, Literal

from attrs import field, frozen

from imserver.plugin import Limit, Meta, UserId

RequestId = Annotated[str, Meta(min_length=1, max_length=64)]
RequestMessage = Annotated[str, Meta(max_length=500)]
Remark = Annotated[str, Meta(max_length=64)]
# A place in a list: a user id or a request id.
#: The last one of the page before.
Cursor = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_.@-]*\Z")]


@frozen
class FriendRequest:
    """3001."""

    user_id: UserId
    message: RequestMessage = field(default="", repr=False)


@frozen
class FriendAnswer:
    """3002."""

    request_id: RequestId
    accept: bool


@frozen
class ListFriends:
    """3003."""

    limit: Limit = 50
    cursor: Cursor = ""


@frozen
class ListFriendRequests:
    """3004: those that the user was sent, or has sent, that wait for an answer; or in another state, or in all."""

    direction: Literal["in", "out"] = "in"
    state: Literal["pending", "accepted", "declined", "all"] = "pending"
    limit: Limit = 50
    cursor: Cursor = ""


@frozen
class DeleteFriend:
    """3005."""

    user_id: UserId


@frozen
class Block:
    """3006."""

    user_id: UserId


@frozen
class Unblock:
    """3007."""

    user_id: UserId


@frozen
class ListBlocked:
    """3008."""

    limit: Limit = 50
    cursor: Cursor = ""


@frozen
class SetRemark:
    """3009: the empty string, or null, takes it away."""

    user_id: UserId
    remark: Remark | None = field(repr=False)
