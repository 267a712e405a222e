"""Conversations, journal and database together, against a model that counts by brute force.

The model has three states of the world: what is durable, what is in flight, and what memory says. A commit that succeeds
makes the second the first; one that fails throws the other two away.
"""

import copy
import shutil
import tempfile
from pathlib import Path

import pytest
from helpers import FakeClock, FaultyStore, InlineReads, ManualJournal, ManualShard, now
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from imserver import conversations as module
from imserver.conversation import KEY_LIFE_MS, Draft
from imserver.conversations import Conversations
from imserver.errors import Conflict, NotLoaded, StorageUnavailable
from imserver.journal import Write
from imserver.section import Section
from imserver.snowflake import Snowflakes
from imserver.storage.database import Database
from imserver.storage.messages import MessageStore

USERS = ("ann", "bob", "cyd")
NAMES = ("d:ann:bob", "d:ann:cyd", "d:bob:cyd", "d:ann:ann")

names = st.sampled_from(NAMES)
client_ids = st.sampled_from(["k1", "k2", "k3", "k4"])
contents = st.sampled_from([("text", "a"), ("text", "b"), ("system", "a"), ("custom", {"x": [1]})])
seqs = st.integers(0, 12)
sides = st.integers(0, 1)
operations = st.one_of(
    st.tuples(st.just("append"), names, sides, client_ids, contents),
    st.tuples(st.just("read"), names, sides, seqs),
)


def members_of(name):
    """The two users of a conversation (or the one who writes to herself)."""
    return name[2:].split(":")


class World:
    """Conversations by name: their messages in order, and what each user has read."""

    def __init__(self):
        self.messages = {name: [] for name in NAMES}
        self.read = {name: dict.fromkeys(members_of(name), 0) for name in NAMES}

    def copy(self):
        return copy.deepcopy(self)

    def unread(self, name, user):
        """Wire protocol, section 4, "Unread", word by word."""
        return sum(
            1
            for message in self.messages[name]
            if message["seq"] > self.read[name][user] and message["sender"] != user and message["type"] != "system"
        )

    def state(self, name, user):
        return (len(self.messages[name]), self.read[name][user], self.unread(name, user))


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.max_conversations = module.MAX_CONVERSATIONS
        module.MAX_CONVERSATIONS = 2
        self.clock = FakeClock()
        self.durable = World()
        self.memory = World()
        self.in_flight = None  # (batch, world as of its end)
        self.pushed = {name: [] for name in NAMES}
        self.cursors = {user: [] for user in USERS}  # (cursor of SYNC, states as of then)
        self.open()

    def open(self):
        self.database = Database(self.folder, {})
        self.faulty = FaultyStore(self.database)
        self.store = MessageStore(InlineReads(self.database))
        self.journal = ManualJournal(self.faulty, lambda batches: self.conversations.forget(batches))
        self.conversations = Conversations(
            snowflakes=Snowflakes(7, self.store.last_snowflake(), self.clock.now_ms),
            clock=self.clock,
            load=self.store.load,
            last_number=self.store.last_conversation(),
            lock=self.journal.lock,
            open_batch=self.journal.open_batch,
        )
        self.handed_on = []
        self.section = Section(self.journal, self.conversations, 0, self.handed_on.extend)
        self.journal.start([ManualShard()])

    def teardown(self):
        module.MAX_CONVERSATIONS = self.max_conversations
        self.database.close()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------ handlers

    def conversation(self, name):
        found = self.conversations.require(name)
        return found if found is not None else self.conversations.open_direct(name, members_of(name))

    def run(self, handler):
        """As the router runs a `def` handler: again after each load; taken back if it raises."""
        for _ in range(10):
            self.section.begin()
            world = self.memory.copy()
            try:
                result = handler(world)
            except NotLoaded as exc:
                self.section.abandon()
                now(exc.loader())
            except Exception:
                self.section.abandon()
                raise
            else:
                self.section.seal()
                self.section.release()
                self.memory = world
                return result
        raise AssertionError("it is never loaded")

    def append(self, world, name, side, client_id, content):
        user = members_of(name)[side]
        message_type, body = content
        messages = world.messages[name]
        # Newest first: after its life a key may be used again.
        known = next((m for m in reversed(messages) if (m["sender"], m["client_id"]) == (user, client_id)), None)
        is_same = known is not None and (known["type"], known["body"]) == content
        is_old = known is not None and self.clock.now_ms() - known["sent_at"] > KEY_LIFE_MS
        conversation = self.conversation(name)
        draft = Draft(name, user, client_id, message_type, body)
        self.section.enter()
        try:
            stored = self.conversations.append(conversation, draft, 0)
        except Conflict as exc:
            assert known is not None, "a conflict with nothing"
            assert not is_same, "a conflict with the same content"
            assert exc.error == "idempotency_conflict"  # noqa: PT017 - whether it is raised depends on the model
            return
        finally:
            self.section.leave()
        if stored.message is None:
            assert known is not None, "a duplicate of nothing"
            assert is_same, "a duplicate of another content"
            first = (known["seq"], known["message_id"], known["sent_at"])
            assert (stored.seq, stored.message_id, stored.sent_at) == first
            return
        assert known is None or is_old, "a key was forgotten within its life"
        assert stored.seq == len(messages) + 1
        messages.append(
            {
                "seq": stored.seq,
                "sender": user,
                "client_id": client_id,
                "type": message_type,
                "body": body,
                "message_id": stored.message_id,
                "sent_at": stored.sent_at,
            }
        )
        world.read[name][user] = stored.seq

    def mark_read(self, world, name, side, seq):
        user = members_of(name)[side]
        conversation = self.conversation(name)
        member = conversation.members[user]
        self.section.enter()
        try:
            has_moved = self.conversations.mark_read(conversation, member, seq)
        finally:
            self.section.leave()
        wanted = min(seq, len(world.messages[name]))
        assert has_moved == (wanted > world.read[name][user])
        world.read[name][user] = max(world.read[name][user], wanted)
        assert conversation.unread(member) == world.unread(name, user)

    def carry_out(self, world, operation):
        kind, *rest = operation
        (self.append if kind == "append" else self.mark_read)(world, *rest)

    # ------------------------------------------------------------ rules

    @rule(operation=operations)
    def handle(self, operation):
        self.run(lambda world: self.carry_out(world, operation))

    @rule(several=st.lists(operations, min_size=2, max_size=5))
    def handle_several(self, several):
        """A handler that does more than one thing."""

        def handler(world):
            for operation in several:
                self.conversation(operation[1])  # it reads before it writes
            for operation in several:
                self.carry_out(world, operation)

        before = self.memory
        try:
            self.run(handler)
        except AssertionError as exc:
            if "never loaded" not in str(exc):  # more conversations than memory has room for: not what this tests
                raise
            self.memory = before

    @rule(several=st.lists(operations, min_size=1, max_size=4))
    def handle_and_raise(self, several):
        """A handler that raises after it has written: nothing of it remains."""

        def handler(world):
            for operation in several:
                self.conversation(operation[1])
            for operation in several:
                self.carry_out(world, operation)
            raise ZeroDivisionError

        before = self.memory.copy()
        with pytest.raises((ZeroDivisionError, AssertionError)) as caught:
            self.run(handler)
        if caught.type is AssertionError:
            assert "never loaded" in str(caught.value), caught.value
        self.memory = before

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def take(self):
        batch = self.journal.take()
        if batch is not None:
            self.in_flight = (batch, self.memory.copy())

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def commit(self):
        batch, world = self.in_flight
        assert self.journal.finish(batch)
        self.in_flight = None
        self.durable = world
        for message in batch.messages[0]:
            self.pushed[message.conversation_id].append(message)
        self.check_durable()

    @precondition(lambda self: self.in_flight is not None)
    @rule(is_own_fault=st.booleans())
    def fail(self, is_own_fault):
        batch, _ = self.in_flight
        on_top = self.journal.current
        self.faulty.fail_next(ZeroDivisionError() if is_own_fault else StorageUnavailable("full"))
        assert not self.journal.finish(batch)
        assert on_top.state == batch.state or not (on_top.rows or on_top.writes or on_top.undo)
        self.in_flight = None
        self.memory = self.durable.copy()
        self.check_durable()

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def commit_at_once(self):
        self.take()
        if self.in_flight is not None:
            self.commit()

    @rule()
    def fold(self):
        """As the server does once a second."""
        self.section.enter()
        try:
            rows, through = self.conversations.collect_dirty_cursors()
            if through:
                batch = self.journal.open_batch()
                batch.writes.append(Write(MessageStore.cursor_statements(rows, through), 0))
                batch.rows += 1
        finally:
            self.section.leave()

    @rule(hours=st.sampled_from([-1, 0.001, 1, 11, 25]))
    def time_passes(self, hours):
        self.clock.advance(hours * 3600)

    @rule(name=names)
    def load(self, name):
        """Something is brought into memory, and something else may have to go."""
        now(self.conversations.load(name))
        assert len(self.conversations._by_id) <= len(NAMES)

    @rule(user=st.sampled_from(USERS))
    def sync(self, user):
        """A device takes the state as of now, to ask for the changes later."""
        rows, more = now(self.store.sync(user, 0, 100))
        assert not more
        cursor = rows[-1].change if rows else 0
        self.cursors[user].append((cursor, {name: self.durable.state(name, user) for name in NAMES if user in name}))

    @rule()
    def crash(self):
        """The process is killed: what is not durable is gone, and everything is read from the file again."""
        self.database.close()
        self.in_flight = None
        self.memory = self.durable.copy()
        self.open()
        self.check_durable()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def memory_agrees(self):
        held = 0
        for name, conversation in self.conversations._by_id.items():
            held += conversation.key_count
            messages = self.memory.messages[name]
            assert conversation.is_alive
            assert conversation.last_seq == conversation.last_rev == len(messages)
            assert list(conversation.silent_seqs) == [m["seq"] for m in messages if m["type"] == "system"]
            assert (conversation.number is None) == (not messages)
            for user, member in conversation.members.items():
                assert member.read_seq == self.memory.read[name][user]
                assert conversation.unread(member) == self.memory.unread(name, user)
        assert self.conversations._keys_held == held, "the bound on keys counts wrong"

    def check_durable(self):
        """The database, SYNC and what was pushed agree with the model's durable world."""
        for name in NAMES:
            expected = self.durable.messages[name]
            found = now(self.store.history(name, 0, 0, None, 1000)).messages
            keys = ("seq", "sender", "client_id", "type", "body", "message_id", "sent_at")
            assert [{key: getattr(message, key) for key in keys} for message in found] == expected
            assert [message.seq for message in found] == list(range(1, len(expected) + 1))
            assert [(message.seq, message.message_id) for message in self.pushed[name]] == [
                (message["seq"], message["message_id"]) for message in expected
            ]
        ids = [int(message["message_id"], 16) for name in NAMES for message in self.durable.messages[name]]
        assert len(set(ids)) == len(ids)
        for user in USERS:
            rows, _ = now(self.store.sync(user, 0, 100))
            found = {row.conversation_id: (row.last_seq, row.read_seq, row.unread) for row in rows}
            assert found == {
                name: self.durable.state(name, user)
                for name in NAMES
                if user in members_of(name) and self.durable.messages[name]
            }
            assert [row.change for row in rows] == sorted(row.change for row in rows)
            for cursor, states in self.cursors[user][-3:]:
                changed, _ = now(self.store.sync(user, cursor, 100))
                told = {row.conversation_id for row in changed}
                for name, before in states.items():
                    assert self.durable.state(name, user) == before or name in told, "SYNC kept a change to itself"


Machine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestConversations = Machine.TestCase
