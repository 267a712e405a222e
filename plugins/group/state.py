"""A group in memory. It is this plugin's fact at the group's conversation: changed, undone and forgotten with it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from attrs import evolve, field, frozen

from imserver.plugin import Conflict, NotFound, PermissionDenied
from imserver_plugins.group import store

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Conversation

OWNER: Final = "owner"
ADMIN: Final = "admin"
MEMBER: Final = "member"
#: Mutes of one group that are kept for who has gone and may come back.
MAX_AWAY: Final = 1000
_RANKS: Final = {OWNER: 2, ADMIN: 1, MEMBER: 0}


@frozen
class Group:
    """What is known of a group beside its members, who are the conversation's.

    muted: only its owner and its admins may write.
    muted_until: by member, or who was one; times in milliseconds since the Unix epoch.
    """

    group_id: str
    name: str
    owner: str
    join: str
    history: str
    created_at: int
    avatar: str | None = None
    announcement: str | None = None
    muted: bool = False
    dismissed_at: int | None = None
    admins: frozenset[str] = frozenset()
    muted_until: Mapping[str, int] = field(factory=dict)

    def role_of(self, user_id: str) -> str:
        """Of a member."""
        if user_id == self.owner:
            return OWNER
        return ADMIN if user_id in self.admins else MEMBER

    def is_above(self, user_id: str, other_id: str) -> bool:
        """Whether a member has a say over another one."""
        return _RANKS[self.role_of(user_id)] > _RANKS[self.role_of(other_id)]

    def mutes_of(self, user_ids: Iterable[str], now_ms: int) -> dict[str, int]:
        """Until when those of these are muted who are."""
        ends = ((user_id, self.muted_until.get(user_id, 0)) for user_id in user_ids)
        return {user_id: until for user_id, until in ends if until > now_ms}

    def without(self, user_ids: list[str], members: Container[str], now_ms: int) -> tuple[Group, list[str]]:
        """After these have gone. Their mutes stay, so that nobody is rid of one by going and coming back.

        Returns it, and whose mutes are forgotten nevertheless: those that are over, and those nearest to their end beyond
        `MAX_AWAY`.
        """
        mutes = self.muted_until
        forgotten: list[str] = []
        if any(user_id in mutes for user_id in user_ids):
            away = sorted((until, user_id) for user_id, until in mutes.items() if user_id not in members)
            over = sum(until <= now_ms for until, _ in away)
            forgotten = [user_id for _, user_id in away[: max(over, len(away) - MAX_AWAY)]]
            mutes = {user_id: until for user_id, until in mutes.items() if user_id not in set(forgotten)}
        return evolve(self, admins=self.admins - set(user_ids), muted_until=mutes), forgotten


def conversation_id_of(group_id: str) -> str:
    """Wire protocol, section 3."""
    return f"g:{group_id}"


def find(ctx: AppContext, group_id: str) -> tuple[Conversation, Group]:
    """A group and its conversation, in memory.

    Raises:
        NotFound: there is none, or none any more.
        NotLoaded: let it pass.
    """
    conversation = ctx.conversations.require(conversation_id_of(group_id))
    group = None if conversation is None else ctx.conversations.fact(conversation, lambda: _load(ctx, group_id))
    if conversation is None or group is None or group.dismissed_at is not None:
        raise NotFound("there is no such group", field="group_id")
    return conversation, group


def find_own(ctx: AppContext, group_id: str, user_id: str, *, least: str = MEMBER) -> tuple[Conversation, Group]:
    """A group of a user's. It stays as it is until the handler has returned.

    Args:
        least: the role that the user must have.

    Raises:
        NotFound, NotLoaded: see `find`.
        PermissionDenied: the user is no member, or has too low a role.
    """
    ctx.conversations.hold()
    conversation, group = find(ctx, group_id)
    if user_id not in conversation.members:
        raise PermissionDenied("you are no member of this group", error="not_a_member")
    if _RANKS[group.role_of(user_id)] < _RANKS[least]:
        raise PermissionDenied(
            "only the group's owner may do this" if least == OWNER else "only the group's owner and admins may do this"
        )
    return conversation, group


def require_member(conversation: Conversation, user_id: str) -> None:
    """Somebody else must be a member.

    Raises:
        NotFound: they are not.
    """
    if user_id not in conversation.members:
        raise NotFound("this user is no member of the group", field="user_id")


def require_above(group: Group, user_id: str, other_id: str) -> None:
    """A member must have a say over another one.

    Raises:
        PermissionDenied: they have not.
    """
    if not group.is_above(user_id, other_id):
        raise PermissionDenied("this member's role is not below yours", field="user_id")


def require_room(conversation: Conversation, new: int, max_members: int) -> None:
    """There must be room for so many more.

    Raises:
        Conflict: there is not.
    """
    if len(conversation.members) + new > max_members:
        raise Conflict(f"a group has at most {max_members} members", error="group_full")


async def _load(ctx: AppContext, group_id: str) -> Group | None:
    found = await store.load(ctx.db, group_id)
    if found is None:
        return None
    (_, name, owner, avatar, announcement, join, history, muted, created_at, dismissed_at), special = found
    return Group(
        group_id, name, owner, join, history, created_at, avatar, announcement, bool(muted), dismissed_at,
        frozenset(user_id for user_id, role, _ in special if role == ADMIN),
        {user_id: until for user_id, _, until in special if until},
    )  # fmt: skip
