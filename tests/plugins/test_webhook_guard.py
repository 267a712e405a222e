"""What the server may connect to for a webhook: no URL leads it inside."""

import ipaddress

import pytest
import trio
from trio.testing import open_stream_to_socket_listener

from imserver_plugins.webhook import client as client_module
from imserver_plugins.webhook.client import MAX_ANSWER_BYTES, Client, PostFailed
from imserver_plugins.webhook.guard import Refused, check_address, place_of

HOSTILE_HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
    "0", "0.0.0.0", "0x0", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255",
    "169.254.169.254", "0xa9fea9fe", "2852039166", "169.254.0.1", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "localhost",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[fc00::1]", "[fd12:3456::1]", "[fe80::1]", "[febf::1]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[64:ff9b::7f00:1]",
    "[64:ff9b::a00:1]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:0:7f00:1::1]", "[100::1]",
]  # fmt: skip
HOSTILE_URLS = [
    "file:///etc/passwd", "ftp://example.org/", "gopher://example.org/", "javascript:alert(1)", "//example.org/", "/path",
    "",
    "http://", "http:///path", "http://user@example.org/", "http://user:word@example.org/", "http://example.org:0/",
    "http://example.org:99999/", "http://example.org:x/", "http://exam ple.org/", "http://example.org/\r\nX: y",
    "http://example.org\\@127.0.0.1/", "http://[fe80::1%25eth0]/", "http://ex\u00e4mple.org/", "http://127.0.0.1\t/", "http://[::1/",
    "http://example.org/" + "x" * 2048, "data:text/plain,x", "unix:///run/x",
]  # fmt: skip


class Opened(Exception):
    """A connection was tried."""


@pytest.fixture
def no_connections(monkeypatch):
    """Fail the moment a socket is made."""

    def refuse(*args, **kwargs):
        raise Opened

    monkeypatch.setattr(client_module.trio.socket, "socket", refuse)


def client(*networks):
    return Client.make(("https", "http"), [ipaddress.ip_network(network) for network in networks], None)


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
async def test_no_host_leads_inside(host, no_connections):
    """However an inside address is written, no socket is made for it."""
    with pytest.raises(PostFailed):
        await client().post(f"http://{host}/", {}, b"{}", timeout_s=5)


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_no_url_is_taken_for_another(url):
    """What is no plain URL of an allowed scheme is refused before anything is looked up."""
    with pytest.raises(Refused):
        place_of(url, ("https", "http"))
    with pytest.raises(Refused):
        place_of("http://example.org/", ("https",))


def test_public_addresses_pass_and_exceptions_are_exact():
    """Public addresses are let through; a network that is allowed opens itself alone."""
    for address in ("1.1.1.1", "93.184.216.34", "2606:4700::1111"):
        check_address(address, ())
    inside = [ipaddress.ip_network("10.1.0.0/16")]
    check_address("10.1.2.3", inside)
    check_address("::ffff:10.1.2.3", inside)
    for address in ("10.2.0.1", "127.0.0.1", "::1", "nonsense"):
        with pytest.raises(Refused):
            check_address(address, inside)


async def test_one_bad_address_of_a_name_spoils_it(monkeypatch, no_connections):
    """A name with a public address and an inside one is not connected to at all."""

    async def both(host, port, **options):
        return [(2, 1, 6, "", (address, port)) for address in ("93.184.216.34", "127.0.0.1")]

    monkeypatch.setattr(client_module.trio.socket, "getaddrinfo", both)
    with pytest.raises(PostFailed, match="no public address"):
        await client().post("http://rebind.example/", {}, b"{}", timeout_s=5)


async def serve(nursery, talk):
    """A server that talks to each connection; gives its URL."""
    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    stream = await open_stream_to_socket_listener(listeners[0])
    port = stream.socket.getpeername()[1]
    await stream.aclose()
    return f"http://127.0.0.1:{port}/"


async def ask(answer, *, timeout_s=5.0, wait=False):
    """Post to a server that answers with these bytes."""

    async def talk(stream):
        if await stream.receive_some():
            await stream.send_all(answer)
            if wait:
                await trio.sleep_forever()

    outcome = None
    async with trio.open_nursery() as nursery:
        url = await serve(nursery, talk)
        try:
            outcome = await client("127.0.0.0/8").post(url, {}, b"{}", timeout_s=timeout_s)
        except PostFailed as exc:
            outcome = exc
        nursery.cancel_scope.cancel()
    if isinstance(outcome, PostFailed):
        raise outcome
    return outcome


async def test_answers_are_bounded():
    """A long answer is cut, a long head or one that is no HTTP is a failure, and a redirect is an answer like others."""
    endless = await ask(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1), wait=True)
    assert (endless.status, endless.is_whole, len(endless.body)) == (200, False, MAX_ANSWER_BYTES)
    moved = await ask(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    assert moved.status == 302
    for answer in (
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    ):
        with pytest.raises(PostFailed, match="HTTP"):
            await ask(answer)


async def test_a_post_has_a_deadline(autojump_clock):
    """A receiver that says nothing holds nobody up for longer."""
    with pytest.raises(PostFailed, match="no answer within 3 s"):
        with trio.fail_after(60):
            await ask(b"HTTP/1.1 200", timeout_s=3, wait=True)


@pytest.mark.parametrize("host", ["a..b", ".", "..", ".example.org", "a" * 64 + ".example", "x" * 300])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_names_that_cannot_be_looked_up(scheme, host, no_connections):
    """A name that no look-up takes is refused like any other failure: nothing else is raised by a post."""
    with pytest.raises(PostFailed, match="this is no URL"):
        await client().post(f"{scheme}://{host}/", {}, b"{}", timeout_s=5)


GARBAGE = [
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 100_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 100_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcde",
    b"HTTP/1.1 200 OK\r\nX\xff: y\r\n\r\n",
    b"HTTP/1.1 099 X\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x28",
    b"\0" * 100,
]


@pytest.mark.parametrize("answer", GARBAGE)
async def test_garbage_is_a_failure(answer):
    """Whatever comes back, it is an answer or `PostFailed`, and the reason is short."""
    with pytest.raises(PostFailed, match="is no HTTP") as failed:
        await ask(answer)
    assert len(str(failed.value)) < 300


async def test_no_tls_where_tls_should_be():
    """Plain text, or nothing, behind an https URL is a failure of the connection."""

    async def talk(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        url = await serve(nursery, talk)
        with pytest.raises(PostFailed, match="SSL"):
            await client("127.0.0.0/8").post(url.replace("http:", "https:"), {}, b"{}", timeout_s=5)
        nursery.cancel_scope.cancel()


async def test_a_name_is_looked_up_once(monkeypatch):
    """A name that says another address the next time (DNS rebinding) is not asked again: the first is connected to."""
    asked = []

    async def talk(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        url = await serve(nursery, talk)
        port = int(url.rstrip("/").rpartition(":")[2])

        async def rebinding(host, port, **options):
            asked.append(host)
            return [(2, 1, 6, "", ("127.0.0.1" if len(asked) == 1 else "10.0.0.1", port))]

        monkeypatch.setattr(client_module.trio.socket, "getaddrinfo", rebinding)
        answer = await client("127.0.0.0/8").post(f"http://rebind.example:{port}/", {}, b"{}", timeout_s=5)
        nursery.cancel_scope.cancel()
    assert (answer.status, asked) == (200, ["rebind.example"])
