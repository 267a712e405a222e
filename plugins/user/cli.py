"""The commands `imserver user …` and `imserver token`.

They work on the database itself, beside a running server or without one. `ctx.obj.config` is the configuration; the
options `-c` and `--set` are added by the group that these commands are put into.
"""

from __future__ import annotations

import re
import sys
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
    """Give the user NAME the role ROLE, such as admin, or take it away."""
    from imserver_plugins.user import admin

    admin.set_role(ctx.obj.config, name, role, not remove)
    click.echo(f"role {role} {'taken from' if remove else 'given to'} {name}")


@click.command()
@click.argument("name")
@click.option(
    "--ttl",
    metavar="DURATION",
    callback=_seconds,
    help="How long it is valid: 90s, 15m, 24h, 30d. By default auth.token_ttl.",
)
@click.pass_context
def token(ctx: click.Context, name: str, ttl: float | None) -> None:
    """Print an access token of the user NAME, for AUTH or the HTTP API. Whoever has it is that user."""
    from imserver_plugins.user import admin

    config = ctx.obj.config
    click.echo(admin.issue_token(config, name, config.auth.token_ttl_s if ttl is None else ttl))


#: For `Plugin.cli_commands`.
COMMANDS: tuple[click.Command, ...] = (user, token)
