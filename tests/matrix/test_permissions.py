"""Roles that the configuration gives their permissions: what it may say, what it opens, and what it does not."""

import importlib.metadata
import re
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from matrix_rig import key, server

from imserver.cli import main
from imserver.cli.context import CliContext
from imserver.client.errors import Forbidden, ServerError, Unauthenticated
from imserver.commands import Command, commands_of, routes_of
from imserver.errors import ConfigError, PluginError
from imserver.permissions import Permissions
from imserver.plugin import ANYONE, USER, Plugin, command, role, route
from imserver.plugin_loader import ENTRY_POINTS, find_plugin
from imserver.reload import ReloadError
from imserver.testing import running


def row(name, allow=USER, command_id=1):
    """A command as the table has it."""
    return Command(command_id, name.partition(".")[2], name.partition(".")[0], None, allow, print, False, None, None, False)


ROWS = [
    row("shop.BUY", USER, 6001),
    row("shop.SELL", role("admin"), 6002),
    row("shop.LOOK", ANYONE, 6003),
    row("bank.LEND", role("clerk"), 6004),
    row("chat.SAY", USER, 6005),
]


def who(roles, name):
    """The roles one of which a row needs."""
    return Permissions(ROWS, roles).rule(next(row for row in ROWS if row.permission == name)).roles


# ---------------------------------------------------------------- what [roles] may say


@pytest.mark.parametrize(
    ("words", "granted"),
    [
        (["shop.SELL"], {"shop.SELL"}),
        (["SHOP.sell", 6004], {"shop.SELL", "bank.LEND"}),
        (["shop.*"], set()),
        (["shop", "*"], set()),
        ([], set()),
    ],
)
def test_a_word_covers(words, granted):
    """A name in whatever case and an ID, also of what needs a role; a pattern, what does not: administration is named."""
    permissions = Permissions(ROWS, {"helper": words})
    assert permissions.held_by({"helper"}) == granted
    assert permissions.held_by({"admin"}) == {"admin", "shop.SELL", "bank.LEND"}


def test_who_has_what():
    """The role that a command names has it, admin has it, and whom [roles] gives it to; no role is needed for the rest."""
    roles = {"helper": ["shop.SELL"], "idle": []}
    assert who(roles, "shop.SELL") == {"admin", "helper"}
    assert who(roles, "bank.LEND") == {"admin", "clerk"}
    assert who(roles, "shop.BUY") is who(roles, "shop.LOOK") is None


def test_what_every_user_has_can_be_less():
    """With `user` in [roles] what it does not cover needs one of the roles that do; what is for anyone stays so."""
    roles = {"user": ["chat.*"], "buyer": ["shop.*"]}
    assert who(roles, "shop.BUY") == {"admin", "buyer"}
    assert who(roles, "chat.SAY") is who(roles, "shop.LOOK") is None
    assert who(roles, "shop.SELL") == {"admin"}


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"helper": ["shop.SELLL"]}, ["roles.helper[0]", '"shop.SELLL"', "did you mean shop.SELL?", "shop.BUY, shop.LOOK"]),
        ({"helper": ["shop.BUY", "shopp.*"]}, ["roles.helper[1]", "did you mean shop.*?", "bank.*, chat.*, shop.*"]),
        ({"helper": ["nothing"]}, ["bank.*, chat.*, shop.*"]),
        ({"helper": [6009]}, ["roles.helper[0]", "no command 6009", "6001–6005"]),
        ({"helper": ["bank.*"]}, ["all of bank.* needs a role", "bank.LEND"]),
        ({"admin": ["shop.BUY"]}, ["roles.admin", "every permission"]),
        ({"Helper": []}, ["roles.Helper", "a-z 0-9"]),
        ({"user": ["chat", "shop.SELL"]}, ["roles.user[1]", "shop.SELL needs a role"]),
    ],
)
def test_mistakes_are_named(roles, words):
    """With the key, what was given, and what there is."""
    with pytest.raises(ConfigError) as caught:
        Permissions(ROWS, roles)
    for word in words:
        assert word in str(caught.value)


def test_one_name_is_open_to_the_same_callers():
    """Else the name in [roles] would say two things."""
    with pytest.raises(PluginError, match="two commands or routes are called BUY"):
        Permissions([*ROWS, attrs.evolve(ROWS[0], command_id=6010, allow=role("admin"))])


def check(*settings):
    """`imserver check`: its exit status and what it prints."""
    done = CliRunner().invoke(main, ["check", *settings], obj=CliContext())
    return done.exit_code, done.output


def test_the_configuration_is_checked(tmp_path):
    """`imserver check` shows what it has read; an unknown command ends it with status 2 and what exists."""
    file = tmp_path / "imserver.toml"
    file.write_text('[roles]\nmoderator = ["user.kick", "message.*", 4006]\n')
    status, output = check("-c", str(file))
    assert status == 0
    assert '[roles]\nmoderator = ["user.kick", "message.*", 4006]' in output
    file.write_text('[roles]\nmoderator = ["user.kik"]\n')
    status, output = check("-c", str(file))
    assert status == 2
    assert "roles.moderator[0]" in output
    assert "did you mean user.KICK?" in output
    assert "user.DISABLE" in output
    for wrong in ("moderator = 5", 'moderator = "message.*"', "moderator = [true]"):
        file.write_text(f"[roles]\n{wrong}\n")
        assert check("-c", str(file))[0] == 2


def test_roles_by_set_and_environment(monkeypatch):
    """As every key: `--set roles.NAME=…`, `IMSERVER_ROLES__NAME`."""
    monkeypatch.setenv("IMSERVER_ROLES__GUIDE", "message.*,4006")
    status, output = check("--set", "roles.clerk=['user.KICK', 1001]")
    assert status == 0
    assert 'clerk = ["user.KICK", 1001]' in output
    assert 'guide = ["message.*", 4006]' in output


# ---------------------------------------------------------------- what it opens


class Office(Plugin):
    """Commands and routes for roles."""

    name = "office"

    @command(6001, allow=role("admin"))
    def close(self, ctx, request):
        """Says who asked."""
        return {"by": ctx.session.user_id}

    @command(6002)
    def enter(self, ctx, request):
        """For every user."""
        return {}

    @route("POST", "/v1/office/lock", allow=role("admin"), name="LOCK")
    async def lock_it(self, ctx, request):
        """For administrators."""
        return {}


async def test_a_role_opens_what_it_names():
    """The moderator kicks and closes, and no more of what needs a role; who has no role, or an unknown one, none of it."""
    roles = {"moderator": ["user.KICK", "office.CLOSE"], "guest": []}
    async with server({"roles": roles}, Office) as site:
        moderator = await site.login("moderator", roles=["moderator"])
        others = [
            await site.login("plain"),
            await site.login("guest", roles=["guest"]),
            await site.login("x", roles=["clerk"]),
        ]
        assert (await moderator.request(6001))["by"] == "moderator"
        kick = "/v1/admin/users/plain/kick"
        for other in others:
            with pytest.raises(Forbidden, match=r"office\.CLOSE"):
                await other.request(6001)
            assert (await site.http("POST", kick, token=other.token, json={})).status == 403
        assert (await site.http("POST", kick, token=moderator.token, json={})).status == 200
        for path in ("/v1/admin/users/plain/disable", "/v1/admin/users/plain/role", "/v1/office/lock"):
            answer = await site.http("POST", path, token=moderator.token, json={"disabled": True})
            assert answer.status == 403, path
        assert (await site.http("GET", "/v1/admin/stats", token=moderator.token)).status == 403


async def test_administration_is_closed_without_a_configuration():
    """By default the role admin alone has what needs a role."""
    async with server(None, Office) as site:
        admin, plain = await site.login("root", roles=["admin"]), await site.login("plain", roles=["moderator"])
        await admin.request(6001)
        assert (await site.http("POST", "/v1/office/lock", token=admin.token)).status == 200
        with pytest.raises(Forbidden):
            await plain.request(6001)
        assert (await site.http("POST", "/v1/office/lock", token=plain.token)).status == 403


async def test_a_role_works_and_ends_at_once():
    """On a connection that is there, and over HTTP, as soon as the operator's request is answered."""
    async with server({"roles.moderator": ["office.CLOSE"]}, Office) as site:
        root, alice = await site.token("root", ["admin"]), await site.login("alice")

        async def give(present):
            body = {"role": "moderator", "present": present}
            assert (await site.http("POST", "/v1/admin/users/alice/role", token=root, json=body)).status == 200

        for present in (True, False, True):
            await give(present)
            answer = await site.http("POST", "/v1/commands/6001", token=alice.token, json={})
            assert answer.status == (200 if present else 403)
            if present:
                await alice.request(6001)
            else:
                with pytest.raises(Forbidden):
                    await alice.request(6001)


async def test_what_every_user_may_can_be_cut():
    """`user` without groups: who has no other role cannot make one, and the rest goes on."""
    roles = {"user": ["user.*", "message.*", "friend.*"], "organizer": ["group.*"]}
    async with server({"roles": roles}) as site:
        plain, organizer = await site.login("plain"), await site.login("organizer", roles=["organizer"])
        with pytest.raises(Forbidden, match=r"group\.CREATE_GROUP"):
            await plain.request(4001, name="mine")
        await organizer.request(4001, name="mine")
        await plain.request(2001, to="organizer", client_id=key(), body="x")
        assert (await site.http("GET", "/v1/files", token=plain.token)).status == 403
        nobody = site.connect()
        with pytest.raises(Unauthenticated):
            await nobody.request(4001, name="mine")


# ---------------------------------------------------------------- nobody lifts himself up


@pytest.mark.parametrize("path", ["kick", "disable", "role"])
async def test_nobody_acts_on_who_may_more(path):
    """A moderator with all three permissions does nothing to an administrator, and gives nobody what he lacks himself."""
    powers = ["user.KICK", "user.DISABLE", "user.SET_ROLE"]
    roles = {"moderator": powers, "helper": ["user.KICK"], "other": ["office.LOCK"]}
    bodies = {"kick": {}, "disable": {"disabled": True}, "role": {"role": "helper", "present": True}}
    async with server({"roles": roles}, Office) as site:
        moderator = await site.token("moderator", ["moderator"])
        for name, has in (
            ("root", "admin"),
            ("locker", "other"),
            ("clerk", "unknown"),
            ("helper", "helper"),
            ("peer", "moderator"),
        ):
            await site.token(name, [has])

        async def act(name, token, body):
            return (await site.http("POST", f"/v1/admin/users/{name}/{path}", token=token, json=body)).status

        for name, status in (("root", 403), ("locker", 403), ("clerk", 403), ("helper", 200), ("peer", 200), ("none", 404)):
            assert await act(name, moderator, bodies[path]) == status, name
        if path == "role":
            for given in ("admin", "other", "unknown"):
                for present in (True, False):
                    body = {"role": given, "present": present}
                    assert await act("helper", moderator, body) == 403
                    assert await act("moderator", moderator, body) == 403
            assert await act("helper", moderator, {"role": "moderator", "present": True}) == 200
        root = await site.token("root", ["admin"])
        assert await act("peer", root, bodies[path]) == 200


# ---------------------------------------------------------------- what is written down


async def entries(site):
    """The audit log's entries on refusals: (event, fields)."""
    await site.settle()
    sql = "SELECT event, fields FROM audit_log WHERE event IN ('authz_fail', 'excess_rate_limit_exceeded') ORDER BY rowid"
    return await site.rows(sql)


async def test_refusals_are_audited():
    """`authz_fail` says who wanted what, from where; of one caller ten a minute, however often it is tried."""
    async with server(None, Office) as site:
        alice, bob = await site.login("alice"), await site.login("bob")
        with pytest.raises(Forbidden):
            await alice.request(6001)
        ((event, fields),) = await entries(site)
        assert event == "authz_fail"
        for word in ('"user_id":"alice"', '"permission":"office.CLOSE"', '"command":6001', '"address":"127.0.0.1"'):
            assert word in fields
        assert (await site.http("POST", "/v1/office/lock", token=bob.token)).status == 403
        assert '"permission":"office.LOCK"' in (await entries(site))[1][1]
        for _ in range(30):
            with pytest.raises(Forbidden):
                await alice.request(6001)
        assert sum('"alice"' in fields for _, fields in await entries(site)) == 10
        await alice.request(2001, to="bob", client_id=key(), body="x")
        with pytest.raises(Forbidden):
            await bob.request(2006, conversation_id="d:alice:bob", seq=1, body="mine now")
        assert '"permission":"message.EDIT"' in (await entries(site))[-1][1]
        await alice.request(4001, group_id="club", name="club")
        with pytest.raises(Forbidden):
            await bob.request(4008, group_id="club")
        assert '"permission":"group.LIST_MEMBERS"' in (await entries(site))[-1][1]
        await site.clock.advance(60)
        with pytest.raises(Forbidden):
            await alice.request(6001)
        assert '"alice"' in (await entries(site))[-1][1]


async def test_business_refusals_are_not():
    """Who is blocked has tried no door."""
    async with server() as site:
        alice, bob = await site.login("alice"), await site.login("bob")
        await bob.request(3006, user_id="alice")
        with pytest.raises(Forbidden):
            await alice.request(2001, to="bob", client_id=key(), body="x")
        assert await entries(site) == []


async def test_floods_are_audited_once_a_minute():
    """`excess_rate_limit_exceeded`, one entry of a caller and minute, so that a flood does not fill the disk."""
    async with server({"limits.requests_per_second": 5}) as site:
        alice = await site.login("alice")

        async def flood():
            codes = []
            for _ in range(60):
                try:
                    await alice.request(1010)
                except ServerError as exc:
                    codes.append(exc.code)
            return codes

        assert await flood() == [429] * 50  # what the bucket holds has gone before
        ((event, fields),) = await entries(site)
        assert event == "excess_rate_limit_exceeded"
        assert '"user_id":"alice"' in fields
        await site.clock.advance(61)
        assert set(await flood()) == {429}
        assert len(await entries(site)) == 2


async def test_without_the_audit_log_nothing_is_noted():
    """A refusal is then a refusal, and costs no bookkeeping."""
    async with running([Office]) as site:
        alice = await site.login("alice")
        with pytest.raises(Forbidden):
            await alice.request(6001)


# ---------------------------------------------------------------- the reference


def test_the_reference_has_every_permission():
    """docs/reference/permissions.md has a row for each command and route of the plugins that come with the server."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "permissions.md"
    rows = re.findall(r"^\| `(\w+\.\w+)` \| `?([^|`]+)`? \| (.+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {"anyone": "anyone", "user": "users", "role:admin": "**role**"}
    expected = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.dist.name == "imserver":
            plugin = find_plugin(entry.name, ())()
            expected += [(row.permission, str(row.command_id), shown[row.allow]) for row in commands_of(plugin)]
            expected += [(row.permission, f"{row.method} {row.path}", shown[row.allow]) for row in routes_of(plugin)]
    assert sorted(rows) == sorted(expected)


# ---------------------------------------------------------------- reloading

DESK = """
from imserver.plugin import Plugin, command, role

class Desk(Plugin):
    name = "desk"

    @command(6101, name="{name}", allow={allow})
    def open_it(self, ctx, request):
        return {{}}
"""


async def test_a_reloaded_plugin_keeps_the_roles(tmp_path):
    """What becomes an administrator's command is closed from the reload on; one that [roles] names cannot vanish."""
    file = tmp_path / "desk.py"
    file.write_text(DESK.format(name="OPEN", allow='"user"'))
    async with running([file], {"roles.clerk": ["desk.OPEN"]}, folder=tmp_path) as site:
        clerk, plain = await site.login("clerk", roles=["clerk"]), await site.login("plain")
        for client in (clerk, plain):
            await client.request(6101)
        file.write_text(DESK.format(name="OPEN", allow='role("admin")'))
        await site.reload("desk")
        await clerk.request(6101)
        with pytest.raises(Forbidden, match=r"desk\.OPEN"):
            await plain.request(6101)
        file.write_text(DESK.format(name="SHUT", allow='"user"'))
        with pytest.raises(ReloadError, match=r"roles\.clerk\[0\].*desk\.SHUT"):
            await site.reload("desk")
        with pytest.raises(Forbidden):
            await plain.request(6101)
