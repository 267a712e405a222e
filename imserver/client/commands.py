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
GET_PRESENCE: Final = 1012
WATCH_PRESENCE: Final = 1013
SEND: Final = 2001
PULL: Final = 2002
SYNC: Final = 2003
MARK_READ: Final = 2004
RECALL: Final = 2005
EDIT: Final = 2006
REACT: Final = 2007
TYPING: Final = 2008
SEARCH: Final = 2009
DELETE_CONVERSATION: Final = 2010
SEND_BATCH: Final = 2011
RECEIPTS: Final = 2012
CONVERSATION_SETTINGS: Final = 2013
CHANGES: Final = 2014
FRIEND_REQUEST: Final = 3001
FRIEND_ANSWER: Final = 3002
LIST_FRIENDS: Final = 3003
LIST_FRIEND_REQUESTS: Final = 3004
DELETE_FRIEND: Final = 3005
BLOCK: Final = 3006
UNBLOCK: Final = 3007
LIST_BLOCKED: Final = 3008
SET_REMARK: Final = 3009
CREATE_GROUP: Final = 4001
GET_GROUP: Final = 4002
UPDATE_GROUP: Final = 4003
DISMISS_GROUP: Final = 4004
ADD_MEMBERS: Final = 4005
REMOVE_MEMBERS: Final = 4006
LEAVE_GROUP: Final = 4007
LIST_MEMBERS: Final = 4008
SET_ROLE: Final = 4009
MUTE_MEMBER: Final = 4010
LIST_GROUPS: Final = 4011
JOIN_GROUP: Final = 4012
ANSWER_JOIN: Final = 4013
MESSAGE: Final = 5001
PUSH_ACK: Final = 5002
MESSAGE_CHANGED: Final = 5003
NOTIFY: Final = 5009
SET_PUSH_TOKEN: Final = 5010
REMOVE_PUSH_TOKEN: Final = 5011

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
        GET_PRESENCE,
        WATCH_PRESENCE,
        PULL,
        SYNC,
        MARK_READ,
        REACT,
        SEARCH,
        RECEIPTS,
        CONVERSATION_SETTINGS,
        CHANGES,
        LIST_FRIENDS,
        LIST_FRIEND_REQUESTS,
        BLOCK,
        UNBLOCK,
        LIST_BLOCKED,
        SET_REMARK,
        GET_GROUP,
        LIST_MEMBERS,
        LIST_GROUPS,
        PUSH_ACK,
        SET_PUSH_TOKEN,
        REMOVE_PUSH_TOKEN,
    }
)
