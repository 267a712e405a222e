"""What the command line asks of a running server: a Unix socket in the server's data folder, one line there and back.

Who may ask is who may write to the data folder: the socket has mode 600, and the server takes requests of its own user and
of root alone (SO_PEERCRED). A request is one JSON object on a line, `{"command": "reload", "plugin": "words"}`; so is the
answer, `{"ok": true, "message": "…"}`. One request a connection, one at a time.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from imserver.errors import ImserverError
from imserver.log import get_logger

NAME = "control.sock"
MAX_LINE_BYTES = 4096
#: How long somebody who has connected may take to ask.
_ASK_S = 5.0
#: How long the command line waits: a reload waits for requests of the old code, and for the plugin's start and stop.
ANSWER_S = 180.0
_BACKLOG = 8
_PEER = struct.Struct("iII")  # pid, uid, gid

Handle = Callable[[Mapping[str, Any]], Awaitable[str]]


class ControlError(ImserverError):
    """The running server refuses, or none runs; the message says why."""


@contextmanager
def _address(data_dir: Path) -> Iterator[str]:
    """The socket's path by way of an open folder: the address of a Unix socket has room for 107 bytes only."""
    folder = os.open(data_dir, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{NAME}"
    finally:
        os.close(folder)


def _listen(data_dir: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The folder's lock is ours, so what lies here is of a server that was killed.
        (data_dir / NAME).unlink(missing_ok=True)
        with _address(data_dir) as address:
            sock.bind(address)
            os.chmod(data_dir / NAME, 0o600)  # nobody can have connected: it does not listen yet
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


async def serve_control(
    data_dir: Path, handle: Handle, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Take requests until cancelled. Where there can be no socket (some network disks) there is none, and the log says so.

    Args:
        handle: carries one request out and returns what to print, or raises an `ImserverError`.
    """
    log = get_logger("control")
    try:
        listener = trio.socket.from_stdlib_socket(_listen(data_dir))
    except OSError as exc:
        log.warning("control_unavailable", reason=str(exc), advice="`imserver plugins reload` cannot reach this server")
        task_status.started()
        return
    task_status.started()
    try:
        while True:
            sock, _ = await listener.accept()
            with sock:
                try:
                    await _serve(sock, handle)
                except OSError as exc:
                    log.info("control_connection_lost", reason=str(exc))
    finally:
        listener.close()
        (data_dir / NAME).unlink(missing_ok=True)


async def _serve(sock: trio.socket.SocketType, handle: Handle) -> None:
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid not in (0, os.geteuid()):
        await _answer(sock, {"ok": False, "message": "only the server's own user and root may ask"})
        return
    with trio.move_on_after(_ASK_S):
        line = b""
        while not line.endswith(b"\n"):
            data = await sock.recv(MAX_LINE_BYTES + 1 - len(line))
            if not data:
                return
            line += data
            if len(line) > MAX_LINE_BYTES:
                await _answer(sock, {"ok": False, "message": f"a request has {MAX_LINE_BYTES} bytes at most"})
                return
    if not line.endswith(b"\n"):
        return  # it was too slow
    await _answer(sock, await _carry_out(line, handle))


async def _carry_out(line: bytes, handle: Handle) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise ControlError("a request is a JSON object")
        return {"ok": True, "message": await handle(request)}
    except (ValueError, RecursionError) as exc:
        return {"ok": False, "message": f"the request is no valid JSON: {exc}"}
    except ImserverError as exc:
        return {"ok": False, "message": str(exc)}


async def _answer(sock: trio.socket.SocketType, fields: Mapping[str, Any]) -> None:
    data = json.dumps(fields).encode() + b"\n"
    with trio.move_on_after(_ASK_S):
        while data:
            data = data[await sock.send(data) :]


def ask(data_dir: Path, request: Mapping[str, Any]) -> str:
    """Ask the server that runs on this folder, and wait for what it has to say.

    Raises:
        ControlError: none runs, or it refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_S)
        try:
            with _address(data_dir) as address:
                sock.connect(address)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as exc:
            raise ControlError(f"no server runs on {data_dir}; -c and --set must be those of the server") from exc
        except OSError as exc:
            raise ControlError(f"the server on {data_dir} cannot be reached: {exc.strerror or exc}") from exc
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        except TimeoutError as exc:
            raise ControlError(f"no answer within {ANSWER_S:g} s; the server's log tells what became of it") from exc
        except OSError as exc:
            raise ControlError(f"the connection to the server is lost: {exc.strerror or exc}") from exc
    try:
        fields = json.loads(answer)
        is_ok, message = bool(fields["ok"]), str(fields["message"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ControlError("the server ended without an answer; its log tells why") from exc
    if not is_ok:
        raise ControlError(message)
    return message
