"""Access tokens against forgers, and refresh tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.auth.tokens import (
    CLOCK_SKEW_MS,
    MAX_TOKEN_CHARS,
    AccessTokens,
    Claims,
    new_refresh_token,
    read_refresh_token,
    token_hash,
)
from imserver.errors import NotAuthenticated

SECRET = bytes.fromhex("7d1f0c3b5a99e2486f7710aa4cd8b1e35f60928374a5b6c7d8e9fa0b1c2d3e4f").hex().encode()
SID = "0123456789abcdef" * 2
NOW_MS = 1_800_000_000_500
NOW_S = NOW_MS // 1000
PUBLIC_KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
"""
OWN = {"sub": "alice", "sid": SID, "typ": "access", "iat": NOW_S, "exp": NOW_S + 60}
FOREIGN = {"sub": "alice", "exp": NOW_S + 60}


def b64(data: bytes) -> str:
    """base64url without padding, as JWS has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(
    claims: Any,
    *,
    header: dict[str, Any] | None = None,
    key: bytes = SECRET,
    digest: str = "sha256",
    raw: bytes | None = None,
) -> str:
    """A token made by hand: any header, any payload (`raw`: not even JSON), signed by HMAC."""
    head = {"alg": "HS256", "typ": "JWT"} | (header or {})
    payload = json.dumps(claims).encode() if raw is None else raw
    signed = f"{b64(json.dumps(head).encode())}.{b64(payload)}"
    return f"{signed}.{b64(hmac.new(key, signed.encode(), digest).digest())}"


def but(claims: dict[str, Any], *without: str, **changes: Any) -> dict[str, Any]:
    """The claims with some left out or changed."""
    return {name: value for name, value in (claims | changes).items() if name not in without}


def unsigned(claims: Any, alg: str) -> str:
    """A token without a signature."""
    return f"{b64(json.dumps({'alg': alg, 'typ': 'JWT'}).encode())}.{b64(json.dumps(claims).encode())}."


GOOD = jwt.encode(OWN, SECRET, algorithm="HS256")

FORGED: dict[str, str] = {
    "empty": "",
    "dots": "..",
    "no jwt": "let me in",
    "two parts": GOOD.rpartition(".")[0],
    "four parts": GOOD + ".x",
    "not ascii": "é" + GOOD,
    "lone surrogate": "\ud800" + GOOD,
    "padding": GOOD + "=",
    "line feed": GOOD + "\n",
    "character that decoders skip": GOOD[:-4] + "!" + GOOD[-4:],
    "too long": forge(but(OWN, x="x" * MAX_TOKEN_CHARS)),
    "signature cut": GOOD[:-2],
    "signature empty": GOOD.rpartition(".")[0] + ".",
    "another's signature": GOOD.rpartition(".")[0] + "." + forge(but(OWN, sub="mallory")).rpartition(".")[2],
    "payload swapped": ".".join([GOOD.split(".")[0], b64(json.dumps(but(OWN, sub="root")).encode()), GOOD.split(".")[2]]),
    "foreign secret": forge(OWN, key=b"another secret of 32 characters!!"),
    "empty secret": forge(OWN, key=b""),
    "secret as raw bytes": forge(OWN, key=bytes.fromhex(SECRET.decode())),
    "secret with line feed": forge(OWN, key=SECRET + b"\n"),
    "alg none": unsigned(OWN, "none"),
    "alg None": unsigned(OWN, "None"),
    "alg NONE": unsigned(OWN, "NONE"),
    "alg nOnE": unsigned(OWN, "nOnE"),
    "alg empty": unsigned(OWN, ""),
    "alg HS256, unsigned": unsigned(OWN, "HS256"),
    "alg none, signed": forge(OWN, header={"alg": "none"}),
    "alg null": forge(OWN, header={"alg": None}),
    "alg a list": forge(OWN, header={"alg": ["HS256"]}),
    "alg lower case": forge(OWN, header={"alg": "hs256"}),
    "alg HS384": jwt.encode(OWN, SECRET, algorithm="HS384"),
    "alg HS512": jwt.encode(OWN, SECRET, algorithm="HS512"),
    "alg RS256, our secret": forge(OWN, header={"alg": "RS256"}),
    "alg ES256, our secret": forge(OWN, header={"alg": "ES256"}),
    "alg EdDSA, our secret": forge(OWN, header={"alg": "EdDSA"}),
    "HS256 with a public key": forge(OWN, key=PUBLIC_KEY),
    "RS256 with a public key": forge(OWN, header={"alg": "RS256"}, key=PUBLIC_KEY),
    "kid is a file": forge(OWN, header={"kid": "../../../../dev/null"}, key=b""),
    "kid is SQL": forge(OWN, header={"kid": "x' UNION SELECT 'k' --"}, key=b"k"),
    "kid is a command": forge(OWN, header={"kid": "|echo k"}, key=b"k"),
    "jku": forge(OWN, header={"jku": "https://example.org/jwks.json"}, key=b"k" * 32),
    "jwk": forge(OWN, header={"jwk": {"kty": "oct", "k": b64(b"k" * 32)}}, key=b"k" * 32),
    "x5u": forge(OWN, header={"x5u": "https://example.org/cert.pem"}, key=b"k" * 32),
    "crit": forge(OWN, header={"crit": ["urn:unknown"], "urn:unknown": True}),
    "b64 false": forge(OWN, header={"b64": False, "crit": ["b64"]}),
    "zip": forge(OWN, header={"zip": "DEF"}, raw=b"\x00\x01"),
    "payload no JSON": forge(None, raw=b"{"),
    "payload no UTF-8": forge(None, raw=b'{"sub": "\xff"}'),
    "payload a list": forge([OWN]),
    "payload a string": forge("alice"),
    "payload null": forge(None),
    "payload nested": forge(None, raw=b"[" * 1500),
    "no exp": forge(but(OWN, "exp")),
    "no exp, foreign": forge(but(FOREIGN, "exp")),
    "exp null": forge(but(OWN, exp=None)),
    "exp text": forge(but(OWN, exp=str(NOW_S + 60))),
    "exp a truth value": forge(but(OWN, exp=True)),
    "exp NaN": forge(but(OWN, exp=math.nan)),
    "exp infinite": forge(but(OWN, exp=math.inf)),
    "exp in milliseconds": forge(but(OWN, exp=NOW_MS + 60_000)),
    "exp negative": forge(but(OWN, exp=-1)),
    "exp now": forge(but(OWN, exp=NOW_MS / 1000)),
    "expired": forge(but(OWN, exp=NOW_S)),
    "expired long ago": forge(but(FOREIGN, exp=NOW_S - 86_400)),
    "nbf ahead": forge(but(FOREIGN, nbf=NOW_S + CLOCK_SKEW_MS // 1000 + 1)),
    "nbf text": forge(but(FOREIGN, nbf="0")),
    "iat text": forge(but(FOREIGN, iat="0")),
    "iat NaN": forge(but(FOREIGN, iat=math.nan)),
    "aud of somebody else": forge(but(FOREIGN, aud="https://other.example")),
    "no sub": forge(but(OWN, "sub")),
    "sub null": forge(but(OWN, sub=None)),
    "sub a number": forge(but(FOREIGN, sub=7)),
    "sub empty": forge(but(FOREIGN, sub="")),
    "sub with a space": forge(but(FOREIGN, sub="alice bob")),
    "sub with a line feed": forge(but(FOREIGN, sub="alice\n")),
    "sub Chinese": forge(but(FOREIGN, sub="爱丽丝")),
    "sub too long": forge(but(FOREIGN, sub="a" * 65)),
    "typ refresh": forge(but(OWN, typ="refresh")),
    "typ refresh, foreign": forge(but(FOREIGN, typ="refresh")),
    "typ missing from our own": forge(but(OWN, "typ")),
    "typ null": forge(but(FOREIGN, typ=None)),
    "sid null": forge(but(OWN, sid=None)),
    "sid empty": forge(but(OWN, sid="")),
    "sid a number": forge(but(OWN, sid=1)),
    "sid no session id": forge(but(OWN, sid="' OR 1=1 --")),
    "a refresh token": new_refresh_token().text,
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_forged_tokens_are_refused(token: str) -> None:
    """None of them is a token, and the error does not say why."""
    with pytest.raises(NotAuthenticated) as caught:
        AccessTokens(SECRET).verify(token, now_ms=NOW_MS)
    assert caught.value.answer() == {
        "code": 401,
        "error": "unauthenticated",
        "message": "the token is not valid, or no longer",
    }


def test_the_table_has_sixty_rows() -> None:
    """RFC 8725 and the usual tricks; and the token that they were made from is good."""
    assert len(FORGED) >= 60
    assert AccessTokens(SECRET).verify(GOOD, now_ms=NOW_MS).session_id == SID


@pytest.mark.parametrize(
    "token",
    [
        forge(FOREIGN),
        forge(but(FOREIGN, typ="access")),
        forge(but(FOREIGN, iat=NOW_S + 3)),  # an integrator's clock may be ahead
        forge(but(FOREIGN, nbf=NOW_S + 30)),
        forge(but(FOREIGN, exp=NOW_S + 60.5)),
        forge(but(FOREIGN, name="Alice", iss="shop")),
        forge(FOREIGN, header={"kid": "2026-11"}),  # some libraries always set one; there is one key all the same
        forge(FOREIGN, header={"typ": None}),
    ],
)
def test_integrators_tokens_are_taken(token: str) -> None:
    """`sub` and `exp`, signed with our secret, are enough; more does no harm."""
    claims = AccessTokens(SECRET).verify(token, now_ms=NOW_MS)
    assert (claims.user_id, claims.session_id) == ("alice", None)
    assert claims.expires_at_ms in (NOW_S * 1000 + 60_000, NOW_S * 1000 + 60_500)


def test_own_tokens_say_what_they_were_issued_for() -> None:
    """Issue and verify; good until the very millisecond of the expiry, and not in it."""
    tokens = AccessTokens(SECRET)
    token, expires_at_ms = tokens.issue("alice", SID, now_ms=NOW_MS, ttl_ms=60_000)
    assert expires_at_ms == NOW_S * 1000 + 60_000
    assert tokens.verify(token, now_ms=expires_at_ms - 1) == Claims("alice", SID, expires_at_ms, NOW_S * 1000)
    with pytest.raises(NotAuthenticated):
        tokens.verify(token, now_ms=expires_at_ms)
    assert jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False}) == OWN


def test_issued_foreign_tokens_are_an_integrators() -> None:
    """What `imserver token` prints has no session."""
    tokens = AccessTokens(SECRET)
    claims = tokens.verify(tokens.issue_foreign("bob", now_ms=NOW_MS, ttl_ms=5000), now_ms=NOW_MS)
    assert claims == Claims("bob", None, NOW_S * 1000 + 5000, NOW_S * 1000)


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", fullmatch=True))
def test_any_text_is_refused_by_the_one_error(text: str) -> None:
    """Whatever it is, it is NotAuthenticated and nothing else."""
    with pytest.raises(NotAuthenticated):
        AccessTokens(SECRET).verify(text, now_ms=NOW_MS)


@given(st.data())
def test_no_character_of_a_token_can_be_changed(data: st.DataObject) -> None:
    """Any other character at any place makes it invalid (the last one has spare bits: it may be spelled otherwise)."""
    place = data.draw(st.integers(0, len(GOOD) - 2))
    character = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    if changed != GOOD:
        with pytest.raises(NotAuthenticated):
            AccessTokens(SECRET).verify(changed, now_ms=NOW_MS)


def test_a_token_has_one_hash_however_it_is_spelled() -> None:
    """The last character of a signature has two spare bits; a revoked token stays revoked in every spelling."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    base = alphabet.index(GOOD[-1]) & ~3
    spellings = {GOOD[:-1] + alphabet[base | spare] for spare in range(4)}
    assert len(spellings) == 4
    accepted = 0
    for spelling in spellings:
        try:
            AccessTokens(SECRET).verify(spelling, now_ms=NOW_MS)
        except NotAuthenticated:
            continue
        accepted += 1
    assert accepted >= 1
    assert len({token_hash(spelling) for spelling in spellings}) == 1
    assert token_hash(GOOD) != token_hash(forge(FOREIGN))


def test_refresh_tokens_keep_their_family() -> None:
    """The next of a family has the same family hash and another member hash; only hashes are kept."""
    first = new_refresh_token()
    read = read_refresh_token(first.text)
    assert read is not None
    assert read[0] == first
    second = new_refresh_token(read[1])
    assert second.family_hash == first.family_hash
    assert second.member_hash != first.member_hash
    assert second.text != first.text
    assert first.family_hash == hashlib.sha256(read[1]).digest()
    assert new_refresh_token().family_hash != first.family_hash
    assert first.text not in repr(first)


@given(st.text(max_size=100) | st.binary(max_size=80).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_what_is_no_refresh_token_is_told_apart(text: str) -> None:
    """Any text is read or refused, never an error; what is read is written the same way again."""
    read = read_refresh_token(text)
    if read is not None:
        assert len(read[1]) == 32
        assert read[0].text == text
