"""`open_client`: makes a client, and runs its background tasks around the application's block."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

import trio

from .backoff import Backoff
from .client import Client
from .delivery import History
from .errors import ClientClosed
from .http import Site
from .state import State
from .supervisor import Timing
from .transport import Connector, opener_for, opener_of, parse_address

MAX_SENDS_IN_FLIGHT: Final = 256


@asynccontextmanager
async def open_client(
    address: str | Connector,
    *,
    ssl_context: ssl.SSLContext | None = None,
    http: str | None = None,
    state: State | None = None,
    history: Literal["undelivered", "unread", "new", "all"] = "undelivered",
    timeout_s: float = 15.0,
    max_sends_in_flight: int = MAX_SENDS_IN_FLIGHT,
    backoff_min_s: float = 0.1,
    backoff_max_s: float = 30.0,
    uniform: Callable[[float, float], float] = random.uniform,
    timing: Timing | None = None,
) -> AsyncIterator[Client]:
    """Open a client; it connects when it is first asked for something, and keeps its connection from the login on.

    Args:
        address: `host:port` or `tcp://host:port` (TCP), `tls://host:port` (TCP with TLS), `ws://host:port/ws`,
            `wss://host/ws` (WebSocket), `http://…` and `https://…` (the WebSocket of the server with this page), or an
            async function that opens a `trio.abc.Stream`.
        ssl_context: for `tls://`, `wss://` and `https://`: which authorities are trusted, and a client certificate;
            by default the system's authorities and none.
        http: where files go: the server's page, `http://…` or `https://…`. By default it is found from the address of a
            WebSocket or a page; with a TCP address it is wanted for `upload` and `download` alone.
        state: where an earlier run of this program stopped; changed in place (`client.state`).
        history: where to begin in each conversation without a saved state: after what this device has confirmed
            (`undelivered`), after what the user has read (`unread`), with what comes from now on (`new`), or at
            the beginning (`all`).
        timeout_s: the deadline of each call, unless the call is given its own; seconds.
        max_sends_in_flight: how many `send` may wait for the server at once; more wait in line.
        backoff_min_s, backoff_max_s: the ceiling of the delay between two attempts to connect doubles from one to
            the other; each delay is drawn between 0 and the ceiling by `uniform`.
        timing: the finer patience; see `Timing`.

    Raises:
        SessionEnded: the server ended the session for good (`SessionReplaced`, `SessionKicked`,
            `AuthenticationLost`); the block is cancelled and this comes out of it.
        ValueError: the address is none, or `ssl_context` is given for one without TLS.

    Whatever the block raises comes out as it is, never in an exception group of this client's.

    Source: docs/reference/client.md.
    """
    if isinstance(address, str):
        open_stream = opener_for(address, ssl_context)
    elif ssl_context is None:
        open_stream = opener_of(address)
    else:
        raise ValueError("ssl_context is for addresses; your own function is to do TLS itself")
    if http is None and isinstance(address, str) and parse_address(address).scheme in ("ws", "wss"):
        http = address
    client = Client(
        open_stream,
        site=None if http is None else Site.of(http, ssl_context),
        state=State() if state is None else state,
        history=History(history),
        timeout_s=timeout_s,
        max_sends_in_flight=max_sends_in_flight,
        backoff=Backoff(backoff_min_s, backoff_max_s, uniform),
        timing=timing or Timing(),
    )
    # Which error comes out, of those that may be there at once: the block's own, else that of a background task (a bug of
    # ours, or KeyboardInterrupt), freed of the nurseries' groups where it is alone, else the one that ended the client.
    from_block: BaseException | None = None
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client._run, nursery.cancel_scope)
            try:
                yield client
                await client._finish()
            except trio.Cancelled:
                raise
            except BaseException as error:
                from_block = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = from_block or _unwrap(group)
    finally:
        ended = client._supervisor.ended
        client._supervisor.end(ClientClosed("this client's `async with` block has ended"))
    if failure is not None or ended is not None:
        raise failure or ended or AssertionError


def _unwrap(error: BaseException) -> BaseException:
    """Take an exception out of the groups that hold nothing else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
