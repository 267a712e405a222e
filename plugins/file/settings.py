"""`[plugins.file]`"""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from imserver.plugin import Meta
from imserver_plugins.file.names import is_pattern

_DAY_S = 86_400.0


def _are_patterns(instance: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if not value:
        raise ValueError('allowed_types is empty; expected patterns such as "image/*", or "*/*" for all')
    for pattern in value:
        if not is_pattern(pattern):
            raise ValueError(f'allowed_types: {pattern!r} is no pattern such as "image/*", "application/pdf" or "*/*"')


@attrs.frozen
class Settings:
    """`[plugins.file]`

    max_size: of one file; beyond it 413.
    allowed_types: patterns of media types; another one is refused. It is what the client says: a file may lie about it.
    quota: bytes of one user's files together, unfinished uploads at their full length; beyond it 413.
    max_files: files of one user; an empty file takes no bytes, but a row.
    uploads_per_user: requests that one user may be sending a body with at once; beyond it 429.
    orphan_ttl: how long a file stays that no conversation holds.
    upload_ttl: how long a resumable upload may take.
    """

    max_size_bytes: Annotated[int, Meta(ge=1)] = 25 << 20
    allowed_types: tuple[str, ...] = attrs.field(default=("*/*",), validator=_are_patterns)
    quota_bytes: Annotated[int, Meta(ge=1)] = 1 << 30
    max_files: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    uploads_per_user: Annotated[int, Meta(ge=1, le=1000)] = 8
    orphan_ttl_s: Annotated[float, Meta(ge=60)] = _DAY_S
    upload_ttl_s: Annotated[float, Meta(ge=60)] = _DAY_S
