"""`deliver: "missed"`: what a device has not confirmed, then live (wire protocol, section 4)."""

from __future__ import annotations

from typing import Any

import trio

from imserver.plugin import Context, Message

MESSAGE = 5001

#: Unconfirmed frames of a feed, over all its conversations.
WINDOW = 256
_PAGE = 100


class Feed:
    """One session's way from what it missed to the live pushes.

    While it runs, live messages are swallowed when they are due (they are durable by then) and read from the store in
    their turn, so that a conversation's messages come in `seq` order. It ends when nothing is left to read.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._session = ctx.connection
        #: conversation_id -> the newest seq that was sent, confirmed, and swallowed
        self._sent: dict[str, int] = {}
        self._confirmed: dict[str, int] = {}
        self._swallowed: dict[str, int] = {}
        self._outstanding = 0
        self._moved = trio.Event()
        self._session.intercept(self._swallow)

    def _swallow(self, command: int, body: Any) -> bool:
        if command != MESSAGE or not isinstance(body, Message):
            return False
        if body.seq > self._sent.get(body.conversation_id, 0):
            self._swallowed[body.conversation_id] = body.seq
        return True

    def confirm(self, conversation_id: str, seq: int) -> None:
        """The device has confirmed: there is room for more."""
        sent = self._sent.get(conversation_id)
        if sent is None:
            return
        seq = min(seq, sent)
        gained = seq - self._confirmed[conversation_id]
        if gained > 0:
            self._confirmed[conversation_id] = seq
            self._outstanding -= gained
            self._moved.set()

    async def run(self) -> None:
        """Send what is missing until the session is live or gone."""
        try:
            await self._run()
        except Exception:
            # Its live messages are swallowed as long as we are there: better that it comes again.
            self._session.go_away("unavailable", "what this device missed cannot be read; reconnect", retry_after_ms=1000)
            raise

    async def _run(self) -> None:
        user_id = self._session.user_id
        if user_id is None:
            return
        while not self._session.is_closed:
            self._swallowed.clear()
            for missed in await self._ctx.conversations.missed(user_id, self._session.device_id):
                await self._send_all(missed)
            if not self._has_more():
                # No await since the look: nothing can have come in between.
                self._session.intercept(None)
                return

    def _has_more(self) -> bool:
        return any(seq > self._sent.get(conversation_id, 0) for conversation_id, seq in self._swallowed.items())

    async def _send_all(self, missed: Any) -> None:
        conversation_id = missed.conversation_id
        if conversation_id not in self._sent:
            self._sent[conversation_id] = self._confirmed[conversation_id] = missed.after_seq
        while not self._session.is_closed:
            while self._outstanding >= WINDOW and not self._session.is_closed:
                self._moved = trio.Event()
                with trio.move_on_after(_LOOK_AGAIN_S):
                    await self._moved.wait()
            room = min(_PAGE, WINDOW - self._outstanding)
            page = await self._ctx.conversations.messages_after(missed, self._sent[conversation_id], room)
            for message in page:
                if self._session.is_backed_up:
                    await self._session.wait_room()
                    break  # this page may be an older state by now than was pushed: it is read again
                self._session.push(MESSAGE, message)
                # `seq` has holes where messages have expired: confirmations count by seq, so does the window.
                self._outstanding += message.seq - self._sent[conversation_id]
                self._sent[conversation_id] = message.seq
            if not page:
                return


_LOOK_AGAIN_S = 5.0  # whether the session is still there, while nothing is confirmed
