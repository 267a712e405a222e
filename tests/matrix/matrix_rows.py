"""The permission matrix itself: a row per command and route, a column per actor, and the request of each row."""

import attrs
from matrix_rig import ACTORS, BLOCK, FRIEND_REQUEST, HOUR_MS, PASSWORD, SEND, key

from imserver.client.errors import ServerError


@attrs.frozen
class Row:
    """`name`: the permission, and behind a space which request of it; `command_id` is None for a route."""

    name: str
    command_id: int | None
    build: object
    cells: dict

    @property
    def has_password(self):
        """The actor's account has one."""
        return self.name == "user.CHANGE_PASSWORD"


#: name -> async function of the scene that gives a request: a command's fields, or a route's (method, path, options).
BUILDERS = {}


def request(*names):
    """Register the builder of these rows."""

    def register(function):
        for name in names:
            assert name not in BUILDERS, name
            BUILDERS[name] = function
        return function

    return register


def simple(name, /, **fields):
    """A row whose request is the same for everybody; a value may be a function of the scene."""

    @request(name)
    async def build(scene):
        return {field: value(scene) if callable(value) else value for field, value in fields.items()}


# ---------------------------------------------------------------- user

simple("connection.HEARTBEAT")
simple("connection.HELLO", client="matrix")
simple("user.REGISTER", user_id=lambda s: f"{s.prefix}-new-{key()}", password=PASSWORD)


@request("user.LOGIN")
async def _(scene):
    user, _answer = await scene.account()
    return {"user_id": user, "password": PASSWORD}


@request("user.AUTH")
async def _(scene):
    return {"token": scene.bob.token}


@request("user.AUTH own")
async def _(scene):
    return {"token": scene.token or scene.bob.token}


@request("user.REFRESH")
async def _(scene):
    _user, answer = await scene.account()
    return {"refresh_token": answer["refresh_token"]}


simple("user.LOGOUT")
simple("user.GET_USER", user_ids=lambda s: [s.bob.user])
simple("user.UPDATE_PROFILE", nickname="me")
simple("user.CHANGE_PASSWORD", old_password=PASSWORD, new_password="another horse battery")
simple("user.SEARCH_USERS", query="u")
simple("user.LIST_DEVICES")


@request("user.KICK_DEVICE")
async def _(scene):
    """A session of bob's: nobody ends another's."""
    (session,) = (await scene.bob.request(1010))["devices"]
    return {"session_id": session["session_id"]}


@request("user.KICK_DEVICE own")
async def _(scene):
    client = scene.bob if scene.actor == "nobody" else await scene.server.login(scene.me)
    await scene.server.settle()
    sessions = (await client.request(1010))["devices"]
    return {"session_id": sessions[-1]["session_id"]}


simple("user.GET_PRESENCE", user_ids=lambda s: [s.bob.user])
simple("user.WATCH_PRESENCE", user_ids=lambda s: [s.bob.user])


@request("user.LIST_USERS")
async def _(scene):
    return "GET", "/v1/admin/users", {}


@request("user.LIST_SESSIONS")
async def _(scene):
    return "GET", f"/v1/admin/users/{scene.bob.user}/sessions", {}


@request("user.DISABLE")
async def _(scene):
    return "POST", f"/v1/admin/users/{scene.bob.user}/disable", {"json": {"disabled": True}}


@request("user.KICK")
async def _(scene):
    return "POST", f"/v1/admin/users/{scene.bob.user}/kick", {"json": {}}


@request("user.SET_ROLE")
async def _(scene):
    return "POST", f"/v1/admin/users/{scene.me}/role", {"json": {"role": "admin", "present": True}}


# ---------------------------------------------------------------- message

for _where, _conversation, _seq, _own in (
    ("group", "group", "bobs", "own"),
    ("direct", "direct", "bobs_direct", "own_direct"),
):

    def _conversation_of(scene, name=_conversation):
        return getattr(scene, name)

    def _seq_of(scene, name=_seq):
        return getattr(scene, name)

    def _own_of(scene, name=_own):
        return getattr(scene, name) or 1

    simple(f"message.SEND {_where}", conversation_id=_conversation_of, client_id=lambda s: key(), body="x")
    simple(f"message.PULL {_where}", conversation_id=_conversation_of)
    simple(f"message.MARK_READ {_where}", conversation_id=_conversation_of, seq=1)
    simple(f"message.TYPING {_where}", conversation_id=_conversation_of)
    simple(f"message.RECALL {_where}", conversation_id=_conversation_of, seq=_seq_of)
    simple(f"message.RECALL {_where}-own", conversation_id=_conversation_of, seq=_own_of)
    simple(f"message.EDIT {_where}", conversation_id=_conversation_of, seq=_seq_of, body="edited")
    simple(f"message.EDIT {_where}-own", conversation_id=_conversation_of, seq=_own_of, body="edited")
    simple(f"message.REACT {_where}", conversation_id=_conversation_of, seq=_seq_of, emoji="👍")
    simple(f"message.RECEIPTS {_where}", conversation_id=_conversation_of, seq=_own_of)
    simple(f"message.DELETE_CONVERSATION {_where}", conversation_id=_conversation_of)
    simple(f"message.CONVERSATION_SETTINGS {_where}", conversation_id=_conversation_of, muted=True)
    simple(f"message.CHANGES {_where}", conversation_id=_conversation_of, since_rev=0)

    @request(f"search.SEARCH {_where}")
    async def _(scene, conversation=_conversation_of):
        await scene.index()
        return {"conversation_id": conversation(scene), "query": "bob"}

    simple(f"push.PUSH_ACK {_where}", conversation_id=_conversation_of, seq=1)

    @request(f"bot.STREAM_BEGIN {_where}")
    async def _(scene, conversation=_conversation_of):
        """By a bot."""
        await scene.make_bot(scene.me)
        return {"conversation_id": conversation(scene), "client_id": key()}


simple("bot.STREAM_BEGIN no-bot", conversation_id=lambda s: s.direct, client_id=lambda s: key())
simple("push.NOTIFY", topic="matrix", body="x", user_ids=lambda s: [s.bob.user])
simple("push.SET_PUSH_TOKEN", provider="matrix", token="matrix")
simple("push.REMOVE_PUSH_TOKEN")
simple("message.SEND to-bob", to=lambda s: s.bob.user, client_id=lambda s: key(), body="x")
simple("message.SEND_BATCH", messages=lambda s: [{"to": s.bob.user, "client_id": key(), "body": "x"}])
simple("message.SYNC")


async def _stream(scene, by_bob):
    """A stream in the group, or, of those who are not in it, in the conversation with bob."""
    client = scene.bob if by_bob or scene.actor == "nobody" else scene.client
    conversation = scene.group if by_bob or scene.actor == "nobody" else scene.direct
    await scene.make_bot(client.user)
    try:
        answer = await client.request(2021, conversation_id=conversation, client_id=key())
    except ServerError:
        return "0"  # the gate of STREAM_BEGIN has refused already: there is none
    return answer["stream_id"]


@request("bot.STREAM_APPEND")
async def _(scene):
    return {"stream_id": await _stream(scene, by_bob=True), "text": "x"}


@request("bot.STREAM_APPEND own")
async def _(scene):
    return {"stream_id": await _stream(scene, by_bob=False), "text": "x"}


@request("bot.STREAM_END")
async def _(scene):
    return {"stream_id": await _stream(scene, by_bob=True)}


@request("bot.STREAM_END own")
async def _(scene):
    stream_id = await _stream(scene, by_bob=False)
    if scene.actor != "nobody" and stream_id != "0":
        await scene.client.request(2022, stream_id=stream_id, text="x")
    return {"stream_id": stream_id}


@request("bot.POST")
async def _(scene):
    return "POST", await scene.hook(), {"json": {"text": "x"}}


# ---------------------------------------------------------------- friend

simple("friend.FRIEND_REQUEST", user_id=lambda s: s.bob.user)


async def _asked(scene, asks, asked):
    await asks.request(FRIEND_REQUEST, user_id=asked.user)
    return (await asked.request(3004, state="pending"))["requests"][0]["request_id"]


@request("friend.FRIEND_ANSWER")
async def _(scene):
    """One that bob was sent."""
    other = await scene.server.login(scene.name("carol"))
    return {"request_id": await _asked(scene, other, scene.bob), "accept": True}


@request("friend.FRIEND_ANSWER own")
async def _(scene):
    """One that the actor was sent."""
    other = await scene.server.login(scene.name("carol"))
    return {"request_id": await _asked(scene, other, scene.bob if scene.actor == "nobody" else scene.client), "accept": True}


simple("friend.LIST_FRIENDS")
simple("friend.LIST_FRIEND_REQUESTS")
simple("friend.DELETE_FRIEND", user_id=lambda s: s.bob.user)
simple("friend.BLOCK", user_id=lambda s: s.bob.user)


@request("friend.UNBLOCK")
async def _(scene):
    if scene.actor != "nobody":
        await scene.client.request(BLOCK, user_id=scene.bob.user)
    return {"user_id": scene.bob.user}


simple("friend.LIST_BLOCKED")
simple("friend.SET_REMARK", user_id=lambda s: s.bob.user, remark="Bob")

# ---------------------------------------------------------------- group

simple("group.CREATE_GROUP", name="mine", members=lambda s: [s.bob.user])
for _name in ("GET_GROUP", "DISMISS_GROUP", "LEAVE_GROUP", "LIST_MEMBERS", "JOIN_GROUP"):
    simple(f"group.{_name}", group_id=lambda s: s.group_id)
simple("group.UPDATE_GROUP", group_id=lambda s: s.group_id, name="renamed")
simple("group.REMOVE_MEMBERS", group_id=lambda s: s.group_id, user_ids=lambda s: [s.bob.user])
simple("group.REMOVE_MEMBERS owner", group_id=lambda s: s.group_id, user_ids=lambda s: [s.owner.user])
simple("group.SET_ROLE", group_id=lambda s: s.group_id, user_id=lambda s: s.bob.user, role="admin")
simple("group.MUTE_MEMBER", group_id=lambda s: s.group_id, user_id=lambda s: s.bob.user, duration_ms=HOUR_MS)
simple("group.MUTE_MEMBER unmute-self", group_id=lambda s: s.group_id, user_id=lambda s: s.me, duration_ms=0)
simple("group.LIST_GROUPS")


@request("group.ADD_MEMBERS")
async def _(scene):
    await scene.server.login(scene.name("carol"))
    return {"group_id": scene.group_id, "user_ids": [scene.name("carol")]}


@request("group.ANSWER_JOIN")
async def _(scene):
    carol = await scene.server.login(scene.name("carol"))
    asked = await carol.request(4012, group_id=scene.group_id)
    return {"request_id": asked["request_id"], "accept": True}


# ---------------------------------------------------------------- file, admin


@request("file.UPLOAD")
async def _(scene):
    return "POST", "/v1/files?name=a.txt", {"body": b"abc", "headers": {"Content-Type": "text/plain"}}


async def _resumable(scene, client):
    headers = {"Upload-Length": "3", "Content-Type": "text/plain"}
    answer = await scene.server.http("POST", "/v1/files?name=a.txt", token=client.token, headers=headers)
    headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    return "PATCH", f"/v1/files/{answer.json()['file_id']}", {"body": b"abc", "headers": headers}


@request("file.RESUME")
async def _(scene):
    return await _resumable(scene, scene.bob)


@request("file.RESUME own")
async def _(scene):
    return await _resumable(scene, scene.bob if scene.actor == "nobody" else scene.client)


@request("file.DOWNLOAD")
async def _(scene):
    """Bob's own, which he has sent to nobody."""
    return "GET", f"/v1/files/{await scene.file(scene.bob)}", {}


@request("file.DOWNLOAD sent-to-group")
async def _(scene):
    file_id = await scene.file(scene.bob)
    body = {"file_id": file_id, "name": "a.txt", "size": 3, "mime": "text/plain"}
    await scene.bob.request(SEND, conversation_id=scene.group, client_id=key(), type="file", body=body)
    return "GET", f"/v1/files/{file_id}", {}


@request("file.OWN_FILES")
async def _(scene):
    return "GET", "/v1/files", {}


@request("file.DELETE")
async def _(scene):
    return "DELETE", f"/v1/files/{await scene.file(scene.bob)}", {}


@request("file.DELETE own")
async def _(scene):
    return "DELETE", f"/v1/files/{await scene.file(scene.bob if scene.actor == 'nobody' else scene.client)}", {}


for _page in ("stats", "config", "plugins"):

    @request(f"admin.{_page.upper()}")
    async def _(scene, page=_page):
        return "GET", f"/v1/admin/{page}", {}


# ---------------------------------------------------------------- the table

#: What the table calls the names that would make it wide.
SHORT = {
    "bound": "409:already_logged_in", "out": "403:not_a_member", "friends": "409:already_friends",
    "inside": "409:already_member", "blocked": "403:blocked", "muted": "403:muted", "409owner": "409:owner",
    "nobot": "403:not_a_bot",
}  # fmt: skip

#: "ok", "empty" (a page that has nothing in it), the code of the refusal, or what `SHORT` says. Who blocked is bob, and the
#: owner. A banned one has a token that was good, a moment ago. A group's message is there for its members alone, whatever
#: role somebody has on the server.
TABLE = """
#                                      nobody  stranger member  muted   blocked banned  g-admin owner   s-admin
connection.HEARTBEAT                   ok      ok       ok      ok      ok      401     ok      ok      ok
connection.HELLO                       ok      ok       ok      ok      ok      401     ok      ok      ok

user.REGISTER                          ok      ok       ok      ok      ok      401     ok      ok      ok
user.LOGIN                             ok      bound    bound   bound   bound   401     bound   bound   bound
user.AUTH                              ok      bound    bound   bound   bound   401     bound   bound   bound
user.AUTH own                          ok      ok       ok      ok      ok      401     ok      ok      ok
user.REFRESH                           ok      ok       ok      ok      ok      401     ok      ok      ok
user.LOGOUT                            401     ok       ok      ok      ok      401     ok      ok      ok
user.GET_USER                          401     ok       ok      ok      ok      401     ok      ok      ok
user.UPDATE_PROFILE                    401     ok       ok      ok      ok      401     ok      ok      ok
user.CHANGE_PASSWORD                   401     ok       ok      ok      ok      401     ok      ok      ok
user.SEARCH_USERS                      401     ok       ok      ok      ok      401     ok      ok      ok
user.LIST_DEVICES                      401     ok       ok      ok      ok      401     ok      ok      ok
user.KICK_DEVICE                       401     404      404     404     404     401     404     404     404
user.KICK_DEVICE own                   401     ok       ok      ok      ok      401     ok      ok      ok
user.GET_PRESENCE                      401     ok       ok      ok      ok      401     ok      ok      ok
user.WATCH_PRESENCE                    401     ok       ok      ok      ok      401     ok      ok      ok
user.LIST_USERS                        401     403      403     403     403     401     403     403     ok
user.LIST_SESSIONS                     401     403      403     403     403     401     403     403     ok
user.DISABLE                           401     403      403     403     403     401     403     403     ok
user.KICK                              401     403      403     403     403     401     403     403     ok
user.SET_ROLE                          401     403      403     403     403     401     403     403     ok

message.SEND group                     401     403      ok      muted   403     401     ok      ok      403
message.PULL group                     401     403      ok      ok      403     401     ok      ok      403
message.MARK_READ group                401     403      ok      ok      403     401     ok      ok      403
message.TYPING group                   401     403      ok      muted   403     401     ok      ok      403
message.RECALL group                   401     403      403     403     403     401     ok      ok      403
message.RECALL group-own               401     403      ok      ok      403     401     ok      ok      403
message.EDIT group                     401     403      403     403     403     401     403     403     403
message.EDIT group-own                 401     403      ok      muted   403     401     ok      ok      403
message.REACT group                    401     403      ok      muted   403     401     ok      ok      403
message.RECEIPTS group                 401     403      ok      ok      403     401     ok      ok      403
message.DELETE_CONVERSATION group      401     403      ok      ok      403     401     ok      ok      403
message.CONVERSATION_SETTINGS group    401     403      ok      ok      403     401     ok      ok      403
message.CHANGES group                  401     403      ok      ok      403     401     ok      ok      403
message.SEND direct                    401     ok       ok      ok      blocked 401     ok      ok      ok
message.PULL direct                    401     ok       ok      ok      ok      401     ok      ok      ok
message.MARK_READ direct               401     ok       ok      ok      ok      401     ok      ok      ok
message.TYPING direct                  401     ok       ok      ok      blocked 401     ok      ok      ok
message.RECALL direct                  401     403      403     403     403     401     403     403     403
message.RECALL direct-own              401     ok       ok      ok      ok      401     ok      ok      ok
message.EDIT direct                    401     403      403     403     403     401     403     403     403
message.EDIT direct-own                401     ok       ok      ok      blocked 401     ok      ok      ok
message.REACT direct                   401     ok       ok      ok      blocked 401     ok      ok      ok
message.RECEIPTS direct                401     ok       ok      ok      ok      401     ok      ok      ok
message.DELETE_CONVERSATION direct     401     ok       ok      ok      ok      401     ok      ok      ok
message.CONVERSATION_SETTINGS direct   401     ok       ok      ok      ok      401     ok      ok      ok
message.CHANGES direct                 401     ok       ok      ok      ok      401     ok      ok      ok
message.SEND to-bob                    401     ok       ok      ok      blocked 401     ok      ok      ok
message.SEND_BATCH                     401     ok       ok      ok      blocked 401     ok      ok      ok
message.SYNC                           401     ok       ok      ok      ok      401     ok      ok      ok

search.SEARCH group                    401     empty    ok      ok      empty   401     ok      ok      empty
search.SEARCH direct                   401     ok       ok      ok      ok      401     ok      ok      ok

push.PUSH_ACK group                    401     403      ok      ok      403     401     ok      ok      403
push.PUSH_ACK direct                   401     ok       ok      ok      ok      401     ok      ok      ok
push.NOTIFY                            401     403      403     403     403     401     403     403     ok
push.SET_PUSH_TOKEN                    401     ok       ok      ok      ok      401     ok      ok      ok
push.REMOVE_PUSH_TOKEN                 401     ok       ok      ok      ok      401     ok      ok      ok

bot.STREAM_BEGIN group                 401     403      ok      muted   403     401     ok      ok      403
bot.STREAM_BEGIN direct                401     ok       ok      ok      blocked 401     ok      ok      ok
bot.STREAM_BEGIN no-bot                401     nobot    nobot   nobot   nobot   401     nobot   nobot   nobot
bot.STREAM_APPEND                      401     404      404     404     404     401     404     404     404
bot.STREAM_APPEND own                  401     ok       ok      ok      404     401     ok      ok      ok
bot.STREAM_END                         401     404      404     404     404     401     404     404     404
bot.STREAM_END own                     401     ok       ok      ok      404     401     ok      ok      ok
bot.POST                               ok      ok       ok      ok      ok      401     ok      ok      ok

friend.FRIEND_REQUEST                  401     ok       friends friends ok      401     friends friends ok
friend.FRIEND_ANSWER                   401     404      404     404     404     401     404     404     404
friend.FRIEND_ANSWER own               401     ok       ok      ok      ok      401     ok      ok      ok
friend.LIST_FRIENDS                    401     ok       ok      ok      ok      401     ok      ok      ok
friend.LIST_FRIEND_REQUESTS            401     ok       ok      ok      ok      401     ok      ok      ok
friend.DELETE_FRIEND                   401     404      ok      ok      404     401     ok      ok      404
friend.BLOCK                           401     ok       ok      ok      ok      401     ok      ok      ok
friend.UNBLOCK                         401     ok       ok      ok      ok      401     ok      ok      ok
friend.LIST_BLOCKED                    401     ok       ok      ok      ok      401     ok      ok      ok
friend.SET_REMARK                      401     404      ok      ok      404     401     ok      ok      404

group.CREATE_GROUP                     401     ok       ok      ok      ok      401     ok      ok      ok
group.GET_GROUP                        401     ok       ok      ok      ok      401     ok      ok      ok
group.DISMISS_GROUP                    401     out      403     403     out     401     403     ok      out
group.LEAVE_GROUP                      401     out      ok      ok      out     401     ok      409owner out
group.LIST_MEMBERS                     401     out      ok      ok      out     401     ok      ok      out
group.JOIN_GROUP                       401     ok       inside  inside  ok      401     inside  inside  ok
group.UPDATE_GROUP                     401     out      403     403     out     401     ok      ok      out
group.REMOVE_MEMBERS                   401     out      403     403     out     401     ok      ok      out
group.REMOVE_MEMBERS owner             401     out      403     403     out     401     403     403     out
group.SET_ROLE                         401     out      403     403     out     401     403     ok      out
group.MUTE_MEMBER                      401     out      403     403     out     401     ok      ok      out
group.MUTE_MEMBER unmute-self          401     out      403     403     out     401     403     403     out
group.LIST_GROUPS                      401     ok       ok      ok      ok      401     ok      ok      ok
group.ADD_MEMBERS                      401     out      403     403     out     401     ok      ok      out
group.ANSWER_JOIN                      401     out      403     403     out     401     ok      ok      out

file.UPLOAD                            401     ok       ok      ok      ok      401     ok      ok      ok
file.RESUME                            401     404      404     404     404     401     404     404     404
file.RESUME own                        401     ok       ok      ok      ok      401     ok      ok      ok
file.DOWNLOAD                          401     404      404     404     404     401     404     404     404
file.DOWNLOAD sent-to-group            401     404      ok      ok      404     401     ok      ok      404
file.OWN_FILES                         401     ok       ok      ok      ok      401     ok      ok      ok
file.DELETE                            401     404      404     404     404     401     404     404     404
file.DELETE own                        401     ok       ok      ok      ok      401     ok      ok      ok

admin.STATS                            401     403      403     403     403     401     403     403     ok
admin.CONFIG                           401     403      403     403     403     401     403     403     ok
admin.PLUGINS                          401     403      403     403     403     401     403     403     ok
"""


def read(table):
    """(name, cells) of each line."""
    for line in table.splitlines():
        if line and not line.startswith("#"):
            words = line.split()
            name, cells = " ".join(words[: -len(ACTORS)]), words[-len(ACTORS) :]
            assert name, f"a cell is missing: {line}"
            yield name, {actor: SHORT.get(cell, cell) for actor, cell in zip(ACTORS, cells, strict=True)}


def rows(ids, table=TABLE):
    """The rows of the table by name.

    Args:
        ids: permission -> command ID, None for a route.
    """
    found = {}
    for name, cells in read(table):
        assert name not in found, f"two rows: {name}"
        found[name] = Row(name, ids[name.partition(" ")[0]], BUILDERS[name], cells)
    return found
