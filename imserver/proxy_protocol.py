"""The PROXY protocol, versions 1 and 2: a proxy in front says in a header whose connection it hands on.

`ProxyHeader.parse` is pure. `ProxyHeaders` reads the header of each connection that comes from a trusted proxy, in the
shard's reactor, and reads nothing behind it: what follows belongs to TLS or to the protocol of the listener.

Source: "The PROXY protocol, versions 1 & 2", haproxy.org, doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from imserver.errors import ImserverError
from imserver.reactor import READ

if TYPE_CHECKING:
    from imserver.shard import Shard

#: The longest header of version 1, its line end included (section 2.1).
V1_MAX_BYTES = 107
#: The longest header of version 2 that is taken: addresses take 232 bytes of it, the rest is type-length-values.
V2_MAX_BYTES = 4096
#: How long a proxy may take to send its header.
HEADER_TIMEOUT_S = 5.0
#: Connections of one shard that may wait for their header at the same time.
MAX_WAITING = 4096

_V1_SIGNATURE = b"PROXY "
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES = 16
_V1_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
#: Version 2, high half of byte 13: the family; of these the addresses' bytes and those of one address. Unix sockets have
#: no address that a limit could count.
_V2_FAMILIES = {0: (0, 0), 1: (12, 4), 2: (36, 16), 3: (216, 0)}
_V2_PROTOCOLS = {0, 1, 2}  # unspecified, stream, datagram


class ProxyError(ImserverError):
    """What came is no PROXY header; the message says why. The connection can only be closed."""


@attrs.frozen
class ProxyHeader:
    """One header.

    Attributes:
        source: the client's IP address; None if the connection is the proxy's own (its health check) or the proxy does
            not know: then the connection's own peer is the client.
        port: the client's port; 0 without a source.
        size_bytes: the length of the header; what follows is the client's.
    """

    source: str | None
    port: int
    size_bytes: int

    @classmethod
    def parse(cls, data: bytes) -> ProxyHeader | None:
        """Read the header at the start of `data`.

        Returns:
            The header, or None: so far all is well and all of `data` belongs to the header, but more is to come.

        Raises:
            ProxyError: this is no header, is too long, or contradicts itself.
        """
        if data.startswith(_V1_SIGNATURE):
            return cls._parse_v1(data)
        if data.startswith(_V2_SIGNATURE):
            return cls._parse_v2(data)
        if _V1_SIGNATURE.startswith(data) or _V2_SIGNATURE.startswith(data):
            return None
        raise ProxyError("the connection does not begin with a PROXY header; let the proxy send one")

    @classmethod
    def _parse_v1(cls, data: bytes) -> ProxyHeader | None:
        head = data[:V1_MAX_BYTES]
        end = head.find(b"\r")
        if end < 0 or end + 1 == len(head):
            if len(head) == V1_MAX_BYTES:
                raise ProxyError(f"the PROXY line does not end within {V1_MAX_BYTES} bytes")
            return None
        if head[end + 1] != ord("\n"):
            raise ProxyError("the PROXY line has a CR without an LF")
        size_bytes = end + 2
        try:
            words = head[:end].decode("ascii").split(" ")
        except UnicodeDecodeError:
            raise ProxyError("the PROXY line is not ASCII") from None
        if words[1] == "UNKNOWN":
            return cls(None, 0, size_bytes)
        if words[1] not in {"TCP4", "TCP6"} or len(words) != 6:
            raise ProxyError("the PROXY line is neither UNKNOWN nor TCP4 or TCP6 with two addresses and two ports")
        version = 4 if words[1] == "TCP4" else 6
        source, _ = (_v1_address(word, version) for word in words[2:4])
        port, _ = (_v1_port(word) for word in words[4:6])
        return cls(_shown(source), port, size_bytes)

    @classmethod
    def _parse_v2(cls, data: bytes) -> ProxyHeader | None:
        if len(data) >= 13 and data[12] not in {0x20, 0x21}:
            raise ProxyError(f"version and command of the PROXY header are 0x{data[12]:02x}, expected 0x20 or 0x21")
        if len(data) < _V2_FIXED_BYTES:
            return None
        is_local = data[12] == 0x20
        size_bytes = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
        if size_bytes > V2_MAX_BYTES:
            raise ProxyError(f"the PROXY header has {size_bytes} bytes, at most {V2_MAX_BYTES} are taken")
        family, protocol = data[13] >> 4, data[13] & 15
        if not is_local and (family not in _V2_FAMILIES or protocol not in _V2_PROTOCOLS):
            raise ProxyError(f"the PROXY header has the unknown address family and protocol 0x{data[13]:02x}")
        addresses_bytes, address_bytes = (0, 0) if is_local else _V2_FAMILIES[family]
        if size_bytes < _V2_FIXED_BYTES + addresses_bytes:
            raise ProxyError(f"the PROXY header has {size_bytes} bytes, too few for its addresses")
        if len(data) < size_bytes:
            return None
        if not address_bytes:
            return cls(None, 0, size_bytes)
        addresses = data[_V2_FIXED_BYTES : _V2_FIXED_BYTES + addresses_bytes]
        port = int.from_bytes(addresses[2 * address_bytes : 2 * address_bytes + 2], "big")
        return cls(_shown(ipaddress.ip_address(addresses[:address_bytes])), port, size_bytes)


def _v1_address(text: str, version: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in text:
        raise ProxyError(f"the PROXY line has {text[:50]!r}, expected an address of IPv{version}")
    return address


def _v1_port(text: str) -> int:
    if not _V1_PORT.fullmatch(text) or int(text) > 0xFFFF:
        raise ProxyError(f"the PROXY line has {text[:50]!r}, expected a port")
    return int(text)


def _shown(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As the limits per address count it: an IPv4 client of a dual-stack proxy is the same client by either way."""
    return str(getattr(address, "ipv4_mapped", None) or address)


class ProxyHeaders:
    """The connections of one listener that wait for their PROXY header. Belongs to the shard's thread.

    Args:
        shard: whose reactor and timer wheel are used.
        admit: takes the connection once its header is read: (socket, the client's address).
        refused: told of each connection that is closed for want of a header: (the proxy's address, the reason).
    """

    def __init__(
        self, shard: Shard, admit: Callable[[socket.socket, str], None], refused: Callable[[str, str], None]
    ) -> None:
        self._shard = shard
        self._admit = admit
        self._refused = refused
        self._waiting: set[_Preamble] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, sock: socket.socket, peer: str) -> None:
        """Wait for the header of this connection.

        Args:
            sock: non-blocking, not watched by the reactor; from now on it is ours, then `admit`'s.
            peer: the address of the proxy.
        """
        if len(self._waiting) >= MAX_WAITING:
            sock.close()
            self._refused(peer, f"{MAX_WAITING} connections wait for their PROXY header already")
            return
        self._waiting.add(_Preamble(self._shard, sock, peer, self._done))

    def close(self) -> None:
        """Close those that still wait."""
        for preamble in list(self._waiting):
            preamble.drop()
        self._waiting.clear()

    def _done(self, preamble: _Preamble, outcome: ProxyHeader | str) -> None:
        self._waiting.discard(preamble)
        if isinstance(outcome, str):
            self._refused(preamble.peer, outcome)
        else:
            self._admit(preamble.socket, outcome.source or preamble.peer)


class _Preamble:
    """One connection whose header is not here yet. A source of the reactor, and timed by the wheel."""

    __slots__ = ("_data", "_done", "_expires_at", "_shard", "peer", "socket")

    def __init__(
        self, shard: Shard, sock: socket.socket, peer: str, done: Callable[[_Preamble, ProxyHeader | str], None]
    ) -> None:
        self._shard = shard
        self.socket = sock
        self.peer = peer
        self._done = done
        self._data = b""
        self._expires_at = shard.now + HEADER_TIMEOUT_S
        shard.reactor.add(sock.fileno(), self, READ)
        shard.wheel.schedule(self, self._expires_at)

    def ready(self, events: int) -> None:
        """See `imserver.reactor.Source`."""
        try:
            seen = self.socket.recv(V2_MAX_BYTES - len(self._data), socket.MSG_PEEK)
            if not seen:
                self._refuse("it ended before its PROXY header was complete")
                return
            header = ProxyHeader.parse(self._data + seen)
            if header is None:
                # All of it is the header's. What is left in the kernel would make the reactor look again and again.
                self._data += self.socket.recv(len(seen))
                return
            self.socket.recv(header.size_bytes - len(self._data))
        except BlockingIOError:
            return
        except (OSError, ProxyError) as exc:
            self._refuse(str(exc))
            return
        self._shard.wheel.cancel(self)
        self._shard.reactor.remove(self.socket.fileno())
        self._done(self, header)

    def check_deadlines(self, now: float) -> float | None:
        """See `imserver.wheel.Timed`."""
        if now < self._expires_at:
            return self._expires_at
        self._refuse(f"no PROXY header within {HEADER_TIMEOUT_S:g} s")
        return None

    def drop(self) -> None:
        """Close the connection without a word."""
        self._shard.wheel.cancel(self)
        self._shard.reactor.close_socket(self.socket)

    def _refuse(self, reason: str) -> None:
        self.drop()
        self._done(self, reason)
