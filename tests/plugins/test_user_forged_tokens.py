"""Tokens that nobody has signed: limited by address, as wrong passwords and wrong API keys are."""

from __future__ import annotations

from pathlib import Path

import pytest
from user_rig import AUTH, WHO, Door, opened

from imserver.plugin import ImError, NotAuthenticated, RateLimited


async def shown(door: Door, token: str, address: str = "192.0.2.1") -> ImError:
    """What somebody who shows this token over HTTP is told."""
    with pytest.raises((NotAuthenticated, RateLimited)) as caught:
        await door.authenticate(token=token, address=address)
    error: ImError = caught.value
    return error


async def test_wrong_tokens_are_limited_by_address(tmp_path: Path) -> None:
    """The sixty-first within a minute is 429 and says when; a good one is let in, other addresses are not touched."""
    async with opened(tmp_path) as door:
        good = door.foreign_token("alice")
        forged = good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB")
        for number in range(60):
            assert (await shown(door, "bad" if number % 2 else forged)).code == 401
        refused = await shown(door, "bad")
        assert refused.code == 429
        assert refused.retry_after_ms is not None
        assert 0 < refused.retry_after_ms <= 1000
        assert (await door.bearer(good, WHO))["user_id"] == "alice"
        for address in ("192.0.2.2", "127.0.0.1"):
            assert (await shown(door, "bad", address)).code == 401
        door.rig.clock.advance(60)
        assert (await shown(door, "bad")).code == 401


async def test_auth_counts_too(tmp_path: Path) -> None:
    """AUTH is another door to the same guess."""
    async with opened(tmp_path) as door:
        for _ in range(60):
            with pytest.raises(NotAuthenticated):
                await door.http(AUTH, token="bad")
        with pytest.raises(RateLimited):
            await door.http(AUTH, token="bad")
        assert (await shown(door, "bad")).code == 429


async def test_a_token_that_was_good_is_no_guess(tmp_path: Path) -> None:
    """An office whose devices come back with expired tokens is told 401 as often as it asks, so that they log in."""
    async with opened(tmp_path) as door:
        expired = door.foreign_token("alice", exp=door.rig.clock.now_ms() // 1000 - 1)
        for _ in range(70):
            assert (await shown(door, expired)).code == 401
