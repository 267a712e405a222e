"""From a request to an ASGI 3 app and back: the order of messages, the app's time, and what becomes of its faults.

What an app finds in its scope beside the standard's keys:

* `imserver.certificate`: the client's TLS certificate as `ssl.SSLSocket.getpeercert` shows it, or None
* `imserver.set_timeout`: a function that takes seconds: so long the app may be silent from now on, at each step; without
  it `HttpLimits.handler_timeout_s` until the answer begins, `HttpLimits.stream_timeout_s` between its parts

A client that goes away is told by `http.disconnect` to an app that asks, and by an OSError to one that sends, as spec
version 2.4 has it. The end of what a client sends is not yet its going: what it has asked for is answered.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html, version 2.4.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import attrs
import h11
import trio

from imserver.http.connection import HttpConnection
from imserver.http.errors import HttpError
from imserver.http.head import Head
from imserver.http.limits import HttpLimits
from imserver.log import get_logger

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = get_logger("http")


class ClientGoneError(OSError):
    """The app sends, and nobody takes it any more."""


class AppFaultError(Exception):
    """The app broke the rules of ASGI."""


class Outcome(enum.Enum):
    """What becomes of the connection after a request."""

    GO_ON = enum.auto()
    #: The answer was the last one; the client may still be sending.
    END = enum.auto()
    #: Close at once: what was sent is no whole answer, or the client is gone.
    ABORT = enum.auto()


@attrs.frozen
class Peer:
    """Who asks, and where."""

    address: str
    scheme: str
    server: tuple[str, int | None]
    certificate: Mapping[str, Any] | None


async def run_app(app: ASGIApp, connection: HttpConnection, head: Head, peer: Peer, limits: HttpLimits) -> Outcome:
    """Let the app answer one request. Whatever it raises ends here.

    Raises:
        trio.BrokenResourceError: the client was gone before a refusal could be sent.
        trio.TooSlowError: the client did not take one.
    """
    return await _Exchange(connection, head, limits).run(app, peer)


class _Exchange:
    """One request and its answer."""

    def __init__(self, connection: HttpConnection, head: Head, limits: HttpLimits) -> None:
        self._connection = connection
        self._head = head
        self._stream_timeout_s = limits.stream_timeout_s
        # Where bodies have no bound, what is to be done with them may take its time too.
        self._timeout_s = limits.handler_timeout_s if connection.is_body_limited else limits.stream_timeout_s
        self._scope = trio.CancelScope()
        self._is_body_told = False  # the app has seen the end of the body
        self._start: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._has_begun = False
        self._is_complete = False
        #: The app's answer is wanted no more: the client is gone, or the server has refused the request itself.
        self._is_over = False
        self._watch: trio.CancelScope | None = None

    async def run(self, app: ASGIApp, peer: Peer) -> Outcome:
        error: Exception | None = None
        self._extend()
        with self._scope:
            try:
                await app(self._asgi_scope(peer), self._receive, self._send)
            except Exception as exc:
                error = exc
        if self._scope.cancelled_caught and not self._is_over:
            return await self._timed_out()
        if self._is_over:
            if error is not None:  # its way to say that it was told: frameworks have classes of their own for that
                _log.debug("http_app_gave_up", method=self._head.method, path=self._head.shown_path, exc_info=error)
            return Outcome.END
        if error is not None:
            return await self._failed(error)
        if not self._is_complete:
            what = "without an answer" if self._start is None else "before its answer was complete"
            return await self._failed(AppFaultError(f"the app returned {what}"))
        if not self._connection.may_go_on:
            return Outcome.END
        return Outcome.GO_ON if await self._connection.drain() else Outcome.END

    def _asgi_scope(self, peer: Peer) -> Scope:
        head = self._head
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": head.http_version,
            "method": head.method,
            "scheme": peer.scheme,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": (peer.address, 0),
            "server": peer.server,
            "extensions": {},
            "state": {},
            "imserver.certificate": peer.certificate,
            "imserver.set_timeout": self._set_timeout,
        }

    # ------------------------------------------------------------ time

    def _extend(self) -> None:
        self._scope.deadline = trio.current_time() + self._timeout_s

    def _set_timeout(self, timeout_s: float) -> None:
        self._timeout_s = self._stream_timeout_s = timeout_s
        self._extend()

    async def _timed_out(self) -> Outcome:
        _log.warning("http_timeout", method=self._head.method, path=self._head.shown_path, has_begun=self._has_begun)
        if self._connection.has_answered:
            return Outcome.END if self._is_complete else Outcome.ABORT
        await self._connection.refuse(HttpError(504, "the request ran past its deadline; try again later"))
        return Outcome.END

    async def _failed(self, error: Exception) -> Outcome:
        trace_id = secrets.token_hex(8)
        _log.error("http_app_fault", method=self._head.method, path=self._head.shown_path, trace_id=trace_id, exc_info=error)
        if self._connection.has_answered:
            return Outcome.END if self._is_complete else Outcome.ABORT
        await self._connection.refuse(HttpError(500, f"the server made a mistake; its log has the details under {trace_id}"))
        return Outcome.END

    # ------------------------------------------------------------ the app's two functions

    async def _receive(self) -> Message:
        if self._is_over or self._is_complete:
            await trio.lowlevel.checkpoint()
            return {"type": "http.disconnect"}
        if self._is_body_told:
            with trio.CancelScope() as self._watch:
                await self._connection.wait_gone()
            return {"type": "http.disconnect"}
        try:
            piece = self._connection.read_body_nowait()
            if piece is None:
                self._scope.deadline = float("inf")  # the client's time, not the app's
                piece = await self._connection.read_body()
        except HttpError as refusal:
            self._is_over = True
            await self._tell_client(refusal)
            return {"type": "http.disconnect"}
        except (trio.BrokenResourceError, trio.TooSlowError):
            self._is_over = True
            return {"type": "http.disconnect"}
        finally:
            self._extend()  # each step of the app has its own time
        self._is_body_told = self._connection.has_whole_body
        return {"type": "http.request", "body": piece, "more_body": not self._is_body_told}

    async def _tell_client(self, refusal: HttpError) -> None:
        self._scope.deadline = float("inf")
        try:
            await self._connection.refuse(refusal)
        except (trio.BrokenResourceError, trio.TooSlowError):
            _log.debug("http_client_gone", path=self._head.shown_path)
        finally:
            self._extend()

    async def _send(self, message: Message) -> None:
        if self._is_over:
            raise ClientGoneError("the client is gone, or its request was refused")
        kind = message["type"]
        if kind == "http.response.start":
            if self._start is not None:
                raise AppFaultError("an answer is started once")
            self._start = _checked_start(message)
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise AppFaultError(f"there is no message {kind!r} to send")

    async def _send_body(self, body: bytes, more: bool) -> None:
        if self._start is None:
            raise AppFaultError("an answer starts with http.response.start")
        if self._is_complete:
            raise AppFaultError("the answer is complete")
        self._scope.deadline = float("inf")  # the client's time, not the app's; writing has its own bounds
        try:
            if self._has_begun:
                await self._connection.continue_answer(body, more=more)
            else:
                self._has_begun = True
                await self._connection.answer(*self._start, body, more=more)
                self._timeout_s = self._stream_timeout_s
        except (trio.BrokenResourceError, trio.TooSlowError) as exc:
            self._is_over = True
            raise ClientGoneError(str(exc) or "the client takes nothing") from exc
        except h11.LocalProtocolError as exc:
            raise AppFaultError(f"the answer cannot be sent: {exc}") from exc
        finally:
            self._extend()
        if not more:
            self._is_complete = True
            if self._watch is not None:
                self._watch.cancel()


def _checked_start(message: Message) -> tuple[int, list[tuple[bytes, bytes]]]:
    status = message["status"]
    if not 200 <= status <= 599:
        raise AppFaultError(f"there is no status {status}")
    return status, list(message.get("headers", ()))
