"""The server under test: one of our own on a temporary folder, or one that runs already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from imserver.bench.pairs import BenchError

_STOP_S = 30


@attrs.frozen
class Target:
    """Where to connect, and what tells its CPU time."""

    host: str
    port: int
    secret: bytes
    #: None: it runs elsewhere, its CPU time is not known.
    pid: int | None = None

    def cpu_s(self) -> float | None:
        """CPU time that the server's process has used, user and system, in seconds."""
        if self.pid is None:
            return None
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def own_server(overrides: Sequence[str]) -> Iterator[Target]:
    """Start a server with its defaults, but for the limit on requests a second, and stop it at the end.

    Raises:
        BenchError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="imserver-bench-") as folder:
        settings = [
            f"server.data_dir={folder}",
            f"auth.secret_file={folder}/secret",
            "server.log_format=json",
            "tcp.listen=127.0.0.1:0",
            "http.listen=127.0.0.1:0",
            "limits.requests_per_second=0",
            *overrides,
        ]
        arguments = [item for setting in settings for item in ("--set", setting)]
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            # Its log goes to a file: a pipe that nobody reads would stop it.
            child = subprocess.Popen([sys.executable, "-m", "imserver", "run", *arguments], cwd=folder, stderr=log)
        try:
            address = _wait_until_ready(child, log_path)
            host, port = address.rsplit(":", 1)
            yield Target(host.strip("[]"), int(port), (Path(folder) / "secret").read_bytes().strip(), child.pid)
        finally:
            child.terminate()
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_until_ready(child: subprocess.Popen[bytes], log_path: Path) -> str:
    while True:
        for line in log_path.read_text().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a message for people, or half a line
            if event.get("event") == "ready":
                return str(event["tcp"][0])
        try:
            status = child.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise BenchError(f"the server ended with status {status}:\n{log_path.read_text()}")
