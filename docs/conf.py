"""Sphinx: `tox -e docs`, or `sphinx-build -n -W -b html docs docs/_build/html`."""

import re
from pathlib import Path

project = "imserver"
author = "the imserver authors"
copyright = author
_package = (Path(__file__).parent.parent / "imserver" / "__init__.py").read_text(encoding="utf-8")
release = version = re.search(r'^__version__ = "(.+)"$', _package, re.MULTILINE)[1]  # type: ignore[index]

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"imserver {release}"
