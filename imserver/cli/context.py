"""What the commands share: the options of the configuration, and the configuration that they lead to."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

if TYPE_CHECKING:
    from imserver.config import Config


@attrs.define(slots=False)
class CliContext:
    """`ctx.obj` of every command. `config` reads and validates the configuration at its first use."""

    config_path: Path | None = None
    overrides: list[str] = attrs.Factory(list)

    @functools.cached_property
    def config(self) -> Config:
        """The configuration that the options lead to.

        Raises:
            ConfigError: it is wrong; the command ends with exit status 2.
        """
        from imserver.config import load_config

        return load_config(self.config_path, self.overrides)


def config_options() -> list[click.Parameter]:
    """`-c/--config` and `--set`; what they are given ends up in `ctx.obj`."""
    path: click.Path = click.Path(path_type=Path)
    words = "Override one setting, for example --set tcp.listen=127.0.0.1:9000. May be repeated."
    # Eager, so that `--set plugins.enabled=mine --help` lists the commands of that plugin.
    return [
        click.Option(
            ["-c", "--config"], type=path, metavar="FILE", help="The configuration file.",
            expose_value=False, callback=_note_path, is_eager=True,
        ),
        click.Option(
            ["--set"], multiple=True, metavar="KEY=VALUE", help=words,
            expose_value=False, callback=_note_overrides, is_eager=True,
        ),
    ]  # fmt: skip


def add_config_options(command: click.Command) -> None:
    """Give `-c/--config` and `--set` to a command, or to every command of a group; they end up in `ctx.obj`."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            add_config_options(child)
    elif not any(parameter.callback is _note_path for parameter in command.params):
        command.params.extend(config_options())


def _note_path(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    # The one after the command's name goes before the one after `imserver`.
    if value is not None:
        ctx.ensure_object(CliContext).config_path = value


def _note_overrides(ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> Any:
    ctx.ensure_object(CliContext).overrides.extend(value)
