"""One connected client: its input, its outbox, its deadlines. It lives in one shard's thread."""

from __future__ import annotations

import secrets
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio

from imserver.errors import FAULTS
from imserver.identity import Credentials
from imserver.outbox import Outbox, State
from imserver.protocol.body import encode_frame
from imserver.protocol.frame import FORM, GZIP, TEXT, Frame, FrameDecoder, command_of
from imserver.reactor import BROKEN, READ, WRITE
from imserver.tls import TlsSocket

if TYPE_CHECKING:
    from imserver.batch import Batch
    from imserver.shard import Shard

GOAWAY = 2

#: The longest frame of a connection that has not logged in.
MAX_FRAME_BEFORE_LOGIN_BYTES = 4096
#: How long a closing connection may take to read what is left for it.
LINGER_S = 2.0
#: The same for one that has read too slowly: before GOAWAY it has to read what the kernel holds for it, megabytes.
_SLOW_LINGER_S = 30.0
#: A session without a frame for so many heartbeats is taken for dead.
SILENT_HEARTBEATS = 3
#: How long the frames of one read are carried out at a stretch; behind that others get their turn. As long as a tick.
_TURN_S = 0.005
#: Pushes that wait while a login is being carried out.
_GATED_MAX = 10_000


#: Swallows a push before it is sent: (command, body) -> True if it was taken.
Interceptor = Callable[[int, Any], bool]


class Session(Outbox):
    """One connection and, after login, one user's device. See `Caller` for what plugins may read."""

    __slots__ = (
        "_interceptor",
        "_is_secure",
        "_is_settled",
        "_is_settling",
        "_turn_ends",
        "backlog",
        "bulk",
        "closing_notice",
        "decoder",
        "flags",
        "gate",
        "heard_at",
        "in_flight",
        "is_out_of_turn",
        "is_plain",
        "is_waiting_for_load",
        "linger_until",
        "opened_at",
        "tasks",
    )

    is_live = True

    def __init__(self, shard: Shard, sock: socket.socket | TlsSocket, address: str) -> None:
        super().__init__(shard, sock, address)
        self._is_secure = self._tls is not None and self._tls.handshake_done
        self.opened_at = self.heard_at = shard.now
        self.decoder = FrameDecoder(min(MAX_FRAME_BEFORE_LOGIN_BYTES, shard.limits.max_frame_bytes))

        #: Encoding of pushes: the first frame's; gzip if login asked for it. None: no frame yet.
        self.flags: int | None = None
        #: Async requests that run, and how to cancel them.
        self.in_flight = 0
        self.tasks: set[trio.CancelScope] = set()
        #: Held by the one request of a `bulk` command that runs. None: there was no such request yet.
        self.bulk: trio.Lock | None = None
        #: While parked: the frames that came after the one that waits; reading stops, so one read's worth comes at most.
        #: None: not parked.
        self.backlog: deque[Frame] | None = None
        #: Until when frames of this session are carried out at a stretch (monotonic seconds).
        self._turn_ends = 0.0
        self.is_waiting_for_load = False
        #: In the shard's list of those that wait for a tick of their own.
        self.is_out_of_turn = False

        #: Nothing special about sending to it: open, no gate, no interceptor.
        self.is_plain = True
        #: Pushes wait here until the login's answer is out. None: they do not wait.
        self.gate: list[bytes] | None = None
        self._interceptor: Interceptor | None = None
        self.closing_notice: tuple[str, str] | None = None
        self.linger_until: float | None = None
        #: Of a closing connection: the answers that waited for the disk are out; somebody waits for that.
        self._is_settled = self._is_settling = False
        shard.reactor.add(sock.fileno(), self, READ)
        shard.wheel.schedule(self, shard.now + shard.limits.login_timeout_s)

    # ------------------------------------------------------------ what plugins see

    def intercept(self, interceptor: Interceptor | None) -> None:
        """Let `interceptor(command, body)` see each push when it is due; what it answers True to is not sent.

        It runs in the session's shard, after the commit that the push waited for. None removes it.
        """
        self._interceptor = interceptor
        self._set_plain()

    def push(self, command: int, body: Any) -> None:
        """Send a push to this session alone, past its interceptor. It must rest on committed data."""
        frame = encode_frame(command, body, self.flags or 0)
        if self.gate is not None:
            self.gate.append(frame)
        else:
            self.send(frame)
        self.shard.end_of_turn()

    # ------------------------------------------------------------ reading

    def ready(self, events: int) -> None:
        """See `imserver.reactor.Source`."""
        if events & WRITE:
            self._write()
        if events & READ:
            self._read()
        elif events & BROKEN:
            self.lose()

    def _read(self) -> None:
        if self.state is State.CLOSED:
            return
        shard = self.shard
        buffer = shard.read_buffer
        try:
            count = self._socket.recv_into(buffer)
        except BlockingIOError:
            if self._tls is not None:
                self._see_handshake(self._tls)
            return
        except OSError:
            if self._tls is not None and self._tls.failure is not None:
                shard.note_tls_failure(self.address, self._tls.failure)
            self.lose()
            return
        if count == 0:
            self._end_of_input()
            return
        self.heard_at = shard.now
        if self._tls is not None:
            self._see_handshake(self._tls)
        if self.state is not State.OPEN:
            return  # drained, so that the peer reads our GOAWAY and not a reset
        self._take(shard.read_view[:count])

    def _take(self, data: memoryview) -> None:
        """Carry out what has come. The data is good until this returns."""
        self._begin_turn()
        self._carry_out(self.decoder.receive(data))

    def _begin_turn(self) -> None:
        self._turn_ends = monotonic() + _TURN_S

    def _carry_out(self, frames: list[Frame]) -> None:
        """Dispatch frames; from where they have had their time on, they wait for their next turn in the backlog."""
        dispatch, turn_ends = self.shard.router.dispatch, self._turn_ends
        for frame in frames:
            dispatch(self, frame)
            if monotonic() > turn_ends:
                self._give_way()

    def _give_way(self) -> None:
        """Go on in a later tick, behind what others have asked meanwhile."""
        if self.backlog is None and self.takes_frames:
            self.park()
            self.is_out_of_turn = True
            self.shard.wait_turn(self)

    def _see_handshake(self, tls: TlsSocket) -> None:
        """The handshake may have come a step further."""
        if self._is_secure or not tls.handshake_done:
            return
        self._is_secure = True
        self._mark_dirty()  # what was to be sent could not be
        certificate = tls.peer_certificate()
        if certificate is not None:
            self.shard.router.log_in(self, Credentials(certificate=certificate, address=self.address))

    def _end_of_input(self) -> None:
        """The peer sends no more. It may still read: answers that wait for the disk go out before we close."""
        if self.state is State.CLOSING or not (self.shard.waiting or self.in_flight or self.has_output or self.backlog):
            self.lose()
            return
        self._begin_closing(cancel_tasks=False)
        # The end of input stays readable: it is looked at no more, and the close need not wait for it.
        self._read_paused = True
        self._watch()

    def park(self) -> None:
        """Carry out no further frame until `resume`; reading stops, so that what waits is bounded."""
        if self.backlog is None:
            self.backlog = deque()
            self._read_paused = True
            self._watch()

    def resume(self) -> None:
        """Go on with the frames that came in the meantime; one of them may park the session again."""
        backlog, self.backlog = self.backlog, None
        self._begin_turn()
        while backlog:
            self.shard.router.dispatch(self, backlog.popleft())
            if backlog and monotonic() > self._turn_ends:
                self._give_way()
            if self.backlog is not None:
                self.backlog.extend(backlog)
                return
        if self.state is not State.CLOSED:
            self._read_paused = False
            self._watch()

    # ------------------------------------------------------------ writing

    def deliver_released(self, frame: bytes, what: object) -> None:
        """Send a frame whose time has come, to a session that is not plain.

        Args:
            what: the `rid` of an answer, or the body of a push.
        """
        if self.state is not State.OPEN:
            # Answers to what was accepted still go out; pushes will be found by SYNC.
            if self.state is State.CLOSING and isinstance(what, int):
                self.send(frame)
            return
        if isinstance(what, int):
            self.send(frame)
            return
        if self._interceptor is not None:
            try:
                if self._interceptor(command_of(frame), what):
                    return
            except FAULTS:
                self.shard.log.exception("interceptor_fault", user=self.user_id, session=self.session_id)
                self.intercept(None)
        if self.gate is None:
            self.send(frame)
        elif len(self.gate) < _GATED_MAX:
            self.gate.append(frame)
        else:
            self.go_away("slow_consumer", "too many pushes while logging in; log in again and SYNC")

    def shut_gate(self) -> None:
        """Let pushes wait until the login's answer is out."""
        self.gate = []
        self._set_plain()

    def open_gate(self) -> None:
        """The login's answer is out: let the pushes follow."""
        gate, self.gate = self.gate, None
        self._set_plain()
        for frame in gate or ():
            self.send(frame)

    # ------------------------------------------------------------ the end

    def revoke(self, error: str, message: str) -> None:
        """End the session from any thread: no frame of it is carried out from this call on; GOAWAY follows."""
        self.takes_frames = False
        self.is_revoked = True
        self.shard.post(lambda: self.go_away(error, message, code=401 if error == "kicked" else 409))

    def go_away(self, error: str, message: str, *, code: int = 503, retry_after_ms: int | None = None) -> None:
        """Say GOAWAY and close once it is out."""
        if self.state is not State.OPEN:
            return
        if error == "slow_consumer":
            self.shard.slow_consumers += 1
        fields: dict[str, Any] = {"code": code, "error": error, "message": message}
        if retry_after_ms is not None:
            fields["retry_after_ms"] = retry_after_ms
        self.send(encode_frame(GOAWAY, fields, (self.flags or 0) & FORM))
        self._begin_closing(linger_s=_SLOW_LINGER_S if error == "slow_consumer" else LINGER_S)

    def close_after_answer(self, error: str, message: str) -> None:
        """Carry out no further frame; the router says GOAWAY behind the running request's answer."""
        self.takes_frames = False
        self.closing_notice = (error, message)

    def go_away_silently(self) -> None:
        """Close once what is queued is out; an ERROR has said why."""
        if self.state is State.OPEN:
            self._begin_closing()

    def _begin_closing(self, *, cancel_tasks: bool = True, linger_s: float = LINGER_S) -> None:
        self.state = State.CLOSING
        self.takes_frames = False
        self.gate = None  # what waited for a login's answer will be found by SYNC
        self._set_plain()
        self._leave(cancel_tasks=cancel_tasks)
        self.linger_until = self.shard.now + linger_s
        self.shard.wheel.schedule(self, self.linger_until)
        if self._read_paused:
            self._read_paused = False
            self._watch()
        self._mark_dirty()
        if not self.has_output:
            self.shard.reactor.wake()

    def _finish_closing(self) -> None:
        """The outbox is empty: our side ends as soon as no answer is to come any more. The linger time bounds the wait."""
        if self.shard.waiting and not self._is_settled:
            # Others may keep the disk busy for ever: what is waited for is what waits now.
            if not self._is_settling:
                self._is_settling = True
                self.shard.start_soon(self._settle, self.shard.waiting[-1])
        elif not self.in_flight:
            self._is_settled = True
            self._end_output()

    async def _settle(self, newest: Batch) -> None:
        await self.shard.wait_settled(newest)
        self._is_settled = True
        if self.state is State.CLOSING and not self.has_output:
            self._finish_closing()
        self.shard.end_of_turn()

    def _end_output(self) -> None:
        """Behind this nothing is sent."""
        if self._read_paused:
            self.lose()  # the peer has ended its side before us
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.lose()
        else:
            if self._tls is not None and self._tls.has_unsent:
                self._wants_write = True  # the last of TLS's own, which `flush` sends and then ends our side
                self._watch()

    def lose(self) -> None:
        """The connection is gone."""
        if self.state is State.CLOSED:
            return
        was_open = self.state is State.OPEN
        self.state = State.CLOSED
        self.takes_frames = False
        self._set_plain()
        self.out.clear()
        self.out_bytes = 0
        self._unsent = b""
        self.backlog = None
        self.gate = None
        self._on_drained()
        if was_open:
            self._leave(cancel_tasks=True)
        else:
            self._cancel_tasks()  # those that were left running for a peer that had only ended its side
        self.shard.wheel.cancel(self)
        self.shard.forget(self)
        self.shard.reactor.close_socket(self._socket)

    def _leave(self, *, cancel_tasks: bool) -> None:
        """Nobody is here any more: the directory, the plugins and running requests are told, once."""
        self.shard.directory.leave(self)
        self.backlog = None
        if cancel_tasks:
            self._cancel_tasks()
        self.shard.router.disconnected(self)

    def _cancel_tasks(self) -> None:
        for scope in list(self.tasks):
            scope.cancel()

    # ------------------------------------------------------------ deadlines

    def check_deadlines(self, now: float) -> float | None:
        """See `imserver.wheel.Timed`."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.CLOSING:
            if self.linger_until is None or now >= self.linger_until:
                self.lose()
                return None
            return self.linger_until
        limits = self.shard.limits
        if not self.takes_frames and self.closing_notice is None:
            # Another shard gave it up, and could not say so here.
            self.go_away("slow_consumer", "too many pushes wait for this client; reconnect and SYNC")
            return self.linger_until
        if self.user_id is None:
            login_by = max(self.opened_at, self.shard.deaf_at) + limits.login_timeout_s
            if now < login_by:
                return login_by
            self.go_away("idle", "no login in time; log in right after connecting", code=401)
            return self.linger_until
        if self.expires_at_ms is not None and self.shard.clock.now_ms() >= self.expires_at_ms:
            self.go_away("token_expired", "the token has expired; refresh it and authenticate again", code=401)
            return self.linger_until
        life_until = self._check_life(now)
        if life_until is None:
            return self.linger_until
        next_look = max(life_until, now + 0.1)
        if self.expires_at_ms is not None:
            next_look = min(next_look, now + max(0.1, (self.expires_at_ms - self.shard.clock.now_ms()) / 1000))
        return next_look

    def _check_life(self, now: float) -> float | None:
        """Give up a peer that has been silent for too long; else when to look again."""
        silent_until = max(self.heard_at, self.shard.deaf_at) + SILENT_HEARTBEATS * self.shard.heartbeat_s
        if self.backlog is None and now >= silent_until:
            self.go_away("idle", "no frame for three heartbeats", code=408)
            return None
        return silent_until

    # ------------------------------------------------------------ login

    def bind(self, user_id: str, session_id: str, device_id: str | None) -> Session | None:
        """The session belongs to this user from now on. Returns the one that it replaces."""
        self.user_id = user_id
        self.session_id = session_id
        self.has_own_device = bool(device_id)
        self.device_id = device_id or f"dev-{secrets.token_hex(8)}"
        self.decoder.max_frame_bytes = self.shard.limits.max_frame_bytes
        self.shut_gate()
        # Its deadlines are others now: look at once when the next one is.
        self.shard.wheel.schedule(self, self.shard.now)
        return self.shard.directory.enter(self)

    def set_compress(self, compress: bool) -> None:
        """Whether bodies sent to it may be compressed: an option of LOGIN."""
        flags = self.flags or 0
        self.flags = flags | GZIP if compress else flags & ~GZIP

    def set_encoding(self, encoding: int) -> None:
        """The encoding of pushes, JSON or 0: an option of HELLO. To a connection of text messages all is text."""
        if not (self.flags or 0) & TEXT:
            self.flags = (self.flags or 0) & GZIP | encoding

    # ------------------------------------------------------------ inner

    def _set_plain(self) -> None:
        self.is_plain = self.state is State.OPEN and self.gate is None and self._interceptor is None
