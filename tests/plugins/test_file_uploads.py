"""Uploads: what is kept, what is refused, and that nothing else remains."""

import base64
import hashlib

import pytest
import trio
from file_rig import site

from imserver.errors import Unavailable

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


async def test_a_file_comes_back_as_it_was_sent(tmp_path):
    """Bytes, name, type, size and SHA-256 of a raw upload in several pieces."""
    data = bytes(range(256)) * 5000
    pieces = [data[start : start + 65536] for start in range(0, len(data), 65536)]
    async with site(tmp_path) as files:
        headers = {"Content-Type": "application/pdf; x=y", "X-File-Name": "%E6%8A%A5%E5%91%8A.pdf"}
        reply = await files.ask("alice", "POST", "/v1/files", headers, pieces)
        sent = reply.json
        assert reply.status == 200
        assert (sent["name"], sent["type"], sent["size"]) == ("报告.pdf", "application/pdf", len(data))
        assert sent["sha256"] == hashlib.sha256(data).hexdigest()
        assert len(sent["file_id"]) == 32
        got = await files.get("alice", sent["file_id"])
        assert got.body == data
        assert got.headers["content-type"] == "application/pdf"
        assert got.headers["content-disposition"].startswith("attachment; ")
        assert "filename*=UTF-8''%E6%8A%A5%E5%91%8A.pdf" in got.headers["content-disposition"]
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert "private" in got.headers["cache-control"]


async def test_an_empty_file_is_a_file(tmp_path):
    """No bytes, but a name, a type and the SHA-256 of nothing."""
    async with site(tmp_path) as files:
        sent = await files.upload(data=b"")
        assert sent["sha256"] == hashlib.sha256().hexdigest()
        got = await files.get("alice", sent["file_id"])
        assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "0")


def form(*parts, boundary="XX"):
    """A form: (headers, data) each."""
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary.encode(), head, data) for head, data in parts)
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body + b"--" + boundary.encode() + b"--\r\n"


FILE_HEAD = 'Content-Disposition: form-data; name="f"; filename="a 报%22.png"\r\nContent-Type: image/png'.encode()


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
async def test_a_form_with_one_file(tmp_path, step):
    """The file's part counts, other fields do not; cut anywhere."""
    headers, body = form((b'Content-Disposition: form-data; name="x"', b"field"), (FILE_HEAD, PNG + b"\r\n--X"))
    async with site(tmp_path) as files:
        pieces = [body[start : start + step] for start in range(0, len(body), step)]
        reply = await files.ask("alice", "POST", "/v1/files", headers, pieces)
        assert reply.status == 200, reply.json
        assert (reply.json["name"], reply.json["type"]) == ('a 报".png', "image/png")
        got = await files.get("alice", reply.json["file_id"])
        assert got.body == PNG + b"\r\n--X"
        assert got.headers["content-disposition"].startswith("inline; ")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        form((b'Content-Disposition: form-data; name="x"', b"field")),
        form((FILE_HEAD, b"a"), (FILE_HEAD, b"b")),
        (form((FILE_HEAD, b"a"))[0], form((FILE_HEAD, b"abc"))[1][:-20]),
        (form((FILE_HEAD, b"a"))[0], form((FILE_HEAD, b"abc"))[1][:-9]),
        (form((FILE_HEAD, b"a"))[0], form((FILE_HEAD, b"abc"))[1][:-4]),
        (form()[0], b"no form"),
        (form()[0], b""),
        ({"Content-Type": "multipart/form-data"}, b"--X\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=" + "x" * 300}, b"--X\r\n"),
        form((b'Content-Disposition: form-data; name="x"', bytes(70_000)), (FILE_HEAD, b"a")),
        form((b'Content-Disposition: form-data; name="f"; filename="\xff"', b"a")),
        form((b"X: " + b"y" * 9000, b"a")),
    ],
)
async def test_a_form_that_is_wrong_leaves_nothing(tmp_path, headers, body):
    """No file, two, cut short, no form, much beside the file, a name that is no UTF-8: 400, and no row or byte stays."""
    async with site(tmp_path) as files:
        reply = await files.ask("alice", "POST", "/v1/files", headers, body)
        assert reply.status == 400
        assert files.rows() == []
        assert files.stored() == []


async def test_the_size_is_bounded_announced_or_not(tmp_path):
    """One byte over max_size is refused by its Content-Length, and while it streams; exactly max_size is taken."""
    async with site(tmp_path, max_size_bytes=100) as files:
        assert (await files.upload(data=bytes(100)))["size"] == 100
        assert (await files.ask("alice", "POST", "/v1/files", {}, bytes(101))).status == 413
        reply = await files.ask("alice", "POST", "/v1/files", {}, [bytes(50), bytes(51)])
        assert (reply.status, reply.json["error"]) == (413, "too_large")
        assert "100" in reply.json["message"]
        headers, body = form((FILE_HEAD, bytes(101)))
        assert (await files.ask("alice", "POST", "/v1/files", headers, body)).status == 413
        assert len(files.rows()) == len(files.stored()) == 1


async def test_types_that_are_not_allowed(tmp_path):
    """A pattern decides; what declares nothing is what its first bytes say."""
    async with site(tmp_path, allowed_types=("image/*", "application/pdf")) as files:
        for kind, status in (("image/x-icon", 200), ("application/PDF", 200), ("text/html", 400), ("nonsense", 400)):
            reply = await files.ask("alice", "POST", "/v1/files", {"Content-Type": kind}, b"x")
            assert reply.status == status, kind
        assert (await files.ask("alice", "POST", "/v1/files", {}, PNG)).json["type"] == "image/png"
        reply = await files.ask("alice", "POST", "/v1/files", {}, b"?")
        assert (reply.status, reply.json["field"]) == (400, "type")
        assert len(files.rows()) == len(files.stored()) == 3


@pytest.mark.parametrize("how", ["x-content-sha256", "digest", "repr-digest"])
async def test_the_clients_sha256_is_compared(tmp_path, how):
    """The right one passes; a wrong or malformed one is 400 and nothing is kept."""

    def header(data):
        digest = hashlib.sha256(data).digest()
        coded = base64.b64encode(digest).decode()
        return {"x-content-sha256": digest.hex(), "digest": f"sha-256={coded}", "repr-digest": f"sha-256=:{coded}:"}[how]

    async with site(tmp_path) as files:
        assert (await files.ask("alice", "POST", "/v1/files", {how: header(b"x")}, b"x")).status == 200
        wrong = await files.ask("alice", "POST", "/v1/files", {how: header(b"y")}, b"x")
        assert (wrong.status, wrong.json["field"]) == (400, "sha256")
        bad = await files.ask("alice", "POST", "/v1/files", {how: header(b"y")[:30]}, b"x")
        assert bad.status == 400
        assert len(files.rows()) == len(files.stored()) == 1


async def test_a_client_that_goes_away_leaves_nothing(tmp_path):
    """The connection ends in the middle of a plain upload: no row, no byte, the quota as before."""
    async with site(tmp_path) as files:
        await files.ask("alice", "POST", "/v1/files", {}, [bytes(1000)], gone=True)
        assert (files.rows(), files.stored()) == ([], [])


async def test_a_cancelled_upload_leaves_nothing(tmp_path):
    """The server gives the request up (a deadline, a drain) while it waits for bytes."""
    async with site(tmp_path) as files:
        arrived = trio.Event()
        pieces = [b"x" * 300_000]

        async def receive():
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": True}
            arrived.set()
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: files.ask("alice", "POST", "/v1/files", {}, [], receive=receive))
            await arrived.wait()
            assert len(files.rows()) == len(files.stored()) == 1
            nursery.cancel_scope.cancel()
        assert (files.rows(), files.stored()) == ([], [])
        assert not files.state.slots._taken
        assert not files.state.turns._turns


async def test_uploads_at_once_are_bounded(tmp_path):
    """The user's third is refused with 429 while two run; another user's is not."""
    async with site(tmp_path, uploads_per_user=2) as files:
        arrived = trio.Semaphore(0)

        async def receive():
            arrived.release()
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: files.ask("alice", "POST", "/v1/files", {}, [], receive=receive))
            for _ in range(2):
                await arrived.acquire()
            reply = await files.ask("alice", "POST", "/v1/files", {}, b"x")
            assert (reply.status, reply.json["error"]) == (429, "rate_limited")
            await files.upload("bob")
            nursery.cancel_scope.cancel()
        await files.upload("alice")


async def test_uploads_at_once_cannot_pass_the_quota_together(tmp_path):
    """Ten at once of 40 bytes into a quota of 100: two are taken; so with lengths that are known and those that are not."""
    async with site(tmp_path, quota_bytes=100, uploads_per_user=100) as files:
        statuses = []

        async def one(user, body):
            statuses.append((await files.ask(user, "POST", "/v1/files", {}, body)).status)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one, "alice", bytes(40))
        assert sorted(statuses) == [200] * 2 + [413] * 8
        statuses.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one, "bob", [bytes(20), bytes(20)])
        assert statuses.count(200) in (1, 2)  # each reserves what is left while its length is unknown
        assert set(statuses) == {200, 413}
        for user in ("alice", "bob"):
            reply = await files.ask(user, "GET", "/v1/files")
            assert reply.json["used"] == 40 * len(reply.json["files"]) <= 100
        assert len(files.stored()) == len(files.rows())


async def test_the_quota_says_what_is_wrong(tmp_path):
    """413 with its size; what fits is still taken; a removed file makes room; files without bytes are counted."""
    async with site(tmp_path, quota_bytes=100, max_files=3) as files:
        first = await files.upload(data=bytes(90))
        reply = await files.ask("alice", "POST", "/v1/files", {}, bytes(11))
        assert (reply.status, reply.json["error"]) == (413, "too_large")
        assert "100 bytes together" in reply.json["message"]
        reply = await files.ask("alice", "POST", "/v1/files", {}, [bytes(5), bytes(6)])
        assert (reply.status, "100 bytes together" in reply.json["message"]) == (413, True)
        await files.upload(data=bytes(10))
        assert (await files.ask("alice", "DELETE", f"/v1/files/{first['file_id']}")).status == 200
        await files.upload(data=bytes(90))
        await files.upload(data=b"")
        reply = await files.ask("alice", "POST", "/v1/files", {}, b"")
        assert (reply.status, "3 files" in reply.json["message"]) == (413, True)


async def test_a_full_disk_is_503_and_leaks_nothing(tmp_path, monkeypatch):
    """The store refuses in the middle: 503 with a time to try again, no row, no bytes, and the next one passes."""
    async with site(tmp_path) as files:
        writers = []
        real = files.state.files.writer

        async def writer(file_id, offset):
            made = await real(file_id, offset)
            append = made.append

            async def failing(pieces):
                if writers:
                    raise Unavailable("the disk for files is full")
                writers.append(made)
                await append(pieces)

            made.append = failing
            return made

        monkeypatch.setattr(files.state.files, "writer", writer)
        reply = await files.ask("alice", "POST", "/v1/files", {}, [bytes(300_000), bytes(300_000)])
        assert (reply.status, reply.json["error"], "retry_after_ms" in reply.json) == (503, "unavailable", True)
        assert writers
        assert (files.rows(), files.stored()) == ([], [])
        monkeypatch.undo()
        await files.upload()


async def test_a_failed_commit_keeps_nothing(tmp_path):
    """The database refuses the row at the end: 503, and bytes and reservation are gone."""
    async with site(tmp_path) as files:
        files.rig.store.pass_next()  # the reservation
        files.rig.store.fail_next()  # the file's row
        reply = await files.ask("alice", "POST", "/v1/files", {}, b"x")
        assert reply.status == 503
        assert (files.rows(), files.stored()) == ([], [])
        await files.upload()


async def test_what_cannot_be_removed_at_once_the_cleaner_removes(tmp_path):
    """Disk and database are full together: the rest of the upload goes in a later round, and its reservation with it."""
    from imserver_plugins.file.cleanup import Cleaner

    async with site(tmp_path) as files:
        files.rig.store.pass_next()
        files.rig.store.fail_next()
        files.rig.store.fail_next()
        assert (await files.ask("alice", "POST", "/v1/files", {}, b"x")).status == 503
        assert len(files.rows()) == 1
        assert await Cleaner(files.state, files.app).round() == 1
        assert (files.rows(), files.stored()) == ([], [])


async def test_own_files_are_listed_in_pages(tmp_path):
    """Newest first, every one once, others' never; bad pages are 400."""
    async with site(tmp_path) as files:
        sent = []
        for number in range(7):
            sent.append((await files.upload(data=b"x" * number))["file_id"])
            if number % 3:
                files.rig.clock.advance(1)
        await files.upload("bob")
        seen, cursor = [], ""
        while cursor is not None:
            page = (await files.ask("alice", "GET", f"/v1/files?limit=2&cursor={cursor}")).json
            seen += [file["file_id"] for file in page["files"]]
            cursor = page.get("next_cursor")
        assert sorted(seen) == sorted(sent)
        assert seen[0] == sent[-1] or seen[0] in sent[-2:]
        for query in ("limit=0", "limit=501", "limit=x", "cursor=zz", "cursor=1-2", "cursor=" + "z" * 15 + "-" + "0" * 32):
            assert (await files.ask("alice", "GET", f"/v1/files?{query}")).status == 400, query
