"""The commands `imserver audit …`; they read the database, beside a running server or without one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from imserver.plugin import offline_database
from imserver_plugins.audit import chain, store


def _head(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[chain.Head]:
    """ID:HASH as `verify` and the server's log print it."""
    heads = []
    for value in values:
        number, _, digits = value.partition(":")
        try:
            heads.append(chain.Head(int(number), bytes.fromhex(digits)))
        except ValueError:
            raise click.BadParameter(f"{value!r} is no ID:HASH as `imserver audit verify` prints it.") from None
    return heads


@click.group()
def audit() -> None:
    """Read and check the audit log."""


@audit.command("list")
@click.option("--event", metavar="EVENT", help='Of this kind alone; "authn_*" stands for all that begin so.')
@click.option("--user", "user_id", metavar="USER", help="Entries in which this user is named.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, help="The newest; by default 100.")
@click.pass_context
def list_entries(ctx: click.Context, event: str | None, user_id: str | None, limit: int) -> None:
    """Show the newest entries, the oldest of them first; times are UTC."""
    with offline_database(ctx.obj.config) as connection:
        rows: list[Any] = list(connection.execute(store.CHOSEN, (event, user_id, 0, limit)))
    for entry in (chain.Entry(*row) for row in reversed(rows)):
        at = datetime.fromtimestamp(entry.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        fields = " ".join(f"{key}={_shown(value)}" for key, value in msgspec.json.decode(entry.fields).items())
        click.echo(f"{entry.id}  {at}  {entry.event}  {fields}".rstrip())


@audit.command()
@click.option(
    "--expect", "expected", multiple=True, metavar="ID:HASH", callback=_head,
    help="What `verify` or the server's log said earlier: nothing up to there may have changed. May be repeated.",
)  # fmt: skip
@click.pass_context
def verify(ctx: click.Context, expected: list[chain.Head]) -> None:
    """Check that no entry was changed, removed or put in; the exit status is 1 if one was."""
    with offline_database(ctx.obj.config) as connection, connection:
        entries: Iterator[Any] = iter(connection.execute(store.ALL))
        last_id: Any = next(connection.execute(store.LAST_ID))[0]
        try:
            head, unsealed = chain.verify((chain.Entry(*row) for row in entries), last_id, expected)
        except chain.Broken as exc:
            raise click.ClickException(f"the audit log was tampered with: {exc}") from exc
    waiting = f", {unsealed} newer ones that the server has yet to put into the chain" if unsealed else ""
    click.echo(f"{head.id} entries are as they were written{waiting}")
    click.echo(f"head {head}")


@audit.command()
@click.option("--after", type=click.IntRange(0), default=0, metavar="ID", help="Entries behind this one.")
@click.pass_context
def export(ctx: click.Context, after: int) -> None:
    """Print entries as JSON, one a line, the oldest first."""
    with offline_database(ctx.obj.config) as connection, connection:
        for row in connection.execute(store.ALL):
            entry = chain.Entry(*row)
            if entry.id > after:
                fields = {
                    "id": entry.id,
                    "at": entry.at,
                    "event": entry.event,
                    "fields": msgspec.json.decode(entry.fields),
                    "hash": None if entry.hash is None else entry.hash.hex(),
                }
                click.echo(msgspec.json.encode(fields).decode())


def _shown(value: Any) -> str:
    """A value without what would make a terminal do something."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if text.isprintable() and " " not in text else msgspec.json.encode(text).decode()


#: For `Plugin.cli_commands`.
COMMANDS: tuple[click.Command, ...] = (audit,)
