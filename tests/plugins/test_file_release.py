"""A conversation holds a file as long as one of its messages names it: recalled, edited away, over, too old."""

from contextlib import asynccontextmanager

import pytest

from imserver.client.errors import ServerError
from imserver.testing import running
from imserver_plugins.file import cleanup
from imserver_plugins.message import keeping

SEND, RECALL, EDIT, SEND_BATCH = 2001, 2005, 2006, 2011
#: How long a file stays that nobody holds.
ORPHAN_S = 120
DIRECT = "d:alice:bob"


class Kit:
    """A server with the plugin `file`, and three users on it."""

    def __init__(self, server):
        self.server = server
        self.users = {}
        self.texts = 0

    async def login(self, *names):
        for name in names:
            self.users[name] = await self.server.login(name)

    async def upload(self, user="alice", data=b"some bytes"):
        headers = {"Content-Type": "text/plain"}
        answer = await self.server.http("POST", "/v1/files", token=self.users[user].token, body=data, headers=headers)
        assert answer.status == 200, answer.body
        return answer.json()["file_id"]

    def fields(self, file_id, **fields):
        self.texts += 1
        return {"to": "bob", "client_id": f"c{self.texts}", "type": "image", "body": {"file_id": file_id}, **fields}

    async def send(self, user, file_id, **fields):
        """The message's `seq`."""
        return (await self.users[user].request(SEND, **self.fields(file_id, **fields)))["seq"]

    async def recall(self, seq, user="alice", conversation_id=DIRECT):
        await self.users[user].request(RECALL, conversation_id=conversation_id, seq=seq)

    async def edit(self, seq, body, user="alice", conversation_id=DIRECT):
        await self.users[user].request(EDIT, conversation_id=conversation_id, seq=seq, body=body)

    async def refused(self, code, user, file_id, **fields):
        with pytest.raises(ServerError) as refusal:
            await self.send(user, file_id, **fields)
        assert refusal.value.code == code

    async def remember(self, user, file_id):
        """Let the server have in memory that this user may send the file on: by a message that is refused otherwise."""
        sent = {"client_id": f"used by {user}", "type": "text", "body": "x"}
        await self.users[user].request(SEND, to="alice", **sent)
        await self.refused(409, user, file_id, **{"to": "alice", "client_id": sent["client_id"]})

    async def readers(self, file_id):
        """Who can read it; the others are told what they are told of an id that does not exist."""
        found = []
        for name, client in self.users.items():
            answer = await self.server.http("GET", f"/v1/files/{file_id}", token=client.token)
            if answer.status == 200:
                found.append(name)
            else:
                unknown = await self.server.http("GET", f"/v1/files/{'0' * 32}", token=client.token)
                assert (answer.status, answer.body) == (unknown.status, unknown.body)
        return found

    async def delete(self, file_id, user="alice"):
        return (await self.server.http("DELETE", f"/v1/files/{file_id}", token=self.users[user].token)).status

    async def held(self):
        """The rows: (file, conversation) each, and (file, seq) each."""
        holders = await self.server.rows("SELECT file_id, conversation_id FROM file_holders ORDER BY 1, 2")
        messages = await self.server.rows("SELECT file_id, seq FROM file_messages ORDER BY conversation, seq, file_id")
        return holders, messages

    async def expires_in(self, file_id):
        """How long the file stays, in seconds; None: somebody holds it."""
        ((expires_at,),) = await self.server.rows("SELECT expires_at FROM files WHERE file_id = ?", (file_id,))
        return None if expires_at is None else (expires_at - self.server.clock.now_ms()) / 1000

    async def exists(self, file_id):
        return bool(await self.server.rows("SELECT 1 FROM files WHERE file_id = ?", (file_id,)))


@pytest.fixture(autouse=True)
def first_round(monkeypatch):
    """The cleaner of these servers works by itself, whatever other tests have set."""
    monkeypatch.setattr(cleanup, "FIRST_ROUND_S", 2.0)


@asynccontextmanager
async def kit(**settings):
    """A `Kit`; the settings have `__` for a dot."""
    named = {"plugins." + name.replace("__", "."): value for name, value in settings.items()}
    async with running(["file"], {"plugins.file.orphan_ttl": "120s", **named}) as server:
        made = Kit(server)
        await made.login("alice", "bob", "carol")
        yield made


# ---------------------------------------------------------------- recalled


async def test_a_recalled_picture_is_nobody_elses_at_once():
    """With the answer to RECALL the peer can fetch it no more; its owner can, and can delete it."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", file_id)
        assert await files.readers(file_id) == ["alice", "bob"]
        assert await files.delete(file_id) == 409
        await files.recall(seq)
        assert await files.readers(file_id) == ["alice"]
        assert await files.held() == ([], [])
        assert await files.delete(file_id) == 200
        assert await files.readers(file_id) == []


async def test_what_nobody_holds_any_more_goes_as_an_orphan_does():
    """`orphan_ttl` after the recall, whenever it was uploaded."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", file_id)
        await files.server.clock.advance(100)
        assert await files.expires_in(file_id) is None
        await files.recall(seq)
        assert await files.expires_in(file_id) == pytest.approx(ORPHAN_S, abs=1)
        await files.server.clock.advance(ORPHAN_S - 20)
        assert await files.exists(file_id)
        await files.server.clock.advance(40)
        assert not await files.exists(file_id)


async def test_the_last_message_that_names_it_counts():
    """It was sent twice: after one recall the other message still holds it, after both none does; so in each order."""
    for first in (0, 1):
        async with kit() as files:
            file_id = await files.upload()
            seqs = [await files.send("alice", file_id), await files.send("alice", file_id)]
            await files.recall(seqs[first])
            assert await files.readers(file_id) == ["alice", "bob"]
            assert await files.held() == ([(file_id, DIRECT)], [(file_id, seqs[1 - first])])
            assert await files.expires_in(file_id) is None
            await files.recall(seqs[1 - first])
            assert await files.readers(file_id) == ["alice"]
            assert await files.expires_in(file_id) is not None


async def test_sent_on_it_stays_where_it_went():
    """The peer handed it on before the recall: whoever has that conversation reads it, and it does not expire."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", file_id)
        sent_on = await files.send("bob", file_id, to="carol")
        await files.recall(seq)
        assert await files.readers(file_id) == ["alice", "bob", "carol"]
        assert await files.expires_in(file_id) is None
        assert await files.delete(file_id) == 409
        await files.recall(sent_on, "bob", "d:bob:carol")
        assert await files.readers(file_id) == ["alice"]


@pytest.mark.parametrize("change", ["recall", "edit"])
async def test_after_the_change_it_cannot_be_sent_on(change):
    """Also where what the server remembers of the file is from before; its owner can send it again."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", file_id)
        other = await files.upload()
        await files.remember("bob", file_id)
        if change == "recall":
            await files.recall(seq)
        else:
            await files.edit(seq, {"file_id": other})
        await files.refused(403, "bob", file_id, to="carol")
        assert await files.readers(file_id) == ["alice"]
        await files.send("alice", file_id)
        assert await files.readers(file_id) == ["alice", "bob"]


async def test_recalls_of_other_messages_end_nothing():
    """A text, the same place in another conversation, a second recall of the same message."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", file_id)
        assert await files.send("alice", None, to="carol", type="text", body="hello") == seq
        text = await files.send("alice", None, type="text", body=file_id)
        await files.recall(seq, "alice", "d:alice:carol")
        await files.recall(text)
        assert await files.held() == ([(file_id, DIRECT)], [(file_id, seq)])
        other = await files.upload()
        seq_of_other = await files.send("alice", other)
        for _ in range(2):
            await files.recall(seq_of_other)
        assert await files.readers(file_id) == ["alice", "bob"]


# ---------------------------------------------------------------- edited


async def test_an_edit_that_names_another_file():
    """The old one is released, the new one held, in one commit; and back again."""
    async with kit() as files:
        old, new = await files.upload(), await files.upload()
        seq = await files.send("alice", old)
        for gone, there in ((old, new), (new, old)):
            # That the old id is somewhere else in the body does not hold it.
            await files.edit(seq, {"file_id": there, "was": gone, "before": {"file_id": gone}})
            assert await files.readers(gone) == ["alice"]
            assert await files.readers(there) == ["alice", "bob"]
            assert await files.held() == ([(there, DIRECT)], [(there, seq)])
            assert await files.expires_in(there) is None
            assert await files.expires_in(gone) == pytest.approx(ORPHAN_S, abs=1)
        await files.recall(seq)
        assert await files.held() == ([], [])


@pytest.mark.parametrize("body", [{"text": "taken away"}, {"file_id": None}, "nothing", {"name": "x", "file_id": ""}])
async def test_an_edit_that_names_none(body):
    """Whatever is there instead, the file is released."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", file_id, type="custom")
        if isinstance(body, dict) and body.get("file_id") == "":
            with pytest.raises(ServerError):
                await files.edit(seq, body)
            assert await files.readers(file_id) == ["alice", "bob"]
            return
        await files.edit(seq, body)
        assert await files.readers(file_id) == ["alice"]
        assert await files.held() == ([], [])
        assert await files.delete(file_id) == 200


async def test_an_edit_that_names_the_same_and_one_that_names_the_first():
    """A new caption keeps the hold as it is; a message that named nothing can come to hold a file."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", file_id)
        for caption in ("a", "b", "b"):
            await files.edit(seq, {"file_id": file_id, "caption": caption})
        assert await files.held() == ([(file_id, DIRECT)], [(file_id, seq)])
        other = await files.upload()
        empty = await files.send("alice", None, type="custom", body={})
        await files.edit(empty, {"file_id": other})
        assert await files.readers(other) == ["alice", "bob"]
        assert await files.expires_in(other) is None
        await files.send("bob", other, to="carol")
        assert await files.readers(other) == ["alice", "bob", "carol"]


async def test_an_edit_of_what_names_no_files_holds_none():
    """A place with somebody's own `file_id` in it: not even one's own file is held by that."""
    async with kit() as files:
        file_id = await files.upload()
        seq = await files.send("alice", None, type="location", body={})
        await files.edit(seq, {"file_id": file_id})
        assert await files.readers(file_id) == ["alice"]
        assert await files.held() == ([], [])
        assert await files.expires_in(file_id) is not None


# ---------------------------------------------------------------- over, and too old


async def test_a_message_whose_time_is_over():
    """From that moment nobody else reads the file, nobody sends it on, and its owner can delete it."""
    async with kit() as files:
        file_id = await files.upload()
        await files.server.clock.advance(3)
        await files.send("alice", file_id, expires_in_ms=15_000)
        await files.server.clock.advance(14)
        assert await files.readers(file_id) == ["alice", "bob"]
        await files.server.clock.advance(1)
        assert await files.readers(file_id) == ["alice"]
        assert len((await files.held())[1]) == 1  # the cleaner has not been there yet
        assert await files.delete(file_id) == 200
        assert await files.held() == ([], [])


async def test_what_the_server_remembers_of_a_file_that_ends_by_itself():
    """Its peer was about to send it on; 10 s after the message's end that is refused at the latest."""
    async with kit() as files:
        file_id = await files.upload()
        await files.send("alice", file_id, expires_in_ms=5_000)
        await files.remember("bob", file_id)
        await files.server.clock.advance(16)
        await files.refused(403, "bob", file_id, to="carol")


async def test_the_cleaner_ends_the_hold_of_what_is_over():
    """Its time as an orphan begins then; another message keeps its file."""
    async with kit() as files:
        gone, kept = await files.upload(), await files.upload()
        await files.send("alice", gone, expires_in_ms=1000)
        await files.send("alice", kept, expires_in_ms=1000)
        seq = await files.send("bob", kept, to="alice")
        await files.server.clock.advance(15)
        assert await files.held() == ([(kept, DIRECT)], [(kept, seq)])
        assert await files.expires_in(gone) == pytest.approx(ORPHAN_S, abs=15)
        assert await files.expires_in(kept) is None
        await files.server.clock.advance(ORPHAN_S + 15)
        assert (await files.exists(gone), await files.exists(kept)) == (False, True)


async def test_messages_that_are_too_old_to_be_kept(monkeypatch):
    """Retention deletes them without a word; their files follow."""
    monkeypatch.setattr(keeping, "RETENTION_LOOK_S", 5.0)
    async with kit(message__keep_direct="200s") as files:
        file_id, other = await files.upload(), await files.upload()
        await files.send("alice", file_id)
        await files.server.clock.advance(110)
        await files.send("alice", other)
        await files.server.clock.advance(110)
        assert await files.readers(file_id) == ["alice"]
        assert await files.readers(other) == ["alice", "bob"]
        assert (await files.held())[0] == [(other, DIRECT)]
        await files.server.clock.advance(130)
        assert (await files.exists(file_id), await files.exists(other)) == (False, True)


# ---------------------------------------------------------------- what is no message


async def test_what_a_hook_saw_and_no_message_came_of():
    """Duplicates, batches whose hooks run twice, refused ones and fleeting ones: a row for each message and no other."""
    async with kit() as files:
        first, second, third = await files.upload(), await files.upload(), await files.upload()
        batch = [files.fields(first), files.fields(second), files.fields(first), files.fields("0" * 32)]
        batch += [batch[0], {**batch[1], "body": {"file_id": third}}]
        answer = await files.users["alice"].request(SEND_BATCH, messages=batch)
        assert [result["code"] for result in answer["results"]] == [0, 0, 0, 403, 0, 409]
        expected = [(first, 1), (second, 2), (first, 3)]
        assert await files.held() == (sorted([(first, DIRECT), (second, DIRECT)]), expected)
        await files.users["alice"].request(SEND, **files.fields(third, store=False))
        assert (await files.held())[1] == expected
        assert await files.expires_in(third) is not None
        for seq in (1, 2, 3):
            await files.recall(seq)
        # They come again, as their answers were lost: the messages are recalled, and stay so.
        answer = await files.users["alice"].request(SEND_BATCH, messages=batch[:3])
        assert [result.get("duplicate") for result in answer["results"]] == [True] * 3
        assert await files.held() == ([], [])
        assert await files.readers(first) == await files.readers(second) == ["alice"]


async def test_the_first_message_of_a_conversation_and_one_in_a_batch_with_texts():
    """The place in the order is right where the conversation begins with the message, and behind others of the batch."""
    async with kit() as files:
        file_id = await files.upload()
        batch = [files.fields(None, to="carol", type="text", body=f"{n}") for n in range(5)]
        batch.insert(3, files.fields(file_id, to="carol"))
        await files.users["alice"].request(SEND_BATCH, messages=batch)
        assert await files.held() == ([(file_id, "d:alice:carol")], [(file_id, 4)])
        await files.recall(4, conversation_id="d:alice:carol")
        assert await files.readers(file_id) == ["alice"]
