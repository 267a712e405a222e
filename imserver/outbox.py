"""What goes out to one connection: frames in their order, written at the end of a tick, under a bound."""

from __future__ import annotations

import enum
import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

import trio

from imserver.caller import Caller
from imserver.reactor import READ, WRITE
from imserver.tls import TlsSocket

if TYPE_CHECKING:
    from imserver.shard import Shard

#: What one write takes from a longer outbox.
_WRITE_BYTES = 256 * 1024


class State(enum.Enum):
    """A session goes down this list and never back."""

    OPEN = 0  # frames are carried out
    CLOSING = 1  # GOAWAY is queued: what comes in is dropped, what is queued goes out
    CLOSED = 2


class Outbox(Caller, ABC):
    """The writing half of a `Session`, which is the only one there is."""

    __slots__ = (
        "_drain_waiters",
        "_read_paused",
        "_socket",
        "_tls",
        "_unsent",
        "_wants_write",
        "is_dirty",
        "out",
        "out_bytes",
        "state",
    )

    def __init__(self, shard: Shard, sock: socket.socket | TlsSocket, address: str) -> None:
        super().__init__(shard, address)
        self._socket = sock
        self._tls = sock if isinstance(sock, TlsSocket) else None
        self.state = State.OPEN
        #: What goes out next; frames that wait for a commit are not here but in the journal's batches.
        self.out: deque[bytes] = deque()
        self.out_bytes = 0
        #: Bytes on their way, which the kernel did not take yet: whole frames but for what is cut off at the front.
        self._unsent = b""
        self._drain_waiters: list[trio.Event] = []
        self.is_dirty = False  # in the shard's list of outboxes to write
        self._wants_write = False
        self._read_paused = False

    def send(self, frame: bytes) -> None:
        """Queue a frame for the end of the tick, ahead of whatever waits for the disk."""
        if self.state is State.CLOSED:
            return
        self.out.append(frame)
        self.out_bytes += len(frame)
        self._mark_dirty()

    def _mark_dirty(self) -> None:
        """The outbox is looked at when the tick ends."""
        if not self.is_dirty:
            self.is_dirty = True
            self.shard.dirty.append(self)

    def flush(self) -> None:
        """Write what the kernel takes; the rest waits for its word, under the outbox's bound."""
        self.is_dirty = False
        if not self._wants_write:
            self._write()
        if self.queued_bytes > self.shard.limits.outbox_bytes and self.state is State.OPEN:
            self._give_up_slow_consumer()

    @property
    def has_output(self) -> bool:
        """Something waits to be written."""
        return bool(self.out or self._unsent)

    @property
    def queued_bytes(self) -> int:
        """How much waits to be written."""
        return self.out_bytes + len(self._unsent)

    def _write(self) -> None:
        data = self._unsent or self._next_bytes()
        if data:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.lose()
                return
            self._unsent = data[sent:] if sent < len(data) else b""
        wants_write = bool(self._unsent or self.out)
        if self._tls is not None:
            # Before the handshake is done nothing can be sent, however writable the socket is.
            wants_write = not self._tls.flush() or (wants_write and self._tls.handshake_done)
        if self._wants_write != wants_write:
            self._wants_write = wants_write
            self._watch()
        if not (wants_write or self.has_output):
            self._on_drained()

    def _next_bytes(self) -> bytes:
        """The outbox for one send, or a bounded part of a long one, so that no write copies all of it."""
        out = self.out
        if self.out_bytes <= _WRITE_BYTES:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self.out_bytes = 0
            return data
        return b"".join(self._next_frames())

    def _next_frames(self) -> list[bytes]:
        """Frames for one send."""
        out = self.out
        frames: list[bytes] = []
        size = 0
        while out and (not size or size + len(out[0]) <= _WRITE_BYTES):
            frame = out.popleft()
            size += len(frame)
            frames.append(frame)
        self.out_bytes -= size
        return frames

    def _on_drained(self) -> None:
        for event in self._drain_waiters:
            event.set()
        self._drain_waiters.clear()
        if self.state is State.CLOSING:
            self._finish_closing()

    @property
    def is_backed_up(self) -> bool:
        """Much waits to be read by the peer: who can wait, should (`wait_room`)."""
        return self.queued_bytes > self.shard.limits.outbox_bytes // 4

    async def wait_room(self) -> None:
        """Wait while the peer has much to read: a client's own answers must not make it a slow consumer."""
        while self.is_backed_up and self.state is not State.CLOSED:
            await self.wait_drained()

    async def wait_drained(self) -> None:
        """Wait until the outbox is empty, or the session gone."""
        while self.has_output and self.state is not State.CLOSED:
            event = trio.Event()
            self._drain_waiters.append(event)
            self.shard.end_of_turn()
            await event.wait()

    def _give_up_slow_consumer(self) -> None:
        self.shard.log.info("slow_consumer", user=self.user_id, session=self.session_id, bytes=self.queued_bytes)
        # What has begun to go out goes out, since a frame may be cut in it; the others will be found by SYNC.
        self.out.clear()
        self.out_bytes = 0
        self.go_away("slow_consumer", "this client reads too slowly; reconnect and SYNC")

    def _watch(self) -> None:
        if self.state is State.CLOSED:
            return
        events = 0 if self._read_paused else READ
        self.shard.reactor.change(self._socket.fileno(), events | WRITE if self._wants_write else events)

    # ------------------------------------------------------------ what a session does besides

    @abstractmethod
    def lose(self) -> None:
        """The connection is gone."""

    @abstractmethod
    def go_away(self, error: str, message: str, *, code: int = 503, retry_after_ms: int | None = None) -> None:
        """Say GOAWAY and close once it is out."""

    @abstractmethod
    def _finish_closing(self) -> None:
        """The outbox of a closing connection is empty."""
