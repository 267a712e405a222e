"""Users: accounts, profiles, devices, presence (commands 1001–1013; the login itself is in client.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from . import commands
from .caller import Caller, given
from .taking import take, take_maps, take_maybe, take_page, take_strings


@frozen
class User:
    """A user's public profile. `created_at`: milliseconds since the epoch."""

    user_id: str
    nickname: str
    avatar: str | None = None
    bio: str | None = None
    created_at: int = 0

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> User:
        """Check and convert one user map.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            user_id=take(body, "user_id", str),
            nickname=take(body, "nickname", str, ""),
            avatar=take(body, "avatar", str, "") or None,
            bio=take(body, "bio", str, "") or None,
            created_at=take(body, "created_at", int, 0),
        )


@frozen
class Device:
    """One session of one's own, on line or not. `connected_at`: milliseconds since the epoch."""

    session_id: str
    device_id: str
    platform: str
    address: str
    connected_at: int
    is_online: bool

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Device:
        """Check and convert one device map.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            session_id=take(body, "session_id", str),
            device_id=take(body, "device_id", str, ""),
            platform=take(body, "platform", str, ""),
            address=take(body, "address", str, ""),
            connected_at=take(body, "connected_at", int, 0),
            is_online=take(body, "online", bool, False),
        )


@frozen
class Presence:
    """A user is there or not: an answer, or the event that a watched one came or went.

    Attributes:
        platforms: of the devices that are on line.
        last_seen: milliseconds since the epoch; None where it is not known, or not told.
    """

    user_id: str
    is_online: bool
    platforms: tuple[str, ...] = ()
    last_seen: int | None = None

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Presence:
        """Check and convert one entry of an answer, or a push.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type.
        """
        return cls(
            take(body, "user_id", str),
            take(body, "online", bool),
            take_strings(body, "platforms"),
            take_maybe(body, "last_seen", int),
        )


class UserCalls(Caller):
    """What a `Client` can ask about users."""

    async def register(self, user_id: str, password: str, nickname: str | None = None) -> None:
        """Make an account. It does not log in.

        Raises:
            Conflict: the user id is taken.
            ConnectionLost: not known; try to log in, or register again and take Conflict for a success.
        """
        body = {"user_id": user_id, "password": password}
        await self.request(commands.REGISTER, body if nickname is None else {**body, "nickname": nickname})

    async def change_password(self, old_password: str, new_password: str) -> None:
        """Change the password; the user's other sessions end.

        Raises:
            Unauthenticated: the old password is wrong.
            ConnectionLost: not known.
        """
        await self.request(commands.CHANGE_PASSWORD, {"old_password": old_password, "new_password": new_password})

    async def update_profile(
        self, *, nickname: str | None = None, avatar: str | None = None, bio: str | None = None
    ) -> None:
        """Set the fields that are given; the others stay."""
        fields = {"nickname": nickname, "avatar": avatar, "bio": bio}
        await self.request(commands.UPDATE_PROFILE, {name: value for name, value in fields.items() if value is not None})

    async def get_users(self, user_ids: Iterable[str]) -> list[User]:
        """Return the profiles of those users that exist."""
        answer = await self.request(commands.GET_USER, {"user_ids": list(user_ids)})
        return [User.from_wire(entry) for entry in take_maps(answer, "users")]

    async def search_users(self, query: str, *, limit: int = 50, cursor: str | None = None) -> tuple[list[User], str | None]:
        """Return one page of users, and the cursor of the next page (None at the end)."""
        body: dict[str, Any] = {"query": query, "limit": limit}
        answer = await self.request(commands.SEARCH_USERS, body if cursor is None else {**body, "cursor": cursor})
        return take_page(answer, "users", User.from_wire)

    async def list_devices(self) -> list[Device]:
        """Return the user's sessions."""
        answer = await self.request(commands.LIST_DEVICES)
        return [Device.from_wire(entry) for entry in take_maps(answer, "devices")]

    async def kick_device(self, session_id: str) -> None:
        """End another of the user's sessions; its client gets `SessionKicked`."""
        await self.request(commands.KICK_DEVICE, {"session_id": session_id})

    async def get_presence(self, user_ids: Iterable[str]) -> list[Presence]:
        """Return who of these is on line, on which platforms, or when they were seen last (where they let it be known)."""
        answer = await self.request(commands.GET_PRESENCE, {"user_ids": list(user_ids)})
        return [Presence.from_wire(entry) for entry in take_maps(answer, "presence")]

    async def watch_presence(self, user_ids: Iterable[str], *, unwatch: bool = False) -> list[Presence]:
        """Be told, by `Presence` events, when these users come and go; or (`unwatch`) no longer.

        The server watches for as long as this connection lasts: after a reconnect (`wait_connected`) ask again.
        """
        body = {"user_ids": list(user_ids), **({"unwatch": True} if unwatch else {})}
        answer = await self.request(commands.WATCH_PRESENCE, body)
        return [Presence.from_wire(entry) for entry in take_maps(answer, "presence")]

    async def set_push_token(self, provider: str, token: str, *, app: str = "") -> None:
        """Let this device be woken by a push service while it is off line.

        Args:
            provider: as the server's owner has set it up: `apns`, `fcm`, …
            app: which of one provider's apps: the topic of APNs.
        """
        await self.request(commands.SET_PUSH_TOKEN, {"provider": provider, "token": token, "app": app})

    async def remove_push_token(self, token: str | None = None) -> None:
        """Let this token wake nobody any more; without one, what this device has registered."""
        await self.request(commands.REMOVE_PUSH_TOKEN, given(token=token))

    async def notify(
        self,
        topic: str,
        body: Any = None,
        *,
        user_ids: Iterable[str] | None = None,
        group_id: str | None = None,
        everybody: bool = False,
    ) -> int:
        """Push a notice to sessions that are on line; for admins. Returns to how many.

        Args:
            topic: 1–128 characters; what kind of notice it is.
            user_ids, group_id, everybody: to whom; one of them.
        """
        to = given(user_ids=None if user_ids is None else [*user_ids], group_id=group_id, all=everybody or None)
        return take(await self.request(commands.NOTIFY, {"topic": topic, "body": body, **to}), "sessions", int)
