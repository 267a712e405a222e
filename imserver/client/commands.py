"""The command IDs that this client uses, and which of them may be repeated. Source: docs/reference/protocol.md."""

from __future__ import annotations

from typing import Final

HEARTBEAT: Final = 1
GOAWAY: Final = 2
ERROR: Final = 3
HELLO: Final = 4
REGISTER: Final = 1001
LOGIN: Final = 1002
AUTH: Final = 1003
REFRESH: Final = 1004
LOGOUT: Final = 1005
GET_USER: Final = 1006
UPDATE_PROFILE: Final = 1007
CHANGE_PASSWORD: Final = 1008
SEARCH_USERS: Final = 1009
LIST_DEVICES: Final = 1010
KICK_DEVICE: Final = 1011
SEND: Final = 2001
PULL: Final = 2002
SYNC: Final = 2003
MARK_READ: Final = 2004
SEND_BATCH: Final = 2011
CHANGES: Final = 2014
MESSAGE: Final = 5001
PUSH_ACK: Final = 5002
MESSAGE_CHANGED: Final = 5003

#: Carrying these out twice is the same as once, so they are asked again when the connection goes or the server is
#: busy. LOGIN makes one session more, which nobody holds and which dies of age. To add a row: only a command that the
#: protocol page describes as reading, as setting a value, or as idempotent.
REPEATABLE: Final = frozenset(
    {
        HELLO,
        LOGIN,
        GET_USER,
        UPDATE_PROFILE,
        SEARCH_USERS,
        LIST_DEVICES,
        1012,  # GET_PRESENCE
        1013,  # WATCH_PRESENCE
        PULL,
        SYNC,
        MARK_READ,
        2009,  # SEARCH
        2012,  # RECEIPTS
        2013,  # CONVERSATION_SETTINGS
        CHANGES,
        3003,  # LIST_FRIENDS
        3004,  # LIST_FRIEND_REQUESTS
        3008,  # LIST_BLOCKED
        4002,  # GET_GROUP
        4008,  # LIST_MEMBERS
        4011,  # LIST_GROUPS
        PUSH_ACK,
    }
)
