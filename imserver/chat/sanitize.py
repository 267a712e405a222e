"""Text of others, made harmless: a terminal shows it, and obeys none of it.

A terminal takes orders in the text that it shows: moves of the cursor, a new title (OSC 0), a hyperlink (OSC 8), a write
to the clipboard (OSC 52), questions that it answers as if typed. All begin with a control character, so none is ever let
through.
What is left can still mislead: characters that turn the direction of writing, are not seen, or pile up on one another.

The result holds no control character but, where asked for, `\\n`; and its width on the screen is what `wcwidth` says, since
what terminals disagree on (joiners, variation selectors) is taken out.
"""

from __future__ import annotations

import unicodedata
from typing import Final

#: Marks on one character; real languages do with three.
MAX_MARKS: Final = 4
#: Of one message on the screen; the rest is counted. Arbitrary: about four screens.
MAX_TEXT_CHARS: Final = 8000
#: Of a name on the screen.
MAX_NAME_CHARS: Final = 64
TAB: Final = "    "
#: Shown for what is not.
REPLACEMENT: Final = "\ufffd"
#: Carries marks that have nothing to stand on.
_BASE: Final = "\u25cc"
_ZWNJ: Final = "\u200c"
_ZWJ: Final = "\u200d"

# Turn the direction of what follows, also beyond the text they are in: shown as a replacement, so that the reader sees it.
_OVERRIDES: Final = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
# Not seen, and no loss when gone: direction marks, soft hyphen, zero-width spaces, joiners of words, variation selectors.
_UNSEEN: Final = frozenset(
    map(
        chr,
        [
            0xAD,
            0x34F,
            0x61C,
            0x180E,
            0x200B,
            0x200E,
            0x200F,
            *range(0x2060, 0x2066),
            *range(0x206A, 0x2070),
            0xFEFF,
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ],
    )
)
# Look like a space or nothing, though they are letters.
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0")
# Newer than this Python's tables, but sure to be pictures or ideographs.
_GROWING: Final = (range(0x1F000, 0x1FC00), range(0x20000, 0x2FFFE), range(0x30000, 0x3FFFE))


def clean_text(text: str, *, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return a text of several lines, fit for a terminal.

    Lines end with `\\n` alone. Longer than `max_chars` it is cut, and says by how much.
    """
    cut = len(text) - max_chars
    shown = _clean(text[:max_chars].replace("\r\n", "\n"), "\n")
    return f"{shown} … ({cut} more characters)" if cut > 0 else shown


def clean_line(text: str, *, max_chars: int = MAX_NAME_CHARS) -> str:
    """Return a text of one line, fit for a terminal: a name, a title, an error. Longer than `max_chars` it ends with `…`."""
    shown = _clean(text[: max_chars + 1], " ").strip()
    return shown[: max_chars - 1] + "…" if len(shown) > max_chars else shown


def _clean(text: str, line_end: str) -> str:
    result: list[str] = []
    marks = 0
    has_base = False
    for char in text:
        category = unicodedata.category(char)
        if char in ("\n", "\u2028", "\u2029", "\x85"):
            result.append(line_end)
            has_base = line_end != "\n"
        elif (category in ("Mn", "Me", "Mc") and char not in _UNSEEN) or char in (_ZWNJ, _ZWJ):
            if char == _ZWJ and (not result or unicodedata.category(result[-1][-1]) not in ("Lo", "Mn", "Mc")):
                continue  # it would join pictures, and terminals disagree on the width of that
            marks += 1
            if marks <= MAX_MARKS:
                if not has_base:
                    result.append(_BASE)
                    has_base = True
                result.append(char)
            continue
        elif (shown := _shown(char, category)) != "":
            result.append(shown)
            has_base = True
        else:
            continue  # nothing came between: the marks on both sides are one pile
        marks = 0
    return "".join(result)


def _shown(char: str, category: str) -> str:
    if char == "\t":
        return TAB
    if category == "Cc":
        point = ord(char)
        # The pictures of control characters: U+2400 …
        return chr(0x2400 + point) if point < 0x20 else "\u2421" if point == 0x7F else REPLACEMENT
    if char in _UNSEEN:
        return ""
    if char in _OVERRIDES or char in _FILLERS or category in ("Cs", "Co", "Cf", "Zl", "Zp"):
        return REPLACEMENT
    if category == "Cn" and not any(ord(char) in known for known in _GROWING):
        return REPLACEMENT
    return " " if category == "Zs" and char != "\u3000" else char
