"""What may be posted to an incoming webhook, and what nobody should be able to do with one."""

import json
from types import SimpleNamespace

import pytest

from imserver.plugin import InvalidBody, TooLarge
from imserver_plugins.bot import BotPlugin
from imserver_plugins.bot.hooks import Entrance, Post, _draft
from imserver_plugins.bot.settings import Settings


def request_of(*pieces):
    """An HTTP request with a body that comes in pieces."""

    async def stream():
        for piece in pieces:
            yield piece

    return SimpleNamespace(stream=stream)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"text": "\xff"}', b'{"body": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", b"[" * 60_000],
)
async def test_what_is_no_post(body):
    """No JSON, nothing, or nesting without end: the poster is told, and the server has made no mistake."""
    with pytest.raises(InvalidBody):
        await Entrance(Settings())._read(request_of(body))


@pytest.mark.parametrize("kind", ["system", "typing", "reaction"])
def test_types_that_no_post_may_have(kind):
    """The server's own, and those that `before_send` hooks take for what is no message."""
    hook = SimpleNamespace(conversation_id="g:team", user_id="news")
    with pytest.raises(InvalidBody) as refused:
        _draft(hook, Post(type=kind, body="x"), kind)
    assert refused.value.field == "type"
    assert _draft(hook, Post(type="card", body="x"), "k").type == "card"


async def test_a_body_in_pieces():
    """It is put together, up to the bound; a body without end is refused when it is too long."""
    entrance = Entrance(Settings(post_bytes=1000))
    raw = json.dumps({"text": "it rains"}).encode()
    post = await entrance._read(request_of(*(raw[at : at + 1] for at in range(len(raw)))))
    assert post.text == "it rains"
    pieces = iter([b"x" * 100] * 1000)

    class Endless:
        def __aiter__(self):
            return self

        async def __anext__(self):
            return next(pieces)

    with pytest.raises(TooLarge):
        await entrance._read(SimpleNamespace(stream=Endless))
    assert len(list(pieces)) == 1000 - 11


def test_a_text_that_is_no_text_is_no_command():
    """A message of the type text whose body is something else, as another plugin may have stored it, is passed over."""
    plugin, rung = BotPlugin(), []
    plugin._follower = SimpleNamespace(ring_soon=lambda: rung.append(1))
    for body in (None, 5, {"a": 1}, ["/x"], b"/x"):
        plugin.after_commit(None, [SimpleNamespace(type="text", body=body)])
    assert rung == []
    plugin.after_commit(None, [SimpleNamespace(type="text", body="/roll")])
    assert rung == [1]
