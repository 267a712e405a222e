"""The Python client of imserver, on Trio: reconnects, resends, confirms, and fills its gaps.

    async with open_client("127.0.0.1:9000") as client:
        await client.login("alice", "correct horse battery", device_id="laptop")
        await client.send("bob", "hello")
        async for message in client.messages():
            print(message.from_, message.body)

It speaks TCP and WebSocket, both with TLS. It shares no code with the server; it is written from the protocol page, with
`msgpack`, and `h11` for files. Where to read it:

    frames.py       bytes <-> frames <-> maps, without I/O
    connection.py   one connection: requests, pushes, heartbeat
    transport.py    addresses, and what opens a stream to one: TCP, TLS (tls.py), WebSocket (websocket.py)
    supervisor.py   one connection after another: login, refresh, GOAWAY, back-off (backoff.py)
    delivery.py     each message once, in order, without I/O; changes.py does the same for recalls and edits
    catchup.py      makes the requests that these two want; state.py is what survives a restart
    asking.py       requests that outlive connections; sending.py does it for messages, in line by conversation
    files.py        files over HTTP (http.py), with progress, going on after a broken connection
    receiving.py    pushes in, messages and events out to the application
    client.py       the public face; what it can ask by service: users.py, conversations.py, attachments.py,
                    friends.py (`client.friends`), groups.py (`client.groups`)
    opening.py      `open_client`: the block in which a client lives
    types.py        messages and conversations; pushes.py has the events; taking.py checks what comes in
"""

from .client import Client
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
from .files import RemoteFile, message_type
from .friends import Friend, FriendRequest, Friends
from .groups import Added, Created, Group, GroupMember, Groups, JoinRequest, Role
from .http import Endpoints, discover
from .opening import open_client
from .pushes import Event, EventsLost, FriendEvent, GroupEvent, MessageChanged, Notify, RawPush, Read, ServerFault, Typing
from .state import Position, State
from .supervisor import Timing
from .types import (
    ChangesPage,
    Conversation,
    ConversationSettings,
    Credentials,
    Draft,
    Message,
    MessagePage,
    Reactions,
    Receipts,
    Sent,
    SyncPage,
)
from .users import Device, Presence, User

__all__ = [
    "Added",
    "AuthenticationLost",
    "BadRequest",
    "ChangesPage",
    "Client",
    "ClientClosed",
    "ClientError",
    "Conflict",
    "ConnectionLost",
    "Conversation",
    "ConversationSettings",
    "Created",
    "Credentials",
    "Device",
    "Draft",
    "Endpoints",
    "Event",
    "EventsLost",
    "Forbidden",
    "FrameTooLarge",
    "Friend",
    "FriendEvent",
    "FriendRequest",
    "Friends",
    "Group",
    "GroupEvent",
    "GroupMember",
    "Groups",
    "InternalFault",
    "JoinRequest",
    "Message",
    "MessageChanged",
    "MessagePage",
    "NotFound",
    "Notify",
    "Position",
    "Presence",
    "RateLimited",
    "RawPush",
    "Reactions",
    "Read",
    "Receipts",
    "RemoteFile",
    "RemoteProtocolError",
    "RequestTimeout",
    "Role",
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
    "discover",
    "message_type",
    "open_client",
]
