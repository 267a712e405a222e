"""Requests that outlive connections: asked on the present one, and again on the next where that does no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from . import commands
from .backoff import Backoff
from .connection import OnAnswer
from .errors import ConnectionLost, RequestTimeout
from .supervisor import RETRIABLE, Supervisor


class Asking:
    """Makes requests.

    Args:
        supervisor: has the connection.
        timeout_s: the deadline of a request that is given none; seconds.
    """

    def __init__(self, supervisor: Supervisor, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._supervisor = supervisor

    async def request(
        self,
        command: int,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        is_repeatable: bool | None = None,
    ) -> dict[str, Any]:
        """See `Client.request`."""
        repeat = command in commands.REPEATABLE if is_repeatable is None else is_repeatable
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        logged_in = self._supervisor.credentials is not None
        with trio.move_on_after(timeout_s):
            return await self.ask(command, body or {}, repeat=repeat, logged_in=logged_in)
        raise self.timed_out(f"command {command}", timeout_s)

    async def ask(
        self,
        command: int,
        body: Mapping[str, Any],
        *,
        repeat: bool,
        logged_in: bool,
        on_answer: OnAnswer | None = None,
    ) -> dict[str, Any]:
        """Make a request, again and again if it may be repeated. The caller sets the deadline."""
        backoff = Backoff()
        while True:
            connection = await self._supervisor.connection(logged_in=logged_in)
            try:
                return await connection.request(command, body, on_answer=on_answer)
            except ConnectionLost:
                if self._supervisor.ended is not None:
                    raise self._supervisor.ended from None
                if not repeat:
                    raise
            except RETRIABLE as error:
                delay_s = backoff.next_delay_s((error.retry_after_ms or 0) / 1000)
                if not repeat or trio.current_time() + delay_s >= trio.current_effective_deadline():
                    raise  # the refusal says more than a timeout would
                await trio.sleep(delay_s)

    async def ask_logged_in(self, command: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a request of the client's own, for as long as it takes."""
        return await self.ask(command, body, repeat=True, logged_in=True)

    def timed_out(self, what: str, timeout_s: float) -> RequestTimeout:
        """Return what a caller is told when the deadline of `what` has passed."""
        why = "" if self._supervisor.is_authenticated else f" (not connected: {self._supervisor.last_failure})"
        return RequestTimeout(f"no answer to {what} in {timeout_s:g} s{why}; it may or may not have been carried out")
