"""Where a received file may go: its name comes from somebody else."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from imserver.chat.sanitize import REPLACEMENT, clean_line

MAX_NAME_BYTES: Final = 200
_MAX_TRIES: Final = 1000


def safe_name(name: str) -> str:
    """Return a file name made of what a sender said: no path, no leading dot or dash, nothing that a shell minds."""
    last = re.split(r"[/\\]", name)[-1]
    shown = clean_line(last, max_chars=255).replace(REPLACEMENT, "_")
    shown = re.sub(r'[\u2400-\u2421<>:"|?*`$;&!]', "_", shown).strip(". -")
    stem, ending = os.path.splitext(shown)
    while len(f"{stem}{ending}".encode()) > MAX_NAME_BYTES and stem:
        stem = stem[:-1]
    return (stem + ending) if stem and len(ending.encode()) <= 32 else (stem or "file")


def free_path(folder: Path, name: str) -> Path:
    """Return a path in `folder` that nothing has yet: `cat.png`, `cat (2).png`, …

    Raises:
        FileExistsError: a thousand of them are taken.
    """
    safe = safe_name(name)
    stem, ending = os.path.splitext(safe)
    for number in range(1, _MAX_TRIES):
        path = folder / (safe if number == 1 else f"{stem} ({number}){ending}")
        if not os.path.lexists(path):
            return path
    raise FileExistsError(f"{folder} has {_MAX_TRIES} files called {safe}")
