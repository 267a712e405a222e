"""`imserver chat` in a terminal against a real server: what two people see who sit at it."""

import re
import signal
import subprocess

import pytest
from terminal import Terminal, command, environment


@pytest.fixture
def terminal(tmp_path):
    """Starts chats in terminals: `terminal(page, "anna", …)`; each has a home of its own."""
    made = []

    def start(page, user, *words):
        made.append(Terminal(tmp_path / user, page, "--user", user, *words))
        made[-1].log_in(register="--register" in words)
        return made[-1]

    yield start
    for one in made:
        one.close()


def page_of(server):
    return f"http://{server.ready['http'][0]}"


def test_two_terminals_chat_with_ticks_typing_changes_and_a_group(terminal, server):
    """From the first hello to a group: unread counts, read ticks, typing, an edit, a reaction, a reply and a recall."""
    anna = terminal(page_of(server), "te-anna", "--register")
    anna.wait("/to USER to begin")
    ben = terminal(page_of(server), "te-ben", "--register", "--to", "te-anna")
    ben.type("hello \x1b[200~anna\nhow are you?\x1b[201~\r")
    ben.wait(r"te-ben .*#1 ✓\n.*hello anna\n.*how are you\?")
    anna.wait(r"te-ben +1 ?│")
    anna.wait("1 unread")
    anna.type("\t")
    anna.wait("hello anna")
    ben.wait(r"#1 ✓✓")
    anna.wait("● te-ben")
    anna.type("fine")
    ben.wait("te-anna types …")
    anna.type("!\r")
    ben.wait(r"te-anna .*#2\n.*  fine!")
    ben.wait_gone("types …")
    anna.type("/edit very fine\r")
    ben.wait(r"#2 \(edited\)\n.*very fine")
    ben.type("/react 🎉\r")
    anna.wait("🎉 +1")
    ben.type("/reply good\r")
    anna.wait(r"> te-anna: very fine *\n.*  good")
    ben.type("/recall\r")
    anna.wait(r"\(recalled\)")
    anna.type('/group "Our team" te-ben\r')
    anna.wait("#Our team")
    anna.type("hello team\r")
    ben.wait(r"# Our team +1")
    ben.type("\t")
    ben.wait("te-anna began the group with te-ben")
    ben.wait("hello team")
    ben.type("/members\r")
    ben.wait(r"te-anna \(owner\)")
    ben.type("/leave\r")
    anna.wait("te-ben left")
    ben.wait_gone("# Our team")
    ben.type("\x03")
    assert ben.end() == 0
    anna.wait("  te-ben")
    anna.type("/quit\r")
    assert anna.end() == 0


def test_loss_and_return_of_the_connection_are_shown(terminal, make_server):
    """The server dies and comes back: the status line says so, and what was written in between goes out by itself."""
    server = make_server()
    place = server.ready["http"][0]
    anna = terminal(page_of(server), "anna", "--register")
    ben = terminal(page_of(server), "ben", "--register", "--to", "anna")
    ben.type("one\r")
    ben.wait("#1 ✓")
    server.kill()
    ben.wait("ben: no connection, trying again")
    ben.type("while away\r")
    ben.wait(r"ben +…\n.*while away")
    server.settings["http.listen"] = place
    server.start()
    ben.wait("ben: connected")
    ben.wait(r"#2 ✓")
    anna.wait("2 unread")


def test_older_messages_are_loaded_by_paging(terminal, server):
    """PageUp goes back through a history that is longer than a page, to its first message."""
    anna = terminal(page_of(server), "pg-anna", "--register")
    anna.type("/to pg-anna\r")
    anna.wait("pg-anna, on line")
    for number in range(60):
        anna.type(f"message {number}.\r")
    anna.wait(r"#60 ✓")
    anna.type("\x03")
    assert anna.end() == 0
    anna = terminal(page_of(server), "pg-anna", "--to", "pg-anna")
    anna.wait(r"message 59\.")
    for _ in range(12):
        anna.type("\x1b[5~")
        anna.pump()
    anna.wait("rows below")
    while "message 0." not in anna.text():
        anna.type("\x1b[5~")
        anna.wait("message")
        assert anna.pump()
    anna.type("\x1b[6~" * 15)
    anna.wait(r"message 59\.")


def test_escape_sequences_of_others_are_shown_and_not_obeyed(terminal, server):
    """A title change and a screen clear in a message and in a group's name do not reach the terminal."""
    anna = terminal(page_of(server), "se-anna", "--register")
    evil = "\x1b]0;owned\x07\x1b[2J\x1b[31mred"
    server_side = server.login()
    server_side.ok(2001, to="se-anna", client_id="e1", body=evil)
    server_side.ok(4001, name=f"{evil} group", members=["se-anna"])
    anna.wait("␛")
    anna.type("\t")
    anna.wait("␛")
    anna.type("\t")
    anna.wait(r"␛\[31mred")
    assert b"]0;owned" not in anna.raw.replace("␛]0;owned".encode(), b"")
    assert b"\x1b[2J\x1b[31m" not in anna.raw
    assert "owned" not in anna.emulator.title


def test_a_hangup_or_a_kill_gives_the_terminal_back(terminal, server):
    """SIGTERM ends the program as /quit does: the alternate screen is left."""
    anna = terminal(page_of(server), "ki-anna", "--register")
    anna.process.send_signal(signal.SIGTERM)
    assert anna.end() == 0
    assert anna.raw.rstrip().count(b"\x1b[?1049l") == 1


def test_help_tells_all_options_and_commands(tmp_path):
    """`imserver chat --help` names every option and every command of the inside."""
    from imserver.chat.commands import COMMANDS

    words = command("--help")
    shown = subprocess.run(words, capture_output=True, env=environment(tmp_path), text=True, timeout=60, check=True).stdout
    missing = [name for name in COMMANDS if not re.search(rf"/{name}\b", shown)]
    assert missing == []
    for option in ("--register", "--remember", "--to", "--plain", "--json", "--follow", "--password-stdin", "--ca"):
        assert option in shown


def test_without_prompt_toolkit_the_message_says_what_to_install(tmp_path):
    """The full screen is an extra: where it is missing, one line tells how to get it, and that --plain needs nothing."""
    hide = "import sys; sys.modules['prompt_toolkit'] = None; sys.argv = ['imserver', 'chat', '-u', 'x']; "
    run = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-c', sys.argv[1]])))"
    main = hide + "from imserver.cli import main; main()"
    words = [command()[0], "-c", run, main]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, env=environment(tmp_path), text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done
    assert "pip install 'imserver[chat]'" in done.stdout
    assert "--plain" in done.stdout
    assert "Traceback" not in done.stdout
