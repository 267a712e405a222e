"""The commands on messages."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from imserver.plugin import (
    AppContext,
    Context,
    Draft,
    ImError,
    InvalidBody,
    NotFound,
    NotLoaded,
    Plugin,
    PluginError,
    TooLarge,
    check_body,
    command,
    invalid_body,
    load_all,
    on_event,
)
from imserver_plugins.message.access import (
    conversation_for_read,
    conversation_for_send,
    others_of,
    user_of,
)
from imserver_plugins.message.composing import TYPINGS_PER_SECOND, tell_typing
from imserver_plugins.message.requests import MAX_BATCH, Changes, MarkRead, Pull, Send, SendBatch, Sync, Typing

MESSAGE, READ = 5001, 5004
_CLIENT_ID_MAX_BYTES = 64


@attrs.frozen
class Settings:
    """`[plugins.message]`

    recall_window: how long a sender may recall a message.
    require_friendship: only friends may write to each other.
    """

    recall_window_s: float = 120.0
    require_friendship: bool = False


class MessagePlugin(Plugin):
    """SEND, PULL, SYNC, MARK_READ, TYPING, SEND_BATCH and CHANGES."""

    name = "message"
    requires = ("user",)
    Settings = Settings

    async def on_start(self, ctx: AppContext) -> None:
        """Refuse to start rather than let strangers write where only friends may."""
        if ctx.settings.require_friendship and "friend" not in ctx.config.plugins.enabled:
            raise PluginError("plugins.message.require_friendship needs the plugin friend: add it to plugins.enabled")

    # ------------------------------------------------------------ writing

    @command(2001, request=Send)
    def send(self, ctx: Context, request: Send) -> dict[str, Any]:
        """Store a message and push it to every other device of every member; the answer means it is durable."""
        conversation = conversation_for_send(ctx, request.to, request.conversation_id)
        body = request.body
        if type(body) is not str:
            if request.type == "text":
                raise InvalidBody("the body of a text message is a string", field="body")
            check_body(body)
        client_id = request.client_id
        if not client_id.isascii() and len(client_id.encode()) > _CLIENT_ID_MAX_BYTES:
            raise InvalidBody(f"client_id has over {_CLIENT_ID_MAX_BYTES} bytes", field="client_id")
        draft = Draft(
            conversation.conversation_id,
            user_of(ctx),
            client_id,
            request.type,
            body,
            request.reply_to,
            request.mentions,
            request.expires_in_ms,
        )
        if not request.store:
            fleeting = ctx.messages.fleeting(draft)
            ctx.push(conversation.recipients, MESSAGE, fleeting, except_session=ctx.session)
            return {key: fleeting[key] for key in ("conversation_id", "message_id", "sent_at")}
        stored = ctx.messages.append(conversation, draft)
        answer = {
            "conversation_id": stored.conversation_id,
            "seq": stored.seq,
            "message_id": stored.message_id,
            "sent_at": stored.sent_at,
        }
        if stored.message is None:
            answer["duplicate"] = True
        else:
            ctx.push(conversation.recipients, MESSAGE, stored.message, except_session=ctx.session)
        return answer

    @command(2011, request=SendBatch)
    def send_batch(self, ctx: Context, request: SendBatch) -> dict[str, Any]:
        """Several messages in one request, sequenced in their order; each has a result of its own."""
        if len(request.messages) > MAX_BATCH:
            raise TooLarge(f"at most {MAX_BATCH} messages in one batch", field="messages")
        requests = [_checked(fields) for fields in request.messages]
        self._load_together(ctx, requests)
        ctx.session.charge(len(requests) - 1)
        results = []
        for one in requests:
            try:
                results.append({"code": 0, **self.send(ctx, one)} if isinstance(one, Send) else one.answer())
            except ImError as exc:
                results.append(exc.answer())
        return {"results": results}

    @staticmethod
    def _load_together(ctx: Context, requests: list[Send | ImError]) -> None:
        """Ask for all that is not in memory at once: a handler may ask a few times only."""
        wanted: list[NotLoaded] = []
        for one in requests:
            if isinstance(one, Send):
                try:
                    conversation = conversation_for_send(ctx, one.to, one.conversation_id)
                    ctx.messages.check(Draft(conversation.conversation_id, user_of(ctx), one.client_id, one.type, one.body))
                except NotLoaded as exc:
                    wanted.append(exc)
                except ImError:
                    continue  # its own turn tells
        if wanted:
            raise NotLoaded(lambda: load_all(wanted), tuple(exc.key for exc in wanted))

    @command(2004, request=MarkRead)
    def mark_read(self, ctx: Context, request: MarkRead) -> dict[str, Any]:
        """Move the read cursor; the user's other devices and a direct peer are told."""
        conversation = ctx.conversations.require(request.conversation_id)
        member = conversation_for_read(ctx, conversation, request.conversation_id)
        if conversation is None or member is None:
            raise NotFound("this conversation has no messages yet", field="conversation_id")
        if ctx.conversations.mark_read(conversation, member, request.seq):
            told = [member.user_id]
            if conversation.kind == "direct":
                told += others_of(ctx, conversation, member.user_id)
            read = {
                "conversation_id": conversation.conversation_id,
                "user_id": member.user_id,
                "seq": member.read_seq,
            }
            ctx.push(told, READ, read, except_session=ctx.session)
        return {"unread": conversation.unread(member)}

    @command(2008, request=Typing, stateless=True, per_second=TYPINGS_PER_SECOND)
    def typing(self, ctx: Context, request: Typing) -> dict[str, Any]:
        """Tell the other members that this user types, or has stopped. Nothing is stored."""
        conversation = conversation_for_send(ctx, request.to, request.conversation_id)
        ctx.messages.check(Draft(conversation.conversation_id, user_of(ctx), "typing", "typing", None))
        tell_typing(ctx, conversation, on=request.on)
        return {}

    @on_event("user.created")
    def user_created(self, ctx: AppContext, *, user_id: str) -> None:
        """What is remembered of a user who did not exist is wrong now."""
        ctx.cache.pop(("user", user_id))

    # ------------------------------------------------------------ reading

    @command(2002, request=Pull)
    async def pull(self, ctx: Context, request: Pull) -> dict[str, Any]:
        """A page of a conversation, ascending by `seq`; without bounds the newest."""
        found = await ctx.conversations.fetch(request.conversation_id)
        member = conversation_for_read(ctx, found, request.conversation_id)
        if member is None:
            return {"messages": [], "first_seq": 0, "last_seq": 0}
        page = await ctx.messages.history(
            request.conversation_id,
            first_visible=member.first_visible,
            after_seq=request.after_seq,
            before_seq=request.before_seq,
            limit=request.limit,
        )
        return {"messages": page.messages, "first_seq": page.first_seq, "last_seq": page.last_seq}

    @command(2003, request=Sync)
    async def sync(self, ctx: Context, request: Sync) -> dict[str, Any]:
        """The conversations that changed since the cursor, oldest change first; without a cursor all."""
        user_id = user_of(ctx)
        cursor = _cursor(request.cursor)
        rows, more = await ctx.conversations.sync(user_id, cursor, request.limit)
        conversations = []
        for row in rows:
            entry: dict[str, Any] = {
                "conversation_id": row.conversation_id,
                "last_seq": row.last_seq,
                "last_rev": row.last_rev,
                "read_seq": row.read_seq,
                "delivered_seq": row.delivered_seq,
                "unread": row.unread,
                "last_message": row.last_message,
            }
            if row.kind == "direct":
                first, second = row.conversation_id[2:].split(":")
                entry["peer"] = second if first == user_id else first
            else:
                entry["group"] = row.conversation_id[2:]
            conversations.append(entry)
        next_cursor = rows[-1].change if rows else cursor
        return {"conversations": conversations, "next_cursor": f"{next_cursor:x}", "more": more}

    @command(2014, request=Changes)
    async def changes(self, ctx: Context, request: Changes) -> dict[str, Any]:
        """The present state of what changed after `since_rev`, in `rev` order."""
        found = await ctx.conversations.fetch(request.conversation_id)
        member = conversation_for_read(ctx, found, request.conversation_id)
        if member is None:
            return {"messages": [], "last_rev": 0, "more": False}
        messages, last_rev = await ctx.messages.changes(
            request.conversation_id,
            first_visible=member.first_visible,
            since_rev=request.since_rev,
            limit=request.limit + 1,
        )
        more = len(messages) > request.limit
        return {"messages": messages[: request.limit], "last_rev": last_rev, "more": more}


def _checked(fields: dict[str, Any]) -> Send | ImError:
    """One message of a batch, or why it is none."""
    try:
        return msgspec.convert(fields, Send)
    except msgspec.ValidationError as exc:
        return invalid_body(exc)


def _cursor(text: str | None) -> int:
    """The change number in a cursor; clients treat it as opaque. Empty or absent: from the beginning."""
    if not text:
        return 0
    try:
        return int(text, 16)
    except ValueError:
        raise InvalidBody("this is no cursor of this server; SYNC without one", field="cursor") from None


__all__ = ["MessagePlugin"]
