"""What a client must remember to go on, after a restart of its process, exactly where it stopped."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from attrs import Factory, define

from .taking import take

FORMAT = 1  # of to_dict(); a later format gets a later number and reads this one


@define
class Position:
    """Where the application stands in one conversation.

    Attributes:
        taken_seq: everything up to this `seq` was taken by the application, or is not for it.
        head_seq: the highest `seq` known to exist.
        rev: every change up to this `rev` was taken.
    """

    taken_seq: int
    head_seq: int
    rev: int = 0


@define
class State:
    """The client's memory. One per user and device; grows with the number of conversations alone.

    Persist `to_dict()` (it is plain JSON) together with whatever your application makes of the messages, after
    `Client.ack(message)`; give `from_dict()` of it to `open_client` at the next start.

    Attributes:
        user_id: whose state this is; None before the first login.
        sender: begins every `client_id` that this client makes, so that it knows its own messages again.
        cursor: SYNC's cursor; "" before the first sync.
        has_synced: the first sync is complete: a conversation that turns up now is a new one.
        positions: by conversation id.
    """

    user_id: str | None = None
    sender: str = Factory(lambda: secrets.token_hex(6))
    cursor: str = ""
    has_synced: bool = False
    positions: dict[str, Position] = Factory(dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values. It holds no token and no message."""
        return {
            "format": FORMAT,
            "user_id": self.user_id,
            "sender": self.sender,
            "cursor": self.cursor,
            "has_synced": self.has_synced,
            "positions": {name: [at.taken_seq, at.head_seq, at.rev] for name, at in self.positions.items()},
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> State:
        """Make a state of what `to_dict` returned.

        Raises:
            ValueError: this is no saved state, or one of a later version. Begin with `State()` instead: the server
                still knows what this device has confirmed.
        """
        if saved.get("format") != FORMAT:
            raise ValueError(f"a client state of format {saved.get('format')!r}; this version reads {FORMAT}")
        try:
            positions = {str(name): Position(*map(int, at)) for name, at in take(saved, "positions", dict).items()}
            return cls(
                user_id=take(saved, "user_id", str, "") or None,
                sender=take(saved, "sender", str),
                cursor=take(saved, "cursor", str),
                has_synced=take(saved, "has_synced", bool),
                positions=positions,
            )
        except Exception as error:
            raise ValueError(f"a damaged client state: {error}") from error
