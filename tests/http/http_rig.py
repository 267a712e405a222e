"""An HttpServer in the test's own Trio loop, clients on socket pairs, and a reader of answers that is not the server's."""

import socket
from contextlib import asynccontextmanager, suppress

import attrs
import trio

from imserver.http.server import HttpServer

HOST = b"Host: x\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


@attrs.frozen
class Answer:
    """One answer as it came."""

    status: int
    headers: dict
    body: bytes


def split_answers(data, *, heads=()):
    """All answers in these bytes, which must be whole ones.

    Args:
        heads: indexes of answers to HEAD.
    """
    answers = []
    while data:
        head, blank, data = data.partition(b"\r\n\r\n")
        assert blank, head
        first, *lines = head.split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers = {}
        for line in lines:
            name, _, value = line.partition(b": ")
            name = name.decode().lower()
            assert name not in headers, f"{name} twice"
            headers[name] = value.decode("latin-1")
        status = int(status)
        body = b""
        if status < 200 or status in (204, 304) or len(answers) in heads:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            body, data = split_chunks(data)
        elif "content-length" in headers:
            size = int(headers["content-length"])
            assert len(data) >= size, "the body is cut off"
            body, data = data[:size], data[size:]
        else:
            assert headers["connection"] == "close"
            body, data = data, b""
        answers.append(Answer(status, headers, body))
    return answers


def split_chunks(data):
    """(body, what follows)."""
    body = b""
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert data.startswith(b"\r\n")
            return body, data[2:]
        body += data[:size]
        assert data[size : size + 2] == b"\r\n"
        data = data[size + 2 :]


class Client:
    """The other end of a connection."""

    def __init__(self, sock):
        self.socket = trio.socket.from_stdlib_socket(sock)

    async def send(self, data):
        """Send all of it; a server that has closed meanwhile is no error."""
        view = memoryview(data)
        try:
            while view:
                view = view[await self.socket.send(view) :]
        except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
            pass

    async def receive(self, size=65536):
        """What has come; b"" at the end."""
        try:
            return await self.socket.recv(size)
        except ConnectionResetError:
            return b""

    def end(self):
        """Send no more, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    async def read_all(self):
        """What comes until the server closes."""
        data = b""
        while part := await self.receive():
            data += part
        return data

    async def read_until(self, mark):
        """What comes up to and with these bytes; nothing may follow."""
        data = b""
        while not data.endswith(mark):
            part = await self.receive()
            assert part, data
            data += part
        return data

    def close(self):
        self.socket.close()


class Rig:
    """See the module."""

    def __init__(self, nursery, app, **options):
        self.server = HttpServer(app, **options)
        self._nursery = nursery
        self._clients = []

    def connect(self, address="127.0.0.1", *, sock=None, **options):
        """A new connection."""
        ours, theirs = socket.socketpair() if sock is None else sock
        theirs.setblocking(False)
        client = Client(ours)
        self._clients.append(client)
        self._nursery.start_soon(lambda: self.server.serve_connection(theirs, address, **options))
        return client

    async def exchange(self, data, *, end=True, **options):
        """All that is answered to these bytes, until the server closes."""
        client = self.connect(**options)
        if len(data) > 50_000:
            self._nursery.start_soon(self._send, client, data, end)
        else:
            await self._send(client, data, end)
        answer = await client.read_all()
        client.close()
        return answer

    async def _send(self, client, data, end):
        await client.send(data)
        if end:
            with suppress(OSError):  # the server may be faster
                client.end()

    async def ask(self, data, *, heads=(), **options):
        """`exchange`, as answers."""
        return split_answers(await self.exchange(data, **options), heads=heads)

    def close(self):
        for client in self._clients:
            client.close()


@asynccontextmanager
async def serving(app, **options):
    """A rig whose connections are over when the test is."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, app, **options)
        try:
            yield rig
        finally:
            rig.close()
            nursery.cancel_scope.cancel()


async def read_body(receive):
    """The request's body; None if the client went away before its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return body


async def reply(send, body=b"", status=200, headers=()):
    """A whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope, receive, send):
    """Answers with the method, the path and the body."""
    body = await read_body(receive)
    if body is not None:
        await reply(send, b"%s %s %s\n" % (scope["method"].encode(), scope["path"].encode(), body))
