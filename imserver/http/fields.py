"""What the fields of requests and answers mean, by their names, for /openapi.json.

A schema that has a description of its own keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: name -> (description, an example or None)
FIELDS: Mapping[str, tuple[str, Any]] = {
    "accept": ("true: yes", True),
    "acks": ("conversation_id: seq, for several conversations at once", {"d:alice:bob": 7}),
    "address": ("IP address that the session was opened from", "192.0.2.7"),
    "after_seq": ("only messages above this seq, the oldest of them first to come", 0),
    "all": ("every session of the user, not only this one", True),
    "announcement": ("what the members of a group are told; null takes it away", "We meet at noon."),
    "avatar": ("where a picture of the user is: a URL or a file id of your own making; null takes it away", "cat.png"),
    "before_seq": ("only messages below this seq, the newest of them", 100),
    "bio": ("some words about oneself; null takes them away", "I like trains."),
    "body": ("the message: a string where the type is text, any JSON value otherwise", "Hello, Bob!"),
    "client": ("name of the client program", "my-bot"),
    "client_id": (
        "the idempotency key: the same again gets the first message's answer; may come as the header Idempotency-Key",
        "order-4711",
    ),
    "compress": ("for connections: bodies above 1 KiB may be compressed; no meaning over HTTP", False),
    "conversation_id": (
        "`d:` and the two user ids in byte order, joined by `:`; or `g:` and the group id",
        "d:alice:bob",
    ),
    "conversations": ("those that changed, the oldest change first", None),
    "cursor": ("next_cursor of the page before; without it the first page", None),
    "deliver": ("for connections: what a device missed first, or only what is new; no meaning over HTTP", "new"),
    "delivered_seq": ("what this device has confirmed; without a device the most that any of the user's has", 7),
    "device_id": ("the id of the device, kept by it; made up where it is left out", "alice-phone"),
    "direction": ("in: those that one was sent; out: those that one has sent", "in"),
    "duplicate": ("this client_id was seen before: here is the first message's answer", True),
    "duration_ms": ("for so long; 0 lifts it", 600000),
    "emoji": ("1 to 32 characters without spaces", "👍"),
    "encoding": ("for connections: in what pushes come; no meaning over HTTP", "json"),
    "expires_in_ms": ("after so many milliseconds the message is deleted", 86400000),
    "first_seq": ("the lowest seq that this user can see", 1),
    "from": ("user id of the sender", "alice"),
    "group": ("group id, where the conversation is a group's", "trains"),
    "group_id": ("1 to 64 characters out of A–Z a–z 0–9 _ - . @", "trains"),
    "heartbeat_ms": ("so often a connection shows that it is alive", 30000),
    "history": ("joined: new members see what comes; all: also what was before", "joined"),
    "join": ("who may come in: everybody (open), whom an admin lets in (approval), whom a member adds (invite)", "invite"),
    "last_message": ("the newest message; null where there is none", None),
    "last_rev": ("the highest rev of the conversation", 7),
    "last_seen": ("who may see when one was last online", "everyone"),
    "last_seq": ("the highest seq of the conversation", 7),
    "limit": ("how many at most", 50),
    "max_frame": ("bytes that one request may have", 1048576),
    "members": ("of a group; in a request at most 500 user ids, without one's own", None),
    "mentions": ("user ids that the message mentions", ["bob"]),
    "message": ("a word to the one who is asked", "We met on the train."),
    "message_id": ("16 hex digits, unique everywhere, sortable by time", "054edd42c6400000"),
    "more": ("there is more behind next_cursor or last_rev", False),
    "muted": ("of a conversation: one's devices make no noise; of a group: only its owner and admins write", True),
    "name": ("of a group, as its members see it", "Trains"),
    "new_password": ("8 to 1024 bytes; not one of those that guessers try first", "staple tomorrow 9 river"),
    "next_cursor": ("gives the next page; absent at the end", None),
    "nickname": ("what others see", "Alice"),
    "offset": ("characters before the text: the length that the answer before has", 9),
    "old_password": ("the present one", "correct horse 7 battery"),
    "on": ("false: no longer", True),
    "online": ("connected at this moment", True),
    "password": ("8 to 1024 bytes; not one of those that guessers try first", "correct horse 7 battery"),
    "peer": ("user id of the other one, where the conversation is between two", "bob"),
    "pinned": ("on top of one's list", True),
    "platform": ("of the device, handed on as it is", "cli"),
    "platforms": ("of the devices that are online", ["cli"]),
    "query": ("what to look for", "ali"),
    "reactions": ("emoji: the users who reacted with it", {"👍": ["bob"]}),
    "read_seq": ("the user has read up to here", 7),
    "recalled": ("the sender took it back; its body is gone", True),
    "refresh_token": ("for REFRESH, once: each use gives another", None),
    "remark": ("one's own name for a friend", "Bob from work"),
    "remove": ("true: take it back", False),
    "reply_to": ("seq of the message that this one answers", 3),
    "request_id": ("of a request that LIST_FRIEND_REQUESTS shows, or GET_GROUP", None),
    "rev": ("rises with every change of the conversation; of a message, its last change's", 7),
    "role": ("owner hands the group over", "admin"),
    "seq": ("the message's place in its conversation: 1, 2, 3 … without gaps", 7),
    "server": ("program and version", "imserver/0.1.0"),
    "sessions": ("live devices that it goes to", 2),
    "session_id": ("id of a session, as LIST_DEVICES shows it", "5f0c2ab3a1b64a3c8c0b7a5be6a3d0f1"),
    "since": ("only what is not older: ms since 1970, UTC", 1767225600000),
    "since_rev": ("only what changed after this rev", 0),
    "state": ("of a request: pending, accepted or declined", "pending"),
    "store": ("false: only to devices that are online, without a seq", True),
    "stream_id": ("what STREAM_BEGIN has answered", None),
    "sync": ("a cursor of SYNC, or an empty string: the answer then has SYNC's answer", None),
    "text": ("what is added", "and then "),
    "to": ("user id; the conversation between the two is made by the first message", "bob"),
    "token": ("the bearer token of later requests; or, in AUTH, the token that is shown", None),
    "type": ("what kind of message: text, image, file, audio, video, location, card, custom, or your own", "text"),
    "unread": ("messages of others that this user has not read", 0),
    "until": ("only what is older: ms since 1970, UTC", 1767225600000),
    "unwatch": ("true: no longer", False),
    "user_id": ("1 to 64 characters out of A–Z a–z 0–9 _ - . @", "alice"),
    "user_ids": ("at most 500", ["alice", "bob"]),
    "version": ("of the client program", "1.0"),
}

#: `\A` and `\Z` are Python's; a schema has the regular expressions of ECMA 262.
_ANCHORS = {r"\A": "^", r"\Z": "$"}
#: What stands behind these is no schema.
_VALUES = frozenset({"const", "default", "enum", "example", "examples"})


def explain(schema: Any) -> Any:
    """The same schema with descriptions and examples at its properties, and regular expressions as schemas have them."""
    if isinstance(schema, list):
        return [explain(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    explained = {key: value if key in _VALUES else explain(value) for key, value in schema.items()}
    pattern = explained.get("pattern")
    if isinstance(pattern, str):
        explained["pattern"] = re.sub(r"\\[AZ]", lambda found: _ANCHORS[found[0]], pattern)
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        explained["properties"] = dict(_explained(properties))
    return explained


def _explained(properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, plain in properties.items():
        schema = explain(plain)
        known = FIELDS.get(name)
        if known is not None and isinstance(schema, dict) and not schema.keys() & {"const", "description"}:
            description, example = known
            schema["description"] = description
            if example is not None and _may_be(schema, example):
                schema.setdefault("examples", [example])
        yield name, schema


_TYPES = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}


def _may_be(schema: Mapping[str, Any], example: object) -> bool:
    """Whether an example is of the type that a schema wants; what wants no type takes any."""
    types = [one.get("type") for one in (schema, *schema.get("anyOf", ()))]
    return "$ref" not in schema and (_TYPES[type(example)] in types or not any((*types, schema.get("anyOf"))))
