"""Putting a restored folder where the old one is, so that a crash leaves the one or the other.

The two folders are exchanged in one step of the kernel's (`renameat2`). Where the data folder cannot be renamed, because it
is a mount point or its parent is another user's, its contents are: then the database goes last, and until it is there a
text in its place makes a server refuse to start, and tells the next restore where to go on.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve, frozen

from imserver.backup import parts
from imserver.backup.manifest import DATABASE
from imserver.storage.backup import sync

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_STAGING = ".restore-"
_STAGING_SUFFIX = re.compile(r"[0-9a-f]{8}")
_ASIDE = "before-restore-"
#: What is in a data folder without any data.
_NO_DATA = {"imserver.lock", "lost+found"}
_NOT_MOVED = _NO_DATA | {"control.sock"}
_WAL = f"{DATABASE}-wal"
#: The kernel or the disk cannot exchange these two folders: a mount that looks like none, an old kernel, some network disks.
_NO_EXCHANGE = {errno.EBUSY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}
#: In the place of the database: `being moved`, or `all`, and where to.
_GUARD = (
    "A restore was interrupted here. Nothing is lost: what was in this folder is {how} `{aside}` below it. "
    "Run `imserver restore --replace` again.\n"
)
_GUARD_OF_NOTHING = "A restore was interrupted here. Nothing was here before it. Run `imserver restore --replace`.\n"
_GUARD_PATTERN = re.compile(
    rb"A restore was interrupted here\..* (being moved to|all in) `(before-restore-[0-9TZ]+-[0-9a-f]{4})`"
)


@frozen
class Place:
    """Where a restored folder is prepared."""

    data_dir: Path
    staging: Path
    #: The data folder itself cannot be renamed.
    is_inside: bool

    def put(self) -> Path | None:
        """Put it in place. Returns where what was there is now, or None: there was no data."""
        had_data = has_data(self.data_dir)
        if not self.data_dir.exists():
            os.rename(self.staging, self.data_dir)
            sync(self.data_dir.parent)
            return None
        return self._put_inside(had_data) if self.is_inside else self._exchange(had_data)

    def _exchange(self, had_data: bool) -> Path | None:
        # Named before the exchange: from the moment of it on, what was there has its name.
        aside = self.data_dir.with_name(_aside_name(self.data_dir.name + "."))
        os.rename(self.staging, aside)
        try:
            _exchange(aside, self.data_dir)
        except OSError as exc:
            os.rename(aside, self.staging)
            try:
                if exc.errno not in _NO_EXCHANGE:
                    raise parts.disk_error(f"cannot put the restored folder to {self.data_dir}", exc) from exc
                inside = self._moved_inside()
            finally:
                shutil.rmtree(self.staging, ignore_errors=True)
            return inside._put_inside(had_data)
        sync(self.data_dir.parent)
        if had_data:
            return aside
        shutil.rmtree(aside)
        return None

    def _moved_inside(self) -> Place:
        """The same, prepared inside of the data folder, which may be on another disk."""
        data_dir = self.data_dir.resolve()
        staging = data_dir / f"{_STAGING}{os.urandom(4).hex()}"
        try:
            os.rename(self.staging, staging)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EBUSY):
                raise
            found = [path for path in self.staging.rglob("*") if path.is_file()]
            parts.check_space(data_dir, sum(path.stat().st_size for path in found))
            try:
                staging.mkdir(mode=0o700)
                for path in found:
                    target = staging / path.relative_to(self.staging)
                    parts.make_folder_of(target, staging)
                    parts.copy(path, target)
                parts.give_to_owner(staging, data_dir)
                parts.sync_tree(staging)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return evolve(self, data_dir=data_dir, staging=staging, is_inside=True)

    def _put_inside(self, had_data: bool) -> Path | None:
        _drop_linked_asides(self.data_dir)
        aside = None
        if had_data:
            aside = self._move_aside()
        else:
            self._write_guard(_GUARD_OF_NOTHING)
        for path in self.staging.iterdir():
            if path.name not in (DATABASE, *_NOT_MOVED):
                os.rename(path, self.data_dir / path.name)
        sync(self.data_dir)
        os.replace(self.staging / DATABASE, self.data_dir / DATABASE)
        sync(self.data_dir)
        shutil.rmtree(self.staging)
        return aside

    def _move_aside(self) -> Path:
        """Move all that is there into a folder; where a restore was interrupted, into the one that it had begun with."""
        how, name = _read_guard(self.data_dir / DATABASE)
        aside = self.data_dir / (name or _aside_name(""))
        if how == "all in":
            # What the interrupted restore had put here since; nothing of what was there before it.
            self._move_to(self.data_dir / _aside_name(""))
            return aside
        self._make_folder(aside)
        if how is None:
            self._guard_old_database(aside)
        if (aside / _WAL).exists():
            (self.data_dir / _WAL).unlink(missing_ok=True)  # copied by now
        self._move_to(aside)
        self._write_guard(_GUARD.format(how="all in", aside=aside.name))
        return aside

    def _guard_old_database(self, aside: Path) -> None:
        """Put the old database aside together with its log, without which it has lost what was committed last."""
        database, wal = self.data_dir / DATABASE, self.data_dir / _WAL
        if database.exists():
            os.link(database, aside / DATABASE)
            # A copy: nothing that is done here while the guard is in the database's place can change it.
            if wal.exists():
                parts.copy(wal, aside / _WAL)
                parts.give_to_owner(aside / _WAL, self.data_dir)
            sync(aside)
        self._write_guard(_GUARD.format(how="being moved to", aside=aside.name))

    def _write_guard(self, text: str) -> None:
        guard = self.staging / "unfinished"
        parts.write(guard, text.encode())
        parts.give_to_owner(guard, self.data_dir)
        os.replace(guard, self.data_dir / DATABASE)
        sync(self.data_dir)

    def _make_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        parts.give_to_owner(folder, self.data_dir)

    def _move_to(self, folder: Path) -> None:
        self._make_folder(folder)
        for path in self.data_dir.iterdir():
            if path.name in (DATABASE, *_NOT_MOVED) or path.name.startswith((_STAGING, _ASIDE)):
                continue
            target = folder / path.name
            if os.path.lexists(target):
                target = folder / f"{path.name}.{os.urandom(2).hex()}"
            os.rename(path, target)
        with suppress(OSError):
            folder.rmdir()  # nothing was to be moved
            return
        sync(folder)
        sync(self.data_dir)


def _read_guard(database: Path) -> tuple[str | None, str | None]:
    """How far an interrupted restore came, and the name of its folder; None and None: there was none."""
    try:
        with database.open("rb") as file:
            match = _GUARD_PATTERN.match(file.read(1000))
    except FileNotFoundError:
        return None, None
    return (match[1].decode(), match[2].decode()) if match else (None, None)


def _drop_linked_asides(data_dir: Path) -> None:
    """Remove what a restore left that was killed before it moved anything: another name of the database that is in use."""
    database = data_dir / DATABASE
    for path in data_dir.glob(f"{_ASIDE}*/{DATABASE}"):
        if database.exists() and path.samefile(database):
            path.unlink()
            path.with_name(_WAL).unlink(missing_ok=True)
            path.parent.rmdir()


def has_data(data_dir: Path) -> bool:
    """Whether there is something in a data folder that a restore would replace."""
    if not data_dir.exists():
        return False
    return any(path.name not in _NO_DATA and not path.name.startswith(_STAGING) for path in data_dir.iterdir())


def prepare(data_dir: Path) -> Place:
    """Make the folder, mode 700, that becomes the data folder: beside it, or inside where that cannot be.

    What a killed restore has left there is removed.

    Raises:
        BackupError: neither can be written to.
    """
    suffix = os.urandom(4).hex()
    if not data_dir.is_symlink() and not _is_mount_point(data_dir):
        name = f".{data_dir.name}{_STAGING}"
        beside = data_dir.with_name(f"{name}{suffix}")
        try:
            data_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_left_behind(data_dir.parent, name)
            beside.mkdir(mode=0o700)
            return Place(data_dir, beside, is_inside=False)
        except PermissionError:
            pass  # the parent is another user's, as with systemd
        except OSError as exc:
            raise parts.disk_error(f"cannot make a folder in {data_dir.parent}", exc) from exc
    inside = data_dir.resolve() / f"{_STAGING}{suffix}"
    try:
        remove_left_behind(inside.parent, _STAGING)
        inside.mkdir(mode=0o700)
    except OSError as exc:
        raise parts.disk_error(f"cannot write to {data_dir}", exc) from exc
    return Place(data_dir.resolve(), inside, is_inside=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Tell others that this folder or file is not left behind."""
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def remove_left_behind(folder: Path, prefix: str) -> None:
    """Remove what a killed restore has prepared: copies out of a backup. One that is under way is locked."""
    for path in folder.iterdir():
        if not path.name.startswith(prefix) or not _STAGING_SUFFIX.fullmatch(path.name.removeprefix(prefix)):
            continue
        with suppress(OSError), locked(path):  # another user's, or under way
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _is_mount_point(path: Path) -> bool:
    """A bind mount of the same disk is none that its device would tell of."""
    if not path.exists():
        return False
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return path.stat().st_dev != path.parent.stat().st_dev or os.path.ismount(path)
    wanted = os.fsencode(path.resolve())
    # The fifth word, with spaces and the like as octal digits.
    return any(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), line.split()[4]) == wanted for line in lines)


def _aside_name(prefix: str) -> str:
    return f"{prefix}{_ASIDE}{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{os.urandom(2).hex()}"


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
