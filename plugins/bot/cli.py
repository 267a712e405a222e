"""The commands `imserver bot …`; they work on the database, beside a running server or without one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from imserver.plugin import NotFound, offline_database, parties_of
from imserver_plugins.bot import store

if TYPE_CHECKING:
    import apsw


@contextmanager
def _transaction(ctx: click.Context) -> Iterator[apsw.Connection]:
    with offline_database(ctx.obj.config) as connection:
        connection.transaction_mode = "IMMEDIATE"
        with connection:
            yield connection


@click.group()
def bot() -> None:
    """Make users bots, and URLs that post into a conversation."""


@bot.command()
@click.argument("user")
@click.pass_context
def add(ctx: click.Context, user: str) -> None:
    """Make the existing user USER a bot: it gets the commands in its conversations from now on."""
    with _transaction(ctx) as connection:
        _require_user(connection, user)
        connection.execute(store.ADD, (user, _now_ms()))
    click.echo(f"{user} is a bot")


@bot.command()
@click.argument("user")
@click.pass_context
def remove(ctx: click.Context, user: str) -> None:
    """Let the user USER be no bot any more; the user itself stays."""
    with _transaction(ctx) as connection:
        if not list(connection.execute(store.REMOVE, (user,))):
            raise NotFound(f"{user} is no bot")
    click.echo(f"{user} is no bot any more")


@bot.command("list")
@click.pass_context
def list_bots(ctx: click.Context) -> None:
    """Show the bots; times are UTC."""
    with offline_database(ctx.obj.config) as connection:
        rows: list[Any] = list(connection.execute(store.BOTS))
    for user, created_at in rows:
        click.echo(f"{user}  since {_time(created_at)}")


@bot.group()
def hook() -> None:
    """The URLs that post into a conversation."""


@hook.command("add")
@click.argument("conversation")
@click.option("--as", "user", required=True, metavar="USER", help="Who posts: a member of the conversation.")
@click.pass_context
def add_hook(ctx: click.Context, conversation: str, user: str) -> None:
    """Make a URL that posts into CONVERSATION (d:alice:bot or g:team), and print its path, which is done this once."""
    hook_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    with _transaction(ctx) as connection:
        _require_user(connection, user)
        if conversation.startswith("d:"):
            parties = parties_of(conversation)
            if user not in parties:
                raise NotFound(f"{user} is not part of {conversation}")
            for party in parties:
                _require_user(connection, party)
        elif not _count(connection, store.CONVERSATION_EXISTS, conversation, user):
            raise NotFound(f"there is no conversation {conversation} that {user} is a member of")
        row = (hook_id, store.hash_of(secret), conversation, user, _now_ms())
        connection.execute(store.ADD_HOOK, row)
    click.echo(f"/v1/hooks/{hook_id}/{secret}")


@hook.command("list")
@click.pass_context
def list_hooks(ctx: click.Context) -> None:
    """Show the URLs without their secrets, revoked ones included; times are UTC."""
    with offline_database(ctx.obj.config) as connection:
        rows: list[Any] = list(connection.execute(store.HOOKS))
    for hook_id, conversation, user, created_at, revoked_at in rows:
        state = "good" if revoked_at is None else f"revoked {_time(revoked_at)}"
        click.echo(f"{hook_id}  {conversation}  as {user}  since {_time(created_at)}  {state}")


@hook.command("revoke")
@click.argument("hook_id")
@click.pass_context
def revoke_hook(ctx: click.Context, hook_id: str) -> None:
    """End a URL, by its id; a running server refuses it at once."""
    with _transaction(ctx) as connection:
        if not list(connection.execute(store.REVOKE_HOOK, (_now_ms(), hook_id))):
            raise NotFound(f"there is no webhook {hook_id} that is not revoked; see `imserver bot hook list`")
    click.echo(f"webhook {hook_id} revoked")


def _require_user(connection: apsw.Connection, user: str) -> None:
    if not _count(connection, store.USER_EXISTS, user):
        raise NotFound(f"there is no user {user}; `imserver user add` makes one")


def _count(connection: apsw.Connection, sql: str, *params: str) -> int:
    rows: list[Any] = list(connection.execute(sql, params))
    return int(rows[0][0])


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


#: For `Plugin.cli_commands`.
COMMANDS: tuple[click.Command, ...] = (bot,)
