"""/v1/admin: the server's side of the admin page. Users and their sessions are the user plugin's matter."""

from __future__ import annotations

from typing import Any

from imserver.plugin import Context, Plugin, role, route

ADMIN = role("admin")


class AdminPlugin(Plugin):
    """Shows the server to its administrators, and changes nothing."""

    name = "admin"

    @route("GET", "/v1/admin/stats", allow=ADMIN)
    async def stats(self, ctx: Context, request: Any) -> dict[str, Any]:
        """The figures of this moment; counts are since the start, so two looks make a rate."""
        now = ctx.figures.snapshot()
        return {
            "server": ctx.config.server.name,
            "node": ctx.config.server.node,
            "version": now.version,
            "started_at": now.started_at_ms,
            "time": now.time_ms,
            "connections": now.connections,
            "users_online": now.users_online,
            "messages": now.messages,
            "commits": now.commits,
            "commit_failures": now.commit_failures,
            "commit_ms": {
                "p50": _ms(now.commit_p50_s),
                "p99": _ms(now.commit_p99_s),
                "max": _ms(now.commit_max_s),
            },
            "shards": [
                {
                    "index": shard.index,
                    "sessions": shard.sessions,
                    "http_connections": shard.http_connections,
                    "requests": shard.requests,
                    "lag_ms": _ms(shard.lag_s),
                }
                for shard in now.shards
            ],
            "commands": [
                {
                    "command": command.command_id,
                    "name": command.name,
                    "requests": command.requests,
                    "errors": {str(code): count for code, count in command.errors.items()},
                }
                for command in now.commands
                if command.requests or command.errors
            ],
            "certificate_expires_at": now.certificate_expires_at_ms,
        }

    @route("GET", "/v1/admin/config", allow=ADMIN)
    async def config(self, ctx: Context, request: Any) -> dict[str, Any]:
        """The configuration as it is in force, secrets masked."""
        file = ctx.config.file
        return {"file": None if file is None else str(file), "config": ctx.plain_config()}

    @route("GET", "/v1/admin/plugins", allow=ADMIN)
    async def plugins(self, ctx: Context, request: Any) -> dict[str, Any]:
        """The plugins that run, in the order of their start, with what they bring."""
        return {"plugins": ctx.figures.plugins}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
