"""The files of a client: what `Client` offers of files.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from .files import MAX_DOWNLOAD_BYTES, Files, Progress, RemoteFile


class FileCalls(ABC):
    """What a `Client` can do with files."""

    @abstractmethod
    def _http_files(self) -> Files:
        """Raises ValueError where the client does not know the server's page."""

    async def upload(
        self,
        content: bytes | str | Path,
        *,
        name: str | None = None,
        type: str | None = None,
        progress: Progress | None = None,
    ) -> RemoteFile:
        """Put a file on the server, over HTTP; goes on where it was after a broken connection.

        Send a message with `file.body` to let others read it; without one it is removed after a day.

        Args:
            content: bytes, or the path of a file, which is read as it goes.
            name: for people; by default the path's last part.
            type: the media type; by default what the name's ending means.
            progress: called with bytes sent and bytes in all; may go back after a broken connection.

        Raises:
            ServerError: refused: too large, over the quota, a type that is not allowed.
            RequestTimeout: no progress for 60 s.
            ValueError: with a TCP address and no `http`.
        """
        if isinstance(content, str):
            content = Path(content)
        if name is None:
            name = content.name if isinstance(content, Path) else "file"
        return await self._http_files().upload(content, name=name, type=type, progress=progress)

    async def download(
        self,
        file: RemoteFile | str,
        path: str | Path,
        *,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Save a file under `path`; goes on after a broken connection, also one of an earlier call.

        Until it is complete, and its SHA-256 is what the server says, it is `.{file_id}.part` beside it.

        Args:
            file: of an upload, of `RemoteFile.from_wire(message.body)`, or its id.
            path: where to. Do not make it of a name that somebody sent without looking at it.

        Raises:
            FileExistsError: there is something already, and not `overwrite`.
            NotFound: there is no such file, or it is not for this user.
            RequestTimeout: no progress for 60 s.
            ValueError: more than `max_bytes`; or with a TCP address and no `http`.
        """
        return await self._http_files().download(
            file, Path(path), max_bytes=max_bytes, overwrite=overwrite, progress=progress
        )
