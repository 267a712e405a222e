"""A server of the benchmark's own on a temporary folder, and the CPU time of a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imserver.bench.framing import Address
from imserver.bench.wire import BenchFailed

_READY_PATIENCE_S = 30.0
_STOP_PATIENCE_S = 30.0
_LOOK_S = 0.02
_LOG_TAIL_CHARS = 2000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class OwnServer:
    """A running server process. Use `own_server`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, secret_file: Path) -> None:
        self._process = process
        self._log = log
        self._secret_file = secret_file

    @property
    def secret(self) -> bytes:
        """What it signs tokens with."""
        return self._secret_file.read_bytes().strip()

    def wait_ready(self, transport: str) -> Address:
        """Wait until it accepts connections; gives the address of its first listener for this transport.

        Raises:
            BenchFailed: it ended, or did not get ready in time; with the end of its log.
        """
        deadline = time.monotonic() + _READY_PATIENCE_S
        while time.monotonic() < deadline:
            status = self._process.poll()
            for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
                if '"ready"' not in line:
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # half a line so far
                if event.get("event") == "ready":
                    host, _, port = event["http" if transport == "ws" else "tcp"][0].rpartition(":")
                    return Address(transport, host.strip("[]"), int(port))
            if status is not None:
                raise BenchFailed(f"the server did not start: exit status {status}; its log:\n{self.log_tail()}")
            time.sleep(_LOOK_S)
        raise BenchFailed(f"the server was not ready within {_READY_PATIENCE_S:g} s; its log:\n{self.log_tail()}")

    def cpu_s(self) -> float | None:
        """What all its threads have used so far; None once it is gone."""
        return cpu_of(self._process.pid)

    def obituary(self) -> str | None:
        """If it has ended by itself: how, and the end of its log."""
        try:
            # A connection may be seen to break a moment before the process is seen to be dead.
            status = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return None
        return f"the server process has ended with status {status}; the end of its log:\n{self.log_tail()}"

    def log_tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:].strip() or "(empty)"

    def stop(self) -> None:
        """SIGTERM, and wait for the end; what will not end is killed."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BenchFailed(f"the server did not stop within {_STOP_PATIENCE_S:g} s of SIGTERM") from None
        except BaseException:  # a second Ctrl-C: nothing is left behind
            self._process.kill()
            self._process.wait()
            raise


@contextmanager
def own_server(overrides: Sequence[str]) -> Iterator[OwnServer]:
    """Start a server that nothing else knows of, on the defaults, and stop it at the end.

    Args:
        overrides: settings as `--set` takes them; they go before the benchmark's own.
    """
    with tempfile.TemporaryDirectory(prefix="imserver-bench-") as name:
        folder = Path(name)
        # An empty file of its own, so that an imserver.toml in the present folder plays no part.
        config = folder / "imserver.toml"
        config.touch()
        settings = [
            f"server.data_dir={folder / 'data'}",
            f"auth.secret_file={folder / 'secret'}",
            "server.log_format=json",
            "tcp.listen=127.0.0.1:0",
            "http.listen=127.0.0.1:0",
            "limits.requests_per_second=0",
            *overrides,
        ]
        words = [sys.executable, "-m", "imserver", "run", "-c", str(config)]
        for setting in settings:
            words += ["--set", setting]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")}
        log = folder / "log"
        with log.open("wb") as stream:
            # A session of its own: Ctrl-C is for the benchmark, which then stops the server.
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env=environment,
                start_new_session=True,
            )
        server = OwnServer(process, log, folder / "secret")
        try:
            yield server
        finally:
            server.stop()


def cpu_of(pid: int) -> float | None:
    """User and system time of a process in seconds, all threads; None: there is no such process.

    Source: proc_pid_stat(5). The command's name may have spaces and parentheses in it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
