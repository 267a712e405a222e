"""Restoring a backup: checked first, prepared beside, then put in place in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
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
    #: Files that the backup has not whole and that were left out: name and what is wrong with it.
    left_out: list[str]
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
    without_damaged_files: bool = False,
) -> Restored:
    """Make `data_dir` what it was when the backup was made.

    Args:
        scripts: the plugins' migrations by name: what this program knows.
        replaces: there may be data: it is moved aside.
        without_damaged_files: what is damaged below `files/` is left out, instead of refusing the whole.

    Raises:
        BackupError: the backup is not whole or of a newer program, a server runs, there is data, the disk refuses. All is
            as before then, unless the message says what is where.
    """
    data_dir = Path(os.path.abspath(data_dir))
    secret_file = Path(os.path.abspath(secret_file))
    with ExitStack() as stack:
        if data_dir.exists():
            stack.enter_context(hold(data_dir))
        _check_place(data_dir, secret_file, backup, replaces=replaces)
        whole = verify(backup, report, without_damaged_files=without_damaged_files)
        check_schema(backup / DATABASE, scripts)
        place = places.prepare(data_dir)
        stack.enter_context(places.locked(place.staging))
        is_prepared = False
        secret = None
        try:
            parts.check_space(place.staging, whole.manifest.bytes)
            _fill(place.staging, backup, whole.sums, report)
            first_seq = go_on_behind_a_gap(place.staging / DATABASE)
            secret = _prepare_secret(place.staging, secret_file, data_dir, stack)
            # A server that starts in the moment after the exchange finds this lock taken, too.
            stack.enter_context(hold(place.staging))
            parts.give_to_owner(place.staging, data_dir)
            parts.sync_tree(place.staging)
            is_prepared = True
            aside = place.put()
        except BaseException as exc:
            if secret is not None:
                secret.drop()
            if isinstance(exc, OSError):
                raise parts.disk_error(f"cannot restore to {data_dir}", exc) from exc
            raise
        finally:
            if not is_prepared:  # later it may be the name of what was there before
                shutil.rmtree(place.staging, ignore_errors=True)
        if secret is not None:
            secret.put(data_dir, aside)
        return Restored(whole.manifest, aside, None if secret is None else secret.aside, whole.damaged, first_seq)


@frozen
class _Secret:
    """A restored secret that belongs outside of the data folder, beside its place."""

    file: Path
    draft: Path
    #: A copy of the one that is there; None: there is none.
    aside: Path | None

    def put(self, data_dir: Path, data_aside: Path | None) -> None:
        """The last step.

        Raises:
            BackupError: all but this is done.
        """
        try:
            os.replace(self.draft, self.file)
            sync(self.file.parent)
        except OSError as exc:
            before = "" if data_aside is None else f" (what was there before is in {data_aside})"
            raise BackupError(
                f"{data_dir} is restored{before}, but auth.secret_file {self.file} cannot be replaced "
                f"({exc.strerror or exc}). "
                f"The secret of the backup is in {self.draft}: put it there yourself before you start the server"
            ) from exc

    def drop(self) -> None:
        """Nothing was restored."""
        for path in (self.draft, self.aside):
            if path is not None:
                path.unlink(missing_ok=True)


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


def _prepare_secret(staging: Path, secret_file: Path, data_dir: Path, stack: ExitStack) -> _Secret | None:
    """The restored secret, waiting to be put in place; None: it goes with the folder, or is there already.

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
            parts.copy(secret_file, target, follows_links=True)
        return None
    if not restored.exists():
        return None
    content = restored.read_bytes()
    restored.unlink()
    present = secret_file.read_bytes() if secret_file.exists() else None
    if present == content:
        return None
    owner = secret_file if present is not None else data_dir
    _make_folders(secret_file.parent, owner)
    prefix = f".{secret_file.name}.restore-"
    places.remove_left_behind(secret_file.parent, prefix)
    draft = secret_file.with_name(f"{prefix}{os.urandom(4).hex()}")
    aside = None
    try:
        parts.write(draft, content)
        stack.enter_context(places.locked(draft))
        parts.give_to_owner(draft, owner)
        if present is not None:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            aside = secret_file.with_name(f"{secret_file.name}.before-restore-{stamp}-{os.urandom(2).hex()}")
            parts.write(aside, present)
            parts.give_to_owner(aside, owner)
        sync(secret_file.parent)
    except BaseException:
        _Secret(secret_file, draft, aside).drop()
        raise
    return _Secret(secret_file, draft, aside)


def _make_folders(folder: Path, like: Path) -> None:
    """Mode 700; for the server's own user, not for root who restores."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700)
        parts.give_to_owner(path, like)
