"""The plugin itself: its commands and routes, each one line to where it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from imserver.plugin import ANYONE, NotAuthenticated, Plugin, PluginError, command, on_event, role, route
from imserver_plugins.user import (
    accounts,
    admin_routes,
    background,
    cli,
    login,
    presence,
    profiles,
    requests,
    sessions,
    store,
)
from imserver_plugins.user import credentials as who
from imserver_plugins.user.state import State, make_state

if TYPE_CHECKING:
    import click
    from starlette.requests import Request

    from imserver.plugin import AppContext, Context, Credentials, Identity


class UserPlugin(Plugin):
    """Users, their sessions and devices: commands 1001 to 1013, and the operators' routes."""

    name = "user"
    migrations: ClassVar[Sequence[str]] = store.schema.MIGRATIONS
    cli_commands: ClassVar[Sequence[click.Command]] = cli.COMMANDS

    def __init__(self) -> None:
        self._state: State | None = None

    @property
    def state(self) -> State:
        """What the commands share; there from `on_start` on."""
        if self._state is None:
            raise PluginError("the user plugin was not started")
        return self._state

    async def on_start(self, ctx: AppContext) -> None:
        """Read the secret, and begin to follow what the command line changes."""
        self._state = make_state(ctx)
        ctx.start_soon(presence.run, self._state, ctx)
        ctx.start_soon(background.run, self._state, ctx, await store.changes.last_change(ctx.db))

    async def on_stop(self, ctx: AppContext) -> None:
        """Write down when the last sessions were seen."""
        await background.write_last_seen(self.state, ctx)
        await presence.write_users_seen(self.state, ctx)
        await background.write_key_uses(self.state, ctx)

    async def authenticate(self, ctx: AppContext, credentials: Credentials) -> Identity | None:
        """Whose token, API key or client certificate this is."""
        return await who.authenticate(self.state, ctx, credentials)

    def on_login(self, ctx: Context) -> None:
        """Tell who watches, and bound the connections of a user who comes by a certificate."""
        presence.came(self.state, ctx)
        sessions.end_if_too_many_live(self.state, ctx)

    def on_disconnect(self, ctx: Context) -> None:
        """Remember when a session was last seen, and tell who watches."""
        session = ctx.session
        if session.user_id is None:
            return
        presence.went(self.state, ctx)
        if self.state.foreign_tokens.pop(session.session_id, None) is None:
            self.state.last_seen.disconnected(session.session_id, ctx.clock.now_ms())

    @command(1001, request=requests.Register, allow=ANYONE)
    async def register(self, ctx: Context, request: requests.Register) -> dict[str, Any]:
        """Make a user."""
        return await accounts.register(self.state, ctx, request)

    @command(1002, request=requests.Login, allow=ANYONE)
    async def login(self, ctx: Context, request: requests.Login) -> dict[str, Any]:
        """Log in by a password."""
        return await login.log_in(self.state, ctx, request)

    @command(1003, request=requests.Auth, allow=ANYONE)
    async def auth(self, ctx: Context, request: requests.Auth) -> dict[str, Any]:
        """Log in by a token."""
        try:
            return await login.authenticate(self.state, ctx, request)
        except NotAuthenticated as exc:
            raise who.refused_token(self.state, ctx, request.token, ctx.session.address, exc) from exc

    @command(1004, request=requests.Refresh, allow=ANYONE)
    async def refresh(self, ctx: Context, request: requests.Refresh) -> dict[str, Any]:
        """Exchange a refresh token for new tokens."""
        return await login.refresh(self.state, ctx, request)

    @command(1005, request=requests.Logout)
    async def logout(self, ctx: Context, request: requests.Logout) -> dict[str, Any]:
        """End this session, or all of the user's."""
        return await sessions.log_out(self.state, ctx, request)

    @command(1006, request=requests.GetUser)
    async def get_user(self, ctx: Context, request: requests.GetUser) -> dict[str, Any]:
        """Profiles of users."""
        return await profiles.get_user(ctx, request)

    @command(1007, request=requests.UpdateProfile)
    def update_profile(self, ctx: Context, request: requests.UpdateProfile) -> dict[str, Any]:
        """Change one's own profile."""
        return profiles.update_profile(ctx, request)

    @command(1008, request=requests.ChangePassword)
    async def change_password(self, ctx: Context, request: requests.ChangePassword) -> dict[str, Any]:
        """Change one's own password; one's other sessions end."""
        return await accounts.change_password(self.state, ctx, request)

    @command(1009, request=requests.SearchUsers)
    async def search_users(self, ctx: Context, request: requests.SearchUsers) -> dict[str, Any]:
        """Find users by the beginning of their id, or by their nickname."""
        return await profiles.search_users(ctx, request)

    @command(1010)
    async def list_devices(self, ctx: Context, request: Any) -> dict[str, Any]:
        """One's own sessions."""
        return await sessions.list_devices(self.state, ctx)

    @command(1011, request=requests.KickDevice)
    async def kick_device(self, ctx: Context, request: requests.KickDevice) -> dict[str, Any]:
        """End another of one's own sessions."""
        return await sessions.kick_device(self.state, ctx, request)

    @command(1012, request=requests.GetPresence)
    async def get_presence(self, ctx: Context, request: requests.GetPresence) -> dict[str, Any]:
        """Who is online, or when they were last seen."""
        return await presence.get_presence(self.state, ctx, request)

    @command(1013, request=requests.WatchPresence)
    async def watch_presence(self, ctx: Context, request: requests.WatchPresence) -> dict[str, Any]:
        """The same, and pushes of what changes."""
        return await presence.watch_presence(self.state, ctx, request)

    @on_event("user.hidden")
    def user_hidden(self, ctx: AppContext, *, user_id: str, reader: str) -> None:
        """From now on a user hides from another one, who sees the user go."""
        presence.hide(self.state, ctx, user_id, reader)

    @on_event("user.shown")
    def user_shown(self, ctx: AppContext, *, user_id: str, reader: str) -> None:
        """A user hides no more from another one, who sees the user come."""
        presence.show(self.state, ctx, user_id, reader)

    @route("GET", "/v1/admin/users", allow=role("admin"), name="LIST_USERS")
    async def admin_list_users(self, ctx: Context, request: Request) -> dict[str, Any]:
        """A page of all users, or of those whose id or nickname has `query` in it."""
        return await admin_routes.list_users(ctx, admin_routes.query_of(request, requests.ListUsers))

    @route("GET", "/v1/admin/users/{user_id}/sessions", allow=role("admin"), name="LIST_SESSIONS")
    async def admin_list_sessions(self, ctx: Context, request: Request) -> dict[str, Any]:
        """A user's sessions, live and stored."""
        return await admin_routes.list_sessions(ctx, request.path_params["user_id"])

    @route("POST", "/v1/admin/users/{user_id}/disable", allow=role("admin"), name="DISABLE")
    async def admin_disable(self, ctx: Context, request: Request) -> dict[str, Any]:
        """Lock a user out, or let the user in again."""
        body = await admin_routes.body_of(request, requests.DisableUser)
        return await admin_routes.disable(self.state, ctx, request.path_params["user_id"], body)

    @route("POST", "/v1/admin/users/{user_id}/kick", allow=role("admin"), name="KICK")
    async def admin_kick(self, ctx: Context, request: Request) -> dict[str, Any]:
        """End one session of a user, or all."""
        body = await admin_routes.body_of(request, requests.KickUser)
        return await admin_routes.kick(self.state, ctx, request.path_params["user_id"], body)

    @route("POST", "/v1/admin/users/{user_id}/role", allow=role("admin"), name="SET_ROLE")
    async def admin_set_role(self, ctx: Context, request: Request) -> dict[str, Any]:
        """Give a user a role, or take it away."""
        body = await admin_routes.body_of(request, requests.SetRole)
        return await admin_routes.set_role(self.state, ctx, request.path_params["user_id"], body)
