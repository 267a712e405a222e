"""The commands on messages."""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec

from imserver.plugin import (
    AppContext,
    Context,
    Conversation,
    Draft,
    ImError,
    InvalidBody,
    NotFound,
    NotLoaded,
    PermissionDenied,
    Plugin,
    PluginError,
    Stored,
    TooLarge,
    command,
    invalid_body,
    load_all,
    on_event,
)
from imserver_plugins.message import changing, hiding, keeping, preferences
from imserver_plugins.message.access import conversation_for_send, read_as_member, user_of
from imserver_plugins.message.composing import TYPINGS_PER_SECOND, tell_typing
from imserver_plugins.message.requests import (
    MAX_BATCH,
    MAX_MENTIONS,
    Changes,
    ConversationSettings,
    DeleteConversation,
    Edit,
    MarkRead,
    Pull,
    React,
    Recall,
    Receipts,
    Send,
    SendBatch,
    Sync,
    Typing,
)

MESSAGE, READ = 5001, 5004
#: A change number: 63 bits.
_CURSOR = re.compile("[0-7]?[0-9a-f]{1,15}")
_CLIENT_ID_MAX_BYTES = 64
_NO_TYPES = frozenset({changing.REACTION, changing.TYPING})
#: Names in an answer to RECEIPTS; the counts go on beyond.
MAX_READERS = 10_000


@attrs.frozen
class Settings:
    """`[plugins.message]`

    recall_window: how long a sender may recall a message.
    require_friendship: only friends may write to each other.
    keep_direct, keep_group: how long messages of this kind of conversation are kept; 0: for good.
    """

    recall_window_s: float = 120.0
    require_friendship: bool = False
    keep_direct_s: float = 0.0
    keep_group_s: float = 0.0


class MessagePlugin(Plugin):
    """What is sent, read, changed and kept."""

    name = "message"
    requires = ("user",)
    Settings = Settings

    async def on_start(self, ctx: AppContext) -> None:
        """Refuse to start rather than let strangers write where only friends may; begin to delete what is over."""
        if ctx.settings.require_friendship and "friend" not in ctx.config.plugins.enabled:
            raise PluginError("plugins.message.require_friendship needs the plugin friend: add it to plugins.enabled")
        ctx.start_soon(keeping.delete_expired, ctx)
        for kind, keep_s in (("direct", ctx.settings.keep_direct_s), ("group", ctx.settings.keep_group_s)):
            if keep_s:
                ctx.start_soon(keeping.delete_older, ctx, kind, keep_s)

    # ------------------------------------------------------------ writing

    @command(2001, request=Send)
    def send(self, ctx: Context, request: Send) -> dict[str, Any]:
        """Store a message and push it to every other device of every member; the answer means it is durable."""
        if type(request.body) is not str:
            changing.check_content(request.type, request.body)
        client_id = request.client_id
        if not client_id.isascii() and len(client_id.encode()) > _CLIENT_ID_MAX_BYTES:
            raise InvalidBody(f"client_id has over {_CLIENT_ID_MAX_BYTES} bytes", field="client_id")
        if not request.store:
            return self._send_fleeting(ctx, request)
        try:
            conversation = conversation_for_send(ctx, request.to, request.conversation_id)
            draft = _draft(ctx, conversation.conversation_id, request)
            if request.reply_to is not None:
                _check_reply(ctx, conversation, request.reply_to)
        except (PermissionDenied, NotFound):
            known = _accepted_before(ctx, request)
            if known is None:
                raise
            return _answer_of(known)
        stored = ctx.messages.append(conversation, draft)
        if stored.message is not None:
            ctx.push(conversation.recipients, MESSAGE, stored.message, except_session=ctx.session)
        return _answer_of(stored)

    @staticmethod
    def _send_fleeting(ctx: Context, request: Send) -> dict[str, Any]:
        """A message to those who are there, which nobody keeps."""
        ctx.conversations.hold()
        conversation = conversation_for_send(ctx, request.to, request.conversation_id)
        draft = _draft(ctx, conversation.conversation_id, request)
        if request.reply_to is not None:
            _check_reply(ctx, conversation, request.reply_to)
        fleeting = ctx.messages.fleeting(draft)
        ctx.push(conversation.recipients, MESSAGE, fleeting, except_session=ctx.session)
        return {key: fleeting[key] for key in ("conversation_id", "message_id", "sent_at")}

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
                    ctx.messages.check(_draft(ctx, conversation.conversation_id, one))
                except NotLoaded as exc:
                    wanted.append(exc)
                except ImError:
                    continue  # its own turn tells
        if wanted:
            raise NotLoaded(lambda: load_all(wanted), tuple(exc.key for exc in wanted))

    @command(2004, request=MarkRead)
    def mark_read(self, ctx: Context, request: MarkRead) -> dict[str, Any]:
        """Move the read cursor; the user's other devices and a direct peer are told."""
        conversation, member = preferences.own_conversation(ctx, request.conversation_id)
        told = [member.user_id]
        if conversation.kind == "direct":
            told += hiding.told_of(ctx, conversation, member.user_id)
        if ctx.conversations.mark_read(conversation, member, request.seq):
            read = {
                "conversation_id": conversation.conversation_id,
                "user_id": member.user_id,
                "seq": member.read_seq,
            }
            ctx.push(told, READ, read, except_session=ctx.session)
        return {"unread": conversation.unread(member)}

    # ------------------------------------------------------------ changing

    @command(2005, request=Recall)
    async def recall(self, ctx: Context, request: Recall) -> dict[str, Any]:
        """Take a message's content away for everybody."""
        return await changing.recall(ctx, request, ctx.settings.recall_window_s)

    @command(2006, request=Edit)
    def edit(self, ctx: Context, request: Edit) -> dict[str, Any]:
        """Give one's own message another body."""
        return changing.edit(ctx, request)

    @command(2007, request=React)
    def react(self, ctx: Context, request: React) -> dict[str, Any]:
        """Add one's reaction to a message, or take it back."""
        draft = Draft(request.conversation_id, user_of(ctx), "reaction", changing.REACTION, request.emoji)
        return changing.react(ctx, request, draft)

    # ------------------------------------------------------------ for oneself

    @command(2010, request=DeleteConversation)
    def delete_conversation(self, ctx: Context, request: DeleteConversation) -> dict[str, Any]:
        """Hide a conversation and its past from oneself alone."""
        return preferences.hide(ctx, request.conversation_id)

    @command(2013, request=ConversationSettings)
    def conversation_settings(self, ctx: Context, request: ConversationSettings) -> dict[str, Any]:
        """Mute or pin a conversation for oneself; answers with both settings."""
        return preferences.set_settings(ctx, request)

    @command(2008, request=Typing, stateless=True, per_second=TYPINGS_PER_SECOND)
    def typing(self, ctx: Context, request: Typing) -> dict[str, Any]:
        """Tell the other members that this user types, or has stopped. Nothing is stored."""
        conversation = conversation_for_send(ctx, request.to, request.conversation_id)
        ctx.messages.check(Draft(conversation.conversation_id, user_of(ctx), "typing", changing.TYPING, None))
        tell_typing(ctx, conversation, on=request.on)
        return {}

    @on_event("user.created")
    def user_created(self, ctx: AppContext, *, user_id: str) -> None:
        """What is remembered of a user who did not exist is wrong now."""
        ctx.cache.pop(("user", user_id))

    @on_event("user.hidden")
    def user_hidden(self, ctx: AppContext, *, user_id: str, reader: str) -> None:
        """From now on the other one learns nothing of what this user reads and types."""
        hiding.forget(ctx, user_id, reader)

    @on_event("user.shown")
    def user_shown(self, ctx: AppContext, *, user_id: str, reader: str) -> None:
        """The other one learns it again."""
        hiding.forget(ctx, user_id, reader)

    # ------------------------------------------------------------ reading

    @command(2012, request=Receipts)
    def receipts(self, ctx: Context, request: Receipts) -> dict[str, Any]:
        """Who has read a message, and how many have not."""
        conversation, message = changing.visible_message(ctx, request.conversation_id, request.seq)
        read, unread_count = ctx.conversations.readers(conversation, request.seq, message.sender)
        if conversation.kind == "direct":
            me = user_of(ctx)
            shown = [reader for reader in read if reader == me or not hiding.hides(ctx, reader, me)]
            read, unread_count = shown, unread_count + len(read) - len(shown)
        return {"read": read[:MAX_READERS], "read_count": len(read), "unread_count": unread_count}

    @command(2002, request=Pull, bulk=True)
    async def pull(self, ctx: Context, request: Pull) -> dict[str, Any]:
        """A page of a conversation, ascending by `seq`; without bounds the newest."""
        page = await read_as_member(
            ctx,
            request.conversation_id,
            lambda first_visible: ctx.messages.history(
                request.conversation_id,
                first_visible=first_visible,
                after_seq=request.after_seq,
                before_seq=request.before_seq,
                limit=request.limit,
            ),
        )
        if page is None:
            return {"messages": [], "first_seq": 0, "last_seq": 0}
        return {"messages": page.messages, "first_seq": page.first_seq, "last_seq": page.last_seq}

    @command(2003, request=Sync, bulk=True)
    async def sync(self, ctx: Context, request: Sync) -> dict[str, Any]:
        """The conversations that changed since the cursor, oldest change first; without a cursor all."""
        user_id = user_of(ctx)
        cursor = _cursor(request.cursor)
        # Another device's confirmations are no reason to keep anything from this one.
        device_id = ctx.session.device_id if ctx.session.has_own_device else None
        rows, more = await ctx.conversations.sync(user_id, cursor, request.limit, device_id=device_id)
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
            for name, is_so in (
                ("muted", row.muted),
                ("pinned", row.pinned),
                ("left", row.is_left),
                ("hidden", row.is_hidden),
            ):
                if is_so:
                    entry[name] = True
            conversations.append(entry)
        next_cursor = rows[-1].change if rows else cursor
        return {"conversations": conversations, "next_cursor": f"{next_cursor:x}", "more": more}

    @command(2014, request=Changes, bulk=True)
    async def changes(self, ctx: Context, request: Changes) -> dict[str, Any]:
        """The present state of what changed after `since_rev`, in `rev` order."""
        found = await read_as_member(
            ctx,
            request.conversation_id,
            lambda first_visible: ctx.messages.changes(
                request.conversation_id,
                first_visible=first_visible,
                since_rev=request.since_rev,
                limit=request.limit + 1,
            ),
        )
        if found is None:
            return {"messages": [], "last_rev": 0, "more": False}
        messages, last_rev = found
        page = messages[: request.limit]
        # A page ends by its bytes, too. What is left may be invisible: then the next page is empty, and the last.
        more = bool(page) and page[-1].rev < last_rev
        # So that a client may go on from either: the newest `rev` that it has seen, or `last_rev`.
        return {"messages": page, "last_rev": page[-1].rev if more else last_rev, "more": more}


def _draft(ctx: Context, conversation_id: str, request: Send) -> Draft:
    if request.mentions is not None and len(request.mentions) > MAX_MENTIONS:
        raise TooLarge(f"at most {MAX_MENTIONS} mentions in one message", field="mentions")
    if request.type in _NO_TYPES:
        raise InvalidBody(f"{request.type} is no type of a message: there is a command for it", field="type")
    return Draft(
        conversation_id,
        user_of(ctx),
        request.client_id,
        request.type,
        request.body,
        request.reply_to,
        request.mentions,
        request.expires_in_ms,
    )


def _accepted_before(ctx: Context, request: Send) -> Stored | None:
    """What became of a message whose sender may not send it now, if it comes again."""
    conversation_id = request.conversation_id
    conversation = None if conversation_id is None else ctx.conversations.require(conversation_id)
    if conversation is None:
        return None
    return ctx.messages.find_duplicate(conversation, _draft(ctx, conversation.conversation_id, request))


def _answer_of(stored: Stored) -> dict[str, Any]:
    answer = {
        "conversation_id": stored.conversation_id,
        "seq": stored.seq,
        "message_id": stored.message_id,
        "sent_at": stored.sent_at,
    }
    if stored.message is None:
        answer["duplicate"] = True
    return answer


def _check_reply(ctx: Context, conversation: Conversation, seq: int) -> None:
    """What is replied to must be a message that the sender has seen.

    Raises:
        NotFound: it is not.
    """
    member = conversation.members.get(user_of(ctx))
    if member is None or not member.first_visible < seq <= conversation.last_seq:
        raise NotFound("there is no such message to reply to", field="reply_to")


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
    if _CURSOR.fullmatch(text) is None:
        raise InvalidBody("this is no cursor of this server; SYNC without one", field="cursor")
    return int(text, 16)


__all__ = ["MessagePlugin"]
