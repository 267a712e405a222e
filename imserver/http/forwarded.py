"""Whose request it is, where proxies stand in between: X-Forwarded-For and X-Forwarded-Proto.

Anybody can send these headers, so they are believed only when a trusted proxy is at the other end. Each proxy adds the
address it got the request from on the right: the first one from there that is no proxy of ours is the client. What stands
further left the client may have written itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from imserver.http.head import Head

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: More proxies than these stand before nobody: what says so is not believed.
MAX_HOPS = 32
#: An address; some proxies add the port, and then put IPv6 into brackets.
_HOP = re.compile(r"([0-9.]+)(?::[0-9]{1,5})?|\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Whether a direct peer is one of our proxies."""
    parsed = _parse(address.partition("%")[0])
    return parsed is not None and _is_in(parsed, trusted)


def client_address(head: Head, peer: str, trusted: Sequence[Network]) -> str:
    """The client's address; the peer's own if the header is missing, malformed or too long.

    Args:
        peer: the direct peer's address, a trusted one.
    """
    values = [value for name, value in head.headers if name == b"x-forwarded-for"]
    if not values:
        return peer
    hops = b",".join(values).decode("latin-1").rsplit(",", MAX_HOPS)
    if len(hops) > MAX_HOPS:
        hops = hops[1:]
    furthest = peer
    for hop in reversed(hops):
        address = _parse(hop.strip())
        if address is None:
            return peer
        furthest = str(address)
        if not _is_in(address, trusted):
            return furthest
    return furthest if len(hops) < MAX_HOPS else peer


def names_client(head: Head) -> bool:
    """Whether a request says for whom it is asked."""
    return any(name in (b"x-forwarded-for", b"forwarded") for name, _ in head.headers)


def client_scheme(head: Head, default: str) -> str:
    """What the proxy in front of us says it was asked by: `http` or `https`."""
    values = [value for name, value in head.headers if name == b"x-forwarded-proto"]
    if not values:
        return default
    scheme = values[-1].rsplit(b",", 1)[-1].strip().lower()
    return scheme.decode("ascii") if scheme in (b"http", b"https") else default


def _parse(text: str) -> Address | None:
    match = _HOP.fullmatch(text)
    if match is None:
        return None
    try:
        address = ipaddress.ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
