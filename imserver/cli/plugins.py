"""`imserver plugins`."""

from __future__ import annotations

from pathlib import Path

import click

from imserver.cli.context import CliContext


@click.group()
def plugins() -> None:
    """Look at the plugins, begin a new one, reload one in a running server."""


@plugins.command("list")
@click.pass_context
def list_plugins(ctx: click.Context) -> None:
    """Print the enabled plugins in the order of their start, each with its commands."""
    config = ctx.ensure_object(CliContext).config
    from imserver.plugin_loader import load_plugins

    registry = load_plugins(config)
    rows: list[tuple[str, ...]] = [("PLUGIN", "ID", "COMMAND", "WHO", "KIND")]
    for plugin in registry.plugins:
        own = sorted((row for row in registry.commands if row.owner == plugin.name), key=lambda row: row.command_id)
        for row in own:
            kind = "async def" if row.is_async else "def"
            rows.append((plugin.name, str(row.command_id), row.name, row.allow, kind))
        if not own:
            rows.append((plugin.name, "-", "-", "-", "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for line in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@plugins.command("new")
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("plugins"),
    show_default=True,
    help="Where to write it; made if missing.",
)
@click.pass_context
def new_plugin(ctx: click.Context, name: str, folder: Path) -> None:
    """Write a plugin NAME that works, with settings, a table, a command, and a test; then print what to do next.

    A file that is there is never overwritten.
    """
    given = ctx.ensure_object(CliContext)
    config = given.config
    from imserver.cli.new_plugin import write_plugin

    click.echo(write_plugin(name, folder, config, given.config_path), nl=False)


@plugins.command()
@click.argument("name")
@click.pass_context
def reload(ctx: click.Context, name: str) -> None:
    """Load the plugin NAME again in the server that runs with this configuration.

    Its code and its settings are read anew. No connection drops; requests that have begun end in the old code. If the new
    code cannot be loaded or started the old one goes on, and this command says why.

    Exit status: 0 when the new code serves; 1 if it does not, or no server runs.
    """
    config = ctx.ensure_object(CliContext).config
    from imserver.control import ask

    click.echo(ask(config.server.data_dir, {"command": "reload", "plugin": name}))
