"""The resource paths of the HTTP API: which command each stands for, and where the fields of its body come from.

A path is there if an enabled plugin provides its command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen
class Resource:
    """One path.

    Attributes:
        path: as Starlette has it; its parameters are fields of the command.
        command_id: what is carried out.
        query: the fields that may come behind the question mark; a list is written `a,b`.
        has_body: the other fields come in a JSON body.
        fixed: fields that the path itself gives.
    """

    method: str
    path: str
    command_id: int
    query: Sequence[str] = ()
    has_body: bool = False
    fixed: Mapping[str, Any] = attrs.field(factory=dict)


_PAGE = ("limit", "cursor")
_CONVERSATION = "/v1/conversations/{conversation_id}"
_MESSAGE = f"{_CONVERSATION}/messages/{{seq:int}}"
_GROUP = "/v1/groups/{group_id}"

RESOURCES = (
    # users
    Resource("POST", "/v1/users", 1001, has_body=True),
    Resource("POST", "/v1/sessions", 1002, has_body=True),
    Resource("POST", "/v1/sessions/refresh", 1004, has_body=True),
    Resource("DELETE", "/v1/sessions/current", 1005),
    Resource("DELETE", "/v1/sessions", 1005, fixed={"all": True}),
    Resource("GET", "/v1/users", 1006, query=("user_ids",)),
    Resource("PATCH", "/v1/users/me", 1007, has_body=True),
    Resource("PUT", "/v1/users/me/password", 1008, has_body=True),
    Resource("GET", "/v1/users/search", 1009, query=("query", *_PAGE)),
    Resource("GET", "/v1/devices", 1010),
    Resource("DELETE", "/v1/devices/{session_id}", 1011),
    Resource("GET", "/v1/presence", 1012, query=("user_ids",)),
    # messages
    Resource("POST", "/v1/messages", 2001, has_body=True),
    Resource("POST", "/v1/messages/batch", 2011, has_body=True),
    Resource("GET", "/v1/messages/search", 2009, query=("query", "conversation_id", "from", "since", "until", *_PAGE)),
    Resource("GET", "/v1/conversations", 2003, query=("cursor", "limit")),
    Resource("DELETE", _CONVERSATION, 2010),
    Resource("GET", f"{_CONVERSATION}/messages", 2002, query=("after_seq", "before_seq", "limit")),
    Resource("GET", f"{_CONVERSATION}/changes", 2014, query=("since_rev", "limit")),
    Resource("PUT", f"{_CONVERSATION}/read", 2004, has_body=True),
    Resource("PATCH", f"{_CONVERSATION}/settings", 2013, has_body=True),
    Resource("POST", f"{_CONVERSATION}/typing", 2008, has_body=True),
    Resource("DELETE", _MESSAGE, 2005),
    Resource("PATCH", _MESSAGE, 2006, has_body=True),
    Resource("PUT", f"{_MESSAGE}/reactions/{{emoji}}", 2007),
    Resource("DELETE", f"{_MESSAGE}/reactions/{{emoji}}", 2007, fixed={"remove": True}),
    Resource("GET", f"{_MESSAGE}/receipts", 2012),
    # friends
    Resource("POST", "/v1/friends/requests", 3001, has_body=True),
    Resource("POST", "/v1/friends/requests/{request_id}", 3002, has_body=True),
    Resource("GET", "/v1/friends", 3003, query=_PAGE),
    Resource("GET", "/v1/friends/requests", 3004, query=("direction", "state", *_PAGE)),
    Resource("DELETE", "/v1/friends/{user_id}", 3005),
    Resource("PUT", "/v1/friends/{user_id}/remark", 3009, has_body=True),
    Resource("GET", "/v1/blocked", 3008, query=_PAGE),
    Resource("PUT", "/v1/blocked/{user_id}", 3006),
    Resource("DELETE", "/v1/blocked/{user_id}", 3007),
    # groups
    Resource("POST", "/v1/groups", 4001, has_body=True),
    Resource("GET", "/v1/groups", 4011, query=_PAGE),
    Resource("GET", _GROUP, 4002),
    Resource("PATCH", _GROUP, 4003, has_body=True),
    Resource("DELETE", _GROUP, 4004),
    Resource("GET", f"{_GROUP}/members", 4008, query=_PAGE),
    Resource("POST", f"{_GROUP}/members", 4005, has_body=True),
    Resource("DELETE", f"{_GROUP}/members", 4006, has_body=True),
    Resource("DELETE", f"{_GROUP}/members/me", 4007),
    Resource("PUT", f"{_GROUP}/members/{{user_id}}/role", 4009, has_body=True),
    Resource("PUT", f"{_GROUP}/members/{{user_id}}/mute", 4010, has_body=True),
    Resource("POST", f"{_GROUP}/join", 4012, has_body=True),
    Resource("POST", "/v1/groups/requests/{request_id}", 4013, has_body=True),
)
