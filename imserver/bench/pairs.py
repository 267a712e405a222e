"""P senders, each with W messages in flight to a recipient of its own, over raw sockets and one epoll loop."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence

import attrs
import jwt

from imserver.bench import wire

_NO_PROGRESS_S = 10.0
_RECV_BYTES = 256 * 1024
_LOGINS_AT_ONCE = 100


class BenchError(Exception):
    """The run cannot be completed; the message says what the server did or did not do."""


@attrs.frozen
class Plan:
    """What to run. Times in seconds, sizes in bytes."""

    pairs: int
    window: int
    seconds: float
    warmup_s: float
    size: int
    host: str
    port: int
    secret: bytes
    #: Part of all user ids, so that runs against one server do not meet.
    tag: str

    def sender(self, index: int) -> str:
        """The user id of a sender."""
        return f"{self.tag}-s{index}"

    def recipient(self, index: int) -> str:
        """The user id of a recipient."""
        return f"{self.tag}-r{index}"

    def conversation(self, index: int) -> str:
        """The conversation of a pair: the recipient's id sorts first."""
        return f"d:{self.recipient(index)}:{self.sender(index)}"


@attrs.define
class Measured:
    """What a run gave. Durations in seconds; latencies are of a sample of the measured messages."""

    span_s: float = 0.0
    delivered: int = 0
    accepted: int = 0
    cpu_load_s: float = 0.0
    push_latencies_s: list[float] = attrs.Factory(list)
    ack_latencies_s: list[float] = attrs.Factory(list)
    sample_every: int = 1


class _Pair:
    __slots__ = ("acked", "arrivals", "index", "recipient", "sender", "sent", "sent_at", "template")

    def __init__(self, index: int, sender: socket.socket, recipient: socket.socket, template: wire.SendTemplate) -> None:
        self.index = index
        self.sender = sender
        self.recipient = recipient
        self.template = template
        self.sent = 0  # messages 1 … sent are out
        self.acked = 0
        #: Counters of the pushes in the order they came, one entry a chunk.
        self.arrivals: list[list[bytes]] = []
        #: When each message of the sample was sent.
        self.sent_at: dict[int, float] = {}


class PairsRun:
    """One run: `connect`, `measure`, `drain`; afterwards `pairs` has what `imserver.bench.verify` looks at."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pairs: list[_Pair] = []
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._measured = Measured(sample_every=1 if plan.window < 8 else 8)
        self._is_measuring = False
        self._is_sending = True
        self.delivered = 0

    # ------------------------------------------------------------ connections

    def open(self, user_ids: Sequence[str]) -> list[socket.socket]:
        """Connections that are logged in, one a user; the server makes users that it does not know."""
        sockets: list[socket.socket] = []
        for start in range(0, len(user_ids), _LOGINS_AT_ONCE):
            part = []
            for user_id in user_ids[start : start + _LOGINS_AT_ONCE]:
                sock = socket.create_connection((self.plan.host, self.plan.port), timeout=_NO_PROGRESS_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                now = int(time.time())
                token = jwt.encode({"sub": user_id, "iat": now, "exp": now + 3600}, self.plan.secret, algorithm="HS256")
                sock.sendall(wire.frame(wire.AUTH, {"rid": 1, "token": token, "device_id": "bench"}))
                part.append(sock)
            for sock in part:
                self.one_answer(sock, wire.AUTH, "AUTH")
            sockets += part
        return sockets

    @staticmethod
    def one_answer(sock: socket.socket, command: int, what: str) -> dict[str, object]:
        """Read one answer on a blocking connection, pushes skipped.

        Raises:
            BenchError: it is a refusal, or none comes.
        """
        splitter = wire.Splitter()
        try:
            while data := sock.recv(_RECV_BYTES):
                for found, fields in wire.decode(splitter.whole(data)[0]):
                    if found == command:
                        if fields.get("code") != 0:
                            raise BenchError(f"{what} was refused: {fields}")
                        return fields
        except TimeoutError:
            raise BenchError(f"no answer to {what} in {_NO_PROGRESS_S:.0f} s") from None
        raise BenchError(f"the server closed the connection before it answered {what}")

    def connect(self) -> None:
        """Log everybody in and begin each conversation, so that the measured span has nothing but messages."""
        plan = self.plan
        senders = self.open([plan.sender(index) for index in range(plan.pairs)])
        recipients = self.open([plan.recipient(index) for index in range(plan.pairs)])
        for index, (sender, recipient) in enumerate(zip(senders, recipients, strict=True)):
            template = wire.SendTemplate(plan.recipient(index), "x" * plan.size)
            pair = _Pair(index, sender, recipient, template)
            self.pairs.append(pair)
            for sock, handler in ((sender, self._on_answers(pair)), (recipient, self._on_pushes(pair))):
                sock.setblocking(False)
                self._handlers[sock.fileno()] = handler
                self._epoll.register(sock.fileno(), select.EPOLLIN)

    # ------------------------------------------------------------ the loop

    def measure(self, begin: Callable[[], None], end: Callable[[], None]) -> Measured:
        """Warm up, then measure. `begin` and `end` are called at the ends of the measured span."""
        for pair in self.pairs:
            self._send(pair, self.plan.window, time.perf_counter())
        self._loop_for(self.plan.warmup_s)
        measured = self._measured
        measured.delivered, measured.accepted = -self.delivered, -sum(pair.acked for pair in self.pairs)
        begin()
        cpu, started = time.process_time(), time.perf_counter()
        self._is_measuring = True
        self._loop_for(self.plan.seconds)
        self._is_measuring = False
        measured.span_s = time.perf_counter() - started
        measured.cpu_load_s = time.process_time() - cpu
        end()
        measured.delivered += self.delivered
        measured.accepted += sum(pair.acked for pair in self.pairs)
        return measured

    def drain(self) -> None:
        """Send nothing more and take what is on its way.

        Raises:
            BenchError: something did not arrive.
        """
        self._is_sending = False
        quiet_since, seen = time.perf_counter(), -1
        while any(pair.acked < pair.sent for pair in self.pairs) or self.delivered < sum(p.sent for p in self.pairs):
            self._poll(0.1)
            state = self.delivered + sum(pair.acked for pair in self.pairs)
            if state != seen:
                quiet_since, seen = time.perf_counter(), state
            elif time.perf_counter() - quiet_since > _NO_PROGRESS_S:
                raise BenchError(self._state("nothing more arrives"))

    def close(self) -> None:
        """Close all connections."""
        for pair in self.pairs:
            pair.sender.close()
            pair.recipient.close()
        self._epoll.close()

    def _loop_for(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        moved_at, seen = time.perf_counter(), -1
        while (now := time.perf_counter()) < until:
            self._poll(0.1)
            if self.delivered != seen:
                moved_at, seen = now, self.delivered
            elif now - moved_at > _NO_PROGRESS_S:
                raise BenchError(self._state("no message was delivered"))

    def _poll(self, timeout_s: float) -> None:
        handlers = self._handlers
        for fd, _ in self._epoll.poll(timeout_s):
            handlers[fd](time.perf_counter())

    def _send(self, pair: _Pair, count: int, now: float) -> None:
        first = pair.sent + 1
        pair.sent += count
        if self._is_measuring:
            every = self._measured.sample_every
            for number in range(first + (-first) % every, first + count, every):
                pair.sent_at[number] = now
        data = pair.template.frames(first, count)
        try:
            sent = pair.sender.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            # The window is small against the socket's buffer; if it is full all the same, waiting is right.
            pair.sender.settimeout(_NO_PROGRESS_S)
            pair.sender.sendall(data[sent:])
            pair.sender.setblocking(False)

    def _on_answers(self, pair: _Pair) -> Callable[[float], None]:
        splitter, sock, sent_at = wire.Splitter(), pair.sender, pair.sent_at
        latencies, every = self._measured.ack_latencies_s, self._measured.sample_every

        def handle(now: float) -> None:
            chunk, count = splitter.whole(self._recv(sock))
            if not count:
                return
            if wire.accepted(chunk) != count:
                raise BenchError(f"a SEND was not accepted: {self._first_odd(chunk, wire.SEND)}")
            first = pair.acked + 1
            pair.acked += count
            if sent_at:
                # Acks of one connection and conversation come in the order of its sends.
                for number in range(first + (-first) % every, first + count, every):
                    if number in sent_at:
                        latencies.append(now - sent_at[number])
            if self._is_sending:
                self._send(pair, count, now)

        return handle

    def _on_pushes(self, pair: _Pair) -> Callable[[float], None]:
        splitter, sock, sent_at = wire.Splitter(), pair.recipient, pair.sent_at
        latencies, every = self._measured.push_latencies_s, self._measured.sample_every

        def handle(now: float) -> None:
            chunk, count = splitter.whole(self._recv(sock))
            if not count:
                return
            found = wire.counters(chunk)
            if len(found) != count:
                raise BenchError(f"a recipient got a frame that is no MESSAGE: {self._first_odd(chunk, wire.PUSH)}")
            pair.arrivals.append(found)
            self.delivered += count
            if self._is_measuring:
                first = int(found[0])
                for number in range(first + (-first) % every, first + count, every):
                    if number in sent_at:
                        latencies.append(now - sent_at[number])

        return handle

    @staticmethod
    def _recv(sock: socket.socket) -> bytes:
        try:
            data = sock.recv(_RECV_BYTES)
        except BlockingIOError:
            return b""
        except OSError as exc:
            raise BenchError(f"the server broke a connection: {exc}") from exc
        if not data:
            raise BenchError("the server closed a connection")
        return data

    @staticmethod
    def _first_odd(chunk: bytes, command: int) -> object:
        odd = [pair for pair in wire.decode(chunk) if pair[0] != command or pair[1].get("code", 0) != 0]
        return odd[0] if odd else "its frames cannot be told apart"

    def _state(self, what: str) -> str:
        sent, acked = sum(pair.sent for pair in self.pairs), sum(pair.acked for pair in self.pairs)
        return f"{what} for {_NO_PROGRESS_S:.0f} s: {sent} sent, {acked} accepted, {self.delivered} delivered"
