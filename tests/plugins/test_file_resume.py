"""Uploads that go on where they ended."""

import hashlib

import pytest
import trio
from file_rig import site
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DATA = bytes(range(256)) * 40


async def test_three_parts_make_the_file(tmp_path):
    """Each answer says where it stands; the last one is the file's, with the SHA-256 of the whole."""
    async with site(tmp_path) as files:
        headers = {"X-File-Name": "film.mp4", "Content-Type": "video/mp4", "Upload-Length": str(len(DATA))}
        reply = await files.ask("alice", "POST", "/v1/files?resumable=1", headers)
        file_id = reply.json["file_id"]
        assert reply.json["upload_url"] == reply.headers["location"] == f"/v1/files/{file_id}"
        assert (reply.json["offset"], reply.headers["upload-offset"]) == (0, "0")
        reply = await files.patch(file_id, 0, DATA[:4000])
        assert (reply.status, reply.json["offset"], reply.headers["upload-offset"]) == (200, 4000, "4000")
        where = await files.get("alice", file_id, "HEAD")
        assert (where.status, where.headers["upload-offset"], where.headers["upload-length"]) == (
            200,
            "4000",
            str(len(DATA)),
        )
        total = len(DATA)
        part = {"Content-Range": f"bytes 4000-7999/{total}"}
        assert (await files.ask("alice", "PATCH", f"/v1/files/{file_id}", part, DATA[4000:8000])).json["offset"] == 8000
        done = (await files.patch(file_id, 8000, [DATA[8000:9000], DATA[9000:]])).json
        assert (done["name"], done["type"], done["size"]) == ("film.mp4", "video/mp4", total)
        assert done["sha256"] == hashlib.sha256(DATA).hexdigest()
        assert (await files.get("alice", file_id)).body == DATA


async def test_the_answer_to_the_last_part_can_be_asked_for_again(tmp_path):
    """It was lost on the way: HEAD tells that all is there, and the same request again gives the file."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=3)
        first = await files.patch(file_id, 0, b"abc")
        again = await files.patch(file_id, 3, b"")
        assert again.json == first.json
        where = await files.get("alice", file_id, "HEAD")
        assert (where.headers["upload-offset"], where.headers["upload-length"]) == ("3", "3")
        assert (await files.patch(file_id, 0, b"abc")).json["offset"] == 3


async def test_a_file_without_bytes_is_finished_at_once(tmp_path):
    """Upload-Length: 0."""
    async with site(tmp_path) as files:
        reply = await files.ask("alice", "POST", "/v1/files", {"Upload-Length": "0"})
        assert reply.json["sha256"] == hashlib.sha256().hexdigest()


async def test_the_first_bytes_may_come_with_the_beginning(tmp_path):
    """POST with a body."""
    async with site(tmp_path) as files:
        reply = await files.ask("alice", "POST", "/v1/files?resumable=1", {"Upload-Length": "6"}, b"abc")
        assert reply.json["offset"] == 3
        assert (await files.patch(reply.json["file_id"], 3, b"def")).json["size"] == 6


async def test_another_offset_is_409_with_the_true_one(tmp_path):
    """Behind it or before it: nothing is written."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=10)
        await files.patch(file_id, 0, b"abcd")
        for offset in (0, 3, 5, 10, 10**15):
            reply = await files.patch(file_id, offset, b"xxx")
            assert (reply.status, reply.json["error"], reply.json["offset"]) == (409, "wrong_offset", 4)
            assert reply.headers["upload-offset"] == "4"
        assert (await files.patch(file_id, 4, b"efghij")).json["sha256"] == hashlib.sha256(b"abcdefghij").hexdigest()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"abc", 400),
        ({"Upload-Offset": "-1"}, b"abc", 400),
        ({"Upload-Offset": "9" * 30}, b"abc", 400),
        ({"Content-Range": "bytes 0-2/11"}, b"abc", 400),
        ({"Content-Range": "bytes 0-10/10"}, b"abc", 400),
        ({"Content-Range": "bytes */10"}, b"abc", 400),
        ({"Content-Range": "bytes 0-4/10"}, b"abc", 400),
        ({"Content-Range": "bytes 0-1/10"}, b"abc", 413),
        ({"Upload-Offset": "0"}, b"12345678901", 413),
    ],
)
async def test_parts_that_do_not_fit(tmp_path, headers, body, status):
    """Refused, and the upload can still be finished from where it says that it stands."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=10)
        assert (await files.ask("alice", "PATCH", f"/v1/files/{file_id}", headers, body)).status == status
        where = await files.get("alice", file_id, "HEAD")
        offset = int(where.headers["upload-offset"])
        whole = (body + b"0987654321")[:10] if offset else b"0987654321"
        if offset < 10:
            assert (await files.patch(file_id, offset, whole[offset:])).status == 200
        assert (await files.get("alice", file_id)).body == whole


@pytest.mark.parametrize("headers", [{}, {"Upload-Length": "x"}, {"Upload-Length": "-5"}, {"Upload-Length": ""}])
async def test_a_beginning_needs_the_length(tmp_path, headers):
    """400, and no row."""
    async with site(tmp_path) as files:
        assert (await files.ask("alice", "POST", "/v1/files?resumable=1", headers)).status == 400
        assert files.rows() == []


async def test_an_upload_reserves_its_length(tmp_path):
    """The quota counts it from the beginning, and gives it back when it is deleted; the size is bounded."""
    async with site(tmp_path, quota_bytes=100, max_size_bytes=80) as files:
        assert (await files.ask("alice", "POST", "/v1/files", {"Upload-Length": "81"})).status == 413
        file_id = await files.begin(size=80)
        assert (await files.ask("alice", "POST", "/v1/files", {"Upload-Length": "21"})).status == 413
        assert (await files.ask("alice", "POST", "/v1/files", {}, bytes(21))).status == 413
        await files.patch(file_id, 0, bytes(50))
        assert (await files.ask("alice", "DELETE", f"/v1/files/{file_id}")).status == 200
        assert (files.rows(), files.stored()) == ([], [])
        await files.begin(size=80)


async def test_an_upload_is_its_owners_alone(tmp_path):
    """Others get the 404 of what does not exist; the owner cannot read it yet, nor send it."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=10)
        unknown = await files.patch("0" * 32, 0, b"x", "bob")
        assert unknown.status == 404
        assert (await files.patch(file_id, 0, b"x", "bob")).json == unknown.json
        for method in ("GET", "HEAD", "DELETE"):
            assert (await files.ask("bob", method, f"/v1/files/{file_id}")).status == 404
        assert (await files.get("alice", file_id)).status == 409


async def test_a_connection_that_breaks_keeps_what_has_come(tmp_path):
    """All bytes that the server has had are there, also those that it had not written yet."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=len(DATA))
        await files.patch(file_id, 0, [DATA[:700], DATA[700:1000]], gone=True)
        assert (await files.get("alice", file_id, "HEAD")).headers["upload-offset"] == "1000"
        assert (await files.patch(file_id, 1000, DATA[1000:])).json["sha256"] == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("how", ["HEAD", "PATCH"])
async def test_the_newer_request_takes_over(tmp_path, how):
    """A request that hangs on a dead connection puts the upload down, with what it has, when the client is back."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=6)
        hangs = trio.Event()
        pieces = [b"abc"]
        replies = []

        async def receive():
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": True}
            hangs.set()
            await trio.sleep_forever()

        async def first():
            headers = {"Upload-Offset": "0"}
            replies.append(await files.ask("alice", "PATCH", f"/v1/files/{file_id}", headers, [], receive=receive))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await hangs.wait()
            if how == "HEAD":
                assert (await files.get("alice", file_id, "HEAD")).headers["upload-offset"] == "3"
            else:
                assert (await files.patch(file_id, 0, b"x")).json["offset"] == 3
        assert replies[0].status == 409
        assert (await files.patch(file_id, 3, b"def")).json["sha256"] == hashlib.sha256(b"abcdef").hexdigest()


async def test_a_server_that_stops_keeps_what_has_come(tmp_path):
    """`on_stop` ends what is under way: the resumable one keeps its bytes, the plain one leaves none; no new one begins."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=6)
        hanging = trio.Semaphore(0)
        replies = []

        async def ask(method, path, headers):
            pieces = [b"abc"]

            async def receive():
                if pieces:
                    return {"type": "http.request", "body": pieces.pop(), "more_body": True}
                hanging.release()
                await trio.sleep_forever()

            replies.append(await files.ask("alice", method, path, headers, [], receive=receive))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "PATCH", f"/v1/files/{file_id}", {"Upload-Offset": "0"})
            nursery.start_soon(ask, "POST", "/v1/files", {})
            await hanging.acquire()
            await hanging.acquire()
            await files.plugin.on_stop(files.app)
            assert (files.stored(), len(files.rows())) == ([file_id], 1)
        assert [reply.status for reply in replies] == [503, 503]
        assert (await files.ask("alice", "POST", "/v1/files", {}, b"x")).status == 503
        assert len(files.rows()) == 1
    async with site(tmp_path) as files:
        assert (await files.patch(file_id, 3, b"def")).json["sha256"] == hashlib.sha256(b"abcdef").hexdigest()


async def test_a_database_that_hangs_does_not_hold_a_request_for_ever(tmp_path, monkeypatch):
    """503 after a while; when it comes round, nothing of the upload is left."""
    from imserver_plugins.file import state
    from imserver_plugins.file.cleanup import Cleaner

    monkeypatch.setattr(state, "_DURABLE_S", 0.05)
    async with site(tmp_path) as files:
        files.rig.store.shut()
        assert (await files.ask("alice", "POST", "/v1/files", {}, b"x")).status == 503
        files.rig.store.open()
        await files.rig.shard.wait_settled()
        await Cleaner(files.state, files.app).round()
        assert (files.rows(), files.stored()) == ([], [])


async def test_two_requests_at_once_never_mix(tmp_path):
    """Many at the same offset: one goes on, the others are told where it stands; the file is whole."""
    async with site(tmp_path, uploads_per_user=100) as files:
        file_id = await files.begin(size=400_000)
        whole = b"".join(bytes([number]) * 100_000 for number in range(4))
        for part in range(4):
            start = part * 100_000
            middle, end = start + 50_000, start + 100_000
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(files.patch, file_id, start, [whole[start:middle], whole[middle:end]])
            offset = int((await files.get("alice", file_id, "HEAD")).headers["upload-offset"])
            while offset < end:
                offset = (await files.patch(file_id, offset, whole[offset:end])).json.get("offset", 400_000)
        assert (await files.get("alice", file_id)).body == whole


async def test_the_sha256_of_the_whole_is_compared(tmp_path):
    """Announced at the beginning or with the last part: a mismatch is 400 and ends the upload."""
    right = hashlib.sha256(b"abcdef").hexdigest()
    cases = ((right, right, 200), ("0" * 64, None, 400), (None, "0" * 64, 400), (right, None, 200))
    for number, (early, late, status) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with site(folder) as files:
            headers = {} if early is None else {"X-Content-SHA256": early}
            file_id = await files.begin(size=6, **headers)
            await files.patch(file_id, 0, b"abc")
            headers = {"Upload-Offset": "3", **({} if late is None else {"X-Content-SHA256": late})}
            assert (await files.ask("alice", "PATCH", f"/v1/files/{file_id}", headers, b"def")).status == status
            if status == 400:
                assert (files.rows(), files.stored()) == ([], [])


async def test_the_last_byte_without_an_answer_is_finished_later(tmp_path):
    """The commit at the end fails: HEAD, when the database is well again, finishes the file without a byte more."""
    async with site(tmp_path) as files:
        file_id = await files.begin(size=3)
        files.rig.store.fail_next()
        assert (await files.patch(file_id, 0, b"abc")).status == 503
        assert (await files.get("alice", file_id)).status == 409
        assert (await files.get("alice", file_id, "HEAD")).headers["upload-offset"] == "3"
        assert (await files.get("alice", file_id)).body == b"abc"


async def test_a_picture_that_came_in_parts_is_known_for_one(tmp_path):
    """Its first bytes are read again."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(50)
    async with site(tmp_path) as files:
        file_id = await files.begin(size=len(picture), **{"Content-Type": "image/png"})
        await files.patch(file_id, 0, picture[:3])
        await files.patch(file_id, 3, picture[3:])
        assert (await files.get("alice", file_id)).headers["content-disposition"].startswith("inline")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=6))
def test_any_parts_with_any_breaks_give_the_file(tmp_path_factory, cuts):
    """Whatever the parts and wherever the connection breaks: what is asked for by HEAD leads to the same file."""

    async def main():
        async with site(tmp_path_factory.mktemp("files")) as files:
            file_id = await files.begin(size=len(DATA))
            for length, breaks in cuts:
                offset = int((await files.get("alice", file_id, "HEAD")).headers["upload-offset"])
                await files.patch(file_id, offset, [DATA[offset : offset + length]], gone=breaks)
            offset = int((await files.get("alice", file_id, "HEAD")).headers["upload-offset"])
            done = (await files.patch(file_id, offset, DATA[offset:])).json
            assert done["sha256"] == hashlib.sha256(DATA).hexdigest()
            assert (await files.get("alice", file_id)).body == DATA

    trio.run(main)
