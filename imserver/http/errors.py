"""The answers that the server gives of itself: refusals, and faults of the app."""

from __future__ import annotations

import json
from collections.abc import Sequence

#: The names of section 2 of the wire protocol, and of the nearest kin where it has none.
NAMES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    417: "bad_request",
    426: "upgrade_required",
    429: "rate_limited",
    431: "too_large",
    500: "internal",
    501: "not_implemented",
    503: "unavailable",
    504: "timeout",
    505: "not_implemented",
}


class HttpError(Exception):
    """A request is answered by this status; what has been read of it is no reason to read on.

    Args:
        message: for a person; says what to do.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, message: str, *, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def body(self, path: str | None) -> tuple[bytes, str]:
        """(body, content type): the API's paths get the fields of an error answer, people get text.

        Args:
            path: of the request; None: it could not be read.
        """
        if path is None or not (path == "/v1" or path.startswith("/v1/")):
            return self.message.encode() + b"\n", "text/plain; charset=utf-8"
        name = NAMES.get(self.status, "bad_request" if self.status < 500 else "internal")
        fields = {"code": self.status, "error": name, "message": self.message}
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n", "application/json"
