"""`imserver check`."""

from __future__ import annotations

from contextlib import suppress

import click

from imserver.cli.context import CliContext
from imserver.cli.toml import to_toml
from imserver.errors import ConfigError, ImserverError


@click.command()
@click.pass_context
def check(ctx: click.Context) -> None:
    """Validate the configuration, and print `ok` and the settings in effect (secrets masked).

    The settings of the plugins are validated too, the secret file if there is one, and the certificate. No socket is opened,
    and the database is not touched.

    Exit status: 0, or 2 if something is wrong.
    """
    config = ctx.ensure_object(CliContext).config
    from imserver.auth.secret import read_secret
    from imserver.config import as_plain
    from imserver.plugin_loader import load_plugins
    from imserver.tls import ServerTls

    try:
        registry = load_plugins(config)
        with suppress(FileNotFoundError):  # it is made at the first start
            read_secret(config.auth.secret_file)
        if config.tls is not None:
            ServerTls(config.tls)
    except ConfigError:
        raise
    except ImserverError as exc:
        raise ConfigError(str(exc)) from exc
    settings = as_plain(config)
    settings["plugins"] |= {name: as_plain(own) for name, own in registry.settings.items() if own is not None}
    source = "the defaults" if config.file is None else config.file
    click.echo(f"ok\n\n# The settings in effect, from {source}, the environment and --set.\n{to_toml(settings)}", nl=False)
