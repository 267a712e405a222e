"""What a group of commands needs of the client: to make a request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

#: `Client.request`, for the namespaces of a client.
Request = Callable[[int, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Caller(ABC):
    """The base of the parts that a `Client` is made of, one by service."""

    @abstractmethod
    async def request(
        self,
        command: int,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        is_repeatable: bool | None = None,
    ) -> dict[str, Any]:
        """See `Client.request`."""


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None: what is left out stays, or is the server's default."""
    return {name: value for name, value in fields.items() if value is not None}
