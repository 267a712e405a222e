"""The clock was ahead once, and the ids stand ahead of it: what was promised for a time still takes that time."""

import sqlite3

import helpers
import pytest
from test_message_typing import Login, Users
from wire import SEND, direct

from imserver_plugins.message import MessagePlugin

RECALL = 2005
DAY_S = 86_400
AB = "d:a:b"


@pytest.fixture
async def ahead(monkeypatch, tmp_path):
    """A server whose clock was a day ahead when the first message came: (rig, the sender)."""
    monkeypatch.setattr(helpers, "Base", Login)
    async with helpers.running(tmp_path, Users(), MessagePlugin()) as rig:
        for app in rig.shard.router.apps.values():
            app.settings = MessagePlugin.Settings(recall_window_s=120)
        a = await rig.login("a")
        rig.clock.wall_ms += DAY_S * 1000
        await a.ok(SEND, to="b", client_id="first", body="x")
        rig.clock.wall_ms -= DAY_S * 1000
        yield rig, a


async def test_a_message_expires_by_the_clock(ahead):
    """So long after it was sent, though its `sent_at` is a day ahead."""
    rig, a = ahead
    sent = await a.ok(SEND, to="b", client_id="c", body="x", expires_in_ms=1000)
    assert sent["sent_at"] == rig.clock.now_ms() + DAY_S * 1000
    assert rig.rows("SELECT expires_at FROM messages WHERE client_id = 'c'") == [(rig.clock.now_ms() + 1000,)]


async def test_a_recall_has_its_window_by_the_clock(ahead):
    """Within it a message can be recalled, behind it not, neither while the clock is behind nor when it has caught up."""
    rig, a = ahead
    rig.conversations.mark_clock()
    sent = [(await a.ok(SEND, to="b", client_id=f"c{number}", body="x"))["seq"] for number in range(3)]
    assert rig.conversations.mark_clock() == DAY_S * 1000
    rig.clock.advance(119)
    await a.ok(RECALL, conversation_id=AB, seq=sent[0])
    rig.clock.advance(2)
    rig.conversations.mark_clock()
    assert (await a.call(RECALL, conversation_id=AB, seq=sent[1]))["error"] == "recall_window"
    rig.clock.advance(DAY_S - 121)
    assert (await a.call(RECALL, conversation_id=AB, seq=sent[2]))["error"] == "recall_window"


def test_the_log_says_that_the_clock_is_behind(make_server):
    """At the start, with how far, where the newest message is from a time to come."""
    server = make_server()
    alice, bob = server.login(), server.login()
    alice.text(bob.user, "x", "c")
    assert not [line for line in server.logs() if line["event"] == "clock_behind"]
    conversation_id = direct(alice.user, bob.user)
    server.stop()
    with sqlite3.connect(server.data / "imserver.db") as database:
        database.execute("UPDATE messages SET id = id + ?", (DAY_S * 1000 << 22,))
    database.close()
    server.start()
    (line,) = (line for line in server.logs() if line["event"] == "clock_behind")
    assert DAY_S - 600 < line["seconds"] <= DAY_S
    assert line["level"] == "warning"
    assert [message["body"] for message in server.again(alice).pull_all(conversation_id)] == ["x"]
