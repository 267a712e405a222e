"""Who asks, behind proxies: the headers are believed of trusted peers only, and from the right."""

import ipaddress

import pytest
import structlog
import trio
from http_rig import HOST, reply, serving

from imserver.http.forwarded import MAX_HOPS

TRUSTED = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "fd00::/8")]
PROXY = "10.0.0.1"


async def who(peer, *lines, trusted=TRUSTED, **options):
    """(client address, scheme) that the app is told."""

    async def app(scope, receive, send):
        await reply(send, f"{scope['client'][0]} {scope['scheme']}".encode())

    async with serving(app, trusted_proxies=trusted) as rig:
        head = b"GET / HTTP/1.1\r\n" + HOST + b"".join(line.encode() + b"\r\n" for line in lines) + b"\r\n"
        (answer,) = await rig.ask(head, address=peer, **options)
        return tuple(answer.body.decode().split())


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::1"),
        ([" 192.0.2.1 "], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["[2001:DB8::1]:4711"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        # What stands left of the first untrusted one is the client's own invention.
        (["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        (["10.9.9.9, 192.0.2.1"], "192.0.2.1"),
        (["nonsense, 192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 10.1.2.3"], "192.0.2.1"),
        (["192.0.2.1, fd00::1, 10.1.2.3"], "192.0.2.1"),
        (["192.0.2.1, ::ffff:10.1.2.3"], "192.0.2.1"),
        (["203.0.113.9", "192.0.2.1, 10.1.2.3"], "192.0.2.1"),
        (["192.0.2.1", "10.1.2.3"], "192.0.2.1"),
        # All are ours: the furthest one asks.
        (["10.5.5.5, 10.1.2.3"], "10.5.5.5"),
        # Malformed: nobody knows, so the peer it is.
        ([""], PROXY),
        (["unknown"], PROXY),
        (["192.0.2.1, unknown"], PROXY),
        (["192.0.2.1,"], PROXY),
        (["192.0.2.256"], PROXY),
        (["192.0.2"], PROXY),
        (["0x7f.1"], PROXY),
        (["192.0.2.1:"], PROXY),
        (["192.0.2.1/32"], PROXY),
        (["fe80::1%eth0"], PROXY),
        (["[192.0.2.1"], PROXY),
        (["\u0661.2.3.4"], PROXY),
        (["<script>"], PROXY),
        ([", ".join(["192.0.2.1"] + ["10.1.2.3"] * (MAX_HOPS - 1))], "192.0.2.1"),
        ([", ".join(["192.0.2.1"] + ["10.1.2.3"] * MAX_HOPS)], PROXY),
        ([", ".join(["10.1.2.3"] * 500)], PROXY),
    ],
)
async def test_the_address(values, address):
    """The right-most address that is no proxy of ours."""
    assert await who(PROXY, *(f"X-Forwarded-For: {value}" for value in values)) == (address, "http")


@pytest.mark.parametrize("peer", ["192.0.2.9", "::1", "2001:db8::9"])
@pytest.mark.parametrize("trusted", [TRUSTED, []])
async def test_of_others_nothing_is_believed(peer, trusted):
    """A client that writes the headers itself stays who it is."""
    lines = ("X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https")
    assert await who(peer, *lines, trusted=trusted) == (peer, "http")


@pytest.mark.parametrize("peer", [PROXY, "fd00::5", "fd00::5%eth0", "::ffff:10.0.0.1"])
async def test_the_forms_of_a_trusted_peer(peer):
    """However its address is written."""
    assert await who(peer, "X-Forwarded-For: 192.0.2.1") == ("192.0.2.1", "http")


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS"], "https"),
        (["http"], "http"),
        (["http, https"], "https"),
        (["http", "https"], "https"),
        (["gopher"], "http"),
        ([""], "http"),
    ],
)
async def test_the_scheme(values, scheme):
    """What the nearest proxy was asked by; nonsense changes nothing."""
    assert await who(PROXY, *(f"X-Forwarded-Proto: {value}" for value in values)) == (PROXY, scheme)


async def test_the_scheme_behind_tls():
    """A secure listener's requests are https; a trusted proxy may say that the client's were not."""
    assert await who("192.0.2.1", is_secure=True) == ("192.0.2.1", "https")
    assert await who(PROXY, "X-Forwarded-Proto: http", is_secure=True) == (PROXY, "http")


@pytest.mark.parametrize("line", ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1"])
async def test_a_proxy_that_is_not_trusted_is_told_of(line, autojump_clock):
    """Who names clients and is not believed is a line in the log, once an hour; who is trusted, or names none, is not."""

    async def app(scope, receive, send):
        await reply(send, b"")

    def request(*lines):
        return b"GET / HTTP/1.1\r\n" + HOST + b"".join(line.encode() + b"\r\n" for line in lines) + b"\r\n"

    with structlog.testing.capture_logs() as log:
        async with serving(app, trusted_proxies=TRUSTED) as rig:
            await rig.ask(request(line), address=PROXY)
            await rig.ask(request(), address="127.0.0.1")
            assert log == []
            for _ in range(3):
                await rig.ask(request(line), address="127.0.0.1")
            assert [(entry["event"], entry["address"]) for entry in log] == [("proxy_not_trusted", "127.0.0.1")]
            await trio.sleep(3600)
            await rig.ask(request(line), address="127.0.0.1")
            assert len(log) == 2
