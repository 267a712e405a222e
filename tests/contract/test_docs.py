"""The documentation says what the program does: every name in one is in the other, and what it shows runs."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from process import PASSWORD

import imserver.errors
import imserver.http.errors
import imserver.plugin
from imserver.commands import CommandTable
from imserver.config import Config, known_keys, load_config
from imserver.connection import add_connection_commands
from imserver.plugin_loader import load_plugins

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
SOURCES = sorted(
    path
    for folder in ("imserver", "plugins")
    for path in (ROOT / folder).rglob("*.py")
    # The client raises what it is told; the command line has no errors of its own.
    if ROOT / "imserver" / "client" not in path.parents
)
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def page(name):
    """The text of a page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


def code_names(text):
    """All that stands in backticks, and the words in it: `limits.max_frame × 3` has limits.max_frame."""
    spans = re.findall(r"`([^`\n]+)`", text)
    return set(spans) | {word for span in spans for word in re.findall(r"[\w.]+", span)}


def table():
    """All commands of a server with its default plugins."""
    commands = CommandTable()
    add_connection_commands(commands)
    commands.add(load_plugins(Config()).commands)
    return list(commands)


# ---------------------------------------------------------------- commands


def test_every_command_has_its_heading():
    """commands.md has a heading `### ID NAME` for each row of the command table, and for nothing else."""
    headings = re.findall(r"^### (\d+) (\w+)$", page("commands.md"), re.MULTILINE)
    assert sorted(headings, key=lambda row: int(row[0])) == [(str(row.command_id), row.name) for row in table()]


def test_commands_say_who_and_how():
    """Below the heading stands who may call the command, and the handler's kind."""
    text = page("commands.md")
    for row in table():
        who = {"anyone": "Anyone", "user": "User"}.get(row.allow, row.allow)
        line = f"{who}, {'async def' if row.is_async else 'def'}."
        section = re.search(rf"^### {row.command_id} {row.name}\n(.*)$", text, re.MULTILINE)
        assert section is not None
        assert section[1].startswith(line), f"{row.name}: {section[1]!r} does not begin with {line!r}"
        assert ("does not wait for the disk" in section[1]) == row.is_stateless, row.name


def test_commands_name_every_field():
    """The section of a command has each field of its request in backticks."""
    sections = re.split(r"^### (\d+) .*$", page("commands.md"), flags=re.MULTILINE)
    by_id = dict(zip(map(int, sections[1::2]), sections[2::2], strict=True))
    for row in table():
        if row.request is None:
            continue
        names = {name.rstrip("?") for name in re.findall(r"`(\w+\??)`", by_id[row.command_id])}
        fields = set(getattr(row.request, "__struct_encode_fields__", None) or (a.name for a in row.request.__attrs_attrs__))
        assert fields <= names, f"{row.name}: {sorted(fields - names)}"


def test_protocol_marks_what_is_missing():
    """protocol.md has a row for every command, and says "later" for exactly those that clients cannot call yet."""
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.*)\|$", page("protocol.md"), re.MULTILINE)
    names = {int(command_id): name for command_id, name, _ in rows}
    later = {int(command_id) for command_id, _, rest in rows if "**later**" in rest}
    callable_ids = {row.command_id for row in table()}
    assert {row.command_id: row.name for row in table()}.items() <= names.items()
    assert later.isdisjoint(callable_ids)
    pushes = {2, 3, 5001, 5003, 5004, 5005, 5006, 5007, 5008, 5009}
    assert set(names) - later == callable_ids | pushes


# ---------------------------------------------------------------- monitoring


def test_every_metric_is_documented(server):
    """howto/monitor.md has a row for each name in /metrics, with its labels, and for no other."""
    with server.client() as client:
        assert client.call(6999)["code"] == 404  # so that there is an error to count
    with urllib.request.urlopen(f"http://{server.ready['http'][0]}/metrics", timeout=20) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    exposed = set()
    for line in lines:
        name, _, labels = line.rsplit(" ", 1)[0].partition("{")
        exposed.add((name, frozenset(re.findall(r'(\w+)="', labels))))
    exposed = {(name, labels) for name, labels in exposed if not name.endswith("_created")}
    section = (DOCS / "howto" / "monitor.md").read_text(encoding="utf-8").split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`imserver_.*?) \|", section, re.MULTILINE)
    named = {
        (name, frozenset(filter(None, labels.split(","))))
        for row in rows
        for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", row)
    }
    only_with_tls = {("imserver_certificate_expires_at_seconds", frozenset())}
    assert named == exposed | only_with_tls


# ---------------------------------------------------------------- errors


def error_names_in(tree):
    """The names of errors that a module can send: what stands where a name of an error stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "error":
            yield node.value
        elif isinstance(node, ast.Dict):
            yield from (
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "error"
            )
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                is_plain = isinstance(statement, ast.Assign) and [ast.unparse(one) for one in statement.targets] == ["error"]
                is_typed = isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "error"
                if (is_plain or is_typed) and statement.value is not None:
                    yield statement.value
        elif isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args]
            with_default = arguments[len(arguments) - len(node.args.defaults) :]
            pairs = [*zip(with_default, node.args.defaults, strict=True)]
            pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from (default for argument, default in pairs if argument.arg == "error" and default is not None)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("go_away", "revoke", "close_after_answer", "logout_after_answer"):
                yield from node.args[:1]
            elif node.func.attr == "close" and len(node.args) >= 2:  # Directory.close(user_id, error, message)
                yield node.args[1]


def error_names():
    """Names of errors by the file that has them."""
    found = {}
    for path in SOURCES:
        for value in error_names_in(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and re.fullmatch(r"[a-z_]+", value.value):
                found.setdefault(value.value, path.relative_to(ROOT))
    for name in imserver.http.errors.NAMES.values():
        found.setdefault(name, Path("imserver/http/errors.py"))
    return found


def test_every_error_name_is_documented():
    """errors.md has every name of an error in the source, and no other in its tables of names."""
    names = error_names()
    assert {"bad_request", "unknown_command", "slow_consumer", "draining", "kicked", "unavailable"} <= names.keys()
    text = page("errors.md")
    in_tables = set(re.findall(r"^\|(?: \d+ \|)? `([a-z_]+)` \|", text, re.MULTILINE))
    assert {name: str(path) for name, path in names.items() if name not in in_tables} == {}
    assert in_tables <= names.keys()


def test_every_error_class_is_documented():
    """errors.md has a row for every class of `imserver.errors`, and the code and the name of those that clients see."""
    text = page("errors.md")
    names = code_names(text)
    errors = imserver.errors
    for name, cls in vars(errors).items():
        if not (isinstance(cls, type) and issubclass(cls, Exception)) or cls is errors.ImserverError:
            continue
        assert name in names, name
        if issubclass(cls, errors.ImError) and cls is not errors.ImError:
            assert f"| {cls.code} | `{cls.error}` | `{name}` |" in text, name


# ---------------------------------------------------------------- configuration


def test_every_key_is_documented():
    """configuration.md has every key of the configuration, dotted or in its section's table."""
    text = page("configuration.md")
    names = code_names(text)
    assert [key for key in known_keys() if key not in names and not _is_in_section(text, key)] == []


def _is_in_section(text, key):
    section, _, name = key.partition(".")
    for part in re.split(r"^#+ ", text, flags=re.MULTILINE):
        if f"[{section}]" in part.partition("\n")[0] and re.search(rf"`{re.escape(name)}`", part):
            return True
    return False


def test_limits_have_every_limit():
    """limits.md has every key of `[limits]`."""
    names = code_names(page("limits.md"))
    assert [key for key in known_keys() if key.startswith("limits.") and key not in names] == []


def test_pages_name_no_unknown_key():
    """What looks like a key of the configuration, in any page, is one."""
    sections = {key.partition(".")[0] for key in known_keys()} - {"server", "plugins"}
    for path in PAGES:
        for span in re.findall(r"`([a-z]+\.[a-z_]+)`", path.read_text(encoding="utf-8")):
            if span.partition(".")[0] in sections:
                assert span in known_keys(), f"{path.relative_to(ROOT)}: {span}"


# ---------------------------------------------------------------- the plugin API


def test_plugin_api_has_every_name():
    """plugin-api.md has every public name of `imserver.plugin`."""
    names = code_names(page("plugin-api.md"))
    assert sorted(set(imserver.plugin.__all__) - names) == []


def test_plugin_api_has_every_hook_and_attribute():
    """plugin-api.md has every hook and every class attribute of Plugin."""
    names = code_names(page("plugin-api.md"))
    plugin = imserver.plugin.Plugin
    public = {name for name in {*vars(plugin), *plugin.__annotations__} if not name.startswith("_")}
    assert {"on_start", "before_send", "migrations"} <= public
    assert sorted(public - names) == []


def _public_members(tree, cls):
    """Methods of a class in the source, and what its methods set on self."""
    (definition,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls)
    members = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node in definition.body:
            members.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                members.add(target.attr)
    return {name for name in members if not name.startswith("_")}


@pytest.mark.parametrize("cls", ["AppContext", "Context", "PluginDatabase", "MessagesApi", "ConversationsApi"])
def test_plugin_api_has_every_member(cls):
    """plugin-api.md has every public member of what a handler is given."""
    names = code_names(page("plugin-api.md"))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "imserver" / "context").glob("*.py"))
    tree = ast.parse(source.replace("from __future__ import annotations\n", ""))
    members = _public_members(tree, cls)
    assert members
    assert sorted(members - names) == []


def test_plugin_api_has_every_event():
    """plugin-api.md has the events that built-in plugins emit or listen to."""
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES if ROOT / "plugins" in path.parents)
    events = set(re.findall(r'(?:emit|on_event)\("([a-z.]+)"', text))
    assert {"user.created", "notify"} <= events
    assert sorted(events - code_names(page("plugin-api.md"))) == []


# ---------------------------------------------------------------- links


def _targets(text):
    """Where the links of a Markdown page lead, code left out."""
    prose = re.sub(r"^(```+|~~~+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    return re.findall(r"\[[^\]\n]*\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    """Every local link leads to a file that is there, and its fragment to a heading."""
    text = path.read_text(encoding="utf-8")
    for target in _targets(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        there = path.parent / name if name else path
        assert there.is_file(), f"{target} leads nowhere"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert fragment in slugs, f"{target}: no such heading"
    for included in re.findall(r"^```\{literalinclude\} (\S+)$", text, re.MULTILINE):
        assert (path.parent / included).is_file(), f"{included} is not there"


def test_every_page_is_in_the_index():
    """The toctrees of index.md have every page, but for those that say that they are orphans."""
    listed = set(re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {
        str(path.relative_to(DOCS).with_suffix(""))
        for path in DOCS.rglob("*.md")
        if "_build" not in path.parts and not path.read_text(encoding="utf-8").startswith("---\norphan: true\n")
    }
    assert pages - listed == {"index"}
    assert listed <= pages


# ---------------------------------------------------------------- the README


def readme_commands():
    """The lines of the README's fenced `sh` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def readme_scripts():
    """The README's fenced Python blocks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_readme_begins_with_the_two_commands():
    """The first sets up and runs the server, the second sets up and tests; each makes its own venv."""
    run, test, *_ = readme_commands()
    assert run.startswith("python3 -m venv .venv && ")
    assert run.endswith("/imserver run")
    assert test.startswith("python3 -m venv .venv && ")
    assert "[test]" in test
    assert test.endswith("-m pytest -q")


@pytest.mark.parametrize("status", [0, 1])
def test_ci_runs_the_second_command(tmp_path, status):
    """`.ci/run` carries out the README's second command as it stands, says pytest's closing line last, exits as it did."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    _, test, *_ = readme_commands()
    # A stand-in for every program that the command calls: it writes down how it was called.
    fake = """#!/bin/sh
        echo "$0 $@" >> "$LOG"
        case "$*" in *pytest*)
            echo "3 passed in 0.01s"
            echo "a late warning" >&2
            exit $STATUS
        esac
    """
    for name in ("bin/python3", ".venv/bin/pip", ".venv/bin/python"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fake)
        path.chmod(0o755)
    # Installs nothing: a machine without a browser stays without one.
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/apt-get").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "STATUS": str(status)}
    done = subprocess.run([tmp_path / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1] == "3 passed in 0.01s"
    called = [line.replace(f"{tmp_path}/bin/", "") for line in (tmp_path / "log").read_text().splitlines()]
    assert called == [" ".join(shlex.split(part)) for part in test.split(" && ")]


# ---------------------------------------------------------------- what is shown, runs


def run_script(text, *arguments, timeout_s=60.0):
    """Run a Python script with warnings as errors; gives its standard output."""
    done = subprocess.run(
        [sys.executable, *(["-c", text] if isinstance(text, str) else [str(text)]), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_conversation_of_the_readme(make_server):
    """Both scripts of the README run as they stand, against a server on another port, and again the next time."""
    host, port = make_server().address
    scripts = [
        script.replace("127.0.0.1:9000", f"{host}:{port}").replace('("127.0.0.1", 9000)', f'("{host}", {port})')
        for script in readme_scripts()
    ]
    assert len(scripts) == 2
    for n in (1, 2):
        assert run_script(scripts[0]) == "alice: hello, bob\n"
        answer, push = map(ast.literal_eval, run_script(scripts[1]).splitlines())
        assert (answer[0], answer[1]["code"], answer[1]["seq"]) == (2001, 0, n)
        assert (push[0], push[1]["body"], push[1]["from"]) == (5001, "hello, dave", "carol")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (Debian: apt install curl)")
def test_curl_session_of_the_readme(make_server):
    """The README's curl session runs line by line as it stands, and answers what it says."""
    address = make_server().ready["http"][0]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (session,) = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    session = session.replace("localhost:8080", address).replace("python3", sys.executable)
    done = subprocess.run(["bash", "-euc", session], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines()]
    assert [answer["code"] for answer in answers] == [0] * len(answers)
    assert answers[-1]["messages"][0]["body"] == "hello, frank"
    assert answers[-2] == answers[-3] | {"duplicate": True}


def test_scripts_of_the_first_tutorial(server):
    """say.py sends what listen.py prints, also after the fact."""
    host, port = server.address
    names = [server.register(), server.register()]
    said = run_script(DOCS / "examples" / "say.py", names[0], PASSWORD, names[1], "are you there?", f"{host}:{port}")
    assert said == f"on disk as number 1 of d:{':'.join(sorted(names))}\n"
    listener = [sys.executable, str(DOCS / "examples" / "listen.py"), names[1], PASSWORD, f"{host}:{port}"]
    with subprocess.Popen(listener, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout.readline() == f"{names[0]}: are you there?\n"
        finally:
            process.kill()


def test_plugin_of_the_tutorial(tmp_path):
    """The tutorial's plugin passes the tutorial's own test, in a folder of its own."""
    shutil.copytree(DOCS / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_words.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_in_the_pages_are_valid(tmp_path):
    """Each whole configuration that a page shows in a `toml` block is accepted."""
    shown = 0
    for path in PAGES:
        for block in re.findall(r"^```toml\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            (tmp_path / "plugins").mkdir(exist_ok=True)
            block = re.sub(r'(?m)^(certificate|key|client_ca) = "/.*/', r'\1 = "', block)
            for name in re.findall(r'^(?:certificate|key|client_ca) = "([^"/]+)"', block, re.MULTILINE):
                (tmp_path / name).touch()
            file = tmp_path / "imserver.toml"
            file.write_text(block, encoding="utf-8")
            load_config(file, environ={})
            shown += 1
    assert shown >= 2
