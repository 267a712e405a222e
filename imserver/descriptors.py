"""How many files the process may open: a connection is one."""

from __future__ import annotations

import resource

from imserver.log import get_logger

#: Beside the clients' connections: the database, listeners, files on their way, connections to others.
SPARE = 1000
#: Enough for most: below it a server says aloud that `limits.max_connections` is more than it can have.
_FEW = 10_000


def raise_descriptors(max_connections: int) -> None:
    """Raise the soft limit of open files, which shells and containers set to 1,024, as far as it is of use and allowed."""
    wanted = max_connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError) as exc:  # the kernel's own bound may be lower than the hard limit
            get_logger("server").warning(
                "few_descriptors", open_files=soft, max_connections=max_connections, reason=str(exc)
            )
            return
    if allowed < wanted:
        log = get_logger("server")
        say = log.warning if allowed < _FEW else log.info
        say(
            "few_descriptors",
            open_files=allowed,
            max_connections=max_connections,
            advice=f"raise the hard limit of open files (LimitNOFILE, ulimit -Hn) to {wanted}, or lower "
            "limits.max_connections: beyond it accepting pauses",
        )
