"""What a text is found by: its words, and for scripts that put no spaces between words every character and every pair of
neighbours (overlapping bigrams), so that a Chinese word of two characters is found wherever it stands.

The index holds the terms; which of the messages that have all terms of a query really match, `Query.matches` says. Both
sides come by the same `_fold`, so nothing in a query is syntax: quotes, operators, NEAR and stars are only separators.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

#: Of a longer text only the beginning is found: what one message may cost, not what people write.
MAX_CHARACTERS: Final = 10_000
#: Of a longer query only the first terms are looked up; `matches` sees all of it.
MAX_QUERY_TERMS: Final = 32

# Han, kana, Hangul and the scripts of South East Asia that are written without spaces. The two combining kana marks (3099,
# 309A) are none: normalizing has joined them to their letter.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u3098\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U000323af"
)
# The vowel signs of Indic scripts and the like are parts of words; Python's \w has no marks. They are in these two ranges.
_MARKS: Final = "".join(
    chr(code) for code in (*range(0x0483, 0x1D00), *range(0xA66F, 0xAC00)) if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
_RUN: Final = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|(?:(?![{_UNSPACED}_])[\w{_MARKS}])+")
_ACCENTS: Final = re.compile("[\u0300-\u036f]")


def _fold(text: str) -> str:
    """In lower case, without accents, and in one form of the several that look alike (full width, ligatures)."""
    text = text[:MAX_CHARACTERS]
    if text.isascii():
        return text.lower()
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    return unicodedata.normalize("NFKC", plain.casefold())


def _runs(folded: str) -> Iterator[tuple[bool, str]]:
    """(written without spaces?, text) of each word and each stretch of unspaced script."""
    for found in _RUN.finditer(folded):
        yield found.lastgroup is not None, found[0]


def _bigrams(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]


def indexed_text(text: str) -> str:
    """The terms of a text, for the index: what its tokenizer, which splits ASCII alone, makes the terms of."""
    folded = _fold(text)
    if folded.isascii():
        return folded
    terms: dict[str, None] = {}
    for is_unspaced, run in _runs(folded):
        if is_unspaced:
            terms.update(dict.fromkeys(run))
            terms.update(dict.fromkeys(_bigrams(run)))
        else:
            terms[run] = None
    return " ".join(terms)


@frozen
class Query:
    """What a user looks for: texts that have each of these words and stretches, in any order."""

    words: frozenset[str]
    stretches: tuple[str, ...]

    @property
    def terms(self) -> list[str]:
        """The terms that a message must have in the index."""
        terms = dict.fromkeys(self.words)
        for stretch in self.stretches:
            terms.update(dict.fromkeys(_bigrams(stretch) or [stretch]))
        return list(terms)[:MAX_QUERY_TERMS]

    def matches(self, text: str) -> bool:
        """Whether a text has all of it; the pairs of a stretch side by side, which the index does not know."""
        words: set[str] = set()
        stretches: list[str] = []
        for is_unspaced, run in _runs(_fold(text)):
            if is_unspaced:
                stretches.append(run)
            else:
                words.add(run)
        return self.words <= words and all(any(part in run for run in stretches) for part in self.stretches)


def parse(query: str) -> Query | None:
    """A query as it was typed; None if there is neither a letter nor a digit in it."""
    words: dict[str, None] = {}
    stretches: dict[str, None] = {}
    for is_unspaced, run in _runs(_fold(query)):
        (stretches if is_unspaced else words)[run] = None
    return Query(frozenset(words), tuple(stretches)) if words or stretches else None


def text_of(message_type: str, body: Any) -> str:
    """What a message is found by: the text of a text message, the name and text of others ("" if they have none)."""
    if message_type == "text":
        return body if isinstance(body, str) else ""
    if not isinstance(body, dict):
        return ""
    return "\n".join(value for value in (body.get("name"), body.get("text")) if isinstance(value, str))
