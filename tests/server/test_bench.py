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
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event, Ping, Pong, Request

from imserver.bench.framing import WebSocketFraming
from imserver.bench.wire import BenchFailed, frames_of, kind_of, pack

SECRET = b"5b1f0e6a97c24d83b9d0a1e2f3c4d5e6"
FAULTY_COUNT = 7  # which message of each conversation a cheating peer gets wrong


def bench(*arguments: str, load: str = "pairs") -> subprocess.CompletedProcess[str]:
    """Run `imserver bench` to its end, with a report in JSON."""
    return subprocess.run(
        [sys.executable, "-m", "imserver", "bench", load, "--json", *arguments],
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
    """A server in memory, in a thread: AUTH, SEND, PULL and the push, as far as the benchmark needs them.

    Over WebSocket (wsproto does the framing) it pings with every push, and sends two frames in one message where it can.
    """

    def __init__(self, cheat: Cheat, transport: str = "tcp") -> None:
        self._cheat = cheat
        self._is_websocket = transport == "ws"
        self._codecs: dict[socket.socket, WSConnection] = {}
        self.pings = self.pongs = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("ws://" if transport == "ws" else "") + f"127.0.0.1:{self._listener.getsockname()[1]}"
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
        buffer += self._frames_in(sock, data) if self._is_websocket else data
        while len(buffer) >= 8 and len(buffer) >= (length := wire.HEADER.unpack_from(buffer)[0]):
            _, command, _, flags = wire.HEADER.unpack_from(buffer)
            body = wire.decode(flags, bytes(buffer[8:length]))
            del buffer[:length]
            handle: Callable[[socket.socket, dict[str, Any]], dict[str, Any]]
            handle = {wire.AUTH: self._auth, wire.SEND: self._send, wire.PULL: self._pull}[command]
            self._write(sock, command, handle(sock, body))

    def _frames_in(self, sock: socket.socket, data: bytes) -> bytes:
        codec = self._codecs.setdefault(sock, WSConnection(ConnectionType.SERVER))
        codec.receive_data(data)
        frames = bytearray()
        for event in codec.events():
            if isinstance(event, Request):
                self._send_event(sock, AcceptConnection(subprotocol=event.subprotocols[0]))
            elif isinstance(event, BytesMessage):
                frames += event.data
            elif isinstance(event, Pong):
                self.pongs += 1
        return bytes(frames)

    def _send_event(self, sock: socket.socket, event: Event) -> None:
        self._send_bytes(sock, self._codecs[sock].send(event))

    def _write(self, sock: socket.socket, command: int, *bodies: dict[str, Any]) -> None:
        frames = b"".join(wire.encode(command, body) for body in bodies)
        if not self._is_websocket:
            self._send_bytes(sock, frames)
        elif frames:
            if command == wire.MESSAGE:
                self.pings += 1
                self._send_event(sock, Ping(payload=b"alive?"))
            self._send_event(sock, BytesMessage(data=frames))

    @staticmethod
    def _send_bytes(sock: socket.socket, data: bytes) -> None:
        try:
            sock.sendall(data)
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
        self._write(self._users[body["to"]], wire.MESSAGE, *self._cheat.pushes(message))
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
def peer(cheat: Cheat, transport: str = "tcp") -> Iterator[Peer]:
    """A running peer."""
    running = Peer(cheat, transport)
    try:
        yield running
    finally:
        running.close()


def bench_against(cheat: Cheat, secret_file: Path, transport: str = "tcp") -> subprocess.CompletedProcess[str]:
    """A short run of two pairs against this peer."""
    with peer(cheat, transport) as running:
        words = ["-p", "2", "-w", "4", "--seconds", "0.2", "--warmup", "0", "--stall", "1"]
        return bench(*words, "--connect", running.address, "--secret-file", str(secret_file))


# ---------------------------------------------------------------- the real server


@pytest.mark.parametrize("transport", ["tcp", "ws"])
def test_a_server_of_its_own(transport: str) -> None:
    """It starts a server, loads it, verifies all messages, and its report has every figure."""
    done = bench("-p", "2", "-w", "4", "--seconds", "1", "--transport", transport)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert (report["transport"], report["pairs"], report["in_flight"]) == (transport, 2, 4)
    assert report["delivered"] > 0
    assert report["delivered_per_s"] > 0
    assert report["server_cpu_us_per_message"] > 0
    assert report["load_cpu_us_per_message"] > 0
    for name in ("latency_ms", "ack_ms"):
        assert 0 < report[name]["p50"] <= report[name]["p99"] <= report[name]["max"]


@pytest.mark.parametrize("transport", ["tcp", "ws"])
def test_a_running_server(server: Any, transport: str) -> None:
    """Of a server that runs already it knows the address and the secret, but not the CPU time."""
    secret = next(server.folder.rglob("secret"))
    address = "ws://" + server.ready["http"][0] if transport == "ws" else server.ready["tcp"][0]
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


def test_an_honest_peer_passes_by_websocket(secret_file: Path) -> None:
    """The same over WebSocket, with every ping answered."""
    with peer(Cheat(), "ws") as running:
        words = ["-p", "2", "-w", "4", "--seconds", "0.2", "--warmup", "0", "--stall", "1"]
        done = bench(*words, "--connect", running.address, "--secret-file", str(secret_file))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"] is True
    assert running.pongs == running.pings > 0


@pytest.mark.parametrize(
    ("cheat", "words"),
    [
        (DropsPush, "never delivered: #6"),
        (DoublesPush, "delivered more than once: #6"),
        (Swaps, "in another order than sent"),
        (Misdelivers, "a push with a wrong conversation_id"),
        (LosesRow, "seq 8 is stored where 7 is due"),
    ],
)
def test_a_peer_that_cheats_by_websocket_is_found_out(cheat: type[Cheat], words: str, secret_file: Path) -> None:
    """The checks are the same whatever the frames travel in."""
    done = bench_against(cheat(), secret_file, "ws")
    assert done.returncode == 1, done.stdout
    assert words in "\n".join(json.loads(done.stdout)["problems"])


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--connect", "127.0.0.1:1"],
        ["--connect", "nowhere"],
        ["--connect", "wss://127.0.0.1:1/ws", "--secret-file", __file__],
        ["--connect", "127.0.0.1:1/ws", "--secret-file", __file__],
        ["--connect", "ws://127.0.0.1:1/ws", "--transport", "tcp", "--secret-file", __file__],
        ["--transport", "udp"],
        ["-p", "0"],
    ],
)
def test_wrong_usage_is_exit_status_2(arguments: list[str]) -> None:
    """What cannot be meant is refused before anything starts."""
    done = bench(*arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr


def test_a_tcp_port_is_no_websocket(server: Any) -> None:
    """The report says which door was knocked at."""
    secret = next(server.folder.rglob("secret"))
    done = bench("-p", "1", "--seconds", "0.1", "--connect", "ws://" + server.ready["tcp"][0], "--secret-file", str(secret))
    assert done.returncode == 1
    assert "WebSocket" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- the framing of WebSocket


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def server_message(data: bytes) -> bytes:
    """One binary message as a server sends it, by wsproto."""
    codec = WSConnection(ConnectionType.SERVER)
    codec.receive_data(UPGRADE)
    list(codec.events())
    codec.send(AcceptConnection())
    return codec.send(BytesMessage(data=data))


KIND = kind_of(wire.MESSAGE)
ONE = pack(wire.MESSAGE, {"n": 1})
PING = b"\x89\x02hi"


@given(st.lists(st.sampled_from([0, 90, 200, 70_000]), min_size=1, max_size=4), st.booleans())
def test_frames_are_cut_out_of_messages_wherever_a_read_ends(sizes: list[int], is_pinged: bool) -> None:
    """Whole, or cut off in the last message: the whole messages count, and the rest waits."""
    framing = WebSocketFraming()
    frames = [pack(wire.MESSAGE, {"text": "x" * size}) for size in sizes]
    data = server_message(frames[0] + ONE) + (PING if is_pinged else b"")
    data += b"".join(server_message(frame) for frame in frames[1:])
    assert framing.whole(data, KIND) == (len(data), len(frames) + 1, not is_pinged)
    assert framing.frames(data) == frames[0] + ONE + b"".join(frames[1:])
    assert list(framing.controls(data)) == ([(9, b"hi")] if is_pinged else [])
    last = server_message(ONE)
    for cut in range(len(last)):
        assert framing.whole(data + last[:cut], KIND)[0] == len(data)
    assert framing.whole(last, KIND + 1) == (len(last), 1, False)


@pytest.mark.parametrize("size", [0, 8, 125, 126, 65535, 65536])
def test_what_the_load_sends_is_a_message_to_another_implementation(size: int) -> None:
    """A masked header of each of the three lengths, read by wsproto."""
    codec = WSConnection(ConnectionType.SERVER)
    codec.receive_data(UPGRADE)
    list(codec.events())
    codec.send(AcceptConnection())
    codec.receive_data(WebSocketFraming().header(size) + bytes(size))
    events = [event for event in codec.events() if isinstance(event, BytesMessage)]
    assert b"".join(event.data for event in events) == bytes(size)
    assert events[-1].message_finished


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x00",
        b"\x82\x88" + bytes(12),
        b"\x81\x02{}",
        b"\x02\x08" + ONE[:8],
        b"\x82\x04" + ONE[:4],
        server_message(ONE[:-1]),
        server_message(ONE + ONE[:9]),
        b"\x82\x7f" + b"\xff" * 8,
    ],
    ids=["empty", "masked", "text", "fragment", "tiny", "short", "more", "endless"],
)
def test_messages_that_no_server_may_send(data: bytes) -> None:
    """They fail the run."""
    with pytest.raises(BenchFailed):
        WebSocketFraming().whole(data, KIND)


def test_a_close_tells_its_code() -> None:
    """The server's reason ends up in the report."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(PING + server_message(ONE) + b"\x88\x06" + (4401).to_bytes(2, "big") + b"late")
        assert list(frames_of(WebSocketFraming().receive(ours))) == [(wire.MESSAGE, {"n": 1})]
        with pytest.raises(BenchFailed, match="4401: late"):
            WebSocketFraming().receive(ours)
        assert theirs.recv(100) == b"\x8a\x82\0\0\0\0hi"


# ---------------------------------------------------------------- a large group


def test_a_group_of_its_own() -> None:
    """Messages reach every member, and the pairs beside it are measured twice."""
    done = bench("-m", "60", "-p", "2", "--seconds", "0.5", "--pause", "0.05", load="group")
    assert done.returncode == 0, done.stderr
    fields = json.loads(done.stdout)
    assert (fields["members"], fields["pairs"]) == (60, 2)
    assert fields["messages"] > 1
    assert 0 < fields["spread_ms"]["p50"] <= fields["spread_ms"]["max"]
    assert all(fields[when]["delivered_per_s"] > 0 for when in ("alone", "beside"))


def test_a_group_that_is_not_allowed() -> None:
    """What the server refuses is said, with status 1."""
    done = bench("-m", "20", "-p", "1", "--seconds", "0.5", "--set", "plugins.group.max_members=5", load="group")
    assert done.returncode == 1
    assert "group_full" in done.stderr
