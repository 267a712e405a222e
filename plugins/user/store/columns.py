"""How values stand in their columns: names to compare, and lists."""

from __future__ import annotations

import json
from collections.abc import Iterable


def search_key(text: str) -> str:
    """What names are compared by in a search."""
    return text.casefold()


def roles_from(text: str) -> frozenset[str]:
    """The roles (or scopes) of a row."""
    return frozenset(json.loads(text))


def roles_text(roles: Iterable[str]) -> str:
    """The roles (or scopes) for a row."""
    return json.dumps(sorted(set(roles)))
