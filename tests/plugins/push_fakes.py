"""Apple, Google and a gateway on this machine: TLS servers that keep each request and answer what they are told to."""

import json
import ssl
from contextlib import asynccontextmanager
from types import SimpleNamespace

import h2.config
import h2.connection
import h2.events
import h11
import trio
import trustme
from attrs import frozen
from cryptography.hazmat.primitives import serialization
from helpers import FakeClock

from imserver_plugins.push.seam import Push


@frozen
class Request:
    """What came."""

    method: str
    path: str
    headers: dict
    body: bytes
    version: str
    connection: int

    def json(self):
        return json.loads(self.body)


class Fake:
    """`answer` says what a request is answered with: (status, headers, body); body may be a value for JSON."""

    def __init__(self, tls, port):
        self.tls = tls
        self.url = f"https://localhost:{port}"
        self.requests = []
        self.answer = lambda request: (200, {}, b"")
        self.connections = 0

    def take(self, *fields):
        request = Request(*fields)
        self.requests.append(request)
        status, headers, body = self.answer(request)
        return status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()

    async def serve(self, stream):
        self.connections += 1
        number = self.connections
        stream = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
            is_http2 = stream.selected_alpn_protocol() == "h2"
            await (self._http2 if is_http2 else self._http1)(stream, number)
        except (trio.BrokenResourceError, ConnectionError):
            return  # the client is gone
        finally:
            await trio.aclose_forcefully(stream)

    async def _http2(self, stream, number):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        await stream.send_all(connection.data_to_send())
        heads, bodies = {}, {}
        while data := await stream.receive_some(65536):
            for event in connection.receive_data(bytes(data)):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id], bodies[event.stream_id] = dict(event.headers), b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    head = heads.pop(event.stream_id)
                    status, headers, body = self.take(
                        head[":method"], head[":path"], head, bodies.pop(event.stream_id), "2", number
                    )
                    connection.send_headers(event.stream_id, [(":status", str(status)), *headers.items()])
                    connection.send_data(event.stream_id, body, end_stream=True)
            await stream.send_all(connection.data_to_send())

    async def _http1(self, stream, number):
        connection = h11.Connection(h11.SERVER)
        while True:
            head, body = None, b""
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(bytes(await stream.receive_some(65536)))
                elif isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.ConnectionClosed):
                    return
            fields = {name.decode(): value.decode() for name, value in head.headers}
            status, headers, content = self.take(head.method.decode(), head.target.decode(), fields, body, "1.1", number)
            headers = [*headers.items(), ("Content-Length", str(len(content)))]
            out = connection.send(h11.Response(status_code=status, headers=headers))
            out += connection.send(h11.Data(data=content)) + connection.send(h11.EndOfMessage())
            await stream.send_all(out)
            connection.start_next_cycle()


@asynccontextmanager
async def fake(folder, *protocols):
    """A running one; its authority's certificate is `folder / "ca.pem"`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    tls.set_alpn_protocols(list(protocols))
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        made = Fake(tls, listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, made.serve, listeners)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def started(plugin, **settings):
    """The plugin, started with these settings; `plugin.clock` is its clock, `plugin.announced` what the bus heard of it."""
    plugin.announced = []
    plugin.clock = FakeClock()

    async def in_thread(function, *args):
        return await trio.to_thread.run_sync(function, *args)

    ctx = SimpleNamespace(
        settings=plugin.Settings(**settings),
        clock=plugin.clock,
        config=SimpleNamespace(server=SimpleNamespace(name="im-1")),
        run_sync_in_thread=in_thread,
        emit=lambda event, **fields: plugin.announced.append((event, fields)),
    )
    await plugin.on_start(ctx)
    try:
        yield plugin
    finally:
        await plugin.on_stop(ctx)


def a_push(**fields):
    """A push as the plugin push makes it."""
    return Push(
        **{
            "token": "ab" * 32,
            "app": "",
            "user_id": "bob",
            "conversation_id": "d:alice:bob",
            "seq": 7,
            "message_id": "0000c5e1a2b3c4d5",
            "sender": "alice",
            "type": "text",
            "sent_at": 1_750_000_000_000,
            "title": "Alice",
            "text": "Grüße 👋",
            "unread": 2,
            "badge": 5,
            "collapse_id": "c" * 32,
            "expires_at": 1_750_086_400_000,
            **fields,
        }
    )


def pem(key):
    """A private key as a file has it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
