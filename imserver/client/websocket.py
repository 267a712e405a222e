"""A WebSocket that looks like a byte stream of whole frames: trio-websocket with the corners that a client needs.

    send_all       whole frames in, binary messages out
    receive_some   binary messages in, their bytes out; each must be whole frames
    aclose         says goodbye, and waits a moment for the answer

trio-websocket has a task that reads, and answers pings; it runs in the nursery that the connection is opened in, and ends
with the connection. Three things it leaves to its user are done here: a server that hangs up, or that speaks no HTTP, in
the midst of the handshake (`_Wire`: trio-websocket would wait on), a bound on the handshake's answer, and closing the
socket when the other side has closed the WebSocket.

Source: docs/reference/protocol.md, "WebSocket"; RFC 6455.
"""

from __future__ import annotations

import http
import json
import logging
from collections.abc import Iterator
from typing import Final

import trio
from trio_websocket import CloseReason, ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from .errors import CannotConnect, RemoteProtocolError
from .frames import HEADER_BYTES, MAX_FRAME_BYTES
from .tls import why_broken

log = logging.getLogger("imserver.client")

SUBPROTOCOL: Final = "imserver.v1"
#: Small frames travel together up to this size, which is what a server takes of a client that has not logged in.
SMALL_MESSAGE_BYTES: Final = 4096
#: What a server may send in one message: as much as in one frame.
MAX_MESSAGE_BYTES: Final = MAX_FRAME_BYTES
#: How much of an answer to the handshake is read: arbitrary, far more than any head and error page.
MAX_HANDSHAKE_BYTES: Final = 1024 * 1024
#: How long the other side may take to answer our goodbye.
CLOSE_GRACE_S: Final = 1.0
#: The longest wait before the next attempt that a server's Retry-After can ask for.
MAX_RETRY_AFTER_S: Final = 300.0
_READ_BYTES: Final = 64 * 1024
_SHOWN_CHARS: Final = 200
_STATUSES: Final = {int(status): status for status in http.HTTPStatus}
_NORMAL: Final = 1000
_NO_CODE: Final = 1005
_ABNORMAL: Final = 1006


async def open_websocket_stream(
    nursery: trio.Nursery, transport: trio.abc.Stream, authority: str, path: str
) -> WebSocketStream:
    """Shake hands over a connected transport, which is closed when that fails.

    Args:
        nursery: for the task that reads; it ends when the stream is closed, even if the nursery is cancelled before.
        authority: the value of `Host`.

    Raises:
        CannotConnect: refused, or what answers is no WebSocket.
    """
    stream = WebSocketStream(transport)
    try:
        await nursery.start(stream._run, authority, path)
    except BaseException:
        stream._scope.cancel()  # it may have been open already
        raise
    return stream


class WebSocketStream(trio.abc.Stream):
    """See the module. Made by `open_websocket_stream`."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._wire = _Wire(transport)
        self._scope = trio.CancelScope()
        self._open: WebSocketConnection | None = None
        self._rest = b""  # of a message, behind what receive_some gave
        self._is_closed = False  # by this side
        self._failure = ""  # why the reading task ended, where that was not the other side's wish

    async def _run(self, authority: str, path: str, *, task_status: trio.TaskStatus[None]) -> None:
        """Shake hands, then read until the end. Raises nothing once the hands are shaken."""
        failure: CannotConnect | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._open = await wrap_client_stream(
                        nursery,
                        # What it is annotated with are the usual streams; it calls the methods of any stream.
                        self._wire,  # type: ignore[arg-type]
                        authority,
                        path,
                        subprotocols=[SUBPROTOCOL],
                        # One message is read ahead: what the application does not take waits in the kernel.
                        message_queue_size=1,
                        max_message_size=MAX_MESSAGE_BYTES,
                        receive_buffer_size=_READ_BYTES,
                    )
                    self._wire.is_open = True
                    # Who closes the stream ends this task: a cancelled client still hears the answer to its goodbye.
                    self._scope.shield = True
                    task_status.started()
        except* Exception as group:
            failure = self._failure_of(group, path)
        finally:
            await trio.aclose_forcefully(self._wire.transport)
        if failure is None:
            return
        if self._open is None:
            raise failure
        self._failure = str(failure)
        log.debug("the WebSocket's reader ended: %s", failure)

    @property
    def _connection(self) -> WebSocketConnection:
        if self._is_closed:
            raise trio.ClosedResourceError("this WebSocket was closed by this side")
        assert self._open is not None, "open_websocket_stream gives no stream before the hands are shaken"
        return self._open

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole frames.

        Raises:
            ValueError: the bytes end inside of a frame.
        """
        connection = self._connection
        try:
            for message in messages_of(bytes(data)):
                await connection.send_message(message)
        except ConnectionClosed as error:
            raise self._ended(error.reason) from error
        except LocalProtocolError as error:  # it is closing, which trio-websocket does not know yet
            raise self._ended(None) from error

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`: a guess, as that allows."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes of whole frames; empty when the server has closed with code 1000.

        Raises:
            RemoteProtocolError: a text message, or one that ends inside of a frame.
            BrokenResourceError: closed with another code, or not closed but ended.
        """
        connection = self._connection
        if self._rest:
            await trio.lowlevel.checkpoint()
        else:
            try:
                message = await connection.get_message()
            except ConnectionClosed as error:
                if error.reason is not None and error.reason.code == _NORMAL and not self._is_closed:
                    return b""
                raise self._ended(error.reason) from error
            if isinstance(message, str):
                raise RemoteProtocolError("a text message, to a client that sends binary ones")
            if not _is_whole_frames(message):
                raise RemoteProtocolError(f"a binary message of {len(message)} bytes that is not one or more whole frames")
            self._rest = bytes(message)
        data, self._rest = (self._rest, b"") if max_bytes is None else (self._rest[:max_bytes], self._rest[max_bytes:])
        return data

    async def aclose(self) -> None:
        """Close with code 1000; waits for the answer for a moment at most. When cancelled, closes at once."""
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        connection = self._connection
        self._is_closed = True
        try:
            with trio.move_on_after(CLOSE_GRACE_S):
                await connection.aclose()
        finally:
            self._scope.cancel()
            await trio.aclose_forcefully(self._wire.transport)

    def _failure_of(self, group: BaseExceptionGroup[Exception], path: str) -> CannotConnect:
        """Return what a failed handshake, or a reader that ended in error, comes to."""
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, CannotConnect):
            return error
        if isinstance(error, ConnectionRejected):
            return _refusal(error, path)
        log.debug("trio-websocket failed", exc_info=error)
        if self._open is None:
            return self._wire.no_websocket()
        return CannotConnect(f"the WebSocket failed: {str(error) or type(error).__name__}")

    def _ended(self, reason: CloseReason | None) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._is_closed:
            return trio.ClosedResourceError("this WebSocket was closed by this side")
        if reason is None or reason.code == _ABNORMAL:
            return trio.BrokenResourceError(self._failure or self._wire.failure or "the server ended the connection")
        name = "" if reason.code == _NO_CODE else f", {reason.name.lower().replace('_', ' ')}"
        text = f": {reason.reason[:_SHOWN_CHARS]}" if reason.reason else ""
        return trio.BrokenResourceError(f"the WebSocket was closed with code {reason.code}{name}{text}")


class _Wire(trio.abc.Stream):
    """What trio-websocket gets for a transport: one that ends its waiting when the handshake cannot succeed any more."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.transport = transport
        self.is_open = False  # the hands are shaken
        self.failure = ""  # why it broke
        self._head = b""  # how the answer to the handshake began
        self._received_bytes = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self.transport.send_all(data)
        except trio.BrokenResourceError as error:
            self._broke(error)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self.transport.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            self._broke(error)
            raise
        if not self.is_open:
            self._head = self._head or bytes(data[:_SHOWN_CHARS])
            self._received_bytes += len(data)
            if not data:
                raise CannotConnect(f"the server hung up during the WebSocket's handshake{self._answer()}")
            if self._received_bytes > MAX_HANDSHAKE_BYTES:
                raise CannotConnect(f"an endless answer to the WebSocket's handshake{self._answer()}")
        return data

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.transport)
        if not self.is_open:  # trio-websocket does not understand the answer, and would say so to nobody
            raise self.no_websocket()
        self.failure = self.failure or "the server broke the rules of WebSocket"

    def no_websocket(self) -> CannotConnect:
        return CannotConnect(f"what answers there is no WebSocket{self._answer()}; is it the server's HTTP address?")

    def _broke(self, error: trio.BrokenResourceError) -> None:
        self.failure = f"the connection broke: {why_broken(error)}"
        if not self.is_open:
            raise CannotConnect(self.failure) from error

    def _answer(self) -> str:
        line = self._head.partition(b"\r\n")[0]
        return f", after {line.decode('ascii', 'replace')!r}" if line else ""


def messages_of(frames: bytes) -> Iterator[bytes]:
    """Cut whole frames into messages: small frames together up to `SMALL_MESSAGE_BYTES`, a larger one alone.

    Raises:
        ValueError: the bytes end inside of a frame, or none begins there.
    """
    begin = end = 0
    while end < len(frames):
        length = int.from_bytes(frames[end : end + 4], "big")
        if length < HEADER_BYTES or end + length > len(frames):
            raise ValueError("a WebSocket's message is made of whole frames; these bytes are not")
        if end + length - begin > SMALL_MESSAGE_BYTES and end > begin:
            yield frames[begin:end]
            begin = end
        end += length
    if end > begin:
        yield frames[begin:end]


def _is_whole_frames(message: bytes) -> bool:
    end = 0
    while 0 <= end < len(message):
        length = int.from_bytes(message[end : end + 4], "big")
        if length < HEADER_BYTES:
            return False
        end += length
    return 0 < end == len(message)


def _refusal(error: ConnectionRejected, path: str) -> CannotConnect:
    headers = {name.lower(): value.decode("latin-1") for name, value in error.headers}
    status = error.status_code
    text = f"the server refused the WebSocket: {status}"
    if status in _STATUSES:
        text += f" {_STATUSES[status].phrase}"
    if message := _message_in(error.body or b""):
        text += f": {message}"
    if location := headers.get(b"location"):
        text += f"; it points to {location[:_SHOWN_CHARS]!r}"
    elif status == http.HTTPStatus.NOT_FOUND:
        text += f"; is {path} the path of its WebSocket?"
    retry_after = headers.get(b"retry-after", "")
    return CannotConnect(text, retry_after_s=min(float(retry_after), MAX_RETRY_AFTER_S) if retry_after.isdecimal() else 0.0)


def _message_in(body: bytes) -> str:
    """The `message` of a JSON error body; empty where there is none."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    message = answer.get("message") if isinstance(answer, dict) else None
    return message[:_SHOWN_CHARS] if isinstance(message, str) else ""
