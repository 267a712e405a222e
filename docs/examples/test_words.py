"""The test of plugins/words.py: a real server on a folder of its own, and two users."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from imserver.client import Forbidden, open_client

ADD_WORD, CHECK_TEXT = 6001, 6002
PASSWORD = "correct horse battery"


def imserver(folder: Path, *command: str) -> list[str]:
    """A command line of imserver with the plugin enabled and its data in this folder."""
    settings = {
        "server.data_dir": folder,
        "server.log_format": "json",
        "tcp.listen": "127.0.0.1:0",
        "plugins.paths": Path(__file__).parent / "plugins",
        "plugins.enabled": '["user", "message", "push", "words"]',
    }
    return [sys.executable, "-m", "imserver", *command, *(f"--set={key}={value}" for key, value in settings.items())]


@pytest.fixture
def address(tmp_path):
    """The address of a running server that has an admin."""
    subprocess.run(imserver(tmp_path, "user", "add", "root", f"--password={PASSWORD}", "--role=admin"), check=True)
    with subprocess.Popen(imserver(tmp_path, "run"), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield next(json.loads(line)["tcp"][0] for line in process.stderr if '"ready"' in line)
        finally:
            process.terminate()
            process.communicate()


@pytest.mark.trio
async def test_words(address):
    """An admin puts a word on the list; from then on nobody can send it."""
    async with open_client(address) as root, open_client(address) as alice:
        await root.login("root", PASSWORD)
        await alice.register("alice", PASSWORD)
        await alice.login("alice", PASSWORD)

        assert (await alice.send("root", "spam and eggs")).seq == 1
        assert (await root.request(ADD_WORD, {"word": "Spam"}))["is_new"] is True
        assert (await root.request(ADD_WORD, {"word": "SPAM"}))["is_new"] is False
        assert (await alice.request(CHECK_TEXT, {"text": "eggs SPAM"}))["blocked"] == ["spam"]
        with pytest.raises(Forbidden) as refusal:
            await alice.send("root", "more spam")
        assert refusal.value.error == "blocked_word"
        assert (await alice.send("root", "more eggs")).seq == 2

        with pytest.raises(Forbidden):
            await alice.request(ADD_WORD, {"word": "eggs"})
