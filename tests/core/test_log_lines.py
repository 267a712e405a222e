"""The log's queue: nobody waits for its reader, the order stays, and what does not fit is counted."""

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from imserver import log_lines
from imserver.log_lines import LineWriter


class Pipe:
    """A stream whose reader stands still until the test reads."""

    def __init__(self):
        self.reading, self._writing = os.pipe()
        self.stream = open(self._writing, "w", encoding="utf-8")  # noqa: SIM115 - closed by the fixture

    def read(self, ends_with):
        """What has been written, up to a line that ends so."""
        data = b""
        while not data.endswith(ends_with.encode() + b"\n"):
            data += os.read(self.reading, 65536)
        return data.decode().splitlines()


@pytest.fixture
def pipe():
    """A pipe; both ends are closed afterwards, the reader's first, which ends a write that stands still."""
    made = Pipe()
    yield made
    os.close(made.reading)
    made.stream.close()


def never(lines):
    """Nothing is dropped."""
    raise AssertionError(lines)


def test_a_line_is_out_at_once(pipe):
    """Where there is room a line is written when the call returns, and no thread is made for it."""
    before = threading.active_count()
    LineWriter(pipe.stream, never).info("one \u00e9\udc80")
    assert os.read(pipe.reading, 100) == "one \u00e9\\udc80\n".encode()
    assert threading.active_count() == before


def test_lines_keep_their_order(pipe):
    """What is written comes, in order, and `flush` returns when it is out."""
    writer = LineWriter(pipe.stream, never)
    lines = [f"{number} " + "x" * (number % 7 * 1000) for number in range(2000)]
    with ThreadPoolExecutor() as others:
        read = others.submit(pipe.read, lines[-1])
        for line in lines:
            writer.info(line)
        assert writer.flush(20)
        assert read.result() == lines


def test_a_file(tmp_path):
    """A file, whose disk may hang, is written by the thread alone."""
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        writer = LineWriter(stream, never)
        for number in range(500):
            writer.info(f"line {number}")
        assert writer.flush()
    assert (tmp_path / "log").read_text().splitlines() == [f"line {number}" for number in range(500)]


@pytest.mark.parametrize(("width", "count"), [(10_000, 1000), (100, 3000)], ids=["long", "short"])
def test_a_reader_that_stands_still(pipe, monkeypatch, width, count):
    """Writing goes on at once; what is over the bound is dropped, counted and told when there is room again."""
    monkeypatch.setattr(log_lines, "MAX_LINES", 200)
    told = []
    writer = LineWriter(pipe.stream, lambda lines: (told.append(lines), writer.warning("told")))
    for number in range(count):
        writer.info(f"{number} " + "x" * width)
    assert writer.flush(0.05) is False, "nobody has read, and yet all is written"
    assert writer.dropped >= 500
    lines = pipe.read("told")
    assert told == [writer.dropped]
    numbers = [int(line.split()[0]) for line in lines[:-1]]
    assert numbers == sorted(numbers)
    assert len(numbers) + writer.dropped == count
    assert writer.flush()


def test_the_bound_in_characters(pipe, monkeypatch):
    """Long lines are bounded by their length together."""
    monkeypatch.setattr(log_lines, "MAX_CHARACTERS", 1 << 20)
    writer = LineWriter(pipe.stream, lambda lines: writer.warning("told"))
    for _ in range(30):
        writer.info("x" * 200_000)
    assert 10 < writer.dropped < 30
    pipe.read("told")


def test_a_stream_in_memory_has_its_line_at_once():
    """Nothing waits where nothing can stand still, and no thread is made for it."""
    stream = io.StringIO()
    before = threading.active_count()
    writer = LineWriter(stream, never)
    writer.info("one")
    assert stream.getvalue() == "one\n"
    assert threading.active_count() == before


def test_a_reader_that_is_gone():
    """Its lines go nowhere, and nobody is harmed."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        writer = LineWriter(stream, never)
        writer.info("one")
        assert writer.flush()
        writer.info("two")
        assert writer.flush()
