"""The `before_send` hooks of a shard's plugins, and how a context runs those that a message has to pass.

They run for every message. So each says which messages it lets pass unseen, and the contexts in which a session's messages
run them are found once, not each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from imserver.context import AppContext
    from imserver.conversation import Draft
    from imserver.plugin import Plugin

_TEXT = "text"


class SendHook(NamedTuple):
    """One plugin's."""

    plugin: str
    run: Callable[[Any, Draft], None]
    #: Of conversations.
    kinds: frozenset[str]
    sees_texts: bool


class SendHooks:
    """Those of all plugins, in the order of their start. A reload replaces them."""

    def __init__(self) -> None:
        self.hooks: list[SendHook] = []
        #: Rises with each replacement.
        self.version = 0

    def replace(self, plugins: Iterable[Plugin]) -> None:
        """From now on these plugins' hooks run, and no others."""
        self.hooks = [
            SendHook(plugin.name, plugin.before_send, frozenset(plugin.before_send_kinds), plugin.before_send_texts)
            for plugin in plugins
        ]
        self.version += 1


#: A hook and the context of its plugin.
_Bound = tuple[Callable[[Any, "Draft"], None], Any]


class BoundHooks:
    """The hooks as the messages of one context pass them.

    Args:
        hooks: the shard's.
        context: whose messages these are.
    """

    __slots__ = ("_context", "_hooks", "_of_others", "_of_texts", "_version")

    def __init__(self, hooks: SendHooks, context: AppContext) -> None:
        self._hooks = hooks
        self._context = context
        self._version = -1
        #: By whether it is a group's.
        self._of_texts: tuple[tuple[_Bound, ...], tuple[_Bound, ...]] = ((), ())
        self._of_others: tuple[tuple[_Bound, ...], tuple[_Bound, ...]] = ((), ())

    def run(self, draft: Draft) -> None:
        """Run what this message has to pass; a hook may change it, or raise.

        Raises:
            ImError: a hook refused it.
            NotLoaded: something is not in memory; let it pass.
        """
        if self._version != self._hooks.version:
            self._bind()
        is_group = draft.conversation_id[0] == "g"
        if draft.type != _TEXT:
            for run, context in self._of_others[is_group]:
                run(context, draft)
            return
        seen = self._of_texts[is_group]
        for run, context in seen:
            run(context, draft)
        if draft.type != _TEXT:  # one of them has made something else of it: now the others have to see it
            for run, context in self._of_others[is_group]:
                if (run, context) not in seen:
                    run(context, draft)

    def _bind(self) -> None:
        self._version = self._hooks.version
        hooks, of = self._hooks.hooks, self._context.of
        direct, group = (
            [(hook, (hook.run, of(hook.plugin))) for hook in hooks if kind in hook.kinds] for kind in ("direct", "group")
        )
        self._of_others = tuple(bound for _, bound in direct), tuple(bound for _, bound in group)
        self._of_texts = (
            tuple(bound for hook, bound in direct if hook.sees_texts),
            tuple(bound for hook, bound in group if hook.sees_texts),
        )
