"""GET_USER, UPDATE_PROFILE and SEARCH_USERS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imserver.plugin import UNSET, InvalidBody, TooLarge
from imserver_plugins.user import store
from imserver_plugins.user.state import user_of

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
    rows = {row[0]: row for row in await store.find_profiles(ctx.db, wanted)}
    return {"users": [_profile(rows[user_id]) for user_id in wanted if user_id in rows]}


def update_profile(ctx: Context, request: UpdateProfile) -> dict[str, Any]:
    """1007 UPDATE_PROFILE."""
    given = {"nickname": request.nickname, "avatar": request.avatar, "bio": request.bio}
    changes = {name: value for name, value in given.items() if value is not UNSET}
    if changes:
        sql, params = store.update_profile(user_of(ctx), changes)
        ctx.db.write(sql, params)
    return {}


async def search_users(ctx: Context, request: SearchUsers) -> dict[str, Any]:
    """1009 SEARCH_USERS: first those whose id begins with the query, then those whose nickname does, in any case.

    The cursor is "i" and the last user id, or "n", the last nickname's key, a line feed and its user id: a place in
    one of two indexes, so that a page costs the same wherever it is.
    """
    key, limit = store.search_key(request.query), request.limit
    after_id, after_nickname = _place(request.cursor)
    users: list[dict[str, Any]] = []
    cursor: str | None = None
    if after_nickname is None:
        rows = await store.search_by_id(ctx.db, key, after_id, limit + 1)
        users = [_profile(row) for row in rows[:limit]]
        if len(rows) > limit:
            return {"users": users, "next_cursor": f"i{users[-1]['user_id']}"}
        # All ids are found: what follows are nicknames, from the first.
        cursor = f"n{chr(10)}"
        after_nickname = ("", "")
    wanted = limit - len(users)
    rows = await store.search_by_nickname(ctx.db, key, after_nickname, wanted + 1)
    users += [_profile(row) for row in rows[:wanted]]
    if len(rows) <= wanted:
        return {"users": users}
    if wanted:
        last = rows[wanted - 1]
        cursor = f"n{last[5]}\n{last[0]}"
    return {"users": users, "next_cursor": cursor}


def _place(cursor: str | None) -> tuple[str | None, tuple[str, str] | None]:
    if not cursor:
        return None, None
    kind, place = cursor[0], cursor[1:]
    if kind == "i" and place:
        return place, None
    if kind == "n" and "\n" in place:
        nickname_key, _, user_id = place.rpartition("\n")
        return None, (nickname_key, user_id)
    raise InvalidBody("cursor must be a next_cursor of this command", field="cursor")


def _profile(row: store.Row) -> dict[str, Any]:
    user_id, nickname, avatar, bio, created_at = row[:5]
    profile: dict[str, Any] = {"user_id": user_id, "nickname": nickname, "created_at": created_at}
    if avatar is not None:
        profile["avatar"] = avatar
    if bio is not None:
        profile["bio"] = bio
    return profile
