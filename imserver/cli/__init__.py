"""The command line: `imserver run`, `check`, `user`, … (docs/reference/cli.md).

Importing this package imports nothing heavy: each command is imported when it is asked for (group.py). A command that
needs the configuration takes `-c/--config` and `--set` without a word in its own code and reads `ctx.obj.config`
(context.py); so do the commands that plugins bring along in `Plugin.cli_commands`.

To add a command: a module here with a click command, and a line in `_COMMANDS`.

Exit status: 0; 1 the command failed; 2 wrong configuration or usage; 3 the server cannot start.
"""

from __future__ import annotations

import click

from imserver import __version__
from imserver.cli.context import config_options
from imserver.cli.group import MainGroup

__all__ = ["main"]

# Name on the command line -> module and attribute, and whether it takes the options of the configuration.
_COMMANDS = {
    "run": ("imserver.cli.run:run", True),
    "check": ("imserver.cli.check:check", True),
    "plugins": ("imserver.cli.plugins:plugins", True),
    "version": ("imserver.cli.version:version", False),
    "backup": ("imserver.cli.backup:backup", True),
    "restore": ("imserver.cli.restore:restore", True),
    "bench": ("imserver.cli.bench:bench", False),
    "chat": ("imserver.cli.chat:chat", False),
}


@click.group(
    cls=MainGroup,
    built_in=_COMMANDS,
    params=config_options(),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="imserver", message="%(prog)s %(version)s")
def main() -> None:
    """imserver: a durable instant-messaging server in one process.

    The configuration is read from the file after -c, else from ./imserver.toml or conf/imserver.toml, else there are
    only defaults. Environment variables (IMSERVER_TCP__LISTEN) go before the file, and --set goes before both.
    """
