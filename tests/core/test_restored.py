"""What readers of a restored database make of the rows that stand for gaps: no messages."""

from contextlib import closing

import pytest
from helpers import FakeClock
from test_backup import SCRIPTS, Data, put_back

from imserver.storage.database import Database, offline
from imserver.storage.messages import MessageStore
from imserver_plugins.webhook import store as webhook_store


@pytest.fixture
def restored(tmp_path):
    """The folder of a restored server: two conversations with messages, and a third one, in which nothing was said."""
    data = Data(tmp_path / "data")
    for conversation, seqs in ((1, (1, 2, 3)), (2, (1,))):
        for seq in seqs:
            data.say(conversation, seq)
    with offline(data.folder, SCRIPTS) as connection, connection:
        connection.execute("INSERT INTO conversations VALUES (3, 'd:3', 'direct', 1)")
    made = data.backup(tmp_path / "made")
    put_back(made.path, tmp_path / "restored")
    data.folder = tmp_path / "restored"
    return data


async def test_a_gap_is_not_the_first_message(restored):
    """PULL's bounds: the first message; both 0 where there is none; behind the gap the next one that is sent."""
    gap = restored.query("SELECT max(seq) FROM messages")[0][0]
    with closing(Database(restored.folder, SCRIPTS)) as database:
        store = MessageStore(database, FakeClock())

        async def bounds(conversation_id, first_visible=0):
            page = await store.history(conversation_id, first_visible, None, None, 10)
            return len(page.messages), page.first_seq, page.last_seq

        assert await bounds("d:1") == (3, 1, gap)
        assert await bounds("d:2", 1) == (0, 0, 0)
        assert await bounds("d:3") == (0, 0, 0)
        restored.say(3, gap + 1)
        assert await bounds("d:3") == (1, gap + 1, gap + 1)


def test_webhooks_are_told_of_messages_alone(restored):
    """Of the gaps nothing; what follows them is found, and the cursor goes on behind them."""
    newest = restored.query("SELECT max(id) FROM messages WHERE sender <> ''")[0][0]
    with offline(restored.folder, SCRIPTS) as connection, connection:

        def scan(after, types=()):
            def read(sql, params=()):
                return connection.execute(sql, params).fetchall()

            found = webhook_store.scan(read, after, 1, 0, types, 10)
            return [(place.number, place.seq) for place in found.found], found

        gaps = connection.execute("SELECT max(id) FROM messages").fetchall()[0][0]
        assert gaps > newest
        places, found = scan(newest)
        assert (places, found.through, found.has_more) == ([], gaps, False)
        assert scan(newest, ("system",))[0] == []
        assert scan(0)[0] == [(1, 1), (1, 2), (1, 3), (2, 1)]
        connection.execute(
            "INSERT INTO messages (id, conversation, seq, rev, silent, sender, client_id, type, body) "
            "VALUES (?, 2, 99, 99, 1, 'a', '99', 'text', ?)",
            (gaps + 1, b"\xa2hi"),
        )
        assert scan(newest)[0] == [(2, 99)]  # silent, and a message: one that was recalled
