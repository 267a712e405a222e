"""A request over HTTP to a server under test: its real HTTP code, by a socket pair instead of a port."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

import attrs
import h11
import trio

_READ_BYTES = 65536
#: How long an answer is waited for, in real seconds.
PATIENCE_S = 10.0


@attrs.frozen
class HttpAnswer:
    """What came back; the headers' names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as a Python value."""
        return json.loads(self.body)


async def ask(
    sock: socket.socket, method: str, path: str, headers: Mapping[str, str], body: bytes, patience_s: float = PATIENCE_S
) -> HttpAnswer:
    """One request and its answer on a connection of its own.

    Raises:
        trio.TooSlowError: no answer came in time.
        h11.RemoteProtocolError: what came is no HTTP.
    """
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method=method, target=path, headers=[("Host", "imserver.test"), *headers.items()])
    status, answered, parts = 0, {}, []
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    async with stream:
        with trio.fail_after(patience_s):
            data = (connection.send(request) or b"") + (connection.send(h11.Data(data=body)) or b"")
            await stream.send_all(data + (connection.send(h11.EndOfMessage()) or b""))
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(_READ_BYTES))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    answered = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return HttpAnswer(status, answered, b"".join(parts))
