"""`ctx.messages`: appending a message to a conversation's order, changing those that are stored, reading them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from imserver.context.api import Api
from imserver.context.settled import read_settled
from imserver.conversation import Draft
from imserver.errors import ImError, NotLoaded
from imserver.protocol.body import decode_msgpack, encode_content
from imserver.protocol.message import Message
from imserver.send_hooks import BoundHooks
from imserver.snowflake import sent_at_ms

if TYPE_CHECKING:
    from imserver.context.application import AppContext
    from imserver.conversation import Conversation, OpenMessage, Stored
    from imserver.message_changes import MessageLoader
    from imserver.shard import Shard
    from imserver.storage.messages import History, Over


class MessagesApi(Api):
    """Appending and reading messages."""

    def __init__(self, shard: Shard, context: AppContext) -> None:
        self._shard = shard
        self._context = context
        self._section = shard.section
        self._append = shard.conversations.append
        self._find_duplicate = shard.conversations.find_duplicate
        self._send_hooks = BoundHooks(shard.send_hooks, context)
        self._changes = shard.conversations.message_changes

    def append(self, conversation: Conversation, draft: Draft) -> Stored:
        """Store a message: its place in the order is fixed now, its commit follows. Runs the `before_send` hooks.

        Returns what it was stored as; `message` is None if this `client_id` had stored it before, whatever a hook says now.

        Raises:
            Conflict: the `client_id` was used for another content.
            ImError: a hook refused it.
            NotLoaded: something is not in memory; let it pass.
        """
        section = self._section
        section.enter()  # what a hook allows must still be so at the message's place in the order
        kind, content = draft.type, draft.body
        encoded = None
        if type(content) is not str:
            encoded = encode_content(content)
            # Hooks may change it in place, and run again behind a load: what the sender has said stays as it is.
            content = draft.body = decode_msgpack(encoded)
        try:
            try:
                self._send_hooks.run(draft)
            except NotLoaded:
                raise
            except ImError:
                # Blocked or muted since it was stored: who sends it again, as its answer was lost, gets that answer.
                known = self._find_duplicate(conversation, draft, (kind, encoded or encode_content(content)))
                if known is None:
                    raise
                return known
            said = None
            has_changed = draft.body != content if encoded is None else encode_content(draft.body) != encoded
            if has_changed or draft.type != kind:
                said = kind, encoded or encode_content(content)
            stored = self._append(conversation, draft, self._shard.index, said)
        finally:
            section.leave()
        if not section.in_handler or self._context._is_async:
            self._context.has_written()
        return stored

    def find_duplicate(self, conversation: Conversation, draft: Draft) -> Stored | None:
        """What `append` answers to a message that it has stored before; None: it has not, or with another content.

        For who may not write any more: whose message was accepted is to be told so, however often they ask.
        """
        return self._find_duplicate(conversation, draft)

    def append_system(self, conversation: Conversation, body: Any) -> Stored:
        """Store a message of the server itself: type "system", `from` empty, in nobody's unread. No hook sees it."""
        client_id = f"{self._shard.next_snowflake():016x}"
        draft = Draft(conversation.conversation_id, "", client_id, "system", body)
        return self._write(lambda: self._append(conversation, draft, self._shard.index))

    # ------------------------------------------------------------ changes of stored messages

    def require(self, conversation: Conversation, seq: int) -> Message | None:
        """A stored message as it is at this place in the order; None: there is none, or its time is over.

        Raises:
            NotLoaded: it is not in memory; let it pass.
        """
        return self._changes.require(conversation, seq, self._loader(conversation))

    def recall(self, conversation: Conversation, seq: int) -> Message | None:
        """Take a message's content away for everybody, and it out of every unread count.

        Returns its new state; None: it was recalled before, and nothing has happened.

        Raises:
            NotFound: there is no such message.
            NotLoaded: it is not in memory; let it pass.
        """
        load = self._loader(conversation)
        return self._write(lambda: self._changes.recall(conversation, seq, load))

    def edit(self, conversation: Conversation, seq: int, body: Any) -> Message | None:
        """Give a message another body. Runs the `before_send` hooks, as if it were sent now.

        Returns its new state; None: an edit has given it this body before, and nothing has happened.

        Raises:
            Conflict: it was recalled.
            NotFound: there is no such message.
            ImError: a hook refused it.
            NotLoaded: it is not in memory; let it pass.
        """
        load = self._loader(conversation)

        def write() -> Message | None:
            message = self._changes.require(conversation, seq, load)
            new_body = body
            if message is not None:
                draft = Draft(
                    conversation.conversation_id, message.sender, message.client_id, message.type, body,
                    message.reply_to, message.mentions,
                )  # fmt: skip
                self._send_hooks.run(draft)
                new_body = draft.body
            return self._changes.edit(conversation, seq, new_body, load)

        return self._write(write)

    def react(
        self, conversation: Conversation, seq: int, user_id: str, emoji: str, *, remove: bool = False
    ) -> Message | None:
        """Add a user's reaction to a message, or take it back.

        Returns its new state; None: it is so already, and nothing has happened.

        Raises:
            TooLarge: see the bounds in `imserver.message_changes`.
            Conflict: it was recalled.
            NotFound: there is no such message.
            NotLoaded: it is not in memory; let it pass.
        """
        load = self._loader(conversation)
        return self._write(lambda: self._changes.react(conversation, seq, user_id, emoji, load, remove=remove))

    def _loader(self, conversation: Conversation) -> MessageLoader:
        async def load(number: int, seq: int) -> OpenMessage | None:
            await self._shard.wait_settled()  # its row may be on its way
            return await self._shard.stores.messages.open_message(conversation.conversation_id, number, seq)

        return load

    def age_ms(self, message: Message) -> int:
        """How long ago a message was stored, by the clock, whatever the time in its id says."""
        return max(0, self._shard.clock.now_ms() - self._shard.conversations.made_at_ms(message))

    async def delete_expired(self, limit: int) -> int:
        """Delete the contents of messages whose time is over, one small step; returns of how many. For background tasks."""
        return await self._delete(await self._shard.stores.messages.expired(limit))

    async def delete_older(self, kind: str, before_ms: int, limit: int, after_id: int = 0) -> tuple[int, int | None]:
        """Delete the contents of messages from before a time, one small step. For background tasks.

        Args:
            kind: of their conversations: "direct" or "group".
            before_ms: milliseconds since the Unix epoch.
            limit: how many messages are looked at.
            after_id: what the step before has returned.

        Returns:
            Of how many, and the `after_id` of the next step; None: that was all.
        """
        over, next_id = await self._shard.stores.messages.aged(kind, before_ms, after_id, limit)
        return await self._delete(over), next_id

    async def _delete(self, over: list[Over]) -> int:
        by_conversation: dict[str, list[Over]] = {}
        for one in over:
            by_conversation.setdefault(one.conversation_id, []).append(one)
        for conversation_id, ones in by_conversation.items():
            await self._context.conversations.transact(partial(self._delete_in, conversation_id, ones))
        return len(over)

    def _delete_in(self, conversation_id: str, over: list[Over], ctx: AppContext) -> None:
        conversation = ctx.conversations.require(conversation_id)
        if conversation is not None:
            seqs, states = [one.seq for one in over], [one.state for one in over]
            self._write(lambda: self._changes.delete(conversation, seqs, states))

    # ------------------------------------------------------------ reading

    def check(self, draft: Draft) -> None:
        """Run the `before_send` hooks alone: for what is no message (typing), or to load together what several need.

        Raises:
            ImError: a hook refused it.
            NotLoaded: something is not in memory; let it pass.
        """
        if type(draft.body) is not str:
            draft.body = decode_msgpack(encode_content(draft.body))  # they may change it in place
        self._send_hooks.run(draft)

    def fleeting(self, draft: Draft) -> dict[str, Any]:
        """A message that is pushed and never stored: it has an id and a time but no `seq`. Runs the `before_send` hooks."""
        self._send_hooks.run(draft)
        snowflake = self._shard.next_snowflake()
        message = {
            "conversation_id": draft.conversation_id,
            "message_id": f"{snowflake:016x}",
            "client_id": draft.client_id,
            "from": draft.sender,
            "sent_at": sent_at_ms(snowflake),
            "type": draft.type,
            "body": draft.body,
        }
        if draft.mentions:
            message["mentions"] = draft.mentions
        return message

    async def history(
        self,
        conversation_id: str,
        *,
        first_visible: int = 0,
        after_seq: int | None = None,
        before_seq: int | None = None,
        limit: int = 50,
    ) -> History:
        """A page of committed messages, ascending by `seq`, none in an older state than was pushed before."""
        messages = self._shard.stores.messages
        return await read_settled(
            self._shard,
            conversation_id,
            lambda: messages.history(conversation_id, first_visible, after_seq, before_seq, limit),
        )

    async def changes(
        self, conversation_id: str, *, first_visible: int = 0, since_rev: int, limit: int
    ) -> tuple[list[Message], int]:
        """What changed after `since_rev`, in `rev` order, and the newest `rev`."""
        messages = self._shard.stores.messages
        return await read_settled(
            self._shard, conversation_id, lambda: messages.changes(conversation_id, first_visible, since_rev, limit)
        )
