"""The commands of the second tutorial, word for word: a copy of what they need of the repository, and a server process."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process import Server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "first-plugin.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## 8. Run it") : PAGE.index("## 9. Test it")]
PATIENCE_S = 30


def block(language):
    """The first fenced block of a language in the section "Run it"."""
    return re.search(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL).group(1)


def settings_of(line):
    """What the `--set` of a command line give."""
    words = shlex.split(line)
    return dict(words[place + 1].split("=", 1) for place, word in enumerate(words) if word == "--set")


@pytest.fixture
def clone(tmp_path):
    """A folder with what the tutorial's commands find in a clone, and an `imserver` where they look for it."""
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "conf").mkdir()
    shutil.copy(ROOT / "conf" / "imserver.toml", tmp_path / "conf")
    program = tmp_path / ".venv" / "bin" / "imserver"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\nexport IMSERVER_SERVER__DATA_DIR={tmp_path}/data\nexec {sys.executable} -m imserver "$@"\n'
    )
    program.chmod(0o755)
    return tmp_path


def shell(script, folder):
    """What bash printed for a script that no command of failed."""
    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plugin_runs_as_the_tutorial_says(clone):
    """The server starts with the printed settings, the calls get the printed answers, and a saved change is taken."""
    add_user, run = block("sh").splitlines()
    assert shell(add_user, clone) == "user root added\n"
    settings = settings_of(run)
    server = Server(clone, settings)
    base = server.command
    server.command = lambda: [*base(), *(["--dev"] if "--dev" in run.split() else [])]
    try:
        server.start()
        assert "words" in server.ready["plugins"]
        assert set(server.ready["plugins"]) == set(json.loads(settings["plugins.enabled"]))
        script = block("bash").replace("localhost:8080", server.ready["http"][0])
        answers = [json.loads(line) for line in shell(script, clone).splitlines()]
        for promised in re.findall(r'`(\{"code":0.*?\})`', SECTION):
            assert json.loads(promised) in answers
        added, checked, refused, misfit = answers
        assert (added["code"], checked["code"]) == (0, 0)
        assert (refused["code"], refused["error"]) == (403, "blocked_word")
        assert (misfit["code"], misfit["field"]) == (400, "word")

        file = clone / "docs" / "examples" / "plugins" / "words.py"
        file.write_text(file.read_text().replace("is_new", "is_added"))
        for _ in range(PATIENCE_S * 10):
            if any(record.get("event") == "plugin_reloaded" for record in server.logs()):
                break
            time.sleep(0.1)
        [call] = re.findall(r"`(call 6001 .*?ham.*?)`", SECTION)
        prologue = "".join(
            line + "\n" for line in script.splitlines() if not line.startswith("call 6") and "call 2001" not in line
        )
        assert json.loads(shell(prologue + call, clone)) == {"code": 0, "is_added": True}
        assert server.stop() == 0
    finally:
        server.discard()
