"""A small server for the client's tests: real loopback sockets, a model in memory, and faults on demand.

It speaks the protocol with `struct` and `msgpack` alone, over TCP, TLS, or WebSocket (trio-websocket's server). It keeps
what it stores across connections; a test changes its behaviour by putting a function into `peer.on[command]`, and pushes
with `peer.push`.
"""

import struct
from collections import defaultdict
from contextlib import asynccontextmanager

import msgpack
import trio
from trio_websocket import ConnectionClosed, WebSocketServer

HEARTBEAT, GOAWAY, HELLO, REGISTER, LOGIN, AUTH, REFRESH, LOGOUT = 1, 2, 4, 1001, 1002, 1003, 1004, 1005
SEND, PULL, SYNC, SEND_BATCH, CHANGES = 2001, 2002, 2003, 2011, 2014
MESSAGE, PUSH_ACK, MESSAGE_CHANGED, READ = 5001, 5002, 5003, 5004


class Drop(Exception):
    """Raised by a test's handler: close this connection without an answer."""


class Silence(Exception):
    """Raised by a test's handler: no answer, and the connection stays."""


class Refuse(Exception):
    """Raised by a test's handler: answer with an error."""

    def __init__(self, code, error, **fields):
        super().__init__(error)
        self.answer = {"code": code, "error": error, "message": error, **fields}


def frame(command, body):
    """One frame as bytes."""
    packed = msgpack.packb(body)
    return struct.pack("!IHBB", 8 + len(packed), command, 1, 0) + packed


class Link:
    """One accepted connection."""

    def __init__(self, stream):
        self.stream = stream
        self.user_id = None
        self.device_id = None
        self._lock = trio.Lock()  # a push and an answer may come from two tasks
        self.is_deaf = False  # reads, answers nothing, not even heartbeats: a half-open peer

    async def send(self, command, body):
        await self.send_bytes(frame(command, body))

    async def send_bytes(self, data):
        if not self.is_deaf:
            async with self._lock:
                await self.stream.send_all(data)


class MessageStream(trio.abc.Stream):
    """A WebSocket of the peer's as a stream of bytes: each `send_all` is a binary message."""

    def __init__(self, websocket):
        self.websocket = websocket
        self.sizes = []  # of the messages received, in bytes

    async def send_all(self, data):
        try:
            await self.websocket.send_message(data)
        except ConnectionClosed as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes=None):
        try:
            message = await self.websocket.get_message()
        except ConnectionClosed:
            return b""
        self.sizes.append(len(message))
        return message

    async def aclose(self):
        await self.websocket.aclose()


class Peer:
    """The model: conversations, idempotency, tokens; everything a test may look at or break."""

    def __init__(self, heartbeat_ms=30_000):
        self.heartbeat_ms = heartbeat_ms
        self.on = {}  # command -> async fn(link, body) -> fields, instead of the model's
        self.links = []
        self.seen = []  # (command, body) of every request, in order
        self.log = defaultdict(list)  # conversation -> messages, by seq
        self.rev = defaultdict(int)
        self.touched = {}  # conversation -> number of its last change
        self.changes = 0
        self.delivered = defaultdict(int)  # (device, conversation) -> seq
        self.by_client_id = {}
        self.token = "token-1"
        self.refresh_token = "refresh-1"
        self.accepted = 0
        self.address = ""
        self.subprotocols = []  # that each WebSocket asked for
        self.close_codes = []  # with which each WebSocket was closed
        self.refuse_websocket = None  # async fn(request): instead of accepting it
        self.changed = trio.Event()

    def requests(self, command):
        """The bodies of the requests with this command so far."""
        return [body for seen, body in self.seen if seen == command]

    async def wait_for(self, condition):
        """Wait until the condition holds; looked at after each frame."""
        while not condition():
            await self.changed.wait()

    def _ring(self):
        self.changed.set()
        self.changed = trio.Event()

    # ---------------------------------------------------------- model

    def store(self, from_, conversation_id, body, client_id="other", type="text"):
        """Accept a message; returns it."""
        self.rev[conversation_id] += 1
        messages = self.log[conversation_id]
        message = {
            "conversation_id": conversation_id,
            "seq": len(messages) + 1,
            "rev": self.rev[conversation_id],
            "message_id": f"{len(messages) + 1:016x}",
            "client_id": client_id,
            "from": from_,
            "sent_at": 1,
            "type": type,
            "body": body,
        }
        messages.append(message)
        self._touch(conversation_id)
        return message

    def change(self, conversation_id, seq, **fields):
        """Change a stored message; returns the body of its 5003."""
        self.rev[conversation_id] += 1
        message = self.log[conversation_id][seq - 1]
        message.update(fields, rev=self.rev[conversation_id])
        self._touch(conversation_id)
        name = "recalled" if "recalled" in fields else "edited"
        return {"conversation_id": conversation_id, "seq": seq, "rev": message["rev"], "change": name, **fields}

    def _touch(self, conversation_id):
        self.changes += 1
        self.touched[conversation_id] = self.changes

    async def push(self, command, body):
        """Push to every connection that is logged in."""
        for link in self.links:
            if link.user_id:
                await link.send(command, body)

    async def say(self, body, from_="alice", to="bob", push=True):
        """Another user's message: stored, and pushed unless told not to."""
        message = self.store(from_, "d:" + ":".join(sorted((from_, to))), body)
        if push:
            await self.push(MESSAGE, message)
        return message

    def sync_answer(self, link, cursor, limit=500):
        after = int(cursor or 0)
        found = sorted((at, name) for name, at in self.touched.items() if at > after)
        entries = [
            {
                "conversation_id": name,
                "last_seq": len(self.log[name]),
                "last_rev": self.rev[name],
                "read_seq": 0,
                "delivered_seq": self.delivered[link.device_id, name],
                "unread": 0,
                "last_message": self.log[name][-1],
            }
            for _, name in found[:limit]
        ]
        last = found[:limit][-1][0] if found else after
        return {"conversations": entries, "next_cursor": str(last), "more": len(found) > limit}

    def login_answer(self, link, body, user_id):
        link.user_id, link.device_id = user_id, body.get("device_id")
        answer = {"user_id": user_id, "session_id": "s", "heartbeat_ms": self.heartbeat_ms, "server_time": 1}
        if "sync" in body:
            answer["sync"] = self.sync_answer(link, body["sync"])
        return answer

    def send_answer(self, link, body):
        to = body.get("to")
        conversation_id = body["conversation_id"] if to is None else "d:" + ":".join(sorted((link.user_id, to)))
        key = (link.user_id, conversation_id, body["client_id"])
        duplicate = key in self.by_client_id
        if not duplicate:
            self.by_client_id[key] = self.store(link.user_id, conversation_id, body["body"], body["client_id"])
        message = self.by_client_id[key]
        answer = {name: message[name] for name in ("conversation_id", "seq", "message_id", "sent_at")}
        return {**answer, "duplicate": True} if duplicate else answer

    def answer(self, link, command, body):
        """The model's own behaviour."""
        match command:
            case 4:
                return {"server": "peer", "version": 1, "max_frame": 65536, "heartbeat_ms": self.heartbeat_ms, "time": 1}
            case 1001:
                return {"user_id": body["user_id"]}
            case 1002:
                tokens = {"token": self.token, "refresh_token": self.refresh_token, "expires_at": 2}
                return {**self.login_answer(link, body, body["user_id"]), **tokens}
            case 1003:
                if body["token"] != self.token:
                    raise Refuse(401, "unauthenticated")
                return self.login_answer(link, body, "bob")
            case 1004:
                if body["refresh_token"] != self.refresh_token:
                    raise Refuse(401, "unauthenticated")
                self.token, self.refresh_token = self.token + "+", self.refresh_token + "+"
                return {"token": self.token, "refresh_token": self.refresh_token, "expires_at": 3}
            case 2001:
                return self.send_answer(link, body)
            case 2002:
                messages = self.log[body["conversation_id"]]
                page = [m for m in messages if m["seq"] > body.get("after_seq", 0)][: body.get("limit", 50)]
                return {"messages": page, "first_seq": 1, "last_seq": len(messages)}
            case 2003:
                return self.sync_answer(link, body.get("cursor"), body.get("limit", 50))
            case 2011:
                return {"results": [{"code": 0, **self.send_answer(link, entry)} for entry in body["messages"]]}
            case 2014:
                name = body["conversation_id"]
                found = sorted((m for m in self.log[name] if m["rev"] > body["since_rev"]), key=lambda m: m["rev"])
                limit = body.get("limit", 50)
                return {"messages": found[:limit], "last_rev": self.rev[name], "more": len(found) > limit}
            case 5002:
                for name, seq in body["acks"].items():
                    self.delivered[link.device_id, name] = max(seq, self.delivered[link.device_id, name])
                return {}
            case _:
                return {}

    # ---------------------------------------------------------- sockets

    async def serve(self, stream):
        link = Link(stream)
        self.links.append(link)
        self.accepted += 1
        self._ring()
        buffer = b""
        try:
            async with stream:
                while data := await stream.receive_some(65536):
                    buffer += data
                    while len(buffer) >= 8 and len(buffer) >= (length := int.from_bytes(buffer[:4], "big")):
                        raw, buffer = buffer[:length], buffer[length:]
                        await self.handle(link, int.from_bytes(raw[4:6], "big"), raw[8:])
        except (Drop, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.links.remove(link)
            self._ring()

    async def handle(self, link, command, raw):
        body = msgpack.unpackb(raw) if raw else {}
        self.seen.append((command, body))
        try:
            if command == HEARTBEAT:
                await link.send_bytes(bytes([0, 0, 0, 8, 0, 1, 1, 0]))
                return
            handler = self.on.get(command)
            fields = self.answer(link, command, body) if handler is None else await handler(link, body)
            answer = {"code": 0, **fields}
        except Refuse as refusal:
            answer = refusal.answer
        except Silence:
            return
        finally:
            self._ring()
        if body.get("rid"):
            await link.send(command, {**answer, "rid": body["rid"]})

    async def serve_websocket(self, request):
        if self.refuse_websocket is not None:
            await self.refuse_websocket(request)
            return
        self.subprotocols.append(tuple(request.proposed_subprotocols))
        websocket = await request.accept(subprotocol="imserver.v1")
        await self.serve(MessageStream(websocket))
        self.close_codes.append(websocket.closed.code)
        self._ring()


@asynccontextmanager
async def running_peer(scheme="tcp", ssl_context=None, **options):
    """A peer on a free port of 127.0.0.1; `peer.address` is what `open_client` takes.

    Args:
        scheme: tcp, tls, ws or wss.
        ssl_context: the server's, for tls and wss.
    """
    peer = Peer(**options)
    async with trio.open_nursery() as nursery:
        if ssl_context is None:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            socket = listener.socket
        else:
            [listener] = await trio.open_ssl_over_tcp_listeners(0, ssl_context, host="127.0.0.1", https_compatible=True)
            socket = listener.transport_listener.socket
        peer.address = f"127.0.0.1:{socket.getsockname()[1]}"
        if scheme in ("ws", "wss"):
            await nursery.start(WebSocketServer(peer.serve_websocket, [listener], disconnect_timeout=1).run)
        else:
            nursery.start_soon(trio.serve_listeners, peer.serve, [listener])
        if scheme != "tcp":
            peer.address = f"{scheme}://{peer.address}"
        try:
            yield peer
        finally:
            nursery.cancel_scope.cancel()
