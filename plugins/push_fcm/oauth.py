"""The access token of a Google service account: asked for with a signed JWT, and kept until its time is nearly over.

Source: RFC 7523; Google, "Using OAuth 2.0 for server to server applications".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import jwt
import msgspec
import trio

from imserver.plugin import Unavailable

if TYPE_CHECKING:
    from imserver.plugin import HttpClient

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_MAX_FILE_BYTES: Final = 64 * 1024
_ASSERTION_S: Final = 3600
#: A token is renewed so long before it ends.
_EARLIER_MS: Final = 60_000


class ServiceAccount(msgspec.Struct, frozen=True):
    """What is needed of the JSON file that Google gives for a service account."""

    project_id: str
    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"


def load_account(file: Path) -> tuple[ServiceAccount, Any]:
    """A service account and its private key; blocks.

    Raises:
        ValueError: there is none that is good; the message says why.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as exc:
        raise ValueError(f"cryptography is needed: pip install 'imserver[push]' ({exc})") from exc
    try:
        with file.open("rb") as opened:
            account = msgspec.json.decode(opened.read(_MAX_FILE_BYTES), type=ServiceAccount)
        key = load_pem_private_key(account.private_key.encode(), password=None)
    except OSError as exc:
        raise ValueError(f"service_account_file {file} cannot be read: {exc.strerror or exc}") from exc
    except msgspec.MsgspecError as exc:
        raise ValueError(f"service_account_file {file} is no service account's JSON file: {exc}") from exc
    except (TypeError, ValueError):
        raise ValueError(
            f"service_account_file {file}: its private_key is no key in PEM"
        ) from None  # it may show some of it
    if not isinstance(key, RSAPrivateKey):
        raise ValueError(f"service_account_file {file} has another kind of key; Google's are RSA")
    return account, key


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: int


class AccessToken:
    """The token that is in use; whoever comes while a new one is asked for waits for the same."""

    def __init__(self, account: ServiceAccount, key: Any, client: HttpClient) -> None:
        self._account = account
        self._key = key
        self._client = client
        self._text = ""
        self._until_ms = 0
        self._asking = trio.Lock()

    async def get(self, now_ms: int) -> str:
        """It, or a new one if its time is over.

        Raises:
            Unavailable: there is none to be had.
        """
        async with self._asking:
            if now_ms >= self._until_ms:
                granted = await self._ask(now_ms)
                self._text = granted.access_token
                self._until_ms = now_ms + granted.expires_in * 1000 - _EARLIER_MS
            return self._text

    def refused(self, text: str) -> None:
        """It is good no more, whatever was said of its time."""
        if text == self._text:
            self._until_ms = 0

    async def _ask(self, now_ms: int) -> _Granted:
        account, now_s = self._account, now_ms // 1000
        claims = {"iss": account.client_email, "scope": SCOPE, "aud": account.token_uri, "iat": now_s}
        claims["exp"] = now_s + _ASSERTION_S
        headers = {"kid": account.private_key_id} if account.private_key_id else None
        assertion = jwt.encode(claims, self._key, algorithm="RS256", headers=headers)
        body = urlencode({"grant_type": _GRANT, "assertion": assertion}).encode()
        answer = await self._client.post(account.token_uri, {"content-type": "application/x-www-form-urlencoded"}, body)
        if answer.status != 200:
            said = answer.body[:200].decode("utf-8", "replace")
            raise Unavailable(
                f"Google gives no access token: HTTP {answer.status} {said}", retry_after_ms=answer.retry_after_ms or 0
            )
        try:
            return msgspec.json.decode(answer.body, type=_Granted)
        except msgspec.DecodeError as exc:
            raise Unavailable(f"Google's answer has no access token: {exc}", retry_after_ms=0) from exc
