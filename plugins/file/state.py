"""What the requests of this plugin share: one object for the whole process, used from every shard's thread."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import trio
from attrs import define, field

from imserver.plugin import Conflict, RateLimited, Unavailable
from imserver_plugins.file.settings import Settings
from imserver_plugins.file.storage import FileStore

if TYPE_CHECKING:
    from imserver.plugin import Context

_T = TypeVar("_T")

#: How long a request waits for the one before it to put the upload down.
_HANDOVER_S = 10.0
#: How long a write is waited for by a request that is given up already: a commit takes milliseconds.
_DURABLE_S = 5.0


class _Turn:
    """One request's hold on a file."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.token = trio.lowlevel.current_trio_token()
        self.waiting: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []


class Turns:
    """One request at a time works on an upload, on whatever shard: the newest.

    A client whose connection broke comes back on another one, and the server may not have noticed: the older request is
    told to stop, keeps what it has received, and the newer one goes on from there.
    """

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._lock = threading.Lock()
        self.is_stopping = False

    async def stop(self) -> None:
        """Stop all that is under way, and begin nothing more; returns when each has put down what it had."""
        with self._lock:
            self.is_stopping = True
            file_ids = list(self._turns)
        for file_id in file_ids:
            while (event := self._ask_to_stop(file_id, trio.lowlevel.current_trio_token())) is not None:
                await event.wait()

    def is_taken(self, file_id: str) -> bool:
        """Whether a request works on this file."""
        return file_id in self._turns

    @asynccontextmanager
    async def turn(self, file_id: str) -> AsyncIterator[None]:
        """Work on a file alone.

        Raises:
            Conflict: the one before does not stop; or, inside: a newer request wants to go on.
            Unavailable: the server stops.
        """
        mine = _Turn()
        with trio.move_on_after(_HANDOVER_S):
            while not self._take(file_id, mine):
                event = self._ask_to_stop(file_id, mine.token)
                if event is not None:
                    await event.wait()
        if self._turns.get(file_id) is not mine:
            raise Conflict("another request is at work on this upload; try again")
        try:
            with mine.scope:
                yield
        finally:
            with self._lock:
                del self._turns[file_id]
            for token, waiter in mine.waiting:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(waiter.set)
        if mine.scope.cancelled_caught:
            if self.is_stopping:
                raise _stopping()
            raise Conflict("another request has gone on with this upload")

    def _take(self, file_id: str, mine: _Turn) -> bool:
        with self._lock:
            if self.is_stopping:
                raise _stopping()
            return self._turns.setdefault(file_id, mine) is mine

    def _ask_to_stop(self, file_id: str, token: trio.lowlevel.TrioToken) -> trio.Event | None:
        """Ask the one who has the turn to stop; None: nobody has. Gives what tells, in the loop of `token`, that it did."""
        with self._lock:
            holder = self._turns.get(file_id)
            if holder is None:
                return None
            event = trio.Event()
            holder.waiting.append((token, event))
        with suppress(trio.RunFinishedError):
            holder.token.run_sync_soon(holder.scope.cancel)
        return event


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping; go on when it is back")


class Slots:
    """How many requests a user is sending a body with."""

    def __init__(self, per_user: int) -> None:
        self._per_user = per_user
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, user_id: str) -> Iterator[None]:
        """One of a user's uploads.

        Raises:
            RateLimited: too many are under way.
        """
        with self._lock:
            taken = self._taken.get(user_id, 0)
            if taken >= self._per_user:
                raise RateLimited(f"at most {self._per_user} uploads at once; wait for one to end", retry_after_ms=1000)
            self._taken[user_id] = taken + 1
        try:
            yield
        finally:
            with self._lock:
                if self._taken[user_id] == 1:
                    del self._taken[user_id]
                else:
                    self._taken[user_id] -= 1


@define
class State:
    """See the module."""

    settings: Settings
    files: FileStore
    slots: Slots
    turns: Turns = field(factory=Turns)
    #: Being removed: no message may come to hold them any more. See `access.check_and_hold`.
    dying: set[str] = field(factory=set)

    def orphan_until(self, now_ms: int) -> int:
        """When a file goes that nobody holds from now on."""
        return now_ms + round(self.settings.orphan_ttl_s * 1000)


async def durable(write: Awaitable[_T]) -> _T:
    """Wait for a write even if the request is cancelled (its client has gone): what follows from it must be done.

    Raises:
        Unavailable: it takes too long; whether it is stored is not known.
    """
    with trio.move_on_after(_DURABLE_S, shield=True):
        return await write
    raise Unavailable("the database takes too long; try again later")


def user_of(ctx: Context) -> str:
    """The user who asks; the server lets nobody else in."""
    user_id = ctx.session.user_id
    assert user_id is not None
    return user_id
