"""Ranges and conditions, against slices of a bytes object; and the answers that they lead to."""

import pytest
from file_rig import site
from hypothesis import given
from hypothesis import strategies as st

from imserver_plugins.file.ranges import ContentRange, Unsatisfiable, content_range, is_range_valid, is_unchanged, wanted

DATA = bytes(range(100))


def cut(data, header):
    """The bytes that a header asks for, None for all of them."""
    found = wanted(header, len(data))
    return None if found is None else data[found.start : found.start + found.length]


@given(st.binary(max_size=20), st.integers(0, 25), st.integers(0, 25))
def test_first_to_last_is_a_slice(data, first, last):
    """bytes=a-b is data[a:b+1]; 416 where that begins behind the end; ignored where b is before a."""
    if last < first:
        assert cut(data, f"bytes={first}-{last}") is None
    elif first >= len(data):
        with pytest.raises(Unsatisfiable):
            cut(data, f"bytes={first}-{last}")
    else:
        assert cut(data, f"bytes={first}-{last}") == data[first : last + 1]


@given(st.binary(max_size=20), st.integers(0, 25))
def test_open_ends_are_slices(data, number):
    """bytes=a- is data[a:], bytes=-n the last n bytes."""
    for header, part in ((f"bytes={number}-", data[number:]), (f"bytes=-{number}", data[-number:] if number else b"")):
        if part:
            assert cut(data, header) == part
        else:
            with pytest.raises(Unsatisfiable):
                cut(data, header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1,3-4",
        "items=0-1",
        "bytes=0-1x",
        "bytes=--1",
        "bytes=0x1-2",
    ],
)
def test_what_is_no_single_range_is_ignored(header):
    """The whole file is the answer."""
    assert wanted(header, 100) is None


def test_numbers_of_any_length_are_numbers():
    """A digit string that no integer should be made of is far behind the end."""
    assert cut(DATA, "bytes=90-" + "9" * 5000) == DATA[90:]
    assert cut(DATA, "bytes=-" + "9" * 5000) == DATA
    with pytest.raises(Unsatisfiable):
        cut(DATA, "bytes=" + "9" * 5000 + "-")


@given(st.text(max_size=30))
def test_any_text_is_a_range_or_not(text):
    """Whatever it is: a slice inside of the file, nothing, or 416."""
    try:
        found = wanted("bytes=" + text, 10)
    except Unsatisfiable:
        return
    assert found is None or (0 <= found.start < 10 and 1 <= found.length <= 10 - found.start)


def test_conditions_of_tags():
    """If-None-Match compares weakly and takes lists; If-Range takes the one strong tag alone."""
    for header, is_it in (('"a"', True), ('W/"a"', True), ('"b", W/"a"', True), ("*", True), ('"b"', False), ("a", False),
                          ("", False), (None, False), ('"b","c"', False), ('"a', False)):  # fmt: skip
        assert is_unchanged(header, "a") is is_it, header
    for header, is_it in (('"a"', True), (None, True), ('W/"a"', False), ('"b"', False),
                          ("Wed, 21 Oct 2026 07:28:00 GMT", False)):  # fmt: skip
        assert is_range_valid(header, "a") is is_it, header


def test_content_range_of_a_part():
    """FIRST-LAST/TOTAL, and nothing that contradicts itself."""
    assert content_range("bytes 0-9/100") == ContentRange(0, 10, 100)
    for header in ("bytes 5-4/10", "bytes 0-10/10", "bytes */10", "bytes 0-1/*", "0-1/2", "bytes 0-1", "bytes -1-2/5", ""):
        assert content_range(header) is None, header


async def test_answers_to_ranges(tmp_path):
    """206 with the bytes, 416 with the size, 200 where the condition or the method does not hold, 304 without a body."""
    async with site(tmp_path) as files:
        file_id = (await files.upload(data=DATA))["file_id"]
        tag = (await files.get("alice", file_id)).headers["etag"]

        part = await files.get("alice", file_id, Range="bytes=10-19")
        assert (part.status, part.body, part.headers["content-range"]) == (206, DATA[10:20], "bytes 10-19/100")
        assert part.headers["content-length"] == "10"
        part = await files.get("alice", file_id, **{"Range": "bytes=-5", "If-Range": tag})
        assert (part.status, part.body) == (206, DATA[95:])
        whole = await files.get("alice", file_id, **{"Range": "bytes=-5", "If-Range": '"other"'})
        assert (whole.status, whole.body) == (200, DATA)
        beyond = await files.get("alice", file_id, Range="bytes=100-")
        assert (beyond.status, beyond.body, beyond.headers["content-range"]) == (416, b"", "bytes */100")
        same = await files.get("alice", file_id, **{"If-None-Match": f'"x", {tag}', "Range": "bytes=0-1"})
        assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in same.headers
        head = await files.get("alice", file_id, "HEAD", Range="bytes=0-1")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "100")
        assert head.headers["accept-ranges"] == "bytes"


async def test_a_large_file_is_read_in_steps(tmp_path):
    """A range over several steps is exact at both ends."""
    data = b"".join(number.to_bytes(4, "big") for number in range(300_000))
    async with site(tmp_path) as files:
        file_id = (await files.upload(data=data))["file_id"]
        part = await files.get("alice", file_id, Range="bytes=100001-1000002")
        assert part.body == data[100001:1000003]


async def test_a_file_whose_bytes_are_gone(tmp_path):
    """Somebody removed it from the disk: 404 as for any other; one that was cut short breaks off."""
    async with site(tmp_path) as files:
        file_id = (await files.upload(data=DATA))["file_id"]
        files.state.files.path(file_id).write_bytes(DATA[:50])
        with pytest.raises(Exception, match="50 bytes shorter"):
            await files.get("alice", file_id)
        files.state.files.path(file_id).unlink()
        assert (await files.get("alice", file_id)).status == 404
