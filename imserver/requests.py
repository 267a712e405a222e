"""Requests whose asker waits for the fields: those over HTTP, and those of one service to another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import trio

from imserver.admission import Admission
from imserver.answers import not_stored, unknown
from imserver.endpoint import Deadline, Endpoint, begin, end
from imserver.errors import FAULTS, ImError, InvalidBody, NotLoaded, ProtocolError, Unavailable
from imserver.hooks import context_of_request
from imserver.protocol.body import encode_msgpack, fields_of
from imserver.protocol.frame import JSON
from imserver.storage.turns import read_for, read_for_all

if TYPE_CHECKING:
    from imserver.cache import Cache
    from imserver.caller import Caller
    from imserver.commands import CommandTable
    from imserver.plugin_loader import Registry
    from imserver.shard import Shard

#: How often a `def` handler may ask for something else that is not in memory before it is given up.
MAX_LOADS = 8
#: How often a request over HTTP looks whether there is room, where nothing tells it.
_LOOK_AGAIN_S = 0.01
#: Loads under way in one shard: those whose askers have given up go on.
MAX_LOADS_UNDER_WAY = 10_000
#: How long a load may take when nobody waits for it any more.
_LOAD_S = 120.0


class _Load:
    """One load under way."""

    __slots__ = ("done", "failure", "is_awaited")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.failure: BaseException | None = None
        #: Whoever has begun it is there to be told.
        self.is_awaited = True


class Requests(Admission):
    """See the module; the arguments are those of `Admission`."""

    def __init__(self, shard: Shard, registry: Registry, table: CommandTable, caches: Mapping[str, Cache]) -> None:
        super().__init__(shard, registry, table, caches)
        #: Requests over HTTP that are being carried out.
        self.busy = 0
        #: Loads under way, by key: everybody who needs the same waits for the same.
        self._loads: dict[object, _Load] = {}

    async def call(self, session: Caller, command_id: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Run another service's handler for a session; see `Context.call`."""
        endpoint = self._endpoints.get(command_id)
        if endpoint is None:
            raise unknown(command_id)
        return await self._perform(session, endpoint, endpoint.decode(encode_msgpack(body), 0))

    async def request(
        self,
        caller: Caller,
        command_id: int,
        body: bytes,
        flags: int = JSON,
        look_again: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """Carry out a request that came by HTTP; returns the answer's fields once they are durable.

        Args:
            body: as in a frame; `flags` says in which encoding.
            look_again: called when the request had to wait: raises if the caller's credentials are good no more.

        Raises:
            ImError: it was refused, or failed.
        """
        self.busy += 1
        try:
            endpoint = self._admit(caller, command_id)
            try:
                request = endpoint.decode(body, flags)
                with Deadline(endpoint.timeout_s):
                    while self._shard.journal.is_full:
                        await self.wait_for_room()
                        if look_again is not None:
                            await look_again()
                            self.check_rule(endpoint.rule, caller)
                    return await self._perform(caller, endpoint, request)
            except ProtocolError as exc:
                raise InvalidBody(str(exc)) from exc
            except ImError:
                raise
            except FAULTS as exc:
                raise self._fault(endpoint, caller, exc) from exc
        except ImError as exc:
            self.count_error(caller, command_id, exc)
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

    async def _perform(self, session: Caller, endpoint: Endpoint, request: Any) -> dict[str, Any]:
        """Run a handler for somebody who waits for its fields."""
        begin(endpoint)
        try:
            if endpoint.is_async:
                return dict(await self._carry_out(session, endpoint, request))
            return await self._perform_now(session, endpoint, request)
        finally:
            end(endpoint)

    async def _perform_now(self, session: Caller, endpoint: Endpoint, request: Any) -> dict[str, Any]:
        """A `def` handler, run again while it asks for what is not in memory."""
        read_for(session)
        context = self._context(session, endpoint.app, endpoint.owner, is_async=False)
        section = self._shard.section
        for _ in range(MAX_LOADS):
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
                    raise not_stored()
                return fields
            await self._load(wanted, endpoint.timeout_s)
        raise Unavailable("this needs more loads than allowed")

    async def _carry_out(self, session: Caller, endpoint: Endpoint, request: Any) -> Mapping[str, Any]:
        """Run an `async def` handler; its fields, once all that it wrote is durable."""
        assert endpoint.app is not None, "the connection's own commands are def"
        read_for(session)
        context = context_of_request(endpoint.app, session)
        fields = fields_of(await endpoint.handler(context, request))
        await context.wait_durable()
        return fields

    async def _load(self, wanted: NotLoaded, timeout_s: float) -> None:
        with Deadline(timeout_s):
            await self.load(wanted)

    async def load(self, wanted: NotLoaded) -> None:
        """Bring in what a handler has asked for; whoever needs the same waits for the same load.

        It goes on when its asker has gone, or gives up: else what takes longer than a deadline would be begun for ever.

        Raises:
            Unavailable: too much is being loaded.
            Exception: the loader's, to the one who has begun it. The others find that it is not there, and begin another.
        """
        under_way = self._loads.get(wanted.key)
        if under_way is not None:
            await under_way.done.wait()
            return
        if len(self._loads) >= MAX_LOADS_UNDER_WAY:
            raise Unavailable("too much is being read from the disk just now; try again in a moment")
        load = self._loads[wanted.key] = _Load()
        self._shard.start_soon(self._run_load, wanted, load)
        try:
            await load.done.wait()
        finally:
            load.is_awaited = load.done.is_set()
        if load.failure is not None:
            raise load.failure

    async def _run_load(self, wanted: NotLoaded, load: _Load) -> None:
        read_for_all()  # whoever needs it waits for it, not for the turn of the one who has asked first
        try:
            with Deadline(_LOAD_S):
                await wanted.loader()
        except FAULTS as exc:
            load.failure = exc
            if not load.is_awaited:
                self._log.warning("load_failed", key=str(wanted.key), reason=repr(exc))
        finally:
            del self._loads[wanted.key]
            load.done.set()

    def _fault(self, endpoint: Endpoint, session: Caller, exc: BaseException) -> ImError:
        return self.fault(endpoint.command.name, endpoint.command_id, endpoint.owner, session, exc)
