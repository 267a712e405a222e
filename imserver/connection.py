"""The connection's own commands: HEARTBEAT (1) and HELLO (4); GOAWAY (2) and ERROR (3) are pushes."""

from __future__ import annotations

from typing import Annotated, Literal

import attrs

import imserver
from imserver.caller import Caller
from imserver.commands import CommandTable, commands_of
from imserver.plugin import ANYONE, Meta, Plugin, command
from imserver.protocol.frame import JSON


@attrs.frozen
class Heartbeat:
    """`{rid?}`"""


@attrs.frozen
class Hello:
    """What a client says of itself; all of it optional."""

    client: str = ""
    version: str | Annotated[int, Meta(ge=0, le=2**31 - 1)] = ""
    encoding: Literal["msgpack", "json"] | None = None


class ConnectionCommands(Plugin):
    """Not a service that could be switched off: what every connection understands."""

    name = "connection"

    @command(1, request=Heartbeat, name="HEARTBEAT", allow=ANYONE, stateless=True)
    def heartbeat(self, session: Caller, request: Heartbeat) -> dict[str, int]:
        """Any frame counts as life; this one is for clients that have nothing to say."""
        return {"server_time": session.shard.clock.now_ms()}

    @command(4, request=Hello, name="HELLO", allow=ANYONE, stateless=True)
    def hello(self, session: Caller, request: Hello) -> dict[str, object]:
        """Who the server is and what it allows; `encoding` chooses that of the pushes."""
        if request.encoding is not None:
            session.set_encoding(JSON if request.encoding == "json" else 0)
        shard = session.shard
        return {
            "server": f"imserver/{imserver.__version__}",
            "name": shard.config.server.name,
            "version": 1,
            "max_frame": shard.limits.max_frame_bytes,
            "heartbeat_ms": int(shard.heartbeat_s * 1000),
            "time": shard.clock.now_ms(),
        }


def add_connection_commands(table: CommandTable) -> None:
    """Put these rows into the table."""
    table.add(commands_of(ConnectionCommands(), first_id=1))
