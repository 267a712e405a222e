"""Who may import whom, and what belongs where: read from the source, so that no path of a program can miss it."""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE, PLUGINS = ROOT / "imserver", ROOT / "plugins"


def name_of(path):
    """The dotted name of a module of the project."""
    top = "imserver" if path.is_relative_to(CORE) else "imserver_plugins"
    parts = path.relative_to(CORE if top == "imserver" else PLUGINS).with_suffix("").parts
    return ".".join([top, *(part for part in parts if part != "__init__")])


def files_of(folder):
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path, *, with_types=False):
    """(line, module, name) of each import; those for type checking alone only on demand."""
    tree = ast.parse(path.read_text(), str(path))
    skipped = set()
    if not with_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def is_in(module, *packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def offences(folder, is_wrong, **options):
    """file:line of each import that breaks a rule."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files_of(folder)
        for line, module, name in imports_of(path, **options)
        if is_wrong(path, module, name)
    ]


def test_the_reader_of_imports_reads():
    """The tests below would pass on an empty tree: this one would not."""
    found = {module for path in files_of(CORE) for _, module, _ in imports_of(path)}
    assert {"trio", "apsw", "imserver.errors", "imserver.journal"} <= found
    assert len(files_of(CORE)) > 20
    assert len(files_of(PLUGINS)) > 5


def test_the_protocol_is_sans_io():
    """No loop, no socket, no clock, no log, no storage; of imserver only its errors and itself."""
    forbidden = ("trio", "apsw", "sqlite3", "socket", "ssl", "select", "selectors", "logging", "structlog", "time",
                 "datetime", "threading", "asyncio", "os", "random", "secrets")  # fmt: skip

    def is_wrong(path, module, name):
        foreign = is_in(module, "imserver") and not is_in(module, "imserver.errors", "imserver.protocol")
        return is_in(module, *forbidden) or foreign

    assert offences(CORE / "protocol", is_wrong, with_types=True) == []


def test_the_core_knows_no_plugin():
    """Built-in services come in by the same door as everybody's."""

    def is_wrong(path, module, name):
        return is_in(module, "imserver_plugins", "plugins")

    assert offences(CORE, is_wrong, with_types=True) == []
    mentions = [str(path) for path in files_of(CORE) if "imserver_plugins" in path.read_text()]
    assert [path for path in mentions if not path.endswith("imserver/__init__.py")] == []


def test_sqlite_is_in_storage_alone():
    """Everything else speaks to the store's methods; type annotations may name a connection."""

    def is_wrong(path, module, name):
        allowed = path.is_relative_to(CORE / "storage") or path == CORE / "cli" / "version.py"
        return is_in(module, "apsw", "sqlite3") and not allowed

    assert offences(CORE, is_wrong) == []
    assert offences(PLUGINS, lambda path, module, name: is_in(module, "apsw", "sqlite3")) == []


def test_plugins_use_the_public_door():
    """From imserver only imserver.plugin; never another plugin."""

    def is_wrong(path, module, name):
        own = f"imserver_plugins.{path.relative_to(PLUGINS).parts[0]}"
        foreign_plugin = is_in(module, "imserver_plugins") and not is_in(module, own)
        full = f"{module}.{name}" if name else module
        public = is_in(module, "imserver.plugin") or full == "imserver.plugin"
        return foreign_plugin or (is_in(module, "imserver") and not public)

    assert offences(PLUGINS, is_wrong) == []


def test_plugins_take_public_names_alone():
    """What they import from imserver.plugin is in its `__all__`."""
    import imserver.plugin

    taken = {
        name for path in files_of(PLUGINS) for _, module, name in imports_of(path, with_types=True)
        if module == "imserver.plugin"
    }  # fmt: skip
    assert taken - set(imserver.plugin.__all__) == set()
    assert {"Plugin", "command"} <= taken


def test_the_client_stands_alone():
    """A program may ship the client without the server."""

    def is_wrong(path, module, name):
        return is_in(module, "imserver", "imserver_plugins") and not is_in(module, "imserver.client")

    assert offences(CORE / "client", is_wrong, with_types=True) == []


def test_only_a_few_modules_know_threads():
    """Everything else belongs to one shard's loop, or is locked by the journal."""
    allowed = {"journal.py", "cache.py", "directory.py", "server.py", "log_lines.py", "auth/throttle.py"}
    found = {
        str(path.relative_to(CORE))
        for path in files_of(CORE)
        for _, module, _ in imports_of(path)
        if is_in(module, "threading", "concurrent", "multiprocessing", "queue")
        and not is_in(name_of(path), "imserver.storage")
    }
    assert found - allowed == set()


def test_there_is_no_circle_of_imports():
    """A module's imports at the top never lead back to it."""
    graph = {}
    for path in files_of(CORE):
        tree = ast.parse(path.read_text())
        lines = {node.lineno for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))}
        graph[name_of(path)] = {
            f"{module}.{name}" if name and (CORE.parent / module.replace(".", "/") / f"{name}.py").exists() else module
            for line, module, name in imports_of(path)
            if line in lines and is_in(module, "imserver")
        }
    done, visiting = set(), []

    def visit(module):
        if module in done or module not in graph:
            return
        assert module not in visiting, f"circle: {visiting[visiting.index(module) :]}"
        visiting.append(module)
        for other in graph[module]:
            if other != module:
                visit(other)
        visiting.pop()
        done.add(module)

    for module in graph:
        visit(module)


SQL = re.compile(
    r"\b(SELECT\s+.+\s+FROM|SELECT\s+(max|min|count)\(|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM"
    r"|CREATE\s+(UNIQUE\s+)?(TABLE|INDEX|TRIGGER|VIEW)|ALTER\s+TABLE|DROP\s+TABLE|PRAGMA\s+\w+)",
    re.DOTALL,
)


def strings_of(path):
    """(line, text) of each string of a module that is no docstring."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_sql_is_where_it_belongs():
    """In imserver/storage/ and in the plugins' store.py or store/; admin.py has its own, for the command line."""
    found = {
        str(path.relative_to(ROOT))
        for path in [*files_of(CORE), *files_of(PLUGINS)]
        for _, text in strings_of(path)
        if SQL.search(text) and not path.is_relative_to(CORE / "storage") and "store" not in (path.stem, path.parent.name)
    }
    assert found <= {"plugins/user/admin.py"}
    assert any(SQL.search(text) for path in files_of(CORE / "storage") for _, text in strings_of(path))


def test_every_package_is_listed():
    """A folder that setup.cfg does not list is missing from the installation."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    there = {name_of(path) for folder in (CORE, PLUGINS) for path in folder.rglob("__init__.py")}
    assert listed == there
    for folder in (CORE, PLUGINS):
        bare = {path.parent for path in files_of(folder) if not (path.parent / "__init__.py").exists()}
        assert bare == set(), "a folder with modules and without __init__.py"


#: What works only with an extra of setup.cfg installed.
OF_EXTRAS = {
    "plugins/push_apns": "push",
    "plugins/push_fcm": "push",
    "plugins/push_http": "push",
    "imserver/chat": "chat",
    "imserver/http_client.py": "push",
}


def test_every_requirement_is_declared():
    """What is imported is the standard library, ours, in install_requires, or in the extra of what is optional."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = _names(config["options"]["install_requires"])
    extras = {extra: required | _names(config["options.extras_require"][extra]) for extra in set(OF_EXTRAS.values())}
    modules = {"jwt": "pyjwt", "attr": "attrs", "argon2": "argon2-cffi", "prometheus_client": "prometheus-client"} | {
        "python_multipart": "python-multipart",
        "trio_websocket": "trio-websocket",
    }
    missing = []
    for path in (path for folder in (CORE, PLUGINS) for path in files_of(folder)):
        extra = next((extra for place, extra in OF_EXTRAS.items() if path.is_relative_to(ROOT / place)), None)
        imported = {module.partition(".")[0] for _, module, _ in imports_of(path, with_types=True)}
        foreign = imported - {"imserver", "imserver_plugins"} - sys.stdlib_module_names
        declared = required if extra is None else extras[extra]
        missing += [f"{path.relative_to(ROOT)}: {name}" for name in foreign if modules.get(name, name) not in declared]
    assert missing == []


def _names(requirements):
    """The distributions that these lines of setup.cfg name."""
    return {re.split(r"[<>=!~\[; ]", line.strip())[0].lower() for line in requirements.splitlines()}


@pytest.mark.parametrize("folder", [CORE, PLUGINS])
def test_nothing_waits_to_be_written(folder):
    """No stub is passed off as code, and no exception vanishes without a word."""
    found = []
    for path in files_of(folder):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if re.search(r"\b(TODO|FIXME|XXX)\b|NotImplementedError|^\s*except\s*:", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []
