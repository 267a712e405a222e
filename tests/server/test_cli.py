"""The command line: real processes for exit statuses and messages, click's runner for what the user plugin brings."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from imserver import __version__, log
from imserver.cli import main
from imserver.cli.toml import to_toml
from imserver.log import configure, get_logger, is_secret_name

PASSWORD = "correct horse 7 battery"


def imserver(folder: Path, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IMSERVER_")}
    return subprocess.run(
        [sys.executable, "-m", "imserver", *arguments],
        cwd=folder,
        env=inherited | environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---------------------------------------------------------------- processes


def test_check_prints_what_is_in_effect(tmp_path: Path) -> None:
    """`check` says ok and prints TOML that is itself the same configuration."""
    done = imserver(tmp_path, "check", "--set", "server.node=7", IMSERVER_TCP__HEARTBEAT="90s")
    assert (done.returncode, done.stderr) == (0, "")
    first, _, rest = done.stdout.partition("\n")
    assert first == "ok"
    settings = tomllib.loads(rest)
    assert settings["server"]["node"] == 7
    assert settings["tcp"] == {"listen": ["127.0.0.1:9000"], "heartbeat": "90s"}
    assert settings["plugins"]["message"]["recall_window"] == "2m"
    (tmp_path / "again.toml").write_text(rest)
    again = imserver(tmp_path, "check", "-c", "again.toml")
    assert tomllib.loads(again.stdout.partition("\n")[2]) == settings
    assert list(tmp_path.iterdir()) == [tmp_path / "again.toml"]  # no data folder, no secret


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_configuration_is_exit_status_2(tmp_path: Path, command: str) -> None:
    """The message on standard error names the file, the key and what was expected; nothing else is printed."""
    (tmp_path / "bad.toml").write_text("[server]\nnode = 5000\n")
    done = imserver(tmp_path, command, "-c", "bad.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: bad.toml: server.node: got 5000, expected an integer from 0 to 1023\n"


@pytest.mark.parametrize("command", ["check", "run"])
def test_bad_settings_of_a_plugin_are_exit_status_2(tmp_path: Path, command: str) -> None:
    """A plugin's settings are as much configuration as the server's."""
    (tmp_path / "imserver.toml").write_text("[plugins.message]\nrecall_windw = '5m'\n")
    done = imserver(tmp_path, command)
    assert done.returncode == 2
    assert done.stderr == (
        "Error: imserver.toml: plugins.message.recall_windw: unknown key; did you mean `recall_window`?\n"
    )


def test_check_judges_the_secret(tmp_path: Path) -> None:
    """A secret file that is too short is found before the start."""
    (tmp_path / "secret").write_text("short")
    (tmp_path / "secret").chmod(0o600)
    done = imserver(tmp_path, "check", "--set", "auth.secret_file=secret")
    assert done.returncode == 2
    assert "auth.secret_file" in done.stderr
    assert "short" not in done.stderr.replace("too short", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run", "--frobnicate"], "--frobnicate"),
        (["run", "extra"], "extra"),
        (["check", "--set"], "--set"),
        (["check", "--set", "server.node"], "expected KEY=VALUE"),
        (["check", "-c", "missing.toml"], "missing.toml: there is no such file"),
    ],
)
def test_wrong_usage_is_exit_status_2(tmp_path: Path, arguments: list[str], expected: str) -> None:
    """Usage errors say what is wrong, without a traceback."""
    done = imserver(tmp_path, *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_data_folder_is_exit_status_3(tmp_path: Path) -> None:
    """A server that cannot start says why, and that is no fault of the configuration."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data/imserver.db").write_bytes(b"this is no database at all " * 100)
    done = imserver(tmp_path, "run", "--set", "tcp.listen=127.0.0.1:0", "--set", "http.listen=127.0.0.1:0")
    assert done.returncode == 3
    assert "imserver.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_versions(tmp_path: Path) -> None:
    """`version` names what a bug report needs; `--version` imserver's own alone."""
    lines = imserver(tmp_path, "version").stdout.splitlines()
    assert lines[0] == f"imserver {__version__}"
    assert [line.split()[0] for line in lines] == ["imserver", "Python", "SQLite", "trio"]
    assert imserver(tmp_path, "--version").stdout == f"imserver {__version__}\n"


def test_plugins_list(tmp_path: Path) -> None:
    """The table has the plugins in the order of their start with their commands."""
    done = imserver(tmp_path, "plugins", "list", "--set", "plugins.enabled=user")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["PLUGIN", "ID", "COMMAND", "WHO", "KIND"]
    assert ["user", "1001", "REGISTER", "anyone"] in [row[:4] for row in rows]
    assert {row[0] for row in rows[1:]} == {"user"}


def test_commands_of_a_plugin(tmp_path: Path) -> None:
    """A plugin's command is found, gets -c and --set, and reads the configuration; without the plugin it is unknown."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/where.py").write_text(
        "import click\n"
        "from imserver.plugin import Plugin\n"
        "@click.command()\n"
        "@click.pass_context\n"
        "def where(ctx):\n"
        "    click.echo(ctx.obj.config.server.name)\n"
        "class Where(Plugin):\n"
        "    name = 'where'\n"
        "    cli_commands = (where,)\n"
    )
    options = ["--set", "plugins.enabled=where", "--set", "plugins.paths=mine"]
    assert imserver(tmp_path, "where", *options, "--set", "server.name=here").stdout == "here\n"
    assert imserver(tmp_path, *options, "--set", "server.name=before", "where").stdout == "before\n"
    assert "where" in imserver(tmp_path, *options, "--help").stdout
    (tmp_path / "other.toml").write_text("[server]\nname = 'file'\n[plugins]\nenabled = ['where']\npaths = ['mine']\n")
    for spelling in (["-c", "other.toml"], ["-cother.toml"], ["--config", "other.toml"], ["--config=other.toml"]):
        assert imserver(tmp_path, "where", *spelling).stdout == "file\n"
    assert imserver(tmp_path, "where").returncode == 2


def test_help_survives_a_bad_configuration(tmp_path: Path) -> None:
    """Who mends a configuration can still read the help."""
    (tmp_path / "imserver.toml").write_text("x = 1")
    done = imserver(tmp_path, "--help")
    assert done.returncode == 0
    assert "check" in done.stdout
    assert "imserver.toml: x: unknown section" in done.stderr


def test_importing_the_command_line_is_light() -> None:
    """A mistyped command or --version does not wait for Trio, SQLite and the plugins."""
    code = "import sys, imserver.cli; print([name for name in ('trio', 'apsw', 'imserver.config') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------- users and tokens


class Operator:
    """Runs commands in a folder of their own, inside this process."""

    def __init__(self) -> None:
        self._runner = CliRunner()

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return self._runner.invoke(main, list(arguments), input=stdin)


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """The command line with an empty current folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("IMSERVER_")]:
        monkeypatch.delenv(name)
    return Operator()


def test_a_user_from_beginning_to_end(operator: Operator) -> None:
    """add, role, passwd, disable and enable say what they did."""
    steps = [
        (["add", "alice", "--password-stdin", "--role", "admin", "--nickname", "Alice"], PASSWORD, "user alice added"),
        (["role", "alice", "auditor"], None, "role auditor given to alice"),
        (["role", "alice", "auditor", "--remove"], None, "role auditor taken from alice"),
        (["passwd", "alice", "--password", PASSWORD + "!"], None, "password of alice changed"),
        (["disable", "alice"], None, "user alice disabled"),
        (["enable", "alice"], None, "user alice enabled"),
    ]
    for arguments, stdin, expected in steps:
        done = operator("user", *arguments, stdin=stdin)
        assert (done.exit_code, done.output) == (0, expected + "\n")


def test_the_password_prompt(operator: Operator) -> None:
    """Without an option the password is asked for, twice and unseen."""
    done = operator("user", "add", "bob", stdin=f"{PASSWORD}\n{PASSWORD}\n")
    assert done.exit_code == 0
    assert PASSWORD not in done.output
    assert operator("user", "add", "carol", stdin=f"{PASSWORD}\nanother\n").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "expected"),
    [
        (["user", "disable", "nobody"], None, 1, "nobody"),
        (["user", "add", "x y", "--password-stdin"], PASSWORD, 1, "user id"),
        (["user", "add", "x", "--password-stdin"], "a", 1, "password"),
        (["user", "add", "x", "--password-stdin"], "", 2, "no password on standard input"),
        (["user", "add", "x", "--password-stdin", "--password", "y"], "z", 2, "exclude each other"),
        (["user", "add", "x", "--set", "server.node=x"], None, 2, "--set: server.node"),
        (["user", "frob"], None, 2, "frob"),
        (["token", "x", "--ttl", "soon"], None, 2, "'soon' is no duration"),
        (["token", "x y"], None, 1, "user id"),
    ],
)
def test_what_the_user_commands_refuse(
    operator: Operator, arguments: list[str], stdin: str | None, status: int, expected: str
) -> None:
    """A refusal is one readable message; 1 if the command failed, 2 if it was called wrongly."""
    done = operator(*arguments, stdin=stdin)
    assert done.exit_code == status
    assert expected in done.stderr


def test_a_token(operator: Operator, tmp_path: Path) -> None:
    """`token` prints a JWT of the user, valid as long as it was told, signed with the server's secret."""
    import jwt

    done = operator("token", "alice", "--ttl", "15m")
    assert done.exit_code == 0
    key = (tmp_path / "data/secret").read_bytes().strip()
    claims = jwt.decode(done.stdout.strip(), key, algorithms=["HS256"], options={"verify_aud": False})
    assert claims["sub"] == "alice"
    default = jwt.decode(operator("token", "alice").stdout.strip(), key, algorithms=["HS256"], options={"verify_aud": False})
    assert 85_000 < default["exp"] - claims["exp"] < 86_400


# ---------------------------------------------------------------- TOML


def test_toml_that_is_written_can_be_read() -> None:
    """Strings with anything in them, nested tables and lists come back as they were."""
    settings: dict[str, Any] = {
        "a": {"text": 'quote " back \\ line \n tab \t del \x7f ü 😀', "list": [1, 2.5, True, "x"], "empty": []},
        "b": {"c": {"d": False}, "odd key.": {"e": [{"f": 1}]}},
        "nothing": {},
    }
    assert tomllib.loads(to_toml(settings)) == settings


# ---------------------------------------------------------------- logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """A stream that takes the log as JSON; everything is put back afterwards."""
    root = logging.getLogger()
    handlers, level, before = list(root.handlers), root.level, structlog.get_config()
    stream = io.StringIO()
    configure("json", "info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


def test_a_json_line(lines: io.StringIO) -> None:
    """One object a line: time in UTC, level, event, then the event's own keys; lower levels are dropped."""
    logger = get_logger("here")
    logger.info("ready", addresses=["127.0.0.1:1"], text="two\nlines")
    logger.debug("unseen")
    (line,) = lines.getvalue().splitlines()
    event = json.loads(line)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert event["timestamp"].endswith("Z")
    assert (event["level"], event["event"], event["component"]) == ("info", "ready", "here")
    assert (event["addresses"], event["text"]) == (["127.0.0.1:1"], "two\nlines")


def test_the_standard_library_logs_the_same_way(lines: io.StringIO) -> None:
    """Events of other libraries arrive in the same form, tracebacks included; broken ones do not harm the caller."""
    try:
        raise RuntimeError("why")
    except RuntimeError:
        logging.getLogger("other.library").exception("it %s", "failed")
    logging.getLogger("other").debug("unseen")
    root = logging.getLogger()
    # Without pytest's own handlers, which raise on records that cannot be formatted.
    root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__ == log.__name__]
    logging.getLogger("other").error("%d", "no number")
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert (first["level"], first["event"], first["component"]) == ("error", "it failed", "other.library")
    assert "RuntimeError: why" in first["exception"]
    assert (second["level"], second["component"]) == ("error", "other")
    assert "'%d'" in second["event"]


def test_secrets_are_masked(lines: io.StringIO) -> None:
    """What looks like a secret is masked at any depth, and in an exception's line as well."""
    try:
        raise RuntimeError("why")
    except RuntimeError:
        get_logger("x").exception(
            "login", password="hush", body={"refresh_token": "hush", "items": [{"Authorization": "hush"}]}, user="bob"
        )
    assert "hush" not in lines.getvalue()
    event = json.loads(lines.getvalue())
    assert event["body"] == {"refresh_token": log.MASK, "items": [{"Authorization": log.MASK}]}
    assert event["user"] == "bob"
    assert "RuntimeError: why" in event["exception"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(name, True) for name in ("password", "old_password", "token", "refreshToken", "X-API-Key", "Authorization")],
        *[(name, True) for name in ("secret", "secrets", "signing_key", "Set-Cookie")],
        *[(name, False) for name in ("token_ttl", "secret_file", "key", "user_id", "tokenizer", "secretary")],
    ],
)
def test_secret_names(name: str, expected: bool) -> None:
    """Names that hold secrets, and names that only sound like it."""
    assert is_secret_name(name) is expected


def test_values_that_json_does_not_have(lines: io.StringIO) -> None:
    """Bytes, odd keys, sets, cycles and lone surrogates are logged somehow; none raises."""
    cycle: dict[str, object] = {}
    cycle["self"] = cycle
    for value in (b"\xff", {(1, 2): 3}, {1}, cycle, "\udc80", object()):
        get_logger("x").info("odd", value=value)
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["odd"] * 6


def test_a_closed_stream_does_not_raise(lines: io.StringIO) -> None:
    """A server goes on when its log cannot be written."""
    lines.close()
    get_logger("x").error("gone")
    logging.getLogger("y").error("gone")
    configure("auto", "info", lines)
    get_logger("x").error("gone")
    assert lines.closed


class OneAtATime(io.StringIO):
    """A stream that lets other threads run in the middle of a write, and counts those that come in."""

    def __init__(self) -> None:
        super().__init__()
        self.writers = 0
        self.overlaps = 0

    def write(self, text: str) -> int:
        self.writers += 1
        self.overlaps += self.writers > 1
        for _ in range(3):
            time.sleep(0)  # gives the GIL away; nothing is waited for
        self.writers -= 1
        return super().write(text)


def test_lines_of_threads_are_whole(lines: io.StringIO) -> None:
    """Threads that log at the same time, through either library, write one after another and lose nothing."""
    stream = OneAtATime()
    configure("json", "info", stream)

    def work(number: int) -> None:
        for count in range(100):
            if count % 2:
                get_logger("x").info("event", number=number, count=count)
            else:
                logging.getLogger("y").info("event %d %d", number, count)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(events) == 800
    odd = {(event["number"], event["count"]) for event in events if "number" in event}
    assert odd == {(number, count) for number in range(8) for count in range(1, 100, 2)}
    assert stream.overlaps == 0
    assert lines.getvalue() == ""


def test_the_console_cannot_be_drawn_upon(lines: io.StringIO) -> None:
    """Control characters from clients are escaped: no faked lines, no terminal sequences."""
    stream = io.StringIO()
    configure("console", "debug", stream)
    get_logger("x").debug("login", name="a\nfaked line \x1b[2J")
    get_logger("x").debug("an event\nfaked line \x1b[2J")
    logging.getLogger("y").warning("from a client: %s", "\nfaked line \x1b[2J")
    assert len(stream.getvalue().splitlines()) == 3
    assert "\x1b" not in stream.getvalue()
    assert lines.getvalue() == ""
