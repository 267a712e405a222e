"""`imserver plugins`."""

from __future__ import annotations

import click

from imserver.cli.context import CliContext


@click.group()
def plugins() -> None:
    """Look at the plugins."""


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
