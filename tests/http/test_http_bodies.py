"""The body reader without a connection: any cutting gives the same body, and nothing beyond it is touched."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.http.body import MAX_EXTRA_BYTES, MAX_LINE_BYTES, BodyReader
from imserver.http.errors import HttpError

NEXT = b"GET / HTTP/1.1\r\n"


def read(reader, parts):
    """(body, what is left of the parts, how many of them the body needed)."""
    body, buffer = b"", bytearray()
    for number, part in enumerate(parts):
        buffer += part
        body += reader.take(buffer)
        if reader.is_done:
            return body, bytes(buffer) + b"".join(parts[number + 1 :])
        assert len(buffer) <= MAX_LINE_BYTES + 2  # only a line can wait for its end
    raise AssertionError("the body has no end")


chunks = st.lists(st.binary(min_size=1, max_size=300), max_size=8)
extensions = st.sampled_from([b"", b";", b";a", b'; a = "b c"', b";\t\xe9"])
trailers = st.lists(st.sampled_from([b"A: b\r\n", b"Content-Length: 5\r\n", b"x:\r\n"]), max_size=3)


@given(chunks, extensions, trailers, st.booleans(), st.integers(0, 3), st.lists(st.integers(0, 4000)))
def test_chunks_any_way(parts, extension, lines, upper, zeros, cuts):
    """Whole, byte by byte, cut anywhere, with the next request behind."""
    data = b""
    for part in parts:
        size = b"0" * zeros + b"%x" % len(part)
        data += (size.upper() if upper else size) + extension + b"\r\n" + part + b"\r\n"
    data += b"0" + b"0" * zeros + extension + b"\r\n" + b"".join(lines) + b"\r\n" + NEXT
    cuts = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    ways = [[data], [bytes([byte]) for byte in data], [data[a:b] for a, b in pairwise(cuts)]]
    for way in ways:
        assert read(BodyReader(None, None), way) == (b"".join(parts), NEXT)


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_a_length_any_way(body, step):
    """Exactly so many bytes are taken."""
    data = body + NEXT
    reader = BodyReader(len(body), None)
    if not body:
        assert reader.is_done
        return
    way = [data[position : position + step] for position in range(0, len(data), step)]
    assert read(reader, way) == (body, NEXT)


@given(st.binary(max_size=400), st.integers(1, 20))
def test_any_bytes(data, step):
    """They are a body, the beginning of one, or refused; cutting makes no difference."""

    def outcome(way):
        reader, body, buffer = BodyReader(None, 100), b"", bytearray()
        try:
            for part in way:
                buffer += part
                if not reader.is_done:
                    body += reader.take(buffer)
        except HttpError as refusal:
            return refusal.status
        return body, bytes(buffer), reader.is_done

    def ways(prefix):
        whole = prefix + data
        return [[whole], [whole[at : at + step] for at in range(0, len(whole), step)]]

    for prefix in (b"", b"5\r\nhello\r\n", b"0\r\n", b"3"):
        first, second = (outcome(way) for way in ways(prefix))
        assert first == second


@pytest.mark.parametrize(("size", "is_too_large"), [(10, False), (11, True)])
def test_the_limit(size, is_too_large):
    """It is of the data, and known before it comes."""
    data = bytearray(b"%x\r\n" % size)
    reader = BodyReader(None, 10)
    if is_too_large:
        with pytest.raises(HttpError, match="at most 10 bytes"):
            reader.take(data)
        with pytest.raises(HttpError, match="at most 10 bytes"):
            BodyReader(size, 10)
    else:
        assert reader.take(data) == b""
        assert BodyReader(size, 10).left_bytes == size


@pytest.mark.parametrize("extra", [b"1;" + b"a" * 199 + b"\r\nx\r\n", b"A:" + b"b" * 198 + b"\r\n"])
def test_extras_are_bounded(extra):
    """Extensions and trailers are of no use, and do not go on for ever."""
    reader = BodyReader(None, None)
    buffer = bytearray(b"" if extra.startswith(b"1") else b"0\r\n")
    buffer += extra * (MAX_EXTRA_BYTES // 200)
    reader.take(buffer)
    assert not buffer
    with pytest.raises(HttpError, match="extensions and trailers"):
        reader.take(bytearray(extra * 2))
