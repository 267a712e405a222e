"""The configuration: what is accepted, what wins, and what the errors say."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from imserver.config import Address, Config, Tls, as_plain, build_settings, known_keys, load_config
from imserver.config.units import format_duration, format_size, parse_address, parse_duration, parse_size
from imserver.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "imserver.toml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def error_of(path: Path | None, overrides: tuple[str, ...] = (), environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, environ or {})
    return str(caught.value)


# ---------------------------------------------------------------- defaults and files


def test_the_sample_file_has_the_defaults() -> None:
    """conf/imserver.toml sets every key to its default, so it can serve as the manual."""
    config = load_config(ROOT / "conf/imserver.toml", (), {})
    own = {"recall_window": "2m", "keep_direct": "0s", "keep_group": "0s", "require_friendship": False}
    files = {"max_size": "25MiB", "allowed_types": ["*/*"], "quota": "1GiB", "max_files": 10000, "uploads_per_user": 8}
    files |= {"orphan_ttl": "24h", "upload_ttl": "24h"}
    friends = {"max_friends": 5000, "max_pending": 500, "max_blocked": 5000, "request_ttl": "30d"}
    groups = {"max_members": 10000, "max_groups": 500, "max_admins": 50, "max_requests": 500, "request_ttl": "30d"}
    push = {"offline_after": "10s", "preview": True, "generic_text": "New message", "timeout": "10s", "concurrency": 64}
    push |= {"retry_first": "1s", "retry_most": "5m", "give_up_after": "1d", "max_jobs": 100000, "max_devices": 20}
    expected = {"message": own, "file": files, "friend": friends, "group": groups, "push": push}
    assert config.plugins.settings == expected
    folder = ROOT / "conf"
    assert config.server.data_dir == folder / "data"
    assert config.auth.secret_file == folder / "data/secret"
    without_paths = attrs.evolve(
        config,
        server=attrs.evolve(config.server, data_dir=Path("data")),
        auth=attrs.evolve(config.auth, secret_file=Path("data/secret")),
        plugins=attrs.evolve(config.plugins, settings={}),
    )
    assert without_paths == Config()


@pytest.mark.parametrize("name", ["conf/imserver.toml", "docs/reference/configuration.md"])
def test_every_key_is_documented(name: str) -> None:
    """The sample file and the reference name every key there is, and no other."""
    text = (ROOT / name).read_text()
    if name.endswith(".md"):
        found = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", text, re.MULTILINE))
    else:
        table = tomllib.loads(re.sub(r"(?m)^# (\[tls\]|[a-z_]+ = )", r"\1", text))
        found = {f"{section}.{key}" for section, keys in table.items() for key in keys} - {
            "plugins.message",
            "plugins.file",
            "plugins.friend",
            "plugins.group",
            "plugins.push",
        }
    assert found == set(known_keys())


@pytest.mark.parametrize("key", known_keys())
def test_the_reference_gives_the_default(key: str) -> None:
    """The default in the reference is the one in the code."""
    text = (ROOT / "docs/reference/configuration.md").read_text()
    row = re.search(rf"^\| `{re.escape(key)}` \| ([^|]+) \|", text, re.MULTILINE)
    assert row is not None
    section, _, name = key.partition(".")
    optional = {"tls": {attribute.name: attribute.default for attribute in attrs.fields(Tls)}}
    default = (as_plain(Config()) | optional).get(section, {}).get(name)
    if default in (None, attrs.NOTHING):
        assert row[1] == "none"
        return
    documented = tomllib.loads(f"value = {row[1].strip('`')}")["value"]
    if section == "tls":
        assert documented == default
        return
    written = load_config(None, [f"{key}={row[1].strip('`')}"], {})
    assert type(documented) is type(default)
    ours = getattr(written, section)
    if not key.endswith(("data_dir", "secret_file")):
        assert as_plain(ours)[name] == default


def test_without_a_file_there_are_defaults(folder: Path) -> None:
    """No file, no options: the defaults, with paths in the current folder."""
    config = load_config(None, (), {})
    assert config.file is None
    assert config.server.data_dir == folder / "data"
    assert config.auth.secret_file == folder / "data/secret"
    assert config.tcp.listen == (Address("127.0.0.1", 9000),)
    assert config.plugins.enabled == ("user", "message", "friend", "group", "push", "file", "search", "admin")
    assert config.limits.exempt_addresses == (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))


def test_files_are_looked_for_in_order(folder: Path) -> None:
    """./imserver.toml goes before conf/imserver.toml."""
    write(folder, "server.node = 2", "conf/imserver.toml")
    assert load_config(None, (), {}).server.node == 2
    write(folder, "server.node = 1")
    assert load_config(None, (), {}).server.node == 1


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    """Relative paths are taken from the file's folder, absolute ones stay."""
    (folder / "conf").mkdir()
    (folder / "conf/mine").mkdir()
    (folder / "conf/cert.pem").write_text("certificate")
    tls = "[tls]\ncertificate = 'cert.pem'\nkey = 'cert.pem'\n"
    text = f"[server]\ndata_dir = '../state'\n{tls}[plugins]\npaths = ['mine']\n"
    path = write(folder, text, "conf/x.toml")
    config = load_config(path, (), {})
    assert config.server.data_dir.resolve() == (folder / "state").resolve()
    assert config.tls is not None
    assert config.tls.certificate == folder / "conf/cert.pem"
    assert config.plugins.paths == (folder / "conf/mine",)


def test_the_secret_follows_the_data(folder: Path) -> None:
    """Without auth.secret_file the secret is in server.data_dir; with it, where it says."""
    assert load_config(None, ["server.data_dir=elsewhere"], {}).auth.secret_file == folder / "elsewhere/secret"
    both = ["server.data_dir=elsewhere", "auth.secret_file=key"]
    assert load_config(None, both, {}).auth.secret_file == folder / "key"


# ---------------------------------------------------------------- precedence


def test_precedence(folder: Path) -> None:
    """--set goes before the environment, that before the file, that before the defaults."""
    path = write(folder, "[server]\nnode = 1\nname = 'file'\nlog_level = 'debug'\n")
    environ = {"IMSERVER_SERVER__NODE": "2", "IMSERVER_SERVER__NAME": "environment"}
    config = load_config(path, ["server.node=3"], environ)
    assert (config.server.node, config.server.name, config.server.log_level) == (3, "environment", "debug")
    assert config.server.log_format == "auto"


def test_the_last_override_wins(folder: Path) -> None:
    """The same key twice in --set: the later one counts."""
    assert load_config(None, ["server.node=3", "server.node=4"], {}).server.node == 4


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("127.0.0.1:1", [1]),
        ('"127.0.0.1:1"', [1]),
        ('["127.0.0.1:1", "127.0.0.1:2"]', [1, 2]),
        ("[::1]:0", [0]),
        ("[]", []),
    ],
)
def test_a_list_in_an_override(folder: Path, text: str, ports: list[int]) -> None:
    """--set takes a TOML array for a list, or one bare string."""
    assert [address.port for address in load_config(None, [f"tcp.listen={text}"], {}).tcp.listen] == ports


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("user,message", ("user", "message")),
        ('["user"]', ("user",)),
        ("user", ("user",)),
        ("", ()),
        ("a, b", ("a", "b")),
    ],
)
def test_a_list_in_the_environment(folder: Path, text: str, enabled: tuple[str, ...]) -> None:
    """The environment takes a TOML array for a list, or commas."""
    assert load_config(None, (), {"IMSERVER_PLUGINS__ENABLED": text}).plugins.enabled == enabled


def test_a_string_may_look_like_a_number(folder: Path) -> None:
    """The type of the key decides what a bare override is."""
    config = load_config(None, ["server.name=42", "server.data_dir=7", "tcp.heartbeat=5", "server.drain=0"], {})
    assert (config.server.name, config.server.data_dir, config.tcp.heartbeat_s) == ("42", folder / "7", 5.0)
    assert config.server.drain_s == 0


def test_foreign_variables_are_left_alone(folder: Path) -> None:
    """Kubernetes describes a service called imserver by variables of our prefix."""
    environ = {"IMSERVER_PORT": "tcp://10.0.0.1:9000", "IMSERVER_SERVICE_HOST": "10.0.0.1", "PATH": "x"}
    assert load_config(None, (), environ) == load_config(None, (), {})


# ---------------------------------------------------------------- mistakes

ADDRESS = 'expected an address such as "127.0.0.1:9000" or "[::1]:9000", port 0 to 65535'
MISTAKES = [
    ("[limit]", "limit", "unknown section; did you mean `limits`?"),
    ("colour = 1", "colour", "unknown section; there are server, tcp, http, tls, proxy, auth, limits, plugins"),
    ("[limits]\nmax_frme = 1", "limits.max_frme", "unknown key; did you mean `max_frame`?"),
    ("[limits]\nMAX_FRAME = 1", "limits.MAX_FRAME", "unknown key; did you mean `max_frame`?"),
    ("[server]\nmax_connections = 1", "server.max_connections", "did you mean `limits.max_connections`?"),
    ("server = 3", "server", "got 3, expected a table: [server]"),
    ("[server]\nnode = 1024", "server.node", "got 1024, expected an integer from 0 to 1023"),
    ("[server]\nnode = -1", "server.node", "got -1, expected an integer from 0 to 1023"),
    ("[server]\nnode = true", "server.node", "got true, expected an integer from 0 to 1023"),
    ("[server]\nnode = 1.0", "server.node", "got 1.0, expected an integer from 0 to 1023"),
    ("[server]\nnode = '1'", "server.node", 'got "1", expected an integer from 0 to 1023'),
    ("[server]\nname = ''", "server.name", 'got "", expected 1 to 64 letters'),
    ("[server]\nname = 'a b'", "server.name", 'got "a b", expected 1 to 64 letters'),
    ("[server]\nshards = 0", "server.shards", 'got 0, expected "auto" or an integer from 1 to 256'),
    ("[server]\nshards = 'atuo'", "server.shards", 'expected "auto" or an integer from 1 to 256; did you mean `auto`?'),
    ("[server]\nlog_level = 'trace'", "server.log_level", 'expected "debug", "info", "warning", "error" or "critical"'),
    ("[server]\ndrain = '-1s'", "server.drain", 'got "-1s", expected a duration such as "250ms"'),
    ("[server]\ndrain = '2h'", "server.drain", 'got "2h", expected a duration'),
    ("[server]\ndata_dir = ''", "server.data_dir", "expected a path (a string)"),
    ("[server]\ndata_dir = 'imserver.toml'", "server.data_dir", "expected a folder"),
    ("[tcp]\nlisten = '127.0.0.1:1'", "tcp.listen", "expected a list; each is an address"),
    ("[tcp]\nlisten = ['127.0.0.1']", "tcp.listen[0]", ADDRESS),
    ("[tcp]\nlisten = ['127.0.0.1:65536']", "tcp.listen[0]", ADDRESS),
    ("[tcp]\nlisten = ['127.0.0.1:1', 9000]", "tcp.listen[1]", "got 9000, " + ADDRESS),
    ("[tcp]\nlisten = ['9000']", "tcp.listen[0]", "did you mean `127.0.0.1:9000`?"),
    ("[tcp]\nlisten = [':9000']", "tcp.listen[0]", "did you mean `0.0.0.0:9000`?"),
    ("[tcp]\nlisten = ['::1:9000']", "tcp.listen[0]", "in brackets; did you mean `[::1]:9000`?"),
    ("[tcp]\nlisten = ['[::x]:9000']", "tcp.listen[0]", "no IPv6 address in the brackets"),
    ("[tcp]\nlisten = ['300.0.0.1:9000']", "tcp.listen[0]", "no address or host name"),
    ("[tcp]\nlisten = ['a:1', 'a:1']", "tcp.listen", 'got "a:1" twice'),
    ("[tcp]\nlisten = ['a:1']\n[http]\nlisten = ['a:1']", "http.listen", 'got "a:1" twice'),
    ("[tcp]\nlisten = []\n[http]\nlisten = []", "tcp.listen", "one address to listen on at least"),
    ("[tcp]\nheartbeat = '30 sec'", "tcp.heartbeat", 'got "30 sec", expected a duration'),
    ("[tcp]\nheartbeat = 0", "tcp.heartbeat", "got 0, expected a duration"),
    ("[tcp]\nheartbeat = nan", "tcp.heartbeat", "got nan, expected a duration"),
    ("[http]\nallowed_origins = ['*']", "http.allowed_origins[0]", "there is no wildcard"),
    ("[http]\nallowed_origins = ['https://a/b']", "http.allowed_origins[0]", "an origin without a path"),
    ("[http]\nallowed_origins = ['self', 'self']", "http.allowed_origins", 'got "self" twice'),
    ("[tls]\ncertificate = 'imserver.toml'", "tls.key", "missing; expected a path"),
    ("[tls]\ncertificate = 'imserver.toml'\nkey = 'no'", "tls.key", "expected a PEM file that exists"),
    ("[auth]\nregistration = 'opne'", "auth.registration", 'expected "open" or "closed"; did you mean `open`?'),
    ("[auth]\ntoken_ttl = '0s'", "auth.token_ttl", "from 1s to 3650d"),
    (
        "[limits]\nmax_frame = '1MB'",
        "limits.max_frame",
        'expected a size such as 4096, "64KiB" or "1MiB" from 1KiB to 64MiB',
    ),
    ("[limits]\nmax_frame = '1mib'", "limits.max_frame", "did you mean `1MiB`?"),
    ("[limits]\nmax_frame = 1", "limits.max_frame", "got 1, expected a size"),
    ("[limits]\nin_flight = 0", "limits.in_flight", "got 0, expected an integer from 1 to 65536"),
    ("[limits]\nexempt_addresses = ['10.0.0.1/8']", "limits.exempt_addresses[0]", "did you mean `10.0.0.0/8`?"),
    ("[limits]\nexempt_addresses = ['x']", "limits.exempt_addresses[0]", "expected an address or network"),
    ("[plugins]\nenabled = ['user', 'user']", "plugins.enabled", 'got "user" twice'),
    ("[plugins]\nenabled = ['us er']", "plugins.enabled[0]", "expected 1 to 64 letters"),
    ("[plugins]\nenbaled = ['user']", "plugins.enbaled", "unknown key; did you mean `enabled`?"),
    ("[plugins]\npaths = ['no']", "plugins.paths", "expected a folder, or the .py file of a plugin, that exists"),
]


@pytest.mark.parametrize(("text", "key", "expected"), MISTAKES)
def test_a_mistake_in_the_file(folder: Path, text: str, key: str, expected: str) -> None:
    """The error names the file and the key, and says what was expected."""
    path = write(folder, text)
    message = error_of(path)
    assert message.startswith(f"{path}: {key}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("override", "start", "expected"),
    [
        ("server.node=x", "--set: server.node: ", 'got "x", expected an integer from 0 to 1023'),
        ("server.nod=1", "--set: server.nod: ", "did you mean `node`?"),
        ("server.node.x=1", "--set: server.node.x: ", "did you mean `node`?"),
        ("servr.node=1", "--set: servr.node: ", "unknown section; did you mean `server`?"),
        ("server=1", "--set: server: ", "is a section; expected one of its keys"),
        ("server.node", "--set: ", 'got "server.node", expected KEY=VALUE'),
        ("tcp.listen=x", "--set: tcp.listen[0]: ", ADDRESS),
        ("plugins.message=1", "--set: plugins.message: ", "unknown key"),
        ("auth.registration=maybe", "--set: auth.registration: ", 'got "maybe"'),
    ],
)
def test_a_mistake_in_an_override(folder: Path, override: str, start: str, expected: str) -> None:
    """The error names --set, also where the file has the key too."""
    path = write(folder, "[server]\nnode = 1\n")
    message = error_of(path, (override,))
    assert message.startswith(start)
    assert expected in message


@pytest.mark.parametrize(
    ("name", "value", "start", "expected"),
    [
        ("IMSERVER_SERVER__NODE", "x", "IMSERVER_SERVER__NODE: server.node: ", "expected an integer"),
        ("IMSERVER_SERVER__NOD", "1", "IMSERVER_SERVER__NOD: server.nod: ", "did you mean `node`?"),
        ("IMSERVER_SERVER_NODE", "1", "IMSERVER_SERVER_NODE: ", "did you mean `IMSERVER_SERVER__NODE`?"),
        ("IMSERVER_TCP__LISTEN", "a:1,b", "IMSERVER_TCP__LISTEN: tcp.listen[1]: ", ADDRESS),
    ],
)
def test_a_mistake_in_the_environment(folder: Path, name: str, value: str, start: str, expected: str) -> None:
    """The error names the variable."""
    message = error_of(None, (), {name: value})
    assert message.startswith(start)
    assert expected in message


def test_a_file_that_is_none(folder: Path) -> None:
    """A missing file, a folder, bad TOML and another encoding: each is named with its fault."""
    assert "there is no such file" in error_of(folder / "no.toml")
    assert "cannot be read" in error_of(folder)
    assert "not valid TOML" in error_of(write(folder, "[server\n"))
    (folder / "latin.toml").write_bytes(b"[server]\nname = '\xe9'\n")
    assert "not UTF-8 at byte 17" in error_of(folder / "latin.toml")


def test_port_0_may_be_repeated(folder: Path) -> None:
    """Two listeners on ports that the system chooses are two listeners."""
    config = load_config(None, ["tcp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0"], {})
    assert config.tcp.listen == config.http.listen


# ---------------------------------------------------------------- plugins


@attrs.frozen
class Inner:
    depth: int = 1


@attrs.frozen
class Sample:
    url: str
    window_s: Annotated[float, Meta(ge=1)] = 120.0
    pause_ms: int = 5
    quota_bytes: int = 10
    mode: Literal["a", "b"] = "a"
    is_strict: bool = False
    ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5
    words: tuple[Annotated[str, Meta(max_length=3)], ...] = ()
    weights: Mapping[str, int] = attrs.Factory(dict)
    folder: Path | None = None
    api_key: str = ""
    inner: Inner = Inner()
    odd: int = attrs.field(default=1)

    @odd.validator
    def _is_odd(self, _attribute: object, value: int) -> None:
        if value % 2 == 0:
            raise ValueError(f"odd is {value}, which is even")


def sample(**raw: object) -> Sample:
    return build_settings(Sample, {"url": "x", **raw}, section="plugins.sample", file=Path("/etc/im.toml"))


def test_settings_of_a_plugin() -> None:
    """Units, nested classes, mappings and paths arrive as the attrs class says."""
    made = sample(
        window="2m",
        pause="1.5s",
        quota="1KiB",
        words=["abc"],
        weights={"a": 1},
        folder="x",
        inner={"depth": 2},
        ratio=1,
    )
    assert (made.window_s, made.pause_ms, made.quota_bytes, made.words) == (120.0, 1500, 1024, ("abc",))
    assert (made.weights, made.folder, made.inner, made.ratio) == ({"a": 1}, Path("/etc/x"), Inner(2), 1.0)
    assert sample() == Sample("x")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"windw": 1}, "plugins.sample.windw: unknown key; did you mean `window`?"),
        ({"window_s": 1}, "plugins.sample.window_s: unknown key; did you mean `window`?"),
        ({"window": "0s"}, 'plugins.sample.window: got "0s", expected a duration'),
        ({"mode": "c"}, 'plugins.sample.mode: got "c", expected "a" or "b"'),
        ({"is_strict": 1}, "plugins.sample.is_strict: got 1, expected true or false"),
        ({"ratio": 0}, "plugins.sample.ratio: got 0, expected a number above 0, of at most 1"),
        ({"words": ["abcd"]}, 'plugins.sample.words[0]: got "abcd", expected a string of at most 3 characters'),
        ({"weights": {"a": "x"}}, 'plugins.sample.weights.a: got "x", expected an integer'),
        ({"inner": {"depht": 2}}, "plugins.sample.inner.depht: unknown key; did you mean `depth`?"),
        ({"odd": 2}, "plugins.sample: odd is 2, which is even"),
        ({"api_key": 12345}, "plugins.sample.api_key: got ***, expected a string"),
    ],
)
def test_a_mistake_in_the_settings_of_a_plugin(raw: dict[str, object], expected: str) -> None:
    """Plugins get errors of the same quality, and a secret stays secret in them."""
    with pytest.raises(ConfigError) as caught:
        sample(**raw)
    assert str(caught.value).startswith(f"/etc/im.toml: {expected}")


def test_a_missing_setting_of_a_plugin() -> None:
    """An attribute without a default is required."""
    with pytest.raises(ConfigError, match=r"^configuration: plugins.sample.url: missing; expected a string$"):
        build_settings(Sample, {}, section="plugins.sample", file=None)


def test_a_plugin_with_odd_types_is_at_fault() -> None:
    """A type that no setting can have is a TypeError: the operator is not blamed."""

    @attrs.frozen
    class Odd:
        value: complex = 1j

    with pytest.raises(TypeError, match="cannot have the type"):
        build_settings(Odd, {"value": 1}, section="plugins.odd", file=None)
    with pytest.raises(TypeError, match="no attrs class"):
        build_settings(int, {}, section="plugins.odd", file=None)


def test_overrides_reach_plugins(folder: Path) -> None:
    """--set and the environment set keys of [plugins.NAME], typed when the plugin's class is known."""
    write(folder, "[plugins.sample]\nurl = 'file'\nis_strict = false\n")
    config = load_config(
        None, ["plugins.sample.window=5m", "plugins.sample.is_strict=true"], {"IMSERVER_PLUGINS__SAMPLE__WORDS": "a,b"}
    )
    made = build_settings(Sample, config.plugins.settings["sample"], section="plugins.sample", file=config.file)
    assert made == Sample("file", window_s=300.0, is_strict=True, words=("a", "b"))
    bad = load_config(None, ["plugins.sample.window=x"], {})
    with pytest.raises(ConfigError, match=r"^--set: plugins.sample.window: got \"x\""):
        build_settings(Sample, bad.plugins.settings["sample"], section="plugins.sample", file=bad.file)


def test_secrets_are_not_in_repr(folder: Path) -> None:
    """What looks like a secret in a plugin's table is masked where the configuration is shown."""
    write(folder, "[plugins.push]\napi_key = 'hush-1'\nurl = 'shown'\n[plugins.push.deep]\npassword = 'hush-2'\n")
    config = load_config(None, ["plugins.push.token=hush-3"], {})
    for shown in (repr(config), str(as_plain(config))):
        assert "shown" in shown
        assert "hush" not in shown


def test_config_is_frozen(folder: Path) -> None:
    """Nobody changes the configuration of a running server by accident."""
    config = load_config(None, ["plugins.x.y=1"], {})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.server.node = 1  # type: ignore[misc]
    settings: Any = config.plugins.settings
    with pytest.raises(TypeError):
        settings["x"]["y"] = 2


# ---------------------------------------------------------------- values


@given(st.integers(min_value=0, max_value=10**15))
def test_sizes_round_trip(size: int) -> None:
    """What is printed as a size is read as the same size."""
    assert parse_size(format_size(size)) == size


@given(st.one_of(st.floats(min_value=0, max_value=1e9), st.integers(0, 10**10).map(lambda ms: ms / 1000)))
def test_durations_round_trip(duration_s: float) -> None:
    """What is printed as a duration is read as the same duration, whole milliseconds exactly and briefly."""
    text = format_duration(duration_s)
    if len(text) <= 16:  # longer fractions than anybody writes
        assert parse_duration(text) == duration_s


@given(st.integers(0, 10**12), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]))
def test_durations_have_units(count: int, unit: tuple[str, float]) -> None:
    """A count and a unit are their product."""
    assert parse_duration(f"{count}{unit[0]}") == pytest.approx(count * unit[1], rel=1e-15)


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    """Parsers of values raise nothing but ValueError."""
    for parse in (parse_size, parse_duration, parse_address):
        try:
            parse(text)
        except ValueError:
            continue


@given(st.one_of(st.ip_addresses().map(str), st.just("chat.example.org")), st.integers(0, 65535))
def test_addresses_round_trip(host: str, port: int) -> None:
    """IPv4, IPv6 and names come back as they were written."""
    address = Address(host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("value", ["", "s", "1 KB", "1.5KiB", "-1", "1e3", "٣", "1_000", True, None, -1, 1.5, []])
def test_what_is_no_size(value: Any) -> None:
    """Nothing else is a size."""
    with pytest.raises(ValueError, match="is no size"):
        parse_size(value)


@pytest.mark.parametrize("value", ["", "s", "1y", "-1s", "1e3s", "٣s", "1s 2s", ".5s", True, None, -1, float("inf"), []])
def test_what_is_no_duration(value: Any) -> None:
    """Nothing else is a duration."""
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(value)
