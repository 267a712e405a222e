"""The user plugin in the real core, asked over HTTP as the HTTP server asks: a caller with credentials, no connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import attrs
import helpers
import jwt
import msgspec
import pytest
import trio

from imserver.caller import Caller
from imserver.config import Config, Server
from imserver.identity import Credentials, Identity
from imserver.plugin import Plugin, command, offline_database
from imserver_plugins.user import UserPlugin, admin, background, store

PASSWORD = "correct horse battery"
REGISTER, LOGIN, AUTH, REFRESH, LOGOUT, CHANGE_PASSWORD, LIST_DEVICES, KICK_DEVICE = (
    1001, 1002, 1003, 1004, 1005, 1008, 1010, 1011,
)  # fmt: skip
WHO, SYNC = 6001, 2003


class SyncRequest(msgspec.Struct):
    """What LOGIN asks SYNC for."""

    cursor: str | None = None


class Messages(Plugin):
    """Stands for the message plugin, whose name and commands are scopes: its commands tell who asks."""

    name = "message"

    @command(WHO, name="SEND")
    async def who(self, ctx: Any, request: Any) -> dict[str, Any]:
        """Who asks, and by which roles."""
        return {"user_id": ctx.session.user_id, "roles": sorted(ctx.session.roles)}

    @command(SYNC, request=SyncRequest)
    async def sync(self, ctx: Any, request: SyncRequest) -> dict[str, Any]:
        """Nothing has happened to this user."""
        return {"conversations": [], "of": ctx.session.user_id}


class Door:
    """A running core with the user plugin, and requests to it over HTTP."""

    def __init__(self, rig: Any, plugin: UserPlugin) -> None:
        self.rig = rig
        self.plugin = plugin
        self.router = rig.shard.router
        self.config: Config = rig.config

    @property
    def state(self) -> Any:
        """What the plugin's commands share."""
        return self.plugin.state

    async def authenticate(self, **credentials: Any) -> Identity:
        """Whose these are, as the HTTP server asks."""
        given: dict[str, Any] = {"address": "192.0.2.1", **credentials}
        identity: Identity = await self.router.authenticate(Credentials(**given))
        return identity

    async def caller(self, **credentials: Any) -> Caller:
        """A request's caller; nobody without credentials."""
        caller = Caller(self.rig.shard, credentials.get("address", "192.0.2.1"))
        if credentials:
            caller.identify(await self.authenticate(**credentials))
        return caller

    async def http(self, command_id: int, credentials: Mapping[str, Any] | None = None, /, **fields: Any) -> dict[str, Any]:
        """`POST /v1/commands/{id}`."""
        caller = await self.caller(**credentials or {})
        answer: dict[str, Any] = await self.router.request(caller, command_id, msgspec.json.encode(fields))
        return answer

    async def bearer(self, token: str, command_id: int, /, **fields: Any) -> dict[str, Any]:
        """The same with `Authorization: Bearer`."""
        return await self.http(command_id, {"token": token}, **fields)

    async def user(self, user_id: str, *, device_id: str | None = None) -> dict[str, Any]:
        """Register a user and log in over HTTP; LOGIN's answer."""
        await self.http(REGISTER, user_id=user_id, password=PASSWORD)
        return await self.http(LOGIN, user_id=user_id, password=PASSWORD, device_id=device_id)

    async def connect(self, token: str) -> Any:
        """A live connection by a token."""
        peer = self.rig.connect()
        await peer.ok(AUTH, token=token)
        return peer

    def foreign_token(self, user_id: str, **claims: Any) -> str:
        """A token as an integrating system signs it."""
        secret = self.config.auth.secret_file.read_bytes().strip()
        return jwt.encode({"sub": user_id, "exp": self.rig.clock.now_ms() // 1000 + 600} | claims, secret, algorithm="HS256")

    async def by_cli(self, change: Any, *args: Any, **options: Any) -> Any:
        """What the command line does in another process, and the background task's next look."""
        context = self.router.app_context("user")
        before = await store.changes.last_change(context.db)
        result = await trio.to_thread.run_sync(lambda: change(self.config, *args, **options))
        await background.follow_changes(self.state, context, before)
        return result

    async def key(self, name: str, *scopes: str, expires_s: float | None = None) -> str:
        """A new API key's text."""
        return str(await self.by_cli(admin.add_key, name, scopes or ("*",), expires_s))

    def sql(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Look into the database, or change it, from outside."""
        connection = apsw.Connection(str(self.config.server.data_dir / "imserver.db"))
        try:
            connection.set_busy_timeout(10_000)
            return list(connection.execute(sql, params))
        finally:
            connection.close()

    def leaves_nothing(self) -> bool:
        """No entry that only a connection's end would take away."""
        return not self.rig.directory.by_user and not self.state.foreign_tokens


@asynccontextmanager
async def opened(
    folder: Path, *, auth: Mapping[str, Any] | None = None, tls: Any = None, **limits: Any
) -> AsyncIterator[Door]:
    """A `Door` until the block ends."""
    plugin = UserPlugin()

    def configured(**sections: Any) -> Config:
        config = Config(**sections, tls=tls)
        settings = attrs.evolve(config.auth, secret_file=folder / "secret", **auth or {})
        return attrs.evolve(config, auth=settings)

    with pytest.MonkeyPatch.context() as patch:
        with offline_database(Config(server=Server(data_dir=folder))):
            pass  # the tables of all plugins, for the command line: it does not make them under a running server
        patch.setattr(helpers, "Base", Messages)  # its LOGIN knows no passwords
        patch.setattr(helpers, "Config", configured)
        async with helpers.running(folder, plugin, limits=limits) as rig:
            await plugin.on_start(rig.shard.router.app_context("user"))
            yield Door(rig, plugin)
