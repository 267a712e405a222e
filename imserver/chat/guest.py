"""Trio as a guest in asyncio: prompt_toolkit is made for asyncio, the client for Trio, and both run in this one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import trio


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run a Trio program inside an asyncio loop; returns what it returned.

    Raises:
        KeyboardInterrupt: by SIGINT; the program was cancelled first, and has cleaned up.
    """
    return asyncio.run(_host(main))


async def _host(main: Callable[[], Awaitable[int]]) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()  # of the guest's `Outcome`
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []

    async def guest() -> int:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            return await main()
        raise KeyboardInterrupt

    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
        strict_exception_groups=True,
    )
    try:
        outcome = await asyncio.shield(ended)
    except asyncio.CancelledError:
        # SIGINT, by asyncio's own handler: the guest is let go in good order.
        if token:
            token[0].run_sync_soon(scope.cancel)
        else:
            scope.cancel()
        outcome = await ended
    status: int = outcome.unwrap()
    return status


async def run_hosted(work: Callable[[], Awaitable[Any]], stop: Callable[[], object]) -> Any:
    """From Trio inside `run`: run an asyncio coroutine in the host loop, and wait for it.

    Args:
        work: makes the coroutine.
        stop: ends it early, in good order, when this task is cancelled.
    """
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()
    task = asyncio.ensure_future(work())
    task.add_done_callback(lambda _: token.run_sync_soon(done.set))
    try:
        await done.wait()
    except trio.Cancelled:
        stop()
        # Shielded: what is under way only gives the terminal back.
        with trio.CancelScope(shield=True):
            await done.wait()
        raise
    return task.result()
