"""Logging: one event a line, as JSON or for a terminal, with secrets masked.

`configure` is called once, by the command line; everything else only asks for `get_logger(name)`, or for a stdlib
logger: those end up in the same stream and form.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal, TextIO

import structlog

from imserver.log_lines import FLUSH_S, LineWriter

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]

MASK = "***"

# What ends like this is a secret (`old_password`, `X-API-Key`, `refreshToken`); what only begins so is not
# (`token_ttl`, `secret_file`).
_SECRET_NAME = re.compile(
    r"(^|_)(password|passwd|passphrase|token|secret|authorization|cookie|(api|private|secret|signing)_key)s?$"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Deeper values than this are masked as a whole: no log line needs them, and a cycle must end.
_MAX_DEPTH = 6
_FIRST_KEYS = ("timestamp", "level", "event")


@functools.lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds a secret: a password, a token, a signing key, …"""
    return _SECRET_NAME.search(_HUMP.sub("_", name).lower().replace("-", "_")) is not None


def mask_secrets(value: Any, *, depth: int = _MAX_DEPTH) -> Any:
    """A copy of `value` in which the values of secret names are masked, also inside of mappings and sequences."""
    if isinstance(value, Mapping):
        if depth == 0:
            return MASK
        return {
            key: MASK if isinstance(key, str) and is_secret_name(key) else mask_secrets(item, depth=depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [mask_secrets(item, depth=depth - 1) for item in value] if depth else MASK
    return value


def get_logger(name: str) -> Any:
    """A logger whose events carry `component=name`; it takes effect by what `configure` was told last.

    Returns:
        A structlog bound logger: `log.info("event_name", key=value, …)`, `log.bind(…)`, `log.exception(…)`.
    """
    return structlog.get_logger(component=name)


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send the events of structlog and of stdlib logging to one stream. May be called again.

    Args:
        log_format: `json`: one object a line with `timestamp` (ISO 8601, UTC), `level`, `event` and the event's own
            keys; `console`: for people; `auto`: console if the stream is a terminal.
        level: events below it are dropped.
        stream: standard error if it is None. If it is closed or its reader is gone, or the reader is so slow that the
            queue is full (log_lines.py), events are dropped: a server does not stop for its log.
    """
    flush()  # what was logged so far goes where it was meant to go
    output = sys.stderr if stream is None else stream
    is_console = log_format == "console" or (log_format == "auto" and _is_terminal(output))
    line_writer = LineWriter(output, _say_dropped)
    _writers.append(line_writer)
    rendering: list[structlog.typing.Processor] = [_redact]
    if is_console:
        # Plain tracebacks: the rich ones print local variables, and so passwords.
        console = structlog.dev.ConsoleRenderer(
            colors=_is_terminal(output) and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
        )
        rendering += [_escape_controls, console]
    else:
        rendering += [structlog.processors.format_exc_info, _first_keys_first, _render_json]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: line_writer,
        cache_logger_on_first_use=False,  # so that loggers made before a second `configure` follow it
    )
    handler = _StdlibHandler(line_writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter(), _add_stdlib_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _StdlibHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)


#: The one in use, last; kept from a first `configure` on for what was dropped there.
_writers: deque[LineWriter] = deque(maxlen=2)


def flush(timeout_s: float = FLUSH_S) -> bool:
    """Wait until all that was logged is written, which the end of the process also does.

    Returns:
        False: the log's reader did not take it in time.
    """
    return not _writers or _writers[-1].flush(timeout_s)


def lines_dropped() -> int:
    """How many lines were dropped, because the log's reader was too slow."""
    return sum(writer.dropped for writer in _writers)


def _say_dropped(lines: int) -> None:
    get_logger("log").warning("log_lines_dropped", lines=lines, advice="whoever reads the log was too slow, or stood still")


class _StdlibHandler(logging.Handler):
    def __init__(self, line_writer: LineWriter) -> None:
        super().__init__()
        self._line_writer = line_writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as exc:  # a record with wrong arguments is its author's fault, but must not harm the caller
            words = f"a log record cannot be formatted ({exc}): {record.msg!r}"
            line = self.format(logging.LogRecord(record.name, record.levelno, "", 0, words, None, None))
        self._line_writer.write(line)


Event = MutableMapping[str, Any]


def _redact(_logger: Any, _method: str, event: Event) -> Event:
    exc_info = event.pop("exc_info", None)  # no copy of it: it is a tuple that must stay one
    masked: Event = mask_secrets(event)
    if exc_info is not None:
        masked["exc_info"] = exc_info
    return masked


def _add_stdlib_name(_logger: Any, _method: str, event: Event) -> Event:
    record = event.get("_record")
    if record is not None:
        event["component"] = record.name
    return event


def _first_keys_first(_logger: Any, _method: str, event: Event) -> Event:
    return {key: event.pop(key) for key in _FIRST_KEYS if key in event} | dict(event)


_json_renderer = structlog.processors.JSONRenderer()


def _render_json(logger: Any, method: str, event: Event) -> str | bytes:
    try:
        return _json_renderer(logger, method, event)
    except (TypeError, ValueError, RecursionError):
        # A mapping with odd keys, or a cycle: say it as text rather than lose the event.
        return _json_renderer(logger, method, {str(key): str(value) for key, value in event.items()})


def _escape_controls(_logger: Any, _method: str, event: Event) -> Event:
    """What clients send must not draw on the terminal or fake a line."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("exception", "stack") and not value.isprintable():
            event[key] = repr(value)
    return event


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


__all__: Sequence[str] = (
    "MASK",
    "LogFormat",
    "LogLevel",
    "configure",
    "flush",
    "get_logger",
    "is_secret_name",
    "lines_dropped",
    "mask_secrets",
)
