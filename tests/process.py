"""Starts, kills and restarts real server processes for the black-box tests."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

from wire import OPEN, REGISTER, Client, sign

PASSWORD = "correct horse 7 battery"
READY_PATIENCE_S = 60.0


class ServerFailed(Exception):
    """The process ended before it was ready; `status` is its exit status, `text` what it wrote."""

    def __init__(self, status, text):
        super().__init__(f"exit status {status}:\n{text}")
        self.status = status
        self.text = text


class Server:
    """One server on one folder: the process may die and come back, the folder stays.

    Args:
        folder: an existing folder; the data goes to `data` below it.
        settings: configuration by dotted key, given as `--set`.
        preexec: called in the child before the server starts (resource limits).
    """

    _names = itertools.count(1)

    def __init__(self, folder, settings=None, *, preexec=None):
        self.folder = folder
        self.data = folder / "data"
        self.settings = {
            "server.data_dir": str(self.data),
            "server.log_format": "json",
            "tcp.listen": "127.0.0.1:0",
            "http.listen": "127.0.0.1:0",
            **(settings or {}),
        }
        self.preexec = preexec
        self.process = None
        self.lines = []
        self.address = None
        self.ready = None

    # --- the process

    def command(self):
        words = [sys.executable, "-m", "imserver", "run"]
        for key, value in self.settings.items():
            words += ["--set", f"{key}={value}"]
        return words

    def start(self):
        """Start the process and wait for its `ready` line. Raises ServerFailed when it ends before."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")}
        self.lines = []
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=self.preexec,
        )
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr, self.lines, ready), daemon=True)
        self._reader.start()
        deadline = time.monotonic() + READY_PATIENCE_S
        while not ready.wait(0.02):
            if self.process.poll() is not None or time.monotonic() > deadline:
                if self.process.poll() is None:
                    self.process.kill()
                status = self.process.wait()
                self._reader.join()
                if ready.is_set():
                    break
                raise ServerFailed(status, self.text())
        self.ready = next(record for record in self.logs() if record.get("event") == "ready")
        host, port = self.ready["tcp"][0].rsplit(":", 1)
        self.address = (host, int(port))
        return self

    @staticmethod
    def _read(stream, lines, ready):
        with stream:
            for line in stream:
                lines.append(line.decode(errors="replace").rstrip("\n"))
                if '"ready"' in lines[-1]:
                    ready.set()

    def text(self):
        return "\n".join(self.lines)

    def logs(self):
        """The log so far, one dict a JSON line; other lines are left out."""
        records = []
        for line in list(self.lines):
            if line.startswith("{"):
                records.append(json.loads(line))
        return records

    def wait_logged(self, is_wanted, timeout_s=10.0):
        """The first record of the log that is wanted; what has been answered may be logged a moment later."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = next((record for record in self.logs() if is_wanted(record)), None)
            if found is not None:
                return found
            time.sleep(0.02)
        raise AssertionError("nothing of the kind was logged")

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def wait(self, timeout_s=60.0):
        """Wait for the end of the process; gives its exit status."""
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def kill(self):
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.wait()

    def terminate(self):
        """SIGTERM; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s=60.0):
        """SIGTERM and wait; gives the exit status, or kills what will not go and raises."""
        if self.process is None:
            return None
        if self.alive:
            self.terminate()
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def restart(self):
        """Stop cleanly and start again on the same folder. The clients are closed: the server would wait for them."""
        for client in [client for client in OPEN if client.address == self.address]:
            client.close()
        assert self.stop() == 0, self.text()
        return self.start()

    def discard(self):
        """For the end of a test: whatever the state, nothing is left running."""
        if self.alive:
            self.process.kill()
        if self.process is not None:
            self.wait()

    # --- clients

    def client(self, **options):
        return Client(self.address, **options)

    def register(self, name=None, **fields):
        """Register a user under a name that no other test uses; gives the name."""
        name = name or f"user-{next(self._names)}"
        with self.client() as client:
            client.ok(REGISTER, user_id=name, password=PASSWORD, **fields)
        return name

    def login(self, user=None, *, flags=0, receive_buffer_bytes=None, **options):
        """A connection logged in by password, as a new user unless `user` is given."""
        user = user or self.register()
        client = self.client(flags=flags, receive_buffer_bytes=receive_buffer_bytes)
        client.login(user, PASSWORD, **options)
        return client

    @property
    def secret(self):
        """What the server signs its tokens with."""
        return next(self.folder.rglob("secret")).read_bytes().strip()

    def integrated(self, user, *, flags=0, **options):
        """A connection by the integrator's own token: users by the dozen, without a password's hash."""
        client = self.client(flags=flags)
        client.auth(sign(self.secret, {"sub": user, "exp": int(time.time()) + 600}), **options)
        return client

    def again(self, client, *, flags=0, receive_buffer_bytes=None, **options):
        """Another connection of the same user, by the token: saves the password's hash."""
        other = self.client(flags=flags, receive_buffer_bytes=receive_buffer_bytes)
        other.auth(client.token, **options)
        return other
