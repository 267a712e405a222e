"""Who may do what: every command and every route of every plugin, asked for by everybody.

The table is in `matrix_rows.py`: what has no row there fails here, and so does a cell that is missing. A plugin that gets a
command gets a row, with a request that would succeed for somebody who may.
"""

import importlib.metadata

import pytest
from matrix_rig import ACTORS, LOGIN, PASSWORD, REGISTER, key, play_row, server
from matrix_rows import BUILDERS, TABLE, read, rows

from imserver.client.errors import ServerError
from imserver.commands import CommandTable, commands_of, routes_of
from imserver.connection import add_connection_commands
from imserver.plugin_loader import ENTRY_POINTS, find_plugin

PERMISSIONS = sorted({name.partition(" ")[0] for name, _ in read(TABLE)})


@pytest.fixture(scope="module")
def ids():
    """permission -> command ID, or None for a route: of every plugin that comes with the server, enabled or not."""
    table = CommandTable()
    add_connection_commands(table)
    found = {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.dist.name == "imserver":
            plugin = find_plugin(entry.name, ())()
            table.add(commands_of(plugin))
            found |= {row.permission: None for row in routes_of(plugin)}
    return found | {row.permission: row.command_id for row in table}


def test_everything_has_a_row(ids):
    """No command and no route of an enabled plugin is without one, and no row without a command or route."""
    assert set(PERMISSIONS) == set(ids)
    assert {name for name, _ in read(TABLE)} == set(BUILDERS)


def test_every_cell_is_filled():
    """Each row says something of each actor, and of no other; a row that lacks one is no row."""
    assert {frozenset(cells) for _, cells in read(TABLE)} == {frozenset(ACTORS)}
    for line in ("user.LOGIN ok ok", "ok " * len(ACTORS)):
        with pytest.raises((AssertionError, ValueError)):
            list(read(line))


def test_who_is_nobody_may_next_to_nothing():
    """Without a login there is what leads to one, and an incoming webhook's own address; whoever is banned has less."""
    allowed = {name for name, cells in read(TABLE) if cells["nobody"] == "ok"}
    assert {name.partition(" ")[0] for name in allowed} == {
        "connection.HEARTBEAT", "connection.HELLO", "user.REGISTER", "user.LOGIN", "user.AUTH", "user.REFRESH", "bot.POST",
    }  # fmt: skip
    assert {cells["banned"] for _, cells in read(TABLE)} == {"401"}


@pytest.mark.parametrize("plugin", sorted({name.partition(".")[0] for name in PERMISSIONS}))
async def test_matrix(plugin, ids):
    """Each cell of the plugin's rows: what becomes of this request by this actor, in a scene of its own."""
    own = {name: row for name, row in rows(ids).items() if name.startswith(f"{plugin}.")}
    assert own
    wrong = []
    async with server({"limits.registrations_per_hour": 0}) as running:
        for row in own.values():
            found = await play_row(running, row)
            wrong += [
                f"{row.name}: {actor}: {found[actor]} instead of {row.cells[actor]}"
                for actor in ACTORS
                if found[actor] != row.cells[actor]
            ]
    assert wrong == []


async def test_a_banned_account_has_no_way_back():
    """LOGIN by the right password, AUTH and REFRESH by tokens that were good: all are refused."""
    async with server() as running:
        user = f"banned-{key()}"
        with running.connect() as first:
            await first.request(REGISTER, user_id=user, password=PASSWORD)
            tokens = await first.request(LOGIN, user_id=user, password=PASSWORD)
        admin = await running.token("root", ["admin"])
        path = f"/v1/admin/users/{user}/disable"
        assert (await running.http("POST", path, token=admin, json={"disabled": True})).status == 200
        for command_id, fields, code in (
            (LOGIN, {"user_id": user, "password": PASSWORD}, 403),
            (1003, {"token": tokens["token"]}, 401),
            (1004, {"refresh_token": tokens["refresh_token"]}, 401),
        ):
            with running.connect() as client, pytest.raises(ServerError) as caught:
                await client.request(command_id, **fields)
            assert caught.value.code == code, command_id
