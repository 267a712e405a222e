"""Which URLs and addresses the server may connect to: nobody shall reach the inside of a network through it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS: Final = {"http": 80, "https": 443}
_MAX_URL_CHARS: Final = 2048
#: IPv6 addresses that stand for the IPv4 address in their last 32 bits.
_TRANSLATED: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
#: NAT64 networks of one's own: whatever they lead to, it is inside.
_LOCAL_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b:1::/48")


class Refused(Exception):
    """A URL or an address that may not be connected to."""


@frozen
class Place:
    """Where a URL leads."""

    is_tls: bool
    host: str
    port: int
    #: Path and query, as the request line has them.
    path: str
    #: Of the header `Host`.
    authority: str


def place_of(url: str, schemes: Iterable[str]) -> Place:
    """Take a URL apart.

    Raises:
        Refused: it is no URL, or its scheme is not allowed, or it has parts that have no place here.
    """
    if len(url) > _MAX_URL_CHARS or not url.isascii() or any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise Refused("a URL has printable ASCII characters alone, and 2048 at most")
    if "\\" in url:
        raise Refused("a URL has no backslash")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the look-up does it: an empty label, or one of over 63 characters
    except ValueError as exc:
        raise Refused(f"this is no URL: {exc}") from exc
    allowed = tuple(schemes)
    if parts.scheme not in allowed or parts.scheme not in _PORTS:
        raise Refused(f"the URL's scheme must be one of {', '.join(allowed)}")
    if not host or parts.username is not None or parts.password is not None or "%" in host:
        raise Refused("the URL needs a host, and no user, password or zone")
    if port == 0:
        raise Refused("the URL's port must be 1 to 65535")
    path = parts.path or "/"
    if parts.query:
        path += f"?{parts.query}"
    authority = parts.netloc
    return Place(parts.scheme == "https", host, port or _PORTS[parts.scheme], path, authority)


def check_address(address: str, allowed: Sequence[Network]) -> None:
    """Let nobody be connected to but public addresses, and those in `allowed`.

    Raises:
        Refused: it is private, loopback, link-local, multicast, reserved, or stands for such an address.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError as exc:
        raise Refused(f"{address!r} is no address") from exc
    for one in (found, *_stands_for(found)):
        if any(one.version == network.version and one in network for network in allowed):
            return
    for one in (found, *_stands_for(found)):
        if not one.is_global or one.is_multicast or one.is_reserved or one.is_unspecified:
            raise Refused(f"{address} is no public address; plugins.webhook.allowed_networks may allow it")
    if isinstance(found, ipaddress.IPv6Address) and (found.is_site_local or found in _LOCAL_TRANSLATED):
        raise Refused(f"{address} is no public address; plugins.webhook.allowed_networks may allow it")


def _stands_for(address: Address) -> list[Address]:
    """The IPv4 addresses that packets to this one may end at."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address] = [one for one in (address.ipv4_mapped, address.sixtofour) if one is not None]
    if address.teredo is not None:
        found += address.teredo
    if any(address in network for network in _TRANSLATED):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return found
