"""A Trio stream over a non-blocking socket, plain or TLS: both have the methods of a socket, TLS has `flush` besides.

The calls that end in `_nowait` never wait, so that whoever uses them enters a deadline only when there is something to
wait for: on a server that is not overloaded that is seldom.
"""

from __future__ import annotations

import operator
import socket
from typing import Protocol

import trio

from imserver.tls import TlsSocket

#: What one call reads at most; `TlsSocket.recv_into` needs a buffer of this size.
READ_BYTES = 64 * 1024


class SocketLike(Protocol):
    """What a plain non-blocking socket and `imserver.tls.TlsSocket` have in common."""

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:
        """Read; 0 is the end, BlockingIOError says that there is nothing now."""

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """Send a part; BlockingIOError says that nothing can be taken now."""

    def shutdown(self, how: int, /) -> None:
        """End one direction or both."""

    def fileno(self) -> int:
        """The kernel's descriptor, -1 once closed."""

    def close(self) -> None:
        """Close the socket."""


class SocketStream(trio.abc.HalfCloseableStream):
    """One task may receive while another one sends.

    Args:
        sock: non-blocking; it belongs to the stream until `detach`.
        scratch: a buffer of `READ_BYTES`, used within single calls only: the streams of one thread can share it.
    """

    def __init__(self, sock: SocketLike, scratch: bytearray | None = None) -> None:
        self._socket = sock
        self._tls = sock if isinstance(sock, TlsSocket) else None
        self._scratch = bytearray(READ_BYTES) if scratch is None else scratch
        self._view = memoryview(self._scratch)
        self._left = b""  # read, and more than the caller of `receive_some` wanted
        self._is_closed = False
        self._is_eof_sent = False
        self._is_sending = False
        self._flushing = trio.Lock()  # two tasks must not wait for one descriptor in one direction

    @property
    def tls(self) -> TlsSocket | None:
        """The socket, if it is a TLS one."""
        return self._tls

    # ------------------------------------------------------------ receiving

    def receive_nowait(self) -> bytes | None:
        """What has arrived, at most `READ_BYTES`; b"" at the end; None: nothing now, see `wait_receivable`.

        Raises:
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: the stream was closed or detached.
        """
        if self._left:
            data, self._left = self._left, b""
            return data
        self._check_open()
        try:
            return bytes(self._view[: self._socket.recv_into(self._scratch)])
        except BlockingIOError:
            return None
        except OSError as exc:
            raise trio.BrokenResourceError(f"cannot receive: {exc}") from exc

    async def wait_receivable(self) -> None:
        """Wait until `receive_nowait` is worth a try; it may still find nothing."""
        if self._tls is not None and self._tls.has_unsent:
            await self._flush()  # the peer's next bytes may be the answer to these
        self._check_open()
        await trio.lowlevel.wait_readable(self._socket.fileno())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be 1 or more")
        await trio.lowlevel.checkpoint()
        while (data := self.receive_nowait()) is None:
            await self.wait_receivable()
        if max_bytes is not None and len(data) > max_bytes:
            data, self._left = data[:max_bytes], data[max_bytes:]
        return data

    # ------------------------------------------------------------ sending

    @property
    def has_unsent(self) -> bool:
        """Ciphertext waits for the kernel: what `send_nowait` took is not on its way yet, see `wait_sendable`."""
        return self._tls is not None and self._tls.has_unsent

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what can be sent now; returns how many bytes were taken, 0 for none.

        Raises:
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: the stream was closed or detached.
        """
        self._check_open()
        if self._is_eof_sent:
            raise trio.ClosedResourceError("the end was sent before")
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise trio.BrokenResourceError(f"cannot send: {exc}") from exc

    async def wait_sendable(self) -> None:
        """Wait until `send_nowait` is worth a try; what it took before is with the kernel then."""
        if self.has_unsent:
            await self._flush()
        else:
            self._check_open()
            await trio.lowlevel.wait_writable(self._socket.fileno())

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        self._check_idle()
        self._is_sending = True
        try:
            await trio.lowlevel.checkpoint()
            with memoryview(data) as view:
                sent = self.send_nowait(view)
                while sent < len(view) or self.has_unsent:
                    await self.wait_sendable()
                    if sent < len(view):
                        sent += self.send_nowait(view[sent:])
        finally:
            self._is_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        self._check_idle()
        self._is_sending = True
        try:
            await self.wait_sendable()
        finally:
            self._is_sending = False

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`. TLS says close_notify."""
        self._check_idle()
        self._check_open()
        self._is_eof_sent = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise trio.BrokenResourceError(f"cannot end sending: {exc}") from exc
        if self.has_unsent:
            await self._flush()
        else:
            await trio.lowlevel.checkpoint()

    async def _flush(self) -> None:
        assert self._tls is not None
        async with self._flushing:
            while True:
                self._check_open()
                try:
                    is_done = self._tls.flush()
                except OSError as exc:
                    raise trio.BrokenResourceError(f"cannot send: {exc}") from exc
                if is_done:
                    return
                await trio.lowlevel.wait_writable(self._tls.fileno())

    # ------------------------------------------------------------ the end

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed or detached")

    def _check_idle(self) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")

    def detach(self) -> SocketLike:
        """Give the socket away: it is the caller's from now on, and the stream is as good as closed.

        What `receive_some(max_bytes)` held back is lost; those who only call `receive_nowait` have everything.
        """
        self._check_open()
        self._is_closed = True
        trio.lowlevel.notify_closing(self._socket.fileno())
        return self._socket

    def close(self) -> None:
        """Close at once, without a word; nothing after `detach`."""
        if not self._is_closed:
            self._is_closed = True
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self.close()
        await trio.lowlevel.checkpoint()
