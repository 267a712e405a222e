"""The table of settings: a class a section of the configuration, an attribute a key.

To add a key, add an attribute with its type, its default, and where it has a range a `Meta` (then `conf/imserver.toml`
and `docs/reference/configuration.md`; tests compare the three). The unit at the end of an attribute's name is no part of
its key: `heartbeat_s` is the key `heartbeat` and takes durations, `max_frame_bytes` is the key `max_frame` and takes
sizes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import attrs
from msgspec import Meta

from imserver.config.units import Address
from imserver.log import LogFormat, LogLevel, mask_secrets

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


Name = Annotated[
    str,
    Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z", description='1 to 64 letters, digits, "-", "_" and "."'),
]
Origin = Annotated[
    str,
    Meta(
        pattern=r"\A(self|https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?)\Z",
        description='"self" or an origin without a path, such as "https://chat.example.org" (there is no wildcard)',
    ),
]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]  # 0: no limit
SomeCount = Annotated[int, Meta(ge=1, le=1_000_000_000)]

_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S


@attrs.frozen
class Server:
    """`[server]`: the process."""

    name: Name = "im-1"
    node: Annotated[int, Meta(ge=0, le=1023)] = 0
    data_dir: Path = Path("data")
    shards: Literal["auto"] | Annotated[int, Meta(ge=1, le=256)] = "auto"
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    drain_s: Annotated[float, Meta(ge=0, le=_HOUR_S)] = 10.0


@attrs.frozen
class Tcp:
    """`[tcp]`: the framed protocol."""

    listen: tuple[Address, ...] = (Address("127.0.0.1", 9000),)
    heartbeat_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)] = 30.0


@attrs.frozen
class Http:
    """`[http]`: the HTTP API, the web client, and WebSocket at /ws."""

    listen: tuple[Address, ...] = (Address("127.0.0.1", 8080),)
    allowed_origins: tuple[Origin, ...] = ("self",)
    web_client: bool = True
    websocket_ping_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)] = 60.0


@attrs.frozen
class Tls:
    """`[tls]`: the server's certificate chain and its private key, PEM files. Without the section: plain."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_certificates: Literal["none", "optional", "required"] = "none"
    client_identity: Literal["user", "api_key"] = "user"


@attrs.frozen
class Proxy:
    """`[proxy]`: which peers are reverse proxies, whose word on the client's address is taken."""

    trusted: tuple[Network, ...] = ()
    protocol: bool = False


@attrs.frozen
class Auth:
    """`[auth]`: tokens and registration."""

    secret_file: Path = Path("data/secret")  # `load_config` puts it into `server.data_dir` wherever that is
    token_ttl_s: Annotated[float, Meta(ge=1, le=3650 * _DAY_S)] = 24.0 * _HOUR_S
    refresh_ttl_s: Annotated[float, Meta(ge=1, le=3650 * _DAY_S)] = 30.0 * _DAY_S
    registration: Literal["open", "closed"] = "open"


@attrs.frozen
class Limits:
    """`[limits]`: the bound of everything that clients can make grow."""

    max_frame_bytes: Annotated[int, Meta(ge=1024, le=64 << 20)] = 1 << 20
    max_connections: SomeCount = 100_000
    connections_per_address: SomeCount = 20_000
    requests_per_second: Count = 2000
    in_flight: Annotated[int, Meta(ge=1, le=65_536)] = 64
    outbox_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 8 << 20
    sessions_per_user: Count = 100
    registrations_per_hour: Count = 60
    exempt_addresses: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1"))
    login_timeout_s: Annotated[float, Meta(ge=0.1, le=_HOUR_S)] = 10.0
    request_timeout_s: Annotated[float, Meta(ge=0.01, le=_HOUR_S)] = 10.0


def _masked_repr(settings: Mapping[str, Mapping[str, object]]) -> str:
    return repr(mask_secrets(settings))


_NO_SETTINGS: Mapping[str, Mapping[str, object]] = MappingProxyType({})


@attrs.frozen
class Plugins:
    """`[plugins]`: which plugins run, and the tables `[plugins.NAME]` as they were read (see `build_settings`)."""

    enabled: tuple[Name, ...] = ("user", "message", "friend", "group", "push", "file", "search", "admin")
    paths: tuple[Path, ...] = ()
    settings: Mapping[str, Mapping[str, object]] = attrs.field(
        default=_NO_SETTINGS, repr=_masked_repr, metadata={"key": None}
    )


#: A command's ID, its name behind its plugin's, or a pattern; checked when the plugins are there.
Roles = Mapping[str, tuple[int | str, ...]]
_NO_ROLES: Roles = MappingProxyType({})


@attrs.frozen
class Config:
    """All settings, read-only. `file` is where they were read, None without a file; it takes no part in comparisons."""

    server: Server = Server()
    tcp: Tcp = Tcp()
    http: Http = Http()
    tls: Tls | None = None
    proxy: Proxy = Proxy()
    auth: Auth = Auth()
    limits: Limits = Limits()
    plugins: Plugins = Plugins()
    #: `[roles]`: role -> what it may do; `imserver.permissions` has the rules.
    roles: Roles = attrs.field(default=_NO_ROLES, metadata={"key": None})
    file: Path | None = attrs.field(default=None, eq=False, metadata={"key": None})
