"""An echo server on the codec alone: what the Autobahn cases are run against."""

import threading
from contextlib import contextmanager
from functools import partial
from queue import Queue

import trio

from imserver.protocol.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    WebSocketDecoder,
    WebSocketError,
    accept_key,
    pack_close,
    pack_message,
)

#: The largest message of the cases has 16 MiB, and one of 4 MiB comes in frames of 64 bytes: more than a session takes.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_FRAGMENTS = 100_000
_READ_BYTES = 64 * 1024


async def _handshake(stream):
    """Answer the request; returns what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some(_READ_BYTES)
        if not piece:
            raise trio.BrokenResourceError("no request came")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    key = {name.lower(): value for name, value in headers.items()}[b"sec-websocket-key"]
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
    )
    return rest


def _answer(event):
    """What a server says to an event, and whether that is the last it says."""
    opcode, payload = event
    if isinstance(payload, WebSocketError):
        return pack_close(payload.close_code, str(payload)), True
    if opcode in (TEXT, BINARY):
        return pack_message(opcode, payload), False
    if opcode == PING:
        return pack_message(PONG, payload), False
    if opcode == CLOSE:
        return (pack_close(int.from_bytes(payload[:2], "big")) if payload else pack_message(CLOSE, b"")), True
    return b"", False


async def _serve(stream):
    async with stream:
        try:
            decoder = WebSocketDecoder(MAX_MESSAGE_BYTES, max_fragments=MAX_FRAGMENTS)
            data = await _handshake(stream)
            while True:
                for event in decoder.receive(data):
                    answer, is_last = _answer(event)
                    await stream.send_all(answer)
                    if is_last:
                        await stream.send_eof()
                        while await stream.receive_some(_READ_BYTES):
                            pass  # closing on unread bytes would reset the connection, and lose the answer
                        return
                data = await stream.receive_some(_READ_BYTES)
                if not data:
                    return
        except trio.BrokenResourceError:
            return  # a case that ends without a word


@contextmanager
def serving():
    """An echo server in a thread of its own, on a free port of 127.0.0.1; gives the port."""
    started = Queue()

    async def main():
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, _serve, 0, host="127.0.0.1"))
            started.put((trio.lowlevel.current_trio_token(), nursery.cancel_scope, listener.socket.getsockname()[1]))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    token, scope, port = started.get()
    try:
        yield port
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()
