"""Messages on their way to the server: in line by conversation, and sent again until there is an answer."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import trio

from . import commands
from .asking import Asking
from .bell import Bell
from .changes import Changes
from .connection import OnAnswer
from .delivery import Delivery
from .errors import ClientError, ServerError, Unauthenticated
from .lines import Lines
from .state import State
from .supervisor import Supervisor
from .taking import take, take_maps
from .types import Draft, Sent


class Outgoing:
    """Carries SEND and SEND_BATCH through.

    Args:
        max_in_flight: how many of them wait for the server at once.
        changed: rung when an answer opens something to fetch.
    """

    def __init__(
        self,
        asking: Asking,
        supervisor: Supervisor,
        state: State,
        delivery: Delivery,
        changes: Changes,
        changed: Bell,
        *,
        max_in_flight: int,
    ) -> None:
        self._asking = asking
        self._supervisor = supervisor
        self._state = state
        self._delivery = delivery
        self._changes = changes
        self._changed = changed
        self._slots = trio.Semaphore(max_in_flight)
        self._lines = Lines()

    async def send(self, draft: Draft, *, expires_in_ms: int | None, store: bool, timeout_s: float | None) -> Sent:
        """See `Client.send`."""
        fields = self._fields(draft)
        if expires_in_ms is not None:
            fields["expires_in_ms"] = expires_in_ms
        if not store:
            fields["store"] = False
        sent: list[Sent] = []

        def on_answer(answer: dict[str, Any]) -> None:
            sent.append(self._note_sent(answer, fields["client_id"]))

        await self._carry(commands.SEND, fields, [fields], on_answer, timeout_s)
        return sent[-1]

    async def send_batch(self, drafts: Sequence[Draft], *, timeout_s: float | None) -> list[Sent | ServerError]:
        """See `Client.send_batch`."""
        fields = [self._fields(draft) for draft in drafts]
        results: list[Sent | ServerError] = []

        def on_answer(answer: dict[str, Any]) -> None:
            results.clear()
            for entry, item in zip(take_maps(answer, "results"), fields, strict=False):
                if take(entry, "code", int, 0):
                    results.append(ServerError.from_answer(entry, commands.SEND))
                else:
                    results.append(self._note_sent(entry, item["client_id"]))

        await self._carry(commands.SEND_BATCH, {"messages": fields}, fields, on_answer, timeout_s)
        if len(results) != len(fields):
            raise ClientError(f"the server answered {len(results)} of the batch's {len(fields)} messages")
        return results

    def _fields(self, draft: Draft) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "conversation_id" if _is_conversation(draft.to) else "to": draft.to,
            "client_id": draft.client_id or f"{self._state.sender}.{secrets.token_hex(12)}",
            "body": draft.body,
            "type": draft.type,
        }
        if draft.reply_to is not None:
            fields["reply_to"] = draft.reply_to
        if draft.mentions:
            fields["mentions"] = list(draft.mentions)
        return fields

    async def _carry(
        self,
        command: int,
        body: Mapping[str, Any],
        messages: Sequence[dict[str, Any]],
        on_answer: OnAnswer,
        timeout_s: float | None,
    ) -> None:
        """Carry a SEND or SEND_BATCH through, in line with the others to the same conversations."""
        if (credentials := self._supervisor.credentials) is None:
            raise Unauthenticated(401, "unauthenticated", "log in before you send", command=command)
        timeout_s = self._asking.timeout_s if timeout_s is None else timeout_s
        lines = sorted({_conversation_of(credentials.user_id, message) for message in messages})
        with trio.move_on_after(timeout_s):
            async with self._lines.all_of(lines), self._slots:
                with ExitStack() as marks:
                    for message in messages:
                        self._delivery.sending.add(message["client_id"])
                        marks.callback(self._delivery.sending.discard, message["client_id"])
                    await self._asking.ask(command, body, repeat=True, logged_in=True, on_answer=on_answer)
            return
        raise self._asking.timed_out("the message", timeout_s)

    def _note_sent(self, answer: Mapping[str, Any], client_id: str) -> Sent:
        """Take in an answer before any push behind it, so that one's own place is no gap."""
        sent = Sent.from_wire(answer, client_id)
        if sent.seq is not None:
            self._delivery.sent(sent.conversation_id, sent.seq)
            self._changes.sent(sent.conversation_id, sent.seq)
            if self._delivery.wants_sync or self._delivery.is_behind:
                self._changed.ring()
        return sent


def _is_conversation(to: str) -> bool:
    return to.startswith(("d:", "g:"))  # a user id holds no colon


def _conversation_of(user_id: str, fields: Mapping[str, Any]) -> str:
    """Return the conversation id of a SEND, so that both ways to name it are one line."""
    to = fields.get("to")
    if to is None:
        return str(fields["conversation_id"])
    return "d:" + ":".join(sorted((user_id, to), key=str.encode))
