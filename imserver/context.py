"""What a handler or hook is given: `Context` with a session, `AppContext` without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio

from imserver.config import as_plain
from imserver.conversation import Draft
from imserver.errors import Conflict, ImError, InternalError, NotLoaded, StorageUnavailable, Unavailable
from imserver.journal import FAILED, OPEN, Batch, Write, write_result
from imserver.protocol.message import Message
from imserver.send_hooks import BoundHooks
from imserver.snowflake import sent_at_ms

if TYPE_CHECKING:
    import random

    from imserver.cache import Cache
    from imserver.caller import Caller
    from imserver.clock import Clock
    from imserver.config import Config
    from imserver.conversation import Conversation, Member, OpenMessage, Stored
    from imserver.directory import Directory
    from imserver.figures import Figures
    from imserver.message_changes import MessageLoader
    from imserver.plugin import Plugin
    from imserver.session import Session
    from imserver.shard import Shard
    from imserver.storage.database import Query, Row
    from imserver.storage.messages import History, Missed, Over, SyncRow

T = TypeVar("T")

#: How often what `transact` runs may ask for something else that is not in memory before it is given up.
_MAX_LOADS = 8


class Pending(Awaitable[Any]):
    """A write that is part of a commit to come. Awaiting it is optional; it need not be awaited to happen."""

    def __init__(self, write: Write, *, is_single: bool) -> None:
        self._write = write
        self._is_single = is_single
        self._done = trio.Event()
        write.on_done = self._done.set

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait until the commit is durable.

        Raises:
            ConstraintViolated: the write broke a constraint; nothing of it is stored.
            StorageUnavailable: the commit failed.
        """
        return self._result().__await__()

    async def _result(self) -> Any:
        await self._done.wait()
        results = write_result(self._write)
        return results[0] if self._is_single else results


class PluginDatabase:
    """The database as a plugin has it: reads of committed data, writes that join the group commit."""

    def __init__(self, shard: Shard, context: AppContext) -> None:
        self._shard = shard
        self._context = context

    async def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """The rows of one SELECT, on committed data, in a worker thread."""
        return await self._shard.database.read(sql, params)

    async def read_transaction(self, read: Callable[[Query], T]) -> T:
        """Run `read(query)` in a worker thread; all its `query(sql, params)` see the same state."""
        return await self._shard.database.read_transaction(read)

    def write(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> Pending:
        """One statement in the commit to come; awaited, it gives the rows of its RETURNING.

        In a `def` handler just call it: the answer waits for the commit, and is an error if the write fails.
        """
        write = self._shard.write([(sql, params)])
        self._context.has_written()
        return Pending(write, is_single=True)

    def write_all(self, statements: Sequence[tuple[str, Any]]) -> Pending:
        """Several statements, all or none; awaited, it gives each one's rows."""
        write = self._shard.write(statements)
        self._context.has_written()
        return Pending(write, is_single=False)


def _in_section(shard: Shard, context: AppContext, write: Callable[[], T]) -> T:
    """Write in the handler's critical section, or outside of one in one of its own."""
    section = shard.section
    section.enter()
    try:
        result = write()
    finally:
        section.leave()
    context.has_written()
    return result


class MessagesApi:
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
        try:
            try:
                self._send_hooks.run(draft)
            except NotLoaded:
                raise
            except ImError:
                # Blocked or muted since it was stored: who sends it again, as its answer was lost, gets that answer.
                known = self._find_duplicate(conversation, draft)
                if known is None:
                    raise
                return known
            stored = self._append(conversation, draft, self._shard.index)
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

    def _write(self, write: Callable[[], T]) -> T:
        return _in_section(self._shard, self._context, write)

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
            return await self._shard.store.open_message(conversation.conversation_id, number, seq)

        return load

    async def delete_expired(self, limit: int) -> int:
        """Delete the contents of messages whose time is over, one small step; returns of how many. For background tasks."""
        return await self._delete(await self._shard.store.expired(limit))

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
        over, next_id = await self._shard.store.aged(kind, before_ms, after_id, limit)
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
        """A page of committed messages, ascending by `seq`."""
        return await self._shard.store.history(conversation_id, first_visible, after_seq, before_seq, limit)

    async def changes(
        self, conversation_id: str, *, first_visible: int = 0, since_rev: int, limit: int
    ) -> tuple[list[Message], int]:
        """What changed after `since_rev`, in `rev` order, and the newest `rev`."""
        return await self._shard.store.changes(conversation_id, first_visible, since_rev, limit)


class ConversationsApi:
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
        while (found := self._shard.conversations.get(conversation_id)) is None:
            await self._shard.conversations.load(conversation_id)
        return found if found.number is not None or found.members else None

    async def transact(self, handler: Callable[[Any], T]) -> T:
        """Run `handler(ctx)` as a `def` handler: one critical section, again after each load, whole or not at all.

        For `async def` handlers and background tasks: what it reads is memory, what it writes lies in one commit. Returns
        what it returned, once that is durable.

        Raises:
            ImError: of the handler; nothing of it remains.
            StorageUnavailable: it could not be stored; nothing was.
        """
        shard, context = self._shard, self._context
        inner = context
        if isinstance(context, Context):
            inner = Context(context, context.session, is_async=False)
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
            await wanted.loader()
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

    def _write(self, write: Callable[[], T]) -> T:
        return _in_section(self._shard, self._context, write)

    # ------------------------------------------------------------ cursors and reading

    def mark_read(self, conversation: Conversation, member: Member, seq: int) -> bool:
        """Move a member's read cursor forward; returns whether it moved. The answer waits for the commit."""
        has_moved = self._shard.mark_read(conversation, member, seq)
        self._context.has_written()
        return has_moved

    async def sync(self, user_id: str, cursor: int, limit: int) -> tuple[list[SyncRow], bool]:
        """A user's conversations that changed after `cursor`, oldest change first; and whether there are more.

        A message whose recipients were chosen before this session came, and whose commit is still under way, is waited
        for: it is in the snapshot, as it will not be pushed.
        """
        await self._shard.wait_settled()
        return await self._shard.store.sync(user_id, cursor, limit)

    async def missed(self, user_id: str, device_id: str) -> list[Missed]:
        """The conversations with messages that a device has not confirmed; waits as `sync` does."""
        await self._shard.wait_settled()
        return await self._shard.store.missed(user_id, device_id)

    async def messages_after(self, missed: Missed, after_seq: int, limit: int) -> list[Message]:
        """The next messages of one of these; none if the user has left it meanwhile."""
        return await self._shard.store.messages_after(missed, after_seq, limit)

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
        statements = self._shard.store.delivery_statements(session.user_id, device_id, rows, now_ms, is_first=is_first)
        write = self._shard.write(statements)
        self._context.has_written()
        return Pending(write, is_single=False)


class Activity:
    """What runs in one shard on behalf of one instance of a plugin: a reload waits for its requests and ends its tasks."""

    __slots__ = ("requests", "tasks")

    def __init__(self) -> None:
        #: Requests that take longer than a tick.
        self.requests = 0
        #: Background tasks.
        self.tasks: set[trio.CancelScope] = set()


class AppContext:
    """What a plugin has of the server, in one shard.

    Attributes:
        settings: an instance of the plugin's `Settings`, or None.
        config, clock, random, log, cache, db, directory, messages, conversations: see their classes.
    """

    #: A request's own: if something that it wrote is lost, the request has failed. Others go on after a failure.
    is_of_one_request = False

    _is_async = True  # what follows a write may do so after other handlers ran

    def __init__(self, shard: Shard, plugin: Plugin, settings: Any, cache: Cache) -> None:
        self._shard = shard
        self.plugin = plugin
        self.settings = settings
        self.config: Config = shard.config
        self.clock: Clock = shard.clock
        self.random: random.Random = shard.random
        self.log = shard.log.bind(plugin=plugin.name)
        self.cache = cache
        #: The API's own.
        self.activity = Activity()
        self.directory: Directory = shard.directory
        #: The batches that this context wrote to and that `wait_durable` has not seen the end of.
        self._unfinished: list[Batch] = []
        #: The plugins' `before_send`; the router fills it in when all plugins have their contexts.
        self._make_apis()

    def _make_apis(self) -> None:
        self.db = PluginDatabase(self._shard, self)
        self.messages = MessagesApi(self._shard, self)
        self.conversations = ConversationsApi(self._shard, self)

    @property
    def figures(self) -> Figures:
        """How the whole server is doing: `snapshot()`, `plugins`."""
        figures = self._shard.figures
        if figures is None:
            raise InternalError("there are no figures before the server is put together")
        return figures

    def plain_config(self) -> dict[str, Any]:
        """The whole configuration as keys and TOML values, secrets masked: for people to look at."""
        return as_plain(self.config)

    def of(self, plugin: str) -> AppContext:
        """The same for another plugin: with its cache and settings."""
        return self._shard.router.app_context(plugin)

    def has_written(self) -> None:
        """What this context does next may rest on a batch that is not durable yet."""
        if self._is_async:
            newest = self._shard.newest_batch
            self._unfinished = [batch for batch in self._unfinished if batch is not newest and self._matters(batch)]
            if newest is not None:
                self._unfinished.append(newest)

    def _matters(self, batch: Batch) -> bool:
        return batch.state == OPEN or (batch.state == FAILED and self.is_of_one_request)

    async def wait_durable(self) -> None:
        """Wait until all that was written through this context is durable.

        Raises:
            StorageUnavailable: it could not be.
        """
        unfinished, self._unfinished = self._unfinished, []
        for batch in unfinished:
            await self._shard.wait_batch(batch)

    def push(self, user_ids: Iterable[str], command: int, body: Any, *, except_session: Caller | None = None) -> None:
        """Send a push to every live session of these users.

        It leaves when what its handler could have seen (`def`: memory; `async def`: committed data) and what it wrote is
        durable. It is encoded once an encoding.

        Args:
            body: a mapping, attrs or Struct instance, as the wire protocol's section 5 has it.
        """
        if self.is_of_one_request and any(batch.state == FAILED for batch in self._unfinished):
            raise StorageUnavailable("what this push tells of could not be stored")
        # Inside of a handler (`transact`, a listener) it rests on what that does, and is dropped with it.
        if self._shard.section.in_handler or any(batch.state == OPEN for batch in self._unfinished):
            self._shard.push(user_ids, command, body, except_session)
        else:
            self._shard.push_committed(user_ids, command, body, except_session)

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the listeners of an event (`@on_event`), at once."""
        self._shard.router.emit(self._shard, event, fields)
        self.has_written()  # what a listener wrote is in the same commit

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a background task; it ends with the server. What it raises is logged and ends that task alone."""
        self._shard.start_plugin_task(self, task, *args)

    async def run_sync_in_thread(
        self, function: Callable[..., T], *args: Any, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """Run what blocks in a worker thread."""
        return await trio.to_thread.run_sync(function, *args, limiter=limiter or self._shard.worker_limiter)


class Context(AppContext):
    """What a handler has: the server and the session that asks.

    Attributes:
        session: who asks, whatever door the request came in by.
    """

    def __init__(self, app: AppContext, session: Caller, *, is_async: bool) -> None:
        self.__dict__.update(app.__dict__)
        self._unfinished = []
        self._make_apis()
        self.session = session
        self._is_async = is_async

    @property
    def connection(self) -> Session:
        """The live session that asks: there is one in the hooks `on_connect`, `on_login` and `on_disconnect`.

        Raises:
            Conflict: the request came over HTTP.
        """
        session = self.session
        if not session.is_live:
            raise Conflict("this needs a connection that stays; ask over TCP or WebSocket")
        return cast("Session", session)

    def of(self, plugin: str) -> AppContext:
        """See `AppContext.of`."""
        context: AppContext = self._shard.router.context(self.session, plugin, is_async=self._is_async)
        return context

    def of_retired(self, plugin: Plugin) -> Context:
        """The same for an instance of a plugin that a reload has replaced; see `Router.retired_context`."""
        return self._shard.router.retired_context(plugin, self.session)

    def push(self, user_ids: Iterable[str], command: int, body: Any, *, except_session: Caller | None = None) -> None:
        """See `AppContext.push`."""
        if self._is_async:
            super().push(user_ids, command, body, except_session=except_session)
        else:
            self._shard.push(user_ids, command, body, except_session)

    def login(
        self,
        *,
        user_id: str,
        session_id: str,
        device_id: str | None = None,
        platform: str = "",
        roles: Iterable[str] = (),
        compress: bool = False,
        deliver: str = "new",
        expires_at_ms: int | None = None,
    ) -> str:
        """Bind this connection to a user; only in an `async def` handler.

        The session enters the directory, replaces the one with the same device, and the plugins' `on_login` run. Its
        pushes wait until the running request's answer is out. A request over HTTP is from then on this user's; there is no
        connection to bind.

        Returns the device id, made up if there was none.

        Raises:
            Conflict: it is bound already.
        """
        session = self.session
        if session.is_closed:
            raise Conflict("the connection is closing")
        if session.user_id is not None:
            raise Conflict("this connection is logged in; open another one")
        if not self._is_async:
            raise InternalError("ctx.login is for async handlers")
        session.platform = platform
        session.roles = frozenset(roles)
        session.deliver_mode = deliver
        session.expires_at_ms = expires_at_ms
        session.set_compress(compress)
        replaced = session.bind(user_id, session_id, device_id)
        if replaced is not None:
            replaced.revoke("replaced", "this device has logged in on another connection")
        if session.is_live:
            self._shard.router.logged_in(self.connection)
        return session.device_id

    def logout_after_answer(self, error: str = "kicked", message: str = "logged out") -> None:
        """Carry out nothing more of this connection; GOAWAY follows the answer of this `async def` handler."""
        self.session.close_after_answer(error, message)

    async def call(self, command_id: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call another service's command as this session; returns the response's fields once they are durable.

        Raises:
            ImError: it refused.
        """
        return await self._shard.router.call(self.session, command_id, body)
