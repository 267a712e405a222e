"""Who is online: GET_PRESENCE, WATCH_PRESENCE and the push 5006.

Who hides from the reader (`Plugin.hidden_from`: the friend plugin's blocks) is shown as somebody who is offline and tells
nobody when they were last seen.

watches.py knows who watches whom; a background task here looks at those whose time has come and pushes what has changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import trio
from attrs import frozen

from imserver.plugin import ImError, StorageError, TooLarge
from imserver_plugins.user import store
from imserver_plugins.user.state import State, user_of
from imserver_plugins.user.store.profiles import UserSeen
from imserver_plugins.user.watches import OFFLINE, News, Status, Watchers, status_of

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Caller, Context, Session
    from imserver_plugins.user.requests import GetPresence, WatchPresence

PRESENCE = 5006

MAX_USERS = 500  # of one request; the wire protocol's bound on lists
#: How often it is looked whether somebody's time has come.
TICK_S = 0.25
#: Pushes between which other tasks of the shard have their turn.
_SLICE = 200
#: Between two looks who hides, while nobody can say it.
RETRY_S = 1.0


# ---------------------------------------------------------------- commands


async def get_presence(state: State, ctx: Context, request: GetPresence) -> dict[str, Any]:
    """1012 GET_PRESENCE: in the order asked for; who does not exist is left out."""
    seen = await _seen(state, ctx, _bounded(request.user_ids))
    me = user_of(ctx)
    hidden = await ctx.hidden_from(me, list(seen))
    return {
        "presence": [
            _hidden(user_id) if user_id in hidden else _fields(user_id, status_of(ctx, user_id), one, me)
            for user_id, one in seen.items()
        ]
    }


async def watch_presence(state: State, ctx: Context, request: WatchPresence) -> dict[str, Any]:
    """1013 WATCH_PRESENCE: as GET_PRESENCE, and what changes is pushed until the connection ends."""
    session = ctx.connection
    user_ids = _bounded(request.user_ids)
    if request.unwatch:
        state.watches.remove(session, user_ids)
        return {"presence": []}
    seen = await _seen(state, ctx, user_ids)
    me = user_of(ctx)
    believed = None
    while believed is None:  # somebody hid, or was shown again, while we looked who does
        revision = state.watches.revision
        hidden = await ctx.hidden_from(me, list(seen))
        believed = state.watches.add(ctx, session, seen, hidden, revision)
    return {
        "presence": [
            _hidden(user_id) if user_id in hidden else _fields(user_id, status, seen[user_id], me)
            for user_id, status in believed.items()
        ]
    }


def _bounded(user_ids: Sequence[str]) -> list[str]:
    if len(user_ids) > MAX_USERS:
        raise TooLarge(f"name {MAX_USERS} users at most", field="user_ids")
    return list(dict.fromkeys(user_ids))


async def _seen(state: State, ctx: AppContext, user_ids: Sequence[str]) -> dict[str, UserSeen]:
    """When users were last seen, in this order; those who do not exist are left out."""
    if not user_ids:
        return {}
    # Looked at before the table: what is written meanwhile is in one of them.
    fresh = state.users_seen.peek(user_ids)
    rows = await store.profiles.find_users_seen(ctx.db, user_ids)
    found = {row.user_id: row for row in rows}
    return {
        user_id: UserSeen(user_id, fresh.get(user_id, found[user_id].seen_at), found[user_id].visible_to)
        for user_id in user_ids
        if user_id in found
    }


def _fields(user_id: str, status: Status, seen: UserSeen | None, reader: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"user_id": user_id, "online": status.online, "platforms": list(status.platforms)}
    seen_at = None if seen is None or status.online else seen.as_told_to(reader)
    if seen_at is not None:
        fields["last_seen"] = seen_at
    return fields


def _hidden(user_id: str) -> dict[str, Any]:
    """What is shown of who hides from the reader."""
    return _fields(user_id, OFFLINE, None, None)


# ---------------------------------------------------------------- who hides


def hide(state: State, ctx: AppContext, user_id: str, reader: str) -> None:
    """A user hides from another one, whose watching connections see the user go, if they saw the user.

    At once, for it fails safe; then it is looked whether that is so still, as in `show`.
    """
    _tell_at_once(state, user_id, state.watches.hide(user_id, reader), is_hidden=True)
    show(state, ctx, user_id, reader)


def show(state: State, ctx: AppContext, user_id: str, reader: str) -> None:
    """A user may hide no more from another one, whose watching connections see the user come, if the user is there.

    That is told of by the shards of the user's devices, in any order: so it means no more than that there is something to
    be looked at.
    """
    if state.watches.begin_look(user_id, reader):
        ctx.start_soon(_look, state, ctx, user_id, reader)


async def _look(state: State, ctx: AppContext, user_id: str, reader: str) -> None:
    """Look who hides until nothing has changed meanwhile, and tell."""
    news = None
    while news is None and state.watches.looks_again(user_id, reader):
        try:
            is_hidden = await _hides(ctx, user_id, reader)
        except BaseException:
            state.watches.end_look(user_id, reader)  # the next change begins another
            raise
        news = state.watches.found(user_id, reader, is_hidden=is_hidden)
        if news is not None:
            _tell_at_once(state, user_id, news, is_hidden=is_hidden)


async def _hides(ctx: AppContext, user_id: str, reader: str) -> bool:
    while True:
        try:
            return user_id in await ctx.hidden_from(reader, [user_id])
        except (StorageError, ImError) as exc:
            # Until then the watchers believe what they did; who hid a moment ago was taken from them at once.
            ctx.log.warning("presence_hidden_unknown", error=str(exc))
            await trio.sleep(RETRY_S)


def _tell_at_once(state: State, user_id: str, news: News, *, is_hidden: bool) -> None:
    body = _fields(user_id, news.status, None, None)
    for token, sessions in _by_loop(news.watchers).items():
        _push_in(token, _Told(state, user_id, sessions, body, is_hidden=is_hidden))


# ---------------------------------------------------------------- devices that come and go


def came(state: State, ctx: Context) -> None:
    """A device has logged in."""
    user_id = user_of(ctx)
    state.users_seen.add(user_id, ctx.clock.now_ms())
    state.watches.came(user_id, ctx.clock.monotonic())


def went(state: State, ctx: Context) -> None:
    """A connection that was logged in has ended: it watches nobody, and may be back at once."""
    user_id = user_of(ctx)
    state.watches.remove(ctx.session)
    state.users_seen.add(user_id, ctx.clock.now_ms())
    state.watches.went(user_id, ctx.clock.monotonic())


async def write_users_seen(state: State, ctx: AppContext) -> None:
    """Write when users were last seen, as far as it is not written; what fails is tried again the next time."""
    seen = state.users_seen.unwritten()
    if seen:
        await ctx.db.write_all(store.profiles.mark_users_seen(seen))
        state.users_seen.written(seen)


async def run(state: State, ctx: AppContext) -> None:
    """The background task: tell the watchers when the time has come."""
    while True:
        await trio.sleep(TICK_S)
        await tell(state, ctx)


async def tell(state: State, ctx: AppContext) -> None:
    """Look at the users whose time has come, and push what has changed."""
    due = state.watches.due(ctx.clock.monotonic())
    for start in range(0, len(due), MAX_USERS):
        await _tell_of(state, ctx, due[start : start + MAX_USERS])


async def _tell_of(state: State, ctx: AppContext, user_ids: Sequence[str]) -> None:
    try:
        seen: Mapping[str, UserSeen] = await _seen(state, ctx, user_ids)
    except StorageError as exc:
        ctx.log.warning("last_seen_unknown", error=str(exc))
        seen = {}  # who is online can be told all the same
    for user_id in user_ids:
        status = status_of(ctx, user_id)
        news = state.watches.news(user_id, status, ctx.clock.monotonic())
        body = _fields(user_id, status, seen.get(user_id), None)
        for token, sessions in _by_loop(news).items():
            for start in range(0, len(sessions), _SLICE):
                _push_in(token, _Told(state, user_id, sessions[start : start + _SLICE], body, is_hidden=False))
                await trio.lowlevel.checkpoint()


def _by_loop(watchers: Watchers) -> Mapping[trio.lowlevel.TrioToken, list[Caller]]:
    by_loop: dict[trio.lowlevel.TrioToken, list[Caller]] = defaultdict(list)
    for session, token in watchers:
        by_loop[token].append(session)
    return by_loop


@frozen
class _Told:
    """What some sessions of one loop are told of a user."""

    state: State
    user_id: str
    sessions: Sequence[Caller]
    body: Mapping[str, Any]
    #: It is for those from whom the user hides; else for the others.
    is_hidden: bool

    def push(self) -> None:
        """Tell them, in their loop. Who has come to be on the other side since is told by what made it so."""
        for session in self.sessions:
            if not session.is_closed and self.state.watches.hides(self.user_id, session) == self.is_hidden:
                cast("Session", session).push(PRESENCE, self.body)  # `add` takes live ones alone


def _push_in(token: trio.lowlevel.TrioToken, told: _Told) -> None:
    """Push to sessions in the loop that they live in."""
    if token is trio.lowlevel.current_trio_token():
        told.push()
        return
    try:
        token.run_sync_soon(told.push)
    except trio.RunFinishedError:
        return  # that shard has stopped, and its sessions with it
