"""A message that grows: its text so far, what of a chunk is new, and what the members have seen."""

from __future__ import annotations

from typing import Any

from attrs import define

from imserver.plugin import Conflict


class WrongOffset(Conflict):
    """409: a chunk that is not the next one; tells what the next one's `offset` is."""

    def __init__(self, message: str, length: int) -> None:
        super().__init__(message, error="wrong_offset", field="offset")
        self.length = length

    def answer(self) -> dict[str, Any]:
        """With the `length` of what there is."""
        return {**super().answer(), "length": self.length}


@define
class Growing:
    """One of them. Hold the lock of `Streams` to change it."""

    sender: str
    conversation_id: str
    client_id: str
    message_id: str
    touched_s: float
    text: str = ""
    bytes: int = 0
    #: Characters of it that were pushed to the members.
    shown: int = 0
    #: How many are storing it just now: while it is one, nothing is added.
    storing: int = 0
    #: What END has answered, once that is durable; kept for a client that asks again.
    answer: dict[str, Any] | None = None

    @property
    def is_ended(self) -> bool:
        """It is being stored, or was: nothing is added any more."""
        return self.storing > 0 or self.answer is not None

    def rest_of(self, chunk: str, offset: int | None) -> str:
        """What of a chunk is not in it yet; empty: it came before, and its answer was lost.

        Args:
            offset: where the chunk belongs, in characters; None: at the end, whatever that is.

        Raises:
            WrongOffset: something is missing before it, or there is another text at its place.
        """
        if offset is None:
            return chunk
        length = len(self.text)
        if offset > length:
            raise WrongOffset("a chunk is missing before this one; go on from `length`", length)
        there = self.text[offset : offset + len(chunk)]
        if not chunk.startswith(there):
            raise WrongOffset("there is another text at this offset; go on from `length`", length)
        return chunk[len(there) :]

    def settle(self, answer: dict[str, Any]) -> None:
        """It is stored: its text is not needed any more."""
        self.answer = answer
        self.text = ""

    def names(self) -> dict[str, Any]:
        """What every push about it has."""
        return {
            "conversation_id": self.conversation_id,
            "message_id": self.message_id,
            "client_id": self.client_id,
            "from": self.sender,
        }
