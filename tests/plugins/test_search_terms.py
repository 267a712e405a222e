"""What a text is found by, against every text that hypothesis thinks of, and the real index."""

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver_plugins.search import terms
from imserver_plugins.search.store import index

# One code point each that stays one when folded: Han of both planes, kana, Hangul, Thai.
CJK = st.sampled_from("你好吗世界中文天气今很我们去吃饭龍龜々〆ー𠀀𪛖あいうえおがぱアイウガパ한국어가나다กขคง")
ANY = st.text(max_size=60)
MIXED = st.text(st.one_of(CJK, st.sampled_from("ab Z9_-.,!?\"'*()\u3000\ue000é")), max_size=40)
# What FTS5 would take for syntax.
HOSTILE = st.lists(
    st.sampled_from(
        ['"', "'", "*", "(", ")", "NEAR", "NEAR(", "AND", "OR", "NOT", "terms:", "terms : ", "-", "^", "+", "{", "}", ",",
         "/5", "\0", "\\", ";", "--", "\ue000", "\ue0001", "a", "b", "你", "你好", "%", "_", "ﬃ", "İ", "\u0301", "\ud7a3"]
    ),
    max_size=12,
).map(" ".join)  # fmt: skip


@pytest.fixture(scope="module")
def database():
    """The table of the index."""
    connection = apsw.Connection(":memory:")
    connection.execute(index.MIGRATIONS[0])
    return connection


def found(database, text, query):
    """Whether the index and the check both say that the text matches."""
    parsed = terms.parse(query)
    if parsed is None:
        return False
    database.execute("DELETE FROM search_index")
    database.execute("INSERT INTO search_index (rowid, terms) VALUES (7, ?)", (f"{terms.indexed_text(text)} \ue0001",))
    words = " AND ".join(f'"{term}"' for term in parsed.terms)
    sql = "SELECT rowid FROM search_index WHERE search_index MATCH ?"
    is_in_index = database.execute(sql, (f'("\ue0001") AND {words}',)).fetchall() == [(7,)]
    assert is_in_index or not parsed.matches(text), "the index must not hide what matches"
    return is_in_index and parsed.matches(text)


@given(before=MIXED, pair=st.tuples(CJK, CJK), after=MIXED)
@settings(max_examples=300)
def test_any_two_neighbours_are_found(database, before, pair, after):
    """Whatever stands around two characters of an unspaced script, also with other such characters beside them."""
    word = "".join(pair)
    assert found(database, before + word + after, word)
    assert found(database, before + word + after, pair[0])


@given(stretch=st.lists(CJK, min_size=1, max_size=12).map("".join), data=st.data())
def test_any_part_of_a_stretch_is_found(database, stretch, data):
    """From a single character to all of it."""
    start = data.draw(st.integers(0, len(stretch) - 1))
    end = data.draw(st.integers(start + 1, len(stretch)))
    assert found(database, f"Hello{stretch}!", stretch[start:end])


@given(text=st.one_of(ANY, MIXED), query=st.one_of(HOSTILE, ANY, MIXED))
@settings(max_examples=500)
def test_no_query_raises_or_finds_what_the_index_hides(database, text, query):
    """A query is data: no syntax of it reaches the index."""
    found(database, text, query)


@given(text=st.one_of(ANY, MIXED, HOSTILE))
@settings(max_examples=300)
def test_every_text_is_found_by_itself(database, text):
    """Unless there is nothing in it to look for."""
    assert found(database, text, text) == (terms.parse(text) is not None)


@pytest.mark.parametrize(
    ("text", "query", "is_found"),
    [
        ("Hello, World!", "world hello", True),
        ("Hello, World!", "wor", False),  # words are whole
        ("Hello, World!", "hello moon", False),
        ("ein Café in MÜNCHEN", "cafe munchen", True),
        ("ein Cafe in Munchen", "Café München", True),
        ("STRASSE", "straße", True),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "full width", True),
        ("snake_case.name-here", "case here", True),
        ("我的iPhone手机", "iphone", True),
        ("我的iPhone手机", "手机", True),
        ("我的iPhone手机", "的手", False),  # not side by side
        ("好吗？你好", "你好吗", False),  # has both pairs, not the word
        ("今天天气很好", "天气", True),
        ("今天天气很好", "气", True),
        ("今天天气很好", "今天 很好", True),
        ("プログラミング", "グラ", True),
        ("한국어를 배워요", "국어", True),
        ("हिन्दी में", "हिन्दी", True),
        ("हिन्दी में", "हिन", False),
        ("Привет, Мир", "привет", True),
        ("Ёлка", "елка", True),
        ("a" * 200, "a" * 200, True),
        ("x" * terms.MAX_CHARACTERS + " late", "late", False),
        ("not here", 'NOT "here"', True),
        ("nothing", "terms:nothing", False),
    ],
)
def test_what_is_found(database, text, query, is_found):
    """Cases with names."""
    assert found(database, text, query) is is_found


@pytest.mark.parametrize("query", ["", " ", "!?*\"'()", "\ue000", "___", "\u0301", "😀"])
def test_there_are_queries_without_anything_in_them(query):
    """Neither a letter nor a digit."""
    assert terms.parse(query) is None


def test_the_terms_of_a_query_are_bounded():
    """A long query asks the index for some of its words, and is checked for all."""
    words = " ".join(f"w{number}" for number in range(100))
    query = terms.parse(words)
    assert len(query.terms) == terms.MAX_QUERY_TERMS
    assert query.matches(words)
    assert not query.matches(words.replace("w99", ""))


@pytest.mark.parametrize(
    ("message_type", "body", "text"),
    [
        ("text", "hello", "hello"),
        ("text", {"text": "hello"}, ""),
        ("file", {"name": "report.pdf", "text": "as promised", "file_id": "abc"}, "report.pdf\nas promised"),
        ("file", {"name": 7, "text": None}, ""),
        ("custom", "opaque", ""),
        ("custom", ["a"], ""),
        ("custom", None, ""),
    ],
)
def test_what_a_message_is_found_by(message_type, body, text):
    """The text of a text; name and text of others, if they are strings."""
    assert terms.text_of(message_type, body) == text
