"""The plugin: a line for each route, and the hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imserver.plugin import AppContext, Conflict, Context, Draft, InvalidBody, Plugin, on_event, route
from imserver_plugins.file import access, store, uploads
from imserver_plugins.file.access import check_and_hold, forget_holders, may_read
from imserver_plugins.file.cleanup import Cleaner, release_gone_of, remove
from imserver_plugins.file.downloads import FileResponse
from imserver_plugins.file.settings import Settings
from imserver_plugins.file.state import Slots, State, user_of
from imserver_plugins.file.storage import FILE_ID, LocalStore
from imserver_plugins.file.store import FINISHED, MAY_NAME, MIGRATIONS, File
from imserver_plugins.file.uploads import Progress, fields_of, no_file

_T = TypeVar("_T")

#: Of one request with a body. The server ends a connection that is silent for long; a larger file is sent in parts.
UPLOAD_TIMEOUT_S = 3600.0
#: Worker threads of one shard that are busy with files: a disk that hangs holds up files alone.
_THREADS = 4
_MAX_PAGE = 500
#: What uploads under way get to put down what they have, when the server stops.
_STOP_S = 5.0

_limiters: trio.lowlevel.RunVar[trio.CapacityLimiter | None] = trio.lowlevel.RunVar("file_threads", None)


def _limiter() -> trio.CapacityLimiter:
    limiter = _limiters.get()
    if limiter is None:
        limiter = trio.CapacityLimiter(_THREADS)
        _limiters.set(limiter)
    return limiter


class FilePlugin(Plugin):
    """Files: uploads, downloads, who may read them, and when they go."""

    name = "file"
    before_send_texts = False
    requires = ("user",)
    Settings = Settings
    migrations = MIGRATIONS

    _state: State

    async def on_start(self, ctx: AppContext) -> None:
        """Make the folder, begin to clean up."""
        settings: Settings = ctx.settings

        async def run(function: Callable[..., _T], /, *args: Any) -> _T:
            return await ctx.run_sync_in_thread(function, *args, limiter=_limiter())

        self._state = State(
            settings=settings,
            files=LocalStore(ctx.config.server.data_dir / "files", run),
            slots=Slots(settings.uploads_per_user),
        )
        await self._state.files.prepare()
        ctx.start_soon(Cleaner(self._state, ctx).run)

    async def on_stop(self, ctx: AppContext) -> None:
        """Uploads that are under way put down what they have: a resumable one can be gone on with, others leave nothing."""
        with trio.move_on_after(_STOP_S):
            await self._state.turns.stop()

    # ------------------------------------------------------------ uploads

    @route("POST", "/v1/files", timeout_s=UPLOAD_TIMEOUT_S)
    async def upload(self, ctx: Context, request: Request) -> Response:
        """Store a file: as the body, as a part of a form, or (Upload-Length) in several requests."""
        is_resumable = request.query_params.get("resumable", "0") not in ("", "0", "false")
        if is_resumable or "upload-length" in request.headers:
            return _answer(await uploads.begin(self._state, ctx, request))
        return _answer(await uploads.upload(self._state, ctx, request))

    @route("PATCH", "/v1/files/{file_id}", timeout_s=UPLOAD_TIMEOUT_S)
    async def resume(self, ctx: Context, request: Request) -> Response:
        """The next bytes of a resumable upload."""
        try:
            return _answer(await uploads.resume(self._state, ctx, request, request.path_params["file_id"]))
        except uploads.WrongOffset as exc:
            return JSONResponse(exc.answer(), exc.code, {"Upload-Offset": str(exc.offset), "Cache-Control": "no-store"})

    # ------------------------------------------------------------ reading

    @route("GET", "/v1/files/{file_id}")
    async def download(self, ctx: Context, request: Request) -> Response:
        """A file, or a range of it; HEAD of one's own unfinished upload says where it stands."""
        file_id = request.path_params["file_id"]
        file = await store.find(ctx.db, file_id) if FILE_ID.fullmatch(file_id) else None
        if file is None:
            raise no_file()
        user_id = user_of(ctx)
        if file.state != FINISHED:
            if file.owner != user_id or not uploads.is_resumable(file):
                raise no_file()
            if request.method != "HEAD":
                raise Conflict("the upload of this file is not finished")
            reached = await uploads.progress(self._state, ctx, file_id)
            if isinstance(reached, Progress):
                return _standing(reached.offset, reached.size)
            file = reached
        if not await may_read(ctx, file, user_id):
            raise no_file()
        response = FileResponse(self._state, file, request.method, dict(request.headers))
        if request.method == "HEAD" and file.owner == user_id:
            response.headers["Upload-Offset"] = response.headers["Upload-Length"] = str(file.size)
        return response

    @route("GET", "/v1/files")
    async def own_files(self, ctx: Context, request: Request) -> dict[str, Any]:
        """One's own files, newest first, and what they take of the quota."""
        user_id = user_of(ctx)
        limit = _limit(request.query_params.get("limit", "50"))
        files = await store.page(ctx.db, user_id, _cursor(request.query_params.get("cursor")), limit + 1)
        used = await store.usage(ctx.db, user_id)
        shown = files[:limit]
        answer: dict[str, Any] = {
            "files": [{**fields_of(file), "is_held": file.expires_at is None} for file in shown],
            "used": used.used,
            "quota": self._state.settings.quota_bytes,
            "max_size": self._state.settings.max_size_bytes,
        }
        if len(files) > limit:
            answer["next_cursor"] = f"{shown[-1].created_at:x}-{shown[-1].file_id}"
        return answer

    @route("DELETE", "/v1/files/{file_id}")
    async def delete(self, ctx: Context, request: Request) -> dict[str, Any]:
        """Remove one's own file that is in no conversation, or an upload."""
        file_id = request.path_params["file_id"]
        await uploads.own_upload(ctx, file_id)
        await release_gone_of(self._state, ctx, file_id)
        async with self._state.turns.turn(file_id):
            condemn = store.condemn_unheld(file_id, expired_by_ms=store.FAR_MS)
            if not await remove(self._state, ctx, file_id, condemn):
                await uploads.own_upload(ctx, file_id)  # 404: it has gone meanwhile
                raise Conflict("a conversation holds this file; it stays with it")
        return {}

    # ------------------------------------------------------------ messages

    def before_send(self, ctx: Context, draft: Draft) -> None:
        """A message may name a file that its sender may read; its conversation holds it from then on."""
        check_and_hold(self._state, ctx, draft)

    def after_commit(self, ctx: AppContext, messages: Sequence[Any]) -> None:
        """Files of these messages (`Message` each) are held by a conversation more."""
        for message in messages:
            if message.type in MAY_NAME:
                forget_holders(ctx, message.type, message.body)

    @on_event("message.recalled")
    def message_recalled(self, ctx: AppContext, *, conversation_id: str, seq: int, type: str, **_: Any) -> None:
        """Its conversation does not hold a file by it any more."""
        if type in MAY_NAME:
            access.recalled(self._state, ctx, conversation_id, seq)

    @on_event("message.edited")
    def message_edited(
        self,
        ctx: AppContext,
        *,
        conversation_id: str,
        seq: int,
        type: str,
        body: Any,
        **_: Any,
    ) -> None:
        """It may name another file now, or none."""
        if type in MAY_NAME:
            access.edited(self._state, ctx, conversation_id, seq, type, body)


def _answer(reached: File | Progress) -> Response:
    headers = {"Location": f"/v1/files/{reached.file_id}", "Cache-Control": "no-store"}
    if isinstance(reached, Progress):
        return JSONResponse({"code": 0, **reached.fields()}, headers={**headers, "Upload-Offset": str(reached.offset)})
    return JSONResponse({"code": 0, **fields_of(reached)}, headers={**headers, "Upload-Offset": str(reached.size)})


def _standing(offset: int, size: int) -> Response:
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(size), "Cache-Control": "no-store"}
    return Response(headers=headers)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= _MAX_PAGE):
        raise InvalidBody(f"limit is a number from 1 to {_MAX_PAGE}", field="limit")
    return int(text)


def _cursor(text: str | None) -> tuple[int, str] | None:
    if not text:
        return None
    created_at, _, file_id = text.partition("-")
    if len(created_at) > 15 or not FILE_ID.fullmatch(file_id):
        raise InvalidBody("this is no cursor of this server; begin without one", field="cursor")
    try:
        return int(created_at, 16), file_id
    except ValueError:
        raise InvalidBody("this is no cursor of this server; begin without one", field="cursor") from None
