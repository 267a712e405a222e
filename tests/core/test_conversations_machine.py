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
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imserver import conversations as module
from imserver.batch import Write
from imserver.clock import SystemClock
from imserver.conversation import KEY_LIFE_MS, Draft, State, proof_of, write_state
from imserver.conversations import Conversations
from imserver.errors import Conflict, NotFound, NotLoaded, PermissionDenied, StorageUnavailable
from imserver.message_changes import _size
from imserver.protocol.body import encode_msgpack
from imserver.section import Section
from imserver.snowflake import Snowflakes
from imserver.storage.cursors import cursor_statements
from imserver.storage.database import Database
from imserver.storage.stores import Stores

USERS = ("ann", "bob", "cyd")
DIRECT = ("d:ann:bob", "d:ann:ann")
GROUPS = ("g:one", "g:two")
NAMES = DIRECT + GROUPS

names = st.sampled_from(NAMES)
groups = st.sampled_from(GROUPS)
client_ids = st.sampled_from(["k1", "k2", "k3", "k4"])
contents = st.sampled_from([("text", "a"), ("text", "b"), ("system", "a"), ("custom", {"x": [1]})])
seqs = st.integers(0, 12)
sides = st.integers(0, 2)
users = st.lists(st.sampled_from(USERS), min_size=1, max_size=3)
#: Of messages: most are asked for while there are few.
places = st.sampled_from([1, 1, 1, 2, 2, 3, 4])
appends = st.tuples(st.just("append"), names, sides, client_ids, contents)
membership = st.one_of(
    st.tuples(st.just("open"), groups, users),
    st.tuples(st.just("add"), groups, users, st.booleans()),
    st.tuples(st.just("remove"), groups, users),
    st.tuples(st.just("hide"), names, sides),
    st.tuples(st.just("set"), names, sides, st.booleans(), st.booleans()),
    st.tuples(st.just("fact"), names, st.integers(0, 3)),
)
changes = st.one_of(
    st.tuples(st.just("recall"), names, places),
    st.tuples(st.just("edit"), names, places, st.sampled_from(["a", "c"])),
    st.tuples(st.just("react"), names, places, sides, st.sampled_from("xy"), st.booleans()),
    st.tuples(st.just("delete"), names, places),
)
operations = st.one_of(appends, appends, st.tuples(st.just("read"), names, sides, seqs), membership, changes)
#: Those that change a message, which must be in memory first.
ON_MESSAGES = ("recall", "edit", "react")


class World:
    """Conversations by name: their messages in order, their members, and what each of these has read, hidden and set."""

    def __init__(self):
        self.messages = {name: [] for name in NAMES}
        self.rev = dict.fromkeys(NAMES, 0)
        self.facts = dict.fromkeys(NAMES, 0)
        self.is_open = set()  # groups that were opened
        self.left = {name: {} for name in NAMES}
        self.members = {name: {} for name in NAMES}
        for name in DIRECT:
            self.enter(name, name[2:].split(":"))

    def enter(self, name, users, joined=0, entered=0):
        for user in users:
            self.left[name].pop(user, None)
            self.members[name].setdefault(
                user, {"joined": joined, "entered": entered, "read": entered, "hidden": 0, "set": (False, False)}
            )

    def copy(self):
        return copy.deepcopy(self)

    def exists(self, name):
        return name in self.is_open or bool(self.messages[name])

    def user(self, name, side):
        """A user who may be a member of a group, and is one of a direct conversation."""
        return USERS[side] if name in GROUPS else sorted(self.members[name])[side % len(self.members[name])]

    def message(self, name, seq):
        """It, unless there is none, or none any more."""
        found = self.messages[name][seq - 1] if 0 < seq <= len(self.messages[name]) else None
        return None if found is None or found["deleted"] else found

    def unread(self, name, user):
        """Wire protocol, section 4, "Unread", word by word."""
        member = self.members[name][user]
        return sum(
            1
            for message in self.messages[name]
            if message["seq"] > max(member["read"], member["joined"], member["hidden"])
            and message["sender"] != user
            and message["type"] != "system"
            and not message["recalled"]
            and not message["deleted"]
        )

    def state(self, name, user):
        """What SYNC tells: of a member, of somebody who was one, of a stranger."""
        if user in self.left[name]:
            return ("left", self.left[name][user])
        if user not in self.members[name] or not self.exists(name):
            return None
        member = self.members[name][user]
        return (len(self.messages[name]), self.rev[name], member["read"], self.unread(name, user), *member["set"])

    def change(self, name, message, **fields):
        self.rev[name] += 1
        message.update(fields, rev=self.rev[name])


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
        self.database = Database(self.folder, {"test": ["CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER)"]})
        self.faulty = FaultyStore(self.database)
        self.stores = Stores(InlineReads(self.database), SystemClock())
        self.journal = ManualJournal(self.faulty, lambda batches: self.conversations.forget(batches))
        self.conversations = Conversations(
            snowflakes=Snowflakes(7, self.stores.conversations.last_snowflake(), self.clock.now_ms),
            clock=self.clock,
            load=self.stores.conversations.load,
            last_number=self.stores.conversations.last_conversation(),
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
        """It, or None for a group that was not opened."""
        found = self.conversations.require(name)
        if found is None and name in DIRECT:
            found = self.conversations.open_direct(name, name[2:].split(":"))
        return found

    def load_message(self, name):
        return lambda number, seq: self.stores.messages.open_message(name, number, seq)

    def prepare(self, operation, world):
        """A handler reads before it writes."""
        kind, name, *rest = operation
        conversation = self.conversation(name)
        if kind in ON_MESSAGES and conversation is not None:
            self.conversations.message_changes.require(conversation, rest[0], self.load_message(name))
        return len(world.messages[name])

    def run(self, handler):
        """As the router runs a `def` handler: again after each load; taken back if it raises."""
        for _ in range(20):
            self.section.begin()
            world = self.memory.copy()
            try:
                result = handler(world)
            except NotLoaded as exc:
                self.section.abandon()
                if exc.key[0] == "message" and exc.key[2] <= len(self.memory.messages[exc.key[1]]):
                    self.settle()
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

    def settle(self):
        """As the loader of a message waits for what is open or in flight."""
        for _ in range(2):
            if self.in_flight is None:
                self.take()
            if self.in_flight is not None:
                self.commit()

    def write(self, change, *args, **options):
        self.section.enter()
        try:
            return change(*args, **options)
        finally:
            self.section.leave()

    def append(self, world, name, side, client_id, content):
        user = world.user(name, side)
        message_type, body = content
        messages = world.messages[name]
        # Newest first: after its life a key may be used again.
        known = next((m for m in reversed(messages) if (m["sender"], m["client_id"]) == (user, client_id)), None)
        is_same = known is not None and known["first"] == content
        is_old = known is not None and self.clock.now_ms() - known["sent_at"] > KEY_LIFE_MS
        conversation = self.conversation(name)
        if conversation is None:
            return
        draft = Draft(name, user, client_id, message_type, body)
        try:
            stored = self.write(self.conversations.append, conversation, draft, 0)
        except Conflict as exc:
            assert known is not None, "a conflict with nothing"
            assert not is_same, "a conflict with the same content"
            assert exc.error == "idempotency_conflict"  # noqa: PT017 - whether it is raised depends on the model
            return
        except PermissionDenied:
            assert user not in world.members[name], "a member may not write"
            return
        if stored.message is None:
            assert known is not None, "a duplicate of nothing"
            assert is_same, "a duplicate of another content"
            first = (known["seq"], known["message_id"], known["sent_at"])
            assert (stored.seq, stored.message_id, stored.sent_at) == first
            return
        assert user in world.members[name], "who is no member has written"
        assert known is None or is_old, "a key was forgotten within its life"
        assert stored.seq == len(messages) + 1
        world.rev[name] += 1
        assert stored.message.rev == world.rev[name]
        assert set(conversation.recipients) == set(world.members[name])
        messages.append(
            {
                "seq": stored.seq,
                "rev": world.rev[name],
                "sender": user,
                "client_id": client_id,
                "type": message_type,
                "body": body,
                "message_id": stored.message_id,
                "sent_at": stored.sent_at,
                "first": content,
                "edited_at": None,
                "recalled": None,
                "reactions": None,
                "deleted": False,
            }
        )
        world.members[name][user]["read"] = stored.seq

    def read(self, world, name, side, seq):
        user = world.user(name, side)
        conversation = self.conversation(name)
        if conversation is None or user not in world.members[name]:
            return
        member = conversation.members[user]
        has_moved = self.write(self.conversations.mark_read, conversation, member, seq)
        wanted, known = min(seq, len(world.messages[name])), world.members[name][user]
        assert has_moved == (wanted > known["read"])
        known["read"] = max(known["read"], wanted)
        assert conversation.unread(member) == world.unread(name, user)

    def open_group(self, world, name, users):
        try:
            self.write(self.conversations.membership.open_group, name, users)
        except Conflict:
            assert name in world.is_open
            return
        assert name not in world.is_open
        world.is_open.add(name)
        world.enter(name, users)

    def add(self, world, name, users, sees_all):
        conversation = self.conversation(name)
        if conversation is None:
            return
        new = self.write(self.conversations.membership.add, conversation, users, sees_all=sees_all)
        assert new == [user for user in dict.fromkeys(users) if user not in world.members[name]]
        last = len(world.messages[name])
        world.enter(name, users, 0 if sees_all else last, last)

    def remove(self, world, name, users):
        conversation = self.conversation(name)
        if conversation is None:
            return
        gone = self.write(self.conversations.membership.remove, conversation, users)
        assert set(gone) == set(users) & set(world.members[name])
        for user in gone:
            del world.members[name][user]
            world.left[name][user] = len(world.messages[name])

    def hide(self, world, name, side):
        user = world.user(name, side)
        if world.exists(name) and user in world.members[name]:
            conversation = self.conversation(name)
            self.write(self.conversations.membership.hide, conversation, conversation.members[user])
            world.members[name][user]["hidden"] = len(world.messages[name])

    def set(self, world, name, side, muted, pinned):
        user = world.user(name, side)
        if world.exists(name) and user in world.members[name]:
            conversation = self.conversation(name)
            self.write(
                self.conversations.membership.set, conversation, conversation.members[user], muted=muted, pinned=pinned
            )
            world.members[name][user]["set"] = (muted, pinned)

    def change_message(self, world, name, seq, change, *args, **options):
        """Change a message; gives the model's, if it was changed."""
        conversation = self.conversation(name)
        if conversation is None:
            return None
        known = world.message(name, seq)
        try:
            found = self.write(change, conversation, seq, *args, self.load_message(name), **options)
        except NotFound:
            assert known is None
            return None
        except Conflict:
            assert known["recalled"]
            return None
        assert known is not None
        if found is None:
            return None
        assert found.rev == world.rev[name] + 1
        return known

    def recall(self, world, name, seq):
        known = self.change_message(world, name, seq, self.conversations.message_changes.recall)
        if known is not None:
            assert not known["recalled"]
            world.change(name, known, recalled=True, body=None, reactions=None, edited_at=None)

    def edit(self, world, name, seq, body):
        known = self.change_message(world, name, seq, self.conversations.message_changes.edit, body)
        if known is not None:
            assert known["edited_at"] is None or known["body"] != body
            world.change(name, known, body=body, edited_at=self.clock.now_ms())

    def react(self, world, name, seq, side, emoji, remove):
        user = world.user(name, side)
        react = self.conversations.message_changes.react
        known = self.change_message(world, name, seq, react, user, emoji, remove=remove)
        if known is not None:
            reactions = {key: list(whose) for key, whose in (known["reactions"] or {}).items()}
            assert (user in reactions.get(emoji, [])) == remove
            if remove:
                reactions[emoji].remove(user)
            else:
                reactions.setdefault(emoji, []).append(user)
            reactions = {key: whose for key, whose in reactions.items() if whose}
            world.change(name, known, reactions=reactions or None)

    def delete(self, world, name, seq):
        known = world.message(name, seq)
        if known is None:
            return
        conversation = self.conversation(name)
        kept = write_state(State(proof_of(known["first"][0], encode_msgpack(known["first"][1]))))
        self.write(self.conversations.message_changes.delete, conversation, [seq], [kept])
        known["deleted"] = True

    def fact(self, world, name, value):
        if not world.exists(name):
            return
        conversation = self.conversation(name)
        if (conversation.facts or {}).get("test", world.facts[name]) != world.facts[name]:
            raise AssertionError("a fact of another time")
        self.write(self.conversations.membership.set_fact, conversation, "test", value)
        statement = "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
        self.write(lambda: self.journal.open_batch().writes.append(Write([statement], 0)))
        world.facts[name] = value

    def carry_out(self, world, operation, counts):
        kind, name, *rest = operation
        if kind in (*ON_MESSAGES, "delete") and rest[0] > counts[name]:
            return  # it came in this very handler: it cannot be read from the file
        getattr(self, {"open": "open_group"}.get(kind, kind))(world, name, *rest)

    def handler(self, several):
        def handle(world):
            counts = {operation[1]: self.prepare(operation, world) for operation in several}
            for operation in several:
                self.carry_out(world, operation, counts)

        return handle

    # ------------------------------------------------------------ rules

    @initialize()
    def begin(self):
        """There is something to change from the start on."""
        said = [("append", name, 0, f"k{number}", ("text", "a")) for number in (1, 2) for name in ("d:ann:bob", "g:one")]
        self.run(self.handler([("open", "g:one", ["ann", "bob"]), *said]))
        self.commit_at_once()

    @rule(operation=operations)
    def handle(self, operation):
        self.run(self.handler([operation]))

    @rule(several=st.lists(operations, min_size=2, max_size=5))
    def handle_several(self, several):
        """A handler that does more than one thing."""
        try:
            self.run(self.handler(several))
        except AssertionError as exc:
            if "never loaded" not in str(exc):  # more conversations than memory has room for: not what this tests
                raise

    @rule(several=st.lists(operations, min_size=1, max_size=4))
    def handle_and_raise(self, several):
        """A handler that raises after it has written: nothing of it remains."""

        def handler(world):
            self.handler(several)(world)
            raise ZeroDivisionError

        with pytest.raises((ZeroDivisionError, AssertionError)) as caught:
            self.run(handler)
        if caught.type is AssertionError:
            assert "never loaded" in str(caught.value), caught.value

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
                batch.writes.append(Write(cursor_statements(rows, through), 0))
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
        rows, more = now(self.stores.sync.page(user, 0, 100))
        assert not more
        cursor = rows[-1].change if rows else 0
        # From the beginning nothing is told of what was hidden or left; that may be told again, or never.
        told = {row.conversation_id for row in rows}
        states = {name: self.durable.state(name, user) for name in NAMES}
        self.cursors[user].append((cursor, {name: state for name, state in states.items() if state is None or name in told}))

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
        open_seqs = {(name, seq) for name, found in self.conversations._by_id.items() for seq in found.open_seqs or ()}
        assert open_seqs == set(self.conversations.message_changes._open)
        for name, conversation in self.conversations._by_id.items():
            held += conversation.key_count
            messages = self.memory.messages[name]
            assert conversation.is_alive
            assert (conversation.last_seq, conversation.last_rev) == (len(messages), self.memory.rev[name])
            assert list(conversation.silent_seqs) == sorted(set(conversation.silent_seqs))
            assert (conversation.number is not None) == self.memory.exists(name)
            assert (conversation.facts or {}).get("test", self.memory.facts[name]) == self.memory.facts[name]
            if name in GROUPS or conversation.members:
                assert set(conversation.recipients) == set(conversation.members) == set(self.memory.members[name])
            for user, member in conversation.members.items():
                known = self.memory.members[name][user]
                assert (member.joined_seq, member.entered_seq) == (known["joined"], known["entered"])
                assert (member.read_seq, member.hidden_seq) == (known["read"], known["hidden"])
                assert (member.muted, member.pinned) == known["set"]
                assert conversation.unread(member) == self.memory.unread(name, user)
            for seq in conversation.open_seqs or ():
                self.check_open(name, seq)
        assert self.conversations._keys_held == held, "the bound on keys counts wrong"
        changes = self.conversations.message_changes
        assert changes._open_bytes == sum(map(_size, changes._open.values())), "the bound on bytes counts wrong"
        members = sum(len(found.members) for found in self.conversations._by_id.values())
        assert self.conversations._members_held == members, "the bound on members counts wrong"

    def check_open(self, name, seq):
        found, known = self.conversations.message_changes._open[name, seq], self.memory.message(name, seq)
        assert (found is None) == (known is None)
        if found is not None:
            assert {key: getattr(found.message, key) for key in SHOWN} == {key: known[key] for key in SHOWN}

    def check_durable(self):
        """The database, SYNC, CHANGES and what was pushed agree with the model's durable world."""
        for name in NAMES:
            messages = self.durable.messages[name]
            expected = [message for message in messages if not message["deleted"]]
            shown = [{key: message[key] for key in SHOWN} for message in expected]
            found = now(self.stores.messages.history(name, 0, 0, None, 1000)).messages
            assert [{key: getattr(message, key) for key in SHOWN} for message in found] == shown
            assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
            assert [(message.seq, message.message_id) for message in self.pushed[name]] == [
                (message["seq"], message["message_id"]) for message in messages
            ]
            for since in range(self.durable.rev[name] + 1):
                changed, last_rev = now(self.stores.messages.changes(name, 0, since, 1000))
                assert last_rev == self.durable.rev[name]
                revs = sorted((m["rev"], m["seq"]) for m in expected if m["rev"] > since)
                assert [(message.rev, message.seq) for message in changed] == revs
            value = self.database.read_now("SELECT coalesce(max(value), 0) FROM facts WHERE name = ?", (name,))[0][0]
            assert value == self.durable.facts[name]
        ids = [int(message["message_id"], 16) for name in NAMES for message in self.durable.messages[name]]
        assert len(set(ids)) == len(ids)
        for user in USERS:
            self.check_sync(user)

    def check_sync(self, user):
        rows, _ = now(self.stores.sync.page(user, 0, 100))
        found = {row.conversation_id: told_of(row) for row in rows}
        states = {name: self.durable.state(name, user) for name in NAMES}
        for name, state in states.items():
            member = self.durable.members[name].get(user)
            is_hidden = member is not None and 0 < member["hidden"] >= len(self.durable.messages[name])
            is_told = state is not None and state[0] != "left" and not is_hidden
            assert found.get(name) == (state if is_told else None)
        assert [row.change for row in rows] == sorted(row.change for row in rows)
        for cursor, before in self.cursors[user][-3:]:
            changed, _ = now(self.stores.sync.page(user, cursor, 100))
            told = {row.conversation_id: told_of(row) for row in changed}
            assert all(states[name] == state for name, state in told.items())
            if cursor:
                for name, state in before.items():
                    assert states[name] == state or name in told, "SYNC kept a change to itself"


#: What is compared of a message.
SHOWN = (
    "seq", "rev", "sender", "client_id", "type", "body", "message_id", "sent_at", "edited_at", "recalled", "reactions",
)  # fmt: skip


def told_of(row):
    """A row of SYNC as the model has it."""
    if row.is_left:
        return ("left", row.last_seq)
    return (row.last_seq, row.last_rev, row.read_seq, row.unread, row.muted, row.pinned)


Machine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestConversations = Machine.TestCase
