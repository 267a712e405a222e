"""Who may have what carried out now: the table of commands with its rules, rates, and what is noted of refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imserver.answers import forbidden, nobody, over_rate, unknown
from imserver.auth.throttle import Gcra, address_key
from imserver.context import AppContext
from imserver.endpoint import Endpoint
from imserver.errors import ImError, Unavailable
from imserver.hooks import Hooks
from imserver.permissions import Rule

if TYPE_CHECKING:
    from imserver.cache import Cache
    from imserver.caller import Caller
    from imserver.commands import Command, CommandTable
    from imserver.config import Config
    from imserver.plugin_loader import Registry
    from imserver.shard import Shard

#: What the audit log gets of one caller's refusals in a minute; what it gets of everybody's is its own matter.
DENIALS_PER_MINUTE = 10
EXCESSES_PER_MINUTE = 1
#: The names of those errors.
_NOTED = ("forbidden", "not_a_member", "rate_limited")
#: Of how many callers that is remembered.
_CALLERS = 10_000


class Admission(Hooks):
    """See the module.

    Args:
        shard: whose sessions these are.
        registry: the plugins.
        table: all commands, the connection's own included.
        caches: by plugin; shared by all shards.
    """

    def __init__(self, shard: Shard, registry: Registry, table: CommandTable, caches: Mapping[str, Cache]) -> None:
        super().__init__(shard, registry, caches)
        self._limits = shard.limits
        self.is_draining = False
        requests = shard.limits.requests_per_second
        self._interval_s = 1 / requests if requests else 0.0
        self._burst_s = 2.0  # the bucket holds twice a second's worth
        self.permissions = registry.permissions
        self._endpoints = {row.command_id: self._endpoint(row) for row in table}
        self.requests = 0
        #: What was asked for last.
        self.last: Endpoint | None = None
        #: (command ID, 0 for an unknown one; code) -> requests that were refused or failed.
        self.errors: Counter[tuple[int, int]] = Counter()
        self._noted = {
            403: ("authz_fail", Gcra(DENIALS_PER_MINUTE, 60, max_keys=_CALLERS)),
            429: ("excess_rate_limit_exceeded", Gcra(EXCESSES_PER_MINUTE, 60, max_keys=_CALLERS)),
        }

    def _endpoint(self, row: Command) -> Endpoint:
        return Endpoint(row, self.permissions.rule(row), self._limits, self.apps.get(row.owner))

    def replace_plugin(self, registry: Registry, table: CommandTable, app: AppContext, config: Config) -> AppContext:
        """Let what is asked from now on run in another instance of a plugin; what has begun ends in the one before.

        Args:
            registry, table: with the new instance in place of the old one.
            app: the new instance's context.
            config: with its settings.

        Returns the old instance's context.
        """
        name = app.plugin.name
        old = self._retired[name] = self.apps[name]
        self.apps = {**self.apps, name: app}
        for each in self.apps.values():
            each.config = config
        self.permissions = registry.permissions
        endpoints: dict[int, Endpoint] = {}
        for row in table:
            known = self._endpoints.get(row.command_id)
            if row.owner != name and known is not None:
                endpoints[row.command_id] = known
            else:
                endpoint = endpoints[row.command_id] = self._endpoint(row)
                endpoint.requests = 0 if known is None else known.requests
        self._endpoints = endpoints
        self._take_hooks(registry)
        for session in self._shard.sessions:
            session.contexts.pop(old, None)
            session.contexts.pop((old, "async"), None)
        return old

    def requests_by_command(self) -> dict[int, int]:
        """How many requests there were of each command."""
        return {command_id: endpoint.requests for command_id, endpoint in self._endpoints.items()}

    # ------------------------------------------------------------ letting in

    def _admit(self, caller: Caller, command_id: int) -> Endpoint:
        """The command, if there is one and this caller may have it carried out now.

        Raises:
            ImError: why not.
        """
        self.requests += 1
        if self._interval_s:
            self._take(caller)
        endpoint = self._endpoints.get(command_id)
        if endpoint is None:
            raise unknown(command_id)
        endpoint.requests += 1
        self.last = endpoint
        if endpoint.needs_user and caller.user_id is None and not endpoint.rule.takes_key(caller):
            raise nobody(caller)
        scopes = caller.scopes
        if scopes is not None:
            if scopes.isdisjoint(endpoint.scopes):
                raise forbidden(caller, endpoint.rule)
        elif endpoint.roles is not None and endpoint.roles.isdisjoint(caller.roles):
            raise forbidden(caller, endpoint.rule)
        if endpoint.interval_s:
            self._take_of_command(caller, endpoint)
        if self.is_draining and not endpoint.is_stateless:
            raise Unavailable("the server is stopping; reconnect")
        return endpoint

    def count_request(self, caller: Caller) -> None:
        """Count a request against its caller's rate limit.

        Raises:
            RateLimited: it is one too many.
        """
        self.requests += 1
        if self._interval_s:
            self._take(caller)

    def _take(self, caller: Caller) -> None:
        now = self._shard.now
        rate = caller.rate
        if rate > now + self._burst_s:
            raise over_rate(rate - now - self._burst_s)
        caller.rate = (rate if rate > now else now) + self._interval_s

    def _take_of_command(self, caller: Caller, endpoint: Endpoint) -> None:
        now = self._shard.now
        rate = caller.rates.get(endpoint.command_id, 0.0)
        if rate > now + self._burst_s:
            raise over_rate(rate - now - self._burst_s)
        caller.rates[endpoint.command_id] = max(rate, now) + endpoint.interval_s

    @staticmethod
    def check_rule(rule: Rule, caller: Caller) -> None:
        """Whether this caller may have it carried out.

        Raises:
            PermissionDenied: it may not.
        """
        if caller.scopes is not None:
            is_allowed = not rule.scopes.isdisjoint(caller.scopes)
        else:
            is_allowed = rule.roles is None or not rule.roles.isdisjoint(caller.roles)
        if not is_allowed:
            raise forbidden(caller, rule)

    # ------------------------------------------------------------ refusals

    def count_error(self, caller: Caller, command_id: int, error: ImError) -> None:
        """A request was refused or failed."""
        code = error.code
        endpoint = self._endpoints.get(command_id)
        self.errors[command_id if endpoint is not None else 0, code] += 1
        if code in self._noted:
            name = "" if endpoint is None else endpoint.rule.permission
            self.note_refusal(caller, error, permission=name, command=command_id)

    def note_refusal(self, caller: Caller, error: ImError, **fields: Any) -> None:
        """Tell the audit log of somebody who may not, or who asks for too much; of each caller but so often."""
        if error.code not in self._noted or error.error not in _NOTED:
            return  # a refusal by the business's rules: who is muted, say, has not tried a door
        if "audit" not in self._listeners:
            return
        what, limit = self._noted[error.code]
        who = caller.user_id or caller.session_id or address_key(caller.address)
        if limit.take(who, self._shard.now) == 0:
            by = {"user_id": caller.user_id, "session": caller.session_id, "address": caller.address}
            self.emit(self._shard, "audit", {"what": what, **by, **fields})
