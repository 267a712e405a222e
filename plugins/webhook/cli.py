"""The commands `imserver webhook …`: what waits, what was given up, and what is to become of that.

They work on the database, beside a running server or without one; the server looks once a second.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click

from imserver.plugin import offline_database
from imserver_plugins.webhook import store

_DEFAULT_LIMIT = 100
_HEAD = ("ID", "TARGET", "EVENT", "EVENT ID", "HAPPENED", "GIVEN UP", "REASON")


@click.group()
def webhook() -> None:
    """Look after the events for other systems."""


@webhook.command("list")
@click.option("--target", help="Of this target alone.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=_DEFAULT_LIMIT, help="So many at most; by default 100.")
@click.pass_context
def list_dead(ctx: click.Context, target: str | None, limit: int) -> None:
    """Show how much waits for each target, then the events that were given up; times are UTC."""
    with offline_database(ctx.obj.config) as connection:
        summary = list(connection.execute(store.SUMMARY))
        behind = {name: next(connection.execute(store.BEHIND, (name,)))[0] for name, *_ in summary}
        dead = list(connection.execute(store.DEAD, (target, None, limit)))
    for name, waiting, given_up, oldest in summary:
        if target in (None, name):
            since = f", the oldest since {_time(oldest)}" if waiting else ""
            click.echo(f"{name}: {behind[name]} messages behind, {waiting} other events wait{since}; {given_up} given up")
    if not dead:
        click.echo("no events were given up")
        return
    rows = [_HEAD]
    for row_id, name, event, event_id, created_at, failed_at, reason in dead:
        rows.append((str(row_id), name, event, event_id, _time(created_at), _time(failed_at), reason))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for cells in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


@webhook.command()
@click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
@click.option("--all", "is_all", is_flag=True, help="All that were given up.")
@click.option("--target", help="Of this target alone.")
@click.pass_context
def retry(ctx: click.Context, ids: tuple[int, ...], is_all: bool, target: str | None) -> None:
    """Deliver events that were given up after all, under the ids that they had."""
    now_ms = time.time_ns() // 1_000_000
    moved = 0
    with offline_database(ctx.obj.config) as connection:
        connection.transaction_mode = "IMMEDIATE"
        with connection:
            for chosen in _chosen(ids, is_all):
                connection.execute(store.RETRY, (target, chosen, now_ms))
                moved += len(list(connection.execute(store.DROP, (target, chosen))))
    click.echo(f"{moved} events wait again")


@webhook.command()
@click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
@click.option("--all", "is_all", is_flag=True, help="All that were given up.")
@click.option("--target", help="Of this target alone.")
@click.pass_context
def drop(ctx: click.Context, ids: tuple[int, ...], is_all: bool, target: str | None) -> None:
    """Forget events that were given up."""
    dropped = 0
    with offline_database(ctx.obj.config) as connection:
        connection.transaction_mode = "IMMEDIATE"
        with connection:
            for chosen in _chosen(ids, is_all):
                dropped += len(list(connection.execute(store.DROP, (target, chosen))))
    click.echo(f"{dropped} events dropped")


def _chosen(ids: tuple[int, ...], is_all: bool) -> list[int | None]:
    if bool(ids) == is_all:
        raise click.UsageError("Name the ids of events (see `imserver webhook list`), or give --all.")
    return [None] if is_all else list(ids)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


#: For `Plugin.cli_commands`.
COMMANDS: tuple[click.Command, ...] = (webhook,)
