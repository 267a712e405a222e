"""`imserver backup`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from imserver.cli.context import CliContext

#: Between two drawings of the progress.
_DRAW_EVERY_S = 0.1


class Progress:
    """A line on the terminal that tells how far it is; nothing where standard error is none."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._drawn_at = 0.0
        self._has_drawn = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Draw, if it is time."""
        now = time.monotonic()
        if not self._is_shown or now - self._drawn_at < _DRAW_EVERY_S:
            return
        self._drawn_at, self._has_drawn = now, True
        part = f" {100 * done // total:3} %" if total else ""
        sys.stderr.write(f"\r\x1b[K{stage}{part}")
        sys.stderr.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._has_drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def end_at_sigterm() -> None:
    """A killed cron job is to tidy up as one that was interrupted by hand."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


class BackupGroup(click.Group):
    """`backup DESTINATION` is short for `backup create DESTINATION`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `create` before what is neither a command nor a question for help."""
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=BackupGroup, subcommand_metavar="DESTINATION [OPTIONS] | COMMAND [ARGS]...")
def backup() -> None:
    """Copy all that lasts into a folder, beside a running server; or check such a copy.

    `backup DESTINATION` is short for `backup create DESTINATION`.
    """


@backup.command()
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N",
    help="DESTINATION is a folder of backups: make one named by the time, then remove all of that kind but the newest N.",
)  # fmt: skip
@click.option("--without-secret", is_flag=True, help="Leave auth.secret_file out: you keep it elsewhere.")
@click.pass_context
def create(ctx: click.Context, destination: Path, keep: int | None, without_secret: bool) -> None:
    """Make the new folder DESTINATION with the database, the files and the secret, as of one instant.

    The server may run, and goes on; it need not. The folder has its name only when it is whole: what was interrupted
    leaves nothing that looks like a backup. Prints its path.

    Exit status: 0; 1 if it could not be made.
    """
    config = ctx.ensure_object(CliContext).config
    from imserver import log
    from imserver.backup import rotation
    from imserver.backup.create import make_backup
    from imserver.storage.backup import BackupError

    log.configure(config.server.log_format, config.server.log_level)
    end_at_sigterm()
    earlier = None
    target = Path(os.path.abspath(destination))
    if keep is not None:
        folder = target
        if not folder.is_dir():
            raise BackupError(f"there is no folder {folder} to keep backups in; make it, or mount its disk")
        rotation.remove_left_behind(folder)
        earlier = next(reversed(rotation.whole_backups(folder)), None)
        target = folder / rotation.next_name()
    progress = Progress()

    def report(stage: str, done: int, total: int) -> None:
        if stage == "check" and done == 0:
            os.nice(10)  # the server goes first; before, while it is read, being quick is what helps it
        progress(stage, done, total)

    try:
        secret_file = None if without_secret else config.auth.secret_file
        made = make_backup(config.server.data_dir, secret_file, target, report, earlier=earlier)
    finally:
        progress.end()
    logger = log.get_logger("backup")
    removed = []
    if keep is not None:
        if later := rotation.in_the_future(target.parent, made.path):
            logger.warning(
                "backup_names_in_the_future", backups=len(later), last=str(later[-1]),
                advice="they count as the newest and are kept longest: correct the clock, then rename or remove them",
            )  # fmt: skip
        removed = rotation.remove_old(target.parent, keep, made.path)
    for what, ids in (("lost", made.manifest.lost_files), ("damaged", made.manifest.damaged_files)):
        if ids:
            logger.warning(
                "backup_file_faults", state=what, files=len(ids), first=ids[:10],
                advice="the server itself does not have these bytes as its database says; an older backup may",
            )  # fmt: skip
    logger.info(
        "backup_made", path=str(made.path), bytes=made.manifest.bytes, seconds=made.manifest.seconds,
        files=made.manifest.files, removed=len(removed), **made.manifest.counts,
    )  # fmt: skip
    click.echo(made.path)


@backup.command("verify")
@click.argument("folder", metavar="BACKUP", type=click.Path(path_type=Path))
def verify_backup(folder: Path) -> None:
    """Check the BACKUP: every checksum, the database's structure, every file that it names. Needs no server.

    Exit status: 0 if it is whole, 1 if not.
    """
    from imserver.backup.check import verify
    from imserver.backup.parts import shown_bytes

    progress = Progress()
    try:
        whole = verify(folder, progress)
    finally:
        progress.end()
    manifest = whole.manifest
    counts = ", ".join(f"{number} {table}" for table, number in manifest.counts.items())
    click.echo(f"ok: {shown_bytes(manifest.bytes)}, {counts}, {manifest.files} files, taken {manifest.taken_at}")
    for what, ids in (
        ("without bytes", manifest.lost_files),
        ("with other bytes than the database says", manifest.damaged_files),
    ):
        if ids:
            click.echo(f"{len(ids)} files {what}, already when it was made: {', '.join(ids[:10])}")
