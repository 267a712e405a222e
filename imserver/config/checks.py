"""Rules that need more than one value, or a look at the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from imserver.config.origin import Place
from imserver.config.settings import Config
from imserver.config.units import Address


def check(config: Config, tree: Mapping[str, Any], place: Place) -> None:
    """Refuse settings that are right one by one and wrong together.

    Args:
        tree: the tables that they were made of; they know where each value comes from.

    Raises:
        ConfigError: as for a single value.
    """

    def at(section: str, key: str) -> Place:
        return place.of(tree.get(section, {}).get(key)).child(f"{section}.{key}")

    listening: list[Address] = []
    for section, addresses in (("tcp", config.tcp.listen), ("http", config.http.listen)):
        for address in addresses:
            if address.port and address in listening:
                at(section, "listen").fail(f'got "{address}" twice, expected different addresses for the listeners')
            listening.append(address)
    if not listening:
        at("tcp", "listen").fail("got [] here and in http.listen, expected one address to listen on at least")
    lists: tuple[tuple[str, str, Sequence[object]], ...] = (
        ("http", "allowed_origins", config.http.allowed_origins),
        ("limits", "exempt_addresses", config.limits.exempt_addresses),
        ("proxy", "trusted", config.proxy.trusted),
        ("plugins", "enabled", config.plugins.enabled),
        ("plugins", "paths", config.plugins.paths),
    )
    for section, key, values in lists:
        twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
        if twice is not None:
            at(section, key).fail(f'got "{twice}" twice, expected a list without duplicates')
    if config.tls is not None:
        for key, file in (
            ("certificate", config.tls.certificate),
            ("key", config.tls.key),
            ("client_ca", config.tls.client_ca),
        ):
            if file is not None and not (file.is_file() and os.access(file, os.R_OK)):
                at("tls", key).fail(f'got "{file}", expected a PEM file that exists and can be read')
        if config.tls.client_ca is None and config.tls.client_certificates != "none":
            at("tls", "client_ca").fail("missing; expected the PEM file of the authority that client certificates come from")
    if config.proxy.protocol and not config.proxy.trusted:
        at("proxy", "trusted").fail("got [], expected the networks of the proxies that send the PROXY header")
    for path in config.plugins.paths:
        if not (path.is_dir() or (path.suffix == ".py" and path.is_file())):
            at("plugins", "paths").fail(f'got "{path}", expected a folder, or the .py file of a plugin, that exists')
    if config.server.data_dir.exists() and not config.server.data_dir.is_dir():
        at("server", "data_dir").fail(f'got "{config.server.data_dir}", expected a folder, which is made if it is missing')
