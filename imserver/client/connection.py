"""One connection to the server: requests and their answers, pushes, heartbeat; from the first byte to the last.

It never reconnects and never changes its mind: once lost it stays lost. The reader never waits for the application,
so that answers and heartbeats get through whatever the application does; `on_push` must be quick and must not block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio
from attrs import define, field

from .bell import Bell
from .errors import ConnectionLost, FrameTooLarge, RemoteProtocolError, ServerError
from .frames import FrameDecoder, decode_body, encode_frame
from .tls import why_broken

log = logging.getLogger("imserver.client")

HEARTBEAT: Final = 1
DEFAULT_HEARTBEAT_S: Final = 30.0
DEFAULT_MAX_FRAME_BYTES: Final = 1024 * 1024  # the server's default, until HELLO tells

#: A connection without any frame for so many heartbeats is dead. Each of our heartbeats is answered, so a live server is
#: never silent for more than one of them and the way there and back.
DEAD_AFTER_HEARTBEATS: Final = 2.0
GRACE_HEARTBEATS: Final = 0.25

#: How long a transport may take to close in good order.
CLOSE_GRACE_S: Final = 1.0

#: Frames that wait for the socket. Beyond it, requests wait in line.
MAX_QUEUED_FRAMES: Final = 256
_WRITE_BYTES: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
_BARE_HEARTBEAT: Final = encode_frame(HEARTBEAT)

OnPush = Callable[[int, dict[str, Any]], None]
OnAnswer = Callable[[dict[str, Any]], None]


@define
class _Waiting:
    """A request in flight."""

    on_answer: OnAnswer | None
    done: trio.Event = field(factory=trio.Event)
    answer: dict[str, Any] | None = None


class Connection:
    """One transport that speaks frames.

    Args:
        stream: the transport; this object closes it.
        on_push: called with (command, body) for every frame that answers no request; in order; must not block.
        heartbeat_s: seconds between heartbeats until the server names its own.
    """

    def __init__(self, stream: trio.abc.Stream, on_push: OnPush, *, heartbeat_s: float = DEFAULT_HEARTBEAT_S) -> None:
        self.max_frame_bytes = DEFAULT_MAX_FRAME_BYTES
        self.leaving = trio.Event()
        self.lost = trio.Event()
        self.lost_reason = ""
        self._stream = stream
        self._on_push = on_push
        self._heartbeat_s = heartbeat_s
        self._heartbeat_changed = Bell()
        self._last_received = trio.current_time()
        self._last_rid = 0
        self._waiting: dict[int, _Waiting] = {}
        self._queue, self._queued = trio.open_memory_channel[bytes](MAX_QUEUED_FRAMES)

    @property
    def is_lost(self) -> bool:
        """The connection is over; every request on it has ended."""
        return self.lost.is_set()

    @property
    def is_usable(self) -> bool:
        """New requests may be made: neither lost nor told to go away."""
        return not self.leaving.is_set()

    @property
    def in_flight(self) -> int:
        """How many requests wait for their answer."""
        return len(self._waiting)

    def set_heartbeat(self, heartbeat_s: float) -> None:
        """Beat at this rate from now on."""
        self._heartbeat_s = heartbeat_s
        self._heartbeat_changed.ring()

    async def run(self) -> None:
        """Serve the connection until it is lost; closes the transport. Raises nothing but cancellation."""
        try:
            async with trio.open_nursery() as nursery:
                for task in (self._read, self._write, self._beat):
                    nursery.start_soon(self._until_lost, task, nursery.cancel_scope)
        finally:
            self.lose("closed by this side")
            # A WebSocket says goodbye; shielded, for more often than not this task is being cancelled.
            with trio.move_on_after(CLOSE_GRACE_S, shield=True):
                await self._stream.aclose()

    def lose(self, reason: str) -> None:
        """Give the connection up: requests in flight end as lost, `run` closes the transport and returns."""
        if self.lost.is_set():
            return
        self.lost_reason = reason
        self.lost.set()
        self.leaving.set()
        self._queue.close()
        self._queued.close()
        for waiting in self._waiting.values():
            waiting.done.set()

    async def request(
        self, command: int, body: Mapping[str, Any] | None = None, *, on_answer: OnAnswer | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its answer. Requests go out in the order of these calls.

        Args:
            on_answer: called with a successful answer before any later frame is looked at; must not block.

        Raises:
            ServerError: the answer is an error.
            ConnectionLost: there is no answer any more.
            FrameTooLarge: over the server's `max_frame`; nothing was sent.
        """
        rid = self._next_rid()
        frame = encode_frame(command, {**(body or {}), "rid": rid})
        if len(frame) > self.max_frame_bytes:
            raise FrameTooLarge(f"command {command} takes {len(frame)} bytes; the server takes {self.max_frame_bytes}")
        waiting = self._waiting[rid] = _Waiting(on_answer)
        try:
            try:
                await self._queue.send(frame)
            except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
                raise ConnectionLost(f"not connected: {self.lost_reason}") from error
            await waiting.done.wait()
        finally:
            del self._waiting[rid]
        if waiting.answer is None:
            raise ConnectionLost(f"the connection went before the answer to command {command}: {self.lost_reason}")
        if waiting.answer["code"] != 0:
            raise ServerError.from_answer(waiting.answer, command)
        return waiting.answer

    def tell(self, command: int, body: Mapping[str, Any]) -> bool:
        """Send a request that wants no answer, if there is room for it now; returns whether there was."""
        try:
            self._queue.send_nowait(encode_frame(command, body))
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            return False
        return True

    # -------------------------------------------------------------- tasks

    async def _until_lost(self, task: Callable[[], Any], scope: trio.CancelScope) -> None:
        """Run one of the three tasks; whichever ends, ends the connection."""
        try:
            await task()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.lose(f"the connection broke: {why_broken(error)}")
        except RemoteProtocolError as error:
            log.warning("the server broke the protocol, the connection is closed: %s", error)
            self.lose(f"the server broke the protocol: {error}")
        scope.cancel()

    async def _read(self) -> None:
        decoder = FrameDecoder()
        while not self.is_lost:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                self.lose("closed by the server")
                return
            decoder.feed(bytes(data))
            while (frame := decoder.next_frame()) is not None:
                self._last_received = trio.current_time()
                self._dispatch(frame.command, decode_body(frame))

    async def _write(self) -> None:
        async for frame in self._queued:
            batch = bytearray(frame)
            try:
                while len(batch) < _WRITE_BYTES:
                    batch += self._queued.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                pass  # that is all there is for now
            with trio.move_on_after(DEAD_AFTER_HEARTBEATS * self._heartbeat_s) as scope:
                await self._stream.send_all(bytes(batch))
            if scope.cancelled_caught:
                self.lose("the server takes no bytes")
                return

    async def _beat(self) -> None:
        next_beat = trio.current_time() + self._heartbeat_s
        while not self.is_lost:
            now = trio.current_time()
            dead_at = self._last_received + DEAD_AFTER_HEARTBEATS * self._heartbeat_s
            if now >= next_beat:
                try:
                    self._queue.send_nowait(_BARE_HEARTBEAT)
                except trio.WouldBlock:
                    log.debug("no heartbeat: %d frames wait, and count as life", MAX_QUEUED_FRAMES)
                next_beat = now + self._heartbeat_s
            if now >= dead_at:
                # Perhaps it was this process that slept (a blocking call, a closed lid): the heartbeat just queued asks.
                await trio.sleep(GRACE_HEARTBEATS * self._heartbeat_s)
                if self._last_received + DEAD_AFTER_HEARTBEATS * self._heartbeat_s > trio.current_time():
                    continue
                self.lose(f"no frame for {trio.current_time() - self._last_received:.1f} s")
                return
            with trio.move_on_at(min(dead_at, next_beat)):
                await self._heartbeat_changed.wait()
                next_beat = min(next_beat, trio.current_time() + self._heartbeat_s)

    def _dispatch(self, command: int, body: dict[str, Any]) -> None:
        rid = body.get("rid")
        if not isinstance(rid, int) or rid == 0:
            if command != HEARTBEAT:
                self._on_push(command, body)
            return
        if not isinstance(body.get("code"), int):
            raise RemoteProtocolError(f"an answer to command {command} without a code")
        waiting = self._waiting.get(rid)
        if waiting is None:
            return  # its caller has given up
        if body["code"] == 0 and waiting.on_answer is not None:
            waiting.on_answer(body)  # one that finds the answer wrong ends the connection, and the request without an answer
        waiting.answer = body
        waiting.done.set()

    def _next_rid(self) -> int:
        while True:
            self._last_rid = self._last_rid % 0xFFFF_FFFF + 1
            if self._last_rid not in self._waiting:
                return self._last_rid
