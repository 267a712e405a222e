"""What is no valid request, or what two parsers could read in two ways: one refusal, the end, and nothing reaches the app.

The corpus follows RFC 9112 and what is known of request smuggling: the server may stand behind a proxy that reads more
kindly, or less.
"""

import pytest
from http_rig import GET, HOST, echo, serving, split_answers

POST = b"POST /echo HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"

HEADS = {
    # Where does it end? (what follows is a request only to one of two parsers)
    "cl-te": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "te-cl": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\nZ\r\n0\r\n\r\n",
    "cl-spaces": POST + b"Content-Length: 1," + b" " * 15_000 + b"1\r\n\r\nG",  # a second of a lazy match
    "cl-0-te": POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" + INNER,
    "te-te": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "te-twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-list": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "te-list-end": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te-identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
    "te-prefix": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "te-quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "te-parameter": POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "te-empty": POST + b"Transfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc",
    "te-space-before-colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "te-tab-before-colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "te-vertical-tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "te-form-feed": POST + b"Transfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n",
    "te-nul": POST + b"Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
    "te-folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "te-behind-a-bare-lf": POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-behind-a-bare-cr": POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-behind-a-space": b"POST /echo HTTP/1.1\r\n Transfer-Encoding: chunked\r\n" + HOST + b"\r\n0\r\n\r\n",
    "te-of-1.0": b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "cl-cl": POST + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "cl-twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "cl-twice-in-other-case": POST + b"content-length: 3\r\nCONTENT-LENGTH: 3\r\n\r\nabc",
    "cl-list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "cl-list-conflict": POST + b"Content-Length: 3, 5\r\n\r\nabcde",
    "cl-plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "cl-minus": POST + b"Content-Length: -3\r\n\r\nabc",
    "cl-hex": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "cl-decimal": POST + b"Content-Length: 3.0\r\n\r\nabc",
    "cl-words": POST + b"Content-Length: 3 3\r\n\r\nabc",
    "cl-underscore": POST + b"Content-Length: 1_0\r\n\r\n0123456789",
    "cl-empty": POST + b"Content-Length:\r\n\r\nabc",
    "cl-other-digits": POST + "Content-Length: \u0663\r\n\r\nabc".encode(),
    "cl-19-digits": POST + b"Content-Length: 9223372036854775808\r\n\r\nabc",
    "cl-endless": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    "cl-space-before-colon": POST + b"Content-Length : 3\r\n\r\nabc",
    "cl-folded": POST + b"Content-Length: 3\r\n 0\r\n\r\nabc",
    # Lines
    "lf-only": b"GET / HTTP/1.1\nHost: x\n\n",
    "lf-in-the-middle": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "lf-at-the-end": b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    "lf-before-the-end": b"GET / HTTP/1.1\r\nHost: x\n\r\n\r\n",
    "cr-only": b"GET / HTTP/1.1\rHost: x\r\r",
    "cr-in-a-value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
    "cr-cr-lf": b"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "folded-by-tab": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n",
    "folded-first": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "blank-line-of-spaces": b"GET / HTTP/1.1\r\nHost: x\r\n \r\n" + INNER,
    "empty-line-first": b"\r\n" + GET,
    # Names and values
    "nul-in-a-name": b"GET / HTTP/1.1\r\nHost: x\r\nA\x00B: c\r\n\r\n",
    "nul-in-a-value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    "escape-in-a-value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x1b[31mc\r\n\r\n",
    "delete-in-a-value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x7fc\r\n\r\n",
    "latin-1-in-a-name": b"GET / HTTP/1.1\r\nHost: x\r\nA\xe9: c\r\n\r\n",
    "space-in-a-name": b"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
    "space-before-colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "empty-name": b"GET / HTTP/1.1\r\nHost: x\r\n: c\r\n\r\n",
    "no-colon": b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
    # Host
    "host-missing": b"GET / HTTP/1.1\r\n\r\n",
    "host-empty": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "host-twice": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "host-twice-the-same": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "host-list": b"GET / HTTP/1.1\r\nHost: x, y/z\r\n\r\n",
    "host-with-path": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "host-with-user": b"GET / HTTP/1.1\r\nHost: a@x\r\n\r\n",
    "host-with-odd-port": b"GET / HTTP/1.1\r\nHost: x:8o\r\n\r\n",
    "host-open-bracket": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    # Targets
    "target-relative": b"GET livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-empty": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-with-space": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-with-nul": b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-with-escaped-nul": b"GET /a%00b HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-with-fragment": b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-of-utf-8": "GET /\u00e9 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "target-of-authority": b"GET example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-asterisk": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-other-scheme": b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-with-user": b"GET http://a@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "target-without-host": b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n",
    # Methods and versions
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    "lower-case-method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown-method": b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    "method-with-at": b"GE@T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "space-before-method": b" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tabs": b"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "0.9": b"GET /\r\n",
    "0.9-with-end": b"GET /\r\n\r\n",
    "version-0.9": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    "version-1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "version-2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "version-long": b"GET / HTTP/1.10\r\nHost: x\r\n\r\n",
    "version-lower-case": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "version-missing": b"GET / \r\nHost: x\r\n\r\n",
    "space-behind-version": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "proxy-header": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET,
    "garbage": b"GARBAGE\r\n\r\n",
    "frame": b"\x00\x00\x00\x08\x00\x01\x01\x00",
    "cut-off": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "expectation": POST + b"Expect: a-miracle\r\nContent-Length: 3\r\n\r\nabc",
    # Size
    "long-target": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long-value": b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 64_000 + b"\r\n\r\n",
    "long-name": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 20_000 + b": b\r\n\r\n",
    "long-method": b"A" * 20_000,
    "many-headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 100 + b"\r\n",
    "endless-head": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 100_000,
}

BODIES = {
    "size-0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size-plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size-minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size-space-behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "size-space-before": b" 5\r\nhello\r\n0\r\n\r\n",
    "size-tab": b"5\t\r\nhello\r\n0\r\n\r\n",
    "size-empty": b"\r\nhello\r\n0\r\n\r\n",
    "size-underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "size-words": b"5 5\r\nhello\r\n0\r\n\r\n",
    "size-nul": b"5\x00\r\nhello\r\n0\r\n\r\n",
    "size-no-hex": b"ZZ\r\n",
    "size-huge": b"fffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "size-over-64-bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size-endless": b"0" * 5000 + b"5\r\nhello\r\n0\r\n\r\n",
    "size-quoted-extension-over-lines": b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
    "extension-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension-lf": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "extension-nul": b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    "extension-space-before": b"5 ;a=b\r\nhello\r\n0\r\n\r\n",
    "extension-long": b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "extensions-many": (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n",
    "line-lf": b"5\nhello\n0\n\n",
    "line-cr": b"5\rhello\r0\r\r",
    "line-cr-cr-lf": b"5\r\r\nhello\r\n0\r\n\r\n",
    "data-longer": b"5\r\nhello!\r\n0\r\n\r\n",
    "data-shorter": b"5\r\nhell\r\n0\r\n\r\n",
    "data-end-lf": b"5\r\nhello\n0\r\n\r\n",
    "data-end-missing": b"5\r\nhello0\r\n\r\n",
    "trailer-lf": b"0\r\nA: b\n\n" + INNER,
    "trailer-folded": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer-no-colon": b"0\r\nA\r\n\r\n",
    "trailer-nul": b"0\r\nA: \x00\r\n\r\n",
    "trailer-space-before-colon": b"0\r\nA : b\r\n\r\n",
    "trailer-long": b"0\r\nA: " + b"b" * 300 + b"\r\n\r\n",
    "trailers-many": b"0\r\n" + b"A: bcdefghijklmnopqrstuvwxyz\r\n" * 1000 + b"\r\n",
    "end-cr": b"0\r\n\r" + INNER,
    "end-lf": b"0\r\n\n" + INNER,
    "cut-off-in-size": b"5",
    "cut-off-in-data": b"5\r\nhe",
    "cut-off-in-trailers": b"0\r\nA: b\r\n",
    "cut-off-before-end": b"0\r\n",
    "too-much": b"100001\r\n" + b"x" * 0x100001 + b"\r\n0\r\n\r\n",
    "too-much-in-little-chunks": b"400\r\n%s\r\n" % (b"x" * 0x400) * 0x401 + b"0\r\n\r\n",
}


def seen(log):
    """An app that notes what it is asked, and what it has got whole."""

    async def app(scope, receive, send):
        log.append(scope["path"])
        await echo(scope, receive, send)

    return app


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_is_refused(name):
    """4xx or 5xx, once, without asking the app; the connection ends; the next one is served."""
    log = []
    async with serving(seen(log)) as rig:
        (answer,) = await rig.ask(HEADS[name] + INNER)
        assert 400 <= answer.status <= 505
        assert answer.status not in (500, 503, 504)
        assert answer.headers["connection"] == "close"
        assert answer.body.endswith(b"\n")
        assert log == []
        (answer,) = await rig.ask(GET)
        assert (answer.status, log) == (200, ["/"])


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_is_refused_behind_a_good_request(name):
    """The good one is answered, the other one refused; what follows is not looked at."""
    log = []
    async with serving(seen(log)) as rig:
        first, second = await rig.ask(GET + HEADS[name] + INNER)
        assert (first.status, first.body) == (200, b"GET / \n")
        assert second.status >= 400
        assert log == ["/"]


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_is_refused_byte_by_byte(name):
    """How it is cut into packets changes nothing."""
    log = []
    async with serving(seen(log)) as rig:
        data = HEADS[name]
        (whole,) = await rig.ask(data[:15_000])
        client = rig.connect()
        for position in range(min(len(data), 400)):
            await client.send(data[position : position + 1])
        await client.send(data[400:15_000])
        client.end()
        (answer,) = split_answers(await client.read_all())
        assert answer.status == whole.status
        assert log == []


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_refused(name):
    """The app sees the client go, never a whole body; one refusal; nothing of what follows is a request."""
    whole = []

    async def app(scope, receive, send):
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                whole.append((scope["path"], body))
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body"})
                return

    async with serving(app) as rig:
        cut_off = b"" if name.startswith("cut-off") else INNER
        (answer,) = await rig.ask(CHUNKED + BODIES[name] + cut_off)
        assert answer.status == (413 if "too-much" in name or name == "size-huge" else 400)
        assert answer.headers["connection"] == "close"
        assert whole == []
        (answer,) = await rig.ask(GET)
        assert (answer.status, whole) == (200, [("/", b"")])


@pytest.mark.parametrize("version", [b"1.2", b"2.0", b"0.9"])
async def test_another_version(version):
    """505 says which one is spoken."""
    async with serving(echo) as rig:
        (answer,) = await rig.ask(b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.body) == (505, b"this server speaks HTTP/1.1\n")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("trace", 501),
        ("many-headers", 431),
        ("long-value", 431),
        ("expectation", 417),
        ("te-list", 501),
        ("host-missing", 400),
    ],
)
async def test_the_status_says_why(name, status):
    """A client can tell what to change."""
    async with serving(echo) as rig:
        (answer,) = await rig.ask(HEADS[name])
        assert answer.status == status


@pytest.mark.parametrize("path", [b"/v1", b"/v1/users", b"/v1/x?y=z"])
async def test_refusals_below_v1_are_json(path):
    """They have the fields of an error answer; other paths get text."""
    async with serving(echo) as rig:
        head = b"POST %s HTTP/1.1\r\n" % path + HOST + b"Content-Length: 9999999\r\n\r\n"
        (answer,) = await rig.ask(head)
        assert answer.headers["content-type"] == "application/json"
        assert answer.body == b'{"code": 413, "error": "too_large", "message": "a body has at most 1048576 bytes"}\n'
        (answer,) = await rig.ask(head.replace(path, b"/v10"))
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_refusal_echoes_nothing():
    """What the client sent is not in the answer: it could be shown in a browser."""
    async with serving(echo) as rig:
        for data in (
            b"GET /<script> HTTP/1.1\r\n\r\n",
            b"<script> / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n<script>: x\r\n\r\n",
        ):
            answer = await rig.exchange(data)
            assert answer.startswith(b"HTTP/1.1 4")
            assert b"script" not in answer


@pytest.mark.parametrize("data", [b"HEAD / HTTP/1.1\r\n\r\n", b"HEAD / HTTP/2.0\r\nHost: x\r\n\r\n"])
async def test_a_refused_head_has_no_body(data):
    """A client does not read one, and would take it for the next answer."""
    async with serving(echo) as rig:
        answer = await rig.exchange(data)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))
        assert answer.endswith(b"\r\n\r\n")
        assert b"content-length" not in answer.lower()
