"""Finding, checking and ordering plugins: all of them or none, with messages that name who is to blame."""

import sys
import textwrap

import attrs
import pytest

from imserver.commands import CommandTable, commands_of
from imserver.config import Config, Plugins
from imserver.errors import CommandConflictError, ConfigError, PluginError
from imserver.plugin import Plugin, command, role
from imserver.plugin_loader import Modules, find_plugin, find_source, load_again, load_plugins

PLUGIN = """
from imserver.plugin import Plugin, command, on_event
import attrs

class It(Plugin):
    name = "{name}"
    requires = {requires}
    wants = {wants}

    @command({command_id}, name="{command_name}")
    def do_it(self, ctx, request):
        return {{}}

    @on_event("thing")
    def hear(self, ctx):
        pass
"""


@pytest.fixture(autouse=True)
def _forget_modules():
    """Plugins from paths are modules of the process; each test has its own."""
    yield
    for name in [name for name in sys.modules if name.startswith("imserver_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def make(tmp_path):
    """Write a plugin into the folder of this test: `make(name, command_id=…, requires=…, wants=…)`."""

    def write(name, *, command_id, requires=(), wants=(), source=None, command_name="DO_IT"):
        text = source or PLUGIN.format(
            name=name, command_id=command_id, requires=tuple(requires), wants=tuple(wants), command_name=command_name
        )
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    return write


@pytest.fixture
def load(tmp_path):
    """Load plugins of this test's folder: `load("a", "b", settings={…})`."""

    def do(*enabled, settings=None):
        return load_plugins(Config(plugins=Plugins(enabled=enabled, paths=(tmp_path,), settings=settings or {})))

    return do


def test_the_order_of_the_start(make, load):
    """What is required comes first, what is wanted too where it is enabled, else the order of the configuration."""
    make("c", command_id=6003)
    make("a", command_id=6001, requires=["b"], wants=["missing", "c"])
    make("b", command_id=6002)
    make("z", command_id=6004)
    registry = load("z", "a", "c", "b")
    assert [plugin.name for plugin in registry.plugins] == ["z", "b", "c", "a"]
    assert [row.command_id for row in registry.commands] == [6001, 6002, 6003, 6004]
    assert [plugin.name for plugin, _ in registry.listeners["thing"]] == ["z", "b", "c", "a"]


def test_two_that_want_each_other(make, load):
    """That is no circle: a wish gives way."""
    make("a", command_id=6001, wants=["b"])
    make("b", command_id=6002, wants=["a"])
    assert {plugin.name for plugin in load("a", "b").plugins} == {"a", "b"}


def test_a_conflict_names_both_owners(make, load):
    """Two plugins, one command: the error says which, whose, and what to do."""
    make("first", command_id=6001, command_name="EARLY")
    make("second", command_id=6001, command_name="LATE")
    with pytest.raises(CommandConflictError) as caught:
        load("first", "second")
    for part in ("6001", "first", "second", "EARLY", "LATE", "plugins.enabled"):
        assert part in str(caught.value)


def test_a_conflict_leaves_the_table_as_it_was():
    """A plugin's rows are added all or none, also when its own rows clash."""

    class One(Plugin):
        name = "one"

        @command(6001)
        def a(self, ctx, request):
            return {}

    class Clashing(Plugin):
        name = "clashing"

        @command(6000)
        def a(self, ctx, request):
            return {}

        @command(6001)
        def b(self, ctx, request):
            return {}

    table = CommandTable()
    table.add(commands_of(One()))
    with pytest.raises(CommandConflictError):
        table.add(commands_of(Clashing()))
    assert [row.command_id for row in table] == [6001]
    with pytest.raises(CommandConflictError):
        CommandTable().add([*commands_of(One()), *commands_of(One())])


@pytest.mark.parametrize("command_id", [0, -1, 1, 999, 65536])
def test_a_command_out_of_range(make, load, command_id):
    """1–999 are the connection's own, and a command is 16 bits wide."""
    make("a", command_id=command_id)
    with pytest.raises(PluginError, match="plugin a"):
        load("a")


def test_who_may_call():
    """`allow` is one of the three forms; anything else would be a hole."""

    class Odd(Plugin):
        name = "odd"

        @command(6001, allow="everyone")
        def a(self, ctx, request):
            return {}

    with pytest.raises(PluginError, match="allow"):
        commands_of(Odd())

    class Admins(Plugin):
        name = "admins"

        @command(6001, allow=role("admin"))
        def a(self, ctx, request):
            return {}

    (row,) = commands_of(Admins())
    assert (row.role, row.name, row.is_async) == ("admin", "A", False)


def test_a_subclass_replaces_a_command_of_its_base():
    """A plugin that derives from another one overrides its handler and keeps the rest."""

    class Old(Plugin):
        name = "x"

        @command(6001)
        def a(self, ctx, request):
            return {}

        @command(6002)
        def b(self, ctx, request):
            return {}

    class New(Old):
        @command(6003)
        def a(self, ctx, request):
            return {}

    assert sorted(row.command_id for row in commands_of(New())) == [6002, 6003]


def test_an_unknown_plugin(load, tmp_path):
    """The message lists what there is and where it looked."""
    with pytest.raises(ConfigError) as caught:
        load("nope")
    for part in ("nope", "user", "message", str(tmp_path)):
        assert part in str(caught.value)


def test_a_plugin_named_twice(make, load):
    """It would be two instances of one service."""
    make("a", command_id=6001)
    with pytest.raises(ConfigError, match="twice"):
        load("a", "a")


def test_a_circle(make, load):
    """The message shows the way around."""
    make("a", command_id=6001, requires=["b"])
    make("b", command_id=6002, requires=["c"])
    make("c", command_id=6003, requires=["a"])
    with pytest.raises(PluginError, match="a -> b -> c -> a"):
        load("a", "b", "c")


def test_a_path_that_is_the_file_of_a_plugin(make, tmp_path):
    """A path may be a .py file: it is the plugin of its name, and no other."""
    make("dice", command_id=6001)
    make("other", command_id=6002)
    only = Config(plugins=Plugins(enabled=("dice",), paths=(tmp_path / "dice.py",)))
    assert [plugin.name for plugin in load_plugins(only).plugins] == ["dice"]
    with pytest.raises(ConfigError, match=r"there is no plugin 'other'.*plugins\.paths names no place for it"):
        load_plugins(Config(plugins=Plugins(enabled=("other",), paths=(tmp_path / "dice.py",))))


def test_a_plugin_that_is_not_there(tmp_path):
    """The message names the file of the configuration, the key, and what was looked for."""
    file = tmp_path / "imserver.toml"
    with pytest.raises(ConfigError) as refusal:
        load_plugins(Config(plugins=Plugins(enabled=("dice",), paths=(tmp_path,)), file=file))
    message = str(refusal.value)
    assert message.startswith(f"{file}: plugins.enabled: there is no plugin 'dice'")
    assert str(tmp_path / "dice.py") in message
    assert str(tmp_path / "dice" / "__init__.py") in message


def test_a_missing_requirement(make, load):
    """The message says who needs what and where to add it."""
    make("a", command_id=6001, requires=["b"])
    with pytest.raises(ConfigError, match=r"plugins\.enabled: plugin a requires b: add that"):
        load("a")


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("syntax error(", "SyntaxError"),
        ("raise ValueError('at import')", "at import"),
        ("x = 1", "no subclass"),
        ("from imserver.plugin import Plugin\nclass B(Plugin):\n    name = 'other'", "no subclass"),
        (
            "from imserver.plugin import Plugin\nclass B(Plugin):\n    name = 'bad'\nclass C(Plugin):\n    name = 'bad'",
            "no subclass",
        ),
    ],
)
def test_a_file_that_is_no_plugin(make, load, source, part):
    """Named with the plugin and the file; nothing of it stays in the process."""
    make("bad", command_id=1, source=source)
    with pytest.raises(PluginError, match=r"plugin bad: .*bad\.py") as caught:
        load("bad")
    assert part in str(caught.value)


def test_a_package_as_a_plugin(tmp_path, load):
    """A folder with __init__.py, its class in a module of its own."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("from .inner import It\n")
    (tmp_path / "pack" / "inner.py").write_text(
        PLUGIN.format(name="pack", command_id=6001, requires=(), wants=(), command_name="X")
    )
    assert [row.name for row in load("pack").commands] == ["X"]


def test_a_path_goes_before_what_is_installed(make, tmp_path):
    """A plugin in plugins.paths replaces the built-in one of its name."""
    make("message", command_id=6001)
    assert find_plugin("message", (tmp_path,)).__module__ == "imserver_plugin_message"
    assert find_plugin("message", ()).__module__.startswith("imserver_plugins.message")
    registry = load_plugins(Config(plugins=Plugins(enabled=("user", "message"), paths=(tmp_path,))))
    assert registry.commands.get(2001) is None
    assert registry.commands.get(6001).owner == "message"


SETTINGS = """
import attrs
from imserver.plugin import Plugin

@attrs.frozen
class Settings:
    window_s: float = 2.0
    size: int = 3

class It(Plugin):
    name = "set"
    Settings = Settings
"""


def test_settings(make, load):
    """`[plugins.NAME]` becomes an instance of the plugin's class; units as everywhere in the configuration."""
    make("set", command_id=0, source=SETTINGS)
    settings = load("set", settings={"set": {"window": "5m"}}).settings["set"]
    assert (settings.window_s, settings.size) == (300.0, 3)
    assert load("set").settings["set"].window_s == 2.0


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"set": {"widnow": "5m"}}, ["plugins.set", "widnow"]),
        ({"set": {"size": "many"}}, ["plugins.set", "size"]),
        ({"other": {"x": 1}}, ["plugins.other", "not in plugins.enabled"]),
        ({"none": {"x": 1}}, ["plugins.none", "no settings", "x"]),
    ],
)
def test_wrong_settings(make, load, settings, parts):
    """A typo is an error at start, with the section and the key."""
    make("set", command_id=0, source=SETTINGS)
    make("none", command_id=6001)
    with pytest.raises(ConfigError) as caught:
        load("set", "none", settings=settings)
    for part in parts:
        assert part in str(caught.value)


def test_the_registry_is_frozen(make, load):
    """What was loaded is what runs."""
    make("a", command_id=6001)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        load("a").plugins = ()


# ---------------------------------------------------------------- loading one again


VERSIONED = """
from imserver.plugin import Plugin, command

class It(Plugin):
    name = "again"
    version = {version}

    @command({command_id})
    def do_it(self, ctx, request):
        return {{}}
"""


@pytest.fixture
def again(make, tmp_path):
    """`again(version, command_id)` writes the plugin `again`; its other friend is `other`."""

    def write(version, command_id=6001):
        make("again", command_id=0, source=VERSIONED.format(version=version, command_id=command_id))
        return Config(plugins=Plugins(enabled=("other", "again"), paths=(tmp_path,)))

    make("other", command_id=6002)
    return write


def test_one_plugin_is_loaded_again(again):
    """The new code is in a new instance, in the place of the old one; the others are the same instances."""
    first = load_plugins(again(1))
    registry = load_again(first, "again", again(2, 6003))
    assert [plugin.name for plugin in registry.plugins] == ["other", "again"]
    assert registry.plugins[0] is first.plugins[0]
    assert (first.plugins[1].version, registry.plugins[1].version) == (1, 2)
    assert [row.command_id for row in registry.commands] == [6002, 6003]
    assert registry.commands.get(6003).handler.__self__ is registry.plugins[1]
    assert [row.command_id for row in first.commands] == [6001, 6002]
    assert [plugin for plugin, _ in registry.listeners["thing"]] == [first.plugins[0]]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("class It(:", PluginError),
        ("x = 1", PluginError),
        (VERSIONED.format(version=2, command_id=6002), CommandConflictError),
        (VERSIONED.format(version=2, command_id=999), PluginError),
        (VERSIONED.format(version=2, command_id=6001) + "\n    requires = ['nobody']\n", PluginError),
    ],
)
def test_what_cannot_be_loaded_leaves_no_trace(again, make, source, error):
    """The modules of the process are those of the old instance, also where the new module was imported already."""
    config = again(1)
    registry = load_plugins(config)
    module = sys.modules["imserver_plugin_again"]
    finders = list(sys.meta_path)
    make("again", command_id=0, source=source)
    with pytest.raises(error):
        load_again(registry, "again", config)
    assert sys.modules["imserver_plugin_again"] is module
    assert sys.meta_path == finders


def test_going_back(again, tmp_path):
    """What was imported anew and is not wanted after all goes away again."""
    config = again(1)
    registry = load_plugins(config)
    modules = Modules.of(find_source("again", (tmp_path,)))
    old = sys.modules["imserver_plugin_again"]
    load_again(registry, "again", again(2))
    assert sys.modules["imserver_plugin_again"] is not old
    modules.restore()
    assert sys.modules["imserver_plugin_again"] is old


def test_an_installed_plugin_is_loaded_again(tmp_path, monkeypatch):
    """One of an entry point, in a package inside of another one; the outer package stays as it is."""
    inner = tmp_path / "acme" / "dice"
    inner.mkdir(parents=True)
    (tmp_path / "acme" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("from acme.dice.code import Dice\n")
    code = "from imserver.plugin import Plugin\nclass Dice(Plugin):\n    name = 'acme_dice'\n    version = {}\n"
    (inner / "code.py").write_text(code.format(1))
    metadata = tmp_path / "acme-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[imserver.plugins]\nacme_dice = acme.dice:Dice\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        config = Config(plugins=Plugins(enabled=("acme_dice",)))
        registry = load_plugins(config)
        outer = sys.modules["acme"]
        assert find_source("acme_dice", ()).files == [inner / "__init__.py", inner / "code.py"]
        (inner / "code.py").write_text(code.format(2))
        assert load_again(registry, "acme_dice", config).plugins[0].version == 2
        assert sys.modules["acme"] is outer
        assert outer.dice is sys.modules["acme.dice"]
        new = sys.modules["acme.dice"]
        (inner / "code.py").write_text("nonsense here")
        with pytest.raises(PluginError, match="cannot be loaded"):
            load_again(registry, "acme_dice", config)
        assert sys.modules["acme.dice"] is new
        assert outer.dice is new
    finally:
        for name in [name for name in sys.modules if name == "acme" or name.startswith("acme.")]:
            del sys.modules[name]


@pytest.mark.parametrize(("name", "said"), [("user", "restart"), ("no_such", "no longer")])
def test_what_has_no_source_to_load_again(name, said):
    """The server's own plugins, and those that are not there."""
    with pytest.raises(PluginError, match=said):
        find_source(name, ())


def test_classes_that_are_given(make, load, tmp_path):
    """A class by name goes before what could be found under it."""
    make("a", command_id=6001)

    class A(Plugin):
        name = "a"

    config = Config(plugins=Plugins(enabled=("a",), paths=(tmp_path,)))
    assert type(load_plugins(config, {"a": A}).plugins[0]) is A
