"""Runs `imserver chat` as users do: with a terminal (a pty, and an emulator that shows what is on it), or with pipes."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pyte

PASSWORD = "correct horse 7 battery"
PATIENCE_S = 30.0
ROWS, COLUMNS = 24, 100


def command(*words):
    return [sys.executable, "-m", "imserver", "chat", *words]


def environment(home):
    """Nothing of whoever runs the tests: no remembered tokens, no colours of their terminal."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("IMSERVER_", "XDG_"))}
    return {**kept, "HOME": str(home), "TERM": "xterm-256color", "LANG": "C.UTF-8"}


class Terminal:
    """A chat in a terminal of 24 rows."""

    def __init__(self, home, *words):
        home.mkdir(exist_ok=True)
        self.emulator = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.emulator)
        self.raw = b""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command(*words),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(home),
            cwd=home,
            start_new_session=True,
        )
        os.close(slave)
        self.master = master

    def text(self):
        return "\n".join(line.rstrip() for line in self.emulator.display)

    def pump(self):
        """Take what the program writes within a moment; False at its end."""
        if select.select([self.master], [], [], 0.05)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Linux's way to say that nobody has the other side
                return False
            self.raw += data
            self.stream.feed(data)
            return bool(data)
        return True

    def wait(self, what):
        """Until the screen shows a text that this pattern finds."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(what, self.text(), re.MULTILINE)):
            is_alive = self.pump()
            assert is_alive, f"it has ended without {what!r}:\n{self.text()}"
            assert time.monotonic() < deadline, f"{what!r} is not on the screen:\n{self.text()}"
        return found

    def wait_gone(self, what):
        """Until the screen shows no such text."""
        deadline = time.monotonic() + PATIENCE_S
        while re.search(what, self.text(), re.MULTILINE):
            is_alive = self.pump()
            assert is_alive, f"it has ended with {what!r}:\n{self.text()}"
            assert time.monotonic() < deadline, f"{what!r} is still on the screen:\n{self.text()}"

    def type(self, text):
        os.write(self.master, text.encode())

    def log_in(self, *, register):
        """Answer the questions for the password."""
        for _ in range(1 + register):
            self.wait("(Password|confirmation):$")
            self.emulator.reset()
            self.type(f"{PASSWORD}\n")
        self.wait("connected, ")

    def end(self):
        """Wait for its end; returns the exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text()}"
            self.pump()
        while self.pump() and select.select([self.master], [], [], 0)[0]:
            pass
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


class Piped:
    """A chat with pipes: lines in, lines out."""

    def __init__(self, home, *words, password=PASSWORD):
        home.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            command("--password-stdin", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
            cwd=home,
        )
        self.lines = {"out": [], "err": []}
        self.changed = threading.Condition()
        self.readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for reader in self.readers:
            reader.start()
        self.type(password)

    def _read(self, name, stream):
        with stream:
            for line in stream:
                with self.changed:
                    self.lines[name].append(line.decode().rstrip("\n"))
                    self.changed.notify_all()

    def type(self, line):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def wait(self, what, *, where="out"):
        """Until a line that this pattern finds has come; returns what it found."""

        def found():
            return next((hit for line in self.lines[where] if (hit := re.search(what, line))), None)

        with self.changed:
            assert self.changed.wait_for(lambda: found() is not None, PATIENCE_S), f"no {what!r} in {self.lines}"
            return found()

    def end(self):
        """End its input; returns the exit status."""
        self.process.stdin.close()
        status = self.process.wait(PATIENCE_S)
        for reader in self.readers:
            reader.join(PATIENCE_S)
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if not self.process.stdin.closed:
            self.process.stdin.close()
        for reader in self.readers:
            reader.join(PATIENCE_S)
