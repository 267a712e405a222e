"""What a client shows to say who it is, and who it is found to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Credentials:
    """What came with a request or a handshake; at most one of the first three is given.

    Attributes:
        token: a bearer token, one's own or the integrating system's.
        api_key: the key of a back end.
        certificate: of the client, as `ssl.SSLSocket.getpeercert` gives it.
        acting_for: the user that a back end acts for (`X-IM-User`).
        address: where it came from, for the log and for the limits on guesses.
    """

    token: str | None = attrs.field(default=None, repr=False)
    api_key: str | None = attrs.field(default=None, repr=False)
    certificate: Mapping[str, Any] | None = None
    acting_for: str | None = None
    address: str = ""


@attrs.frozen
class Identity:
    """Who that is.

    Attributes:
        user_id: None for an API key that acts for nobody.
        session_id: of the token, so that its end is this one's end.
        scopes: what an API key may do: "*", a plugin's name, or "plugin.COMMAND"; None for a user's own credentials, which
            may do what the user may.
    """

    user_id: str | None
    session_id: str = ""
    device_id: str = ""
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] | None = None
    expires_at_ms: int | None = None
