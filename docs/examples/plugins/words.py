"""Words that may not be sent: a plugin with settings, a table, two commands and a hook (docs/tutorial/first-plugin.md)."""

from typing import Annotated, Any

from attrs import frozen

from imserver.plugin import Conflict, Context, Draft, Meta, PermissionDenied, Plugin, command, role


@frozen
class Settings:
    """`[plugins.words]`"""

    max_words: Annotated[int, Meta(ge=1)] = 1000


@frozen
class AddWord:
    """6001"""

    word: Annotated[str, Meta(min_length=1, max_length=64)]


@frozen
class CheckText:
    """6002"""

    text: Annotated[str, Meta(max_length=10_000)]


class Words(Plugin):
    """Refuses messages that contain one of the words that an admin has put on the list."""

    name = "words"
    Settings = Settings
    migrations = ("CREATE TABLE words_blocked (word TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;",)

    @command(6001, request=AddWord, allow=role("admin"))
    async def add_word(self, ctx: Context, request: AddWord) -> dict[str, Any]:
        """Put a word on the list."""
        [(count,)] = await ctx.db.read("SELECT count(*) FROM words_blocked")
        if count >= ctx.settings.max_words:  # two admins at once may put one too many: that does no harm here
            raise Conflict("the list is full: raise plugins.words.max_words", error="list_full")
        sql = "INSERT INTO words_blocked VALUES (?) ON CONFLICT DO NOTHING RETURNING word"
        rows = await ctx.db.write(sql, (request.word.casefold(),))
        ctx.cache.pop("words")
        return {"is_new": bool(rows)}

    @command(6002, request=CheckText)
    def check_text(self, ctx: Context, request: CheckText) -> dict[str, Any]:
        """Which words of a text are on the list."""
        return {"blocked": self._blocked_in(ctx, request.text)}

    def before_send(self, ctx: Context, draft: Draft) -> None:
        """Refuse a message with a word on the list."""
        if isinstance(draft.body, str) and self._blocked_in(ctx, draft.body):
            raise PermissionDenied("this message has a word that is not allowed here", error="blocked_word", field="body")

    @staticmethod
    def _blocked_in(ctx: Context, text: str) -> list[str]:
        async def load() -> frozenset[str]:
            return frozenset(word for (word,) in await ctx.db.read("SELECT word FROM words_blocked"))

        blocked: frozenset[str] = ctx.cache.load("words", load)  # raises NotLoaded the first time
        return sorted(blocked.intersection(text.casefold().split()))
