"""Whether a backup is whole: every checksum, the database's structure, and every file that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from imserver.backup import parts
from imserver.backup.manifest import DATABASE, FILES, SECRET, SUMS, Manifest, read_manifest, read_sums
from imserver.storage.backup import BackupError, read_copy

_SHOWN = 10  # faults; the rest is counted


@frozen
class Whole:
    """A backup that was found whole."""

    manifest: Manifest
    #: Name → SHA-256 of every part that is whole.
    sums: dict[str, str]
    #: Files that are not, each with what is wrong with it: `files/ab/abc… is missing`.
    damaged: list[str]


def sums_of(backup: Path, manifest: Manifest) -> dict[str, str]:
    """SHA256SUMS of a backup, if it is the one that the manifest was written for.

    Raises:
        BackupError: it is not, or cannot be read.
    """
    path = backup / SUMS
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise BackupError(f"cannot read {path}: {exc.strerror or exc}") from exc
    if hashlib.sha256(content).hexdigest() != manifest.sums_sha256:
        raise BackupError(f"{path} is damaged: it is not the file that the manifest was written for")
    return read_sums(content, path)


def verify(backup: Path, report: Callable[[str, int, int], None], *, without_damaged_files: bool = False) -> Whole:
    """Read a backup through. Changes nothing in it.

    Args:
        without_damaged_files: what is damaged below `files/` is no reason to refuse: the rest is worth having.

    Raises:
        BackupError: it is not whole, or no backup; the message has the first faults.
    """
    manifest = read_manifest(backup)
    sums = sums_of(backup, manifest)
    faults: dict[str, str] = {}
    for number, (name, sha256) in enumerate(sums.items()):
        report("verify", number, len(sums))
        if fault := _fault(backup / name, sha256):
            faults[name] = f"{name} {fault}"
    only_files = all(name.startswith(f"{FILES}/") for name in faults)
    if faults and not (without_damaged_files and only_files):
        more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        advice = ". `imserver restore --without-damaged-files` restores all but these" if only_files else ""
        raise BackupError(f"{backup} is damaged: {'; '.join(list(faults.values())[:_SHOWN])}{more}{advice}")
    facts = read_copy(backup / DATABASE)
    lost = set(manifest.lost_files)
    absent = [
        file.file_id
        for file in facts.files
        if f"{FILES}/{file.file_id[:2]}/{file.file_id}" not in sums and file.file_id not in lost
    ]
    if absent:
        raise BackupError(f"{backup} misses {len(absent)} files that its database names, the first is {absent[0]}")
    if manifest.has_secret != (SECRET in sums):
        raise BackupError(f"{backup} is damaged: manifest and {SUMS} do not agree about the secret")
    return Whole(manifest, {name: sums[name] for name in sums if name not in faults}, list(faults.values()))


def _fault(path: Path, sha256: str) -> str | None:
    try:
        return None if parts.digest(path) == sha256 else "is not what was backed up"
    except FileNotFoundError:
        return "is missing"
    except OSError as exc:
        return f"cannot be read: {exc.strerror or exc}"
