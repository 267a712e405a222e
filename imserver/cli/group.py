"""The group `imserver`: finds its commands late, here or in the enabled plugins; turns errors into exit statuses."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from imserver.cli.context import CliContext, add_config_options
from imserver.errors import ConfigError, ImserverError, PluginError, StartError


class CommandFailed(click.ClickException):
    """An error of imserver as click shows it: one message on standard error, and the exit status."""

    exit_code = 1


class ConfigFailed(CommandFailed):
    """The configuration is wrong."""

    exit_code = 2


class StartFailed(CommandFailed):
    """The server cannot start."""

    exit_code = 3


def failure(error: ImserverError) -> CommandFailed:
    """What click is to show for this error."""
    if isinstance(error, ConfigError):
        return ConfigFailed(str(error))
    is_start = isinstance(error, (StartError, PluginError))
    return StartFailed(str(error)) if is_start else CommandFailed(str(error))


class MainGroup(click.Group):
    """A group whose commands are imported when they are asked for.

    Args:
        built_in: by name: "module:attribute", and whether the command takes the options of the configuration.
    """

    def __init__(self, *args: Any, built_in: Mapping[str, tuple[str, bool]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A command whose module was left out of an installation is not there; it is no error of the others.
        self._built_in = {
            name: entry for name, entry in built_in.items() if importlib.util.find_spec(entry[0].partition(":")[0])
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The built-in commands, then those of the plugins."""
        try:
            from_plugins = sorted(_plugin_commands(ctx.ensure_object(CliContext)))
        except ImserverError as exc:
            # Help must not fail because the configuration is wrong; it may be what the reader is about to mend.
            click.echo(f"The commands of plugins are missing here: {exc}", err=True)
            from_plugins = []
        return [*self._built_in, *(name for name in from_plugins if name not in self._built_in)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A built-in command, or one of an enabled plugin."""
        if cmd_name in self._built_in:
            target, takes_config = self._built_in[cmd_name]
            module, _, attribute = target.partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            if takes_config:
                add_config_options(command)
            return command
        try:
            found = _plugin_commands(ctx.ensure_object(CliContext)).get(cmd_name)
        except ImserverError as exc:
            raise failure(exc) from exc
        if found is not None:
            add_config_options(found)
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but which plugins there are depends on options that come after the command's name."""
        ctx.meta[_AHEAD] = _options_ahead(args[1:])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes a message and an exit status."""
        ctx.ensure_object(CliContext)
        try:
            return super().invoke(ctx)
        except ImserverError as exc:
            raise failure(exc) from exc


_AHEAD = "imserver.cli.ahead"


def _plugin_commands(shared: CliContext) -> dict[str, click.Command]:
    from imserver.config import load_config
    from imserver.plugin_loader import find_plugin

    ahead: CliContext = click.get_current_context().meta.get(_AHEAD, CliContext())
    config = load_config(ahead.config_path or shared.config_path, [*shared.overrides, *ahead.overrides])
    commands: dict[str, click.Command] = {}
    for name in config.plugins.enabled:
        for command in find_plugin(name, config.plugins.paths).cli_commands:
            if command.name in commands:
                raise PluginError(f"plugin {name}: the command `{command.name}` is already another plugin's")
            if command.name is not None:
                commands[command.name] = command
    return commands


def _options_ahead(args: Sequence[str]) -> CliContext:
    """The options of the configuration among the arguments of a command that is not known yet."""
    ahead = CliContext()
    rest = iter(args)
    for argument in rest:
        if argument == "--":
            break
        name, equals, value = argument.partition("=")
        if argument.startswith("-c") and not argument.startswith("--") and len(argument) > 2:
            name, equals, value = "-c", "=", argument[2:]
        if name in ("-c", "--config", "--set"):
            value = value if equals else next(rest, "")
            if name == "--set":
                ahead.overrides.append(value)
            else:
                ahead.config_path = Path(value)
    return ahead
