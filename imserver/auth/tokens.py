"""Tokens: who holds one is that user, until it expires or its session is revoked.

Access tokens are JWTs (HS256). The server's own carry `sid`, the session they belong to, and `typ` "access"; an
integrating system signs its users' with the same secret: `sub` and `exp`, no `sid`. Both are only half the proof: that
the session is not revoked and the user not disabled is in the database.

Refresh tokens are no JWTs but 512 random bits: the family (the session, for its whole life) and the member (new at
each rotation). The server stores SHA-256 of both. Whoever presents a known family with another member than the present
one holds a token that was used before: it was copied, and the family dies (RFC 9700, section 4.14.2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
import secrets

import jwt
from attrs import frozen

from imserver.errors import NotAuthenticated

ALGORITHM = "HS256"
#: Longer ones are refused unread.
MAX_TOKEN_CHARS = 3072
#: How far an integrator's clock may be ahead of ours (`nbf`); for `exp` our clock alone counts.
CLOCK_SKEW_MS = 60_000

_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)  # RFC 7515, section 7.1
_USER_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")  # wire protocol, section 3
_SESSION_ID = re.compile(r"[0-9a-f]{32}")
_LATEST_S = 253_402_300_799  # the year 9999: what is later was given in milliseconds
_FAMILY_BYTES = 32
_MEMBER_BYTES = 32


@frozen
class Claims:
    """What a valid access token says."""

    user_id: str
    #: None: an integrator's token.
    session_id: str | None
    expires_at_ms: int
    issued_at_ms: int | None


@frozen
class RefreshToken:
    """A refresh token and what the database keeps of it; `text` goes to the client and nowhere else."""

    text: str
    family_hash: bytes
    member_hash: bytes

    def __repr__(self) -> str:
        """Without the token: this may end up in a log."""
        return "RefreshToken(…)"


class AccessTokens:
    """Signs and verifies access tokens with the server's secret (`imserver.auth.secret.load_secret`)."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, user_id: str, session_id: str, *, now_ms: int, ttl_ms: int) -> tuple[str, int]:
        """A token of the server's own, and when it expires (ms)."""
        expires_at_s = (now_ms + ttl_ms) // 1000
        claims = {"sub": user_id, "sid": session_id, "typ": "access", "iat": now_ms // 1000, "exp": expires_at_s}
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM), expires_at_s * 1000

    def issue_foreign(self, user_id: str, *, now_ms: int, ttl_ms: int) -> str:
        """A token as an integrating system signs it: no session, so only its expiry ends it."""
        claims = {"sub": user_id, "iat": now_ms // 1000, "exp": (now_ms + ttl_ms) // 1000}
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def verify(self, token: str, *, now_ms: int) -> Claims:
        """The claims of a token that is signed with our secret by HS256, has not expired and is an access token.

        Raises:
            NotAuthenticated: anything else; the message never says what.

        Source: RFC 8725; which headers (`kid`, `jku`, `jwk`) a token brings along plays no part: there is one key.
        """
        claims = self._claims(token, now_ms)
        if claims is None:
            raise NotAuthenticated("the token is not valid, or no longer")
        return claims

    def _claims(self, token: str, now_ms: int) -> Claims | None:
        # Strictly, because base64 decoders are lenient: what is not in the alphabet they skip.
        if len(token) > MAX_TOKEN_CHARS or not _COMPACT_JWS.fullmatch(token):
            return None
        try:
            # The times are compared below, with the server's clock; an `aud` is refused: it names somebody else.
            checks = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["sub", "exp"]}
            payload = jwt.decode(token, self._secret, algorithms=[ALGORITHM], options=checks)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError, RecursionError):  # the last two: text that is no UTF-8, deeply nested JSON
            return None
        user_id, session_id = payload["sub"], payload.get("sid")
        if not isinstance(user_id, str) or not _USER_ID.fullmatch(user_id):
            return None
        if "sid" in payload and (not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id)):
            return None
        # A token of another kind (for a download, say) is no access token, although the signature is right.
        if payload.get("typ", None if session_id else "access") != "access":
            return None
        expires_at_ms, issued_at_ms, not_before_ms = (_time_ms(payload, name) for name in ("exp", "iat", "nbf"))
        if expires_at_ms is None or expires_at_ms <= now_ms:
            return None
        if ("iat" in payload and issued_at_ms is None) or ("nbf" in payload and not_before_ms is None):
            return None
        if not_before_ms is not None and not_before_ms > now_ms + CLOCK_SKEW_MS:
            return None
        return Claims(user_id, session_id, expires_at_ms, issued_at_ms)


def token_hash(token: str) -> bytes:
    """What a revoked integrator's token is remembered by: SHA-256 of its signed part.

    Not of the whole text: the last character of a base64 signature has spare bits, so one token has several spellings.
    """
    return hashlib.sha256(token.rpartition(".")[0].encode("utf-8", "surrogatepass")).digest()


def new_refresh_token(family: bytes | None = None) -> RefreshToken:
    """A refresh token: the first of a new family, or the next of the one that `refresh_family` took from a token."""
    family = secrets.token_bytes(_FAMILY_BYTES) if family is None else family
    return _refresh_token(family, secrets.token_bytes(_MEMBER_BYTES))


def read_refresh_token(text: str) -> tuple[RefreshToken, bytes] | None:
    """A client's refresh token and its family; None: it was never one. Whether it is good, the database knows."""
    try:
        content = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    if len(content) != _FAMILY_BYTES + _MEMBER_BYTES:
        return None
    return _refresh_token(content[:_FAMILY_BYTES], content[_FAMILY_BYTES:]), content[:_FAMILY_BYTES]


def _refresh_token(family: bytes, member: bytes) -> RefreshToken:
    text = base64.urlsafe_b64encode(family + member).decode("ascii")
    return RefreshToken(text, hashlib.sha256(family).digest(), hashlib.sha256(family + member).digest())


def _time_ms(payload: dict[str, object], name: str) -> int | None:
    """A NumericDate (RFC 7519, section 2) in milliseconds; None: absent, or no sane number."""
    value = payload.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if not 0 <= value <= _LATEST_S:
        return None
    return int(value * 1000)
