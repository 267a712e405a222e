"""What `imserver plugins new` writes: a plugin that works, and its test."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import keyword
import re
import shlex
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import imserver
from imserver.errors import ConfigError
from imserver.plugin_loader import ENTRY_POINTS

if TYPE_CHECKING:
    from imserver.config import Config

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
#: Above those that examples use, up to the end of the range for third parties.
_FIRST_ID, _IDS = 7000, 58_000
_TEMPLATES = Path(imserver.__file__).parent / "testing" / "template"

_NEXT = """wrote {plugin} and {test}

Run its test (pip install pytest pytest-trio):
  python -m pytest {test}

Serve it; with --dev it is loaded again whenever you save the file:
  imserver run --dev{config} --set {paths} --set 'plugins.enabled={enabled}'

It has one command, {id} ({upper}_ADD). Over HTTP, as a user that there is (imserver user add alice):
  TOKEN=$(imserver token alice{config})
  curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{{"text": "milk"}}' http://127.0.0.1:8080/v1/commands/{id}
"""


def check_name(name: str) -> None:
    """Refuse what cannot be a plugin's name.

    Raises:
        ConfigError: the message says what is wrong with it.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot be a plugin's name: 1 to 32 of a-z 0-9 _, beginning with a letter, and no Python keyword"
        )
    if name.startswith("test_"):
        raise ConfigError(f"{name!r} would be taken for a test; choose a name that does not begin with test_")
    if any(entry.name == name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)):
        raise ConfigError(f"there is a plugin {name!r} already; choose another name")
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(f"there is a Python module {name!r} already, which its file would hide; choose another name")


def command_id(name: str) -> int:
    """A command ID for a plugin of this name: two plugins seldom get the same."""
    return _FIRST_ID + zlib.crc32(name.encode()) % _IDS


def write_plugin(name: str, folder: Path, config: Config, config_path: Path | None) -> str:
    """Write NAME.py and test_NAME.py; returns what to do next.

    Args:
        folder: made if missing.
        config: of the server that is to run it; nothing of it is changed.
        config_path: the file that `-c` named.

    Raises:
        ConfigError: the name cannot be one, the folder is a package, or one of the files is there; nothing is written then.
    """
    plugin, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (plugin, folder / name, test):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path} is there already; nothing was written")
    if (folder / "__init__.py").exists():  # such as the server's own plugins, in a clone of it
        raise ConfigError(f"{folder} is a Python package, no folder of plugins; choose another one with --folder")
    check_name(name)
    cls = "".join(part.capitalize() for part in name.split("_")) or name
    values = {"name": name, "cls": cls, "upper": name.upper(), "id": command_id(name)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in ((plugin, "plugin.txt"), (test, "test.txt")):
            text = (_TEMPLATES / template).read_text(encoding="utf-8").format(**values)
            with path.open("x", encoding="utf-8") as file:  # whoever was faster keeps theirs
                file.write(text)
    except OSError as exc:
        raise ConfigError(f"{exc.filename or folder} cannot be written: {exc.strerror or exc}") from exc
    shown = {
        "plugin": plugin,
        "test": shlex.quote(str(test)),
        "config": "" if config_path is None else f" -c {shlex.quote(str(config_path))}",
        "paths": shlex.quote(f"plugins.paths={_paths_with(folder, config)}"),
        "enabled": json.dumps([*config.plugins.enabled, name]),
    }
    return _NEXT.format(**shown, **values)


def _paths_with(folder: Path, config: Config) -> str:
    """`plugins.paths` with a folder, so that it means the same in the configuration as at the prompt."""
    if config.file is not None and config.file.absolute().parent != Path.cwd():
        folder = folder.absolute()  # the configuration takes a relative one from the folder of its file
    if not config.plugins.paths or config.plugins.paths == (folder.absolute(),):
        return str(folder)
    return json.dumps([*map(str, config.plugins.paths), str(folder)])
