"""What goes by itself, and what must not; a crash at every step leaves nothing for ever."""

import os

import pytest
from file_rig import site

from imserver_plugins.file import cleanup, store
from imserver_plugins.file.cleanup import Cleaner

HOUR_S = 3600


async def test_orphans_go_after_their_time(tmp_path):
    """A file that no conversation holds goes after orphan_ttl, one that is held stays for good."""
    async with site(tmp_path, orphan_ttl_s=24 * HOUR_S) as files:
        cleaner = Cleaner(files.state, files.app)
        orphan = (await files.upload())["file_id"]
        held = (await files.upload())["file_id"]
        await files.say("alice", "bob", held)
        files.rig.clock.advance(24 * HOUR_S - 1)
        assert await cleaner.round() == 0
        assert files.stored() == sorted([orphan, held])
        files.rig.clock.advance(2)
        assert await cleaner.round() == 1
        assert files.stored() == [held]
        assert files.rows("file_id") == [(held,)]
        assert (await files.get("alice", orphan)).status == 404
        files.rig.clock.advance(1000 * HOUR_S)
        assert await cleaner.round() == 0


async def test_uploads_that_are_not_finished_go_after_theirs(tmp_path):
    """A resumable upload goes after upload_ttl, with its bytes and its reservation; a finished one starts anew."""
    async with site(tmp_path, upload_ttl_s=HOUR_S, orphan_ttl_s=5 * HOUR_S) as files:
        cleaner = Cleaner(files.state, files.app)
        left = await files.begin(size=10)
        done = await files.begin(size=3)
        await files.patch(left, 0, b"abc")
        files.rig.clock.advance(HOUR_S - 1)
        await files.patch(done, 0, b"abc")
        files.rig.clock.advance(2)
        assert await cleaner.round() == 1
        assert files.stored() == [done]
        assert (await files.ask("alice", "GET", "/v1/files")).json["used"] == 3
        assert (await files.patch(left, 3, b"d")).status == 404


async def test_an_upload_under_way_is_left_alone(tmp_path):
    """The cleaner finds its row, which looks as one that a crash has left."""
    async with site(tmp_path) as files:
        found = []

        async def receive():
            if not found:
                found.append(await Cleaner(files.state, files.app).round())
                return {"type": "http.request", "body": b"x" * 300_000, "more_body": True}
            found.append(await Cleaner(files.state, files.app).round())
            return {"type": "http.request", "body": b"y", "more_body": False}

        reply = await files.ask("alice", "POST", "/v1/files", {}, [], receive=receive)
        assert (reply.status, found) == (200, [0, 0])
        assert await Cleaner(files.state, files.app).round() == 0


async def crashed(files, step):
    """The state of disk and database when the process ends at a step of an upload or a removal; the file's id."""
    database, now_ms = files.app.db, files.rig.clock.now_ms()
    file_id = "ab" * 16
    new = store.NewFile(file_id, "alice", "x", "", None, False, now_ms, now_ms + 1000)
    await database.write(*store.reserve(new, at_most=5, at_least=5, quota=100, max_files=10))
    if step == "row":
        return file_id
    path = files.state.files.path(file_id)
    path.write_bytes(b"ab")
    if step == "some bytes":
        return file_id
    await database.write(*store.finish(file_id, size=2, type="a/b", sha256=b"", image=None, expires_at=now_ms + 1000))
    await database.write(*store.condemn_unheld(file_id, expired_by_ms=store.FAR_MS))
    if step == "bytes gone":
        path.unlink()
    return file_id


@pytest.mark.parametrize("step", ["row", "some bytes", "condemned", "bytes gone"])
async def test_what_a_crash_leaves_is_removed(tmp_path, step):
    """Wherever the process ended: after a round of the next one neither row nor bytes nor quota are taken."""
    async with site(tmp_path) as files:
        await crashed(files, step)
    async with site(tmp_path) as files:
        assert len(files.rows()) == 1
        assert await Cleaner(files.state, files.app).round() == 1
        assert (files.rows(), files.stored()) == ([], [])
        assert (await files.ask("alice", "GET", "/v1/files")).json["used"] == 0


async def test_a_resumable_upload_outlives_the_process(tmp_path):
    """The next one finds what the last one had, and the cleaner leaves it."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=6)
        await files.patch(file_id, 0, b"abc")
    async with site(tmp_path) as files:
        assert await Cleaner(files.state, files.app).round() == 0
        assert (await files.get("alice", file_id, "HEAD")).headers["upload-offset"] == "3"
        assert (await files.patch(file_id, 3, b"def")).status == 200
        assert (await files.get("alice", file_id)).body == b"abcdef"


async def test_bytes_without_a_row_go_in_time(tmp_path, monkeypatch):
    """Of a restored database, say: not at once, in steps, and nothing that is not named as a file of ours."""
    monkeypatch.setattr(cleanup, "_COMPARED_A_ROUND", 4)
    async with site(tmp_path, orphan_ttl_s=24 * HOUR_S) as files:
        now_s = files.rig.clock.now_ms() / 1000
        kept = (await files.upload())["file_id"]
        await files.say("alice", "bob", kept)
        old = [f"{number:02x}" * 16 for number in range(0, 250, 25)]
        for file_id in [*old, "77" * 16]:
            path = files.state.files.path(file_id)
            path.write_bytes(b"x")
            age_s = HOUR_S if file_id == "77" * 16 else 25 * HOUR_S
            os.utime(path, (now_s - age_s, now_s - age_s))
        (files.folder / "77" / "notes.txt").write_text("mine")
        os.utime(files.folder / "77" / "notes.txt", (1, 1))
        cleaner = Cleaner(files.state, files.app)
        rounds = [await cleaner.round() for _ in range(6)]
        assert max(rounds) <= 4
        assert sum(rounds) == 10
        assert files.stored() == sorted([kept, "77" * 16, "notes.txt"])
        # The next comparison is a day later: by then the young one is old.
        assert await cleaner.round() == 0
        files.rig.clock.advance(25 * HOUR_S)
        assert sum([await cleaner.round() for _ in range(3)]) == 1
        assert files.stored() == sorted([kept, "notes.txt"])


async def test_a_round_is_bounded(tmp_path, monkeypatch):
    """So many a round; the next one goes on."""
    monkeypatch.setattr(cleanup, "FILES_A_ROUND", 3)
    async with site(tmp_path) as files:
        for _ in range(7):
            await files.upload()
        files.rig.clock.advance(25 * HOUR_S)
        cleaner = Cleaner(files.state, files.app)
        assert [await cleaner.round() for _ in range(4)] == [3, 3, 1, 0]


async def test_a_disk_that_fails_does_not_end_the_cleaner(tmp_path):
    """A round that fails leaves its work to the next one."""
    async with site(tmp_path) as files:
        await files.upload()
        files.rig.clock.advance(25 * HOUR_S)
        cleaner = Cleaner(files.state, files.app)
        files.rig.store.fail_next()
        assert await cleaner.round() == 0
        assert len(files.stored()) == 1
        assert await cleaner.round() == 1
        assert (files.rows(), files.stored()) == ([], [])


async def test_a_removal_that_the_disk_refuses_is_done_again(tmp_path, monkeypatch):
    """The row is condemned, the bytes stay: the file is gone for everybody, and a later round removes the bytes."""
    from imserver.errors import Unavailable

    async with site(tmp_path) as files:
        file_id = (await files.upload())["file_id"]

        async def fails(file_id):
            raise Unavailable("the disk for files fails")

        monkeypatch.setattr(files.state.files, "delete", fails)
        assert (await files.ask("alice", "DELETE", f"/v1/files/{file_id}")).status == 503
        assert (await files.get("alice", file_id)).status == 404
        assert (await files.ask("alice", "GET", "/v1/files")).json["files"] == []
        monkeypatch.undo()
        assert await Cleaner(files.state, files.app).round() == 1
        assert (files.rows(), files.stored()) == ([], [])


async def test_the_task_goes_round_by_itself(tmp_path, monkeypatch):
    """It is started with the server."""
    monkeypatch.setattr(cleanup, "FIRST_ROUND_S", 0.001)
    monkeypatch.setattr(cleanup, "PERIOD_S", 0.001)
    async with site(tmp_path) as files:
        await files.upload()
        files.rig.clock.advance(25 * HOUR_S)
        await files.rig.until(lambda: not files.rows())
