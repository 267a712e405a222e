"""Groups: commands 4001–4013, as `client.groups`. A group's messages are those of the conversation `g:<group id>`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attrs import frozen

from . import commands
from .caller import Request, given
from .taking import take, take_maps, take_maybe, take_page, take_strings

#: How one becomes a member: by oneself, by asking, or by being added alone.
Join = Literal["open", "approval", "invite"]
#: What a new member sees: what comes after them, or everything.
GroupHistory = Literal["joined", "all"]
Role = Literal["owner", "admin", "member"]


@frozen
class JoinRequest:
    """Somebody asks to join. `created_at`: milliseconds since the epoch."""

    request_id: str
    user_id: str
    message: str
    created_at: int

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> JoinRequest:
        """Check and convert one request.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            take(body, "request_id", str),
            take(body, "user_id", str),
            take(body, "message", str, ""),
            take(body, "created_at", int, 0),
        )


@frozen
class Group:
    """A group as this user is shown it.

    Attributes:
        join: `open`, `approval` or `invite`.
        history: what a new member sees: what comes after them (`joined`), or everything (`all`).
        created_at: milliseconds since the epoch.
        announcement: shown to members alone.
        muted: only the owner and the admins may write.
        role: this user's own; None for who is no member.
        muted_until: until when this user may not write; None: they may.
        join_requests: those that wait; for the owner and the admins, of `get` alone.
    """

    group_id: str
    name: str
    owner: str
    join: str
    history: str
    member_count: int
    created_at: int
    avatar: str | None = None
    announcement: str | None = None
    muted: bool = False
    role: str | None = None
    muted_until: int | None = None
    join_requests: tuple[JoinRequest, ...] = ()

    @property
    def conversation_id(self) -> str:
        """Where its messages are."""
        return f"g:{self.group_id}"

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Group:
        """Check and convert one group map.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        asked = take_maps(body, "join_requests") if "join_requests" in body else []
        return cls(
            group_id=take(body, "group_id", str),
            name=take(body, "name", str),
            owner=take(body, "owner", str),
            join=take(body, "join", str),
            history=take(body, "history", str, "joined"),
            member_count=take(body, "member_count", int),
            created_at=take(body, "created_at", int, 0),
            avatar=take_maybe(body, "avatar", str),
            announcement=take_maybe(body, "announcement", str),
            muted=take(body, "muted", bool, False),
            role=take_maybe(body, "role", str),
            muted_until=take_maybe(body, "muted_until", int),
            join_requests=tuple(map(JoinRequest.from_wire, asked)),
        )


@frozen
class GroupMember:
    """One member. `joined_at`, `muted_until`: milliseconds since the epoch."""

    user_id: str
    role: str
    nickname: str
    joined_at: int
    muted_until: int | None = None

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> GroupMember:
        """Check and convert one member map.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            take(body, "user_id", str),
            take(body, "role", str),
            take(body, "nickname", str, ""),
            take(body, "joined_at", int, 0),
            take_maybe(body, "muted_until", int),
        )


@frozen
class Created:
    """A new group.

    Attributes:
        failed: who could not be added, and why (`not_found`, `group_limit`, …).
    """

    group_id: str
    conversation_id: str
    failed: Mapping[str, str]


@frozen
class Added:
    """What became of adding members.

    Attributes:
        added: who is new.
        failed: who is not, and why (`already_member`, `not_found`, `group_limit`, …).
    """

    added: tuple[str, ...]
    failed: Mapping[str, str]


def _failed(body: Mapping[str, Any]) -> dict[str, str]:
    entries = take_maps(body, "failed") if "failed" in body else []
    return {take(entry, "user_id", str): take(entry, "error", str, "") for entry in entries}


class Groups:
    """The groups of one client: `client.groups`.

    Every method raises `ServerError` where the server refuses: `Forbidden` (no member, or too low a role), `NotFound`
    (no such group, or none any more), `Conflict` (the state does not allow it, or a limit is reached).
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    async def create(
        self,
        name: str,
        members: Iterable[str] = (),
        *,
        group_id: str | None = None,
        join: Join = "invite",
        history: GroupHistory = "joined",
    ) -> Created:
        """Begin a group with this user as its owner.

        Args:
            name: 1–64 characters.
            members: who belongs to it from the beginning.
            group_id: by default one that the server makes. An id is used once for ever.

        Raises:
            Conflict: the id is taken, or the user owns too many groups.
            ConnectionLost: not known; with a `group_id` of your own take Conflict for a success.
        """
        fields = {"name": name, "members": list(members), "join": join, "history": history}
        answer = await self._request(commands.CREATE_GROUP, {**fields, **given(group_id=group_id)})
        return Created(take(answer, "group_id", str), take(answer, "conversation_id", str), _failed(answer))

    async def get(self, group_id: str) -> Group:
        """Return a group: one's own, or one that can be joined or asked to."""
        answer = await self._request(commands.GET_GROUP, {"group_id": group_id})
        return Group.from_wire(take(answer, "group", dict))

    async def list_groups(self, *, limit: int = 50, cursor: str | None = None) -> tuple[list[Group], str | None]:
        """Return one page of one's own groups, and the cursor of the next page (None at the end)."""
        answer = await self._request(commands.LIST_GROUPS, given(limit=limit, cursor=cursor))
        return take_page(answer, "groups", Group.from_wire)

    async def update(
        self,
        group_id: str,
        *,
        name: str | None = None,
        avatar: str | None = None,
        announcement: str | None = None,
        join: Join | None = None,
        history: GroupHistory | None = None,
        muted: bool | None = None,
    ) -> None:
        """Set what is given; for the owner and the admins. An empty avatar or announcement is taken away.

        Args:
            history: for those who come later.
            muted: only the owner and the admins may write.
        """
        fields: dict[str, Any] = given(
            name=name, avatar=avatar, announcement=announcement, join=join, history=history, muted=muted
        )
        for erasable in ("avatar", "announcement"):
            if fields.get(erasable) == "":
                fields[erasable] = None
        await self._request(commands.UPDATE_GROUP, {"group_id": group_id, **fields})

    async def dismiss(self, group_id: str) -> None:
        """End a group for all; for its owner."""
        await self._request(commands.DISMISS_GROUP, {"group_id": group_id})

    async def add_members(self, group_id: str, user_ids: Iterable[str]) -> Added:
        """Let users belong to a group."""
        answer = await self._request(commands.ADD_MEMBERS, {"group_id": group_id, "user_ids": [*user_ids]})
        return Added(take_strings(answer, "added"), _failed(answer))

    async def remove_members(self, group_id: str, user_ids: Iterable[str]) -> tuple[str, ...]:
        """End the membership of users whose role is below one's own; returns who was a member."""
        answer = await self._request(commands.REMOVE_MEMBERS, {"group_id": group_id, "user_ids": [*user_ids]})
        return take_strings(answer, "removed")

    async def leave(self, group_id: str) -> None:
        """End one's own membership.

        Raises:
            Conflict: the user owns the group: `set_role(…, "owner")` hands it over, `dismiss` ends it.
        """
        await self._request(commands.LEAVE_GROUP, {"group_id": group_id})

    async def list_members(
        self, group_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[GroupMember], str | None]:
        """Return one page of members by user id, and the cursor of the next page (None at the end)."""
        answer = await self._request(commands.LIST_MEMBERS, given(group_id=group_id, limit=limit, cursor=cursor))
        return take_page(answer, "members", GroupMember.from_wire)

    async def set_role(self, group_id: str, user_id: str, role: Role) -> None:
        """Make a member an admin, a plain member, or the owner in one's place; for the owner."""
        await self._request(commands.SET_ROLE, {"group_id": group_id, "user_id": user_id, "role": role})

    async def mute_member(self, group_id: str, user_id: str, duration_ms: int) -> int:
        """Let a member not write for a time; 0 lifts it. Returns until when, milliseconds since the epoch, or 0."""
        body = {"group_id": group_id, "user_id": user_id, "duration_ms": duration_ms}
        return take(await self._request(commands.MUTE_MEMBER, body), "muted_until", int, 0)

    async def join(self, group_id: str, message: str = "") -> str | None:
        """Join a group, or ask to; returns None when the user is a member now, else the id of the request that waits."""
        answer = await self._request(commands.JOIN_GROUP, {"group_id": group_id, "message": message})
        return None if take(answer, "joined", bool, False) else take(answer, "request_id", str)

    async def answer_join(self, request_id: str, accept: bool) -> None:
        """Let in who asks, or not; for the owner and the admins."""
        await self._request(commands.ANSWER_JOIN, {"request_id": request_id, "accept": accept})
