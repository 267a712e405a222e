"""`imserver bench pairs`: against the real server, and against peers that cheat, which must be found out."""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wire

SECRET = b"5b1f0e6a97c24d83b9d0a1e2f3c4d5e6"
FAULTY_COUNT = 7  # which message of each conversation a cheating peer gets wrong


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `imserver bench pairs` to its end, with a report in JSON."""
    return subprocess.run(
        [sys.executable, "-m", "imserver", "bench", "pairs", "--json", *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("IMSERVER_")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


class Cheat:
    """An honest peer; subclasses get one message of each conversation wrong."""

    def pushes(self, push: dict[str, Any]) -> list[dict[str, Any]]:
        """What the recipient gets for a message."""
        return [push]

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What the sender gets for a message."""
        return answer

    def row(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """What PULL finds of a message."""
        return [row]


class DropsPush(Cheat):
    """Loses a push."""

    def pushes(self, push: dict[str, Any]) -> list[dict[str, Any]]:
        return [] if push["seq"] == FAULTY_COUNT else [push]


class DoublesPush(Cheat):
    """Pushes a message twice."""

    def pushes(self, push: dict[str, Any]) -> list[dict[str, Any]]:
        return [push, push] if push["seq"] == FAULTY_COUNT else [push]


class DoublesEveryPush(Cheat):
    """Pushes every message twice, and so the last one too, when all seems over."""

    def pushes(self, push: dict[str, Any]) -> list[dict[str, Any]]:
        return [push, push]


class Swaps(Cheat):
    """Pushes two messages in the wrong order."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Any]] = {}

    def pushes(self, push: dict[str, Any]) -> list[dict[str, Any]]:
        if push["seq"] == FAULTY_COUNT:
            self._held[push["conversation_id"]] = push
            return []
        held = self._held.pop(push["conversation_id"], None)
        return [push] if held is None else [push, held]


class MisnumbersPush(Cheat):
    """Pushes a message under a seq that leaves a gap."""

    def pushes(self, push: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**push, "seq": push["seq"] + (push["seq"] >= FAULTY_COUNT)}]


class Misdelivers(Cheat):
    """Pushes a message as one of another conversation."""

    def pushes(self, push: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**push, "conversation_id": "d:a:b"} if push["seq"] == FAULTY_COUNT else push]


class AnswersTwice(Cheat):
    """Answers with the rid of the message before."""

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "rid": answer["rid"] - 1} if answer["seq"] == FAULTY_COUNT else answer


class Refuses(Cheat):
    """Answers 503, and carries the message out all the same."""

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["seq"] != FAULTY_COUNT:
            return answer
        return {"rid": answer["rid"], "code": 503, "error": "unavailable", "message": "as the test wants it"}


class LosesRow(Cheat):
    """Does not store a message that it accepted."""

    def row(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        return [] if row["seq"] == FAULTY_COUNT else [row]


class StoresAnother(Cheat):
    """Stores a message under another's client_id."""

    def row(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        wrong = row["client_id"][:-1] + ("0" if row["client_id"][-1] != "0" else "1")
        return [{**row, "client_id": wrong} if row["seq"] == FAULTY_COUNT else row]


class Peer:
    """A server in memory, in a thread: AUTH, SEND, PULL and the push, as far as the benchmark needs them."""

    def __init__(self, cheat: Cheat) -> None:
        self._cheat = cheat
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._users: dict[str, socket.socket] = {}
        self._names: dict[socket.socket, str] = {}
        self._buffers: dict[socket.socket, bytearray] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._seqs: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and close all sockets."""
        self._wake.send(b"x")
        self._thread.join()
        for sock in [self._listener, self._wake, self._woken, *self._buffers]:
            sock.close()
        self._selector.close()

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                if key.fileobj is self._listener:
                    sock, _ = self._listener.accept()
                    self._buffers[sock] = bytearray()
                    self._selector.register(sock, selectors.EVENT_READ)
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            return
        buffer = self._buffers[sock]
        buffer += data
        while len(buffer) >= 8 and len(buffer) >= (length := wire.HEADER.unpack_from(buffer)[0]):
            _, command, _, flags = wire.HEADER.unpack_from(buffer)
            body = wire.decode(flags, bytes(buffer[8:length]))
            del buffer[:length]
            handle: Callable[[socket.socket, dict[str, Any]], dict[str, Any]]
            handle = {wire.AUTH: self._auth, wire.SEND: self._send, wire.PULL: self._pull}[command]
            self._write(sock, command, handle(sock, body))

    @staticmethod
    def _write(sock: socket.socket, command: int, body: dict[str, Any]) -> None:
        try:
            sock.sendall(wire.encode(command, body))
        except ConnectionError:
            return  # the benchmark has found what it looked for, and gone

    def _auth(self, sock: socket.socket, body: dict[str, Any]) -> dict[str, Any]:
        payload = body["token"].split(".")[1]
        user = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
        self._users[user], self._names[sock] = sock, user
        return {"rid": body["rid"], "code": 0, "user_id": user}

    def _send(self, sock: socket.socket, body: dict[str, Any]) -> dict[str, Any]:
        sender = self._names[sock]
        conversation = wire.direct(sender, body["to"])
        seq = self._seqs[conversation] = self._seqs.get(conversation, 0) + 1
        message = {
            "conversation_id": conversation,
            "seq": seq,
            "rev": seq,
            "message_id": f"{seq:016x}",
            "client_id": body["client_id"],
            "from": sender,
            "sent_at": 1_750_000_000_000,
            "type": "text",
            "body": body["body"],
        }
        self._rows.setdefault(conversation, []).extend(self._cheat.row(message))
        for push in self._cheat.pushes(message):
            self._write(self._users[body["to"]], wire.MESSAGE, push)
        named = {key: message[key] for key in ("conversation_id", "seq", "message_id", "sent_at")}
        return self._cheat.answer({"rid": body["rid"], "code": 0, **named})

    def _pull(self, _sock: socket.socket, body: dict[str, Any]) -> dict[str, Any]:
        rows = self._rows.get(body["conversation_id"], [])
        page = [row for row in rows if row["seq"] > body.get("after_seq", 0)][: body["limit"]]
        return {"rid": body["rid"], "code": 0, "messages": page, "first_seq": 1, "last_seq": len(rows)}


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """The secret, as a server keeps it."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


@contextmanager
def peer(cheat: Cheat) -> Iterator[Peer]:
    """A running peer."""
    running = Peer(cheat)
    try:
        yield running
    finally:
        running.close()


def bench_against(cheat: Cheat, secret_file: Path) -> subprocess.CompletedProcess[str]:
    """A short run of two pairs against this peer."""
    with peer(cheat) as running:
        words = ["-p", "2", "-w", "4", "--seconds", "0.2", "--warmup", "0", "--stall", "1"]
        return bench(*words, "--connect", running.address, "--secret-file", str(secret_file))


# ---------------------------------------------------------------- the real server


def test_a_server_of_its_own() -> None:
    """It starts a server, loads it, verifies all messages, and its report has every figure."""
    done = bench("-p", "2", "-w", "4", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert (report["pairs"], report["in_flight"]) == (2, 4)
    assert report["delivered"] > 0
    assert report["delivered_per_s"] > 0
    assert report["server_cpu_us_per_message"] > 0
    assert report["load_cpu_us_per_message"] > 0
    for name in ("latency_ms", "ack_ms"):
        assert 0 < report[name]["p50"] <= report[name]["p99"] <= report[name]["max"]


def test_a_running_server(server: Any) -> None:
    """Of a server that runs already it knows the address and the secret, but not the CPU time."""
    secret = next(server.folder.rglob("secret"))
    address = "{}:{}".format(*server.address)
    done = bench(
        "-p", "1", "-w", "1", "--seconds", "0.2", "--warmup", "0", "--connect", address, "--secret-file", str(secret)
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert report["server_cpu_us_per_message"] is None


def test_settings_reach_its_own_server() -> None:
    """`--set` is for the server that it starts: one that cannot start says why."""
    done = bench("-p", "1", "--seconds", "0.1", "--set", "server.node=5000")
    assert done.returncode == 1
    assert "server.node" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- peers that cheat


def test_an_honest_peer_passes(secret_file: Path) -> None:
    """What the peers below are failed for is their fault, not the test's."""
    done = bench_against(Cheat(), secret_file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"] is True


@pytest.mark.parametrize(
    ("cheat", "words"),
    [
        (DropsPush, "never delivered: #6"),
        (DoublesPush, "delivered more than once: #6"),
        (DoublesEveryPush, "delivered more than once: #"),
        (Swaps, "in another order than sent"),
        (MisnumbersPush, "seq 8 came where 7 was due"),
        (Misdelivers, "a push with a wrong conversation_id"),
        (AnswersTwice, "answered more than once: #5"),
        (Refuses, "got no success"),
        (LosesRow, "seq 8 is stored where 7 is due"),
        (StoresAnother, "seq 7 is stored as another message"),
    ],
)
def test_a_peer_that_cheats_is_found_out(cheat: type[Cheat], words: str, secret_file: Path) -> None:
    """One message of a conversation gone wrong fails the run, and the report says what went wrong."""
    done = bench_against(cheat(), secret_file)
    assert done.returncode == 1, done.stdout
    assert words in "\n".join(json.loads(done.stdout)["problems"])
    assert "VERIFICATION FAILED" in done.stderr


def test_a_wrong_secret_is_said(make_server: Any, tmp_path: Path) -> None:
    """Tokens of another secret are refused; the message names AUTH."""
    server = make_server()
    wrong = tmp_path / "wrong"
    wrong.write_bytes(SECRET)
    address = "{}:{}".format(*server.address)
    done = bench("-p", "1", "--seconds", "0.1", "--connect", address, "--secret-file", str(wrong))
    assert done.returncode == 1
    assert "AUTH" in done.stderr


@pytest.mark.parametrize("arguments", [["--connect", "127.0.0.1:1"], ["--connect", "nowhere"], ["-p", "0"]])
def test_wrong_usage_is_exit_status_2(arguments: list[str]) -> None:
    """What cannot be meant is refused before anything starts."""
    done = bench(*arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr
