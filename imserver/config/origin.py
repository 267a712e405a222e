"""Where a value of the configuration comes from and where it stands: for its error, and for relative paths."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NoReturn

import attrs

from imserver.errors import ConfigError


class Override(str):
    """The text of a value from the environment or from `--set`, not yet typed; it remembers where it comes from."""

    source: str
    has_commas: bool  # whether a list may be written a,b,c

    def __new__(cls, text: str, *, source: str, has_commas: bool) -> Override:
        self = super().__new__(cls, text)
        self.source = source
        self.has_commas = has_commas
        return self

    def toml(self) -> Any:
        """The TOML value that the text is, else the text itself."""
        try:
            table = tomllib.loads(f"value = {self}")
        except tomllib.TOMLDecodeError:
            return str(self)
        return table["value"] if len(table) == 1 else str(self)

    def text(self) -> str:
        """The text, without the quotes if it is a TOML string."""
        value = self.toml()
        return value if isinstance(value, str) else str(self)

    def items(self) -> Any:
        """The text as a list."""
        value = self.toml()
        if isinstance(value, list):
            return value
        items = [part.strip() for part in self.split(",")] if self.has_commas else [self.text()]
        return [Override(item, source=self.source, has_commas=False) for item in items if item]


@attrs.frozen
class Place:
    """Where a value stands, for messages and for relative paths."""

    source: str
    key: str
    base: Path

    def of(self, value: object) -> Place:
        """The place of this value: an override has another source than the table it is in."""
        return attrs.evolve(self, source=value.source) if isinstance(value, Override) else self

    def child(self, key: str) -> Place:
        """The place of a key of the table that is here."""
        return attrs.evolve(self, key=f"{self.key}.{key}" if self.key else key)

    def item(self, index: int) -> Place:
        """The place of an item of the list that is here."""
        return attrs.evolve(self, key=f"{self.key}[{index}]")

    def fail(self, problem: str, suggestion: str | None = None) -> NoReturn:
        """Raise a ConfigError that begins with this place."""
        hint = f"; did you mean `{suggestion}`?" if suggestion else ""
        raise ConfigError(f"{self.source}: {self.key}: {problem}{hint}")


def file_name(file: Path | None) -> str:
    """How messages call the file; None: there are only defaults."""
    return "configuration" if file is None else str(file)


def base_of(file: Path | None) -> Path:
    """What relative paths are taken from."""
    return (Path() if file is None else file.parent).absolute()
