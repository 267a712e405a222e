"""Putting a restored folder where the old one is, so that a crash leaves the one or the other.

The two folders are exchanged in one step of the kernel's (`renameat2`). Where the data folder cannot be renamed, because it
is a mount point or its parent is another user's, its contents are: then the database goes last, and until it is there a
text in its place makes a server refuse to start.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from imserver.backup import parts
from imserver.backup.manifest import DATABASE
from imserver.storage.backup import BackupError, sync

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_STAGING = ".restore-"
#: What is in a data folder without any data.
_NO_DATA = {"imserver.lock", "lost+found"}
_NOT_MOVED = _NO_DATA | {"control.sock"}
_UNFINISHED = (
    b"A restore was interrupted here. Nothing is lost: what was in this folder is in `before-restore-...` below it. "
    b"Run `imserver restore --replace` again.\n"
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
        _exchange(aside, self.data_dir)
        sync(self.data_dir.parent)
        if had_data:
            return aside
        shutil.rmtree(aside)
        return None

    def _put_inside(self, had_data: bool) -> Path | None:
        aside = self.data_dir / _aside_name("") if had_data else None
        if aside is not None:
            aside.mkdir(mode=0o700)
            self._move_aside(aside)
        for path in self.staging.iterdir():
            if path.name not in (DATABASE, *_NOT_MOVED):
                os.rename(path, self.data_dir / path.name)
        sync(self.data_dir)
        os.replace(self.staging / DATABASE, self.data_dir / DATABASE)
        sync(self.data_dir)
        shutil.rmtree(self.staging)
        return aside

    def _move_aside(self, aside: Path) -> None:
        database = self.data_dir / DATABASE
        guard = self.staging / "unfinished"
        parts.write(guard, _UNFINISHED)
        if database.exists():
            os.link(database, aside / DATABASE)
        os.replace(guard, database)
        sync(aside)
        sync(self.data_dir)
        for path in self.data_dir.iterdir():
            if path.name == DATABASE or path.name in _NOT_MOVED or path in (self.staging, aside):
                continue
            if not path.name.startswith("before-restore-"):
                os.rename(path, aside / path.name)
        sync(aside)


def has_data(data_dir: Path) -> bool:
    """Whether there is something in a data folder that a restore would replace."""
    if not data_dir.exists():
        return False
    return any(path.name not in _NO_DATA and not path.name.startswith(_STAGING) for path in data_dir.iterdir())


def prepare(data_dir: Path) -> Place:
    """Make the folder, mode 700, that becomes the data folder: beside it, or inside where that cannot be.

    Raises:
        BackupError: neither can be written to.
    """
    suffix = os.urandom(4).hex()
    if not data_dir.is_symlink() and not _is_mount_point(data_dir):
        beside = data_dir.with_name(f".{data_dir.name}{_STAGING}{suffix}")
        try:
            data_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside.mkdir(mode=0o700)
            return Place(data_dir, beside, is_inside=False)
        except PermissionError:
            pass  # the parent is another user's, as with systemd
        except OSError as exc:
            raise parts.disk_error(f"cannot make a folder in {data_dir.parent}", exc) from exc
    inside = data_dir.resolve() / f"{_STAGING}{suffix}"
    try:
        inside.mkdir(mode=0o700)
    except OSError as exc:
        raise parts.disk_error(f"cannot write to {data_dir}", exc) from exc
    return Place(data_dir.resolve(), inside, is_inside=True)


def _is_mount_point(path: Path) -> bool:
    return path.exists() and (path.stat().st_dev != path.parent.stat().st_dev or os.path.ismount(path))


def _aside_name(prefix: str) -> str:
    return f"{prefix}before-restore-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{os.urandom(2).hex()}"


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        raise BackupError(
            f"the disk of {other} cannot exchange two folders; move {other} away yourself and restore without --replace"
        )
    raise parts.disk_error(f"cannot put the restored folder to {other}", OSError(number, os.strerror(number)))
