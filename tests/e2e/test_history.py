"""The judge of the kill tests, judged: it passes a good history and notices each kind of wrong one."""

import copy

import pytest
from history import History, problems, unacked

CONVERSATION = "d:a:b"


def message(seq, client_id, sender="a"):
    """A stored message."""
    return {
        "conversation_id": CONVERSATION,
        "seq": seq,
        "message_id": f"{seq + 100:016x}",
        "client_id": client_id,
        "from": sender,
        "body": client_id,
    }


@pytest.fixture
def good():
    """Four messages of two senders, the last not acked; one receiver that came back in between."""
    history = History()
    archive = [message(1, "a1"), message(2, "b1", "b"), message(3, "a2"), message(4, "a3")]
    for stored in archive:
        history.send(CONVERSATION, stored["from"], stored["client_id"])
    for stored in archive[:3]:
        history.ack(CONVERSATION, stored["from"], stored["client_id"], stored["seq"], stored["message_id"])
    history.run("first")[CONVERSATION] += archive[:2]
    history.run("second")[CONVERSATION] += archive[1:]
    return history, copy.deepcopy(archive)


def judge(good, archive=None):
    """The problems of a history with the archive (or another one)."""
    return problems(good[0], {CONVERSATION: good[1] if archive is None else archive})


def test_good_history_passes(good):
    """No problem where there is none; what was not acked may be stored or not."""
    assert judge(good) == []
    assert unacked(good[0]) == [(CONVERSATION, "a", "a3")]
    good[0].runs[1][1][CONVERSATION].pop()
    assert judge(good, good[1][:3]) == []


def test_notices_a_loss(good):
    """An acked message that is not stored."""
    assert any("a2 of a was acked as 3 and is lost" in line for line in judge(good, [*good[1][:2], good[1][3]]))
    assert any("lost" in line for line in judge(good, []))


def test_notices_a_loss_at_the_end(good):
    """Also where seq stays dense."""
    good[0].ack(CONVERSATION, "a", "a3", 4, good[1][3]["message_id"])
    good[0].runs[1][1][CONVERSATION].pop()
    assert [line for line in judge(good, good[1][:3])] == [f"{CONVERSATION}: a3 of a was acked as 4 and is lost"]


def test_notices_a_double(good):
    """One client_id under two seqs, although every seq is there."""
    double = {**message(5, "a2"), "message_id": "00000000000000ff"}
    assert any("('a', 'a2') is stored 2 times" in line for line in judge(good, [*good[1], double]))


def test_notices_a_double_id(good):
    """Two messages under one message_id."""
    good[0].send(CONVERSATION, "a", "a4")
    double = {**message(5, "a4"), "message_id": good[1][0]["message_id"]}
    assert judge(good, [*good[1], double]) == [f"{CONVERSATION}: message_id {double['message_id']} is stored 2 times"]


def test_notices_a_reorder(good):
    """A sender's messages stored in another order than sent."""
    archive = [message(1, "a1"), message(2, "b1", "b"), message(3, "a3"), message(4, "a2")]
    good[0].acked.clear()
    good[0].runs.clear()
    assert judge(good, archive) == [f"{CONVERSATION}: messages of a are out of order at a2"]


def test_notices_a_hole(good):
    """A seq that is missing."""
    archive = [*good[1][:3], {**good[1][3], "seq": 5}]
    assert any("not dense: 5 in place 4" in line for line in judge(good, archive))


def test_notices_another_place(good):
    """Acked under one seq, stored under another."""
    good[0].acked[CONVERSATION, "a", "a1"] = (2, good[1][0]["message_id"])
    assert judge(good) == [f"{CONVERSATION}: a1 of a was acked as 2, is stored as 1"]


def test_notices_two_acks_that_differ(good):
    """The answer of a resend is the first answer."""
    good[0].ack(CONVERSATION, "a", "a1", 9, good[1][0]["message_id"])
    assert any("acked as (1," in line for line in judge(good))


def test_notices_what_nobody_sent(good):
    """A stored message without a sender."""
    assert any("never sent ['ghost']" in line for line in judge(good, [*good[1], message(5, "ghost")]))


@pytest.mark.parametrize("again", [0, 1])
def test_notices_a_push_twice_or_back(good, again):
    """On one connection seq only rises."""
    run = good[0].runs[1][1][CONVERSATION]
    run.append(run[again])
    assert any("was pushed after" in line for line in judge(good))


def test_notices_a_push_of_what_is_not_stored(good):
    """A push must not go out before its message is durable."""
    good[0].run("third")[CONVERSATION].append(message(5, "a4"))
    assert any("5 was pushed but is not what is stored" in line for line in judge(good))


def test_notices_a_push_that_differs(good):
    """The push and the archive are the same message."""
    good[0].runs[0][1][CONVERSATION][0] = {**good[1][0], "body": "else"}
    assert any("1 was pushed but" in line for line in judge(good))
