"""`imserver chat`."""

from __future__ import annotations

import logging
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imserver.cli.group import CommandFailed

if TYPE_CHECKING:
    from imserver.chat.app import Options, Screen

DEFAULT_ADDRESS = "http://127.0.0.1:8080"
INTERRUPTED = 130  # as a shell has it: 128 + SIGINT


class _Chat(click.Command):
    """Its help also tells the commands of the inside."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from imserver.chat.commands import COMMANDS

        with formatter.section("Commands inside"):
            formatter.write_dl([(f"/{name} {one.usage}".strip(), one.words) for name, one in COMMANDS.items()])


@click.command(cls=_Chat)
@click.argument("address", default=DEFAULT_ADDRESS)
@click.option("-u", "--user", help="Who you are; asked for otherwise.")
@click.option("-t", "--to", metavar="USER", help="Whom to write to first: a user, or #GROUP.")
@click.option("--register", is_flag=True, help="Make the account first.")
@click.option("--remember", is_flag=True, help="Keep the session's token in a file of your own, and ask no more.")
@click.option("--password-stdin", is_flag=True, help="The password is the first line of standard input.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The password is the first line of this file.",
)
@click.option("--plain", is_flag=True, help="Lines in, lines out. So it is, too, where there is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="With --plain: print each message as one line of JSON.")
@click.option("--follow", is_flag=True, help="With --plain: go on to print at the end of the input.")
@click.option("--unread", is_flag=True, help="With --plain: print what is unread first.")
@click.option("--commands/--no-commands", default=None, help="With --plain: lines with / are commands, or messages.")
@click.option("--save-to", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where /save puts files.")
@click.option("--bell/--no-bell", default=True, help="Ring the terminal's bell for a message.")
@click.option(
    "--ca", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Trust the authority in this PEM file."
)
@click.option("--http", metavar="URL", help="The server's page, for files, where ADDRESS is one of TCP.")
def chat(
    address: str,
    user: str | None,
    to: str | None,
    register: bool,
    remember: bool,
    password_stdin: bool,
    password_file: Path | None,
    plain: bool,
    as_json: bool,
    follow: bool,
    unread: bool,
    commands: bool | None,
    save_to: Path | None,
    bell: bool,
    ca: Path | None,
    http: str | None,
) -> None:
    """Chat in the terminal.

    ADDRESS is the server's page (http://…, https://…), its WebSocket (ws://…, wss://…) or host:port of TCP.

    \b
    To try it, in two terminals, beside `imserver run`:
        imserver chat --user alice --register
        imserver chat --user bob --register --to alice

    For scripts: echo hello | imserver chat --user alice --to bob --password-file FILE

    In the full screen Enter sends, Tab goes to the next conversation with something unread, Ctrl+N and Ctrl+P to the
    next and the previous one, PageUp loads older messages, and Ctrl+C quits. Your messages are marked: … on the way,
    ✓ with the server, ✓✓ read, ! not sent.
    """
    from imserver.chat.app import Options
    from imserver.chat.plain import Plain
    from imserver.chat.tokens import TokenFile, TokenFileError

    # What a log line would do to the screen, the client's state does better.
    logging.getLogger("imserver.client").setLevel(logging.CRITICAL)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    is_plain = plain or as_json or follow or not is_terminal
    face: Screen
    if is_plain:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        has_commands = sys.stdin.isatty() if commands is None else commands
        face = Plain(has_commands=has_commands, as_json=as_json, follow=follow)
    else:
        face = _screen(bell)
    tokens_folder = Path(click.get_app_dir("imserver")) / "chat"
    known = TokenFile.users(tokens_folder, address)
    if user is None and len(known) == 1 and not register:
        user = known[0]
    password = _given_password(password_stdin, password_file)
    if user is None:
        if not sys.stdin.isatty():
            raise click.UsageError("who are you? say --user NAME")
        user = click.prompt("User", err=True)
    try:
        tokens = TokenFile.open(tokens_folder, address, user) if remember or user in known else None
    except TokenFileError as error:
        raise CommandFailed(str(error)) from error
    if tokens is None and user in known:
        click.echo("Another client has the remembered session; this one gets its own.", err=True)
    if password is None and (register or tokens is None):
        password = _asked_password(confirm=register)
    try:
        context = ssl.create_default_context(cafile=ca) if ca is not None else None
    except ssl.SSLError as error:
        raise CommandFailed(f"{ca} has no certificate in PEM form: {error.reason}") from error
    options = Options(
        address,
        user,
        password,
        register=register,
        tokens=tokens,
        to=to,
        folder=save_to or Path.cwd(),
        ssl_context=context,
        http=http,
        history="unread" if unread else "new",
    )
    try:
        status = _run(options, face)
    finally:
        if tokens is not None:
            tokens.close()
    sys.exit(status)


def _run(options: Options, face: Screen) -> int:
    """Run it; ask for the password where the remembered token is no longer good."""
    import functools

    import attrs

    from imserver.chat.app import PasswordWanted, chat
    from imserver.chat.errors import CannotDo
    from imserver.chat.plain import LineTooLong
    from imserver.chat.sanitize import clean_line
    from imserver.chat.tokens import TokenFileError
    from imserver.client import ClientError

    while True:
        try:
            return face.host(functools.partial(chat, options, face))
        except PasswordWanted:
            options = attrs.evolve(options, password=_asked_password(confirm=False))
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            sys.stderr.close()  # who reads us has gone: as cat does
            return 1
        except (ClientError, CannotDo, TokenFileError, LineTooLong, ValueError) as error:
            raise CommandFailed(clean_line(str(error), max_chars=500)) from error
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:
                return INTERRUPTED
            raise


def _screen(bell: bool) -> Screen:
    try:
        from imserver.chat.screen import FullScreen
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("prompt_toolkit"):
            raise
        raise CommandFailed(
            "the full screen needs prompt_toolkit: pip install 'imserver[chat]'; or say --plain, which needs nothing more"
        ) from error
    return FullScreen(bell=bell)


def _given_password(password_stdin: bool, password_file: Path | None) -> str | None:
    if password_stdin and password_file is not None:
        raise click.UsageError("--password-stdin or --password-file, not both")
    if password_file is not None:
        return password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    return _first_line() if password_stdin else None


def _first_line() -> str:
    """The first line of standard input, and not a byte more: the rest are messages."""
    import os

    line = b""
    while not line.endswith(b"\n") and len(line) < 4096 and (byte := os.read(sys.stdin.fileno(), 1)):
        line += byte
    return line.decode().rstrip("\r\n")


def _asked_password(*, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("no password: say --password-file FILE or --password-stdin, or log in once with --remember")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
    return password
