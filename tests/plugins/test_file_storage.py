"""The store on the local disk, as the interface says; and a disk that is full."""

import errno
import hashlib
import os
import subprocess

import pytest
import trio

from imserver.errors import Unavailable
from imserver_plugins.file import storage
from imserver_plugins.file.storage import FileMissing, LocalStore

ID = "0123456789abcdef" * 2


@pytest.fixture
async def files(tmp_path):
    """A store that is ready."""
    made = LocalStore(tmp_path / "files", trio.to_thread.run_sync)
    await made.prepare()
    return made


async def write(files, file_id, offset, *pieces):
    writer = await files.writer(file_id, offset)
    try:
        await writer.append(pieces)
        await writer.finish()
        return writer.offset, writer.sha256
    finally:
        writer.close()


async def test_what_is_written_is_read(files):
    """In pieces, from any offset, with its SHA-256."""
    assert await files.size(ID) == 0
    offset, sha256 = await write(files, ID, 0, b"abc", b"", b"def")
    assert (offset, sha256) == (6, hashlib.sha256(b"abcdef").digest())
    assert await files.size(ID) == 6
    reader = await files.reader(ID, 2)
    assert [await reader.read(3), await reader.read(3), await reader.read(3)] == [b"cde", b"f", b""]
    reader.close()
    digest = await files.digest(ID)
    assert (digest.sha256, digest.size, digest.head) == (sha256, 6, b"abcdef")


async def test_a_writer_cuts_off_what_is_beyond(files):
    """What was written behind the offset, and was never told of, is no part of the file."""
    await write(files, ID, 0, b"abcdef")
    await write(files, ID, 3, b"X")
    assert (await files.digest(ID)).head == b"abcX"


async def test_a_reader_outlives_its_file(files):
    """Deleted while it is read; deleting twice is no error; then it is missing."""
    await write(files, ID, 0, b"abcdef")
    reader = await files.reader(ID, 0)
    await files.delete(ID)
    await files.delete(ID)
    assert await reader.read(10) == b"abcdef"
    reader.close()
    with pytest.raises(FileMissing):
        await files.reader(ID, 0)
    with pytest.raises(FileMissing):
        await files.digest(ID)


async def test_listing_in_pages(files):
    """Every file once, in the order of the ids, whatever the page."""
    ids = sorted(hashlib.md5(bytes([number]), usedforsecurity=False).hexdigest() for number in range(40))
    for file_id in ids:
        await write(files, file_id, 0, b"x")
    for limit in (1, 7, 100):
        seen, after = [], ""
        while page := await files.listed(after, limit):
            assert len(page) <= limit
            seen += [stored.file_id for stored in page]
            after = seen[-1]
        assert seen == ids


async def test_folders_are_the_servers_own(files, tmp_path):
    """No one else on the machine reads them."""
    await write(files, ID, 0, b"x")
    path = files.path(ID)
    assert path.parent.parent == tmp_path / "files"
    assert [oct(part.stat().st_mode & 0o777) for part in (path, path.parent, path.parent.parent)] == [
        "0o600",
        "0o700",
        "0o700",
    ]


async def test_a_link_is_not_followed(files, tmp_path):
    """Whoever can put a link there could have the server write elsewhere."""
    target = tmp_path / "target"
    target.write_text("precious")
    files.path(ID).symlink_to(target)
    with pytest.raises(Unavailable):
        await files.writer(ID, 0)
    assert target.read_text() == "precious"


async def test_finished_means_synced(files, monkeypatch):
    """The file and its folder are given to the disk before `finish` returns."""
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(storage.os, "fsync", fsync)
    await write(files, ID, 0, b"abc")
    assert synced == [str(files.path(ID)), str(files.path(ID).parent)]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
async def test_errors_of_the_disk_are_503(files, monkeypatch, code):
    """Writing and syncing; what was written before stays where it was."""
    writer = await files.writer(ID, 0)
    try:
        await writer.append([b"abc"])

        def fail(*args):
            raise OSError(code, os.strerror(code))

        for name, call in (("pwrite", lambda: writer.append([b"def"])), ("fsync", writer.save)):
            with monkeypatch.context() as patch:
                patch.setattr(storage.os, name, fail)
                with pytest.raises(Unavailable) as refused:
                    await call()
                assert ("full" in refused.value.message) is (code in (errno.ENOSPC, errno.EDQUOT))
        assert writer.offset == await files.size(ID) == 3
    finally:
        writer.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_disk_that_is_really_full(small_disk):
    """What fits is there to the byte, the rest is refused, deleting makes room again."""
    files = LocalStore(small_disk / "files", trio.to_thread.run_sync)
    await files.prepare()
    writer = await files.writer(ID, 0)
    try:
        with pytest.raises(Unavailable, match="full"):
            await writer.append([bytes(1 << 19)] * 5)
        assert 0 < writer.offset == await files.size(ID) <= 2 << 20
    finally:
        writer.close()
    with pytest.raises(Unavailable, match="full"):
        await write(files, "f" * 32, 0, bytes(1 << 16))
    await files.delete(ID)
    await write(files, "f" * 32, 0, bytes(1 << 16))
