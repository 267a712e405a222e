"""Receiving files: in one request, or in several that go on where the last one ended.

An upload's row is there before its first byte and reserves its place in the quota; its bytes go to the store as they come,
128 KiB at a time in memory; the answer follows when bytes and row are durable.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio
from attrs import frozen
from starlette.requests import Request

from imserver.plugin import Conflict, InvalidBody, NotFound, TooLarge
from imserver_plugins.file import store
from imserver_plugins.file.cleanup import remove
from imserver_plugins.file.headers import has_body, length_of, sha256_of
from imserver_plugins.file.multipart import Body, FormReader, Source, boundary_of
from imserver_plugins.file.names import (
    HEAD_BYTES,
    NO_NAME,
    NO_TYPE,
    clean_name,
    is_allowed,
    media_type,
    name_from_form,
    name_from_headers,
    safe_image,
)
from imserver_plugins.file.ranges import content_range
from imserver_plugins.file.state import State, durable, user_of
from imserver_plugins.file.storage import FILE_ID, Writer
from imserver_plugins.file.store import FINISHED, UPLOADING, File

if TYPE_CHECKING:
    from imserver.plugin import Context

#: What one upload has in memory at most, beside a chunk of the connection's.
STEP_BYTES = 128 * 1024
#: How long what was received is written down when the client has gone or the server stops.
_SAVE_S = 10.0


class WrongOffset(Conflict):
    """409: the part does not begin where the upload stands, at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(
            f"the upload stands at byte {offset}; go on from there", error="wrong_offset", field="Upload-Offset"
        )
        self.offset = offset

    def answer(self) -> dict[str, Any]:
        """See `ImError.answer`."""
        return {**super().answer(), "offset": self.offset}


@frozen
class Described:
    """What a client says of its file. `type` None: nothing."""

    name: str
    type: str | None
    sha256: bytes | None


@frozen
class Progress:
    """A resumable upload that is not finished."""

    file_id: str
    size: int
    offset: int
    expires_at: int

    def fields(self) -> dict[str, Any]:
        """The answer."""
        return {
            "file_id": self.file_id,
            "upload_url": f"/v1/files/{self.file_id}",
            "offset": self.offset,
            "size": self.size,
            "expires_at": self.expires_at,
        }


def fields_of(file: File) -> dict[str, Any]:
    """A finished file, as answers have it."""
    assert file.sha256 is not None
    fields: dict[str, Any] = {
        "file_id": file.file_id,
        "name": file.name,
        "size": file.size,
        "type": file.type,
        "sha256": file.sha256.hex(),
        "url": f"/v1/files/{file.file_id}",
        "created_at": file.created_at,
    }
    if file.expires_at is not None:
        fields["expires_at"] = file.expires_at
    return fields


# ---------------------------------------------------------------- in one request


async def upload(state: State, ctx: Context, request: Request) -> File:
    """POST with the file as its body, or as a part of a form.

    Raises:
        InvalidBody, TooLarge, RateLimited, Unavailable: nothing is kept.
    """
    with state.slots.slot(user_of(ctx)):
        source: Source = Body(request)
        boundary = boundary_of(request.headers.get("content-type", ""))
        size = exact = length_of(request.headers, "content-length")
        if boundary is None:
            described = _described(request)
        else:
            source = form = FormReader(source, boundary)
            part = await form.head()
            described = Described(
                clean_name(name_from_form(part.filename)), media_type(part.content_type), sha256_of(request.headers)
            )
            exact = None
        _check_type(state, described.type)
        if exact is not None and exact > state.settings.max_size_bytes:
            raise _too_large(state)
        at_most = min(state.settings.max_size_bytes, size if size is not None else state.settings.max_size_bytes)
        file_id = secrets.token_hex(16)
        async with state.turns.turn(file_id):
            try:
                reserved = await _reserve(state, ctx, file_id, described, at_most, exact or 0, resumable=False)
                return await _receive_whole(state, ctx, file_id, described, source, reserved)
            except BaseException:
                await _undo(state, ctx, file_id)
                raise


async def _receive_whole(
    state: State, ctx: Context, file_id: str, described: Described, source: Source, reserved: int
) -> File:
    writer = await state.files.writer(file_id, 0)
    try:
        poured = Poured(writer)
        if await poured.pour(source, reserved):
            raise _too_large(state) if reserved >= state.settings.max_size_bytes else _over_quota(state)
        _compare(described.sha256, writer.sha256)
        await writer.finish()
        return await _finish(state, ctx, file_id, described.type, writer.offset, writer.sha256, poured.head)
    finally:
        writer.close()


async def _undo(state: State, ctx: Context, file_id: str) -> None:
    """Nothing remains of an upload that failed; what cannot be removed now, the cleaner removes."""
    try:
        await remove(state, ctx, file_id, store.condemn_unfinished(file_id))
    except Exception as exc:  # the disk is full, say: the reason of the failure itself is the one to tell
        ctx.log.warning("upload_not_removed", file_id=file_id, reason=str(exc))


# ---------------------------------------------------------------- in several requests


async def begin(state: State, ctx: Context, request: Request) -> File | Progress:
    """POST that opens a resumable upload; it may bring the first bytes along.

    Raises:
        InvalidBody: it does not say how long the file is, or what is known of it is wrong.
        TooLarge: the file is, or there is no room for it.
    """
    size = length_of(request.headers, "upload-length")
    if size is None:
        raise InvalidBody("a resumable upload says in Upload-Length how many bytes the file has")
    if size > state.settings.max_size_bytes:
        raise _too_large(state)
    described = _described(request)
    _check_type(state, described.type)
    file_id = secrets.token_hex(16)
    with state.slots.slot(user_of(ctx)):
        await _reserve(state, ctx, file_id, described, size, size, resumable=True)
        if size == 0 or has_body(request.headers):
            return await _go_on(state, ctx, request, file_id, 0)
        return Progress(file_id, size, 0, _upload_expiry(state, ctx))


async def resume(state: State, ctx: Context, request: Request, file_id: str) -> File | Progress:
    """PATCH: the next bytes, from `Upload-Offset` or `Content-Range`.

    Raises:
        NotFound: the user has no such upload.
        WrongOffset: it stands elsewhere.
        InvalidBody, TooLarge: what is sent does not fit to what was said.
    """
    await own_upload(ctx, file_id)
    with state.slots.slot(user_of(ctx)):
        return await _go_on(state, ctx, request, file_id, None)


async def _go_on(state: State, ctx: Context, request: Request, file_id: str, offset: int | None) -> File | Progress:
    """Take the next bytes. `offset` None: the request says where they belong."""
    async with state.turns.turn(file_id):
        file = await own_upload(ctx, file_id)  # it may have been finished by the one that had the turn before
        stands_at = file.size if file.state == FINISHED else await state.files.size(file_id)
        end = file.size
        if offset is None:
            offset, end = _place(request.headers, file)
        if offset != stands_at:
            raise WrongOffset(stands_at)
        if file.state == FINISHED:
            return file
        writer = await state.files.writer(file_id, offset)
        poured = Poured(writer)
        try:
            try:
                has_more = await poured.pour(Body(request), end)
            finally:
                # Whatever ended it: what was received is durable, and the client finds out where to go on.
                with trio.move_on_after(_SAVE_S, shield=True):
                    await poured.flush()
                    await writer.save()
        finally:
            writer.close()
        if has_more:
            raise TooLarge(f"the request has more bytes than the {end - offset} that were announced")
        if writer.offset < end and "content-range" in request.headers:
            raise InvalidBody("the request has fewer bytes than its Content-Range says")
        if writer.offset < file.size:
            return _progress_of(file, writer.offset)
        known = (writer.sha256, poured.head) if offset == 0 else None
        return await _complete(state, ctx, file, known, sha256_of(request.headers))


async def progress(state: State, ctx: Context, file_id: str) -> File | Progress:
    """Where an upload of this user's stands; one that is there to its last byte is finished on the way.

    Raises:
        NotFound: the user has no such upload.
    """
    async with state.turns.turn(file_id):
        file = await own_upload(ctx, file_id)
        if file.state == FINISHED:
            return file
        offset = await state.files.size(file_id)
        if offset < file.size:
            return _progress_of(file, offset)
        return await _complete(state, ctx, file, None, None)


def _progress_of(file: File, offset: int) -> Progress:
    assert file.expires_at is not None
    return Progress(file.file_id, file.size, offset, file.expires_at)


async def own_upload(ctx: Context, file_id: str) -> File:
    """A user's own file, finished or resumable.

    Raises:
        NotFound: there is none.
    """
    file = await store.find(ctx.db, file_id) if FILE_ID.fullmatch(file_id) else None
    if file is None or file.owner != user_of(ctx) or not (file.state == FINISHED or is_resumable(file)):
        raise no_file()
    return file


def is_resumable(file: File) -> bool:
    """Whether this is an upload that a client may go on with."""
    return file.state == UPLOADING and file.resumable


def no_file() -> NotFound:
    """The one answer to an id that is unknown, or not this user's to know."""
    return NotFound("there is no such file", field="file_id")


async def _complete(
    state: State, ctx: Context, file: File, known: tuple[bytes, bytes] | None, expected: bytes | None
) -> File:
    """All bytes are in the store: check them and make them a file.

    Args:
        known: SHA-256 and first bytes if all came by one request; else they are read again.
    """
    if known is None:
        digest = await state.files.digest(file.file_id)
        known = digest.sha256, digest.head
    sha256, head = known
    try:
        _compare(file.sha256, sha256)
        _compare(expected, sha256)
        return await _finish(state, ctx, file.file_id, file.type or None, file.size, sha256, head)
    except InvalidBody:
        await _undo(state, ctx, file.file_id)
        raise


def _place(headers: Mapping[str, str], file: File) -> tuple[int, int]:
    """Where the request's bytes begin and end."""
    if (text := headers.get("content-range")) is not None:
        place = content_range(text)
        if place is None:
            raise InvalidBody("Content-Range of an upload is: bytes FIRST-LAST/TOTAL")
        if place.total != file.size:
            raise InvalidBody(f"Content-Range: the file was announced with {file.size} bytes")
        return place.start, place.start + place.length
    offset = length_of(headers, "upload-offset")
    if offset is None:
        raise InvalidBody("say where these bytes belong: Upload-Offset, or Content-Range")
    return offset, file.size


# ---------------------------------------------------------------- steps of both


class Poured:
    """What goes from a request to a writer, in steps."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._held: list[bytes] = []
        self._held_bytes = 0
        #: The first bytes of all.
        self.head = b""

    async def pour(self, source: Source, end: int) -> bool:
        """Append up to the offset `end`; returns whether there were more."""
        while chunk := await source.read():
            room = end - self._writer.offset - self._held_bytes
            self._take(chunk[:room])
            if len(chunk) > room:
                await self.flush()
                return True
            if self._held_bytes >= STEP_BYTES:
                await self.flush()
        await self.flush()
        return False

    async def flush(self) -> None:
        """Hand what is held to the writer. If that fails it is not tried again: some of it may be written."""
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            await self._writer.append(held)

    def _take(self, chunk: bytes) -> None:
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self._held.append(chunk)
        self._held_bytes += len(chunk)


async def _reserve(
    state: State, ctx: Context, file_id: str, described: Described, at_most: int, at_least: int, *, resumable: bool
) -> int:
    """Make the upload's row; returns how many bytes it may have.

    Raises:
        TooLarge: there is no room in the quota.
    """
    settings = state.settings
    new = store.NewFile(
        file_id=file_id,
        owner=user_of(ctx),
        name=described.name,
        type=described.type or "",
        sha256=described.sha256,
        resumable=resumable,
        now_ms=ctx.clock.now_ms(),
        expires_at=_upload_expiry(state, ctx),
    )
    statement = store.reserve(
        new, at_most=at_most, at_least=at_least, quota=settings.quota_bytes, max_files=settings.max_files
    )
    rows = await durable(ctx.db.write(*statement))
    if rows:
        return int(rows[0][0])
    if (await store.usage(ctx.db, new.owner)).files >= settings.max_files:
        raise TooLarge(f"you have {settings.max_files} files, which is the limit; delete some that are in no conversation")
    raise _over_quota(state)


async def _finish(
    state: State, ctx: Context, file_id: str, declared: str | None, size: int, sha256: bytes, head: bytes
) -> File:
    """The row of a file whose bytes are durable."""
    image = safe_image(head)
    media = declared or image or NO_TYPE
    _check_type(state, media)
    expires_at = state.orphan_until(ctx.clock.now_ms())
    statement = store.finish(
        file_id, size=size, type=media, sha256=sha256, image=image if image == media else None, expires_at=expires_at
    )
    file = store.finished(await durable(ctx.db.write(*statement)))
    ctx.cache.pop(file_id)
    if file is None:
        raise no_file()  # its time was over
    return file


def _described(request: Request) -> Described:
    headers = request.headers
    name = name_from_headers(headers.get("x-file-name"), headers.get("content-disposition"))
    return Described(
        NO_NAME if name is None else clean_name(name), media_type(headers.get("content-type")), sha256_of(headers)
    )


def _check_type(state: State, media: str | None) -> None:
    allowed = state.settings.allowed_types
    if media is not None and not is_allowed(media, allowed):
        raise InvalidBody(f"files of the type {media} are not taken here; allowed are {', '.join(allowed)}", field="type")


def _compare(expected: bytes | None, sha256: bytes) -> None:
    if expected is not None and expected != sha256:
        raise InvalidBody(
            f"what arrived has the SHA-256 {sha256.hex()}, not the one announced; send it again", field="sha256"
        )


def _upload_expiry(state: State, ctx: Context) -> int:
    return ctx.clock.now_ms() + round(state.settings.upload_ttl_s * 1000)


def _too_large(state: State) -> TooLarge:
    return TooLarge(f"a file has {state.settings.max_size_bytes} bytes at most", field="size")


def _over_quota(state: State) -> TooLarge:
    return TooLarge(
        f"your files may have {state.settings.quota_bytes} bytes together, and this one does not fit in; "
        "delete files that are in no conversation"
    )
