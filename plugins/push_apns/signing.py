"""The provider token of APNs: a JWT by the key of an Apple developer account, good for an hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import jwt

_MAX_FILE_BYTES: Final = 16 * 1024
#: Apple refuses tokens older than an hour, and more than one new one in 20 minutes.
_RENEW_AFTER_MS: Final = 40 * 60 * 1000
_LEAST_AGE_MS: Final = 20 * 60 * 1000


def load_key(file: Path) -> Any:
    """The private key of a `.p8` file; blocks.

    Raises:
        ValueError: there is none that is good; the message says why.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as exc:
        raise ValueError(f"cryptography is needed: pip install 'imserver[push]' ({exc})") from exc
    try:
        with file.open("rb") as opened:
            key = load_pem_private_key(opened.read(_MAX_FILE_BYTES), password=None)
    except OSError as exc:
        raise ValueError(f"key_file {file} cannot be read: {exc.strerror or exc}") from exc
    except (TypeError, ValueError) as exc:
        raise ValueError(f"key_file {file} is no private key in PEM, as Apple's AuthKey_….p8 has it: {exc}") from exc
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError(f"key_file {file} has another kind of key; Apple's are of the curve P-256")
    return key


class ProviderToken:
    """The token that is in use."""

    def __init__(self, key: Any, key_id: str, team_id: str) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._text = ""
        self._issued_at_ms = 0

    def get(self, now_ms: int) -> str:
        """It, or a new one if its time is over."""
        if not self._text or not 0 <= now_ms - self._issued_at_ms < _RENEW_AFTER_MS:
            claims = {"iss": self._team_id, "iat": now_ms // 1000}
            self._text = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
            self._issued_at_ms = now_ms
        return self._text

    def refused(self, text: str, now_ms: int) -> None:
        """Apple calls it too old: the next one is new, unless it is too young for that."""
        if text == self._text and now_ms - self._issued_at_ms >= _LEAST_AGE_MS:
            self._text = ""
