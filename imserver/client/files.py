"""Files, beside the messages that name them: up and down over HTTP, in streams, going on after a broken connection.

Source: docs/reference/files.md.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import trio
from attrs import frozen

from .backoff import Backoff
from .errors import RateLimited, RemoteProtocolError, RequestTimeout, ServerError, Unauthenticated, Unavailable
from .http import Answer, HttpBroken, Site, exchange
from .taking import take

#: Called with bytes done and bytes in all. It must not block.
Progress = Callable[[int, int], object]

#: A file up to this size goes in one request; a larger one in parts, so that a broken connection costs little.
ONE_REQUEST_BYTES: Final = 256 * 1024
#: What a download takes at most, unless it is given another bound.
MAX_DOWNLOAD_BYTES: Final = 2**40
#: Without any progress for so long an upload or a download is given up.
PATIENCE_S: Final = 60.0
_CHUNK_BYTES: Final = 64 * 1024
_NO_TYPE: Final = "application/octet-stream"
_FILE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SHA256: Final = re.compile(r'"([0-9a-f]{64})"')
_BUSY: Final = (RateLimited, Unavailable)


@frozen
class RemoteFile:
    """A file on the server.

    Attributes:
        name: for people; never a path.
        size: bytes.
        type: its media type, as the sender said.
        sha256: hexadecimal digits.
    """

    file_id: str
    name: str
    size: int
    type: str
    sha256: str = ""

    @property
    def body(self) -> dict[str, Any]:
        """The body of the message that names it."""
        return {"file_id": self.file_id, "name": self.name, "size": self.size, "type": self.type}

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> RemoteFile:
        """Check and convert an answer, or the body of a message of the type `file`, `image`, `audio` or `video`.

        Raises:
            RemoteProtocolError: a field is missing or has the wrong type, or the id is none.
        """
        file_id = take(fields, "file_id", str)
        if not _FILE_ID.fullmatch(file_id):
            raise RemoteProtocolError("a file_id that is none")
        return cls(
            file_id,
            take(fields, "name", str, "file"),
            take(fields, "size", int, 0),
            take(fields, "type", str, _NO_TYPE),
            take(fields, "sha256", str, ""),
        )


def message_type(media_type: str) -> str:
    """Return the type of the message that carries such a file: `image`, `audio`, `video` or `file`."""
    kind = media_type.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "file"


@frozen
class _Source:
    """What is uploaded: bytes, or a file that is read as it goes."""

    content: bytes | Path
    size: int
    sha256: str

    async def chunks(self, offset: int, progress: Progress | None) -> AsyncGenerator[bytes, None]:
        """Give the bytes from `offset` on, and tell how far they have gone."""
        if progress is not None:
            progress(offset, self.size)
        async with AsyncExitStack() as stack:
            opened = None
            if isinstance(self.content, Path):
                opened = await stack.enter_async_context(await trio.open_file(self.content, "rb"))
                await opened.seek(offset)
            while offset < self.size:
                want = min(_CHUNK_BYTES, self.size - offset)
                if opened is not None:
                    chunk = await opened.read(want)
                else:
                    assert isinstance(self.content, bytes)
                    chunk = self.content[offset : offset + want]
                if not chunk:
                    raise ValueError("the file became shorter while it was sent")
                yield chunk
                offset += len(chunk)
                if progress is not None:
                    progress(offset, self.size)


class _Patience:
    """Tries again while there is progress now and then."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._backoff = Backoff()
        self._since = trio.current_time()
        self._reached = -1

    def progress(self, reached: int) -> None:
        """Note how far it has come; only more than before counts."""
        if reached > self._reached:
            self._reached = reached
            self._since = trio.current_time()
            self._backoff.reset()

    async def wait(self, what: str, error: Exception) -> None:
        """Wait before the next attempt.

        Raises:
            RequestTimeout: no progress for too long.
            ServerError: that is what the last attempt came to.
        """
        after_ms = error.retry_after_ms or 0 if isinstance(error, ServerError) else 0
        delay_s = self._backoff.next_delay_s(after_ms / 1000)
        if trio.current_time() + delay_s > self._since + self._patience_s:
            if isinstance(error, ServerError):
                raise error
            raise RequestTimeout(f"{what}: no progress for {self._patience_s:g} s ({error})") from error
        await trio.sleep(delay_s)


class Files:
    """Uploads and downloads of one user.

    Args:
        site: where the server's HTTP API is.
        token: gives the present access token.
        renew: renews it, when the server says that it has expired.
        patience_s: for how long without progress an upload or download is tried again.
    """

    def __init__(
        self,
        site: Site,
        token: Callable[[], str],
        renew: Callable[[], Awaitable[object]],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._site = site
        self._token = token
        self._renew = renew
        self._patience_s = patience_s

    async def upload(
        self, content: bytes | Path, *, name: str, type: str | None = None, progress: Progress | None = None
    ) -> RemoteFile:
        """See `Client.upload`."""
        source = await trio.to_thread.run_sync(_describe, content)
        if type is None:
            type = mimetypes.guess_type(name)[0] or _NO_TYPE
        headers = {"Content-Type": type, "X-File-Name": quote(name, safe=""), "X-Content-SHA256": source.sha256}
        patience = _Patience(self._patience_s)
        file_id = ""
        offset: int | None = 0  # None: not known
        is_renewed = False
        while True:
            try:
                if file_id and offset is None:
                    offset = await self._offset(file_id)
                    patience.progress(offset)
                if not file_id:
                    is_small = source.size <= ONE_REQUEST_BYTES
                    path = "/v1/files" if is_small else "/v1/files?resumable=1"
                    more = {} if is_small else {"Upload-Length": str(source.size)}
                    body = source.chunks(0, progress) if is_small else None
                    fields = await self._json("POST", path, {**headers, **more}, body, source.size if is_small else 0)
                    if is_small:
                        return RemoteFile.from_wire(fields)
                    file_id, offset = take(fields, "file_id", str), 0
                    if not _FILE_ID.fullmatch(file_id):
                        raise RemoteProtocolError("a file_id that is none")
                assert offset is not None
                part = source.chunks(offset, progress)
                part_headers = {"Upload-Offset": str(offset), "Content-Type": _NO_TYPE}
                fields = await self._json("PATCH", f"/v1/files/{file_id}", part_headers, part, source.size - offset)
                if "sha256" in fields:
                    return RemoteFile.from_wire(fields)
                offset = take(fields, "offset", int)
            except Unauthenticated:
                if is_renewed:
                    raise
                is_renewed = True
                await self._renew()
            except ServerError as error:
                if error.error != "wrong_offset" and not isinstance(error, _BUSY):
                    raise
                offset = None
                await patience.wait(f"the upload of {name}", error)
            except HttpBroken as error:
                offset = None
                await patience.wait(f"the upload of {name}", error)

    async def download(
        self,
        file: RemoteFile | str,
        path: Path,
        *,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """See `Client.download`."""
        file_id = file if isinstance(file, str) else file.file_id
        if not _FILE_ID.fullmatch(file_id):
            raise ValueError(f"{file_id!r} is no file_id")
        if not overwrite and await trio.to_thread.run_sync(os.path.lexists, path):
            raise FileExistsError(f"{path} is there already")
        part = path.with_name(f".{file_id}.part")
        patience = _Patience(self._patience_s)
        is_renewed = False
        while True:
            try:
                digest = await self._fetch(file_id, part, patience, max_bytes, progress)
                break
            except Unauthenticated:
                if is_renewed:
                    raise
                is_renewed = True
                await self._renew()
            except (HttpBroken, *_BUSY) as error:
                await patience.wait(f"the download of {path.name}", error)
        if digest and await trio.to_thread.run_sync(_sha256_of, part) != digest:
            await trio.to_thread.run_sync(os.unlink, part)
            raise RemoteProtocolError("the file arrived with another SHA-256 than the server names; it is not kept")
        await trio.to_thread.run_sync(_put_in_place, part, path, overwrite)
        return path

    async def _fetch(self, file_id: str, part: Path, patience: _Patience, max_bytes: int, progress: Progress | None) -> str:
        """Append to `part` what it lacks; returns the SHA-256 that the server names, "" for none."""
        # 0600, and made by us: a link that somebody has put there is not followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        handle = await trio.to_thread.run_sync(os.open, part, flags, 0o600)
        async with await trio.open_file(handle, "ab") as opened:
            offset = await trio.to_thread.run_sync(lambda: os.fstat(handle).st_size)
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            async with self._exchange("GET", f"/v1/files/{file_id}", headers) as answer:
                if answer.status == 416 and offset:  # all of it was there, or it is no part of this file
                    return _digest_of(answer)
                if answer.status not in (200, 206):
                    await answer.json()
                    raise RemoteProtocolError(f"status {answer.status} for a file")
                if answer.status == 200 and offset:
                    await trio.to_thread.run_sync(os.ftruncate, handle, 0)
                    offset = 0
                total = offset + int(answer.headers.get("content-length", "0") or 0)
                while chunk := await answer.read_some():
                    offset += len(chunk)
                    if max(offset, total) > max_bytes:
                        raise ValueError(f"the file has more than {max_bytes} bytes")
                    await opened.write(chunk)
                    patience.progress(offset)
                    if progress is not None:
                        progress(offset, total)
                await opened.flush()
                return _digest_of(answer)

    async def _offset(self, file_id: str) -> int:
        async with self._exchange("HEAD", f"/v1/files/{file_id}", {}) as answer:
            if answer.status >= 400:
                raise answer.refusal({})
            text = answer.headers.get("upload-offset", "")
        if not (text.isascii() and text.isdigit()):
            raise RemoteProtocolError("the server does not say where the upload stands")
        return int(text)

    async def _json(
        self, method: str, path: str, headers: Mapping[str, str], body: AsyncGenerator[bytes, None] | None, size: int
    ) -> dict[str, Any]:
        async with self._exchange(method, path, headers, body, size) as answer:
            return await answer.json()

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: AsyncGenerator[bytes, None] | None = None,
        size: int = 0,
    ) -> AsyncIterator[Answer]:
        allowed = {"Authorization": f"Bearer {self._token()}", **headers}
        async with exchange(self._site, method, path, allowed, body, size=size) as answer:
            yield answer


def _describe(content: bytes | Path) -> _Source:
    if isinstance(content, Path):
        if not content.is_file():
            raise FileNotFoundError(f"{content} is no file")
        return _Source(content, content.stat().st_size, _sha256_of(content))
    return _Source(content, len(content), hashlib.sha256(content).hexdigest())


def _sha256_of(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _put_in_place(part: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(part, path)
        return
    os.link(part, path)  # unlike a rename it fails if the name was taken meanwhile
    os.unlink(part)


def _digest_of(answer: Answer) -> str:
    found = _SHA256.fullmatch(answer.headers.get("etag", ""))
    return found[1] if found else ""
