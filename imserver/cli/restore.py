"""`imserver restore`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from imserver.cli.backup import Progress, end_at_sigterm
from imserver.cli.context import CliContext


@click.command()
@click.argument("folder", metavar="BACKUP", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="There may be data: it is moved aside, never deleted.")
@click.option(
    "--without-damaged-files", is_flag=True,
    help="Leave out the files of BACKUP that are damaged or missing, instead of refusing it.",
)  # fmt: skip
@click.pass_context
def restore(ctx: click.Context, folder: Path, replace: bool, without_damaged_files: bool) -> None:
    """Make server.data_dir and auth.secret_file what they were when the folder BACKUP was made.

    The server must be stopped. The backup is checked before anything is touched; data that is there is refused without
    --replace. Prints where what was there is now.

    Exit status: 0; 1 if it could not be done: then all is as before, unless the message says otherwise.
    """
    config = ctx.ensure_object(CliContext).config
    from imserver import log
    from imserver.backup.restore import restore as run
    from imserver.plugin_loader import load_plugins

    log.configure(config.server.log_format, config.server.log_level)
    end_at_sigterm()
    started = time.monotonic()
    scripts = load_plugins(config).migrations
    progress = Progress()
    try:
        done = run(
            folder, config.server.data_dir, config.auth.secret_file, scripts, progress,
            replaces=replace, without_damaged_files=without_damaged_files,
        )  # fmt: skip
    finally:
        progress.end()
    log.get_logger("restore").info(
        "restored", backup=str(folder), data_dir=str(config.server.data_dir), taken_at=done.manifest.taken_at,
        bytes=done.manifest.bytes, seconds=round(time.monotonic() - started, 3), first_seq=done.first_seq,
        left_out=len(done.left_out),
    )  # fmt: skip
    for fault in done.left_out:
        click.echo(f"left out: {fault}", err=True)
    if not done.manifest.has_secret and not config.auth.secret_file.exists():
        click.echo(
            f"The backup has no secret: put yours to {config.auth.secret_file}, or all must log in by password again.",
            err=True,
        )
    for path in (done.aside, done.secret_aside):
        if path is not None:
            click.echo(path)
