"""A server with offline push by a provider that is a list, and time that the test moves."""

import itertools
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec

import imserver.testing
from imserver.plugin import Plugin, command

SEND, MARK_READ, RECALL, MUTE, MESSAGE, PUSH_ACK, NOTIFY, SET_PUSH_TOKEN, REMOVE_PUSH_TOKEN = (
    2001, 2004, 6001, 6002, 5001, 5002, 5009, 5010, 5011,
)  # fmt: skip
_numbers = itertools.count(1)


class Place(msgspec.Struct):
    """A message, or a conversation."""

    conversation_id: str
    seq: int = 0


class Hands(Plugin):
    """Mutes and recalls as the core does it, without rules."""

    name = "hands"

    @command(RECALL, request=Place)
    def recall(self, ctx, request):
        """Take a message back."""
        conversation = ctx.conversations.require(request.conversation_id)
        ctx.messages.recall(conversation, request.seq)
        return {}

    @command(MUTE, request=Place)
    def mute(self, ctx, request):
        """Mute a conversation for who asks."""
        conversation = ctx.conversations.require(request.conversation_id)
        ctx.conversations.set_settings(conversation, conversation.members[ctx.session.user_id], muted=True)
        return {}


def recorder():
    """A provider that keeps what it is given; `fail` may say what it raises for a push."""

    class Recorder(Plugin):
        name = "push_recorder"
        requires = ("push",)
        provider = "fcm"
        pushes: ClassVar[list] = []
        fail = staticmethod(lambda push: None)

        async def on_start(self, ctx):
            ctx.emit("push.provider", provider=self)

        def check_token(self, token, app):
            pass

        async def send(self, push):
            type(self).pushes.append(push)
            failure = type(self).fail(push)
            if failure is not None:
                raise failure

    Recorder.pushes = []
    return Recorder


@asynccontextmanager
async def pushing(*plugins, settings=None, folder=None, provider=None):
    """The running server, with `server.provider`."""
    kind = provider or recorder()
    async with imserver.testing.running(plugins=[kind, Hands, *plugins], settings=settings, folder=folder) as server:
        server.provider = kind
        yield server


async def say(client, to, text="hi", **fields):
    """Send a message; its place."""
    return await client.request(SEND, to=to, client_id=f"c{next(_numbers)}", body=text, **fields)


async def register(client, token, **fields):
    """Let this device be pushed to."""
    await client.request(SET_PUSH_TOKEN, provider="fcm", token=token, **fields)


async def wait(server, seconds):
    """Let time pass."""
    await server.clock.advance(seconds)
