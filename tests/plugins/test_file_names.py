"""Names and types as hostile clients send them."""

import pytest
from file_rig import site
from hypothesis import given
from hypothesis import strategies as st

from imserver.plugin import InvalidBody
from imserver_plugins.file.names import (
    clean_name,
    content_disposition,
    is_allowed,
    media_type,
    name_from_form,
    name_from_headers,
    safe_image,
)
from imserver_plugins.file.settings import Settings

CASES = [
    ("report.pdf", "report.pdf"),
    ("../../etc/passwd", "passwd"),
    ("C:\\Windows\\system32\\cmd.exe", "cmd.exe"),
    ("/", "file"),
    ("", "file"),
    (".", "file"),
    ("..", "file"),
    ("...bashrc", "bashrc"),
    ("a\r\nSet-Cookie: x=y", "aSet-Cookie: x=y"),
    ("a\0b.txt", "ab.txt"),
    ("evil\u202egpj.exe", "evilgpj.exe"),
    ("\u2066a\u2069\u200f\ufeff", "a"),
    ("a\u2028b\u2029c", "abc"),
    ("\ud800", "file"),
    ("报告 (最终).docx", "报告 (最终).docx"),
    ("e\u0301.txt", "é.txt"),
    ("👨\u200d👩\u200d👧.png", "👨\u200d👩\u200d👧.png"),
    ("a" * 300 + ".jpeg", "a" * 250 + ".jpeg"),
    ("报" * 300 + ".txt", "报" * 83 + ".txt"),
    ("x." + "y" * 300, ("x." + "y" * 300)[:255]),
]


@pytest.mark.parametrize(("given_name", "kept"), CASES)
def test_names_are_cleaned(given_name, kept):
    """No path, no controls, nothing that turns the direction of writing, 255 bytes."""
    assert clean_name(given_name) == kept


@given(st.text(max_size=400))
def test_a_name_is_fit_for_a_header_whatever_it_was(name):
    """One line of ASCII, quotes balanced; and what was cleaned once is clean."""
    kept = clean_name(name)
    assert kept
    assert clean_name(kept) == kept
    assert len(kept.encode()) <= 255
    header = content_disposition(kept, is_inline=False)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    assert name_from_headers(None, header) == kept


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_headers_are_names_or_400(file_name, disposition):
    """No bytes in them lead to another error."""
    try:
        name = name_from_headers(file_name, disposition)
    except InvalidBody:
        return
    assert name is None or clean_name(name)


@pytest.mark.parametrize(
    ("file_name", "disposition", "name"),
    [
        ("a%20b.txt", None, "a b.txt"),
        ("UTF-8''%E2%82%AC.txt", None, "€.txt"),
        ("iso-8859-1'en'%A3.txt", None, "£.txt"),
        (None, 'attachment; filename="a \\"b\\".txt"', 'a "b".txt'),
        (None, "attachment; filename=plain.txt", "plain.txt"),
        (None, "attachment; filename=\"x.txt\"; filename*=UTF-8''%E2%82%AC.txt", "€.txt"),
        (None, "attachment; filename*=UTF-8''a%22b; filename=\"x\"", 'a"b'),
        (None, "attachment", None),
        (None, None, None),
        ("it's.txt", None, "it's.txt"),
        (None, 'form-data; name="filename=x"', None),
        (None, 'attachment; filename="é.txt"'.encode().decode("latin-1"), "é.txt"),
    ],
)
def test_names_in_headers(file_name, disposition, name):
    """X-File-Name first, then filename*, then filename."""
    assert name_from_headers(file_name, disposition) == name


@pytest.mark.parametrize("header", ["%FF", "utf-16''%00a", "UTF-8''%FF"])
def test_names_that_are_no_text(header):
    """400 with what to do."""
    with pytest.raises(InvalidBody):
        name_from_headers(header if "''" not in header else None, f"attachment; filename*={header}")
    with pytest.raises(InvalidBody):
        name_from_form(b"\xff\xfe")


@pytest.mark.parametrize(
    ("header", "media"),
    [
        ("image/PNG", "image/png"),
        ("text/plain; charset=utf-8", "text/plain"),
        (" application/vnd.x+json ", "application/vnd.x+json"),
        ("", None),
        (None, None),
        ("application/x-www-form-urlencoded", None),
    ],
)
def test_media_types(header, media):
    """Lower case, without parameters; what curl says of its own accord means nothing."""
    assert media_type(header) == media


@pytest.mark.parametrize(
    "header", ["text", "text/", "/plain", "text/pl ain", "a/b\r\nX: y", "a/b, c/d", "é/x", "a/" + "b" * 130]
)
def test_what_is_no_media_type(header):
    """400: it would go into a header of the answer."""
    with pytest.raises(InvalidBody):
        media_type(header)


def test_patterns_of_types():
    """All, a family, one; settings refuse what is none."""
    assert is_allowed("image/png", ["*/*"])
    assert is_allowed("image/png", ["IMAGE/*"])
    assert is_allowed("image/png", ["text/plain", "image/png"])
    assert not is_allowed("image/png", ["image/p*", "text/*"])
    for wrong in ((), ("image",), ("*/png",), ("image/*", "")):
        with pytest.raises(ValueError, match="allowed_types"):
            Settings(allowed_types=wrong)


PICTURES = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\0\0\0\0WEBPVP8 ",
}


async def test_only_true_pictures_are_shown(tmp_path):
    """Inline: declared as what its first bytes are. Everything else is saved, SVG and HTML whatever they say."""
    async with site(tmp_path) as files:
        cases = [(kind, head, "inline") for kind, head in PICTURES.items()]
        cases += [(None, PICTURES["image/png"], "inline"), ("image/png", PICTURES["image/gif"], "attachment")]
        cases += [(kind, b"<svg onload=alert(1)>", "attachment") for kind in ("image/svg+xml", "image/png", "text/html")]
        cases += [("text/html", PICTURES["image/gif"] + b"<script>", "attachment"), ("image/png", b"", "attachment")]
        for kind, data, how in cases:
            headers = {} if kind is None else {"Content-Type": kind}
            sent = await files.ask("alice", "POST", "/v1/files", headers, data)
            got = await files.get("alice", sent.json["file_id"])
            assert got.headers["content-disposition"].split(";")[0] == how, (kind, data)
            assert got.headers["x-content-type-options"] == "nosniff"
            assert got.headers["content-type"] == (kind or safe_image(data))


async def test_a_hostile_name_ends_in_one_header(tmp_path):
    """From X-File-Name to Content-Disposition."""
    async with site(tmp_path) as files:
        hostile = "..%2F%E2%80%AEx%22%0D%0ASet-Cookie:%20a=b;%C3%A9.html"
        sent = await files.upload("alice", **{"X-File-Name": hostile})
        assert sent["name"] == 'x"Set-Cookie: a=b;é.html'
        header = (await files.get("alice", sent["file_id"])).headers["content-disposition"]
        assert header == (
            'attachment; filename="x_Set-Cookie: a=b;_.html"; '
            "filename*=UTF-8''x%22Set-Cookie%3A%20a%3Db%3B%C3%A9.html"
        )  # fmt: skip
