"""A disk that stalls: what waits for it is bounded, whatever it is; one that hangs is told, and does not hold up the end."""

import re
import time
import urllib.error
import urllib.request

import msgspec
import pytest
import trio
from helpers import SAY, running
from wire import PULL, SEND, direct

from imserver import journal
from imserver.plugin import Plugin, command

SHOUT, TELL, NOTE = 6101, 6102, 6103
SIZE = 20_000


class Long(msgspec.Struct):
    """A request with a body that counts."""

    text: str = ""


class Loud(Plugin):
    """What makes the server hold much: pushes that are not stored, long answers, long values of SQL."""

    name = "loud"
    migrations = ("CREATE TABLE loud_notes (text TEXT)",)

    @command(SHOUT, request=Long, name="SHOUT")
    def shout(self, ctx, request):
        ctx.push([ctx.session.user_id], 5900, {"text": request.text})
        return {}

    @command(TELL, request=Long, name="TELL")
    def tell(self, ctx, request):
        return {"text": "x" * SIZE}

    @command(NOTE, request=Long, name="NOTE")
    def note(self, ctx, request):
        ctx.db.write("INSERT INTO loud_notes VALUES (?)", (request.text,))
        return {}


@pytest.mark.parametrize("opens_batch", [True, False], ids=["with-an-open-batch", "with-the-one-in-flight"])
@pytest.mark.parametrize("command_id", [SHOUT, TELL, NOTE])
async def test_what_waits_is_bounded(tmp_path, monkeypatch, command_id, opens_batch):
    """While no commit returns, a client that goes on asking is not read beyond the bound; then it has all its answers."""
    bound = 1 << 20
    monkeypatch.setattr(journal, "MAX_BATCH_BYTES", bound)
    text = "" if command_id == TELL else "y" * SIZE
    async with running(tmp_path, Loud()) as rig:
        alice, bob = await rig.login("alice"), await rig.login("bob")
        await bob.ok(SAY, to="alice")
        rig.store.shut()
        rids = [await bob.post(SAY, to="alice")]
        await rig.store.wait_entered()
        if opens_batch:
            rids.append(await bob.post(SAY, to="alice"))
            await rig.until(lambda: rig.journal.is_dirty)
        router = rig.shard.router
        asked = []
        while not rig.journal.is_full:
            done = router.requests
            asked.append(await alice.post(command_id, text=text))
            await rig.until(lambda done=done: router.requests > done)
            assert len(asked) * SIZE < 4 * bound, "it goes on reading"
        done = router.requests
        more = [await alice.post(command_id, text="") for _ in range(3)]
        await trio.sleep(0.05)
        assert router.requests == done, "it reads on, over its bound"
        rig.store.open()
        for rid in asked + more:
            assert (await alice.answer(rid))["code"] == 0
        for rid in rids:
            assert (await bob.answer(rid))["code"] == 0


# ---------------------------------------------------------------- a disk that hangs

HANGING = """
import pathlib, time
import imserver.server, imserver.watch
from imserver.plugin import Plugin
from imserver.storage.database import Database

FLAG = pathlib.Path(__file__).with_name("hangs")
imserver.server._COMMIT_STALLED_S = 0.4
imserver.server._JOURNAL_STOP_S = 0.5
imserver.watch._SLOW_COMMIT_S = 0.2
commit = Database.commit

def hang(self, batch):
    while FLAG.exists():
        time.sleep(0.01)
    commit(self, batch)

Database.commit = hang

class Hanging(Plugin):
    name = "hanging"
"""


def get(server, path):
    """Status and text of an answer over HTTP."""
    try:
        with urllib.request.urlopen(f"http://{server.ready['http'][0]}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


@pytest.fixture
def hanging(make_server, tmp_path):
    """A server whose commits do not return while the file `hangs` is there; its limits are short."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "hanging.py").write_text(HANGING)
    settings = {
        "plugins.paths": str(folder),
        "plugins.enabled": '["user", "message", "hanging"]',
        "server.drain": "100ms",
    }
    return make_server(settings), folder / "hangs"


def ready_is(server, status):
    """Wait until /readyz has this status; gives its text."""
    deadline = time.monotonic() + 20
    while (answer := get(server, "/readyz"))[0] != status:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer[1]


def age_of_commit(server):
    """The metric."""
    return float(re.search(r"^imserver_commit_age_seconds (\S+)$", get(server, "/metrics")[1], re.MULTILINE)[1])


def test_a_disk_that_hangs_is_told(hanging):
    """The server is not ready, the log and a metric say why; when the disk is well again all goes on."""
    server, flag = hanging
    alice, bob = server.login(), server.login()
    alice.text(bob.user, "before", "c-0")
    assert age_of_commit(server) == 0
    flag.touch()
    rid = alice.post(SEND, to=bob.user, client_id="c", body="stuck")
    assert "storage" in ready_is(server, 503)
    assert age_of_commit(server) > 0.4
    assert server.wait_logged(lambda record: record["event"] == "commit_slow")["seconds"] >= 0.2
    flag.unlink()
    assert alice.answer(rid)["code"] == 0
    ready_is(server, 200)
    for client in (alice, bob):
        client.close()
    assert server.stop() == 0


def test_a_disk_that_hangs_does_not_hold_up_the_end(hanging):
    """SIGTERM ends the process, with a line and exit status 1; what was confirmed is there at the next start."""
    server, flag = hanging
    alice, bob = server.login(), server.login()
    seq = alice.text(bob.user, "kept", "c-0")["seq"]
    flag.touch()
    alice.post(SEND, to=bob.user, client_id="c", body="stuck")
    ready_is(server, 503)
    assert server.stop() == 1
    assert [record["level"] for record in server.logs() if record["event"] == "journal_stuck"] == ["critical"]
    flag.unlink()
    server.start()
    bob = server.again(bob)
    page = bob.ok(PULL, conversation_id=direct(alice.user, bob.user))
    assert [message["seq"] for message in page["messages"]] == [seq]
