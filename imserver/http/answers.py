"""What the commands answer, as JSON schema, for /openapi.json (wire protocol, section 5).

Requests have classes, which check them; answers have none, since nothing checks what a handler is trusted to return. So
they are declared here, and tests hold real answers against it. A plugin's command that is not here has an open schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
ANYTHING: Schema = {}
TIME: Schema = {"type": "integer", "description": "ms since 1970, UTC", "examples": [1767225600000]}


def fields(**properties: Schema) -> dict[str, Any]:
    """An object's schema; what has a name that ends in `_` may be absent, and has no `_` in truth."""
    shown: dict[str, Schema] = {}
    required = []
    for name, schema in properties.items():
        if not name.endswith("_"):
            required.append(name)
        shown[name.rstrip("_")] = schema
    return {"type": "object", "properties": shown, "required": required}


def many(item: Schema) -> Schema:
    """A list's schema."""
    return {"type": "array", "items": item}


def ref(name: str) -> Schema:
    """A reference to one of `COMPONENTS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


_LOGIN = {
    "user_id": STRING,
    "expires_at": TIME,
    "session_id": STRING,
    "heartbeat_ms": INTEGER,
    "server_time": TIME,
    "sync_": ref("ConversationPage"),
}
_USER: Mapping[str, Schema] = {"user_id": STRING, "nickname": STRING, "avatar_": STRING, "bio_": STRING}
_MESSAGE = fields(
    conversation_id=STRING,
    seq=INTEGER,
    rev=INTEGER,
    message_id=STRING,
    client_id=STRING,
    sent_at=TIME,
    type=STRING,
    body=ANYTHING,
    reply_to_=INTEGER,
    mentions_=many(STRING),
    expires_at_=TIME,
    edited_at_=TIME,
    recalled_=BOOLEAN,
    reactions_={"type": "object", "additionalProperties": many(STRING)},
)
_MESSAGE["properties"]["from"] = STRING
_MESSAGE["required"].append("from")
_SENT = {"conversation_id": STRING, "seq_": INTEGER, "message_id": STRING, "sent_at": TIME, "duplicate_": BOOLEAN}
_ROLE: Schema = {"type": "string", "enum": ["owner", "admin", "member"]}
_NOT_ADDED = many(fields(user_id=STRING, error=STRING))
FILE: Mapping[str, Schema] = {
    "file_id": STRING,
    "name": STRING,
    "size": INTEGER,
    "type": {"type": "string", "description": "the media type", "examples": ["image/png"]},
    "sha256": STRING,
    "url": STRING,
    "created_at": TIME,
    "expires_at_": TIME,
}

#: What several answers have in common.
COMPONENTS: Mapping[str, Schema] = {
    "Message": _MESSAGE,
    "User": fields(**_USER, created_at=TIME),
    "Friend": fields(user_id=STRING, nickname=STRING, since=TIME, online=BOOLEAN, remark_=STRING),
    "FriendRequest": fields(
        request_id=STRING,
        user_id=STRING,
        nickname=STRING,
        state=STRING,
        created_at=TIME,
        message_=STRING,
        answered_at_=TIME,
    ),
    "Device": fields(
        session_id=STRING, device_id=STRING, platform=STRING, address=STRING, connected_at=TIME, online=BOOLEAN
    ),
    "Presence": fields(user_id=STRING, online=BOOLEAN, platforms=many(STRING), last_seen_=TIME),
    "Conversation": fields(
        conversation_id=STRING,
        last_seq=INTEGER,
        last_rev=INTEGER,
        read_seq=INTEGER,
        delivered_seq=INTEGER,
        unread=INTEGER,
        last_message=nullable(ref("Message")),
        peer_=STRING,
        group_=STRING,
        muted_=BOOLEAN,
        pinned_=BOOLEAN,
        hidden_=BOOLEAN,
        left_=BOOLEAN,
    ),
    "ConversationPage": fields(conversations=many(ref("Conversation")), next_cursor=STRING, more=BOOLEAN),
    "Group": fields(
        group_id=STRING,
        name=STRING,
        owner=STRING,
        join={"type": "string", "enum": ["open", "approval", "invite"]},
        history={"type": "string", "enum": ["joined", "all"]},
        member_count=INTEGER,
        created_at=TIME,
        avatar_=STRING,
        announcement_=STRING,
        muted_=BOOLEAN,
        role_=_ROLE,
        muted_until_=TIME,
        join_requests_=many(fields(request_id=STRING, user_id=STRING, message=nullable(STRING), created_at=TIME)),
    ),
    "GroupMember": fields(user_id=STRING, role=_ROLE, nickname=STRING, joined_at=TIME, muted_until_=TIME),
    "File": fields(**FILE),
    "Upload": fields(file_id=STRING, upload_url=STRING, offset=INTEGER, size=INTEGER, expires_at_=TIME),
}

#: command ID -> its answer's fields, `code` aside.
ANSWERS: Mapping[int, Schema] = {
    1: fields(server_time=TIME),
    4: fields(
        server=STRING,
        name=STRING,
        version={"type": "integer", "description": "of the wire protocol", "examples": [1]},
        max_frame=INTEGER,
        heartbeat_ms=INTEGER,
        time=TIME,
    ),
    1001: fields(user_id=STRING),
    1002: fields(**_LOGIN, token=STRING, refresh_token=STRING),
    1003: fields(**_LOGIN),
    1004: fields(token=STRING, refresh_token=STRING, expires_at=TIME),
    1005: fields(),
    1006: fields(users=many(ref("User"))),
    1007: fields(),
    1008: fields(),
    1009: fields(users=many(ref("User")), next_cursor_=STRING),
    1010: fields(devices=many(ref("Device"))),
    1011: fields(),
    1012: fields(presence=many(ref("Presence"))),
    1013: fields(presence=many(ref("Presence"))),
    2001: fields(**_SENT),
    2002: fields(messages=many(ref("Message")), first_seq=INTEGER, last_seq=INTEGER),
    2003: COMPONENTS["ConversationPage"],
    2004: fields(unread=INTEGER),
    2005: fields(),
    2006: fields(edited_at=TIME),
    2007: fields(),
    2008: fields(),
    2009: fields(messages=many(ref("Message")), next_cursor_=STRING),
    2010: fields(),
    2011: fields(
        results=many({"anyOf": [fields(code={"type": "integer", "const": 0}, **_SENT), ref("Error")]}),
    ),
    2012: fields(read=many(STRING), read_count=INTEGER, unread_count=INTEGER),
    2013: fields(conversation_id=STRING, muted=BOOLEAN, pinned=BOOLEAN),
    2014: fields(messages=many(ref("Message")), last_rev=INTEGER, more=BOOLEAN),
    2021: fields(stream_id=STRING, message_id=STRING),
    2022: fields(length=INTEGER),
    2023: fields(**_SENT),
    3001: fields(request_id=STRING),
    3002: fields(),
    3003: fields(friends=many(ref("Friend")), next_cursor_=STRING),
    3004: fields(requests=many(ref("FriendRequest")), next_cursor_=STRING),
    3005: fields(),
    3006: fields(),
    3007: fields(),
    3008: fields(users=many(fields(**_USER, since=TIME, created_at_=TIME)), next_cursor_=STRING),
    3009: fields(),
    4001: fields(group_id=STRING, conversation_id=STRING, failed_=_NOT_ADDED),
    4002: fields(group=ref("Group")),
    4003: fields(),
    4004: fields(),
    4005: fields(added=many(STRING), failed=_NOT_ADDED),
    4006: fields(removed=many(STRING)),
    4007: fields(),
    4008: fields(members=many(ref("GroupMember")), next_cursor_=STRING),
    4009: fields(),
    4010: fields(muted_until=TIME),
    4011: fields(groups=many(ref("Group")), next_cursor_=STRING),
    4012: {"anyOf": [fields(joined=BOOLEAN), fields(request_id=STRING)]},
    4013: fields(),
    5002: fields(),
    5009: fields(sessions=INTEGER),
    5010: fields(),
    5011: fields(),
}

_WHERE = [
    {"required": ["to"], "properties": {"to": STRING}},
    {"required": ["conversation_id"], "properties": {"conversation_id": STRING}},
]
_IS_TEXT: Schema = {"properties": {"type": {"const": "text"}}}
#: request class -> what its fields must be together, beyond what each must be for itself.
TOGETHER: Mapping[str, Schema] = {
    "Send": {
        "anyOf": _WHERE,
        "if": _IS_TEXT,
        "then": {"properties": {"body": STRING}},
    },
    "Typing": {"anyOf": _WHERE},
    "Notify": {
        "oneOf": [
            {"required": ["user_ids"], "properties": {"user_ids": {"type": "array"}}},
            {"required": ["group_id"], "properties": {"group_id": STRING}},
            {"required": ["all"], "properties": {"all": {"const": True}}},
        ]
    },
    "PushAck": {
        "anyOf": [
            {"required": ["conversation_id", "seq"], "properties": {"conversation_id": STRING, "seq": INTEGER}},
            {"required": ["acks"], "properties": {"acks": {"type": "object", "maxProperties": 500}}},
        ]
    },
}
#: request class -> bounds that are checked elsewhere, by field.
BOUNDS: Mapping[str, Mapping[str, Schema]] = {
    "CreateGroup": {"members": {"maxItems": 500, "examples": [["bob"]]}},
    "AddMembers": {"user_ids": {"maxItems": 500}},
    "RemoveMembers": {"user_ids": {"maxItems": 500}},
    "Notify": {"user_ids": {"maxItems": 500}},
    "GetPresence": {"user_ids": {"maxItems": 500}},
    "GetUser": {"user_ids": {"maxItems": 500}},
    "WatchPresence": {"user_ids": {"maxItems": 500}},
    "SendBatch": {
        "messages": {
            "maxItems": 100,
            "description": "bodies of SEND",
            "examples": [[{"to": "bob", "client_id": "batch-1", "body": "one"}]],
        }
    },
}
