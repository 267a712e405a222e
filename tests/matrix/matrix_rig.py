"""The scene of the permission matrix: one group, one other user, and whoever asks."""

import itertools
import secrets
from functools import partial

import trio

from imserver.client.errors import ServerError
from imserver.plugin import Plugin
from imserver.testing import ConnectionEnded, running
from imserver_plugins.bot import store as bots
from imserver_plugins.search import indexer

ACTORS = ("nobody", "stranger", "member", "muted", "blocked", "banned", "group_admin", "owner", "server_admin")
#: Whom the group has among its members, and who is a friend of the other user.
INSIDERS = ("member", "muted", "group_admin", "owner")
PLUGINS = ["friend", "group", "file", "search", "admin", "bot", "audit", "webhook"]
PASSWORD = "correct horse battery"
HOUR_MS = 3_600_000
REGISTER, LOGIN, SEND, FRIEND_REQUEST, FRIEND_ANSWER, BLOCK = 1001, 1002, 2001, 3001, 3002, 3006
CREATE_GROUP, SET_ROLE, MUTE_MEMBER = 4001, 4009, 4010

_numbers = itertools.count(1)
#: One at a time goes through what is not indexed yet.
_indexing = trio.Lock()


class PushTo(Plugin):
    """A provider of pushes, so that devices can register."""

    name = "push_matrix"
    requires = ("push",)
    provider = "matrix"

    async def on_start(self, ctx):
        """Announce it."""
        ctx.emit("push.provider", provider=self)

    def check_token(self, token, app):
        """Any will do."""

    async def send(self, push):
        """It goes nowhere."""


def server(settings=None, *more):
    """A server with every plugin that has commands or routes, and more."""
    return running([*PLUGINS, PushTo, *more], settings)


def key():
    """A fresh client_id."""
    return f"c{next(_numbers)}"


class Scene:
    """One cell's world. It is fresh: what another cell has done is in another group, with other users.

    Attributes:
        actor: the name of the column.
        me: who asks, as a user id; of nobody: one that does not exist.
        client: the connection of who asks.
        owner, bob: clients of the group's owner (who may be the actor), and of a plain member.
        group, direct: conversation ids: of the group, and of bob and the actor (of nobody: of bob and the owner).
        own, bobs: the seqs of the actor's and of bob's message in the group; `own_direct`, `bobs_direct`: in `direct`.
    """

    def __init__(self, server, actor, *, has_password=False):
        self.server = server
        self.has_password = has_password
        self.actor = actor
        self.prefix = f"u{next(_numbers)}"
        self.me = self.name(actor)
        self.group_id = self.name("group")
        self.group = f"g:{self.group_id}"
        self.token = ""
        self.own = self.own_direct = None

    def name(self, role):
        """The id of a user of this scene."""
        return f"{self.prefix}-{role}"

    async def set_up(self):
        """Everybody, the group, the messages, and last what was done to the actor."""
        await self._people()
        members = [self.name("group_admin"), self.name("bob")]
        if self.actor in INSIDERS and self.me not in (*members, self.name("owner")):
            members.append(self.me)
        await self.owner.request(
            CREATE_GROUP, group_id=self.group_id, name="scene", members=members, join="approval", history="all"
        )
        await self.owner.request(SET_ROLE, group_id=self.group_id, user_id=self.name("group_admin"), role="admin")
        await self._messages()
        if self.actor in INSIDERS:
            await self.client.request(FRIEND_REQUEST, user_id=self.bob.user)
            (asked,) = (await self.bob.request(3004))["requests"]
            await self.bob.request(FRIEND_ANSWER, request_id=asked["request_id"], accept=True)
        if self.actor == "muted":
            await self.owner.request(MUTE_MEMBER, group_id=self.group_id, user_id=self.me, duration_ms=HOUR_MS)
        if self.actor == "blocked":
            for other in (self.bob, self.owner):
                await other.request(BLOCK, user_id=self.me)
        return self

    async def _people(self):
        log_in = self.server.login
        if self.has_password:
            with self.server.connect() as client:
                await client.request(REGISTER, user_id=self.me, password=PASSWORD)
        self.bob = await log_in(self.name("bob"))
        self.owner = await log_in(self.name("owner"))
        if self.actor == "group_admin":
            self.group_admin = await log_in(self.me)
        else:
            await self.server.token(self.name("group_admin"))  # there is such a user
        if self.actor == "nobody":
            self.client = self.server.connect()
        elif self.actor in ("owner", "group_admin"):
            self.client = getattr(self, self.actor)
        else:
            self.client = await log_in(self.me, roles=["admin"] if self.actor == "server_admin" else [])
        self.token = self.client.token

    async def _messages(self):
        self.bobs = (await self.bob.request(SEND, conversation_id=self.group, client_id=key(), body="bob's"))["seq"]
        if self.actor in INSIDERS:
            self.own = (await self.client.request(SEND, conversation_id=self.group, client_id=key(), body="mine"))["seq"]
        speaker = self.owner if self.actor == "nobody" else self.client
        sent = await speaker.request(SEND, to=self.bob.user, client_id=key(), body="mine")
        self.direct, self.own_direct = sent["conversation_id"], sent["seq"]
        self.bobs_direct = (await self.bob.request(SEND, to=speaker.user, client_id=key(), body="bob's"))["seq"]

    async def ban(self):
        """The actor's account is disabled, as the last thing before the request: the live session ends.

        What follows is asked over HTTP, by the token that was good.
        """
        admin = await self.server.token("the-administrator", ["admin"])
        path = f"/v1/admin/users/{self.me}/disable"
        assert (await self.server.http("POST", path, token=admin, json={"disabled": True})).status == 200
        await self.server.settle()
        assert self.client.is_closed
        try:
            await self.client.request(1010)
        except ConnectionEnded:
            return
        raise AssertionError("the session of a disabled account goes on")

    # ------------------------------------------------------------ what builders need beside

    async def account(self):
        """A user with a password, not the actor, and LOGIN's answer on a connection of its own."""
        user = f"{self.prefix}-acc-{key()}"
        with self.server.connect() as client:
            await client.request(REGISTER, user_id=user, password=PASSWORD)
            return user, await client.request(LOGIN, user_id=user, password=PASSWORD)

    async def file(self, client):
        """The id of a file that this client has uploaded."""
        headers = {"Content-Type": "text/plain"}
        answer = await self.server.http("POST", "/v1/files?name=a.txt", token=client.token, body=b"abc", headers=headers)
        return answer.json()["file_id"]

    async def hook(self):
        """The path of an incoming webhook of bob's into the group."""
        hook_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = (hook_id, bots.hash_of(secret), self.group, self.bob.user)
        await self.server._in_server(partial(self._add_hook, row))
        return f"/v1/hooks/{hook_id}/{secret}"

    async def index(self):
        """All messages can be found from now on."""
        async with _indexing:
            await self.server._in_server(partial(indexer.step, self._context("search")))

    def _context(self, plugin):
        return self.server._server.shards[0].router.app_context(plugin)

    async def make_bot(self, user):
        """This user may make messages grow from now on."""
        await self.server._in_server(partial(self._add_bot, user))

    async def _add_bot(self, user):
        await self._context("bot").db.write(
            "INSERT OR IGNORE INTO bots (user_id, since, created_at) VALUES (?, 0, 0)", (user,)
        )

    async def _add_hook(self, row):
        sql = "INSERT INTO bot_hooks (hook_id, secret_hash, conversation_id, user_id, created_at) VALUES (?, ?, ?, ?, 0)"
        await self._context("bot").db.write(sql, row)

    # ------------------------------------------------------------ asking

    async def command(self, command_id, fields):
        """What becomes of a command: "ok", "empty" (a page without messages), or the code and name of the error."""
        if self.actor == "banned":
            return await self.http("POST", f"/v1/commands/{command_id}", json=fields)
        try:
            answer = await self.client.request(command_id, **fields)
        except ServerError as exc:
            return outcome(exc.code, exc.error)
        (result,) = answer.get("results", [{"code": 0}])  # of SEND_BATCH
        if result["code"]:
            return outcome(result["code"], result["error"])
        return "empty" if answer.get("messages") == [] else "ok"

    async def http(self, method, path, **options):
        """The same of a request over HTTP."""
        answer = await self.server.http(method, path, token=self.token or None, **options)
        if answer.status < 400:
            return "ok"
        if method == "HEAD":
            return str(answer.status)
        return outcome(answer.status, answer.json()["error"])


#: The name that a code has if nothing more is to be said: it stands for the code alone.
NAMES = {
    400: "bad_request", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 409: "conflict", 413: "too_large",
    429: "rate_limited",
}  # fmt: skip


def outcome(code, error):
    """As the table has it: `403`, or `403:muted` where the name says more."""
    return str(code) if NAMES.get(code) == error else f"{code}:{error}"


async def play(server, row, actor):
    """What becomes of a row's request by an actor."""
    scene = await Scene(server, actor, has_password=row.has_password).set_up()
    request = await row.build(scene)
    if actor == "banned":
        await scene.ban()
    if row.command_id is not None:
        return await scene.command(row.command_id, request)
    method, path, options = request
    return await scene.http(method, path, **options)


async def play_row(server, row):
    """The outcome of each actor; they play at once, each in a scene of its own."""
    found = {}

    async def one(actor):
        found[actor] = await play(server, row, actor)

    async with trio.open_nursery() as nursery:
        for actor in ACTORS:
            nursery.start_soon(one, actor)
    return found
