"""Who belongs to a conversation, and what each member has set for it. Hold the journal's lock for each change.

A change has its place in the order like a message: the members at a message's place are its recipients. It is undone with
its handler, and durable in one commit with all else that the handler wrote.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from imserver.conversation import GROUP, Conversation, Member
from imserver.errors import Conflict, InternalError, NotLoaded, PermissionDenied
from imserver.storage import changes

if TYPE_CHECKING:
    from imserver.conversations import Conversations

#: Members of a new group that go into the rows of its conversation; the others follow in the same commit.
_FIRST_MEMBERS = 1000


class Membership:
    """The members of all conversations; `Conversations` has one."""

    def __init__(self, conversations: Conversations) -> None:
        self._all = conversations

    def open_group(self, conversation_id: str, user_ids: Iterable[str]) -> Conversation:
        """Begin a group conversation; its row and its members are written now. The caller has checked the users.

        Raises:
            Conflict: there is or was one of this id.
            NotLoaded: whether there is one is not in memory.
        """
        users = list(dict.fromkeys(user_ids))
        if not users:
            raise InternalError("a group begins with one member at least")
        conversation = self._all.get(conversation_id)
        if conversation is None:
            raise NotLoaded(lambda: self._all.load(conversation_id), ("conversation", conversation_id))
        if conversation.number is not None or conversation.kind != GROUP:
            raise Conflict("there is, or was, a group of this id; choose another one", error="already_exists")
        members = [self._all.first_member(user_id) for user_id in users]
        change = self._all.next_snowflake()
        conversation.set_members({member.user_id: member for member in members[:_FIRST_MEMBERS]})
        batch = self._all.create(conversation, change)
        self._set(conversation, {member.user_id: member for member in members})
        batch.undo.append((conversation, partial(self._unopen, conversation, batch.opened)))
        rest = members[_FIRST_MEMBERS:]
        if rest:
            assert conversation.number is not None
            self._all.change(conversation, changes.enter(conversation.number, rest, change), _nothing)
        return conversation

    def _unopen(self, conversation: Conversation, opened: list[Any]) -> None:
        opened.pop()  # newest first, as all is taken back
        conversation.number = None
        conversation.facts = None
        self._set(conversation, {})

    def _set(self, conversation: Conversation, members: dict[str, Member]) -> None:
        conversation.set_members(members)
        self._all.count_members(conversation)

    def add(self, conversation: Conversation, user_ids: Iterable[str], *, sees_all: bool) -> list[str]:
        """Let users belong to a conversation from this place in the order on; returns those who did not before.

        Args:
            sees_all: what was before, too; it counts as unread in no case.
        """
        number = self._number_of(conversation)
        seq = conversation.last_seq
        new = [
            Member(user_id, 0 if sees_all else seq, seq, 0, seq)
            for user_id in dict.fromkeys(user_ids)
            if user_id not in conversation.members
        ]
        if new:
            statements = changes.enter(number, new, self._all.next_snowflake())
            before = conversation.members
            self._all.change(conversation, statements, lambda: self._set(conversation, before))
            self._set(conversation, {**before, **{member.user_id: member for member in new}})
        return [member.user_id for member in new]

    def remove(self, conversation: Conversation, user_ids: Iterable[str]) -> list[str]:
        """End memberships at this place in the order; returns whose."""
        number = self._number_of(conversation)
        before = conversation.members
        gone = {user_id: before[user_id] for user_id in user_ids if user_id in before}
        if gone:
            statements = changes.leave(number, list(gone.values()), conversation.last_seq, self._all.next_snowflake())
            self._all.change(conversation, statements, lambda: self._set(conversation, before))
            self._set(conversation, {user_id: member for user_id, member in before.items() if user_id not in gone})
        return list(gone)

    def hide(self, conversation: Conversation, member: Member) -> None:
        """Take all that was from a member's sight, and from theirs alone."""
        number = self._require_member(conversation, member)
        before, seq = member.hidden_seq, conversation.last_seq

        def undo() -> None:
            member.hidden_seq = before

        statements = changes.hide(number, member.user_id, seq, self._all.next_snowflake())
        self._all.change(conversation, statements, undo)
        member.hidden_seq = seq

    def set(self, conversation: Conversation, member: Member, *, muted: bool | None, pinned: bool | None) -> None:
        """Change a member's settings; None: as it is."""
        number = self._require_member(conversation, member)
        before = (member.muted, member.pinned)
        after = (before[0] if muted is None else muted, before[1] if pinned is None else pinned)
        if after == before:
            return

        def undo() -> None:
            member.muted, member.pinned = before

        statements = changes.settings(number, member.user_id, *after, self._all.next_snowflake())
        self._all.change(conversation, statements, undo)
        member.muted, member.pinned = after

    # ------------------------------------------------------------ what plugins keep at a conversation

    def set_fact(self, conversation: Conversation, plugin: str, value: object) -> None:
        """Replace what a plugin keeps at a conversation."""
        self._all.require_alive(conversation)
        facts = conversation.facts
        if facts is None:
            facts = conversation.facts = {}
        was_there, before = plugin in facts, facts.get(plugin)

        def undo() -> None:
            if was_there:
                facts[plugin] = before
            else:
                facts.pop(plugin, None)

        self._all.change(conversation, (), undo)
        facts[plugin] = value

    # ------------------------------------------------------------ checks

    def _number_of(self, conversation: Conversation) -> int:
        self._all.require_alive(conversation)
        if conversation.number is None:
            raise InternalError(f"{conversation.conversation_id} has not begun: it has no members to change")
        return conversation.number

    def _require_member(self, conversation: Conversation, member: Member) -> int:
        number = self._number_of(conversation)
        if conversation.members.get(member.user_id) is not member:
            raise PermissionDenied("you are not part of this conversation")
        return number


def _nothing() -> None:
    """What was done is undone with something else."""
