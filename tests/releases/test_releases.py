"""The data of earlier releases, made by their own programs: the present one opens it, and every user reads all of it."""

import json
import tarfile
from pathlib import Path

import pytest
from story import CONVERSATIONS, PULL, SEND, USERS, log_in, read

HERE = Path(__file__).parent
RELEASES = sorted(path.stem for path in HERE.glob("*.json"))

#: Fields whose meaning was made another since, or that say what is so at this moment.
_PASSING = {"delivered_seq", "online", "rid", "score"}


def kept(before, after, where="everything"):
    """What a release told is told still; new fields may have come."""
    if isinstance(before, dict):
        assert isinstance(after, dict), where
        for key, value in before.items():
            if key not in _PASSING:
                assert key in after, f"{where}.{key} is gone"
                kept(value, after[key], f"{where}.{key}")
    elif isinstance(before, list):
        assert isinstance(after, list), where
        assert len(before) == len(after), f"{where}: {before} is {after} now"
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            kept(one, other, f"{where}[{number}]")
    else:
        assert before == after, where


@pytest.fixture(params=RELEASES)
def upgraded(request, make_server):
    """A server of the present program over a release's folder, and what its users read before."""
    server = make_server(start=False)
    with tarfile.open(HERE / f"{request.param}.tar.xz") as archive:
        archive.extractall(server.folder, filter="data")
    return server.start(), json.loads((HERE / f"{request.param}.json").read_text())


def test_there_are_releases():
    """Else the others test nothing."""
    assert "e107aaa" in RELEASES


def test_all_is_there_after_an_upgrade(upgraded):
    """Users and passwords, messages with their changes, cursors, settings, friends, blocks, groups, files, the index."""
    server, told = upgraded
    assert told["everything"].keys() == set(USERS)
    kept(told["everything"], read(server, told["file_id"]))


def test_it_goes_on_where_it_was(upgraded):
    """The next message has the next number and a larger id, is pushed, and a restart finds it."""
    server, told = upgraded
    alice_name, bob_name, _ = USERS
    page = told["everything"][alice_name][CONVERSATIONS[0]]
    alice, bob = log_in(server, alice_name), log_in(server, bob_name)
    stored = alice.ok(SEND, to=bob_name, client_id="new", body="after the upgrade")
    assert stored["seq"] == page["last_seq"] + 1
    assert stored["message_id"] > page["messages"][-1]["message_id"]
    assert bob.push()["body"] == "after the upgrade"
    server.restart()
    again = log_in(server, bob_name).ok(PULL, conversation_id=CONVERSATIONS[0])["messages"]
    assert [message["body"] for message in again if message["client_id"] == "new"] == ["after the upgrade"]
