"""Backups by time in one folder, for cron: a name for the next, and the oldest removed."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path

from imserver.backup.manifest import read_manifest
from imserver.storage.backup import BackupError, sync

_NAME = re.compile(r"imserver-\d{8}T\d{6}Z")
#: What a backup, or the removal of one, leaves behind that was killed.
_LEFT = re.compile(r"\.imserver-\d{8}T\d{6}Z\.(partial|removed)-[0-9a-f]{8}")


def next_name(now: datetime | None = None) -> str:
    """`imserver-20260131T031500Z`: sorts by time."""
    return f"imserver-{(now or datetime.now(UTC)).strftime('%Y%m%dT%H%M%SZ')}"


def whole_backups(folder: Path) -> list[Path]:
    """The backups of this kind in a folder, oldest first. Whatever else is there is nobody's business here."""
    found = []
    for path in sorted(folder.iterdir()):
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            try:
                read_manifest(path)
            except BackupError:
                continue  # not ours to count, and not ours to remove
            found.append(path)
    return found


def in_the_future(folder: Path, made: Path) -> list[Path]:
    """Backups with later names than the one just made: the clock was ahead when they were made, or is behind now."""
    return [path for path in whole_backups(folder) if path.name > made.name]


def remove_old(folder: Path, keep: int, made: Path) -> list[Path]:
    """Remove all but the newest; call it when the new one is whole. Returns what was removed.

    Args:
        keep: at least 1.
        made: the new one: it stays, whatever the clock was when the others got their names.
    """
    removed = []
    others = [path for path in whole_backups(folder) if path != made]
    for path in others[: max(0, len(others) - (keep - 1))]:
        # Under its own name it must never be half there.
        dying = folder / f".{path.name}.removed-{secrets.token_hex(4)}"
        path.rename(dying)
        sync(folder)
        shutil.rmtree(dying)
        removed.append(path)
    return removed


def remove_left_behind(folder: Path) -> None:
    """Remove what a killed backup has left; one that is under way is locked."""
    for path in folder.iterdir():
        if not _LEFT.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, or another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
