"""What a backup says of itself: manifest.json and SHA256SUMS."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from imserver.storage.backup import BackupError

MANIFEST, SUMS, DATABASE, SECRET, FILES = "manifest.json", "SHA256SUMS", "imserver.db", "secret", "files"
FORMAT = 1

#: A line of SHA256SUMS. Nothing else is ever in a backup, so no name in one leads out of it.
_LINE = re.compile(r"([0-9a-f]{64})  (imserver\.db|secret|files/([0-9a-f]{2})/\3[0-9a-f]{30})")
_MAX_MANIFEST_BYTES = 1 << 20


class Manifest(msgspec.Struct, kw_only=True):
    """manifest.json."""

    format: int
    #: Of the program that made it.
    version: str
    #: ISO 8601, UTC: when the database was as it is here.
    taken_at: str
    seconds: float
    #: Of all parts together.
    bytes: int
    files: int
    #: Rows by table.
    counts: dict[str, int]
    #: The newest migration by owner.
    migrations: dict[str, int]
    has_secret: bool
    #: Of SHA256SUMS.
    sums_sha256: str
    #: Files that the database names and whose bytes the server itself had lost, or had otherwise than the database says.
    lost_files: list[str] = []
    damaged_files: list[str] = []


def write_manifest(manifest: Manifest) -> bytes:
    """manifest.json, for people to read, too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(backup: Path) -> Manifest:
    """Read and check manifest.json of a backup.

    Raises:
        BackupError: this is no backup, or one of a later format.
    """
    path = backup / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise BackupError(f"{backup} is no backup: there is no {MANIFEST} in it") from exc
    except OSError as exc:
        raise BackupError(f"cannot read {path}: {exc.strerror or exc}") from exc
    try:
        found = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        made = msgspec.json.decode(found["format"], type=int)
        if made != FORMAT:
            raise BackupError(
                f"{backup} is of format {made}, this version reads {FORMAT}: restore it with the version that made it"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError) as exc:
        raise BackupError(f"{path} is damaged: {exc}") from exc


def write_sums(sums: dict[str, str]) -> bytes:
    """SHA256SUMS: name → SHA-256 in hexadecimal digits."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())).encode()


def read_sums(content: bytes, where: Path) -> dict[str, str]:
    """Name → SHA-256 of every part.

    Raises:
        BackupError: it is damaged, or names what no backup has.
    """
    sums: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise BackupError(f"{where} is damaged: {line[:120]!r} is none of its lines")
        sums[match[2]] = match[1]
    if DATABASE not in sums:
        raise BackupError(f"{where} is damaged: it does not name {DATABASE}")
    return sums
