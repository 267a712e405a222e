"""Plugins whose class could not work are refused at the start, with the attribute's name."""

import pytest

from imserver.errors import PluginError
from imserver.testing import running

HEAD = "from imserver.plugin import Plugin, command, route\n\nclass Odd(Plugin):\n    name = 'odd'\n    "


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("async def before_send(self, ctx, draft): pass", r"before_send\(\) has to be a def"),
        ("async def after_commit(self, ctx, messages): pass", r"after_commit\(\) has to be a def"),
        ("async def on_login(self, ctx): pass", r"on_login\(\) has to be a def"),
        ("def on_start(self, ctx): pass", r"on_start\(\) has to be an async def"),
        ("def authenticate(self, ctx, credentials): pass", r"authenticate\(\) has to be an async def"),
        ("def before_send(self, draft): pass", r"before_send\(\) has to take self and 2 more"),
        ("@command(6001)\n    def odd(self, ctx): pass", r"odd\(\) has to take \(self, ctx, request\)"),
        ("@command(6001)\n    def odd(self, ctx, request, more): pass", r"odd\(\) has to take \(self, ctx, request\)"),
        ("@route('GET', '/v1/odd')\n    async def odd(self, ctx): pass", r"odd\(\) has to take \(self, ctx, request\)"),
        ("requires = 'group'", "requires is a string"),
        ("migrations = 'CREATE TABLE odd_x (a INTEGER) STRICT'", "migrations is a string"),
    ],
)
async def test_what_could_not_work(tmp_path, body, said):
    """The message names what is wrong, and the server does not start."""
    file = tmp_path / "odd.py"
    file.write_text(HEAD + body + "\n")
    with pytest.raises(PluginError, match=said):
        async with running([file]):
            pass
