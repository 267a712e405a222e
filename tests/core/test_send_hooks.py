"""Which `before_send` hooks a message has to pass."""

import pytest

from imserver.conversation import Draft
from imserver.plugin import Plugin
from imserver.send_hooks import BoundHooks, SendHooks


class Sees(Plugin):
    """Notes what it sees."""

    def __init__(self):
        self.seen = []

    def before_send(self, ctx, draft):
        self.seen.append((ctx, draft.conversation_id, draft.type))


class Everything(Sees):
    name = "everything"


class Direct(Sees):
    name = "direct"
    before_send_kinds = ("direct",)


class Groups(Sees):
    name = "groups"
    before_send_kinds = ("group",)


class NoTexts(Sees):
    name = "no_texts"
    before_send_texts = False


class Changes(Sees):
    """Makes a picture of each text."""

    name = "changes"

    def before_send(self, ctx, draft):
        super().before_send(ctx, draft)
        draft.type = "image"


class Context:
    """As much of a context as is asked for."""

    def __init__(self):
        self.asked = 0

    def of(self, plugin):
        self.asked += 1
        return f"context of {plugin}"


def bound(*plugins):
    hooks = SendHooks()
    hooks.replace(plugins)
    return hooks, BoundHooks(hooks, Context())


@pytest.mark.parametrize(
    ("conversation_id", "message_type", "names"),
    [
        ("d:a:b", "text", ["everything", "direct"]),
        ("g:one", "text", ["everything", "groups"]),
        ("d:a:b", "image", ["everything", "direct", "no_texts"]),
        ("g:one", "image", ["everything", "groups", "no_texts"]),
    ],
)
def test_each_sees_what_it_says(conversation_id, message_type, names):
    """Kinds of conversation, and texts; each with its own plugin's context."""
    plugins = [Everything(), Direct(), Groups(), NoTexts()]
    _, run = bound(*plugins)
    run.run(Draft(conversation_id, "a", "c", message_type, "x"))
    assert [plugin.name for plugin in plugins if plugin.seen] == names
    for plugin in plugins:
        assert plugin.seen in ([], [(f"context of {plugin.name}", conversation_id, message_type)])


def test_a_text_that_becomes_something_else_is_seen_by_all():
    """Once by each: those that texts are no business of see what it is now."""
    before, changes, after, other = Everything(), Changes(), NoTexts(), Groups()
    before.name = "before"
    _, run = bound(before, changes, after, other)
    run.run(Draft("d:a:b", "a", "c", "text", "x"))
    assert [seen[2] for seen in before.seen + changes.seen + after.seen] == ["text", "text", "image"]
    assert other.seen == []


def test_contexts_are_found_once_until_a_reload():
    """Not for each message; after a reload the new instance runs, and the old one does not."""
    old, new = Everything(), Everything()
    hooks, run = bound(old)
    run.run(Draft("d:a:b", "a", "c", "text", "x"))
    asked = run._context.asked
    for _ in range(2):
        run.run(Draft("d:a:b", "a", "c", "text", "x"))
    assert (len(old.seen), run._context.asked) == (3, asked)
    hooks.replace([new])
    run.run(Draft("d:a:b", "a", "c", "text", "x"))
    assert (len(old.seen), len(new.seen)) == (3, 1)
