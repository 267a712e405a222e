"""`imserver.testing`: what it promises to those who test their plugins by it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio
from plugins_under_test import NOTE, ROLL, SECRET, TELL, TOLD, WAIT, Dice

import imserver.testing
from imserver.client import BadRequest, Conflict, Forbidden, NotFound, ServerError, ServerTimeout, Unauthenticated
from imserver.errors import ConfigError, PluginError
from imserver.plugin import Plugin
from imserver.testing import ConnectionEnded, HttpAnswer, NothingCame, Push, client, running
from imserver.testing.clock import MAX_STEPS, START_MS

GOAWAY, SEND, MESSAGE, GET_USER = 2, 2001, 5001, 1006
HERE = Path(__file__).parent


async def test_requests_and_refusals():
    """Fields come back; refusals are the errors of the client SDK, by code and name."""
    async with running([Dice], {"plugins.dice.sides": 20}) as server:
        alice = await server.login("alice")
        assert (await alice.request(ROLL))["sides"] == 20
        assert await alice.request(NOTE, text="a") == {}
        with pytest.raises(Conflict) as refusal:
            await alice.request(NOTE, text="a")
        assert (refusal.value.error, refusal.value.field) == ("noted", "text")
        with pytest.raises(BadRequest):
            await alice.request(NOTE, text=7)
        with pytest.raises(NotFound, match="unknown_command"):
            await alice.request(6999)
        with pytest.raises(Unauthenticated):
            await server.connect().request(NOTE, text="b")
        assert await server.rows("SELECT text FROM dice_notes") == [("a",)]


async def test_users_and_roles():
    """A user is made at the first login, with roles; others have none; two connections are one user's."""
    async with running([Dice]) as server:
        root = await server.login("root", roles=["admin"])
        assert await root.request(SECRET) == {"user": "root", "roles": ["admin"]}
        alice = await server.login("alice", device_id="phone")
        with pytest.raises(Forbidden):
            await alice.request(SECRET)
        assert (await alice.request(GET_USER, user_ids=["root"]))["users"][0]["user_id"] == "root"
        assert await (await server.login("root")).request(SECRET) == {"user": "root", "roles": ["admin"]}
        with pytest.raises(ValueError, match="roles"):
            await server.login("alice", roles=["admin"])
        again = await server.login("alice", device_id="phone")
        assert (await alice.push(GOAWAY))["error"] == "replaced"
        with pytest.raises(ConnectionEnded, match="replaced"):
            await alice.request(ROLL)
        assert alice.is_closed
        assert not again.is_closed


async def test_pushes():
    """Messages and pushes of a plugin arrive; `settle` makes sure that there are none to come."""
    async with running([Dice]) as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        await alice.request(SEND, to="bob", client_id="c-1", type="text", body="hi")
        assert (await bob.push(MESSAGE))["body"] == "hi"
        await alice.request(TELL, to="bob", text="one")
        await alice.request(TELL, to="bob", text="two")
        await server.settle()
        assert bob.pushes == [Push(TOLD, {"text": text, "from": "alice"}) for text in ("one", "two")]
        assert (await bob.push())["text"] == "one"
        assert (await bob.push(TOLD))["text"] == "two"
        await server.settle()
        assert (alice.pushes, bob.pushes) == ([], [])


async def test_a_push_that_does_not_come(monkeypatch):
    """Waiting ends in an error that says what came instead."""
    monkeypatch.setattr(client, "PATIENCE_S", 0.05)
    async with running([Dice]) as server:
        alice = await server.login("alice")
        await alice.request(TELL, to="alice", text="x")
        with pytest.raises(NothingCame, match=r"no push 5001 .*6100"):
            await alice.push(MESSAGE)


async def test_time():
    """It stands still; `advance` moves the clock of handlers, Trio's deadlines, and background tasks, step by step."""
    async with running([Dice]) as server:
        alice = await server.login("alice")
        first = await alice.request(ROLL)
        assert first["ticks"] == 0
        assert first["now"] == server.clock.now_ms()
        assert server.clock.now_ms() - START_MS < 60_000
        await trio.sleep(0.05)
        assert (await alice.request(ROLL))["now"] == first["now"]
        await server.clock.advance(10.5)
        then = await alice.request(ROLL)
        assert then["now"] - first["now"] == 10_500
        assert then["ticks"] == 10
        with pytest.raises(ValueError, match="forward"):
            await server.clock.advance(-1)


async def test_a_deadline_of_a_request():
    """A handler that waits answers when its time has come, and not after the request's deadline."""
    async with running([Dice], {"limits.request_timeout": "5s"}) as server:
        alice = await server.login("alice")
        answers = []

        async def ask(seconds):
            try:
                answers.append(await alice.request(WAIT, seconds=seconds))
            except ServerError as exc:
                answers.append(type(exc))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 3)
            nursery.start_soon(ask, 30)
            await trio.testing.wait_all_tasks_blocked()  # both are on the way
            await server.settle()
            assert answers == []
            await server.clock.advance(2.9)
            assert answers == []
            await server.clock.advance(0.2)
            await server.clock.advance(2)
        assert answers == [{"waited": 3}, ServerTimeout]


async def test_a_long_time():
    """A month passes in a moment; clients live on, but for the silent one, and expired tokens end."""
    async with running([Dice], {"plugins.dice.every": "1h"}) as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        bob.is_silent = True
        await server.clock.advance(30 * 24 * 3600)
        assert (await bob.push(GOAWAY))["error"] == "idle"
        assert bob.is_closed
        answer = await alice.request(ROLL)
        assert 0.9 * 720 <= answer["ticks"] <= min(720, MAX_STEPS)
        assert answer["gone"] == ["bob"]


async def test_http():
    """Routes and the API by the server's own HTTP code; no credentials, a token, a wrong one."""
    async with running([Dice]) as server:
        alice = await server.login("alice")
        answer = await server.http("GET", "/v1/dice/6?a=1", token=alice.token)
        assert isinstance(answer, HttpAnswer)
        assert answer.json() == {"code": 0, "sides": 6, "user": "alice", "query": {"a": "1"}}
        assert answer.headers["content-type"] == "application/json"
        assert (await server.http("GET", "/v1/dice/6")).json()["user"] is None
        assert (await server.http("GET", "/v1/dice/0")).status == 404
        assert (await server.http("POST", f"/v1/commands/{NOTE}", token=alice.token, json={"text": "n"})).status == 200
        assert (await server.http("POST", f"/v1/commands/{NOTE}", json={"text": "m"})).status == 401
        assert (await server.http("GET", "/v1/dice/6", token=alice.token + "x")).status == 401
        assert (await server.http("GET", "/", headers={"Accept": "text/html"})).body.startswith(b"<!")
        assert await server.rows("SELECT text FROM dice_notes") == [("n",)]


async def test_several_tasks_on_one_client():
    """Each gets its own answer."""
    async with running([Dice]) as server:
        alice = await server.login("alice")
        answers = []

        async def ask(text):
            await alice.request(NOTE, text=text)
            answers.append(text)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, str(number))
        assert sorted(answers, key=int) == [str(number) for number in range(40)]


async def test_closing():
    """A client that closes is gone for the plugins; one that waits for it meanwhile is told."""
    async with running([Dice]) as server:
        alice, bob = await server.login("alice"), await server.login("bob")
        with alice:
            async with trio.open_nursery() as nursery:

                async def wait():
                    with pytest.raises(ConnectionEnded):
                        await alice.push()

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                alice.close()
        alice.close()
        assert alice.is_closed
        await server.settle()
        assert (await bob.request(ROLL))["gone"] == ["alice"]


async def test_a_folder_is_kept(tmp_path):
    """A second server on the same folder has what the first one stored; two at once run beside each other."""
    async with running([Dice], folder=tmp_path) as server:
        await (await server.login("alice")).request(NOTE, text="kept")
    async with running([Dice], folder=tmp_path) as server, running([Dice]) as other:
        assert await server.rows("SELECT text FROM dice_notes") == [("kept",)]
        assert await other.rows("SELECT text FROM dice_notes") == []
        with pytest.raises(Conflict):
            await (await server.login("alice")).request(NOTE, text="kept")


async def test_what_keeps_it_from_starting(tmp_path):
    """Wrong settings, unknown plugins and a failing `on_start` are raised where the test can see them."""
    with pytest.raises(ConfigError, match="sdies"):
        async with running([Dice], {"plugins.dice.sdies": 6}):
            pass
    with pytest.raises(ConfigError, match="no_such_plugin"):
        async with running(["no_such_plugin"]):
            pass
    (tmp_path / "bad.py").write_text("class Bad(:")
    with pytest.raises(PluginError, match="cannot be loaded"):
        async with running([tmp_path / "bad.py"]):
            pass

    class Late(Plugin):
        name = "late"

        async def on_start(self, ctx):
            raise ConfigError("not like this")

    with pytest.raises(ConfigError, match="not like this"):
        async with running([Late]):
            pass


async def test_what_the_test_raises_comes_through():
    """The block's own failure is the one that is seen."""

    async def fail():
        async with running([Dice]) as server:
            await server.login("alice")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_reload(tmp_path):
    """A plugin's file may be changed and reloaded in the test; the client stays."""
    file = tmp_path / "echo.py"
    code = (
        "from imserver.plugin import ANYONE, Plugin, command\n"
        "class Echo(Plugin):\n"
        "    name = 'echo'\n"
        "    @command(6001, allow=ANYONE)\n"
        "    def what(self, ctx, request): return {'n': 1}\n"
    )
    file.write_text(code)
    async with running([file]) as server:
        alice = await server.login("alice")
        assert await alice.request(6001) == {"n": 1}
        file.write_text(code.replace("1}", "2}"))
        await server.reload("echo")
        assert await alice.request(6001) == {"n": 2}
        file.write_text("nonsense here")
        with pytest.raises(PluginError, match="cannot be loaded"):
            await server.reload("echo")
        assert await alice.request(6001) == {"n": 2}
        assert not alice.is_closed


def test_plain_trio(tmp_path):
    """It needs neither pytest nor pytest-trio, and leaves nothing behind: no warning, no thread, no file."""
    program = """
        import sys, threading, tempfile, os, trio
        sys.path.insert(0, sys.argv[1])
        tempfile.tempdir = sys.argv[2]
        from plugins_under_test import Dice, ROLL
        from imserver.testing import running

        async def main():
            async with running([Dice]) as server:
                alice = await server.login("alice")
                print((await alice.request(ROLL))["sides"])

        trio.run(main)
        assert not [thread for thread in threading.enumerate() if thread.name == "imserver-testing"]
        assert os.listdir(sys.argv[2]) == []
    """
    words = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program), str(HERE), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6" in done.stdout.splitlines()
    assert "Warning" not in done.stderr, done.stderr


def test_the_names_are_documented():
    """docs/reference/testing.md has each public name, and each public method and attribute of theirs."""
    page = (HERE.parents[1] / "docs" / "reference" / "testing.md").read_text()
    for name in imserver.testing.__all__:
        assert f"`{name}" in page, name
        for member in vars(getattr(imserver.testing, name)):
            if not member.startswith("_"):
                assert f"`{member}" in page or f".{member}" in page, (name, member)
