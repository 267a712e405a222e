"""The token that --remember keeps: one file of mode 600 for each server and user.

A refresh token works once, and its second use ends the session. So one running client at a time has the file, by a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from imserver.client import Credentials


class TokenFileError(Exception):
    """The file cannot be used; the text says what to do."""


@attrs.frozen
class Remembered:
    """What was kept. As good as a password."""

    user_id: str
    device_id: str
    token: str = attrs.field(repr=False)
    refresh_token: str | None = attrs.field(default=None, repr=False)


class TokenFile:
    """The file of one server and user, locked from `open` to `close`."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    @classmethod
    def open(cls, folder: Path, address: str, user_id: str) -> TokenFile | None:
        """Make or open the file, and lock it. None if another client has it.

        Raises:
            TokenFileError: it is not ours alone.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{quote(user_id, safe='')}@{quote(address, safe='')}.json"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TokenFileError(f"{path}: {error.strerror}") from error
        status = os.fstat(handle)
        if status.st_mode & 0o077 or status.st_uid != os.getuid():
            os.close(handle)
            raise TokenFileError(f"{path} can be read by others; remove it, and change the password")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return cls(path, handle)

    @staticmethod
    def users(folder: Path, address: str) -> list[str]:
        """Who is remembered on this server."""
        ending = f"@{quote(address, safe='')}.json"
        found = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return [path.name.removesuffix(ending) for path in found if path.name.endswith(ending) and path.stat().st_size]

    def load(self) -> Remembered | None:
        """Return what is kept; None if that is nothing."""
        text = os.pread(self._handle, 65536, 0)
        try:
            kept: Mapping[str, Any] = json.loads(text) if text else {}
            return Remembered(kept["user_id"], kept["device_id"], kept["token"], kept["refresh_token"]) if kept else None
        except (ValueError, KeyError, TypeError) as error:
            raise TokenFileError(f"{self._path} is damaged; remove it") from error

    def save(self, credentials: Credentials, device_id: str) -> None:
        """Keep this instead. It is on disk when this returns: the token before may be dead already."""
        kept = Remembered(credentials.user_id, device_id, credentials.token, credentials.refresh_token)
        data = json.dumps(attrs.asdict(kept)).encode()
        os.pwrite(self._handle, data, 0)
        os.ftruncate(self._handle, len(data))
        os.fsync(self._handle)

    def clear(self) -> None:
        """Forget."""
        os.ftruncate(self._handle, 0)

    def close(self) -> None:
        """Give the lock back; a file with nothing in it goes."""
        if os.fstat(self._handle).st_size == 0:
            self._path.unlink(missing_ok=True)
        os.close(self._handle)


def new_device_id() -> str:
    """A name for this client among the user's devices."""
    return f"chat-{secrets.token_hex(4)}"
