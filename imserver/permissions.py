"""Who may do what: the names of permissions, the roles that have them, and the scopes of API keys, which are the same names.

A permission is a row of the command table or a route of a plugin: `message.SEND`, `user.KICK`. A word covers one or more:

* `message.SEND`, or `2001`: this one, also if it needs a role
* `message` or `message.*`: all of a plugin's that are for every user
* `*`: all that are for every user

So what an administrator alone may do is given to others by its own name or not at all, also what a later version adds.

Everything is worked out when the configuration is read; to carry out a request takes one look at a set (`Rule`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from imserver.commands import Command, Route, routes_of
from imserver.errors import ConfigError, PluginError
from imserver.plugin import ANYONE

if TYPE_CHECKING:
    from imserver.caller import Caller
    from imserver.plugin import Plugin

#: The role that has every permission; also the scope of an API key for all that needs a role.
ADMIN = "admin"
#: What `[roles]` calls everybody who is logged in.
EVERY_USER = "user"
ALL = "*"
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}")

Roles = Mapping[str, Sequence[str | int]]
_NO_ROLES: Roles = MappingProxyType({})


@attrs.frozen
class Rule:
    """Who may have one command or route carried out.

    Attributes:
        permission: its name.
        roles: one of them is needed; None: none is.
        scopes: one of them is needed of an API key, whatever its user's roles are.
        needs_role: it is for a role by its own word, not only because `[roles]` keeps it from every user.
    """

    permission: str
    roles: frozenset[str] | None
    scopes: frozenset[str]
    needs_role: bool

    def takes_key(self, caller: Caller) -> bool:
        """What administrators do takes an API key that acts for no user; everything else is done by a user."""
        return self.needs_role and caller.scopes is not None


class Permissions:
    """All permissions of a server, and who has them.

    Args:
        rows: the commands and routes of the enabled plugins.
        roles: `[roles]`: role -> words.

    Raises:
        ConfigError: `[roles]` names a role or a permission that cannot be.
        PluginError: one name stands for two that are not open to the same callers.
    """

    def __init__(self, rows: Iterable[Command | Route], roles: Roles = _NO_ROLES) -> None:
        self._rows: dict[str, Command | Route] = {}
        self._by_id: dict[int, str] = {}
        for row in rows:
            known = self._rows.setdefault(row.permission, row)
            if known.allow != row.allow:
                raise PluginError(
                    f"plugin {row.owner}: two commands or routes are called {row.name}, one for {known.allow} and one for "
                    f"{row.allow}; give one of them another name="
                )
            if isinstance(row, Command):
                self._by_id[row.command_id] = row.permission
        granted = {role: self._checked(role, words) for role, words in roles.items()}
        self._rules = {name: self._rule(row, granted) for name, row in self._rows.items()}
        self._known_roles = {ADMIN, EVERY_USER, *granted}

    @classmethod
    def of(cls, plugins: Iterable[Plugin], commands: Iterable[Command], roles: Roles = _NO_ROLES) -> Permissions:
        """Those of these plugins; see the class."""
        return cls([*commands, *(route for plugin in plugins for route in routes_of(plugin))], roles)

    def rule(self, row: Command | Route) -> Rule:
        """Who may have this carried out. One that is not of the plugins (the connection's own) is as it says itself."""
        return self._rules.get(row.permission) or self._rule(row, {})

    @property
    def words(self) -> list[str]:
        """All that a scope may be: "*" (all), "admin" (the role), each plugin, and each command and route of it."""
        words = [ALL, ADMIN]
        for permission, row in self._rows.items():
            words += [row.owner, f"{row.owner}.{ALL}", permission]
        return list(dict.fromkeys(words))  # a plugin is called admin, too

    def held_by(self, roles: Iterable[str], scopes: frozenset[str] | None = None) -> frozenset[str]:
        """What somebody with these roles may beyond what every user may; with scopes: an API key, which has no others.

        The role `admin` is in it as such, and so is a role that `[roles]` does not have: what that is worth only a plugin
        knows.
        """
        roles = frozenset(roles)
        held = {role for role in roles if role == ADMIN or role not in self._known_roles}
        for name, rule in self._rules.items():
            if rule.roles is not None and (
                not rule.roles.isdisjoint(roles) if scopes is None else not rule.scopes.isdisjoint(scopes)
            ):
                held.add(name)
        return frozenset(held)

    # ------------------------------------------------------------ [roles]

    def _rule(self, row: Command | Route, granted: Mapping[str, frozenset[str]]) -> Rule:
        permission = row.permission
        needs_role = row.role is not None
        if row.allow != ANYONE and (needs_role or permission not in granted.get(EVERY_USER, {permission})):
            named = {role for role, permissions in granted.items() if permission in permissions}
            roles: frozenset[str] | None = frozenset({ADMIN, row.role or ADMIN, *named})
        else:
            roles = None
        if needs_role:
            scopes = frozenset({ADMIN, permission})
        else:
            scopes = frozenset({ALL, row.owner, f"{row.owner}.{ALL}", permission})
        return Rule(permission, roles, scopes, needs_role)

    def _checked(self, role: str, words: Sequence[str | int]) -> frozenset[str]:
        """The permissions that a role has by `[roles]`."""
        if not _ROLE.fullmatch(role):
            raise ConfigError(f"roles.{role}: a role has 1 to 32 characters out of a-z 0-9 _ -, and begins with a letter")
        if role == ADMIN:
            raise ConfigError("roles.admin: the role admin has every permission; remove this key")
        found: set[str] = set()
        for index, word in enumerate(words):
            covered = self._covered(f"roles.{role}[{index}]", word)
            if role == EVERY_USER:
                for permission in covered:
                    if self._rows[permission].role is not None:
                        raise ConfigError(f"roles.user[{index}]: {permission} needs a role, and every user has this one")
            found |= covered
        return frozenset(found)

    def _covered(self, key: str, word: str | int) -> frozenset[str]:
        """The permissions that a word stands for."""
        if isinstance(word, int):
            if word not in self._by_id:
                raise ConfigError(
                    f"{key}: the enabled plugins have no command {word}; there are {self._listed(self._by_id)}"
                )
            return frozenset({self._by_id[word]})
        by_lower = {name.lower(): name for name in self._rows}
        if word.lower() in by_lower:
            return frozenset({by_lower[word.lower()]})
        owner = word.lower().removesuffix(f".{ALL}")
        open_to_users = {name for name, row in self._rows.items() if row.role is None and owner in (ALL, row.owner)}
        if open_to_users:
            return frozenset(open_to_users)
        owners = {row.owner for row in self._rows.values()}
        own = sorted(name for name, row in self._rows.items() if row.owner == owner.partition(".")[0])
        if owner in owners:
            raise ConfigError(f"{key}: all of {word} needs a role; name what you mean: {', '.join(own)}")
        near = difflib.get_close_matches(word.lower(), [*by_lower, *(f"{each}.{ALL}" for each in owners)], n=1)
        hint = f"did you mean {by_lower.get(near[0], near[0])}? " if near else ""
        there = own or [f"{each}.{ALL}" for each in sorted(owners)]
        raise ConfigError(
            f'{key}: got "{word}", which no command of the enabled plugins has; {hint}there are {", ".join(there)}'
        )

    @staticmethod
    def _listed(numbers: Iterable[int]) -> str:
        """Numbers as people write them: 1001–1013, 2001."""
        spans: list[list[int]] = []
        for number in sorted(numbers):
            if spans and spans[-1][-1] == number - 1:
                spans[-1][1:] = [number]
            else:
                spans.append([number])
        return ", ".join("–".join(map(str, span)) for span in spans)
