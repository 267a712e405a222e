"""The example bots do what their pages say."""

import importlib.util
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from process import PASSWORD
from wire import MESSAGE

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@contextmanager
def bot(server, script, name):
    """An example bot at work."""
    host, port = server.address
    words = [sys.executable, str(EXAMPLES / script), name, PASSWORD, f"{host}:{port}"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr.readline().startswith(name)
            yield
            assert process.poll() is None, process.stderr.read()
        finally:
            process.kill()


def test_the_echo_bot_echoes(server):
    """What it is told comes back, also what was said before it came."""
    alice, name = server.login(), server.register()
    alice.text(name, "early", "c1")
    with bot(server, "echo_bot.py", name):
        assert alice.push(MESSAGE, timeout_s=30)["body"] == "early"
        alice.text(name, "late", "c2")
        assert alice.push(MESSAGE, timeout_s=30)["body"] == "late"


def test_the_poll_bot_counts(server):
    """A poll, a vote and another one of the same user: the last counts."""
    alice, name = server.login(), server.register()
    with bot(server, "poll_bot.py", name):
        answers = []
        for number, text in enumerate(("/poll Lunch? | pizza | soup", "/vote 1", "/vote 2", "hello", "/result")):
            alice.text(name, text, f"c{number}")
            if text != "hello":
                answers.append(alice.push(MESSAGE, timeout_s=30)["body"])
    assert answers[0] == "Lunch?\n1. pizza: 0\n2. soup: 0\nsay /vote and a number"
    assert answers[1] == "Lunch?\n1. pizza: 1\n2. soup: 0"
    assert answers[2] == answers[3] == "Lunch?\n1. pizza: 0\n2. soup: 1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/poll", "say /poll question | option | option"),
        ("/poll a | b", "say /poll question | option | option"),
        ("/vote 1", "there is no poll here; /poll begins one"),
        ("/vote x", "there is no poll here; /poll begins one"),
        ("hello", None),
    ],
)
def test_the_poll_bot_explains(text, said):
    """What it cannot do it says; what is no command it leaves alone."""
    spec = importlib.util.spec_from_file_location("poll_bot", EXAMPLES / "poll_bot.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["poll_bot"] = module
    spec.loader.exec_module(module)
    assert module.answer({}, "d:a:b", "a", text) == said
    polls = {}
    module.answer(polls, "d:a:b", "a", "/poll q | a | b")
    assert module.answer(polls, "d:a:b", "a", "/vote 9") == "say a number from 1 to 2"
