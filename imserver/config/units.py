"""Sizes, durations and addresses as people write them in the configuration and on the command line."""

from __future__ import annotations

import ipaddress
import math
import re
from decimal import Decimal

import attrs

_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MS_OF = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SIZE = re.compile(r"([0-9]{1,15})\s*([A-Za-z]*)", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)", re.ASCII)
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?", re.ASCII)


@attrs.frozen
class Address:
    """Where a listener listens; an IPv6 `host` is kept without its brackets, `port` 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_size(value: int | str) -> int:
    """Bytes from a number of bytes or from "512B", "64KiB", "1MiB", "2GiB".

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is not None and (match[2] or "B") in _SIZE_UNITS:
        return int(match[1]) * _SIZE_UNITS[match[2] or "B"]
    raise ValueError(f"{value!r} is no size")


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads as this number of bytes."""
    unit, factor = next((unit, factor) for unit, factor in reversed(_SIZE_UNITS.items()) if size_bytes % factor == 0)
    return f"{size_bytes // factor}{unit}" if size_bytes else "0B"


def parse_duration(value: float | str) -> float:
    """Seconds from a number of seconds or from "250ms", "30s", "2m", "24h", "30d".

    Raises:
        ValueError: it is none of these, or negative, or not finite.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is not None and (match[2] or "s") in _MS_OF:
        return float(Decimal(match[1]) * _MS_OF[match[2] or "s"] / 1000)
    raise ValueError(f"{value!r} is no duration")


def format_duration(duration_s: float) -> str:
    """The shortest text that `parse_duration` reads as this number of seconds."""
    milliseconds = round(duration_s * 1000)
    if milliseconds / 1000 != duration_s:
        return f"{Decimal(repr(duration_s)):f}s"
    unit = next(unit for unit in reversed(_MS_OF) if milliseconds % _MS_OF[unit] == 0) if milliseconds else "s"
    return f"{milliseconds // _MS_OF[unit]}{unit}"


def parse_address(text: str) -> Address:
    """An address from "127.0.0.1:9000", "chat.example.org:9000" or "[::1]:9000".

    Raises:
        ValueError: it is none of these; the message says what is wrong with it.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("it has no port from 0 to 65535 at its end")
    if host.startswith("[") and host.endswith("]"):
        try:
            return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise ValueError("there is no IPv6 address in the brackets") from None
    if ":" in host:
        raise ValueError("an IPv6 address goes in brackets")
    looks_like_ipv4 = re.fullmatch(r"[0-9.]+", host) is not None
    if (looks_like_ipv4 and not _is_ipv4(host)) or not _HOST_NAME.fullmatch(host):
        raise ValueError("there is no address or host name before the port")
    return Address(host, int(port))


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
