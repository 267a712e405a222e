"""GET_USER, UPDATE_PROFILE and SEARCH_USERS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imserver.plugin import UNSET, InvalidBody, TooLarge
from imserver_plugins.user import store
from imserver_plugins.user.state import user_of
from imserver_plugins.user.store.columns import search_key
from imserver_plugins.user.store.statements import Row

if TYPE_CHECKING:
    from imserver.plugin import Context
    from imserver_plugins.user.requests import GetUser, SearchUsers, UpdateProfile

MAX_USERS = 500  # of one GET_USER; the wire protocol's bound on lists


async def get_user(ctx: Context, request: GetUser) -> dict[str, Any]:
    """1006 GET_USER: in the order asked for; who does not exist is left out."""
    if len(request.user_ids) > MAX_USERS:
        raise TooLarge(f"ask for {MAX_USERS} users at most", field="user_ids")
    wanted = list(dict.fromkeys(request.user_ids))
    if not wanted:
        return {"users": []}
    rows = {row[0]: row for row in await store.profiles.find_profiles(ctx.db, wanted)}
    users = {user_id: _profile(rows[user_id]) for user_id in wanted if user_id in rows}
    me = user_of(ctx)
    if me in users and rows[me][5] != "everyone":
        users[me]["last_seen"] = rows[me][5]  # a setting, which is nobody else's business
    return {"users": list(users.values())}


def update_profile(ctx: Context, request: UpdateProfile) -> dict[str, Any]:
    """1007 UPDATE_PROFILE."""
    given = {name: getattr(request, name) for name in ("nickname", "avatar", "bio", "last_seen")}
    changes = {name: value for name, value in given.items() if value is not UNSET}
    if changes:
        sql, params = store.profiles.update_profile(user_of(ctx), changes)
        ctx.db.write(sql, params)
    return {}


async def search_users(ctx: Context, request: SearchUsers) -> dict[str, Any]:
    """1009 SEARCH_USERS: first those whose id begins with the query, then those whose nickname does, then those that have
    it inside of their nickname; in any case.

    The cursor says how far the search went: "i" and the last user id; "n", the last nickname's key, a line feed and its
    user id; "s" and the last user id looked at. The first two are places in an index. The third looks at a bounded number of
    users each time, so a page there may be short, even empty, and have more behind it.
    """
    key, limit = search_key(request.query), request.limit
    kind, place = _place(request.cursor)
    users: list[dict[str, Any]] = []
    if kind == "i":
        rows = await store.profiles.search_by_id(ctx.db, key, place or None, limit + 1)
        users = [_profile(row) for row in rows[:limit]]
        if len(rows) > limit:
            return {"users": users, "next_cursor": f"i{users[-1]['user_id']}"}
        kind, place = "n", "\n"
    if kind == "n":
        nickname_key, _, user_id = place.rpartition("\n")
        wanted = limit - len(users)
        rows = await store.profiles.search_by_nickname(ctx.db, key, (nickname_key, user_id), wanted + 1)
        users += [_profile(row) for row in rows[:wanted]]
        if len(rows) > wanted:
            return {"users": users, "next_cursor": f"n{rows[wanted - 1][5]}\n{rows[wanted - 1][0]}" if wanted else "n\n"}
        place = ""
    wanted = limit - len(users)
    rows, looked_at = await store.profiles.search_in_nicknames(ctx.db, key, place, wanted + 1)
    users += [_profile(row) for row in rows[:wanted]]
    if len(rows) > wanted:
        looked_at = rows[wanted - 1][0] if wanted else place
    return {"users": users} if looked_at is None else {"users": users, "next_cursor": f"s{looked_at}"}


def _place(cursor: str | None) -> tuple[str, str]:
    if not cursor:
        return "i", ""
    kind, place = cursor[0], cursor[1:]
    if (kind == "i" and place) or (kind == "n" and "\n" in place) or kind == "s":
        return kind, place
    raise InvalidBody("cursor must be a next_cursor of this command", field="cursor")


def _profile(row: Row) -> dict[str, Any]:
    user_id, nickname, avatar, bio, created_at = row[:5]
    profile: dict[str, Any] = {"user_id": user_id, "nickname": nickname, "created_at": created_at}
    if avatar is not None:
        profile["avatar"] = avatar
    if bio is not None:
        profile["bio"] = bio
    return profile
