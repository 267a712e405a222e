"""The signature of a post, as that of webhooks: HMAC-SHA256 over the time and the body."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MIN_KEY_BYTES: Final = 16
_MAX_FILE_BYTES: Final = 16 * 1024
_MAX_KEYS: Final = 4


def read_keys(secret: str, secret_file: Path | None) -> tuple[bytes, ...]:
    """The keys, those of a file one a line; while a key is replaced a post bears a signature by each. Blocks.

    Raises:
        ValueError: there is none, or one is too short, or the file cannot be read.
    """
    if bool(secret) == (secret_file is not None):
        raise ValueError("give secret or secret_file, one of them")
    text = secret.encode()
    if secret_file is not None:
        try:
            with secret_file.open("rb") as file:
                text = file.read(_MAX_FILE_BYTES)
        except OSError as exc:
            raise ValueError(f"secret_file {secret_file} cannot be read: {exc.strerror or exc}") from exc
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 1 <= len(keys) <= _MAX_KEYS or any(len(key) < MIN_KEY_BYTES for key in keys):
        raise ValueError(f"a secret has {MIN_KEY_BYTES} bytes at least, a file 1 to {_MAX_KEYS} of them, one a line")
    return keys


def signed_headers(keys: Sequence[bytes], body: bytes, now_ms: int) -> dict[str, str]:
    """`X-IM-Timestamp` (seconds since the Unix epoch) and `X-IM-Signature` (`v1=` and hex digits, by each key)."""
    timestamp = str(now_ms // 1000)
    signed = b"%b.%b" % (timestamp.encode(), body)
    signatures = ",".join(f"v1={hmac.new(key, signed, hashlib.sha256).hexdigest()}" for key in keys)
    return {"X-IM-Timestamp": timestamp, "X-IM-Signature": signatures}
