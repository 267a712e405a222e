"""API keys: how they look, and who is told apart by them.

`imk_<id>_<secret>`: the id finds the row, the secret is 256 random bits of which SHA-256 is stored. A hash made to be slow
would protect a weak secret from whoever has read the database; this one needs none.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from imserver_plugins.user.store.api_keys import ApiKey

_KEY = re.compile(r"imk_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)
_ID_BYTES = 8
_SECRET_BYTES = 32


@frozen
class ShownKey:
    """A key as its holder has it."""

    key_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the back end sends as `X-API-Key`."""
        return f"imk_{self.key_id}_{self.secret}"

    @property
    def secret_hash(self) -> bytes:
        """What is stored of it."""
        return hashlib.sha256(self.secret.encode()).digest()

    def opens(self, key: ApiKey) -> bool:
        """Whether it is this one; how long that takes does not depend on where they differ."""
        return hmac.compare_digest(self.secret_hash, key.secret_hash)


def new() -> ShownKey:
    """A key that nobody has."""
    return ShownKey(secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES))


def read(text: str) -> ShownKey | None:
    """A client's key; None: it was never one."""
    match = _KEY.fullmatch(text)
    return None if match is None else ShownKey(match[1], match[2])
