"""`imserver run`."""

from __future__ import annotations

import click

from imserver.cli.context import CliContext


@click.command()
@click.pass_context
def run(ctx: click.Context) -> None:
    """Run the server until SIGTERM or SIGINT.

    At the moment all listeners accept, it logs one line `ready` with their addresses.

    Exit status: 0 after a signal, 2 if the configuration is wrong, 3 if it cannot start.
    """
    config = ctx.ensure_object(CliContext).config
    from imserver import log, server

    log.configure(config.server.log_format, config.server.log_level)
    ctx.exit(server.run(config))
