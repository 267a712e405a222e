"""`imserver version`."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import click

from imserver import __version__


@click.command()
def version() -> None:
    """Print the versions of imserver and of what it stands on."""
    import apsw

    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    click.echo(f"imserver {__version__}")
    click.echo(f"Python   {platform.python_version()} ({'with' if is_gil_enabled else 'without'} the GIL)")
    click.echo(f"SQLite   {apsw.sqlite_lib_version()} (APSW {apsw.apsw_version()})")
    click.echo(f"trio     {importlib.metadata.version('trio')}")
