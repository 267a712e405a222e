"""Making a backup: the files first, then the database as of one instant, then what the files have got since."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import Factory, define, frozen

from imserver import __version__
from imserver.backup import parts
from imserver.backup.check import sums_of
from imserver.backup.manifest import (
    DATABASE,
    FILES,
    FORMAT,
    MANIFEST,
    SECRET,
    SUMS,
    Manifest,
    read_manifest,
    write_manifest,
    write_sums,
)
from imserver.storage.backup import BackupError, NamedFile, open_snapshot, read_copy, sync

#: Told as it goes on: what is being done, bytes of it, of how many.
Report = Callable[[str, int, int], None]

#: Rounds over the files before the database is copied; a round with less than this is the last. What is still missing then
#: is copied while the database's state is held.
_ROUNDS = 5
_LITTLE_BYTES = 16 << 20
#: Files that are deleted just between the database's state and their turn; each time another state is taken.
_ATTEMPTS = 100


@frozen
class Made:
    """A backup that is whole and on the disk."""

    path: Path
    manifest: Manifest


def make_backup(
    data_dir: Path, secret_file: Path | None, target: Path, report: Report, *, earlier: Path | None = None
) -> Made:
    """Copy what lasts into a new folder, beside a running server or without one.

    Args:
        secret_file: None: leave it out.
        target: must not exist; the folder it is in must.
        earlier: a backup on the same disk; files that are whole there are linked instead of copied again.

    Raises:
        BackupError: it cannot be; nothing is left of it.
    """
    started = time.monotonic()
    _check_target(data_dir, target)
    with _staging(target) as staging:
        copying = _Copying(data_dir, staging, report, earlier, _sums_of_earlier(earlier))
        manifest = copying.run(secret_file, started)
        parts.sync_tree(staging)
        if os.path.lexists(target):
            raise BackupError(f"{target} exists by now, and is never overwritten")
        try:
            os.rename(staging, target)
            sync(target.parent)
        except OSError as exc:
            raise parts.disk_error(f"cannot give {staging} its name {target}", exc) from exc
    return Made(target, manifest)


def _check_target(data_dir: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise BackupError(f"{target} exists, and is never overwritten: name a new folder, or use --keep")
    if not target.parent.is_dir():
        raise BackupError(f"there is no folder {target.parent} to put the backup into; is its disk mounted?")
    if target.parent.resolve().is_relative_to(data_dir.resolve()):
        raise BackupError(
            f"{target} is inside of server.data_dir: what destroys that destroys the backup; name another place"
        )


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, locked while it is being filled; gone afterwards unless it was renamed."""
    staging = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    try:
        staging.mkdir(mode=0o700)
        lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise parts.disk_error(f"cannot make a folder in {target.parent}", exc) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
    except OSError as exc:
        raise parts.disk_error("the backup failed", exc) from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _sums_of_earlier(earlier: Path | None) -> dict[str, str]:
    """None of a backup that cannot be believed: then all is copied."""
    if earlier is None:
        return {}
    try:
        return sums_of(earlier, read_manifest(earlier))
    except BackupError:
        return {}


@define
class _Copying:
    """One backup under way."""

    data_dir: Path
    staging: Path
    report: Report
    earlier: Path | None
    #: What that says of its parts: name → SHA-256.
    earlier_sums: dict[str, str]
    #: Files that are in the staging folder: id → SHA-256; and their bytes.
    staged: dict[str, str] = Factory(dict)
    file_bytes: int = 0
    #: Those whose bytes were not there when their turn came.
    vanished: set[str] = Factory(set)
    damaged: set[str] = Factory(set)

    def run(self, secret_file: Path | None, started: float) -> Manifest:
        sums: dict[str, str] = {}
        if secret_file is not None:
            sums[SECRET] = self._copy_secret(secret_file)
        self._copy_most_files()
        taken_at, named = self._copy_database()
        self._drop_others(named)
        path = self.staging / DATABASE
        self.report("check", 0, 0)
        facts = read_copy(path)
        sums[DATABASE] = parts.digest(path)
        sums |= {f"{FILES}/{file_id[:2]}/{file_id}": sha256 for file_id, sha256 in self.staged.items()}
        ids = {file.file_id for file in named}
        manifest = Manifest(
            format=FORMAT,
            version=__version__,
            taken_at=taken_at.isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - started, 3),
            bytes=path.stat().st_size + self.file_bytes,
            files=len(self.staged),
            counts=facts.counts,
            migrations=facts.migrations,
            has_secret=secret_file is not None,
            sums_sha256=parts.write(self.staging / SUMS, write_sums(sums)),
            lost_files=sorted(ids - self.staged.keys()),
            damaged_files=sorted(self.damaged & ids),
        )
        parts.write(self.staging / MANIFEST, write_manifest(manifest))
        return manifest

    def _copy_secret(self, secret_file: Path) -> str:
        try:
            # A link is as good as a file to the server, too: what mounts secrets often makes links.
            return parts.copy(secret_file, self.staging / SECRET, follows_links=True)[0]
        except OSError as exc:
            raise BackupError(
                f"cannot read auth.secret_file {secret_file}: {exc.strerror or exc}; --without-secret leaves it out"
            ) from exc

    def _copy_most_files(self) -> None:
        """Before the database, in short transactions: a file that is finished never changes any more."""
        for number in range(_ROUNDS):
            with open_snapshot(self.data_dir) as snapshot:
                files = snapshot.files()
                size = snapshot.size
            if number == 0:
                parts.check_space(self.staging, size + sum(self._needed_bytes(file) for file in files))
            if self._copy_files(files) < _LITTLE_BYTES:
                return

    def _copy_database(self) -> tuple[datetime, list[NamedFile]]:
        """Copy one state whose files are all in the staging folder.

        A file is deleted in the database before its bytes go: one that is not there and is named by a state that was taken
        *after* somebody looked is lost, and no other state would help.
        """
        for _ in range(_ATTEMPTS):
            lost = frozenset(self.vanished)
            taken_at = datetime.now(UTC)
            with open_snapshot(self.data_dir) as snapshot:
                files = snapshot.files()
                self._copy_files(files)
                if any(file.file_id not in self.staged and file.file_id not in lost for file in files):
                    continue
                snapshot.copy_to(self.staging / DATABASE, self._report_database)
            return taken_at, files
        raise BackupError("files are being deleted faster than they can be copied; try again later")

    def _report_database(self, done: int, total: int) -> None:
        self.report("database", done, total)

    def _copy_files(self, files: list[NamedFile]) -> int:
        """Those that are not there yet; how many bytes they have."""
        missing = [file for file in files if file.file_id not in self.staged]
        total = sum(file.size for file in missing)
        done = 0
        for file in missing:
            self.report("files", done, total)
            self._copy_file(file)
            done += file.size
        return done

    def _copy_file(self, file: NamedFile) -> None:
        name = f"{FILES}/{file.file_id[:2]}/{file.file_id}"
        target = self.staging / name
        parts.make_folder_of(target, self.staging)
        if self._can_be_linked(file) and self._link(name, target, file.sha256):
            self._stage(file, file.sha256, file.size)
            return
        try:
            sha256, size = parts.copy(self.data_dir / name, target)
        except FileNotFoundError:
            self.vanished.add(file.file_id)
            return
        self._stage(file, sha256, size)

    def _stage(self, file: NamedFile, sha256: str, size: int) -> None:
        self.staged[file.file_id] = sha256
        self.file_bytes += size
        if sha256 != file.sha256:
            self.damaged.add(file.file_id)

    def _can_be_linked(self, file: NamedFile) -> bool:
        """Whether the earlier backup says that it has these bytes."""
        name = f"{FILES}/{file.file_id[:2]}/{file.file_id}"
        if self.earlier is None or self.earlier_sums.get(name) != file.sha256:
            return False
        try:
            return (self.earlier / name).stat().st_size == file.size
        except OSError:
            return False

    def _link(self, name: str, target: Path, sha256: str) -> bool:
        """Share a file with the earlier backup, if it is whole: what a disk has spoiled there must not be here, too."""
        assert self.earlier is not None
        with suppress(OSError):  # the disk knows no links, has too many of this file, or cannot read it: then it is copied
            os.link(self.earlier / name, target)
            if parts.digest(target) == sha256:
                return True
        target.unlink(missing_ok=True)
        return False

    def _needed_bytes(self, file: NamedFile) -> int:
        return 0 if self._can_be_linked(file) else file.size

    def _drop_others(self, named: list[NamedFile]) -> None:
        """What was deleted while the first files were copied: this database does not name it."""
        for file_id in self.staged.keys() - {file.file_id for file in named}:
            path = self.staging / FILES / file_id[:2] / file_id
            self.file_bytes -= path.stat().st_size
            path.unlink()
            del self.staged[file_id]
