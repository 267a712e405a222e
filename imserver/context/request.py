"""`Context`: what a handler has, the server and the session that asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from imserver.context.application import AppContext
from imserver.errors import Conflict, InternalError

if TYPE_CHECKING:
    from imserver.caller import Caller
    from imserver.plugin import Plugin
    from imserver.session import Session


class Context(AppContext):
    """What a handler has: the server and the session that asks.

    Attributes:
        session: who asks, whatever door the request came in by.
    """

    def __init__(self, app: AppContext, session: Caller, *, is_async: bool) -> None:
        self.__dict__.update(app.__dict__)
        self._unfinished = []
        self._make_apis()
        self.session = session
        self._is_async = is_async

    def _for_def_handler(self) -> Context:
        return Context(self, self.session, is_async=False)

    @property
    def connection(self) -> Session:
        """The live session that asks: there is one in the hooks `on_connect`, `on_login` and `on_disconnect`.

        Raises:
            Conflict: the request came over HTTP.
        """
        session = self.session
        if not session.is_live:
            raise Conflict("this needs a connection that stays; ask over TCP or WebSocket")
        return cast("Session", session)

    def of(self, plugin: str) -> AppContext:
        """See `AppContext.of`."""
        context: AppContext = self._shard.router.context(self.session, plugin, is_async=self._is_async)
        return context

    def of_retired(self, plugin: Plugin) -> Context:
        """The same for an instance of a plugin that a reload has replaced; see `Router.retired_context`."""
        return self._shard.router.retired_context(plugin, self.session)

    def push(self, user_ids: Iterable[str], command: int, body: Any, *, except_session: Caller | None = None) -> None:
        """See `AppContext.push`."""
        if self._is_async:
            super().push(user_ids, command, body, except_session=except_session)
        else:
            self._shard.push(user_ids, command, body, except_session)

    def login(
        self,
        *,
        user_id: str,
        session_id: str,
        device_id: str | None = None,
        platform: str = "",
        roles: Iterable[str] = (),
        compress: bool = False,
        deliver: str = "new",
        expires_at_ms: int | None = None,
    ) -> str:
        """Bind this connection to a user; only in an `async def` handler.

        The session enters the directory, replaces the one with the same device, and the plugins' `on_login` run. Its
        pushes wait until the running request's answer is out. A request over HTTP is from then on this user's; there is no
        connection to bind.

        Returns the device id, made up if there was none.

        Raises:
            Conflict: it is bound already.
        """
        session = self.session
        if session.is_closed:
            raise Conflict("the connection is closing")
        if session.user_id is not None:
            raise Conflict("this connection is logged in; open another one")
        if not self._is_async:
            raise InternalError("ctx.login is for async handlers")
        session.platform = platform
        session.roles = frozenset(roles)
        session.deliver_mode = deliver
        session.expires_at_ms = expires_at_ms
        session.set_compress(compress)
        replaced = session.bind(user_id, session_id, device_id)
        if replaced is not None:
            replaced.revoke("replaced", "this device has logged in on another connection")
        if session.is_live:
            self._shard.router.logged_in(self.connection)
        return session.device_id

    def logout_after_answer(self, error: str = "kicked", message: str = "logged out") -> None:
        """Carry out nothing more of this connection; GOAWAY follows the answer of this `async def` handler."""
        self.session.close_after_answer(error, message)

    async def call(self, command_id: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call another service's command as this session; returns the response's fields once they are durable.

        Raises:
            ImError: it refused.
        """
        return await self._shard.router.call(self.session, command_id, body)
