"""Connects the pairs and drives them through warm-up, the measured span and the rest: one epoll loop."""

from __future__ import annotations

import gc
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jwt
from attrs import frozen

from imserver.bench.framing import FRAMINGS, Address, Framing, shake_hands
from imserver.bench.pair import Recipient, Sender
from imserver.bench.wire import AUTH, BenchFailed, Naming, frames_of, pack

#: After the last message: how long nothing more must come. A message that is pushed twice would come then.
QUIET_S = 0.25
_TOKEN_TTL_S = 3600
_READ_BYTES = 65536
_LOOK_S = 0.25  # how often progress is looked at
_EPOLLIN = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
_now = time.perf_counter


@frozen
class Pair:
    """A sender and its recipient."""

    sender: Sender
    recipient: Recipient

    @property
    def awaited(self) -> int:
        """How many pushes are due: one for each message, but for those that were refused."""
        return self.sender.sent - len(self.sender.refused)


@frozen
class Mark:
    """A moment at the edge of the measured span. CPU times are of the whole process, in seconds."""

    at_s: float
    delivered: int
    load_cpu_s: float
    server_cpu_s: float | None


# ---------------------------------------------------------------- connecting


@contextmanager
def connected(address: Address, secret: bytes, count: int, naming: Naming, *, patience_s: float) -> Iterator[list[Pair]]:
    """Pairs of logged-in connections; all are closed at the end.

    No user is registered: each gets a token as an integrating system would sign it, and exists from its AUTH on.

    Raises:
        BenchFailed: the server cannot be reached, or refuses a token.
    """
    framing = FRAMINGS[address.transport]
    users = [user for index in range(count) for user in naming.users(index)]
    with authenticated(address, secret, users, patience_s=patience_s) as sockets:
        push_ids = naming.push_ids()
        pairs = []
        for index in range(count):
            sender, recipient = naming.users(index)
            pairs.append(
                Pair(
                    Sender(sockets[2 * index], framing, sender, recipient, naming, index),
                    Recipient(sockets[2 * index + 1], framing, recipient, sender, naming, index, push_ids),
                )
            )
        yield pairs


@contextmanager
def authenticated(
    address: Address, secret: bytes, users: Sequence[str], *, patience_s: float
) -> Iterator[list[socket.socket]]:
    """A logged-in, non-blocking connection of each user; all are closed at the end.

    Raises:
        BenchFailed: the server cannot be reached, or refuses a token.
    """
    framing = FRAMINGS[address.transport]
    _allow_descriptors(len(users) + 100)
    sockets: list[socket.socket] = []
    try:
        for user in users:
            sockets.append(_open(address, patience_s))
            if address.transport == "ws":
                _shake_hands(sockets[-1], address)
            now = int(time.time())
            token = jwt.encode({"sub": user, "iat": now, "exp": now + _TOKEN_TTL_S}, secret, algorithm="HS256")
            auth = pack(AUTH, {"rid": 1, "token": token, "device_id": "bench"})
            sockets[-1].sendall(framing.header(len(auth)) + auth)
        for user, sock in zip(users, sockets, strict=True):
            _, body = receive_frames(sock, framing)[0]
            if body.get("code") != 0:
                raise BenchFailed(f"the server refused AUTH of {user} ({body}); is this its secret file?")
            sock.setblocking(False)
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def _open(address: Address, patience_s: float) -> socket.socket:
    try:
        sock = socket.create_connection((address.host, address.port), timeout=patience_s)
    except OSError as exc:
        raise BenchFailed(f"cannot connect to {address}: {exc}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _shake_hands(sock: socket.socket, address: Address) -> None:
    try:
        shake_hands(sock, address)
    except OSError as exc:
        raise BenchFailed(f"no answer to the WebSocket's handshake from {address}: {exc}") from exc


def receive_frames(sock: socket.socket, framing: Framing) -> list[tuple[int, dict[str, object]]]:
    """What comes next from a blocking socket, decoded: one frame, or those of one message.

    Raises:
        BenchFailed: the connection ends, or nothing comes within the socket's time-out.
    """
    try:
        return list(frames_of(framing.receive(sock)))
    except OSError as exc:
        raise BenchFailed(f"no answer from the server: {exc}") from exc


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise BenchFailed(f"{wanted} open files are needed, but the system's limit is {hard}: raise `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# ---------------------------------------------------------------- driving


class Load:
    """Drives pairs, all from one thread.

    Args:
        pairs: logged in, and idle.
        in_flight: how many messages each sender keeps unanswered.
        stall_s: without any progress for so long, the run fails.
        server_cpu: gives the CPU seconds that the server has used so far, or None.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        in_flight: int,
        stall_s: float,
        server_cpu: Callable[[], float | None],
    ) -> None:
        self._pairs = pairs
        self._in_flight = in_flight
        self._stall_s = stall_s
        self._server_cpu = server_cpu
        self._last_total = -1
        self._progress_at = 0.0
        #: The edges of the measured span, as far as it was reached.
        self.begin: Mark | None = None
        self.end: Mark | None = None

    def run(self, *, warmup_s: float, seconds: float) -> None:
        """Warm up, measure, stop sending, and wait until all is answered and delivered and nothing more comes.

        Raises:
            BenchFailed: a connection ended, the server sent GOAWAY or ERROR, or nothing moved for `stall_s`.
        """
        # Nothing here makes cycles; a collection in the measured span would only be the load's own pause.
        gc.collect()
        gc.disable()
        try:
            with select.epoll() as epoll:
                self._run(epoll, warmup_s, seconds)
        finally:
            gc.enable()

    def _run(self, epoll: select.epoll, warmup_s: float, seconds: float) -> None:
        ends: dict[int, Sender | Recipient] = {}
        for pair in self._pairs:
            for end in (pair.sender, pair.recipient):
                ends[end.sock.fileno()] = end
                epoll.register(end.sock.fileno(), select.EPOLLIN)
        blocked: set[int] = set()  # the senders whose socket is full

        self._progress_at = _now()
        for pair in self._pairs:
            pair.sender.is_sending = True
            pair.sender.send(self._in_flight)
            if pair.sender.unsent:
                blocked.add(pair.sender.sock.fileno())
                epoll.modify(pair.sender.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        self._spin(epoll, ends, blocked, _now() + warmup_s)
        self.begin = self._mark()
        self._spin(epoll, ends, blocked, self.begin.at_s + seconds)
        self.end = self._mark()
        for pair in self._pairs:
            pair.sender.is_sending = False
        while self._turn(epoll, ends, blocked, QUIET_S) or not self._is_complete():
            self._look()

    def _spin(self, epoll: select.epoll, ends: dict[int, Sender | Recipient], blocked: set[int], until: float) -> None:
        look_at = 0.0
        while (now := _now()) < until:
            if now >= look_at:
                self._look()
                look_at = now + _LOOK_S
            self._turn(epoll, ends, blocked, min(until - now, _LOOK_S))

    def _turn(self, epoll: select.epoll, ends: dict[int, Sender | Recipient], blocked: set[int], timeout_s: float) -> bool:
        """Serve every socket that is ready; False: there was none within the time."""
        events = epoll.poll(timeout_s)
        for descriptor, mask in events:
            end = ends[descriptor]
            if mask & _EPOLLIN:
                try:
                    data = end.sock.recv(_READ_BYTES)
                    if data:
                        end.receive(data)
                except OSError as exc:
                    raise BenchFailed(f"the connection of {end.user_id} broke: {exc}") from exc
                if not data:
                    raise BenchFailed(f"the server closed the connection of {end.user_id}")
            if isinstance(end, Sender) and (end.unsent or descriptor in blocked):
                self._unblock(epoll, end, descriptor, mask, blocked)
        return bool(events)

    @staticmethod
    def _unblock(epoll: select.epoll, sender: Sender, descriptor: int, mask: int, blocked: set[int]) -> None:
        if mask & select.EPOLLOUT:
            sender.flush()
        if sender.unsent and descriptor not in blocked:
            blocked.add(descriptor)
            epoll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)
        elif not sender.unsent and descriptor in blocked:
            blocked.discard(descriptor)
            epoll.modify(descriptor, select.EPOLLIN)

    # ------------------------------------------------------------ looking

    def _mark(self) -> Mark:
        delivered = sum(pair.recipient.delivered for pair in self._pairs)
        return Mark(_now(), delivered, time.process_time(), self._server_cpu())

    def _look(self) -> None:
        total = sum(pair.sender.acked + pair.recipient.delivered for pair in self._pairs)
        now = _now()
        if total != self._last_total:
            self._last_total, self._progress_at = total, now
        elif now - self._progress_at >= self._stall_s:
            raise BenchFailed(f"nothing has moved for {self._stall_s:g} s")

    def _is_complete(self) -> bool:
        return all(
            pair.sender.acked >= pair.sender.sent and pair.recipient.delivered >= pair.awaited for pair in self._pairs
        )


def state_of(pairs: Sequence[Pair]) -> str:
    """Where the run stands, for a person."""
    sent = sum(pair.sender.sent for pair in pairs)
    acked = sum(pair.sender.acked for pair in pairs)
    refused = sum(len(pair.sender.refused) for pair in pairs)
    delivered = sum(pair.recipient.delivered for pair in pairs)
    return f"{sent} sent, {acked} answered ({refused} of them refused), {delivered} delivered"
