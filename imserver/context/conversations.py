"""`ctx.conversations`: looking one up, `transact`, members, what a plugin keeps at one, cursors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from imserver.batch import write_result
from imserver.context.api import Api
from imserver.context.database import Pending
from imserver.context.settled import read_settled
from imserver.errors import InternalError, NotLoaded, Unavailable
from imserver.storage.deliveries import confirm_statements

if TYPE_CHECKING:
    from imserver.caller import Caller
    from imserver.context.application import AppContext
    from imserver.conversation import Conversation, Member
    from imserver.protocol.message import Message
    from imserver.shard import Shard
    from imserver.storage.deliveries import Missed
    from imserver.storage.sync import SyncRow

T = TypeVar("T")

#: How often what `transact` runs may ask for something else that is not in memory before it is given up.
_MAX_LOADS = 8


class ConversationsApi(Api):
    """Members, cursors and look-ups of conversations.

    `require(conversation_id)` is for `def` handlers: the conversation, or None if there is none; it raises NotLoaded if it
    is not in memory.
    """

    def __init__(self, shard: Shard, context: AppContext) -> None:
        self._shard = shard
        self._context = context
        self.require = shard.conversations.require
        self._membership = shard.conversations.membership

    async def fetch(self, conversation_id: str) -> Conversation | None:
        """The conversation, or None if there is none. For `async def` handlers: look, do not keep it over an await."""
        conversations, load = self._shard.conversations, self._shard.router.load
        while (found := conversations.get(conversation_id)) is None:
            await load(NotLoaded(lambda: conversations.load(conversation_id), ("conversation", conversation_id)))
        return found if found.number is not None or found.members else None

    async def transact(self, handler: Callable[[Any], T]) -> T:
        """Run `handler(ctx)` as a `def` handler: one critical section, again after each load, whole or not at all.

        For `async def` handlers and background tasks: what it reads is memory, what it writes lies in one commit. Returns
        what it returned, once that is durable.

        Raises:
            ImError: of the handler; nothing of it remains.
            StorageUnavailable: it could not be stored; nothing was.
        """
        shard, inner = self._shard, self._context._for_def_handler()
        for _ in range(_MAX_LOADS):
            shard.section.begin()
            try:
                shard.section.hold()  # from its first look on: a check that another shard could overtake is none
                result = handler(inner)
            except NotLoaded as exc:
                shard.section.abandon()
                wanted = exc
            except BaseException:
                shard.section.abandon()
                raise
            else:
                writes = shard.section.seal()
                shard.section.release()
                shard.end_of_turn()
                await shard.wait_durable()
                for write in writes or ():
                    write_result(write)
                return result
            await shard.router.load(wanted)
        raise Unavailable("this needs more loads than allowed")

    def hold(self) -> None:
        """Let no other shard change anything until this `def` handler has returned.

        For a handler whose writes rest on what it looks at before (a role, say): without this another shard may change that
        between the look and the first write. Hold, then look. What `transact` runs holds from the beginning.

        Raises:
            InternalError: no `def` handler runs.
        """
        if not self._shard.section.in_handler:
            raise InternalError("hold is for def handlers; others use transact")
        self._shard.section.hold()

    def open_direct(self, conversation_id: str, user_ids: Iterable[str]) -> Conversation:
        """Begin a direct conversation between users that exist; its first message creates it."""
        return self._shard.conversations.open_direct(conversation_id, user_ids)

    # ------------------------------------------------------------ members

    def open_group(self, conversation_id: str, user_ids: Iterable[str]) -> Conversation:
        """Begin a group conversation with these members, who exist. Its id is used once for ever.

        Raises:
            Conflict: there is, or was, one of this id.
            NotLoaded: let it pass.
        """
        return self._write(lambda: self._membership.open_group(conversation_id, user_ids))

    def add_members(self, conversation: Conversation, user_ids: Iterable[str], *, history: str = "joined") -> list[str]:
        """Users, who exist, belong to a conversation from this place in the order on; returns those who are new.

        Args:
            history: "joined": they see what comes from here on; "all": everything. Unread counts from here on.
        """
        if history not in ("joined", "all"):
            raise InternalError(f"history is joined or all, not {history!r}")
        sees_all = history == "all"
        return self._write(lambda: self._membership.add(conversation, user_ids, sees_all=sees_all))

    def remove_members(self, conversation: Conversation, user_ids: Iterable[str]) -> list[str]:
        """End memberships at this place in the order: from here on they get nothing and may do nothing. Returns whose.

        Their devices learn of it by SYNC with a cursor (`SyncRow.is_left`).
        """
        return self._write(lambda: self._membership.remove(conversation, user_ids))

    def hide(self, conversation: Conversation, member: Member) -> None:
        """Take a conversation and its past from a member's sight alone; it comes back with the next message."""
        self._write(lambda: self._membership.hide(conversation, member))

    def set_settings(
        self, conversation: Conversation, member: Member, *, muted: bool | None = None, pinned: bool | None = None
    ) -> None:
        """Change a member's settings of a conversation; None: as it is. `member.muted`, `member.pinned` are what it is."""
        self._write(lambda: self._membership.set(conversation, member, muted=muted, pinned=pinned))

    def readers(self, conversation: Conversation, seq: int, sender: str) -> tuple[list[str], int]:
        """Who has read up to a message, and how many have not; its sender and who came later are left out."""
        return conversation.readers(seq, sender)

    # ------------------------------------------------------------ what a plugin keeps at a conversation

    def fact(self, conversation: Conversation, load: Callable[[], Awaitable[Any]]) -> Any:
        """This plugin's own value at a conversation: from committed data at first, then as `set_fact` has it.

        Args:
            load: gives it, when it is not in memory.

        Raises:
            NotLoaded: that has to be; let it pass.
        """
        plugin = self._context.plugin.name
        facts = conversation.facts
        if facts is None or plugin not in facts:
            raise NotLoaded(
                lambda: self._load_fact(conversation, plugin, load), ("fact", plugin, conversation.conversation_id)
            )
        return facts[plugin]

    async def _load_fact(self, conversation: Conversation, plugin: str, load: Callable[[], Awaitable[Any]]) -> None:
        # What was set before the conversation came into memory is committed; what is set from now on is there.
        value = await load()
        with self._shard.conversations.lock:
            if conversation.is_alive:
                if conversation.facts is None:
                    conversation.facts = {}
                conversation.facts.setdefault(plugin, value)

    def set_fact(self, conversation: Conversation, value: object) -> None:
        """Replace this plugin's value at a conversation; the caller writes its own table beside it.

        It is undone with the handler, and forgotten with a commit that fails. It must not be changed later.
        """
        plugin = self._context.plugin.name
        self._write(lambda: self._membership.set_fact(conversation, plugin, value))

    def peek_fact(self, conversation: Conversation, plugin: str) -> object | None:
        """What another plugin keeps at a conversation; None: nothing that is in memory.

        As long as it is the same object nothing of it has changed: so an answer of that plugin's can be used later, in a
        critical section, where it cannot be asked.
        """
        return None if conversation.facts is None else conversation.facts.get(plugin)

    # ------------------------------------------------------------ cursors and reading

    def mark_read(self, conversation: Conversation, member: Member, seq: int) -> bool:
        """Move a member's read cursor forward; returns whether it moved. The answer waits for the commit."""
        has_moved = self._shard.mark_read(conversation, member, seq)
        self._context.has_written()
        return has_moved

    async def sync(
        self, user_id: str, cursor: int, limit: int, *, device_id: str | None = None
    ) -> tuple[list[SyncRow], bool]:
        """A user's conversations that changed after `cursor`, oldest change first; and whether there are more.

        A message whose recipients were chosen before this session came, and whose commit is still under way, is waited
        for: it is in the snapshot, as it will not be pushed.

        Args:
            device_id: whose `delivered_seq` is told; None: the highest of all the user's devices.
        """
        await self._shard.wait_settled()
        return await self._shard.stores.sync.page(user_id, cursor, limit, device_id=device_id)

    async def missed(self, user_id: str, device_id: str) -> list[Missed]:
        """The conversations with messages that a device has not confirmed; waits as `sync` does."""
        await self._shard.wait_settled()
        return await self._shard.stores.deliveries.missed(user_id, device_id)

    async def messages_after(self, missed: Missed, after_seq: int, limit: int) -> list[Message]:
        """The next messages of one of these, none in an older state than was pushed; none if the user has left meanwhile."""
        deliveries = self._shard.stores.deliveries
        return await read_settled(
            self._shard, missed.conversation_id, lambda: deliveries.messages_after(missed, after_seq, limit)
        )

    def confirm(self, session: Caller, rows: list[tuple[int, int]], *, is_first: bool) -> Pending:
        """Write what a session's device has confirmed; a cursor never goes back.

        Args:
            rows: (conversation number, seq) each.
            is_first: the session's first write; it makes room if the user has had very many devices.
        """
        assert session.user_id is not None
        # Devices without an id of their own cannot ask for what they missed: one row stands for all of them.
        device_id = session.device_id if session.has_own_device else ""
        now_ms = self._shard.clock.now_ms()
        statements = confirm_statements(session.user_id, device_id, rows, now_ms, is_first=is_first)
        write = self._shard.write(statements)
        self._context.has_written()
        return Pending(write, is_single=False)
