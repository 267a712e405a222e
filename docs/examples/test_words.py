"""The test of plugins/words.py: the whole server without ports, and two users (docs/reference/testing.md)."""

from pathlib import Path

import pytest

from imserver.client import Conflict, Forbidden
from imserver.testing import running

ADD_WORD, CHECK_TEXT, SEND, MESSAGE = 6001, 6002, 2001, 5001
WORDS = Path(__file__).parent / "plugins" / "words.py"


@pytest.mark.trio
async def test_words():
    """An admin puts a word on the list; from then on nobody can send it."""
    async with running([WORDS]) as server:
        root, alice = await server.login("root", roles=["admin"]), await server.login("alice")

        sent = await alice.request(SEND, to="root", client_id="1", type="text", body="spam and eggs")
        assert sent["seq"] == 1
        assert (await root.push(MESSAGE))["body"] == "spam and eggs"

        assert await root.request(ADD_WORD, word="Spam") == {"is_new": True}
        assert await root.request(ADD_WORD, word="SPAM") == {"is_new": False}
        assert await alice.request(CHECK_TEXT, text="eggs SPAM") == {"blocked": ["spam"]}
        with pytest.raises(Forbidden) as refusal:
            await alice.request(SEND, to="root", client_id="2", type="text", body="more spam")
        assert refusal.value.error == "blocked_word"
        assert (await alice.request(SEND, to="root", client_id="3", type="text", body="more eggs"))["seq"] == 2
        assert (await root.push(MESSAGE))["body"] == "more eggs"


@pytest.mark.trio
async def test_who_may_add_words():
    """Only an admin, and no more than the settings allow."""
    async with running([WORDS], {"plugins.words.max_words": 1}) as server:
        root, alice = await server.login("root", roles=["admin"]), await server.login("alice")
        with pytest.raises(Forbidden):
            await alice.request(ADD_WORD, word="eggs")
        await root.request(ADD_WORD, word="eggs")
        with pytest.raises(Conflict) as refusal:
            await root.request(ADD_WORD, word="bacon")
        assert refusal.value.error == "list_full"
