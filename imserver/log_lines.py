"""Where the lines of the log leave the process: at once where that cannot wait, else by a bounded queue and a thread.

Who reads the log may stand still: a pager, a stuck collector, a disk. Whoever logs must not stand still with it. A pipe or a
socket that has room for a line gets it at once; else it is put into a queue, which one thread writes, and its author goes
on. When the queue is full lines are dropped, and counted.
"""

from __future__ import annotations

import atexit
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

#: Lines that wait for their reader, and their characters together.
MAX_LINES = 10_000
MAX_CHARACTERS = 16 << 20
#: What a pipe that says it can be written to takes without a wait (POSIX: PIPE_BUF), in bytes.
_SHORT_BYTES = select.PIPE_BUF
#: How long the end of the process waits for the reader of its log.
FLUSH_S = 2.0


class LineWriter:
    """Writes whole lines in their order. It is the logger that structlog wraps: a method for each level.

    Args:
        stream: None drops all: the process was started with standard error closed.
        say_dropped: called in the writer's thread when there is room again, with how many lines were dropped since.
    """

    def __init__(self, stream: TextIO | None, say_dropped: Callable[[int], None]) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._encoding = "utf-8" if stream is None else stream.encoding or "utf-8"
        #: Tells whether the descriptor takes a short line now. None: nobody can tell, as of a file or a terminal.
        self._room = None if self._fd is None else _room_of(self._fd)
        self._say_dropped = say_dropped
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._characters = 0
        self._is_writing = False
        self._unsaid = 0
        self._thread: threading.Thread | None = None
        #: Lines that found no room.
        self.dropped = 0

    def write(self, line: str) -> None:
        """Write a line or queue it. From any thread; never waits for the stream's reader."""
        if self._stream is None:
            return
        with self._changed:
            if self._fd is None:
                self._write_to(self._stream, line + "\n")
            elif self._write_short(self._fd, line):
                return
            elif len(self._lines) >= MAX_LINES or self._characters >= MAX_CHARACTERS:
                self.dropped += 1
                self._unsaid += 1
            else:
                self._lines.append(line)
                self._characters += len(line)
                if self._thread is None:
                    self._start(self._fd)
                self._changed.notify_all()

    def _write_short(self, fd: int, line: str) -> bool:
        """Write a line past the queue, if nothing is in it and there is room; whether it is written."""
        if self._room is None or self._lines or self._is_writing or self._unsaid or len(line) >= _SHORT_BYTES:
            return False
        data = self._encoded(line + "\n")
        if len(data) > _SHORT_BYTES or not self._room.poll(0):
            return False
        try:
            os.write(fd, data)
        except OSError:
            return True  # its reader is gone: there is nowhere left to tell it
        return True

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._encoding, "backslashreplace")

    def _start(self, fd: int) -> None:
        # Once nobody reads it stands in its write for ever: a daemon, which the end of the process does not wait for.
        self._thread = threading.Thread(target=self._run, args=(fd,), name="log", daemon=True)
        self._thread.start()
        atexit.register(self.flush)

    debug = info = warning = error = critical = exception = fatal = msg = write

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until all lines are written; False: their reader did not take them in time."""
        ends_at = time.monotonic() + timeout_s
        with self._changed:
            while self._lines or self._is_writing:
                left_s = ends_at - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    # ------------------------------------------------------------ the writer's thread

    def _run(self, fd: int) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not (self._lines or self._unsaid):
                    self._changed.wait()
                lines = list(self._lines)
                self._lines.clear()
                self._characters = 0
                unsaid = 0
                if not lines:
                    unsaid, self._unsaid = self._unsaid, 0
                self._is_writing = True
            if lines:
                self._write_out(fd, "\n".join(lines) + "\n")
            else:
                self._say_dropped(unsaid)

    def _write_out(self, fd: int, text: str) -> None:
        try:
            _write_all(fd, self._encoded(text))
        except OSError:
            return  # closed, or its reader is gone: there is nowhere left to tell it

    @staticmethod
    def _write_to(stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            return  # closed


def _descriptor(stream: TextIO | None) -> int | None:
    """The stream's descriptor, if it has one.

    What is written past the stream's own buffer holds no lock of it, which the interpreter would ask for at its end and
    abort on if this thread stood in a write then.
    """
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):  # in memory, or closed
        return None


def _room_of(fd: int) -> select.poll | None:
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) or not os.get_blocking(fd):
            return None
    except OSError:  # it is closed
        return None
    room = select.poll()
    room.register(fd, select.POLLOUT)
    return room


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody else has made it non-blocking: a terminal is shared
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
