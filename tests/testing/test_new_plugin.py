"""`imserver plugins new`: what it writes works as it stands."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner
from process import Server

from imserver.cli import main
from imserver.cli.new_plugin import command_id

NOTES = {"PYTHONDONTWRITEBYTECODE": "1"}


def new(*words):
    """Exit status and all that was printed."""
    result = CliRunner().invoke(main, ["plugins", "new", *map(str, words)])
    return result.exit_code, result.output


@pytest.fixture
def written(tmp_path):
    """A folder with a plugin `shopping_list`, and what the command said."""
    status, said = new("shopping_list", "--folder", tmp_path / "mine")
    assert status == 0, said
    return tmp_path / "mine", said


def test_its_own_test_passes_and_can_fail(written, tmp_path):
    """The test that was written passes under pytest, warnings being errors, and fails when the plugin is broken."""
    folder, _ = written
    words = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(folder)]
    environment = {**os.environ, **NOTES}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=90)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    plugin = folder / "shopping_list.py"
    plugin.write_text(plugin.read_text().replace("count + 1", "count"))
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=90)
    assert done.returncode == 1
    assert "1 failed" in done.stdout


def test_a_server_serves_it(written):
    """A server with the settings that were printed has its command, and `reload` finds it."""
    folder, said = written
    enabled = re.search(r"'plugins\.enabled=(.*)'", said).group(1)
    assert json.loads(enabled)[-1] == "shopping_list"
    assert f"--set plugins.paths={folder} " in said
    server = Server(folder, {"plugins.paths": str(folder), "plugins.enabled": enabled})
    try:
        alice = server.start().login()
        number = command_id("shopping_list")
        assert 6001 <= number <= 65535
        assert str(number) in said
        assert alice.ok(number, text="milk")["notes"] == 1
        words = [
            sys.executable,
            "-m",
            "imserver",
            "plugins",
            "reload",
            "shopping_list",
            f"--set=server.data_dir={server.data}",
        ]
        assert subprocess.run(words, capture_output=True, timeout=60).returncode == 0
        assert alice.ok(number, text="eggs")["notes"] == 2
        assert server.stop() == 0
    finally:
        server.discard()


@pytest.mark.parametrize("place", ["conf/imserver.toml", "imserver.toml", "elsewhere/my.toml"])
def test_what_it_says_works_where_it_was_said(tmp_path, monkeypatch, place):
    """The printed command finds the folder, whose name is relative at the prompt, and keeps the paths that there are."""
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    (file.parent / "theirs").mkdir()
    file.write_text('[plugins]\npaths = ["theirs"]\n')
    monkeypatch.chdir(tmp_path)
    status, said = new("shopping_list", *(["-c", place] if "elsewhere" in place else []))
    assert status == 0, said
    [line] = [line for line in said.splitlines() if line.startswith("  imserver run --dev ")]
    options = shlex.split(line)[3:]
    result = CliRunner().invoke(main, ["plugins", "list", *options])
    assert result.exit_code == 0, result.output
    assert "shopping_list" in result.output
    assert str(file.parent / "theirs") in CliRunner().invoke(main, ["check", *options]).output


def test_it_is_clean(written):
    """What was written has the house's format, and types that mypy takes."""
    folder, _ = written
    for words in (["ruff", "check", "--isolated"], ["ruff", "format", "--isolated", "--line-length=125", "--check"]):
        done = subprocess.run([sys.executable, "-m", *words, str(folder)], capture_output=True, text=True)
        if "No module named" in done.stderr:
            pytest.skip("ruff is not installed")
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("existing", ["dice.py", "test_dice.py", "dice/__init__.py"])
def test_nothing_is_overwritten(tmp_path, existing):
    """A file that is there stays as it is, and no other one is written."""
    file = tmp_path / existing
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    status, said = new("dice", "--folder", tmp_path)
    assert (status, "there already" in said) == (2, True), said
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [existing.partition("/")[0]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Dice", "a-z"), ("2dice", "a-z"), ("di-ce", "a-z"), ("../dice", "a-z"), ("", "a-z"), ("d" * 33, "a-z"),
        ("class", "keyword"), ("würfel", "a-z"), ("dice\n", "a-z"), ("test_dice", "test_"), ("message", "already"),
        ("json", "hide"), ("trio", "hide"),
    ],
)  # fmt: skip
def test_names(tmp_path, name, said):
    """A name that cannot be one is refused with the reason, and nothing is written."""
    status, output = new(name, "--folder", tmp_path / "new")
    assert (status, said in output) == (2, True), output
    assert not (tmp_path / "new").exists()


def test_not_into_a_package(tmp_path):
    """A folder that is a Python package is refused: in a clone of imserver, `plugins` has the server's own."""
    (tmp_path / "__init__.py").touch()
    status, said = new("dice", "--folder", tmp_path)
    assert (status, "--folder" in said) == (2, True), said
    assert [path.name for path in tmp_path.iterdir()] == ["__init__.py"]


def test_every_name_has_an_id_for_third_parties():
    """Whatever the name, the ID is in 6001–65535."""
    assert all(6001 <= command_id(f"plugin_{number}") <= 65535 for number in range(100_000))


def test_a_folder_that_cannot_be(tmp_path):
    """The message names it."""
    (tmp_path / "file").write_text("")
    status, said = new("dice", "--folder", tmp_path / "file" / "below")
    assert (status, "cannot be written" in said) == (2, True), said
