"""The router: command ID -> handler, and the one place that turns exceptions into error answers.

It knows no business. For each command it knows the request's class, who may call it, its rate and its deadline.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from imserver.cache import Cache
from imserver.context import AppContext, Context
from imserver.errors import (
    DeadlineExceeded,
    ImError,
    InternalFault,
    InvalidBody,
    NotAuthenticated,
    NotFound,
    NotLoaded,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    StorageUnavailable,
    Unavailable,
)
from imserver.identity import Credentials, Identity
from imserver.log import get_logger
from imserver.plugin import ANYONE, Plugin
from imserver.protocol.body import BodyDecoder, encode_frame, encode_msgpack, fields_of, inflate, rid_of
from imserver.protocol.frame import BARE_HEARTBEAT, FORM, GZIP, JSON, Frame

if TYPE_CHECKING:
    from imserver.caller import Caller
    from imserver.commands import Command, CommandTable
    from imserver.config import Config, Limits
    from imserver.plugin_loader import Registry
    from imserver.protocol.message import Message
    from imserver.session import Session
    from imserver.shard import Shard

HEARTBEAT = 1
ERROR = 3

#: How often a `def` handler may ask for something else that is not in memory before it is given up.
_MAX_LOADS = 8
#: A compressed body counts as one request more for each so many bytes that it inflates to.
_BYTES_PER_REQUEST = 16 * 1024
#: How far a compressed body that is refused is inflated to find its `rid`.
_LOOK_INTO_BYTES = 16 * 1024
#: How often a request over HTTP looks whether there is room, where nothing tells it.
_LOOK_AGAIN_S = 0.01
_F = TypeVar("_F", bound=Callable[..., Any])


class _Endpoint:
    """One command as the dispatch wants it."""

    __slots__ = (
        "app",
        "command",
        "command_id",
        "context_key",
        "decode",
        "handler",
        "interval_s",
        "is_async",
        "is_heartbeat",
        "is_stateless",
        "needs_user",
        "owner",
        "requests",
        "role",
        "timeout_s",
    )

    def __init__(self, command: Command, limits: Limits, app: AppContext | None) -> None:
        self.command = command
        #: Its plugin's context: a request that has begun ends with the one that it began with, whatever is reloaded
        #: meanwhile. None: one of the connection's own.
        self.app = app
        self.context_key: object = command.owner if app is None else app
        self.command_id = command.command_id
        self.decode = BodyDecoder(command.request, limits.max_frame_bytes).decode
        self.handler = command.handler
        self.is_async = command.is_async
        self.is_stateless = command.is_stateless
        self.is_heartbeat = command.command_id == HEARTBEAT
        self.needs_user = command.allow != ANYONE
        self.role = command.role
        self.owner = command.owner
        #: How many were asked for.
        self.requests = 0
        self.timeout_s = command.timeout_s or limits.request_timeout_s
        self.interval_s = 1 / command.per_second if command.per_second else 0.0


class Router:
    """Dispatches the frames of one shard's sessions.

    Args:
        shard: whose sessions these are.
        registry: the plugins.
        table: all commands, the connection's own included.
        caches: by plugin; shared by all shards.
    """

    def __init__(self, shard: Shard, registry: Registry, table: CommandTable, caches: Mapping[str, Cache]) -> None:
        self._shard = shard
        self._limits = shard.limits
        self._log = get_logger("router")
        self.is_draining = False
        #: Requests over HTTP that are being carried out.
        self.busy = 0
        #: Whose credentials were found good, at which revision of the directory.
        self._identities = Cache("identities")
        requests = shard.limits.requests_per_second
        self._interval_s = 1 / requests if requests else 0.0
        self._burst_s = 2.0  # the bucket holds twice a second's worth
        self._apps: Mapping[str, AppContext] = {
            plugin.name: AppContext(shard, plugin, registry.settings[plugin.name], caches[plugin.name])
            for plugin in registry.plugins
        }
        #: The contexts that the last reload of each plugin replaced.
        self._retired: dict[str, AppContext] = {}
        self._endpoints = {row.command_id: _Endpoint(row, shard.limits, self._apps.get(row.owner)) for row in table}
        self._take_hooks(registry)
        #: Loads under way, by key: everybody who needs the same waits for the same.
        self._loads: dict[object, trio.Event] = {}
        self.requests = 0
        #: (command ID, 0 for an unknown one; code) -> requests that were refused or failed.
        self.errors: Counter[tuple[int, int]] = Counter()

    def _take_hooks(self, registry: Registry) -> None:
        self._authenticators = self._hooks(registry.plugins, "authenticate")
        self._connect_hooks = self._hooks(registry.plugins, "on_connect")
        self._login_hooks = self._hooks(registry.plugins, "on_login")
        self._disconnect_hooks = self._hooks(registry.plugins, "on_disconnect")
        # In place: the contexts have the list. What one of these raises reaches the sender.
        self._shard.send_hooks[:] = self._hooks(registry.plugins, "before_send")
        self._commit_hooks = self._hooks(registry.plugins, "after_commit")
        self._listeners = registry.listeners

    def replace_plugin(self, registry: Registry, table: CommandTable, app: AppContext, config: Config) -> AppContext:
        """Let what is asked from now on run in another instance of a plugin; what has begun ends in the one before.

        Args:
            registry, table: with the new instance in place of the old one.
            app: the new instance's context.
            config: with its settings.

        Returns the old instance's context.
        """
        name = app.plugin.name
        old = self._retired[name] = self._apps[name]
        self._apps = {**self._apps, name: app}
        for each in self._apps.values():
            each.config = config
        endpoints: dict[int, _Endpoint] = {}
        for row in table:
            known = self._endpoints.get(row.command_id)
            if row.owner != name and known is not None:
                endpoints[row.command_id] = known
            else:
                endpoint = endpoints[row.command_id] = _Endpoint(row, self._limits, self._apps.get(row.owner))
                endpoint.requests = 0 if known is None else known.requests
        self._endpoints = endpoints
        self._take_hooks(registry)
        for session in self._shard.sessions:
            session.contexts.pop(old, None)
            session.contexts.pop((old, "async"), None)
        return old

    @staticmethod
    def _hooks(plugins: Sequence[Plugin], name: str) -> list[tuple[str, Callable[..., Any]]]:
        return [(plugin.name, getattr(plugin, name)) for plugin in plugins if name in _overridden(type(plugin))]

    def app_context(self, plugin: str) -> AppContext:
        """The context of a plugin without a session."""
        return self._apps[plugin]

    def context(self, session: Caller, owner: str, *, is_async: bool) -> Any:
        """A plugin's context at a session, kept for the next time."""
        return self._context(session, self._apps.get(owner), owner, is_async=is_async)

    def _context(self, session: Caller, app: AppContext | None, owner: str, *, is_async: bool) -> Any:
        key = owner if app is None else (app, "async") if is_async else app
        context = session.contexts.get(key)
        if context is None:
            # The connection's own commands need no more than the session.
            context = session if app is None else Context(app, session, is_async=is_async)
            session.contexts[key] = context
        return context

    def route_context(self, plugin: str, caller: Caller) -> Context:
        """The context of a plugin's HTTP route."""
        return _context_of_request(self._apps[plugin], caller)

    def retired_context(self, plugin: Plugin, caller: Caller) -> Context:
        """The context of a route of an instance that was replaced between the request's arrival and its turn.

        Raises:
            Unavailable: it was replaced more than once since.
        """
        app = self._retired.get(plugin.name)
        if app is None or app.plugin is not plugin:
            raise Unavailable("this service was reloaded meanwhile; ask again")
        return _context_of_request(app, caller)

    def requests_by_command(self) -> dict[int, int]:
        """How many requests there were of each command."""
        return {command_id: endpoint.requests for command_id, endpoint in self._endpoints.items()}

    def count_error(self, command_id: int, code: int) -> None:
        """A request was refused or failed."""
        self.errors[command_id if command_id in self._endpoints else 0, code] += 1

    # ------------------------------------------------------------ who asks

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Whose credentials these are; remembered until they expire or anybody's end.

        Raises:
            NotAuthenticated: nobody's.
            ImError: somebody's who may not come in, or it could not be found out.
        """
        directory = self._shard.directory
        key = _digest(credentials)
        known: tuple[int, Identity] | None = self._identities.get(key)
        if known is not None and known[0] == directory.revision and not self._is_past(known[1].expires_at_ms):
            return known[1]
        revision = directory.revision
        apps = self._apps  # those of these authenticators, also if a plugin is reloaded meanwhile
        for owner, authenticate in self._authenticators:
            try:
                identity: Identity | None = await authenticate(apps[owner], credentials)
            except ImError:
                raise
            except Exception as exc:
                raise self.fault("authenticate", 0, owner, None, exc) from exc
            if identity is not None:
                self._identities.put(key, (revision, identity))
                return identity
        raise NotAuthenticated("nobody on this server knows these credentials")

    def _is_past(self, expires_at_ms: int | None) -> bool:
        return expires_at_ms is not None and self._shard.clock.now_ms() >= expires_at_ms

    def log_in(self, session: Session, credentials: Credentials) -> None:
        """Bind a connection by what its handshake showed. What it asks meanwhile waits."""
        session.in_flight += 1
        scope = trio.CancelScope()
        session.tasks.add(scope)
        session.park()
        self._shard.start_soon(self._log_in, session, credentials, scope)

    async def _log_in(self, session: Session, credentials: Credentials, scope: trio.CancelScope) -> None:
        failure: ImError | None = None
        try:
            with scope, _deadline(self._limits.request_timeout_s):
                await self._bind(session, credentials)
        except ImError as exc:
            failure = exc
        except Exception as exc:
            failure = self.fault("handshake", 0, "", session, exc)
        finally:
            session.tasks.discard(scope)
            session.in_flight -= 1
        if failure is not None:
            session.send(encode_frame(ERROR, failure.answer(), (session.flags or 0) & FORM))
            session.go_away_silently()
        if session.gate is not None:
            session.open_gate()
        self._resume_if_free(session)
        self._shard.end_of_turn()

    async def _bind(self, session: Session, credentials: Credentials) -> None:
        directory = self._shard.directory
        is_bound = False
        while True:
            revision = directory.revision
            identity = await self.authenticate(credentials)
            if session.is_closed:
                return
            if identity.user_id is None:
                raise NotAuthenticated("these credentials are those of a back end, not of a user; use them over HTTP")
            session.roles = identity.roles
            session.scopes = identity.scopes
            session.expires_at_ms = identity.expires_at_ms
            if not is_bound:
                replaced = session.bind(identity.user_id, identity.session_id, identity.device_id or None)
                if replaced is not None:
                    replaced.revoke("replaced", "this device has logged in on another connection")
                self.logged_in(session)
                is_bound = True
            if directory.revision == revision:
                return  # whoever ends a session from now on finds this one in the directory

    # ------------------------------------------------------------ one frame

    def dispatch(self, session: Session, frame: Frame) -> None:
        """Carry out one frame. Raises nothing."""
        if not session.takes_frames:
            return
        command_id, flags, body, error = frame
        if session.backlog is not None:
            session.backlog.append((command_id, flags, bytes(body), error))
            return
        if session.flags is None:
            session.flags = flags & FORM
        if error is not None:
            self._refuse_frame(session, command_id, error)
            return
        try:
            endpoint = self._admit(session, command_id)
        except ImError as exc:
            self._refuse_raw(session, frame, exc)
            return
        if endpoint.is_heartbeat and not body:
            session.send(BARE_HEARTBEAT)
            return
        try:
            if flags & GZIP:
                body = inflate(body, session.decoder.max_frame_bytes)
                session.charge(len(body) / _BYTES_PER_REQUEST)
                frame = (command_id, flags & ~GZIP, body, None)
            request = endpoint.decode(body, flags & JSON)
        except InvalidBody as exc:
            self._refuse_raw(session, frame, exc)
            return
        except ProtocolError as exc:
            self._refuse_frame(session, command_id, exc)
            return
        if endpoint.is_async:
            self._start(session, endpoint, request, flags)
        else:
            self._run(session, endpoint, request, flags, _MAX_LOADS)

    def _admit(self, caller: Caller, command_id: int) -> _Endpoint:
        """The command, if there is one and this caller may have it carried out now.

        Raises:
            ImError: why not.
        """
        self.count_request(caller)
        endpoint = self._endpoints.get(command_id)
        if endpoint is None:
            raise _unknown(command_id)
        endpoint.requests += 1
        if endpoint.needs_user and caller.user_id is None:
            raise _nobody(caller)
        if endpoint.role is not None and endpoint.role not in caller.roles:
            raise PermissionDenied(f"this command needs the role {endpoint.role}")
        if caller.scopes is not None:
            check_scope(caller.scopes, endpoint.owner, endpoint.command.name)
        if endpoint.interval_s:
            self._admit_by_command(caller, endpoint)
        if self.is_draining and not endpoint.is_stateless:
            raise Unavailable("the server is stopping; reconnect")
        return endpoint

    def count_request(self, caller: Caller) -> None:
        """Count a request against its caller's rate limit.

        Raises:
            RateLimited: it is one too many.
        """
        self.requests += 1
        interval_s = self._interval_s
        if interval_s:
            now = self._shard.now
            rate = caller.rate
            if rate > now + self._burst_s:
                raise _over_rate(rate - now - self._burst_s)
            caller.rate = (rate if rate > now else now) + interval_s

    def _run(self, session: Session, endpoint: _Endpoint, request: Any, flags: int, loads_left: int) -> None:
        """A `def` handler: inside the tick, to completion."""
        shard = self._shard
        context = session.contexts.get(endpoint.context_key)
        if context is None:
            context = self._context(session, endpoint.app, endpoint.owner, is_async=False)
        section = shard.section
        section.begin()
        try:
            result = endpoint.handler(context, request)
            fields = result if type(result) is dict else fields_of(result)
            rid = request.rid
            frame = _answer_frame(session, endpoint.command_id, rid, flags, fields) if rid else b""
        except NotLoaded as exc:
            section.abandon()
            if loads_left:
                session.park()
                session.is_waiting_for_load = True
                _begin(endpoint)
                shard.start_soon(self._load_and_run, session, endpoint, request, flags, loads_left - 1, exc)
            else:
                self._fail(session, endpoint, request.rid, flags, Unavailable("this needs more loads than allowed"))
        except ImError as exc:
            section.abandon()
            self._fail(session, endpoint, request.rid, flags, exc)
        except Exception as exc:
            section.abandon()
            self._fail(session, endpoint, request.rid, flags, self._fault(endpoint, session, exc))
        else:
            writes = section.seal()
            if rid:
                if endpoint.is_stateless:
                    session.send(frame)
                else:
                    shard.hold(session, frame, rid, writes)
            section.release()

    async def _load_and_run(
        self, session: Session, endpoint: _Endpoint, request: Any, flags: int, loads_left: int, wanted: NotLoaded
    ) -> None:
        """Bring in what a `def` handler asked for and run it again; the session is parked meanwhile."""
        failure: ImError | None = None
        try:
            await self._load(wanted, endpoint.timeout_s)
        except ImError as exc:
            failure = exc
        except Exception as exc:
            failure = self._fault(endpoint, session, exc)
        finally:
            _end(endpoint)
        if session.is_closed:
            return
        session.is_waiting_for_load = False
        if failure is not None:
            self._fail(session, endpoint, request.rid, flags, failure)
        else:
            self._run(session, endpoint, request, flags, loads_left)
        self._resume_if_free(session)
        self._shard.end_of_turn()

    async def _load(self, wanted: NotLoaded, timeout_s: float) -> None:
        key = wanted.key
        under_way = self._loads.get(key)
        with _deadline(timeout_s):
            if under_way is not None:
                await under_way.wait()
                return
            event = self._loads[key] = trio.Event()
            try:
                await wanted.loader()
            finally:
                del self._loads[key]
                event.set()

    # ------------------------------------------------------------ async handlers

    def _start(self, session: Session, endpoint: _Endpoint, request: Any, flags: int) -> None:
        session.in_flight += 1
        _begin(endpoint)
        scope = trio.CancelScope()
        session.tasks.add(scope)
        if self._is_busy(session):
            session.park()
        self._shard.start_soon(self._serve, session, endpoint, request, flags, scope)

    async def _serve(self, session: Session, endpoint: _Endpoint, request: Any, flags: int, scope: trio.CancelScope) -> None:
        """An `async def` handler: a task, a deadline, an answer."""
        frame = b""
        failure: ImError | None = None
        try:
            if session.is_revoked:
                scope.cancel()
            with scope, _deadline(endpoint.timeout_s):
                await trio.lowlevel.checkpoint_if_cancelled()
                fields = await self._carry_out(session, endpoint, request)
                if request.rid:
                    frame = _answer_frame(session, endpoint.command_id, request.rid, flags, fields)
                while session.is_backed_up:
                    await session.wait_drained()  # a client's own answers must not make it a slow consumer
        except ImError as exc:
            failure = exc
        except Exception as exc:
            failure = self._fault(endpoint, session, exc)
        finally:
            session.tasks.discard(scope)
            session.in_flight -= 1
            _end(endpoint)
        if failure is not None:
            self._fail_now(session, endpoint, request.rid, flags, failure)
            if session.gate is not None:
                # A login that came to nothing after it had bound the session: whose it is would be half true.
                session.go_away_silently()
        elif frame:
            session.send(frame)
        if session.gate is not None:
            session.open_gate()
        if session.closing_notice is not None:
            session.go_away(*session.closing_notice, code=401)
        self._resume_if_free(session)
        self._shard.end_of_turn()

    async def _carry_out(self, session: Caller, endpoint: _Endpoint, request: Any) -> Mapping[str, Any]:
        """Run an `async def` handler; its fields, once all that it wrote is durable."""
        assert endpoint.app is not None, "the connection's own commands are def"
        context = _context_of_request(endpoint.app, session)
        fields = fields_of(await endpoint.handler(context, request))
        await context.wait_durable()
        return fields

    def _is_busy(self, session: Session) -> bool:
        # Before login one request at a time: what follows a LOGIN on the wire finds its user there.
        return session.in_flight >= (self._limits.in_flight if session.user_id is not None else 1)

    def _resume_if_free(self, session: Session) -> None:
        if session.backlog is not None and not session.is_waiting_for_load and not self._is_busy(session):
            session.resume()

    # ------------------------------------------------------------ requests that are no frames

    async def call(self, session: Caller, command_id: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Run another service's handler for a session; see `Context.call`."""
        endpoint = self._endpoints.get(command_id)
        if endpoint is None:
            raise _unknown(command_id)
        return await self._perform(session, endpoint, endpoint.decode(encode_msgpack(body), 0))

    async def request(self, caller: Caller, command_id: int, body: bytes, flags: int = JSON) -> dict[str, Any]:
        """Carry out a request that came by HTTP; returns the answer's fields once they are durable.

        Args:
            body: as in a frame; `flags` says in which encoding.

        Raises:
            ImError: it was refused, or failed.
        """
        self.busy += 1
        try:
            endpoint = self._admit(caller, command_id)
            try:
                request = endpoint.decode(body, flags)
                with _deadline(endpoint.timeout_s):
                    await self.wait_for_room()
                    return await self._perform(caller, endpoint, request)
            except ProtocolError as exc:
                raise InvalidBody(str(exc)) from exc
            except ImError:
                raise
            except Exception as exc:
                raise self._fault(endpoint, caller, exc) from exc
        except ImError as exc:
            self.count_error(command_id, exc.code)
            raise
        finally:
            self.busy -= 1

    async def wait_for_room(self) -> None:
        """Wait while the disk has as much before it as it may: no frame is read then, and HTTP waits, too."""
        shard = self._shard
        while shard.journal.is_full:
            if shard.waiting:
                await shard.wait_settled()
            else:
                await trio.sleep(_LOOK_AGAIN_S)

    async def _perform(self, session: Caller, endpoint: _Endpoint, request: Any) -> dict[str, Any]:
        """Run a handler for somebody who waits for its fields."""
        _begin(endpoint)
        try:
            if endpoint.is_async:
                return dict(await self._carry_out(session, endpoint, request))
            return await self._perform_now(session, endpoint, request)
        finally:
            _end(endpoint)

    async def _perform_now(self, session: Caller, endpoint: _Endpoint, request: Any) -> dict[str, Any]:
        """A `def` handler, run again while it asks for what is not in memory."""
        context = self._context(session, endpoint.app, endpoint.owner, is_async=False)
        section = self._shard.section
        for _ in range(_MAX_LOADS):
            section.begin()
            try:
                fields = dict(fields_of(endpoint.handler(context, request)))
            except NotLoaded as exc:
                section.abandon()
                wanted = exc
            except BaseException:
                section.abandon()
                raise
            else:
                writes = section.seal()
                section.release()
                await self._shard.wait_durable()
                if any(write.error is not None for write in writes or ()):
                    raise _not_stored()
                return fields
            await self._load(wanted, endpoint.timeout_s)
        raise Unavailable("this needs more loads than allowed")

    # ------------------------------------------------------------ refusals

    def _admit_by_command(self, caller: Caller, endpoint: _Endpoint) -> None:
        now = self._shard.now
        rate = caller.rates.get(endpoint.command_id, 0.0)
        if rate > now + self._burst_s:
            raise _over_rate(rate - now - self._burst_s)
        caller.rates[endpoint.command_id] = max(rate, now) + endpoint.interval_s

    def _refuse_frame(self, session: Session, command_id: int, error: ProtocolError) -> None:
        """A frame that breaks the framing rules: an ERROR push, and the end where no boundary is known."""
        fields = {"code": error.code, "error": error.error, "message": str(error), "command": command_id}
        session.send(encode_frame(ERROR, fields, (session.flags or 0) & FORM))
        if error.fatal:
            session.go_away_silently()

    def _refuse_raw(self, session: Session, frame: Frame, error: ImError) -> None:
        """A request that is refused before or while its body is decoded."""
        command_id, flags, body, _ = frame
        self.count_error(command_id, error.code)
        # A compressed one is refused without a look into it beyond a little: it would cost more than it is worth.
        rid = rid_of(body, flags, _LOOK_INTO_BYTES) if body else 0
        session.send(_error_frame(command_id, rid, flags & FORM, error))

    def _fail(self, session: Session, endpoint: _Endpoint, rid: int, flags: int, error: ImError) -> None:
        """The answer of a `def` handler that refused: it too may rest on what is not yet durable."""
        self.count_error(endpoint.command_id, error.code)
        frame = _error_frame(endpoint.command_id, rid, flags & FORM, error)
        self._shard.hold(session, frame, rid, None)

    def _fail_now(self, session: Session, endpoint: _Endpoint, rid: int, flags: int, error: ImError) -> None:
        self.count_error(endpoint.command_id, error.code)
        session.send(_error_frame(endpoint.command_id, rid, flags & FORM, error))

    def _fault(self, endpoint: _Endpoint, session: Caller, exc: Exception) -> ImError:
        return self.fault(endpoint.command.name, endpoint.command_id, endpoint.owner, session, exc)

    def fault(self, name: str, command_id: int, owner: str, session: Caller | None, exc: Exception) -> ImError:
        """What the client is told of an exception that should not have come this far; the log has the rest."""
        if isinstance(exc, BaseExceptionGroup):
            wanted, rest = exc.split(ImError)
            if wanted is not None and rest is None and len(wanted.exceptions) == 1:
                only = wanted.exceptions[0]
                if isinstance(only, ImError):
                    return only
        if isinstance(exc, StorageUnavailable):
            return Unavailable("the database cannot be used just now; try again")
        trace_id = secrets.token_hex(8)
        self._log.error(
            "handler_fault",
            command=command_id,
            name=name,
            plugin=owner,
            user=None if session is None else session.user_id,
            session=None if session is None else session.session_id,
            trace_id=trace_id,
            exc_info=exc,
        )
        return InternalFault(f"the server made a mistake; its log has the details under {trace_id}")

    # ------------------------------------------------------------ hooks and events

    def connected(self, session: Session) -> None:
        """A connection was accepted."""
        self._run_hooks(self._connect_hooks, session)

    def logged_in(self, session: Session) -> None:
        """A session was bound to its user."""
        self._run_hooks(self._login_hooks, session)

    def disconnected(self, session: Session) -> None:
        """A session takes no more frames."""
        self._run_hooks(self._disconnect_hooks, session)

    def _run_hooks(self, hooks: Iterable[tuple[str, Callable[..., Any]]], session: Session) -> None:
        for owner, hook in hooks:
            try:
                hook(self.context(session, owner, is_async=True))
            except Exception:
                self._log.exception("hook_fault", plugin=owner, hook=hook.__name__, user=session.user_id)

    def after_commit(self, messages: list[Message]) -> None:
        """Tell the plugins of messages that are durable now."""
        for owner, hook in self._commit_hooks:
            try:
                hook(self._apps[owner], messages)
            except Exception:
                self._log.exception("hook_fault", plugin=owner, hook="after_commit")

    def emit(self, shard: Shard, event: str, fields: Mapping[str, Any]) -> None:
        """Run the listeners of an event."""
        for plugin, listener in self._listeners.get(event, ()):
            try:
                listener(self._apps[plugin.name], **fields)
            except Exception:
                self._log.exception("listener_fault", plugin=plugin.name, bus_event=event)


def _begin(endpoint: _Endpoint) -> None:
    """A request of it takes longer than this tick: a reload waits for it."""
    if endpoint.app is not None:
        endpoint.app.activity.requests += 1


def _end(endpoint: _Endpoint) -> None:
    """Behind `_begin`."""
    if endpoint.app is not None:
        endpoint.app.activity.requests -= 1


def _context_of_request(app: AppContext, caller: Caller) -> Context:
    """A context of its own: what one request has written is no other one's to wait for."""
    context = Context(app, caller, is_async=True)
    context.is_of_one_request = True
    return context


def _error_frame(command_id: int, rid: int, flags: int, error: ImError) -> bytes:
    """A failed request's answer, or, where it cannot be told by `rid`, an ERROR push."""
    fields = error.answer()
    if rid:
        return encode_frame(command_id, {"rid": rid, **fields}, flags)
    return encode_frame(ERROR, {**fields, "command": command_id}, flags)


def _answer_frame(session: Session, command_id: int, rid: int, flags: int, fields: Mapping[str, Any]) -> bytes:
    """A request's answer, in its own encoding."""
    return encode_frame(command_id, {"rid": rid, "code": 0, **fields}, flags & FORM | (session.flags or 0) & GZIP)


def check_scope(scopes: frozenset[str], owner: str, name: str) -> None:
    """Let an API key do what its scopes say: "*", a plugin's name, or "plugin.COMMAND".

    Raises:
        PermissionDenied: none of them covers this.
    """
    if not scopes & {"*", owner, f"{owner}.{name}"}:
        raise PermissionDenied(f"this API key has no scope for it; it needs {owner} or {owner}.{name}")


def _unknown(command_id: int) -> NotFound:
    return NotFound(f"there is no command {command_id} on this server", error="unknown_command")


def _nobody(caller: Caller) -> NotAuthenticated:
    if caller.scopes is not None:
        return NotAuthenticated("say which user this is for: the header X-IM-User")
    return NotAuthenticated("log in first (LOGIN or AUTH)")


def _not_stored() -> Unavailable:
    return Unavailable("it could not be stored; nothing was; try again")


def refusal_of(frame: bytes, rid: int) -> bytes:
    """The answer to a request whose commit failed, in place of the one that was held."""
    command_id = frame[4] << 8 | frame[5]
    return _error_frame(command_id, rid, frame[7] & FORM, _not_stored())


def _over_rate(excess_s: float) -> RateLimited:
    return RateLimited(
        "more requests a second than limits.requests_per_second allows",
        retry_after_ms=max(1, int(excess_s * 1000) + 1),
    )


def _digest(credentials: Credentials) -> bytes:
    """What is remembered of credentials: not themselves. The address is no part of them."""
    shown = (credentials.token, credentials.api_key, credentials.acting_for, credentials.certificate)
    return hashlib.sha256(repr(shown).encode()).digest()


class _deadline:
    """`with _deadline(seconds)`: past it, DeadlineExceeded."""

    __slots__ = ("_scope",)

    def __init__(self, timeout_s: float) -> None:
        self._scope = trio.move_on_after(timeout_s)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *exc_info: Any) -> bool | None:
        swallowed = self._scope.__exit__(*exc_info)
        if self._scope.cancelled_caught:
            raise DeadlineExceeded("the request ran past its deadline; whether it took effect is not known")
        return swallowed


def _overridden(cls: type[Plugin]) -> set[str]:
    """The hooks that a plugin's class, or a base of its own, defines."""
    return {name for base in cls.__mro__ if base not in (Plugin, object) for name in vars(base)}


__all__ = ["ERROR", "HEARTBEAT", "Router", "check_scope", "refusal_of"]
