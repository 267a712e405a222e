"""What is said of a value that is wrong: what was given, what was expected, what may have been meant."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union

from msgspec import Meta

from imserver.config.origin import Place
from imserver.config.schema import known_keys
from imserver.config.units import Address, format_duration, format_size
from imserver.log import MASK, is_secret_name, mask_secrets


def describe(hint: Any, unit: str) -> str:
    """What a value of this type is, for "expected …"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        metas = [extra for extra in arguments[1:] if isinstance(extra, Meta)]
        words = next((meta.description for meta in metas if meta.description), None)
        return words or " ".join([describe(arguments[0], unit), *(_describe_bounds(meta, unit) for meta in metas)])
    if origin in (Union, types.UnionType):
        arms = dict.fromkeys(describe(arm, unit) for arm in arguments if arm is not types.NoneType)
        return " or ".join(arms)
    if origin is Literal:
        choices = [json.dumps(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if origin in (tuple, list, Sequence, frozenset):
        return f"a list; each is {describe(arguments[0], unit)}"
    if hint in (int, float) and unit == "bytes":
        return 'a size such as 4096, "64KiB" or "1MiB"'
    if hint in (int, float) and unit:
        return 'a duration such as "250ms", "30s", "2m", "24h" or "30d", or a number of seconds,'
    network = 'an address or network such as "10.0.0.0/8" or "::1"'
    names: dict[Any, str] = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a string",
        Path: "a path (a string)",
        Address: 'an address such as "127.0.0.1:9000" or "[::1]:9000", port 0 to 65535',
        ipaddress.IPv4Network: network,
        ipaddress.IPv6Network: network,
    }
    return names.get(hint, "a table")


def _describe_bounds(meta: Meta, unit: str) -> str:
    def written(bound: float) -> str:
        if unit == "bytes":
            return format_size(int(bound))
        return format_duration(bound / (1000 if unit == "ms" else 1)) if unit else str(bound)

    if meta.ge is not None and meta.le is not None:
        return f"from {written(meta.ge)} to {written(meta.le)}"
    bounds = (
        ("of at least", meta.ge), ("above", meta.gt), ("of at most", meta.le), ("below", meta.lt),
    )  # fmt: skip
    words = [f"{word} {written(bound)}" for word, bound in bounds if bound is not None]
    lengths = (("of at least", meta.min_length), ("of at most", meta.max_length))
    words += [f"{word} {length} characters or items" for word, length in lengths if length is not None]
    if meta.multiple_of is not None:
        words.append(f"in multiples of {written(meta.multiple_of)}")
    if meta.pattern is not None:
        words.append(f"that matches {meta.pattern}")
    return ", ".join(words)


def show(value: object, key: str) -> str:
    """The bad value, short and in TOML's spelling; a secret stays one."""
    if is_secret_name(key.rpartition(".")[2].partition("[")[0]):
        return MASK
    if isinstance(value, (str, bool, int, list, Mapping)):
        text = json.dumps(mask_secrets(value), ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= 100 else text[:97] + "…"


def near(word: object, candidates: Iterable[object]) -> str | None:
    """The candidate that a word is nearly the same as."""
    words = [candidate for candidate in candidates if isinstance(candidate, str)]
    return next(iter(difflib.get_close_matches(word.lower(), words, n=1)), None) if isinstance(word, str) else None


def near_address(text: str) -> str | None:
    """The address that was meant by a text that is none."""
    if re.fullmatch(r"\*?:[0-9]+", text):
        return "0.0.0.0" + text.lstrip("*")
    if re.fullmatch(r"[0-9]{1,5}", text):
        return f"127.0.0.1:{text}"
    host, _, port = text.rpartition(":")
    try:
        return f"[{ipaddress.IPv6Address(host)}]:{port}" if port else None
    except ValueError:
        return None


def near_network(hint: type, text: str) -> str | None:
    """The network that was meant by an address with bits beside its mask."""
    try:
        return str(hint(text, strict=False))
    except ValueError:
        return None


def fail_unknown(place: Place, key: str, siblings: Iterable[str], *, dotted: str | None = None) -> NoReturn:
    """Refuse a key that there is not.

    Args:
        place: of its table.
        siblings: the keys that there are.
        dotted: the whole key, where that is more than its section.
    """
    siblings = tuple(siblings)
    suggestion = near(key, siblings)
    if suggestion is None:  # a right key in the wrong section
        suggestion = next((known for known in known_keys() if known.rpartition(".")[2] == key), None)
    kind = "section" if not place.key else "key"
    listed = f"; there are {', '.join(siblings)}" if suggestion is None else ""
    place.child(dotted or key).fail(f"unknown {kind}{listed}", suggestion)
