"""`imserver run`."""

from __future__ import annotations

import click

from imserver.cli.context import CliContext


@click.command()
@click.option("--dev", is_flag=True, help="Reload a plugin of one's own when its file changes.")
@click.pass_context
def run(ctx: click.Context, dev: bool) -> None:
    """Run the server until SIGTERM or SIGINT.

    At the moment all listeners accept, it logs one line `ready` with their addresses.

    Exit status: 0 after a signal, 2 if the configuration is wrong, 3 if it cannot start.
    """
    shared = ctx.ensure_object(CliContext)
    config = shared.config
    from imserver import log, server
    from imserver.config import load_config

    log.configure(config.server.log_format, config.server.log_level)
    # The same options, but the file and the environment as they are then.
    ctx.exit(server.run(config, reread=lambda: load_config(config.file, shared.overrides), watches_plugins=dev))
