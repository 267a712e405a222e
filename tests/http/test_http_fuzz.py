"""Any bytes, and good requests with anything done to them: answers or the end, never a fault, never a task that stays."""

import re

import structlog
import trio
import trio.testing
from http_rig import GET, HOST, echo, serving, split_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.http.server import Accepted

GOOD = [
    GET,
    b"POST /v1/users?a=b HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nA: b\r\n\r\n",
    b"PUT /a%20b HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"HEAD http://y/ HTTP/1.0\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.1\r\n\r\n",
    b"GET /ws HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x85abcd",
]
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\x00",
    b":",
    b"0",
    b"-1",
    b"chunked",
    b"Content-Length: 3\r\n",
    b"\xff",
    b"%00",
    b";",
    *GOOD,
]
requests = st.lists(st.sampled_from(GOOD), min_size=1, max_size=3).map(b"".join)


@st.composite
def mutated(draw):
    """Good requests with pieces cut out, put in, and bytes changed."""
    data = bytearray(draw(requests))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.one_of(st.just(start), st.integers(start, min(len(data), start + 20))))
        data[start:end] = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4), st.just(b"")))
    return bytes(data)


def serve(data, step):
    """What a server answers to these bytes, and how often the app was asked; it must end by itself, without a fault."""
    asked = []

    async def app(scope, receive, send):
        asked.append(scope["path"])
        await echo(scope, receive, send)

    async def door(request):
        return Accepted([("Upgrade", "websocket"), ("Connection", "Upgrade")], lambda sock, unread: sock.close())

    async def main():
        async with serving(app, upgrade=door) as rig:
            client = rig.connect()
            for position in range(0, len(data), step):
                await client.send(data[position : position + step])
            client.end()
            answer = await client.read_all()
            await trio.testing.wait_all_tasks_blocked()
            assert rig.server.connections == 0
            return answer

    with structlog.testing.capture_logs() as log:
        answer = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not [event for event in log if event["log_level"] in ("error", "critical")], log
    return answer, asked


def check(data, step):
    """The properties that hold for any bytes."""
    answer, asked = serve(data, step)
    if b"HEAD" not in data:
        answers = [got for got in split_answers(answer) if got.status != 100]
        # One answer for each request that the app has seen, and one more at most for what could not be read.
        assert len(asked) <= len(answers) <= len(asked) + 1
        for got in answers[:-1]:
            assert got.status == 200
            assert "connection" not in got.headers
        assert not answers or answers[-1].status != 500


@given(st.binary(max_size=300), st.sampled_from([1, 17, 1000]))
@settings(max_examples=100, deadline=None)
def test_any_bytes(data, step):
    """A refusal, or silence and the end."""
    check(data, step)


@given(mutated(), st.sampled_from([1, 17, 100_000]))
@settings(max_examples=300, deadline=None)
def test_anything_done_to_good_requests(data, step):
    """Answers, at most one refusal, the end."""
    check(data, step)


def statuses(answer):
    return re.findall(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ", answer)


@given(mutated(), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_packets_make_no_difference(data, step):
    """The same bytes in other packets get the same answers from an app that was asked the same."""
    (whole, asked), (pieces, asked_by_pieces) = (serve(data, size) for size in (100_000, step))
    assert statuses(whole) == statuses(pieces)
    assert asked == asked_by_pieces
