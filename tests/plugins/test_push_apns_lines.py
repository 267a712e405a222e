"""APNs when a line dies without a word: the connection is up, and nobody answers on it."""

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from push_fakes import Fake, a_push, fake, pem, started

from imserver_plugins.push_apns import PushApnsPlugin


async def test_a_dead_line_is_left_behind(tmp_path, monkeypatch):
    """A request that is given up takes its connection along: the next one opens another, and is answered."""
    whole = Fake._http2

    async def http2(self, stream, number):
        if number > 1:
            await whole(self, stream, number)
        else:
            while await stream.receive_some(65536):
                pass  # heard, and never answered

    monkeypatch.setattr(Fake, "_http2", http2)
    (tmp_path / "key.p8").write_text(pem(ec.generate_private_key(ec.SECP256R1())))
    settings = {"team_id": "A" * 10, "key_id": "B" * 10, "key_file": tmp_path / "key.p8", "topics": ("com.example",)}
    async with (
        fake(tmp_path, "h2") as apple,
        started(PushApnsPlugin(), url=apple.url, ca_file=tmp_path / "ca.pem", **settings) as plugin,
    ):
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
            await plugin.send(a_push())
        assert apple.connections == 1
        with trio.fail_after(10):
            await plugin.send(a_push())
        assert (apple.connections, len(apple.requests)) == (2, 1)


async def test_capitals_are_the_same_device(tmp_path):
    """Apple's tokens are hex digits: one spelling is kept."""
    (tmp_path / "key.p8").write_text(pem(ec.generate_private_key(ec.SECP256R1())))
    settings = {"team_id": "A" * 10, "key_id": "B" * 10, "key_file": tmp_path / "key.p8", "topics": ("com.example",)}
    async with started(PushApnsPlugin(), **settings) as plugin:
        assert plugin.check_token("AB" * 32, "") == plugin.check_token("ab" * 32, "") == "ab" * 32
