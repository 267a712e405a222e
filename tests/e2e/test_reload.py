"""Reloading a plugin of a server that serves: real processes, `imserver plugins reload`, and clients that stay connected."""

import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request

import pytest
from process import Server
from wire import SEND

PATIENCE_S = 30
WHAT, SLOW, EXTRA, ROWS = 6001, 6002, 6003, 6004

PLUGIN = """
import attrs, pathlib, trio
from imserver.plugin import ANYONE, PermissionDenied, Plugin, command, on_event, route

VERSION = {version!r}
HERE = pathlib.Path(__file__).parent

@attrs.frozen
class Settings:
    greeting: str = "hello"

class Dice(Plugin):
    name = "dice"
    Settings = Settings
    migrations = ("CREATE TABLE dice_rows (version TEXT NOT NULL) STRICT;", *{migrations!r})

    async def on_start(self, ctx):
        {on_start}
        ctx.log.info("dice_started", version=VERSION)
        ctx.start_soon(self._background, ctx)

    async def _background(self, ctx):
        try:
            await trio.sleep_forever()
        finally:
            ctx.log.info("dice_background_ended", version=VERSION)

    async def on_stop(self, ctx):
        ctx.log.info("dice_stopped", version=VERSION)

    @command(6001, allow=ANYONE)
    def what(self, ctx, request):
        async def load():
            return VERSION
        return {{"version": VERSION, "cached": ctx.cache.load("version", load), "greeting": ctx.settings.greeting}}

    @command(6002, allow=ANYONE, timeout_s=60)
    async def slow(self, ctx, request):
        (HERE / ("begun-" + VERSION)).touch()
        while not (HERE / "go").exists():
            await trio.sleep(0.01)
        return {{"version": VERSION, "greeting": ctx.settings.greeting, "is_own": ctx.plugin is self}}

    @route("GET", "/v1/dice", allow=ANYONE)
    async def page(self, ctx, request):
        if "slow" in request.query_params:
            (HERE / ("page-begun-" + VERSION)).touch()
            while not (HERE / "go").exists():
                await trio.sleep(0.01)
        return {{"version": VERSION, "is_own": ctx.plugin is self}}

    def before_send(self, ctx, draft):
        if draft.body == "which":
            raise PermissionDenied("refused by " + VERSION, error="refused_by_" + VERSION)

{more}
"""
ANOTHER = """
    @command(6003, allow=ANYONE)
    def extra(self, ctx, request):
        return {"extra": VERSION}
"""
READS_ROWS = """
    @command(6004, allow=ANYONE)
    async def rows(self, ctx, request):
        await ctx.db.write("INSERT INTO dice_rows (version, sides) VALUES (?, 6)", (VERSION,))
        return {"rows": len(await ctx.db.read("SELECT version, sides FROM dice_rows"))}
"""


def source(version, *, more="", on_start="pass", migrations=()):
    return PLUGIN.format(version=version, more=more, on_start=on_start, migrations=tuple(migrations))


class ReloadServer(Server):
    """A server with a plugin of its own in `plugins`, its settings in a file."""

    options = ()

    def prepare(self, text=None):
        self.plugins = self.folder / "plugins"
        self.plugins.mkdir()
        self.file = self.plugins / "dice.py"
        self.write(source("v1") if text is None else text)
        self.configure("hello")
        return self

    def configure(self, greeting):
        enabled = ["user", "message", "push", "dice"]
        text = f"[plugins]\npaths = ['plugins']\nenabled = {json.dumps(enabled)}\n[plugins.dice]\ngreeting = {greeting!r}\n"
        (self.folder / "imserver.toml").write_text(text)

    def write(self, text):
        """As an editor does: the file is the old one or the new one."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(textwrap.dedent(text))
        fresh.rename(self.file)

    def command(self):
        return [*super().command(), *self.options]

    def start_reload(self, name="dice"):
        words = [sys.executable, "-m", "imserver", "plugins", "reload", name, f"--set=server.data_dir={self.data}"]
        return subprocess.Popen(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def reload(self, name="dice"):
        """Exit status and what was said."""
        with self.start_reload(name) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out + err

    def events(self, event):
        return [record for record in self.logs() if record.get("event") == event]

    def wait_event(self, event, count=1):
        deadline = time.monotonic() + PATIENCE_S
        while len(self.events(event)) < count:
            assert time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.01)
        return self.events(event)

    def wait_file(self, name):
        deadline = time.monotonic() + PATIENCE_S
        while not (self.plugins / name).exists():
            assert time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.01)

    def get(self, path):
        """Status and fields of a GET."""
        try:
            with urllib.request.urlopen(f"http://{self.ready['http'][0]}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)


@pytest.fixture
def make(tmp_path):
    """A server with the plugin `dice`, started: `make({settings}, options=[…])`."""
    made = []

    def do(settings=None, *, options=(), start=True):
        server = ReloadServer(tmp_path, settings)
        server.options = options
        made.append(server.prepare())
        return server.start() if start else server

    yield do
    for server in made:
        server.discard()


class Caller(threading.Thread):
    """Calls one command over and over on one connection."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.answers = []
        self.failure = None
        self.is_over = threading.Event()
        self.start()

    def run(self):
        try:
            with self.server.client() as client:
                while not self.is_over.is_set():
                    self.answers.append(client.ok(WHAT))
        except Exception as exc:
            self.failure = exc

    def wait_for(self, version, count=50):
        deadline = time.monotonic() + PATIENCE_S
        while sum(answer["version"] == version for answer in list(self.answers)) < count:
            assert self.failure is None, (self.failure, self.answers[-3:])
            assert time.monotonic() < deadline, self.answers[-3:]
            time.sleep(0.005)


@pytest.mark.parametrize("shards", [1, 2])
def test_under_load(make, shards):
    """Callers in a loop see old answers, then new ones, and never an error or a lost connection; three times over."""
    server = make({"server.shards": shards, "limits.requests_per_second": 0, "limits.login_timeout": "5m"})
    callers = [Caller(server) for _ in range(6)]
    try:
        for version in ("v2", "v3", "v4"):
            server.write(source(version))
            status, said = server.reload()
            assert (status, "6001" in said) == (0, True), said
            for caller in callers:
                caller.wait_for(version)
    finally:
        for caller in callers:
            caller.is_over.set()
            caller.join()
    for caller in callers:
        assert caller.failure is None
        versions = [answer["version"] for answer in caller.answers]
        assert versions == sorted(versions)
        assert set(versions) == {"v1", "v2", "v3", "v4"}
        assert all(answer["cached"] == answer["version"] for answer in caller.answers)  # a cache of its own
    assert server.stop() == 0
    assert [record["version"] for record in server.events("dice_stopped")] == ["v1", "v2", "v3", "v4"]
    assert "Traceback" not in server.text()


def test_what_has_begun_ends_in_the_old_code(make):
    """A command and a route that run during the reload end in their own instance, which then stops; new ones are new."""
    server = make()
    alice = server.login()
    rid = alice.post(SLOW)
    pages = []
    waiter = threading.Thread(target=lambda: pages.append(server.get("/v1/dice?slow=1")))
    waiter.start()
    server.wait_file("begun-v1")
    server.wait_file("page-begun-v1")
    server.configure("good day")
    server.write(source("v2"))
    with server.start_reload() as reload:
        server.wait_event("plugin_reloaded")
        answer = alice.ok(WHAT)
        assert (answer["version"], answer["greeting"]) == ("v2", "good day")
        assert server.get("/v1/dice")[1] == {"code": 0, "version": "v2", "is_own": True}
        assert not server.events("dice_stopped")
        assert not server.events("dice_background_ended")
        (server.plugins / "go").touch()
        answer = alice.answer(rid)
        assert (answer["version"], answer["greeting"], answer["is_own"]) == ("v1", "hello", True)
        waiter.join()
        assert pages == [(200, {"code": 0, "version": "v1", "is_own": True})]
        assert reload.wait(PATIENCE_S) == 0
    assert [record["version"] for record in server.events("dice_stopped")] == ["v1"]
    assert [record["version"] for record in server.wait_event("dice_background_ended")] == ["v1"]
    assert server.stop() == 0


def test_commands_come_and_go(make):
    """Commands and routes appear and disappear, over frames, over HTTP and in the description; hooks change with them."""
    server = make()
    alice = server.login()
    assert alice.call(EXTRA)["error"] == "unknown_command"
    server.write(source("v2", more=ANOTHER))
    assert server.reload()[0] == 0
    assert alice.ok(EXTRA)["extra"] == "v2"
    assert "/v1/commands/6003" in server.get("/openapi.json")[1]["paths"]
    bob = server.register()
    assert alice.call(SEND, to=bob, type="text", client_id="c1", body="which")["error"] == "refused_by_v2"
    server.write(source("v3").replace('@route("GET", "/v1/dice", allow=ANYONE)', ""))
    assert server.reload()[0] == 0
    answer = alice.call(EXTRA)
    assert (answer["code"], answer["error"]) == (404, "unknown_command")
    assert server.get("/v1/dice")[0] == 404
    assert "/v1/commands/6003" not in server.get("/openapi.json")[1]["paths"]
    assert alice.ok(WHAT)["version"] == "v3"
    assert alice.call(SEND, to=bob, type="text", client_id="c2", body="which")["error"] == "refused_by_v3"


def test_new_migrations_run(make):
    """A script that the database has not seen runs before the new code serves; the next start finds all as it should be."""
    server = make()
    server.write(source("v2", more=READS_ROWS, migrations=["ALTER TABLE dice_rows ADD COLUMN sides INTEGER;"]))
    status, said = server.reload()
    assert status == 0, said
    assert server.events("plugin_reloaded")[0]["migrations"] == 1
    with server.client() as client:
        assert client.ok(ROWS)["rows"] == 1
    server.restart()
    with server.client() as client:
        assert client.ok(ROWS)["rows"] == 2


FAILURES = {
    "syntax": ("class Dice(:", "cannot be loaded"),
    "import": ("import there_is_no_such_module", "there_is_no_such_module"),
    "exit": ("import sys; sys.exit(3)", "sys.exit"),
    "no plugin": ("x = 1", "no subclass of Plugin"),
    "on_start": (source("v2", on_start="raise RuntimeError('no dice today')"), "no dice today"),
    "exit at the start": (source("v2", on_start="raise SystemExit('no dice ever')"), "no dice ever"),
    "migration": (source("v2", migrations=["CREATE TABLE dice_more (x) STRICT; nonsense;"]), "migrations did not run"),
    "changed migration": (source("v2").replace("version TEXT", "version BLOB"), "must never change"),
    "command": (source("v2").replace("6002", "2001"), "2001"),
    "route": (source("v2").replace("/v1/dice", "/healthz"), "/healthz"),
    "settings": (source("v2").replace("greeting: str", "greeting: int"), "greeting"),
    "requires": (source("v2").replace('name = "dice"', 'name = "dice"; requires = ["cards"]'), "cards"),
    "init": (source("v2", more="    def __init__(self):\n        raise RuntimeError('not today')"), "not today"),
}


def test_what_fails_leaves_the_old_one(make):
    """Whatever is wrong with the new code: the old one goes on, the command and the log say why, and a mended one loads."""
    server = make()
    alice = server.login()
    for count, (text, said) in enumerate(FAILURES.values(), start=1):
        server.write(text)
        status, output = server.reload()
        assert (status, said in output) == (1, True), output
        assert said in server.wait_event("plugin_reload_failed", count)[-1]["reason"]
        answer = alice.ok(WHAT)
        assert (answer["version"], answer["cached"], answer["greeting"]) == ("v1", "v1", "hello"), said
        assert server.get("/v1/dice")[1]["version"] == "v1"
        assert server.get("/healthz")[0] == 200
    server.write(source("v9"))
    assert server.reload()[0] == 0
    assert alice.ok(WHAT)["version"] == "v9"
    # What was started and could not be put in place was stopped again: here the one whose route was another's.
    stopped = [record["version"] for record in server.wait_event("dice_stopped", 2)]
    assert stopped == ["v2", "v1"]
    assert server.stop() == 0


def test_who_can_be_reloaded(make):
    """The server's own plugins and unknown ones are refused with a reason; so is every name without a server."""
    server = make()
    status, said = server.reload("user")
    assert (status, "restart" in said) == (1, True), said
    status, said = server.reload("dcie")
    assert (status, "dcie" in said, "dice" in said) == (1, True, True), said
    assert server.stop() == 0
    assert not (server.data / "control.sock").exists()
    status, said = server.reload()
    assert (status, "no server runs" in said) == (1, True), said


def test_after_kill_9(make):
    """The socket that a killed server left is no hindrance to the next one."""
    server = make()
    server.kill()
    assert (server.data / "control.sock").exists()
    status, said = server.reload()
    assert (status, "no server runs" in said) == (1, True), said
    server.start()
    assert server.reload()[0] == 0


def test_the_control_socket(make):
    """It is the owner's alone, and what is no request gets an answer and harms nothing."""
    server = make()
    path = server.data / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def ask(data):
        folder = os.open(server.data, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE_S)
                sock.connect(f"/proc/self/fd/{folder}/control.sock")
                sock.sendall(data)
                return json.loads(b"".join(iter(lambda: sock.recv(4096), b"")))
        finally:
            os.close(folder)

    for data in (b"nonsense\n", b"[]\n", b"{}\n", b'{"command": "stop"}\n', b"[" * 4000 + b"\n", b"x" * 4097, b"\xff\n",
                 b'{"command": "reload", "plugin": ["dice"]}\n'):  # fmt: skip
        answer = ask(data)
        assert answer["ok"] is False
        assert answer["message"]
    with socket.socket(socket.AF_UNIX) as sock:  # somebody who says nothing and goes
        folder = os.open(server.data, os.O_PATH)
        sock.connect(f"/proc/self/fd/{folder}/control.sock")
        os.close(folder)
    assert ask(b'{"command": "reload", "plugin": "dice"}\n')["ok"] is True


def test_a_package(make, monkeypatch):
    """A plugin that is a package: its inner modules are loaded anew, too, and a failure restores all of them."""
    server = make(start=False)
    server.file.unlink()
    package = server.plugins / "dice"
    package.mkdir()
    (package / "numbers.py").write_text("NUMBER = 1\n")
    server.file = package / "__init__.py"
    code = """
    from imserver.plugin import ANYONE, Plugin, command
    import attrs
    from .numbers import NUMBER

    @attrs.frozen
    class Settings:
        greeting: str = ""

    class Dice(Plugin):
        name = "dice"
        Settings = Settings

        @command(6001, allow=ANYONE)
        def what(self, ctx, request):
            from .numbers import NUMBER as late
            return {"number": NUMBER, "late": late}
    """
    server.write(code)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    server.start()
    with server.client() as client:
        assert list(package.glob("__pycache__/numbers*"))
        assert (client.ok(WHAT)["number"], client.ok(WHAT)["late"]) == (1, 1)
        # The same size in the same second: a cached compilation would pass for it.
        before = (package / "numbers.py").stat()
        (package / "numbers.py").write_text("NUMBER = 2\n")
        os.utime(package / "numbers.py", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert server.reload()[0] == 0
        assert (client.ok(WHAT)["number"], client.ok(WHAT)["late"]) == (2, 2)
        (package / "numbers.py").write_text("NUMBER = 3\n")
        on_start = "\n        async def on_start(self, ctx):\n            raise RuntimeError('not yet')\n"
        for broken in (code + "\n    raise RuntimeError('half-way')\n", code + on_start):
            server.write(broken)
            assert server.reload()[0] == 1
            assert (client.ok(WHAT)["number"], client.ok(WHAT)["late"]) == (2, 2)


def test_dev(make):
    """With `--dev` a change of the file is enough; one that fails is told in the log, and the next one mends it."""
    server = make(options=["--dev"])
    server.wait_event("watching")
    with server.client() as client:
        server.write("class Dice(:")
        server.wait_event("plugin_reload_failed")
        assert client.ok(WHAT)["version"] == "v1"
        server.write(source("v2"))
        server.wait_event("plugin_reloaded")
        assert client.ok(WHAT)["version"] == "v2"
