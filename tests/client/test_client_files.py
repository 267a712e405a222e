"""Files over HTTP, presence, typing and search: the client against a real server, and against connections that break."""

import hashlib
import itertools
import os
import ssl
from contextlib import asynccontextmanager

import pytest
import trio
from certificates import Authority
from test_client_server import connector, log_in

from imserver.client import (
    NotFound,
    Presence,
    RemoteFile,
    RemoteProtocolError,
    RequestTimeout,
    TooLarge,
    Typing,
    discover,
    message_type,
    open_client,
)
from imserver.client.files import ONE_REQUEST_BYTES
from imserver.client.http import HttpBroken

BIG = os.urandom(ONE_REQUEST_BYTES * 3)


def page(server):
    """The address of the server's page."""
    return f"http://{server.ready['http'][0]}/"


@asynccontextmanager
async def on_line(server, user_id, **options):
    """A client of this user."""
    async with open_client(page(server), backoff_max_s=0.05, **options) as client:
        await log_in(client, user_id)
        yield client


class Cutting:
    """A proxy that ends connections: each in turn after so many bytes of one direction, later ones never."""

    def __init__(self, target, *, up=(), down=()):
        self.target, self.up, self.down = target, list(up), list(down)
        self.accepted = 0
        self.address = ""

    async def serve(self, stream):
        self.accepted += 1
        limits = [limits.pop(0) if limits else None for limits in (self.up, self.down)]
        async with stream, await trio.open_tcp_stream(*self.target) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self.pump, stream, server, limits[0], nursery.cancel_scope)
            nursery.start_soon(self.pump, server, stream, limits[1], nursery.cancel_scope)

    async def pump(self, source, sink, limit, scope):
        try:
            while (data := await source.receive_some(16384)) and limit != 0:
                if limit is not None:
                    data = data[:limit]
                    limit -= len(data)
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def cutting(server, **limits):
    """A proxy before the server's HTTP listener."""
    host, port = server.ready["http"][0].rsplit(":", 1)
    proxy = Cutting((host, int(port)), **limits)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.address = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("content", [b"", b"small", BIG], ids=["empty", "small", "big"])
async def test_what_goes_up_comes_down(server, tmp_path, content):
    """By bytes and by path, with progress, to another user who got its message."""
    source, target, seen = tmp_path / "cat \u732b.png", tmp_path / "saved", []
    source.write_bytes(content)
    async with on_line(server, "file-anna") as anna, on_line(server, "file-ben") as ben:
        file = await anna.upload(source, progress=lambda done, total: seen.append((done, total)))
        assert (file.name, file.size, file.type) == ("cat \u732b.png", len(content), "image/png")
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert seen[-1] == (len(content), len(content))
        with pytest.raises(NotFound):
            await ben.download(file, target)
        await anna.send("file-ben", file.body, type=message_type(file.type))
        got = await anext(ben.messages())
        assert got.type == "image"
        assert await ben.download(RemoteFile.from_wire(got.body), target) == target
        assert target.read_bytes() == content
        with pytest.raises(FileExistsError):
            await ben.download(file, target)
        assert await ben.download(file, target, overwrite=True) == target
        again = await anna.upload(content, name="n.bin")
        assert (again.size, again.type) == (len(content), "application/octet-stream")
    assert sorted(path.name for path in tmp_path.iterdir() if "server" not in path.name) == ["cat \u732b.png", "saved"]


async def test_an_upload_goes_on_after_broken_connections(server):
    """Two connections that break amid the body: only what is missing goes again, and the whole arrives."""
    proxied = cutting(server, up=[None, 300_000, None, 200_000])
    async with proxied as proxy, on_line(server, "file-cut", http=proxy.address) as client:
        offsets = []
        file = await client.upload(BIG, name="big", progress=lambda done, total: offsets.append(done))
    assert file.sha256 == hashlib.sha256(BIG).hexdigest()
    assert proxy.accepted >= 6  # POST, PATCH, HEAD, PATCH, HEAD, PATCH
    starts = [now for before, now in itertools.pairwise(offsets) if now < before]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1]


async def test_a_download_goes_on_after_broken_connections(server, tmp_path):
    """Within one call, and in a later call: what is there already is asked for no more."""
    async with on_line(server, "file-down") as direct:
        file = await direct.upload(BIG, name="big")
        proxied = cutting(server, down=[100_000, 100_000])
        async with proxied as proxy, open_client(page(server), http=proxy.address, backoff_max_s=0.05) as client:
            await client.login("file-down", "correct horse 7 battery", device_id="other")
            seen = []
            await client.download(file, tmp_path / "a", progress=lambda done, total: seen.append((done, total)))
            assert (tmp_path / "a").read_bytes() == BIG
            assert seen == sorted(seen)
            assert {total for _, total in seen} == {len(BIG)}
            assert proxy.accepted == 3
        (tmp_path / f".{file.file_id}.part").write_bytes(BIG[:500_000])
        seen.clear()
        await direct.download(file, tmp_path / "b", progress=lambda done, total: seen.append((done, total)))
        assert (tmp_path / "b").read_bytes() == BIG
        assert seen[0][0] > 500_000
        (tmp_path / f".{file.file_id}.part").write_bytes(BIG)
        await direct.download(file, tmp_path / "c")
        assert (tmp_path / "c").read_bytes() == BIG


async def test_a_damaged_part_is_not_taken_for_the_file(server, tmp_path):
    """The SHA-256 tells; the part is gone, and the next call begins anew."""
    async with on_line(server, "file-bad") as client:
        file = await client.upload(BIG, name="big")
        part = tmp_path / f".{file.file_id}.part"
        part.write_bytes(b"x" * 1000)
        with pytest.raises(RemoteProtocolError, match="SHA-256"):
            await client.download(file, tmp_path / "a")
        assert not part.exists()
        assert not (tmp_path / "a").exists()
        await client.download(file, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == BIG


async def test_a_part_that_is_a_link_is_not_followed(server, tmp_path):
    """Who can write to the folder cannot make the client write elsewhere."""
    async with on_line(server, "file-link") as client:
        file = await client.upload(b"content", name="f")
        (tmp_path / "precious").write_bytes(b"precious")
        (tmp_path / f".{file.file_id}.part").symlink_to(tmp_path / "precious")
        with pytest.raises(OSError, match="symbolic links"):
            await client.download(file, tmp_path / "a")
        assert (tmp_path / "precious").read_bytes() == b"precious"


async def test_bounds_and_refusals(make_server, tmp_path):
    """Over the server's size before the bytes have gone, over the caller's bound, no HTTP address, no such file."""
    server = make_server({"plugins.file.max_size": "1KiB"})
    async with on_line(server, "anna") as client:
        with pytest.raises(TooLarge):
            await client.upload(b"x" * 2000, name="f")
        with pytest.raises(TooLarge):
            await client.upload(BIG, name="f")
        file = await client.upload(b"x" * 1000, name="f")
        with pytest.raises(ValueError, match="more than 999 bytes"):
            await client.download(file, tmp_path / "a", max_bytes=999)
        with pytest.raises(NotFound):
            await client.download("0" * 32, tmp_path / "b")
        with pytest.raises(ValueError, match="no file_id"):
            await client.download("../x", tmp_path / "b")
        with pytest.raises(FileNotFoundError):
            await client.upload(tmp_path / "absent")
    async with open_client(connector(server)) as client:
        await client.login("anna", "correct horse 7 battery")
        with pytest.raises(ValueError, match="give open_client the server's page"):
            await client.upload(b"x")


async def test_no_server_is_told_in_time(server, monkeypatch):
    """An upload that gets nowhere ends with the reason."""
    async with open_client(page(server), http="http://127.0.0.1:1/") as client:
        await log_in(client, "file-nowhere")
        monkeypatch.setattr(client._files, "_patience_s", 0.1)
        with pytest.raises(RequestTimeout, match="refused"):
            await client.upload(b"x")
    with pytest.raises(HttpBroken, match="refused"):
        await discover("http://127.0.0.1:1/")


async def test_a_dead_token_is_renewed(server):
    """The server says 401: the client takes a new token and goes on, once."""
    async with on_line(server, "file-renew") as client:
        good = client.credentials
        client._supervisor.credentials = type(good)(good.user_id, good.token + "x", good.refresh_token)
        assert (await client.upload(b"x", name="f")).size == 1


async def test_files_and_discovery_over_tls(make_server, tmp_path):
    """The same context as the WebSocket's; discovery names TLS for TCP too."""
    authority = Authority()
    files = authority.server_files(tmp_path)
    server = make_server({"tls.certificate": files.certificate, "tls.key": files.key})
    context = ssl.create_default_context()
    authority.trust(context)
    address = f"https://{server.ready['http'][0]}/"
    async with open_client(address, ssl_context=context) as client:
        await log_in(client, "anna")
        file = await client.upload(BIG, name="f")
        assert (await client.download(file, tmp_path / "a")).read_bytes() == BIG
    found = await discover(address, ssl_context=context)
    assert found.tcp == f"tls://{server.ready['tcp'][0]}"
    assert found.ws == f"wss://{server.ready['http'][0]}/ws"
    with pytest.raises(HttpBroken, match="not trusted"):
        await discover(address)


# ------------------------------------------------------------------ presence, typing, search


async def test_presence_typing_and_search(server):
    """Who is there, who types, what was said; each as the typed thing."""
    async with on_line(server, "p-anna") as anna:
        events = anna.events()
        async with on_line(server, "p-ben") as ben:
            assert [entry.is_online for entry in await anna.get_presence(["p-ben", "p-anna"])] == [True, True]
            [entry] = await anna.watch_presence(["p-ben"])
            assert entry == Presence("p-ben", True, ("python",))
            sent = await anna.send("p-ben", "\u4eca\u5929\u5929\u6c14\u5f88\u597d, the weather is fine")
            assert ben.typing("p-anna")
            assert ben.typing(sent.conversation_id, False)
            assert await anext(events) == Typing(sent.conversation_id, "p-ben", True)
            assert await anext(events) == Typing(sent.conversation_id, "p-ben", False)
            found, cursor = await ben.search("\u5929\u6c14", from_="p-anna", conversation_id=sent.conversation_id)
            assert [message.seq for message in found] == [sent.seq]
            assert cursor is None
            assert await ben.search("rain") == ([], None)
        event = await anext(events)
        assert isinstance(event, Presence)
        assert not event.is_online
        assert await anna.watch_presence(["p-ben"], unwatch=True) is not None


async def test_the_state_of_the_connection_can_be_waited_for(server):
    """`wait_connected` both ways; typing without a connection is False, not an error."""
    async with cutting(server) as proxy, open_client(proxy.address, backoff_max_s=0.01) as client:
        assert not client.typing("ben")
        await log_in(client, "p-wait")
        await client.wait_connected()
        client._supervisor._current.lose("a test's wish")
        await client.wait_connected(False)
        assert not client.typing("ben")
        await client.wait_connected()
        assert client.is_connected
        assert "a test's wish" in client.last_failure
