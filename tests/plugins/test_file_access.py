"""Who may read a file, and how a conversation comes to hold one."""

import pytest
from file_rig import site

from imserver.conversation import Member
from imserver.errors import Conflict, InvalidBody, NotLoaded, PermissionDenied
from imserver.send_hooks import SendHook
from imserver_plugins.file import access, store
from imserver_plugins.file.cleanup import Cleaner

DAY_S = 86_400


def members_of(files, conversation_id):
    return files.rig.conversations.get(conversation_id).members


async def may(files, user, file_id):
    """Whether a user can read the file; a refusal is the one that unknown ids get."""
    reply = await files.get(user, file_id)
    if reply.status == 200:
        return True
    unknown = await files.get(user, "0" * 32)
    assert (reply.status, reply.body, reply.headers) == (unknown.status, unknown.body, unknown.headers)
    assert reply.status == 404
    return False


async def test_members_of_what_holds_it_and_nobody_else(tmp_path):
    """Owner, peer, stranger; then one who has it hands it on."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        assert [await may(files, user, file_id) for user in ("alice", "bob", "carol")] == [True, False, False]
        await files.say("alice", "bob", file_id)
        assert [await may(files, user, file_id) for user in ("alice", "bob", "carol")] == [True, True, False]
        await files.say("bob", "carol", file_id, type="image")
        assert [await may(files, user, file_id) for user in ("alice", "bob", "carol", "dave")] == [True, True, True, False]


async def test_nobody_gains_a_file_by_naming_it(tmp_path):
    """A message with a foreign id, known or guessed, is refused with 403 in every type that names files."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        for kind in ("image", "file", "audio", "video", "custom"):
            for wanted in (file_id, "0" * 32, "", "../../imserver.db", file_id.upper(), file_id + "\n"):
                with pytest.raises(PermissionDenied) as refused:
                    await files.say("mallory", "bob", wanted, type=kind)
                assert refused.value.message == "there is no such file, or you may not read it"
        assert not await may(files, "mallory", file_id)
        assert not await may(files, "bob", file_id)
        assert files.rig.rows("SELECT count(*) FROM file_holders") == [(0,)]
        assert files.rig.rows("SELECT count(*) FROM messages") == [(0,)]


async def test_messages_that_name_no_file_pass(tmp_path):
    """Texts, pictures from elsewhere, somebody's own `file_id` in a custom body; a wrong type in a file's is 400."""
    async with site(tmp_path) as files:
        await files.say("alice", "bob", None, type="text", body="file_id")
        await files.say("alice", "bob", None, type="image", body={"url": "https://example.org/x.png"})
        await files.say("alice", "bob", None, type="image", body={"file_id": None})
        await files.say("alice", "bob", None, type="custom", body={"file_id": 5})
        await files.say("alice", "bob", None, type="location", body={"file_id": "of another world"})
        await files.say("alice", "bob", None, type="file", body=["file_id"])
        with pytest.raises(InvalidBody):
            await files.say("alice", "bob", None, type="file", body={"file_id": 5})


@pytest.mark.parametrize("body", ["{id}", "/v1/files/{id}", {"url": "/v1/files/{id}"}, {"url": "{id}", "name": "x"}])
async def test_other_ways_to_name_a_file(tmp_path, body):
    """The path that the upload's answer has, or the id, alone: who may not read it may not send it, the peer may read it."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        if isinstance(body, str):
            body = body.replace("{id}", file_id)
        else:
            body = {**body, "url": body["url"].replace("{id}", file_id)}
        with pytest.raises(PermissionDenied):
            await files.say("mallory", "bob", None, type="image", body=body)
        await files.say("alice", "carol", None, type="custom", body=body)  # somebody's own kind of message
        await files.say("alice", "bob", None, type="image", body=body)
        assert [await may(files, user, file_id) for user in ("bob", "carol", "mallory")] == [True, False, False]


async def test_a_group_and_its_former_members(tmp_path):
    """Members of a group read what it holds while they are members; one who left neither reads nor hands on."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        conversation_id = "g:team"
        with pytest.raises(NotLoaded) as wanted:
            files.rig.conversations.require(conversation_id)
        await wanted.value.loader()
        group = files.rig.conversations.get(conversation_id)
        for user in ("alice", "bob", "carol"):
            group.members[user] = Member(user)
        await files.say("alice", "bob", file_id, conversation_id=conversation_id)
        assert [await may(files, user, file_id) for user in ("bob", "carol", "dave")] == [True, True, False]
        await files.say("carol", "dave", file_id)
        assert await may(files, "dave", file_id)
        del members_of(files, conversation_id)["bob"]
        assert not await may(files, "bob", file_id)
        with pytest.raises(PermissionDenied):
            await files.say("bob", "erin", file_id)


async def test_a_group_that_is_not_in_memory_is_looked_up(tmp_path):
    """Right after a start the sender's membership is read from the database."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        with pytest.raises(NotLoaded) as wanted:
            files.rig.conversations.require("g:team")
        await wanted.value.loader()
        for user in ("alice", "bob"):
            files.rig.conversations.get("g:team").members[user] = Member(user)
        await files.say("alice", "bob", file_id, conversation_id="g:team")
        files.rig.conversations._drop(files.rig.conversations.get("g:team"))
        await files.say("bob", "carol", file_id)
        assert await may(files, "carol", file_id)


async def test_a_refusal_is_not_remembered_for_long(tmp_path):
    """Somebody was refused a file and is given it: a second later the next try passes, whatever is cached."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        with pytest.raises(PermissionDenied):
            await files.say("bob", "carol", file_id)
        refused = files.app.cache.get(file_id)
        await files.say("alice", "bob", file_id)
        # As if another shard had taken the message and its after_commit were still to come here.
        files.app.cache.put(file_id, refused)
        with pytest.raises(PermissionDenied):
            await files.say("bob", "carol", file_id)
        files.rig.clock.advance(2)
        await files.say("bob", "carol", file_id)
        assert await may(files, "carol", file_id)


async def test_the_note_is_in_the_commit_of_the_message(tmp_path):
    """The commit fails: neither message nor holder; and the file still expires. It passes: both, and it stays."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        files.rig.store.fail_next()
        with pytest.raises(Exception, match="full"):
            await files.say("alice", "bob", file_id)
        counts = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM file_holders)"
        assert files.rig.rows(counts) == [(0, 0)]
        assert not await may(files, "bob", file_id)
        assert files.rows("expires_at IS NULL") == [(0,)]
        commits = len(files.rig.store.committed)
        await files.say("alice", "bob", file_id)
        assert len(files.rig.store.committed) == commits + 1
        assert files.rig.rows(counts) == [(1, 1)]
        assert files.rows("expires_at IS NULL") == [(1,)]


async def test_a_message_that_is_refused_behind_the_hook_holds_nothing(tmp_path):
    """The handler raises after `before_send`: its note is taken back with everything else."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]

        def refuse(ctx, draft):
            raise PermissionDenied("muted")

        hooks = files.rig.shard.send_hooks
        hooks.hooks.append(SendHook("base", refuse, frozenset({"direct"}), sees_texts=True))
        hooks.version += 1
        with pytest.raises(PermissionDenied, match="muted"):
            await files.say("alice", "bob", file_id)
        await files.rig.shard.wait_settled()
        assert files.rig.rows("SELECT count(*) FROM file_holders") == [(0,)]


async def test_a_file_that_is_being_removed_cannot_be_sent(tmp_path):
    """The cleaner has begun: the message is refused, not accepted with a file that is gone a moment later."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        await files.app.cache.fetch(file_id, lambda: access_entry(files, file_id))
        files.state.dying.add(file_id)
        with pytest.raises(PermissionDenied):
            await files.say("alice", "bob", file_id)
        files.state.dying.clear()
        await files.rig.shard.wait_settled()
        assert files.rig.rows("SELECT count(*) FROM file_holders") == [(0,)]
        await files.say("alice", "bob", file_id)


async def access_entry(files, file_id):
    return access.Known(await store.find(files.app.db, file_id), frozenset(), files.rig.clock.monotonic())


async def test_sending_and_removing_at_once(tmp_path):
    """The message is first in the order: the file stays. The removal is first: the message is refused."""
    async with site(tmp_path) as files:
        clock = files.rig.clock
        kept = (await files.upload("alice"))["file_id"]
        gone = (await files.upload("alice"))["file_id"]
        with pytest.raises(NotLoaded) as wanted:
            files.send("alice", "bob", kept)
        await wanted.value.loader()
        for _ in range(3):  # the conversation, the file
            try:
                files.send("alice", "bob", kept)
            except NotLoaded as exc:
                await exc.loader()
            else:
                break
        # Uncommitted so far: the cleaner still finds the file expired, and its write comes behind the message's.
        clock.advance(DAY_S + 1)
        assert await Cleaner(files.state, files.app).round() == 1
        assert await may(files, "bob", kept)
        with pytest.raises(PermissionDenied):
            await files.say("alice", "bob", gone)
        assert not await may(files, "alice", gone)


async def test_what_is_held_cannot_be_deleted(tmp_path):
    """409 for the owner; another's file and one that does not exist are 404."""
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        await files.say("alice", "bob", file_id)
        assert (await files.ask("alice", "DELETE", f"/v1/files/{file_id}")).status == 409
        assert await may(files, "bob", file_id)
        for user, path in (("bob", file_id), ("alice", "0" * 32), ("alice", "x")):
            assert (await files.ask(user, "DELETE", f"/v1/files/{path}")).status == 404


async def test_an_unfinished_upload_cannot_be_sent(tmp_path):
    """409 to its owner, the refusal of all others to others; once finished it can."""
    async with site(tmp_path) as files:
        file_id = await files.begin("alice", 3)
        with pytest.raises(Conflict):
            await files.say("alice", "bob", file_id)
        with pytest.raises(PermissionDenied):
            await files.say("bob", "alice", file_id)
        await files.patch(file_id, 0, b"abc")
        await files.say("alice", "bob", file_id)
        assert await may(files, "bob", file_id)


async def test_a_file_is_held_by_so_many_conversations(tmp_path, monkeypatch):
    """Beyond the bound it is uploaded again; where it is already, it may be sent again."""
    monkeypatch.setattr(access, "MAX_HOLDERS", 3)
    async with site(tmp_path) as files:
        file_id = (await files.upload("alice"))["file_id"]
        for peer in ("b", "c", "d"):
            await files.say("alice", peer, file_id)
        with pytest.raises(Conflict, match="upload it again"):
            await files.say("alice", "e", file_id)
        await files.say("alice", "d", file_id)


async def test_ids_that_are_none(tmp_path):
    """Paths, other alphabets, other lengths: the same 404."""
    async with site(tmp_path) as files:
        await files.upload()
        for path in ("x", "0" * 31, "0" * 33, "G" * 32, "..", "%2e%2e", "é" * 32):
            assert not await may(files, "alice", path)
