"""The PROXY protocol: what the parser takes and refuses, and the waiting for a header in a reactor."""

import ipaddress
import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from imserver import proxy_protocol
from imserver.proxy_protocol import HEADER_TIMEOUT_S, V1_MAX_BYTES, V2_MAX_BYTES, ProxyError, ProxyHeader, ProxyHeaders
from imserver.reactor import Reactor
from imserver.wheel import Wheel

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")

IPV4, IPV6 = st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)
PORTS = st.integers(0, 65535)


def v1(source, destination, ports):
    """A header of version 1."""
    family = f"TCP{source.version}"
    return f"PROXY {family} {source} {destination} {ports[0]} {ports[1]}\r\n".encode()


def v2(body, *, family=0x11, command=0x21, length=None):
    """A header of version 2."""
    return SIGNATURE + bytes([command, family]) + (len(body) if length is None else length).to_bytes(2, "big") + body


def v2_addresses(source, destination, ports):
    """The address block of version 2."""
    return source.packed + destination.packed + b"".join(port.to_bytes(2, "big") for port in ports)


@st.composite
def headers(draw):
    """(header, source or None, port) of either version, of every kind."""
    addresses = draw(st.sampled_from([IPV4, IPV6]))
    source, destination = draw(addresses), draw(addresses)
    ports = draw(st.tuples(PORTS, PORTS))
    tlvs = draw(st.binary(max_size=300))
    kind = draw(st.sampled_from(["v1", "v1 unknown", "v2", "v2 local", "v2 unspecified", "v2 unix"]))
    if kind == "v1":
        return v1(source, destination, ports), str(source), ports[0]
    if kind == "v1 unknown":
        rest = draw(st.sampled_from([b"", b" ff:ff ::1 1 2", b" what ever"]))
        return b"PROXY UNKNOWN" + rest + b"\r\n", None, 0
    family = 0x10 if source.version == 4 else 0x20
    transport = draw(st.sampled_from([1, 2]))
    if kind == "v2":
        return v2(v2_addresses(source, destination, ports) + tlvs, family=family | transport), str(source), ports[0]
    if kind == "v2 local":
        return v2(tlvs, family=draw(st.sampled_from([0x00, 0x11, 0xFF])), command=0x20), None, 0
    if kind == "v2 unspecified":
        return v2(tlvs, family=0x00), None, 0
    return v2(bytes(216) + tlvs, family=0x30 | transport), None, 0


@given(headers(), st.binary(max_size=100))
def test_round_trip(header, rest):
    """What was built is read, whatever follows it; every prefix needs more."""
    data, source, port = header
    expected = ProxyHeader(source, port, len(data))
    assert ProxyHeader.parse(data + rest) == expected
    assert ProxyHeader.parse(data) == expected
    for cut in range(len(data)):
        assert ProxyHeader.parse(data[:cut]) is None


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda tail: SIGNATURE + tail),
                 st.binary(max_size=300).map(lambda tail: b"PROXY " + tail),
                 st.text(max_size=100).map(lambda tail: f"PROXY TCP4 {tail}\r\n".encode())))  # fmt: skip
def test_any_bytes(data):
    """Arbitrary bytes are a header, the beginning of one, or a ProxyError; a header lies within the data."""
    try:
        header = ProxyHeader.parse(data)
    except ProxyError:
        return
    if header is None:
        assert len(data) < max(V1_MAX_BYTES, V2_MAX_BYTES)
        return
    assert 0 < header.size_bytes <= len(data)
    assert 0 <= header.port <= 65535
    assert header.source is None or ipaddress.ip_address(header.source)


@given(headers(), st.data())
def test_damage(header, data):
    """A byte changed anywhere never crashes the parser, nor makes it want more than the bound."""
    damaged = bytearray(header[0])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    test_any_bytes.hypothesis.inner_test(bytes(damaged))


def test_an_example_of_the_specification():
    """Section 2.1's own line, followed by an HTTP request."""
    line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"
    assert ProxyHeader.parse(line + b"GET / HTTP/1.1\r\n") == ProxyHeader("255.255.255.255", 65535, len(line))
    assert ProxyHeader.parse(b"PROXY UNKNOWN\r\n") == ProxyHeader(None, 0, 15)


def test_a_mapped_address_is_the_ipv4_one():
    """A dual-stack proxy's name for an IPv4 client counts as that client."""
    mapped, other = ipaddress.ip_address("::ffff:192.0.2.7"), ipaddress.ip_address("2001:db8::1")
    assert ProxyHeader.parse(v2(v2_addresses(mapped, other, (1, 2)), family=0x21)).source == "192.0.2.7"
    assert ProxyHeader.parse(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n").source == "192.0.2.7"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "does not begin with a PROXY header"),
        (b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n", "does not begin with a PROXY header"),
        (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "does not begin with a PROXY header"),
        (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "neither UNKNOWN nor TCP4 or TCP6"),
        (b"PROXY \r\n", "neither UNKNOWN nor TCP4 or TCP6"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "two addresses and two ports"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "two addresses and two ports"),
        (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "two addresses and two ports"),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", "expected an address of IPv4"),
        (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", "expected an address of IPv6"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "expected an address of IPv6"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.400 1 2\r\n", "expected an address of IPv4"),
        (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", "expected an address of IPv4"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "expected a port"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "expected a port"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n", "expected a port"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xb2\r\n", "not ASCII"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX", "CR without an LF"),
        (b"PROXY UNKNOWN " + b"x" * 200, "does not end within 107 bytes"),
    ],
)  # fmt: skip
def test_bad_lines(line, reason):
    """Version 1 is taken to the letter: what a proxy and we read differently would be another client's address."""
    with pytest.raises(ProxyError, match=reason):
        ProxyHeader.parse(line)


def test_the_bound_of_version_1():
    """107 bytes with the line's end are taken, 108 are not, and nothing of what is no end is waited for."""
    assert ProxyHeader.parse(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n").size_bytes == V1_MAX_BYTES
    assert ProxyHeader.parse(b"PROXY UNKNOWN " + b"x" * 92) is None
    for tail in (b"x" * 93, b"x" * 92 + b"\r", b"x" * 92 + b"\r\n"):
        with pytest.raises(ProxyError, match="does not end"):
            ProxyHeader.parse(b"PROXY UNKNOWN " + tail)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (v2(b"", command=0x11), "0x11, expected 0x20 or 0x21"),
        (v2(b"", command=0x22), "0x22, expected 0x20 or 0x21"),
        (v2(bytes(12), family=0x41), "unknown address family"),
        (v2(bytes(12), family=0x13), "unknown address family"),
        (v2(bytes(11), family=0x11), "too few for its addresses"),
        (v2(bytes(35), family=0x21), "too few for its addresses"),
        (v2(bytes(215), family=0x31), "too few for its addresses"),
        (v2(b"", length=V2_MAX_BYTES - 15), "4097 bytes, at most 4096"),
        (v2(b"", length=65535), "at most 4096"),
        (v2(b"", length=65535, command=0x20), "at most 4096"),
    ],
)
def test_bad_binary_headers(header, reason):
    """Version 2: refused as soon as the first 16 bytes are here, not when all that they announce has come."""
    with pytest.raises(ProxyError, match=reason):
        ProxyHeader.parse(header[:16])


def test_the_bound_of_version_2():
    """4096 bytes are taken."""
    header = v2(bytes(V2_MAX_BYTES - 16))
    assert ProxyHeader.parse(header).size_bytes == V2_MAX_BYTES
    assert ProxyHeader.parse(header[:-1]) is None


# ---------------------------------------------------------------- in a reactor


class Shard:
    """As much of a shard as the waiting knows: a reactor, a wheel and a clock that the test moves."""

    def __init__(self):
        self.now = 1000.0
        self.wheel = Wheel(self.now)
        self.ticks = 0
        self.reactor = Reactor(self._begin, lambda: None, lambda: False, lambda source: None)

    def _begin(self):
        self.ticks += 1

    def advance(self, seconds):
        self.now += seconds
        self.wheel.advance(self.now)


class Desk:
    """ProxyHeaders on a shard, and what became of its connections."""

    def __init__(self):
        self.shard = Shard()
        self.admitted, self.refused = [], []
        self.changed = trio.Event()
        self.headers = ProxyHeaders(self.shard, self._admit, self._refuse)

    def _admit(self, sock, address):
        self.admitted.append((sock, address))
        self.changed.set()

    def _refuse(self, peer, reason):
        self.refused.append((peer, reason))
        self.changed.set()

    def connect(self):
        """A new connection from a proxy; gives the proxy's end."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.headers.begin(ours, "10.0.0.1")
        return theirs

    async def settle(self):
        """Wait until a connection was admitted or refused."""
        with trio.fail_after(20):
            await self.changed.wait()
        self.changed = trio.Event()

    async def quiet(self):
        """Let the reactor do all that it has to do: the number of ticks that took."""
        before = self.shard.ticks
        for _ in range(20):
            await trio.sleep(0.001)
        return self.shard.ticks - before


@pytest.fixture
async def desk(nursery):
    """A desk with its reactor running."""
    made = Desk()
    nursery.start_soon(made.shard.reactor.run)
    yield made
    made.headers.close()
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.lowlevel.checkpoint()
    made.shard.reactor.close()
    for sock, _ in made.admitted:
        sock.close()


HEADER = v2(v2_addresses(ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2"), (4711, 443)) + b"tlvs")


@pytest.mark.parametrize("header", [HEADER, b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n"], ids=["v2", "v1"])
async def test_nothing_behind_the_header_is_read(desk, header):
    """The connection is admitted under the client's address; what follows the header is in the socket, unwatched."""
    with desk.connect() as proxy:
        proxy.sendall(header + b"the client's")
        await desk.settle()
        ((sock, address),) = desk.admitted
        assert address == "192.0.2.1"
        assert sock.recv(100) == b"the client's"
        assert len(desk.headers) == len(desk.shard.wheel) == 0
        desk.shard.reactor.add(sock.fileno(), None, 0)  # would raise if it were watched still
        desk.shard.reactor.remove(sock.fileno())


@pytest.mark.parametrize("header", [HEADER, b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n"], ids=["v2", "v1"])
async def test_a_header_in_pieces(desk, header):
    """Byte by byte; while it waits, the reactor rests."""
    with desk.connect() as proxy:
        for byte in header[:-1]:
            proxy.sendall(bytes([byte]))
            await trio.lowlevel.checkpoint()
        await desk.quiet()
        assert await desk.quiet() == 0
        assert not desk.admitted
        proxy.sendall(header[-1:] + b"more")
        await desk.settle()
        assert desk.admitted[0][0].recv(100) == b"more"


@pytest.mark.parametrize("header", [v2(b"", command=0x20, family=0), b"PROXY UNKNOWN\r\n"], ids=["v2", "v1"])
async def test_the_proxy_for_itself(desk, header):
    """A health check is the proxy's own connection: admitted under the proxy's address."""
    with desk.connect() as proxy:
        proxy.sendall(header)
        await desk.settle()
        assert desk.admitted[0][1] == "10.0.0.1"


async def test_no_header(desk):
    """Anything else is refused, with the reason, and closed."""
    with desk.connect() as proxy:
        proxy.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await desk.settle()
        assert desk.refused == [("10.0.0.1", "the connection does not begin with a PROXY header; let the proxy send one")]
        await closed(proxy)
        assert len(desk.headers) == len(desk.shard.wheel) == 0


async def closed(proxy):
    """Wait until the other end has closed."""
    proxy.setblocking(False)
    with trio.fail_after(20):
        await trio.lowlevel.wait_readable(proxy)
    try:
        assert proxy.recv(1) == b""
    except ConnectionResetError:
        return  # closed with bytes unread


async def test_a_header_that_ends_early(desk):
    """The proxy is gone before the header was complete."""
    with desk.connect() as proxy:
        proxy.sendall(b"PROXY TCP4 ")
        proxy.shutdown(socket.SHUT_WR)
        await desk.settle()
        assert desk.refused == [("10.0.0.1", "it ended before its PROXY header was complete")]
        await closed(proxy)


async def test_a_proxy_that_says_nothing(desk):
    """After five seconds it is closed, also when a part of the header has come in the meantime."""
    with desk.connect() as proxy:
        desk.shard.advance(HEADER_TIMEOUT_S - 1)
        proxy.sendall(HEADER[:20])
        await desk.quiet()
        assert not desk.refused
        desk.shard.advance(1.2)
        assert desk.refused == [("10.0.0.1", "no PROXY header within 5 s")]
        await closed(proxy)


async def test_too_many_that_wait(desk, monkeypatch):
    """Those over the bound are closed at once; those that wait are not touched."""
    monkeypatch.setattr(proxy_protocol, "MAX_WAITING", 2)
    with desk.connect() as first, desk.connect(), desk.connect() as third:
        assert desk.refused == [("10.0.0.1", "2 connections wait for their PROXY header already")]
        await closed(third)
        desk.changed = trio.Event()
        first.sendall(HEADER)
        await desk.settle()
        assert len(desk.admitted) == 1


async def test_close(desk):
    """The listener closes: those that wait are closed too, and nobody is told."""
    with desk.connect() as proxy:
        desk.headers.close()
        await closed(proxy)
        assert (desk.admitted, desk.refused, len(desk.headers), len(desk.shard.wheel)) == ([], [], 0, 0)
