"""NOTIFY: word from the server's owner to live devices; nothing of it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from attrs import frozen

from imserver.plugin import (
    InvalidBody,
    NotFound,
    TooLarge,
    check_body,
)
from imserver_plugins.push.requests import MAX_NOTICE_BYTES, MAX_NOTIFIED, Notify

if TYPE_CHECKING:
    from imserver.plugin import Context

NOTIFY = 5009


@frozen
class Notification:
    """5009"""

    topic: str
    body: Any


def notify(ctx: Context, request: Notify) -> dict[str, Any]:
    """Push it to all live devices of those who are meant; says how many that were."""
    check_body(request.body)
    if len(msgspec.msgpack.encode(request.body)) > MAX_NOTICE_BYTES:
        raise TooLarge(f"the body has {MAX_NOTICE_BYTES} bytes at most", field="body")
    user_ids = _recipients(ctx, request)
    ctx.push(user_ids, NOTIFY, Notification(request.topic, request.body))
    return {"sessions": sum(len(ctx.directory.sessions(user_id)) for user_id in user_ids)}


def _recipients(ctx: Context, request: Notify) -> Sequence[str]:
    targets = (request.user_ids is not None) + (request.group_id is not None) + request.all
    if targets != 1:
        raise InvalidBody("give one of user_ids, group_id and all", field="user_ids")
    if request.all:
        return list(ctx.directory.by_user)
    if request.user_ids is not None:
        if len(request.user_ids) > MAX_NOTIFIED:
            raise TooLarge(f"at most {MAX_NOTIFIED} users in one NOTIFY", field="user_ids")
        return list(dict.fromkeys(request.user_ids))
    conversation = ctx.conversations.require(f"g:{request.group_id}")
    if conversation is None or not conversation.members:
        raise NotFound("there is no such group", field="group_id")
    return conversation.recipients
