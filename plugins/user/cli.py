"""The commands `imserver user …` and `imserver token`.

They work on the database itself, beside a running server or without one. `ctx.obj.config` is the configuration; the
options `-c` and `--set` are added by the group that these commands are put into.
"""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click

_MAX_PASSWORD_CHARS = 65_536  # of a line on standard input; how long a password may be is said elsewhere


_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd]?)", re.ASCII)
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A duration on the command line, in seconds."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no duration; expected 90s, 15m, 24h, 30d or a number of seconds.")
    return float(Decimal(match[1]) * _UNIT_S[match[2]])


def _password_options(command: Any) -> Any:
    command = click.option(
        "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
    )(command)
    return click.option(
        "--password", metavar="PASSWORD", help="The password. Others on this machine can see it: better use the prompt."
    )(command)


def _password(given: str | None, from_stdin: bool) -> str:
    if given is not None and from_stdin:
        raise click.UsageError("--password and --password-stdin exclude each other.")
    if from_stdin:
        line = sys.stdin.readline(_MAX_PASSWORD_CHARS).rstrip("\r\n")
        if not line:
            raise click.UsageError("--password-stdin: there is no password on standard input.")
        return line
    if given is not None:
        return given
    prompted: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return prompted


@click.group()
def user() -> None:
    """Make and change users."""


@user.command()
@click.argument("name")
@_password_options
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of the user, such as admin. May be repeated.")
@click.option("--nickname", help="The name that others see; by default the user's own.")
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    password: str | None,
    password_stdin: bool,
    roles: tuple[str, ...],
    nickname: str | None,
) -> None:
    """Make the user NAME; asks for the password unless an option gives it."""
    from imserver_plugins.user import admin

    admin.add_user(ctx.obj.config, name, _password(password, password_stdin), nickname=nickname, roles=roles)
    click.echo(f"user {name} added")


@user.command()
@click.argument("name")
@_password_options
@click.pass_context
def passwd(ctx: click.Context, name: str, password: str | None, password_stdin: bool) -> None:
    """Give the user NAME a new password; all sessions of the user end."""
    from imserver_plugins.user import admin

    admin.set_password(ctx.obj.config, name, _password(password, password_stdin))
    click.echo(f"password of {name} changed")


@user.command()
@click.argument("name")
@click.pass_context
def disable(ctx: click.Context, name: str) -> None:
    """Lock the user NAME out; all sessions of the user end."""
    from imserver_plugins.user import admin

    admin.set_disabled(ctx.obj.config, name, True)
    click.echo(f"user {name} disabled")


@user.command()
@click.argument("name")
@click.pass_context
def enable(ctx: click.Context, name: str) -> None:
    """Let the disabled user NAME in again."""
    from imserver_plugins.user import admin

    admin.set_disabled(ctx.obj.config, name, False)
    click.echo(f"user {name} enabled")


@user.command()
@click.argument("name")
@click.argument("role")
@click.option("--remove", is_flag=True, help="Take the role away.")
@click.pass_context
def role(ctx: click.Context, name: str, role: str, remove: bool) -> None:
    """Give the user NAME the role ROLE, such as admin or one of [roles] in the configuration, or take it away."""
    from imserver_plugins.user import admin

    admin.set_role(ctx.obj.config, name, role, not remove)
    click.echo(f"role {role} {'taken from' if remove else 'given to'} {name}")


class TokenGroup(click.Group):
    """`token NAME` is short for `token issue NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `issue` before what is neither a command nor a question for help."""
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["issue", *args]
        return super().parse_args(ctx, args)


@click.group(cls=TokenGroup, subcommand_metavar="NAME [OPTIONS] | COMMAND [ARGS]...")
def token() -> None:
    """Print an access token of the user NAME, or make and revoke the API keys of back ends.

    `token NAME` is short for `token issue NAME`.
    """


@token.command()
@click.argument("name")
@click.option(
    "--ttl",
    metavar="DURATION",
    callback=_seconds,
    help="How long it is valid: 90s, 15m, 24h, 30d. By default auth.token_ttl.",
)
@click.pass_context
def issue(ctx: click.Context, name: str, ttl: float | None) -> None:
    """Print an access token of the user NAME, for AUTH or the HTTP API. Whoever has it is that user."""
    from imserver_plugins.user import admin

    config = ctx.obj.config
    click.echo(admin.issue_token(config, name, config.auth.token_ttl_s if ttl is None else ttl))


@token.group()
def key() -> None:
    """The API keys of back ends, which act for any user."""


@key.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help='What the key may do: a plugin such as message, one command or route such as message.SEND or user.KICK, "*" for all'
    " that users may, and admin for what needs a role. May be repeated.",
)
@click.option(
    "--expires",
    metavar="DURATION",
    callback=_seconds,
    help="How long it is good: 12h, 90d. By default until it is revoked.",
)
@click.pass_context
def add_key(ctx: click.Context, name: str, scopes: tuple[str, ...], expires: float | None) -> None:
    """Make the API key NAME and print it, which is done this once: the server keeps its hash alone."""
    from imserver_plugins.user import admin

    click.echo(admin.add_key(ctx.obj.config, name, scopes, expires))


@key.command("list")
@click.pass_context
def list_keys(ctx: click.Context) -> None:
    """List the API keys, revoked ones included; times are UTC."""
    from imserver_plugins.user import admin

    now_ms = time.time_ns() // 1_000_000
    rows = [("NAME", "ID", "STATE", "CREATED", "EXPIRES", "LAST USED", "SCOPES")]
    for row in admin.list_keys(ctx.obj.config):
        state = "revoked" if row.revoked_at is not None else "good" if row.is_good(now_ms) else "expired"
        times = (_time(row.created_at), _time(row.expires_at), _time(row.last_used_at))
        rows.append((row.name, row.key_id, state, *times, " ".join(sorted(row.scopes))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for cells in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


@key.command("revoke")
@click.argument("name")
@click.pass_context
def revoke_key(ctx: click.Context, name: str) -> None:
    """End the API key NAME; a running server refuses it within seconds."""
    from imserver_plugins.user import admin

    admin.revoke_key(ctx.obj.config, name)
    click.echo(f"key {name} revoked")


def _time(ms: int | None) -> str:
    return "never" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


#: For `Plugin.cli_commands`.
COMMANDS: tuple[click.Command, ...] = (user, token)
