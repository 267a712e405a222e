"""The delivery state machine: whatever the wire does, each message once and in order."""

import json

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.client.changes import Changes
from imserver.client.delivery import MAX_CHANGED, MAX_EARLY, Delivery, History
from imserver.client.state import Position, State
from imserver.client.types import Conversation, Message

NAME = "d:alice:bob"


def message(seq, *, from_="alice", client_id="x", name=NAME, rev=None, body=None):
    """A message at a place."""
    return Message(name, seq, rev or seq, f"{seq:016x}", client_id, from_, 0, "text", body if body is not None else seq)


def entry(last_seq, *, delivered=0, read=0, name=NAME):
    """A conversation as SYNC shows it."""
    return Conversation(name, last_seq, last_seq, read, delivered, 0, None)


def started(**options):
    """A delivery of bob's, after a first SYNC that showed an empty world."""
    delivery = Delivery(State(user_id="bob", sender="me"), **options)
    delivery.synced([], "c", more=False)
    return delivery


def drain(delivery):
    """Take every message that is ready; returns their places."""
    seqs = []
    while (ready := delivery.next_message()) is not None:
        seqs.append(ready.seq)
        delivery.taken(ready)
    return seqs


def pull_all(delivery, log, limit=3):
    """Answer every PULL that is wanted out of `log`, taking as it goes; returns the places that were taken."""
    seqs = drain(delivery)
    while (pull := delivery.next_pull(limit)) is not None:
        page = [m for m in log if m.seq > pull.after_seq and m.conversation_id == pull.conversation_id]
        delivery.pulled(pull, page[: pull.limit])
        seqs += drain(delivery)
    return seqs


def test_repeats_are_dropped():
    """The same push again is not delivered again."""
    delivery = started()
    for seq in (1, 1, 2, 1, 2):
        delivery.pushed(message(seq))
    assert drain(delivery) == [1, 2]


def test_gap_wants_a_pull_from_the_last_seen():
    """A push beyond the next place waits for what is missing."""
    delivery = started()
    for seq in (1, 2, 5):
        delivery.pushed(message(seq))
    assert drain(delivery) == [1, 2]
    pull = delivery.next_pull(100)
    assert (pull.conversation_id, pull.after_seq, pull.upto_seq) == (NAME, 2, 5)
    delivery.pulled(pull, [message(3), message(4)])
    assert drain(delivery) == [3, 4, 5]
    assert delivery.next_pull(100) is None


def test_what_a_pull_leaves_out_does_not_exist():
    """Expired messages leave holes, which are passed; an empty answer passes all that was known."""
    delivery = started()
    delivery.synced([entry(9)], "d", more=False)
    delivery.pulled(delivery.next_pull(100), [message(2), message(5)])
    assert drain(delivery) == [2, 5]
    delivery.pulled(delivery.next_pull(100), [])
    assert not delivery.is_behind
    assert delivery.due_acks(10) == {NAME: 9}


def test_push_during_a_pull_is_not_lost_with_an_answer_that_is_older():
    """A page that ends before a push leaves that push standing."""
    delivery = started()
    delivery.synced([entry(4)], "d", more=False)
    pull = delivery.next_pull(2)
    for seq in (5, 6):
        delivery.pushed(message(seq))
    delivery.pulled(pull, [message(1), message(2)])
    assert drain(delivery) == [1, 2]
    assert pull_all(delivery, [message(n) for n in range(1, 7)]) == [3, 4, 5, 6]


def test_early_push_that_a_pull_leaves_out_is_delivered_in_its_place():
    """What came early exists, whatever the page says."""
    delivery = started()
    delivery.synced([entry(3)], "d", more=False)
    delivery.pushed(message(4))
    delivery.pulled(delivery.next_pull(100), [message(2), message(5)])
    assert drain(delivery) == [2, 4, 5]


def test_own_messages_are_skipped_and_confirmed():
    """One's own, known by the answer, by the pending client id or by the prefix, never come back."""
    delivery = started()
    delivery.sent(NAME, 1)
    delivery.pushed(message(2))
    delivery.sending.add("mine")
    delivery.pushed(message(5, from_="alice"))
    log = [message(3, from_="bob", client_id="mine"), message(4, from_="bob", client_id="me.77"), message(5)]
    assert pull_all(delivery, log) == [2, 5]
    assert delivery.due_acks(10) == {NAME: 5}


def test_messages_of_ones_other_devices_are_delivered():
    """The same user with another client id is another device."""
    delivery = started()
    delivery.pushed(message(1, from_="bob", client_id="phone.1"))
    assert drain(delivery) == [1]


def test_answer_that_is_late_fills_its_place():
    """One's own answer behind the next push: no message is lost or doubled."""
    delivery = started()
    delivery.pushed(message(1))
    delivery.pushed(message(3))
    delivery.sent(NAME, 2)
    assert drain(delivery) == [1, 3]
    assert delivery.next_pull(10) is None


@pytest.mark.parametrize(
    ("history", "expected"), [("undelivered", [3, 4, 5, 6]), ("unread", [5, 6]), ("new", []), ("all", [1, 2, 3, 4, 5, 6])]
)
def test_first_login_begins_where_history_says(history, expected):
    """Delivered 2, read 4, last 6: each choice begins at its place, and what comes later always arrives."""
    delivery = Delivery(State(user_id="bob"), history=History(history))
    delivery.synced([entry(6, delivered=2, read=4)], "c", more=False)
    log = [message(n) for n in range(1, 7)]
    assert pull_all(delivery, log) == expected
    delivery.pushed(message(7))
    assert drain(delivery) == [7]


@pytest.mark.parametrize("history", list(History))
def test_conversation_that_begins_later_begins_at_its_beginning(history):
    """After the first sync a new conversation is new, whatever `history` says."""
    delivery = started(history=history)
    delivery.synced([entry(3)], "d", more=False)
    assert pull_all(delivery, [message(n) for n in range(1, 4)]) == [1, 2, 3]


def test_push_of_an_unknown_conversation_asks_sync_where_to_begin():
    """A group joined at 500: SYNC tells; and a conversation that SYNC does not list begins with the push."""
    delivery = started()
    delivery.pushed(message(501, name="g:a"))
    delivery.pushed(message(7, name="g:b"))
    assert delivery.wants_sync
    assert drain(delivery) == []
    delivery.sync_asked()
    delivery.pushed(message(9, name="g:c"))
    delivery.synced([entry(501, delivered=499, name="g:a")], "d", more=False)
    assert delivery.wants_sync, "g:c came after the question"
    assert sorted(pull_all(delivery, [message(500, name="g:a")])) == [7, 500, 501]
    delivery.sync_asked()
    delivery.synced([], "d", more=False)
    assert not delivery.wants_sync
    assert drain(delivery) == [9]


def test_application_that_is_slow_costs_no_memory():
    """With enough ready, pushes are let go, and pulled when there is room."""
    delivery = started(max_ready=10)
    for seq in range(1, 1001):
        delivery.pushed(message(seq))
    assert len(delivery._ready) == 10
    assert len(delivery._tracks[NAME].early) <= MAX_EARLY
    assert delivery.next_pull(10) is None, "no room, no pull"
    assert pull_all(delivery, [message(n) for n in range(1, 1001)], limit=7) == list(range(1, 1001))


def test_state_moves_only_when_the_application_took_the_message():
    """Persisted after two of three: a restart delivers the third, and only it, without any push."""
    delivery = started()
    for seq in (1, 2, 3):
        delivery.pushed(message(seq))
    for _ in range(2):
        delivery.taken(delivery.next_message())
    delivery.next_message()  # handed out, not taken
    saved = json.loads(json.dumps(delivery._state.to_dict()))
    assert saved["positions"] == {NAME: [2, 3, 0]}
    again = Delivery(State.from_dict(saved))
    assert pull_all(again, [message(n) for n in range(1, 4)]) == [3]


@pytest.mark.parametrize("saved", [{}, {"format": 99}, {"format": 1, "positions": {"a": ["x"]}}])
def test_state_that_is_damaged_is_refused(saved):
    """A state that is none, or another version's, is a ValueError that says so."""
    with pytest.raises(ValueError, match="client state"):
        State.from_dict(saved)


def test_confirmations_that_did_not_arrive_are_owed():
    """What is taken back is due again, and never goes back behind a later one."""
    delivery = started()
    delivery.pushed(message(1))
    drain(delivery)
    lost = delivery.due_acks(10)
    delivery.pushed(message(2))
    drain(delivery)
    delivery.owe(lost)
    assert delivery.due_acks(10) == {NAME: 2}


def test_change_of_a_message_that_waits_is_applied_to_it():
    """A recall before the application saw the message: it sees the recalled one, and needs no event."""
    delivery = started()
    for seq in (1, 2):
        delivery.pushed(message(seq))
    delivery.taken(delivery.next_message())
    assert delivery.update(NAME, 2, {"recalled": True, "body": None, "rev": 3})
    assert not delivery.update(NAME, 1, {"recalled": True, "rev": 4})
    waiting = delivery.next_message()
    assert (waiting.seq, waiting.recalled, waiting.body, waiting.rev) == (2, True, None, 3)


def test_change_that_overtakes_a_page_is_not_lost():
    """What changed while its PULL was under way is not taken from an older answer, but pulled again."""
    delivery = started()
    delivery.synced([entry(4)], "d", more=False)
    pull = delivery.next_pull(100)
    assert delivery.update(NAME, 2, {"body": "new", "rev": 9})
    old = [message(seq) for seq in (1, 2, 3, 4)]
    delivery.pulled(pull, old)
    assert drain(delivery) == [1]
    pull = delivery.next_pull(100)
    assert delivery.update(NAME, 2, {"body": "newer", "rev": 10})
    delivery.pulled(pull, [message(2, rev=9, body="new"), *old[2:]])
    assert drain(delivery) == [], "it was overtaken again"
    pull = delivery.next_pull(100)
    assert pull.after_seq == 1
    delivery.pulled(pull, [message(2, rev=10, body="newer"), *old[2:]])
    assert delivery.next_message().body == "newer"
    assert drain(delivery) == [3, 4]
    assert delivery.next_pull(100) is None


def test_changes_that_are_remembered_are_bounded():
    """Beyond the bound a page ends where a change was not remembered."""
    delivery = started()
    last = MAX_CHANGED + 5
    delivery.synced([entry(last)], "d", more=False)
    pull = delivery.next_pull(last)
    for seq in range(last, 0, -1):
        delivery.update(NAME, seq, {"rev": last + seq})
    [track] = delivery._tracks.values()
    assert len(track.changed) == MAX_CHANGED
    delivery.pulled(pull, [message(seq, rev=last + seq) for seq in range(1, last + 1)])
    assert drain(delivery) == list(range(1, MAX_CHANGED + 1))
    delivery.pulled(delivery.next_pull(last), [message(seq) for seq in range(MAX_CHANGED + 1, last + 1)])
    assert drain(delivery) == list(range(MAX_CHANGED + 1, last + 1))


def test_older_change_does_not_undo_what_was_pulled_later():
    """A change that is shown late, by CHANGES, finds the message in a later state, and lets it be."""
    delivery = started()
    delivery.synced([entry(1)], "d", more=False)
    delivery.pulled(delivery.next_pull(100), [message(1, rev=9, body="new")])
    assert delivery.update(NAME, 1, {"body": "old", "rev": 8})
    assert delivery.next_message().body == "new"


def test_unstored_messages_pass_through():
    """`store: false` has no place: delivered as it comes, moves nothing."""
    delivery = started()
    delivery.pushed(message(0, body="typing aloud"))
    delivery.taken(delivery.next_message())
    assert not delivery.has_acks
    assert delivery._state.positions == {}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_interleaving_delivers_each_message_once_and_in_order(data):
    """Pushes lost, doubled, late, early; pulls in small pages, old when they arrive; own sends; restarts; slow taking."""
    names = ["d:alice:bob", "g:x"]
    logs = {name: [] for name in names}
    state = State(user_id="bob", sender="me")
    delivery = Delivery(state, max_ready=data.draw(st.integers(1, 6)))
    delivery.synced([], "0", more=False)
    out = {name: [] for name in names}
    handed, on_the_way, pulls = [], [], []

    def take():
        while handed:
            took = handed.pop(0)
            out[took.conversation_id].append(took.seq)
            delivery.taken(took)

    def hand():
        if (ready := delivery.next_message()) is not None:
            handed.append(ready)

    for _ in range(data.draw(st.integers(0, 60))):
        match data.draw(st.sampled_from(["send", "own", "push", "pull", "answer", "hand", "take", "sync", "restart"])):
            case "send":
                name = data.draw(st.sampled_from(names))
                logs[name].append(message(len(logs[name]) + 1, name=name))
                on_the_way += [logs[name][-1]] * data.draw(st.integers(0, 2))
            case "own":
                name = data.draw(st.sampled_from(names))
                seq = len(logs[name]) + 1
                logs[name].append(message(seq, name=name, from_="bob", client_id=f"me.{seq}"))
                if data.draw(st.booleans()):
                    delivery.sent(name, seq)
            case "push" if on_the_way:
                delivery.pushed(on_the_way.pop(data.draw(st.integers(0, len(on_the_way) - 1))))
            case "pull" if not pulls and (pull := delivery.next_pull(data.draw(st.integers(1, 4)))) is not None:
                pulls.append((pull, [m for m in logs[pull.conversation_id] if m.seq > pull.after_seq][: pull.limit]))
            case "answer" if pulls:
                delivery.pulled(*pulls.pop())
            case "hand":
                hand()
            case "take":
                take()
            case "sync":
                delivery.sync_asked()
                delivery.synced([entry(len(log), name=name) for name, log in logs.items() if log], "1", more=False)
            case "restart":
                handed.clear()
                pulls.clear()
                delivery = Delivery(State.from_dict(json.loads(json.dumps(delivery._state.to_dict()))), max_ready=3)
        for track in delivery._tracks.values():
            if track.got is not None:
                assert track.position.taken_seq <= track.got <= track.position.head_seq

    take()
    if pulls:
        delivery.pulled(*pulls.pop())
    delivery.sync_asked()
    delivery.synced([entry(len(log), name=name) for name, log in logs.items() if log], "2", more=False)
    for _ in range(200):
        hand()
        take()
        if (pull := delivery.next_pull(3)) is not None:
            delivery.pulled(pull, [m for m in logs[pull.conversation_id] if m.seq > pull.after_seq][:3])
    for name, log in logs.items():
        assert out[name] == [m.seq for m in log if m.from_ != "bob"]
        if log:
            assert delivery._state.positions[name].taken_seq == len(log)


# ------------------------------------------------------------------ changes


def changes_at(rev, **positions):
    """Changes of an application that takes events, one conversation known at `rev`."""
    state = State(positions={NAME: Position(9, 9, rev), **positions})
    changes = Changes(state)
    changes.is_wanted = True
    return changes, state


def test_changes_follow_live_pushes():
    """In order, each revision counts once, and the state follows."""
    changes, state = changes_at(5)
    assert changes.pushed(NAME, 6)
    assert not changes.pushed(NAME, 6)
    assert changes.next_fetch() is None
    assert state.positions[NAME].rev == 6


def test_changes_missed_while_away_are_fetched_before_live_ones_count():
    """Behind after SYNC: pushes are let go until CHANGES has reached them."""
    changes, state = changes_at(5)
    changes.known(NAME, 8)
    assert not changes.pushed(NAME, 9)
    assert changes.next_fetch() == (NAME, 5)
    changes.fetched(NAME, 7, more=True)
    assert changes.next_fetch() == (NAME, 7)
    changes.fetched(NAME, 8, more=False)
    assert changes.next_fetch() == (NAME, 8), "9 was let go, and must be fetched"
    changes.fetched(NAME, 9, more=False)
    assert changes.next_fetch() is None
    assert changes.pushed(NAME, 10)
    assert state.positions[NAME].rev == 10


def test_changes_are_persisted_when_taken():
    """An event that waits holds the state back; one without room is fetched later."""
    changes, state = changes_at(5)
    assert changes.pushed(NAME, 6)
    changes.queued(NAME)
    state.positions[NAME].rev = 5
    assert changes.pushed(NAME, 7)
    assert state.positions[NAME].rev == 5
    assert not changes.pushed(NAME, 8, has_room=False)
    changes.taken(NAME, 6)
    assert state.positions[NAME].rev == 7
    assert changes.next_fetch() == (NAME, 7)


def test_changes_without_an_audience_are_not_fetched():
    """An application that takes no events costs no requests."""
    changes, state = changes_at(5)
    changes.is_wanted = False
    changes.known(NAME, 8)
    assert changes.next_fetch() is None
    assert state.positions[NAME].rev == 8


def test_changes_that_lead_nowhere_end():
    """A server that never reaches what it promised is not asked for ever."""
    changes, _ = changes_at(5)
    changes.known(NAME, 8)
    changes.fetched(NAME, 5, more=True)
    assert changes.next_fetch() is None


def test_a_message_takes_the_state_that_it_is_told():
    """A push tells what has changed; an entry of CHANGES is whole: what it leaves out is not there; a recall takes all."""
    old = evolve(message(3), rev=3, body="old", reply_to=1, reactions={"x": ("ben",)})
    edited = old.with_change("edited", {"rev": 4, "body": "new", "edited_at": 5})
    assert (edited.body, edited.edited_at, edited.rev, edited.reactions) == ("new", 5, 4, {"x": ("ben",)})
    assert edited.with_change("reacted", {"rev": 5}).reactions == {}
    whole = {"conversation_id": "d:anna:ben", "seq": 3, "rev": 6, "from": "ben", "body": "new", "edited_at": 5}
    assert edited.with_change("edited", whole).reactions == {}
    recalled = edited.with_change("recalled", {"rev": 7, "recalled": True})
    assert (recalled.body, recalled.reply_to, recalled.edited_at, recalled.reactions) == (None, None, None, {})
    assert recalled.with_change("edited", {"rev": 5, "body": "late"}) == recalled
