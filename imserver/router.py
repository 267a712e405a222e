"""The router: command ID -> handler, and the one place that turns exceptions into error answers.

It knows no business. For each command it knows the request's class, who may call it, its rate and its deadline. It is made
of layers, a module each: the plugins (`hooks`), who may have what carried out (`admission`), requests whose asker waits
(`requests`), and here the frames. `logins` says whose credentials came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from imserver.answers import ERROR, answer_frame, error_frame, refusal_of
from imserver.endpoint import HEARTBEAT, Deadline, Endpoint, begin, end
from imserver.errors import FAULTS, ImError, InvalidBody, NotLoaded, ProtocolError, Unavailable
from imserver.logins import Logins
from imserver.protocol.body import encode_frame, fields_of, inflate, rid_of
from imserver.protocol.frame import BARE_HEARTBEAT, FORM, GZIP, JSON, Frame
from imserver.requests import MAX_LOADS, Requests
from imserver.storage.turns import read_for

if TYPE_CHECKING:
    from imserver.cache import Cache
    from imserver.commands import CommandTable
    from imserver.plugin_loader import Registry
    from imserver.session import Session
    from imserver.shard import Shard

#: A compressed body counts as one request more for each so many bytes that it inflates to.
_BYTES_PER_REQUEST = 16 * 1024
#: How far a compressed body that is refused is inflated to find its `rid`.
_LOOK_INTO_BYTES = 16 * 1024


class Router(Requests):
    """Dispatches the frames of one shard's sessions.

    Args:
        shard: whose sessions these are.
        registry: the plugins.
        table: all commands, the connection's own included.
        caches: by plugin; shared by all shards.
    """

    def __init__(self, shard: Shard, registry: Registry, table: CommandTable, caches: Mapping[str, Cache]) -> None:
        super().__init__(shard, registry, table, caches)
        logins = Logins(shard, self)
        self.authenticate = logins.authenticate
        self.log_in = logins.log_in

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
            self._run(session, endpoint, request, flags, MAX_LOADS)

    def _run(self, session: Session, endpoint: Endpoint, request: Any, flags: int, loads_left: int) -> None:
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
            frame = answer_frame(session, endpoint.command_id, rid, flags, fields) if rid else b""
        except NotLoaded as exc:
            section.abandon()
            if loads_left:
                session.park()
                session.is_waiting_for_load = True
                begin(endpoint)
                shard.start_soon(self._load_and_run, session, endpoint, request, flags, loads_left - 1, exc)
            else:
                self._fail(session, endpoint, request.rid, flags, Unavailable("this needs more loads than allowed"))
        except ImError as exc:
            section.abandon()
            self._fail(session, endpoint, request.rid, flags, exc)
        except FAULTS as exc:
            section.abandon()
            self._fail(session, endpoint, request.rid, flags, self._fault(endpoint, session, exc))
        else:
            writes = section.seal()
            if rid:
                if endpoint.is_stateless:
                    session.send(frame)
                else:
                    shard.hold(session, frame, rid, writes)
            elif section.has_written:
                shard.hold_refusal(session, encode_frame(endpoint.command_id, {}, flags & FORM), writes)
            section.release()

    async def _load_and_run(
        self, session: Session, endpoint: Endpoint, request: Any, flags: int, loads_left: int, wanted: NotLoaded
    ) -> None:
        """Bring in what a `def` handler asked for and run it again; the session is parked meanwhile."""
        failure: ImError | None = None
        read_for(session)
        try:
            await self._load(wanted, endpoint.timeout_s)
        except ImError as exc:
            failure = exc
        except FAULTS as exc:
            failure = self._fault(endpoint, session, exc)
        finally:
            end(endpoint)
        if session.is_closed:
            return
        session.is_waiting_for_load = False
        if failure is not None:
            self._fail(session, endpoint, request.rid, flags, failure)
        else:
            self._run(session, endpoint, request, flags, loads_left)
        self.resume_if_free(session)
        self._shard.end_of_turn()

    # ------------------------------------------------------------ async handlers

    def _start(self, session: Session, endpoint: Endpoint, request: Any, flags: int) -> None:
        session.in_flight += 1
        begin(endpoint)
        scope = trio.CancelScope()
        session.tasks.add(scope)
        if self._is_busy(session):
            session.park()
        self._shard.start_soon(self._serve, session, endpoint, request, flags, scope)

    async def _serve(self, session: Session, endpoint: Endpoint, request: Any, flags: int, scope: trio.CancelScope) -> None:
        """An `async def` handler: a task, a deadline, an answer."""
        frame = b""
        failure: ImError | None = None
        try:
            if session.is_revoked:
                scope.cancel()
            with scope, Deadline(endpoint.timeout_s):
                await trio.lowlevel.checkpoint_if_cancelled()
                if endpoint.is_bulk:
                    await self._serve_bulk(session, endpoint, request, flags)
                else:
                    fields = await self._carry_out(session, endpoint, request)
                    if request.rid:
                        frame = answer_frame(session, endpoint.command_id, request.rid, flags, fields)
                    await session.wait_room()
        except ImError as exc:
            failure = exc
        except FAULTS as exc:
            failure = self._fault(endpoint, session, exc)
        finally:
            session.tasks.discard(scope)
            session.in_flight -= 1
            end(endpoint)
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
        self.resume_if_free(session)
        self._shard.end_of_turn()

    async def _serve_bulk(self, session: Session, endpoint: Endpoint, request: Any, flags: int) -> None:
        """A request whose answer may be large: behind those that the client has not read yet, and never two of them."""
        if session.bulk is None:
            session.bulk = trio.Lock()
        async with session.bulk:
            await session.wait_room()
            fields = await self._carry_out(session, endpoint, request)
            if request.rid:
                session.send(answer_frame(session, endpoint.command_id, request.rid, flags, fields))

    def _is_busy(self, session: Session) -> bool:
        # Before login one request at a time: what follows a LOGIN on the wire finds its user there.
        return session.in_flight >= (self._limits.in_flight if session.user_id is not None else 1)

    def resume_if_free(self, session: Session) -> None:
        """Carry out what a session has asked meanwhile, if nothing keeps it waiting any more."""
        is_kept = session.is_waiting_for_load or session.is_out_of_turn
        if session.backlog is not None and not is_kept and not self._is_busy(session):
            session.resume()

    # ------------------------------------------------------------ refusals

    def _refuse_frame(self, session: Session, command_id: int, error: ProtocolError) -> None:
        """A frame that breaks the framing rules: an ERROR push, and the end where no boundary is known."""
        fields = {"code": error.code, "error": error.error, "message": str(error), "command": command_id}
        session.send(encode_frame(ERROR, fields, (session.flags or 0) & FORM))
        if error.fatal:
            session.go_away_silently()

    def _refuse_raw(self, session: Session, frame: Frame, error: ImError) -> None:
        """A request that is refused before or while its body is decoded."""
        command_id, flags, body, _ = frame
        self.count_error(session, command_id, error)
        # A compressed one is refused without a look into it beyond a little: it would cost more than it is worth.
        rid = rid_of(body, flags, _LOOK_INTO_BYTES) if body else 0
        session.send(error_frame(command_id, rid, flags & FORM, error))

    def _fail(self, session: Session, endpoint: Endpoint, rid: int, flags: int, error: ImError) -> None:
        """The answer of a `def` handler that refused: it too may rest on what is not yet durable."""
        self.count_error(session, endpoint.command_id, error)
        frame = error_frame(endpoint.command_id, rid, flags & FORM, error)
        self._shard.hold(session, frame, rid, None)

    def _fail_now(self, session: Session, endpoint: Endpoint, rid: int, flags: int, error: ImError) -> None:
        self.count_error(session, endpoint.command_id, error)
        session.send(error_frame(endpoint.command_id, rid, flags & FORM, error))


__all__ = ["ERROR", "HEARTBEAT", "Router", "refusal_of"]
