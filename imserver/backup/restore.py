"""Restoring a backup: checked first, prepared beside, then put in place in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from imserver.backup import parts, places
from imserver.backup.check import verify
from imserver.backup.manifest import DATABASE, SECRET, Manifest
from imserver.storage.backup import BackupError, check_schema, hold, sync
from imserver.storage.restored import go_on_behind_a_gap


@frozen
class Restored:
    """What was put in place."""

    manifest: Manifest
    #: Where the data from before is; None: there was none.
    aside: Path | None
    #: Where the secret from before is, if it was another one and is not in `aside`.
    secret_aside: Path | None
    #: Every conversation goes on behind this number.
    first_seq: int


def restore(
    backup: Path,
    data_dir: Path,
    secret_file: Path,
    scripts: Mapping[str, Sequence[str]],
    report: Callable[[str, int, int], None],
    *,
    replaces: bool,
) -> Restored:
    """Make `data_dir` what it was when the backup was made.

    Args:
        scripts: the plugins' migrations by name: what this program knows.
        replaces: there may be data: it is moved aside.

    Raises:
        BackupError: the backup is not whole or of a newer program, a server runs, there is data, the disk refuses. All is
            as before then.
    """
    data_dir = Path(os.path.abspath(data_dir))
    secret_file = Path(os.path.abspath(secret_file))
    with ExitStack() as stack:
        if data_dir.exists():
            stack.enter_context(hold(data_dir))
        _check_place(data_dir, secret_file, backup, replaces=replaces)
        whole = verify(backup, report)
        check_schema(backup / DATABASE, scripts)
        place = places.prepare(data_dir)
        is_prepared = False
        try:
            parts.check_space(place.staging, whole.manifest.bytes)
            _fill(place.staging, backup, whole.sums, report)
            first_seq = go_on_behind_a_gap(place.staging / DATABASE)
            draft = _prepare_secret(place.staging, secret_file, data_dir)
            # A server that starts in the moment after the exchange finds this lock taken, too.
            stack.enter_context(hold(place.staging))
            _give_to_owner(place.staging, data_dir)
            parts.sync_tree(place.staging)
            is_prepared = True
            aside = place.put()
            secret_aside = None if draft is None else _put_secret(draft, secret_file)
        except OSError as exc:
            raise parts.disk_error(f"cannot restore to {data_dir}", exc) from exc
        finally:
            if not is_prepared:  # later it may be the name of what was there before
                shutil.rmtree(place.staging, ignore_errors=True)
        return Restored(whole.manifest, aside, secret_aside, first_seq)


def _check_place(data_dir: Path, secret_file: Path, backup: Path, *, replaces: bool) -> None:
    if replaces:
        return
    if places.has_data(data_dir):
        raise BackupError(f"{data_dir} has data in it. --replace moves it aside, and deletes nothing")
    if secret_file.exists() and (backup / SECRET).exists() and secret_file.read_bytes() != (backup / SECRET).read_bytes():
        raise BackupError(f"auth.secret_file {secret_file} is not the one of the backup. --replace moves it aside")


def _fill(staging: Path, backup: Path, sums: Mapping[str, str], report: Callable[[str, int, int], None]) -> None:
    for number, (name, sha256) in enumerate(sums.items()):
        report("restore", number, len(sums))
        target = staging / name
        parts.make_folder_of(target, staging)
        if parts.copy(backup / name, target)[0] != sha256:
            raise BackupError(f"{backup / name} has changed since it was checked")


def _prepare_secret(staging: Path, secret_file: Path, data_dir: Path) -> Path | None:
    """Where the restored secret waits to be put in place; None: it goes with the folder, or is there already.

    A backup without one leaves the present one where it is, also where that is in the folder that is replaced.
    """
    restored = staging / SECRET
    folder, data = secret_file.parent.resolve(), data_dir.resolve()
    if folder.is_relative_to(data):
        target = staging / folder.relative_to(data) / secret_file.name
        parts.make_folder_of(target, staging)
        if restored.exists():
            restored.rename(target)
        elif secret_file.exists():
            parts.copy(secret_file, target)
        return None
    if not restored.exists():
        return None
    content = restored.read_bytes()
    restored.unlink()
    with suppress(FileNotFoundError):
        if secret_file.read_bytes() == content:
            return None
    secret_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = secret_file.with_name(f".{secret_file.name}.restore-{os.urandom(4).hex()}")
    parts.write(draft, content)
    if secret_file.exists():
        _give_to_owner(draft, secret_file)
    return draft


def _put_secret(draft: Path, secret_file: Path) -> Path | None:
    aside = None
    if secret_file.exists():
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = secret_file.with_name(f"{secret_file.name}.before-restore-{stamp}-{os.urandom(2).hex()}")
        os.link(secret_file, aside)
    os.replace(draft, secret_file)
    sync(secret_file.parent)
    return aside


def _give_to_owner(path: Path, like: Path) -> None:
    """Root restores for the server's own user."""
    if os.geteuid() != 0 or not like.exists():
        return
    owner = like.stat()
    for folder, _, names in os.walk(path):
        for name in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(name, owner.st_uid, owner.st_gid, follow_symlinks=False)
    if path.is_file():
        os.chown(path, owner.st_uid, owner.st_gid)
