"""The client is whole: it knows every command of the protocol, and its page tells of every name that it has."""

import re
from pathlib import Path

import imserver.client
from imserver.client import Client, commands
from imserver.client.friends import Friends
from imserver.client.groups import Groups
from imserver.client.pushes import Event, RawPush, event_from_push

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def rows(first, last):
    """IDs and names of the protocol page's table."""
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    found = {int(number): name for number, name in re.findall(r"(?m)^\| (\d+) \| ([A-Z_]+) \|", text)}
    return {number: name for number, name in found.items() if first <= number <= last}


def test_every_command_of_the_protocol_has_its_constant():
    """By name and number; and a client's method uses it."""
    wanted = rows(1, 4999) | rows(5009, 5011)
    assert len(wanted) > 50
    assert {number: getattr(commands, name, None) for number, name in wanted.items()} == {
        number: number for number in wanted
    }
    source = "".join(path.read_text(encoding="utf-8") for path in Path(imserver.client.__file__).parent.glob("*.py"))
    unused = {name for name in wanted.values() if f"commands.{name}" not in source}
    assert unused <= {"HEARTBEAT", "ERROR"}, "these are the connection's own"


def test_every_push_has_an_event_of_its_own_class():
    """5003 to 5009 of the protocol page: none is handed on raw."""
    body = {
        "conversation_id": "d:a:b", "seq": 1, "rev": 2, "change": "edited", "user_id": "a", "on": True, "online": True,
        "event": "joined", "group_id": "g", "by": "a", "topic": "t", "body": "x",
    }  # fmt: skip
    events = {number: type(event_from_push(number, body)) for number in rows(5003, 5009)}
    assert len(events) == 7
    assert RawPush not in events.values()
    assert len(set(events.values())) == 7
    assert all(kind in Event.__args__ for kind in events.values())


def test_the_page_tells_of_every_method_and_class():
    """client.md has each public name in backticks."""
    text = (DOCS / "client.md").read_text(encoding="utf-8")
    words = {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", span)}
    methods = {name for kind in (Client, Friends, Groups) for name in dir(kind) if not name.startswith("_")}
    assert sorted(methods - words) == []
    helpers = {"Reactions", "Role", "JoinRequest", "Friends", "Groups", "Position"}  # types that no caller makes
    assert sorted(set(imserver.client.__all__) - words - helpers) == []
