"""The Python client of imserver, on Trio: reconnects, resends, confirms, and fills its gaps.

    async with open_client("127.0.0.1:9000") as client:
        await client.login("alice", "correct horse battery", device_id="laptop")
        await client.send("bob", "hello")
        async for message in client.messages():
            print(message.from_, message.body)

It speaks TCP and WebSocket, both with TLS. It shares no code with the server; it is written from the protocol page, with
`msgpack`. Where to read it:

    frames.py       bytes <-> frames <-> maps, without I/O
    connection.py   one connection: requests, pushes, heartbeat
    transport.py    addresses, and what opens a stream to one: TCP, TLS (tls.py), WebSocket (websocket.py)
    supervisor.py   one connection after another: login, refresh, GOAWAY, back-off (backoff.py)
    delivery.py     each message once, in order, without I/O; changes.py does the same for recalls and edits
    catchup.py      makes the requests that these two want; state.py is what survives a restart
    asking.py       requests that outlive connections; sending.py does it for messages, in line by conversation
    receiving.py    pushes in, messages and events out to the application
    client.py       the public face
"""

from .client import Client, open_client
from .errors import (
    AuthenticationLost,
    BadRequest,
    ClientClosed,
    ClientError,
    Conflict,
    ConnectionLost,
    Forbidden,
    FrameTooLarge,
    InternalFault,
    NotFound,
    RateLimited,
    RemoteProtocolError,
    RequestTimeout,
    ServerError,
    ServerTimeout,
    SessionEnded,
    SessionKicked,
    SessionReplaced,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from .state import Position, State
from .supervisor import Timing
from .types import (
    Conversation,
    Credentials,
    Device,
    Draft,
    Event,
    EventsLost,
    Message,
    MessageChanged,
    MessagePage,
    Notify,
    Presence,
    RawPush,
    Read,
    Sent,
    ServerFault,
    SyncPage,
    Typing,
    User,
)

__all__ = [
    "AuthenticationLost",
    "BadRequest",
    "Client",
    "ClientClosed",
    "ClientError",
    "Conflict",
    "ConnectionLost",
    "Conversation",
    "Credentials",
    "Device",
    "Draft",
    "Event",
    "EventsLost",
    "Forbidden",
    "FrameTooLarge",
    "InternalFault",
    "Message",
    "MessageChanged",
    "MessagePage",
    "NotFound",
    "Notify",
    "Position",
    "Presence",
    "RateLimited",
    "RawPush",
    "Read",
    "RemoteProtocolError",
    "RequestTimeout",
    "Sent",
    "ServerError",
    "ServerFault",
    "ServerTimeout",
    "SessionEnded",
    "SessionKicked",
    "SessionReplaced",
    "State",
    "SyncPage",
    "Timing",
    "TooLarge",
    "Typing",
    "Unauthenticated",
    "Unavailable",
    "User",
    "open_client",
]
