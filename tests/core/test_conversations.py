"""Conversations in memory: what the machine's model does not reach: bounds, races with loads, the life of keys."""

import pytest
from helpers import FakeClock, ManualJournal, ManualShard, now

from imserver import conversations as module
from imserver.conversation import KEY_LIFE_MS, Draft
from imserver.conversations import Conversations, LoadedConversation
from imserver.errors import NotLoaded
from imserver.snowflake import Snowflakes


class NoStore:
    """A store that takes everything and keeps nothing."""

    def commit(self, batch):
        pass

    def tend(self, *, idle):
        pass


class Memory:
    """Conversations over a loader that a test plays."""

    def __init__(self):
        self.clock = FakeClock()
        self.loads = []
        self.known = {}
        self.on_load = None
        self.journal = ManualJournal(NoStore(), lambda batches: self.all.forget(batches))
        self.all = Conversations(
            snowflakes=Snowflakes(1, 0, self.clock.now_ms),
            clock=self.clock,
            load=self.load,
            last_number=0,
            lock=self.journal.lock,
            open_batch=self.journal.open_batch,
        )
        self.journal.start([ManualShard()])

    async def load(self, conversation_id, keys_since):
        self.loads.append(conversation_id)
        assert len(self.loads) < 1000, "it loads for ever"
        found = self.known.get(conversation_id)
        if self.on_load is not None:
            self.on_load()
        return found

    def open(self, name):
        now(self.all.load(name))
        return self.all.open_direct(name, name[2:].split(":"))

    def say(self, conversation, client_id, sender="a", body="x"):
        with self.journal.lock:
            return self.all.append(conversation, Draft(conversation.conversation_id, sender, client_id, "text", body), 0)


@pytest.fixture
def memory():
    """Conversations of a test's own."""
    return Memory()


def test_what_is_loaded_is_not_the_first_to_go(memory, monkeypatch):
    """Where memory is full and all of it pinned by open batches, a load still ends, and what it loaded is there."""
    monkeypatch.setattr(module, "MAX_CONVERSATIONS", 2)
    pinned = [memory.open(f"d:a:{name}") for name in "bc"]
    for conversation in pinned:
        memory.say(conversation, "k")
    for name in "defg":
        now(memory.all.load(f"d:a:{name}"))
        assert memory.all.get(f"d:a:{name}") is not None
    assert all(conversation.is_alive for conversation in pinned)
    assert len(memory.all._by_id) <= 4


def test_memory_is_bounded(memory, monkeypatch):
    """However many are asked for, and what was evicted says so to whoever holds it."""
    monkeypatch.setattr(module, "MAX_CONVERSATIONS", 10)
    first = memory.open("d:a:u000")
    for index in range(1, 100):
        memory.open(f"d:a:u{index:03}")
        assert len(memory.all._by_id) <= 10
    assert not first.is_alive
    with pytest.raises(NotLoaded):
        memory.say(first, "k")


def test_the_keys_of_all_are_bounded(memory, monkeypatch):
    """A conversation with many keys makes room: at the latest once it is durable and folded."""
    monkeypatch.setattr(module, "MAX_KEYS", 50)
    busy = memory.open("d:a:b")
    for index in range(60):
        memory.say(busy, f"k{index}")
    now(memory.all.load("d:a:c"))
    assert busy.is_alive, "what is not durable was evicted"
    assert memory.journal.commit_now()
    memory.all.collect_dirty_cursors()
    for name in "defgh":
        now(memory.all.load(f"d:a:{name}"))
    assert memory.all._keys_held <= 50


def test_a_load_that_was_overtaken_reads_again(memory):
    """It was in memory, changed and gone while a load read the state before: that state must not come back."""
    name = "d:a:b"

    def overtake():
        memory.on_load = None
        memory.known[name] = LoadedConversation(1, "direct", 7, 7, [("a", 0, 0, 0), ("b", 0, 0, 0)], [], [])
        with memory.journal.lock:
            memory.all.forget([])

    memory.on_load = overtake
    now(memory.all.load(name))
    assert memory.all.get(name).last_seq == 7
    assert len(memory.loads) == 2


def test_a_conversation_that_is_not_there_is_remembered(memory):
    """Asking again for what does not exist costs no second look."""
    now(memory.all.load("d:a:b"))
    for _ in range(3):
        assert memory.all.require("d:a:b") is None
        now(memory.all.load("d:a:b"))
    assert memory.loads == ["d:a:b"]


def test_the_life_of_a_key(memory):
    """24 hours at least, 48 at most while messages come; then the same client_id is a new message."""
    conversation = memory.open("d:a:b")
    first = memory.say(conversation, "k")
    hour_ms = 3_600_000
    for hour in range(1, 24):
        memory.clock.advance(3600)
        memory.say(conversation, f"other {hour}")
        assert memory.say(conversation, "k").seq == first.seq
    memory.clock.advance((KEY_LIFE_MS - 23 * hour_ms) / 1000)
    assert memory.say(conversation, "k").message is None
    for _ in range(3):
        memory.clock.advance(25 * 3600)
        memory.say(conversation, f"at {memory.clock.now_ms()}")
    assert memory.say(conversation, "k").message is not None
    assert conversation.key_count == memory.all._keys_held


def test_another_sender_s_key_is_another_key(memory):
    """The sender is part of it, and so is the conversation."""
    one, other = memory.open("d:a:b"), memory.open("d:a:c")
    assert memory.say(one, "k", "a").seq == 1
    assert memory.say(one, "k", "b").seq == 2
    assert memory.say(other, "k", "a").seq == 1
    assert memory.say(one, "k", "a").message is None


def test_what_a_table_does_not_know_yet_is_not_evicted(memory, monkeypatch):
    """A read cursor moved by an own message is in memory alone until it is folded: so long its conversation stays."""
    monkeypatch.setattr(module, "MAX_CONVERSATIONS", 2)
    conversation = memory.open("d:a:b")
    memory.say(conversation, "k")
    assert memory.journal.commit_now()
    for number in range(20):
        now(memory.all.load(f"d:x:{number}"))
    assert conversation.is_alive
    with memory.journal.lock:
        memory.all.collect_dirty_cursors()  # the first one is of all that was before, and has no rows
    for number in range(20):
        now(memory.all.load(f"d:y:{number}"))
    assert not conversation.is_alive


def test_the_cursor_of_a_conversation_that_stayed_is_folded(memory, monkeypatch):
    """It is written where the sender stands, whatever was loaded meanwhile."""
    monkeypatch.setattr(module, "MAX_CONVERSATIONS", 2)
    with memory.journal.lock:
        memory.all.collect_dirty_cursors()
    conversation = memory.open("d:a:b")
    for key in "kl":
        memory.say(conversation, key)
    assert memory.journal.commit_now()
    for number in range(20):
        now(memory.all.load(f"d:x:{number}"))
    assert memory.all.get("d:a:b").members["a"].read_seq == 2
    with memory.journal.lock:
        rows, _ = memory.all.collect_dirty_cursors()
    assert rows == [(conversation.number, "a", 2)]
