"""Conversations and their messages, apart from SEND: history, read marks, recall, edit, reactions, search, settings."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from . import commands
from .caller import Caller, given
from .taking import take, take_page
from .types import ChangesPage, ConversationSettings, Message, MessagePage, Receipts, SyncPage


class ConversationCalls(Caller):
    """What a `Client` can do with conversations and the messages in them."""

    @abstractmethod
    def _tell(self, command: int, body: dict[str, Any]) -> bool:
        """Send what wants no answer and is worth nothing later; returns whether it went out."""

    # -------------------------------------------------------------- reading

    async def pull(
        self, conversation_id: str, *, after_seq: int | None = None, before_seq: int | None = None, limit: int = 50
    ) -> MessagePage:
        """Return a page of history, ascending by `seq`; the newest without a bound. It moves no mark of `messages()`."""
        body = given(conversation_id=conversation_id, after_seq=after_seq, before_seq=before_seq, limit=limit)
        return MessagePage.from_wire(await self.request(commands.PULL, body))

    async def sync(self, cursor: str | None = None, *, limit: int = 50) -> SyncPage:
        """Return a page of conversations: those that changed since `cursor`; all without one.

        For showing a list of conversations; `messages()` does not need it, and it moves nothing of its own.
        """
        return SyncPage.from_wire(await self.request(commands.SYNC, given(limit=limit, cursor=cursor or None)))

    async def changes(self, conversation_id: str, since_rev: int, *, limit: int = 50) -> ChangesPage:
        """Return a page of the messages that changed after `since_rev` (new, recalled, edited, reacted to), as they are now.

        For programs that keep a copy of their own; `events()` does not need it.
        """
        body = {"conversation_id": conversation_id, "since_rev": since_rev, "limit": limit}
        return ChangesPage.from_wire(await self.request(commands.CHANGES, body))

    async def search(
        self,
        query: str,
        *,
        conversation_id: str | None = None,
        from_: str | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[Message], str | None]:
        """Find messages in one's own conversations, Chinese as well as English; newest first.

        Args:
            from_: of this sender alone.
            since, until: milliseconds since the epoch.

        Returns:
            One page, and the cursor of the next (None at the end).
        """
        bounds = given(conversation_id=conversation_id, since=since, until=until, cursor=cursor)
        sender = {} if from_ is None else {"from": from_}
        answer = await self.request(commands.SEARCH, {"query": query, "limit": limit, **bounds, **sender})
        return take_page(answer, "messages", Message.from_wire)

    async def mark_read(self, conversation_id: str, seq: int) -> int:
        """Move the user's read mark up to `seq`; returns how many messages are still unread."""
        answer = await self.request(commands.MARK_READ, {"conversation_id": conversation_id, "seq": seq})
        return take(answer, "unread", int, 0)

    async def receipts(self, conversation_id: str, seq: int) -> Receipts:
        """Return who has read a message, and how many have not; the sender is in neither."""
        return Receipts.from_wire(await self.request(commands.RECEIPTS, {"conversation_id": conversation_id, "seq": seq}))

    # -------------------------------------------------------------- changing

    async def recall(self, conversation_id: str, seq: int) -> None:
        """Take a message back; all get a `MessageChanged`.

        One's own, for a while after it was sent (two minutes, unless the server is set otherwise); in a group, its owner
        and its admins may recall anybody's, at any time.

        Raises:
            Forbidden, Conflict: it is another's, or too old.
            NotFound: there is no such message.
        """
        await self.request(commands.RECALL, {"conversation_id": conversation_id, "seq": seq})

    async def edit(self, conversation_id: str, seq: int, body: Any) -> int:
        """Give one's own message another body; returns `edited_at`, milliseconds since the epoch.

        Raises:
            Forbidden: it is another's.
            Conflict: it was recalled.
        """
        answer = await self.request(commands.EDIT, {"conversation_id": conversation_id, "seq": seq, "body": body})
        return take(answer, "edited_at", int)

    async def react(self, conversation_id: str, seq: int, emoji: str, *, remove: bool = False) -> None:
        """Put a reaction of one's own on a message, or (`remove`) take it away.

        Raises:
            Conflict: the message was recalled.
            TooLarge: it has as many reactions as it may have.
        """
        body: dict[str, Any] = {"conversation_id": conversation_id, "seq": seq, "emoji": emoji}
        await self.request(commands.REACT, {**body, "remove": True} if remove else body)

    async def delete_conversation(self, conversation_id: str) -> None:
        """Hide a conversation, and all that is in it, from this user alone; it is back with the next message."""
        await self.request(commands.DELETE_CONVERSATION, {"conversation_id": conversation_id})

    async def set_conversation(
        self, conversation_id: str, *, muted: bool | None = None, pinned: bool | None = None
    ) -> ConversationSettings:
        """Set what is given of the user's own settings of a conversation; returns all of them."""
        body = given(conversation_id=conversation_id, muted=muted, pinned=pinned)
        return ConversationSettings.from_wire(await self.request(commands.CONVERSATION_SETTINGS, body))

    def typing(self, to: str, is_on: bool = True) -> bool:
        """Tell the others of a conversation that the user types, or has stopped. Never stored, never answered.

        Args:
            to: a user id, or a conversation id.

        Returns:
            False if it could not be told now: there is no connection, or it is busy. There is no use in trying again.
        """
        return self._tell(commands.TYPING, {"conversation_id" if ":" in to else "to": to, "on": is_on})
