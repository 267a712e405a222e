"""The file plugin in a running core, and HTTP requests to its routes without a socket: ASGI messages by hand."""

import json
from contextlib import asynccontextmanager

import attrs
import trio
from helpers import FakeClock, conversation_of, running
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import compile_path

from imserver.caller import Caller
from imserver.commands import routes_of
from imserver.conversation import Draft
from imserver.errors import ImError, NotLoaded, StorageError
from imserver.plugin import Plugin
from imserver_plugins.file import FilePlugin, cleanup
from imserver_plugins.file.settings import Settings

#: Tests make the cleaner's rounds themselves.
cleanup.FIRST_ROUND_S = 3600.0


class User(Plugin):
    """What the file plugin requires by name."""

    name = "user"


class Reply:
    """An answer."""

    def __init__(self):
        self.status = None
        self.headers = {}
        self.body = b""
        self.is_whole = False

    @property
    def json(self):
        return json.loads(self.body)

    async def take(self, message):
        if message["type"] == "http.response.start":
            assert self.status is None
            self.status = message["status"]
            self.headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.is_whole = not message.get("more_body", False)


class Site:
    """The routes of one plugin on one rig."""

    def __init__(self, rig, plugin):
        self.rig = rig
        self.plugin = plugin
        self.app = rig.shard.router.app_context("file")
        self.routes = [(compile_path(row.path), row) for row in routes_of(plugin)]
        self.texts = 0

    @property
    def state(self):
        return self.plugin._state

    @property
    def folder(self):
        return self.rig.folder / "files"

    def stored(self):
        """The ids of all files on the disk."""
        return sorted(path.name for path in self.folder.glob("??/*"))

    def rows(self, what="*"):
        return self.rig.rows(f"SELECT {what} FROM files ORDER BY created_at, file_id")

    async def ask(self, user, method, path, headers=None, body=b"", *, gone=False, receive=None):
        """One request; `body` may be a list of pieces. `gone`: the client leaves behind them."""
        path, _, query = path.partition("?")
        headers = {key.lower(): value for key, value in (headers or {}).items()}
        pieces = list(body) if isinstance(body, list) else [body]
        if not isinstance(body, list) and method in ("POST", "PATCH"):
            headers.setdefault("content-length", str(len(body)))
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "extensions": {}, "state": {},
            "headers": [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()],
            "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80),
        }  # fmt: skip

        async def from_pieces():
            await trio.lowlevel.checkpoint()
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces) or gone}
            return {"type": "http.disconnect"}

        row, params = self._route("GET" if method == "HEAD" else method, path)
        scope["path_params"] = params
        receive = receive or from_pieces
        reply = Reply()
        caller = Caller(self.rig.shard, "127.0.0.1")
        caller.user_id = user
        context = self.rig.shard.router.route_context("file", caller)
        try:
            answer = await row.handler(context, Request(scope, receive))
            await context.wait_durable()
            if not isinstance(answer, Response):
                answer = JSONResponse({"code": 0, **answer})
        except ImError as exc:
            answer = JSONResponse(exc.answer(), exc.code)
        except StorageError as exc:
            answer = JSONResponse({"code": 503, "error": "unavailable", "message": str(exc)}, 503)
        await answer(scope, receive, reply.take)
        assert reply.is_whole
        return reply

    def _route(self, method, path):
        for (pattern, _, converters), row in self.routes:
            found = pattern.match(path)
            if found and row.method == method:
                return row, {key: converters[key].convert(value) for key, value in found.groupdict().items()}
        raise AssertionError(f"no route {method} {path}")

    async def upload(self, user="alice", data=b"some bytes", **headers):
        """A file that is there; its fields."""
        reply = await self.ask(user, "POST", "/v1/files", {"Content-Type": "text/plain", **headers}, data)
        assert reply.status == 200, reply.json
        return reply.json

    async def begin(self, user="alice", size=10, **headers):
        """A resumable upload; its id."""
        reply = await self.ask(user, "POST", "/v1/files?resumable=1", {"Upload-Length": str(size), **headers})
        assert reply.status == 200, reply.json
        return reply.json["file_id"]

    async def patch(self, file_id, offset, data, user="alice", **options):
        return await self.ask(user, "PATCH", f"/v1/files/{file_id}", {"Upload-Offset": str(offset)}, data, **options)

    async def get(self, user, file_id, method="GET", **headers):
        return await self.ask(user, method, f"/v1/files/{file_id}", headers)

    def send(self, sender, to, file_id, *, type="file", body=None, conversation_id=None, expires_in_ms=None):
        """A message that names a file, sent as a `def` handler sends it; raises what refuses it."""
        router, section = self.rig.shard.router, self.rig.shard.section
        caller = Caller(self.rig.shard, "127.0.0.1")
        caller.user_id = sender
        context = router.context(caller, "base", is_async=False)
        self.texts += 1
        section.begin()
        try:
            parties = sorted([sender, to])
            conversation_id = conversation_id or f"d:{parties[0]}:{parties[1]}"
            conversation = conversation_of(context, conversation_id, parties)
            content = {"file_id": file_id} if body is None else body
            draft = Draft(conversation_id, sender, f"c{self.texts}", type, content, expires_in_ms=expires_in_ms)
            stored = context.messages.append(conversation, draft)
        except BaseException:
            section.abandon()
            raise
        section.seal()
        section.release()
        return stored

    async def say(self, *args, **options):
        """`send`, with what it needs brought in, until it is durable."""
        for _ in range(8):
            try:
                stored = self.send(*args, **options)
            except NotLoaded as exc:
                await exc.loader()
            else:
                await self.rig.shard.wait_durable()
                return stored
        raise AssertionError("too many loads")


@asynccontextmanager
async def site(folder, *more, clock=None, **settings):
    """A `Site` that runs until the block ends; `more` are plugins behind the one of files."""
    plugin = FilePlugin()
    async with running(folder, User(), plugin, *more, clock=clock or FakeClock()) as rig:
        app = rig.shard.router.app_context("file")
        app.settings = attrs.evolve(Settings(), **settings)
        await plugin.on_start(app)
        yield Site(rig, plugin)
