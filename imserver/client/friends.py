"""Friends and blocks: commands 3001–3009, as `client.friends`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import frozen

from . import commands
from .caller import Request, given
from .taking import take, take_maybe, take_page
from .users import User


@frozen
class Friend:
    """One friend.

    Attributes:
        remark: what this user calls them.
        since: milliseconds since the epoch.
    """

    user_id: str
    nickname: str
    since: int
    is_online: bool
    remark: str | None = None

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Friend:
        """Check and convert one friend map.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            take(body, "user_id", str),
            take(body, "nickname", str, ""),
            take(body, "since", int, 0),
            take(body, "online", bool, False),
            take_maybe(body, "remark", str),
        )


@frozen
class FriendRequest:
    """One request for a friendship.

    Attributes:
        user_id: the other one: who asks, or who was asked.
        state: `pending`, `accepted` or `declined`.
        created_at, answered_at: milliseconds since the epoch.
    """

    request_id: str
    user_id: str
    nickname: str
    state: str
    created_at: int
    message: str = ""
    answered_at: int | None = None

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> FriendRequest:
        """Check and convert one request.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            take(body, "request_id", str),
            take(body, "user_id", str),
            take(body, "nickname", str, ""),
            take(body, "state", str, "pending"),
            take(body, "created_at", int, 0),
            take(body, "message", str, ""),
            take_maybe(body, "answered_at", int),
        )


class Friends:
    """The friends of one client: `client.friends`. Every method raises `ServerError` where the server refuses."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def request(self, user_id: str, message: str = "") -> str:
        """Ask for a friendship; returns the request's id. Where the other has asked too, both are friends at once.

        Raises:
            NotFound: there is no such user.
            Conflict: they are friends already, or this user blocks the other, or too many requests wait.
        """
        answer = await self._request(commands.FRIEND_REQUEST, {"user_id": user_id, "message": message})
        return take(answer, "request_id", str)

    async def answer(self, request_id: str, accept: bool) -> None:
        """Accept or decline a request; the same answer again changes nothing.

        Raises:
            NotFound: there is no such request to this user.
            Conflict: it was answered otherwise.
        """
        await self._request(commands.FRIEND_ANSWER, {"request_id": request_id, "accept": accept})

    async def list_friends(self, *, limit: int = 50, cursor: str | None = None) -> tuple[list[Friend], str | None]:
        """Return one page of friends by user id, and the cursor of the next page (None at the end)."""
        answer = await self._request(commands.LIST_FRIENDS, given(limit=limit, cursor=cursor))
        return take_page(answer, "friends", Friend.from_wire)

    async def list_requests(
        self,
        direction: Literal["in", "out"] = "in",
        *,
        state: Literal["pending", "accepted", "declined"] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[FriendRequest], str | None]:
        """Return one page of the requests to this user, or by them; the newest first."""
        body = given(direction=direction, state=state, limit=limit, cursor=cursor)
        return take_page(await self._request(commands.LIST_FRIEND_REQUESTS, body), "requests", FriendRequest.from_wire)

    async def delete(self, user_id: str) -> None:
        """End a friendship, for both.

        Raises:
            NotFound: this user is not among the friends.
        """
        await self._request(commands.DELETE_FRIEND, {"user_id": user_id})

    async def block(self, user_id: str) -> None:
        """Take no messages from a user; the other is not told, but is refused."""
        await self._request(commands.BLOCK, {"user_id": user_id})

    async def unblock(self, user_id: str) -> None:
        """Take messages from a user again."""
        await self._request(commands.UNBLOCK, {"user_id": user_id})

    async def list_blocked(self, *, limit: int = 50, cursor: str | None = None) -> tuple[list[User], str | None]:
        """Return one page of those whom one blocks, and the cursor of the next page (None at the end)."""
        answer = await self._request(commands.LIST_BLOCKED, given(limit=limit, cursor=cursor))
        return take_page(answer, "users", User.from_wire)

    async def set_remark(self, user_id: str, remark: str) -> None:
        """Set what one calls a friend; an empty one takes it away."""
        await self._request(commands.SET_REMARK, {"user_id": user_id, "remark": remark})
