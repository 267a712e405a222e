"""A client of a server under test: one connection, by a socket pair instead of a port."""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any

import attrs
import trio

from imserver.client.errors import ServerError
from imserver.client.frames import FrameDecoder, decode_body, encode_frame

GOAWAY, ERROR, AUTH = 2, 3, 1003
#: How long an answer or a push is waited for, in real seconds: a test that would wait for ever fails by this.
PATIENCE_S = 10.0
_READ_BYTES = 65536


class ConnectionEnded(AssertionError):
    """The server closed the connection; `message` has the reason that it gave in GOAWAY or ERROR, if it gave one."""


class NothingCame(AssertionError):
    """What the test waited for did not come; the message says what came instead."""


@attrs.frozen
class Push:
    """A frame that came unasked."""

    command: int
    fields: dict[str, Any]


#: Makes a user known to the server and gives a token of theirs: (user, roles).
MakeToken = Callable[[str, frozenset[str]], Awaitable[str]]


class Client:
    """One connection to the server. Several tasks may use it at once.

    Attributes:
        user: who is logged in, None before `login`.
        token: an access token of theirs, for `Server.http`.
        is_silent: with True it sends no heartbeats: the server takes it for dead after three that are missing.
    """

    def __init__(self, sock: socket.socket, make_token: MakeToken) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._make_token = make_token
        self._decoder = FrameDecoder()
        self._rids = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._pushes: deque[Push] = deque()
        self._has_ended = False
        self._reason = ""
        self._news = trio.Event()
        self._reading = trio.Lock()
        self._sending = trio.Lock()
        self.user: str | None = None
        self.token = ""
        self.is_silent = False

    # ------------------------------------------------------------ life

    async def login(self, user: str, *, roles: Iterable[str] = (), **fields: Any) -> dict[str, Any]:
        """Log in as a user, who is made if there is none, by a token as an integrating system signs it.

        Args:
            roles: of a user that this makes, such as `["admin"]`.
            fields: more fields of AUTH: `device_id`, `platform`, `deliver`, `sync`.

        Returns the answer's fields.
        """
        self.token = await self._make_token(user, frozenset(roles))
        answer = await self.request(AUTH, token=self.token, **fields)
        self.user = user
        return answer

    def close(self) -> None:
        """Close the connection, without a word as a client that loses its network. May be called again."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        self._end()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """The connection has ended, by whichever side."""
        self._read_now()
        return self._has_ended

    # ------------------------------------------------------------ asking

    async def request(self, command: int, /, **fields: Any) -> dict[str, Any]:
        """Ask, and wait for the answer: its fields without `rid` and `code`.

        Raises:
            ServerError: the server refused; see `imserver.client.errors` for its subclasses by code.
            ConnectionEnded: the connection ended before the answer.
        """
        rid = next(self._rids)
        await self._send(encode_frame(command, {"rid": rid, **fields}))
        await self._wait(lambda: rid in self._answers, lambda: f"no answer to {command}")
        answer = self._answers.pop(rid)
        if answer["code"] != 0:
            raise ServerError.from_answer(answer, command)
        return {name: value for name, value in answer.items() if name not in ("rid", "code")}

    async def send(self, command: int, /, **fields: Any) -> None:
        """Send a frame that asks for no answer."""
        await self._send(encode_frame(command, fields))

    async def _send(self, frame: bytes) -> None:
        left = memoryview(frame)
        async with self._sending:
            with trio.move_on_after(PATIENCE_S):
                while left:
                    if self._has_ended:
                        raise ConnectionEnded("the connection has ended" + self._reason)
                    try:
                        left = left[self._socket.send(left) :]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._socket)
                    except OSError:
                        self._read_now()
                        self._end()
            if left:
                raise NothingCame(f"the server reads nothing; {len(left)} bytes are left")

    # ------------------------------------------------------------ pushes

    async def push(self, command: int | None = None) -> dict[str, Any]:
        """The fields of the next push of this command, taken out of `pushes`; None: of any. Waits for it.

        Raises:
            NothingCame: none came in 10 seconds of real time.
            ConnectionEnded: none can come any more.
        """

        def first() -> Push | None:
            return next((push for push in self._pushes if command is None or push.command == command), None)

        await self._wait(lambda: first() is not None, lambda: f"no push {'' if command is None else command}".rstrip())
        found = first()
        assert found is not None
        self._pushes.remove(found)
        return found.fields

    @property
    def pushes(self) -> list[Push]:
        """The pushes that have come and that `push` has not taken. Await `Server.settle` before you say there are none."""
        self._read_now()
        return list(self._pushes)

    # ------------------------------------------------------------ reading

    async def _wait(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        with trio.move_on_after(PATIENCE_S):
            while not condition():
                if self._has_ended:
                    raise ConnectionEnded(f"{what()}: the connection has ended{self._reason}")
                await self._read()
        if not condition():
            came = ", ".join(str(push.command) for push in self._pushes) or "nothing"
            raise NothingCame(f"{what()} in {PATIENCE_S:g} s; what came and was not taken: {came}")

    async def _read(self) -> None:
        """Wait for news; one of those who wait reads for all."""
        if self._reading.locked():
            await self._news.wait()
            return
        async with self._reading:
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except (trio.ClosedResourceError, ValueError):  # closed by another task
                self._end()
            else:
                self._read_now()
            finally:
                self._tell()

    def _read_now(self) -> None:
        """Take in what has arrived."""
        while not self._has_ended:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            self._decoder.feed(data)
            while (frame := self._decoder.next_frame()) is not None:
                fields = decode_body(frame)
                if "rid" in fields:
                    self._answers[fields["rid"]] = fields
                else:
                    self._pushes.append(Push(frame.command, fields))
                    if frame.command in (GOAWAY, ERROR):
                        self._reason = f": {fields['error']}: {fields['message']}"
            self._tell()

    def _end(self) -> None:
        self._has_ended = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
