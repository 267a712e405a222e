"""Copying the parts of a backup, there and back: hashed on the way, synced, never over something that exists."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from imserver.storage.backup import BackupError, sync

_STEP_BYTES = 1 << 20
#: What must be free beyond the parts themselves: folders, sums, what others write meanwhile.
_SPARE_BYTES = 16 << 20


def copy(source: Path, target: Path, *, follows_links: bool = False) -> tuple[str, int]:
    """Copy into a new file, mode 600, and sync it; its SHA-256 and size.

    Args:
        follows_links: not in a backup, where whoever could write a link there would read any file.

    Raises:
        FileNotFoundError: there is no source.
        BackupError: the disk is full or fails.
    """
    sha256, size = hashlib.sha256(), 0
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if follows_links else os.O_NOFOLLOW)
    with open(os.open(source, flags), "rb", buffering=0) as reader:
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as writer:
                while data := reader.read(_STEP_BYTES):
                    left = memoryview(data)
                    while left:
                        left = left[writer.write(left) :]
                    sha256.update(data)
                    size += len(data)
                os.fsync(descriptor)
        except OSError as exc:
            raise disk_error(f"cannot copy {source} to {target}", exc) from exc
    return sha256.hexdigest(), size


def give_to_owner(path: Path, like: Path) -> None:
    """Root works for the server's own user: a file, or a folder and all below it, is to belong to whom `like` belongs to."""
    if os.geteuid() != 0 or not like.exists():
        return
    owner = like.stat()
    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            os.chown(os.path.join(folder, name), owner.st_uid, owner.st_gid, follow_symlinks=False)


def make_folder_of(target: Path, root: Path) -> None:
    """The folders between `root` and a part, mode 700."""
    for folder in reversed(target.relative_to(root).parents[:-1]):
        (root / folder).mkdir(mode=0o700, exist_ok=True)


def write(path: Path, content: bytes) -> str:
    """Write a new file, mode 600, and sync it; its SHA-256."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return hashlib.sha256(content).hexdigest()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(folder: Path) -> None:
    """Make the names in a folder and below it durable; the files themselves are."""
    for path, _, _ in os.walk(folder, topdown=False):
        sync(Path(path))


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        BackupError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _SPARE_BYTES:
        raise BackupError(
            f"the disk of {folder} has {shown_bytes(free)} free, and {shown_bytes(needed_bytes + _SPARE_BYTES)} are needed; "
            "nothing was written"
        )


def disk_error(what: str, exc: OSError) -> BackupError:
    """What to tell of a disk that refuses."""
    reason = "the disk is full" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else exc.strerror or str(exc)
    return BackupError(f"{what}: {reason}")


def shown_bytes(size: float) -> str:
    """For people: 1.2 GB."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
