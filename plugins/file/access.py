"""Who may read a file: its owner, and the members of every conversation that holds it.

A conversation comes to hold a file by a message that names it, whose sender could read it: so a file spreads by those who
have it and by nobody who merely knows or guesses its id. It holds it as long as one of its messages names it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import define

from imserver.plugin import (
    Conflict,
    Conversation,
    InvalidBody,
    NotLoaded,
    PermissionDenied,
    StorageError,
    load_all,
    parties_of,
)
from imserver_plugins.file import store
from imserver_plugins.file.state import State
from imserver_plugins.file.storage import FILE_ID
from imserver_plugins.file.store import FINISHED, MAY_NAME, OF_FILES, File

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Draft

#: A file as a message names it without saying that it does.
_PATH_OR_ID: Final = re.compile(rf"(?:/v1/files/)?({FILE_ID.pattern})")
#: Conversations that hold one file: each is looked through for who asks. A file that goes further is uploaded again.
MAX_HOLDERS = 256
#: Groups that one look brings into memory; a message's handler may look a few times.
_LOAD_AT_ONCE = 64
#: How long is believed what the cache has of a file. A hold that ends by itself (a message's time is over) tells nobody.
_KNOWN_FOR_S: Final = 10.0
#: The same where it speaks against somebody: the file may be held by more since.
_REFUSED_FOR_S: Final = 1.0


@define
class Known:
    """What the cache has of a file, from committed data. `file` None: there is none."""

    file: File | None
    holders: frozenset[str]
    #: By the monotonic clock.
    since_s: float


def check_and_hold(state: State, ctx: AppContext, draft: Draft) -> None:
    """`before_send`: the message may name a file that its sender may read, and its conversation then holds it.

    The note of that is in the same commit as the message, and made only if the message is in it (a hook runs also for what
    is a duplicate, is refused behind it, or is never stored). For an EDIT, whose place is not known here, `edited` makes it.

    Raises:
        PermissionDenied: the sender may not read it, or there is no such file.
        Conflict: it is not finished, or held by too many conversations.
        InvalidBody: the `file_id` is no string.
        NotLoaded: for the router.
    """
    file_id = named_file(draft.type, draft.body)
    if file_id is None:
        return
    known = _known(ctx, file_id, _KNOWN_FOR_S)
    if not _may_read_now(ctx, known, draft.sender, draft.conversation_id):
        known = _known(ctx, file_id, _REFUSED_FOR_S)
        if not _may_read_now(ctx, known, draft.sender, draft.conversation_id):
            raise _refusal()
    assert known.file is not None
    if known.file.state != FINISHED:
        raise Conflict("the upload of this file is not finished", field="body")
    if draft.conversation_id not in known.holders and len(known.holders) >= MAX_HOLDERS:
        raise Conflict(f"{MAX_HOLDERS} conversations hold this file already; upload it again", field="body")
    # An append holds the journal's lock already, so this is the message's place if it gets one.
    conversation = ctx.conversations.require(draft.conversation_id)
    if conversation is None:
        return  # then no message comes of this
    ctx.db.write_all(store.hold(file_id, draft.conversation_id, conversation.last_seq + 1, ctx.clock.now_ms()))
    # Now the journal is this handler's up to its end. Who removes a file marks it first and writes then, so either the mark
    # is seen here, or what was just written is found by that write.
    if file_id in state.dying:
        raise _refusal()


def named_file(message_type: str, body: Any) -> str | None:
    """The id of the file that a message names.

    Raises:
        InvalidBody: it has the wrong type.
    """
    if message_type not in MAY_NAME:
        return None
    if message_type in OF_FILES and isinstance(body, dict) and not isinstance(body.get("file_id", ""), str | None):
        raise InvalidBody("file_id is a string: the answer to the upload has it", field="body")
    return _id_in(message_type, body)


def _id_in(message_type: str, body: Any) -> str | None:
    """By `file_id`; where the type says that it is a file also by its path as `url`, or as nothing but an id or a path."""
    if message_type not in OF_FILES:
        file_id = body.get("file_id") if isinstance(body, dict) and message_type in MAY_NAME else None
        return file_id if isinstance(file_id, str) else None
    if isinstance(body, dict):
        file_id = body.get("file_id")
        if file_id is not None:
            return file_id if isinstance(file_id, str) else None
        body = body.get("url")
    found = _PATH_OR_ID.fullmatch(body) if isinstance(body, str) else None
    return None if found is None else found[1]


def forget_holders(ctx: AppContext, message_type: str, body: Any) -> None:
    """`after_commit`: a file is held by one conversation more."""
    if (file_id := _id_in(message_type, body)) is not None:
        ctx.cache.pop(file_id)


def recalled(state: State, ctx: AppContext, conversation_id: str, seq: int) -> None:
    """`message.recalled`: in the commit of that the message's hold ends; files that nobody holds get their time."""
    statements = store.release(conversation_id, seq, kept=None, expires_at=state.orphan_until(ctx.clock.now_ms()))
    ctx.start_soon(_forget, ctx, ctx.db.write_all(statements), None)


def edited(state: State, ctx: AppContext, conversation_id: str, seq: int, message_type: str, body: Any) -> None:
    """`message.edited`: the same for what the message named before; its conversation holds what it names now."""
    file_id = _id_in(message_type, body)
    kept = file_id if file_id is not None and FILE_ID.fullmatch(file_id) else None
    now_ms = ctx.clock.now_ms()
    statements = store.release(conversation_id, seq, kept=kept, expires_at=state.orphan_until(now_ms))
    if kept is not None:
        statements = [*store.hold(kept, conversation_id, seq, now_ms), *statements]
    ctx.start_soon(_forget, ctx, ctx.db.write_all(statements), kept)


async def _forget(ctx: AppContext, write: Awaitable[list[list[store.Row]]], held: str | None) -> None:
    """As soon as it is durable that holds have ended, who could read a file by them cannot send it on either.

    A handler that was taken back never ends its write. Should the disk take longer, the cache forgets by itself.
    """
    with trio.move_on_after(_KNOWN_FOR_S):
        try:
            *_, released = await write
        except StorageError:
            return  # its command is answered with that, and nothing has changed
        for (file_id,) in released:
            ctx.cache.pop(file_id)
        if held is not None:
            ctx.cache.pop(held)


async def may_read(ctx: AppContext, file: File, user_id: str) -> bool:
    """Whether this user may read the file, by committed data."""
    if file.owner == user_id:
        return True
    groups = []
    for conversation_id in await store.holders(ctx.db, file.file_id, ctx.clock.now_ms()):
        if not conversation_id.startswith("g:"):
            if user_id in parties_of(conversation_id):
                return True
        else:
            groups.append(conversation_id)
    for conversation_id in groups:
        if _has_member(await ctx.conversations.fetch(conversation_id), user_id):
            return True
    return False


def _known(ctx: AppContext, file_id: str, at_most_s: float) -> Known:
    """What is known of a file, since so many seconds at most.

    Raises:
        PermissionDenied: it is no id at all.
        NotLoaded: it is not in memory.
    """
    if not FILE_ID.fullmatch(file_id):
        raise _refusal()

    async def load() -> Known:
        file = await store.find(ctx.db, file_id)
        held = frozenset(await store.holders(ctx.db, file_id, ctx.clock.now_ms()) if file else ())
        return Known(file, held, ctx.clock.monotonic())

    known: Known = ctx.cache.load(file_id, load)
    if known.since_s < ctx.clock.monotonic() - at_most_s:
        ctx.cache.pop(file_id)
        known = ctx.cache.load(file_id, load)  # another shard may have been quicker
    return known


def _may_read_now(ctx: AppContext, known: Known, user_id: str, conversation_id: str) -> bool:
    """As `may_read`, for a `def` handler. The sender is a member of the conversation that the message goes to."""
    if known.file is None:
        return False
    if known.file.owner == user_id or conversation_id in known.holders:
        return True
    wanted: list[NotLoaded] = []
    for holder in known.holders:
        try:
            if not holder.startswith("g:"):
                is_member = user_id in parties_of(holder)
            else:
                is_member = _has_member(ctx.conversations.require(holder), user_id)
        except NotLoaded as exc:
            wanted.append(exc)
        else:
            if is_member:
                return True
    if wanted:
        some = wanted[:_LOAD_AT_ONCE]
        raise NotLoaded(lambda: load_all(some), tuple(exc.key for exc in some))
    return False


def _has_member(conversation: Conversation | None, user_id: str) -> bool:
    return conversation is not None and user_id in conversation.members


def _refusal() -> PermissionDenied:
    return PermissionDenied("there is no such file, or you may not read it", field="body")
