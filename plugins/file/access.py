"""Who may read a file: its owner, and the members of every conversation that holds it.

A conversation comes to hold a file by a message that names it, whose sender could read it: so a file spreads by those who
have it and by nobody who merely knows or guesses its id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define

from imserver.plugin import Conflict, Conversation, InvalidBody, NotLoaded, PermissionDenied, load_all, parties_of
from imserver_plugins.file import store
from imserver_plugins.file.state import State
from imserver_plugins.file.storage import FILE_ID
from imserver_plugins.file.store import FINISHED, File

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Draft

#: Types of messages whose body names a file, and those where it may.
_OF_FILES = frozenset({"image", "file", "audio", "video"})
_MAY_NAME = _OF_FILES | {"custom"}

#: Conversations that hold one file: each is looked through for who asks. A file that goes further is uploaded again.
MAX_HOLDERS = 256
#: Groups that one look brings into memory; a message's handler may look a few times.
_LOAD_AT_ONCE = 64


@define
class Known:
    """What the cache has of a file, from committed data. `file` None: there is none."""

    file: File | None
    holders: frozenset[str]
    #: It was refused by this: the next time what is on disk is looked at again, for the file may be held by more since.
    is_used: bool = False


def check_and_hold(state: State, ctx: AppContext, draft: Draft) -> None:
    """`before_send`: the message may name a file that its sender may read, and its conversation then holds it.

    The note of that is in the same commit as the message.

    Raises:
        PermissionDenied: the sender may not read it, or there is no such file.
        Conflict: it is not finished, or held by too many conversations.
        InvalidBody: the `file_id` is no string.
        NotLoaded: for the router.
    """
    file_id = named_file(draft.type, draft.body)
    if file_id is None:
        return
    known = _known(ctx, file_id)
    if known.file is None or not _may_read_now(ctx, known, draft.sender, draft.conversation_id):
        if known.is_used:
            ctx.cache.pop(file_id)
            _known(ctx, file_id)  # raises NotLoaded
        known.is_used = True
        raise _refusal()
    if known.file.state != FINISHED:
        raise Conflict("the upload of this file is not finished", field="body")
    if draft.conversation_id not in known.holders and len(known.holders) >= MAX_HOLDERS:
        raise Conflict(f"{MAX_HOLDERS} conversations hold this file already; upload it again", field="body")
    ctx.db.write_all(store.hold(file_id, draft.conversation_id, ctx.clock.now_ms()))
    # Now the journal is this handler's up to its end. Who removes a file marks it first and writes then, so either the mark
    # is seen here, or what was just written is found by that write.
    if file_id in state.dying:
        raise _refusal()


def named_file(message_type: str, body: Any) -> str | None:
    """The id of the file that a message names.

    Raises:
        InvalidBody: it has the wrong type.
    """
    if message_type not in _MAY_NAME or not isinstance(body, dict):
        return None
    file_id = body.get("file_id")
    if file_id is not None and not isinstance(file_id, str):
        if message_type in _OF_FILES:
            raise InvalidBody("file_id is a string: the answer to the upload has it", field="body")
        return None
    return file_id


def forget_holders(ctx: AppContext, message_type: str, body: Any) -> None:
    """`after_commit`: a file is held by one conversation more."""
    if message_type in _MAY_NAME and isinstance(body, dict) and isinstance(file_id := body.get("file_id"), str):
        ctx.cache.pop(file_id)


async def may_read(ctx: AppContext, file: File, user_id: str) -> bool:
    """Whether this user may read the file, by committed data."""
    if file.owner == user_id:
        return True
    groups = []
    for conversation_id in await store.holders(ctx.db, file.file_id):
        if not conversation_id.startswith("g:"):
            if user_id in parties_of(conversation_id):
                return True
        else:
            groups.append(conversation_id)
    for conversation_id in groups:
        if _has_member(await ctx.conversations.fetch(conversation_id), user_id):
            return True
    return False


def _known(ctx: AppContext, file_id: str) -> Known:
    """What is known of a file.

    Raises:
        PermissionDenied: it is no id at all.
        NotLoaded: it is not in memory.
    """
    if not FILE_ID.fullmatch(file_id):
        raise _refusal()

    async def load() -> Known:
        file = await store.find(ctx.db, file_id)
        return Known(file, frozenset(await store.holders(ctx.db, file_id) if file else ()))

    known = ctx.cache.load(file_id, load)
    assert isinstance(known, Known)
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
