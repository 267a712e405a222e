"""The requests of this plugin, and their bounds."""

from __future__ import annotations

from typing import Annotated, Any

from imserver.plugin import ConversationId, GroupId, Meta, Struct, UserId

MAX_ACKS = 500
MAX_NOTIFIED = 500
MAX_NOTICE_BYTES = 16 * 1024

Seq = Annotated[int, Meta(ge=0, le=2**62)]
ProviderName = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,31}\Z")]
App = Annotated[str, Meta(max_length=255, pattern=r"\A[A-Za-z0-9._:-]*\Z")]
PushToken = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"\A[!-~]+\Z")]


class PushAck(Struct, kw_only=True):
    """5002: one conversation, or several."""

    conversation_id: ConversationId | None = None
    seq: Seq | None = None
    acks: dict[ConversationId, Seq] | None = None


class Notify(Struct, kw_only=True):
    """5009: one of the last three says to whom."""

    topic: Annotated[str, Meta(min_length=1, max_length=128, description="what it is about, for the client program")]
    body: Annotated[Any, Meta(description="any value; 16 KiB at most")]
    user_ids: list[UserId] | None = None
    group_id: GroupId | None = None
    all: Annotated[bool, Meta(description="true: to everybody who is there")] = False


class SetPushToken(Struct, kw_only=True):
    """5010: `app` tells apart the apps of one provider: the topic of APNs."""

    provider: Annotated[ProviderName, Meta(description="by which service: apns, fcm, http, or a plugin's")]
    token: Annotated[PushToken, Meta(description="of the device, as that service has given it")]
    app: Annotated[App, Meta(description="which app it is, where there are several: a bundle id of APNs")] = ""


class RemovePushToken(Struct, kw_only=True):
    """5011: without a token what this device has registered."""

    token: Annotated[PushToken | None, Meta(description="of a device of the user's; without it: of this one")] = None
