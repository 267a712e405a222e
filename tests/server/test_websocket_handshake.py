"""The handshake of /ws: who is let in, and what everybody else is told."""

import base64
import os
import socket

import pytest
from process import PASSWORD
from websocket_client import (
    BINARY,
    CLOSE,
    TEXT,
    WebSocketClient,
    accept_of,
    http_address,
    pack,
    parse_answer,
    refusal,
    upgrade,
)
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from wire import AUTH, ERROR, HELLO, LIST_DEVICES, encode

ME = "http://server.test"  # the Host that `upgrade` sends


def url_of(server):
    host, port = http_address(server)
    return f"ws://{host}:{port}/ws"


def test_a_client_that_is_not_ours(server):
    """`websockets` connects, with and without the sub-protocol, and is spoken to."""
    with connect(url_of(server)) as client:
        assert client.subprotocol is None
        client.send('{"cmd": 4, "rid": 7}')
        assert '"rid":7' in client.recv()
    with connect(url_of(server), subprotocols=["other", "imserver.v1"]) as client:
        assert client.subprotocol == "imserver.v1"


@pytest.mark.parametrize(
    "key", ["AAAAAAAAAAAAAAAAAAAAAA==", base64.b64encode(os.urandom(16)).decode()], ids=["zeros", "random"]
)
def test_accept_is_of_the_key(server, key):
    """Sec-WebSocket-Accept belongs to the client's own key."""
    with socket.create_connection(http_address(server), timeout=20) as sock:
        sock.sendall(upgrade(key=key))
        status, headers = parse_answer(sock.recv(65536).partition(b"\r\n\r\n")[0])
    assert (status, headers["sec-websocket-accept"]) == (101, accept_of(key))


@pytest.mark.parametrize(
    "header", ["Authorization: Bearer {}", "authorization: bearer {}", "Sec-WebSocket-Protocol: imserver.token.{}"]
)
def test_a_token_logs_in(server, header):
    """By header or sub-protocol; the connection is its user's, and the server answers nothing of its own."""
    user = server.login()
    client = WebSocketClient(server, headers=[header.format(user.token)])
    assert client.ok(LIST_DEVICES)["devices"]
    assert client.forms == [BINARY]
    assert client.ok(AUTH, token=user.token)["user_id"] == user.user
    client.fails(409, AUTH, token=server.login().token)


def test_which_sub_protocol_is_chosen(server):
    """`imserver.v1` where it is offered, else the token's, which a browser wants to see again; else none."""
    token = server.login().token
    offers = {
        f"imserver.v1, imserver.token.{token}": "imserver.v1",
        f"imserver.token.{token},imserver.v1": "imserver.v1",
        f"imserver.token.{token}": f"imserver.token.{token}",
        "chat, IMSERVER.V1": None,
    }
    for offered, chosen in offers.items():
        client = WebSocketClient(server, headers=[f"Sec-WebSocket-Protocol: {offered}"])
        assert client.headers.get("sec-websocket-protocol") == chosen
    client = WebSocketClient(
        server, headers=["Sec-WebSocket-Protocol: x", f"Sec-WebSocket-Protocol: imserver.token.{token}"]
    )
    assert client.ok(LIST_DEVICES)
    with connect(url_of(server), subprotocols=["imserver.v1", f"imserver.token.{token}"]) as other:
        assert other.subprotocol == "imserver.v1"


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer nonsense",
        "Authorization: Bearer ",
        "Authorization: Bearer",
        "Authorization: Basic YTpi",
        "Sec-WebSocket-Protocol: imserver.token.nonsense",
        "Sec-WebSocket-Protocol: imserver.v1, imserver.token.",
    ],
)
def test_a_bad_token(server, header):
    """401 at the handshake; a client that is not ours understands it."""
    status, headers, body = refusal(server, upgrade(header))
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert b"nonsense" not in body


def test_a_bad_token_of_a_client_that_is_not_ours(server):
    """`websockets` reports the 401."""
    with pytest.raises(InvalidStatus) as caught:
        connect(url_of(server), additional_headers={"Authorization": "Bearer nonsense"})
    assert caught.value.response.status_code == 401


def test_two_tokens(server):
    """The same one twice is one; two are 400, whoever they are of; two Authorization headers are 400."""
    one, other = server.login().token, server.login().token
    WebSocketClient(server, headers=[f"Authorization: Bearer {one}", f"Sec-WebSocket-Protocol: imserver.token.{one}"]).ok(
        LIST_DEVICES
    )
    for headers in (
        [f"Authorization: Bearer {one}", f"Sec-WebSocket-Protocol: imserver.token.{other}"],
        [f"Sec-WebSocket-Protocol: imserver.token.{one}, imserver.token.{other}"],
        [f"Authorization: Bearer {one}", f"Authorization: Bearer {one}"],
    ):
        assert refusal(server, upgrade(*headers))[0] == 400


@pytest.mark.parametrize(
    "query", ["token={}", "a=b&token={}", "access_token={}", "TOKEN={}", "%74oken={}", "Authorization=Bearer%20{}", "token="]
)
def test_a_token_in_the_url(server, query):
    """400, before anybody looks whether it is good: logs keep URLs."""
    token = server.login().token
    status, _, body = refusal(server, upgrade(path="/ws?" + query.format(token)))
    assert status == 400
    assert token.encode() not in body


def test_another_query(server):
    """What else stands in the URL is nobody's business."""
    with connect(url_of(server) + "?v=1&tokenless=yes&x=token") as client:
        client.send('{"cmd": 4, "rid": 1}')
        assert client.recv()


@pytest.fixture
def picky(make_server):
    """A server that lets in pages of its own host and of two others."""
    return make_server({"http.allowed_origins": '["self", "https://App.example", "https://port.example:8443"]'})


def test_origins(picky):
    """Its own host, by either scheme, and the list; whatever else a browser says is 403, and none at all is no browser."""
    WebSocketClient(picky)
    for origin in (
        ME,
        "https://server.test",
        "HTTP://Server.Test",
        "https://app.example",
        "HTTPS://APP.EXAMPLE",
        "https://port.example:8443",
    ):
        WebSocketClient(picky, headers=[f"Origin: {origin}"])
    for origin in (
        "null",
        "",
        "server.test",
        "//server.test",
        "http://server.test:81",
        "http://server.test.evil.example",
        "http://evil.example/http://server.test",
        "http://evil.example",
        "http://user@server.test",
        "http://server.test/",
        "ftp://server.test",
        "chrome-extension://server.test",
        "http://app.example",
        "https://app.example:444",
        "https://port.example",
        "https://app.example https://server.test",
        "self",
    ):
        assert refusal(picky, upgrade(f"Origin: {origin}"))[0] == 403, origin
    for second in (ME, "http://evil.example"):
        assert refusal(picky, upgrade(f"Origin: {ME}", f"Origin: {second}"))[0] == 400


def test_origin_and_ports(picky):
    """A default port is the same as none; another one is another origin."""
    WebSocketClient(picky, headers=[f"Origin: {ME}:80"])
    for host, origin, status in (
        ("server.test:8080", "http://server.test:8080", 101),
        ("server.test:80", "http://server.test", 101),
        ("server.test:443", "https://server.test", 101),
        ("server.test:8080", "http://server.test", 403),
        ("server.test", "http://server.test:8080", 403),
        ("[::1]:8080", "http://[::1]:8080", 101),
        ("[::1]:8080", "http://[::1]", 403),
    ):
        request = upgrade(f"Origin: {origin}", host=host)
        if status == 101:
            with socket.create_connection(http_address(picky), timeout=20) as sock:
                sock.sendall(request)
                assert sock.recv(65536).startswith(b"HTTP/1.1 101 "), (host, origin)
        else:
            assert refusal(picky, request)[0] == status, (host, origin)


def test_no_page_but_the_listed(make_server):
    """Without "self" in the list not even the server's own pages may connect."""
    server = make_server({"http.allowed_origins": '["https://app.example"]'})
    WebSocketClient(server, headers=["Origin: https://app.example"])
    status, _, body = refusal(server, upgrade(f"Origin: {ME}"))
    assert status == 403
    assert b"http.allowed_origins" in body


@pytest.mark.parametrize("version", ["12", "8", "0", "14", "13, 8", ""])
def test_versions(server, version):
    """Any version but 13 is 426 with the one that is spoken."""
    request = upgrade(f"Sec-WebSocket-Version: {version}", leave_out=["Sec-WebSocket-Version"])
    status, headers, _ = refusal(server, request)
    assert (status, headers["sec-websocket-version"]) == (426, "13")


def test_no_version(server):
    """None is 426, two are 400."""
    assert refusal(server, upgrade(leave_out=["Sec-WebSocket-Version"]))[0] == 426
    assert refusal(server, upgrade("Sec-WebSocket-Version: 13"))[0] == 400


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        "AAAAAAAAAAAAAAAAAAAAAAA=",
        "AAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAA AAAAAAAAAAAAAA==",
        "\xe9AAAAAAAAAAAAAAAAAAAAA==",
    ],
)
def test_bad_keys(server, key):
    """400 for a key that is not 16 bytes in base64."""
    assert refusal(server, upgrade(key=key))[0] == 400


def test_no_key(server):
    """None is 400, and so are two."""
    assert refusal(server, upgrade(leave_out=["Sec-WebSocket-Key"]))[0] == 400
    assert refusal(server, upgrade("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))[0] == 400


@pytest.mark.parametrize("path", ["/", "/ws/", "/WS", "/ws/x", "/v1/ws", "/livez"])
def test_other_paths(server, path):
    """404, and where it is."""
    status, _, body = refusal(server, upgrade(path=path))
    assert status == 404
    assert b"/ws" in body


def test_what_is_no_handshake(server):
    """POST, HTTP/1.0, no Upgrade, a body: an answer other than 101, never a hang."""
    for request in (
        upgrade(method="POST"),
        upgrade("Content-Length: 5", method="POST") + b"hello",
        upgrade(version="1.0"),
        upgrade("Connection: close", leave_out=["Upgrade"]),
        upgrade("Connection: close", leave_out=["Connection"]),
        upgrade("Content-Length: 5") + b"hello",
        upgrade("Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ):
        with socket.create_connection(http_address(server), timeout=20) as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            data = b""
            while part := sock.recv(65536):
                data += part
        assert 400 <= int(data.split(b" ")[1]) < 500, (request, data)


def test_byte_by_byte(server):
    """A handshake and a first message in single bytes."""
    with socket.create_connection(http_address(server), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in upgrade() + pack(TEXT, b'{"cmd":4,"rid":3}'):
            sock.sendall(bytes([byte]))
        data = b""
        while b'"rid":3' not in data:
            data += sock.recv(65536)
    assert data.startswith(b"HTTP/1.1 101 ")


def test_what_comes_behind_the_handshake(server):
    """Frames in one segment with it are carried out, in the user's name if it had a token; half a frame waits."""
    token = server.login().token
    whole = pack(BINARY, encode(HELLO, {"rid": 1}) + encode(LIST_DEVICES, {"rid": 2}))
    half = pack(TEXT, b'{"cmd":4,"rid":3}')
    client = WebSocketClient(server, headers=[f"Authorization: Bearer {token}"], behind=whole + half[:9])
    client.send_raw(half[9:])
    assert client.answer(1)["code"] == 0
    assert client.answer(2)["devices"]
    assert client.answer(3)["code"] == 0
    assert sorted(client.forms) == [TEXT, BINARY, BINARY]


def test_a_close_behind_the_handshake(server):
    """A client that connects and leaves in one segment gets its CLOSE."""
    assert WebSocketClient(server, behind=pack(CLOSE, b"\x03\xe8")).end() == (1000, "")


def test_an_ended_session(server):
    """A token that was good and is not any more: 401 at the next handshake."""
    user = server.login()
    WebSocketClient(server, headers=[f"Authorization: Bearer {user.token}"]).ok(LIST_DEVICES)
    user.ok(1005)
    assert refusal(server, upgrade(f"Authorization: Bearer {user.token}"))[0] == 401


def test_a_server_without_place(make_server):
    """An address has as many WebSockets as it may have connections, then 503; who leaves makes room."""
    server = make_server({"limits.connections_per_address": "3", "limits.exempt_addresses": "[]"})
    for _ in range(20):
        clients = []
        for _ in range(3):
            clients.append(WebSocketClient(server))
            clients[-1].ok(HELLO)
        with socket.create_connection(http_address(server), timeout=20) as sock:
            assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")
        for client in clients:
            client.message(CLOSE, b"\x03\xe8")
            assert client.end() == (1000, "")
            client.close()


def test_login_by_password_needs_no_token(server):
    """Nobody is logged in by the handshake alone."""
    name = server.register()
    client = WebSocketClient(server)
    client.fails(401, LIST_DEVICES)
    client.login(name, PASSWORD)
    assert client.ok(LIST_DEVICES)["devices"]
    assert ERROR not in {frame.command for frame in client.pushes}
