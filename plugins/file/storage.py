"""Where the bytes of files are kept: `FileStore`, and the one on the local disk.

A store knows ids and bytes. Names, owners, states and who may read what are in the database: whether an upload is finished
is never asked of the store. Another store (S3: an upload is a multipart upload, `save` a part, `finish` its completion)
has these methods to offer and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attrs import frozen

from imserver.plugin import Unavailable

_T = TypeVar("_T")

FILE_ID = re.compile(r"[0-9a-f]{32}")
_READ_BYTES = 1 << 20  # a step of `digest`
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileMissing(Exception):
    """The store does not have this file: somebody removed it behind the server's back, or a backup came without it."""


@frozen
class Stored:
    """A file that the store has, finished or not."""

    file_id: str
    modified_ms: int


@frozen
class Digest:
    """Of all bytes of a file."""

    sha256: bytes
    size: int
    head: bytes  # the first bytes, at most 64


class Writer(Protocol):
    """One upload's open end. Close it whatever happens."""

    @property
    def offset(self) -> int:
        """Where the next byte goes."""

    @property
    def sha256(self) -> bytes:
        """Of what was appended through this writer."""

    async def append(self, pieces: Sequence[bytes]) -> None:
        """Write at the offset and move it.

        Raises:
            Unavailable: the disk is full or fails; what is before the offset stays.
        """

    async def save(self) -> None:
        """What was appended is durable, and found again by `size` after a crash.

        Raises:
            Unavailable: it could not be.
        """

    async def finish(self) -> None:
        """The file is whole: durable, and readable from now on.

        Raises:
            Unavailable: it could not be.
        """

    def close(self) -> None:
        """Give back what it holds; not blocking."""


class Reader(Protocol):
    """An open file. Deleting the file does not disturb it."""

    async def read(self, max_bytes: int) -> bytes:
        """The next bytes, 1 at least; empty: the end."""

    def close(self) -> None:
        """Give back what it holds; not blocking."""


class FileStore(Protocol):
    """Methods take ids of 32 hexadecimal digits that the caller has made or checked."""

    async def prepare(self) -> None:
        """At start.

        Raises:
            OSError: the store cannot be used.
        """

    async def size(self, file_id: str) -> int:
        """How many bytes there are; 0 if there is no such file."""

    async def writer(self, file_id: str, offset: int) -> Writer:
        """Begin to write at an offset, `size` at most; what is beyond it is cut off. Makes the file.

        Raises:
            Unavailable: the disk is full or fails.
        """

    async def reader(self, file_id: str, offset: int) -> Reader:
        """Begin to read at an offset.

        Raises:
            FileMissing: there is none.
        """

    async def digest(self, file_id: str) -> Digest:
        """Read a file through.

        Raises:
            FileMissing: there is none.
        """

    async def delete(self, file_id: str) -> None:
        """Remove a file, finished or not; one that is not there is no error."""

    async def listed(self, after: str, limit: int) -> list[Stored]:
        """What there is, by id, behind the id `after` ("": from the first); the end when it is empty."""


class RunInThread(Protocol):
    """How a store has its blocking calls made."""

    async def __call__(self, function: Callable[..., _T], /, *args: Any) -> _T:
        """The result of `function(*args)`, run in a worker thread."""


class LocalStore:
    """Files in a folder of their own: `ROOT/ab/abcdef…`, named by id alone, in one place from the first byte to the last.

    Args:
        root: made at start (mode 700), with its 256 folders.
        run: makes the blocking calls.
    """

    def __init__(self, root: Path, run: RunInThread) -> None:
        self._root = root
        self._run = run

    def path(self, file_id: str) -> Path:
        """Where a file is."""
        assert FILE_ID.fullmatch(file_id), "an id, never a name"
        return self._root / file_id[:2] / file_id

    async def prepare(self) -> None:
        """See `FileStore.prepare`."""
        await self._run(self._prepare)

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, exist_ok=True)
        for number in range(256):
            (self._root / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        _sync_folder(self._root)
        _sync_folder(self._root.parent)

    async def size(self, file_id: str) -> int:
        """See `FileStore.size`."""
        return await self._run(_size, self.path(file_id))

    async def writer(self, file_id: str, offset: int) -> LocalWriter:
        """See `FileStore.writer`."""
        path = self.path(file_id)
        return LocalWriter(await self._run(_open_to_write, path, offset), path, offset, self._run)

    async def reader(self, file_id: str, offset: int) -> LocalReader:
        """See `FileStore.reader`."""
        return LocalReader(await self._run(_open_to_read, self.path(file_id)), offset, self._run)

    async def digest(self, file_id: str) -> Digest:
        """See `FileStore.digest`."""
        reader = await self.reader(file_id, 0)
        try:
            sha256 = hashlib.sha256()
            size, head = 0, b""
            while data := await reader.read(_READ_BYTES):
                await self._run(sha256.update, data)
                head = head or data[:64]
                size += len(data)
        finally:
            reader.close()
        return Digest(sha256.digest(), size, head)

    async def delete(self, file_id: str) -> None:
        """See `FileStore.delete`."""
        await self._run(_delete, self.path(file_id))

    async def listed(self, after: str, limit: int) -> list[Stored]:
        """See `FileStore.listed`."""
        return await self._run(self._listed, after, limit)

    def _listed(self, after: str, limit: int) -> list[Stored]:
        found: list[Stored] = []
        first = int(after[:2], 16) if after else 0
        for number in range(first, 256):
            with os.scandir(self._root / f"{number:02x}") as entries:
                names = sorted(entry.name for entry in entries if FILE_ID.fullmatch(entry.name) and entry.name > after)
            for name in names[: limit - len(found)]:
                with suppress(FileNotFoundError):  # removed since
                    found.append(Stored(name, self.path(name).stat().st_mtime_ns // 1_000_000))
            if len(found) >= limit:
                break
        return found


class LocalWriter:
    """See `Writer`."""

    def __init__(self, descriptor: int, path: Path, offset: int, run: RunInThread) -> None:
        self._descriptor = descriptor
        self._path = path
        self._offset = offset
        self._run = run
        self._sha256 = hashlib.sha256()

    @property
    def offset(self) -> int:
        """See `Writer.offset`."""
        return self._offset

    @property
    def sha256(self) -> bytes:
        """See `Writer.sha256`."""
        return self._sha256.digest()

    async def append(self, pieces: Sequence[bytes]) -> None:
        """See `Writer.append`."""
        await self._run(self._append, pieces)

    def _append(self, pieces: Sequence[bytes]) -> None:
        with _disk_errors():
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    written = os.pwrite(self._descriptor, left, self._offset)
                    self._sha256.update(left[:written])
                    self._offset += written
                    left = left[written:]

    async def save(self) -> None:
        """See `Writer.save`."""
        await self._run(self._sync)

    finish = save

    def _sync(self) -> None:
        with _disk_errors():
            os.fsync(self._descriptor)
            _sync_folder(self._path.parent)

    def close(self) -> None:
        """See `Writer.close`."""
        os.close(self._descriptor)


class LocalReader:
    """See `Reader`."""

    def __init__(self, descriptor: int, offset: int, run: RunInThread) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._run = run

    async def read(self, max_bytes: int) -> bytes:
        """See `Reader.read`."""
        data = await self._run(os.pread, self._descriptor, max_bytes, self._offset)
        self._offset += len(data)
        return data

    def close(self) -> None:
        """See `Reader.close`."""
        os.close(self._descriptor)


# ---------------------------------------------------------------- in worker threads


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise Unavailable("the disk for files is full; try again later", retry_after_ms=60_000) from exc
        raise Unavailable("the disk for files fails; try again later", retry_after_ms=60_000) from exc


def _open_to_write(path: Path, offset: int) -> int:
    with _disk_errors():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, offset)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _open_to_read(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise FileMissing(path.name) from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _delete(path: Path) -> None:
    with _disk_errors():
        path.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
