"""The client against a real server process: the first conversation, and `kill -9` under load."""

import json
import re
import socket
import ssl
import sys
from pathlib import Path

import pytest
import trio
from certificates import Authority

from imserver.client import Conflict, Read, State, open_client

PASSWORD = "correct horse 7 battery"


def connector(server):
    """Connects to wherever the server listens now: a restart takes another port."""

    async def connect():
        return await trio.open_tcp_stream(*server.address)

    return connect


async def log_in(client, user_id):
    """Register unless that was done before, then log in."""
    try:
        await client.register(user_id, PASSWORD)
    except Conflict:
        assert client.user_id is None
    await client.login(user_id, PASSWORD, device_id="laptop", timeout_s=60)


@pytest.fixture(params=["tcp", "ws", "http", "tls", "wss", "https"])
def address(request, server, make_server, tmp_path):
    """What `open_client` takes: each scheme with a real server, and a context that trusts its certificate."""
    scheme, context = request.param, None
    if scheme in ("tls", "wss", "https"):
        authority = Authority()
        files = authority.server_files(tmp_path)
        server = make_server({"tls.certificate": files.certificate, "tls.key": files.key})
        context = ssl.create_default_context()
        authority.trust(context)
    [place] = server.ready["tcp" if scheme in ("tcp", "tls") else "http"]
    return f"{scheme}://{place}", context


async def test_first_conversation_with_the_real_server(address):
    """Both ways, read marks, profile, devices, and the tokens; over each transport."""
    url, context = address
    async with open_client(url, ssl_context=context) as anna, open_client(url, ssl_context=context) as ben:
        events = anna.events()
        await log_in(anna, "sdk-anna")
        await log_in(ben, "sdk-ben")
        sent = await anna.send("sdk-ben", "hello")
        got = await anext(ben.messages())
        assert (got.body, got.seq, got.from_) == ("hello", sent.seq, "sdk-anna")
        assert await ben.mark_read(got.conversation_id, got.seq) == 0
        assert await anext(events) == Read(got.conversation_id, "sdk-ben", got.seq)
        await ben.send("sdk-anna", {"bytes": b"\x00\xff"}, type="custom")
        assert (await anext(anna.messages())).body == {"bytes": b"\x00\xff"}
        again = await anna.send("sdk-ben", "hello", client_id=sent.client_id)
        assert (again.seq, again.duplicate) == (sent.seq, True)
        await anna.update_profile(nickname="Anna")
        assert [user.nickname for user in await ben.get_users(["sdk-anna"])] == ["Anna"]
        assert [device.device_id for device in await ben.list_devices()] == ["laptop"]
        old = anna.credentials
        assert (await anna.refresh()).refresh_token != old.refresh_token


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_killed_server_loses_doubles_and_reorders_nothing(make_server, transport):
    """Three times kill -9 while messages flow: each is accepted once, and received once, in order, with one restart of
    the receiving client in between that goes on from its persisted state."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # the address of a WebSocket is text: it stays through the restarts
    server = make_server({"http.listen": f"127.0.0.1:{port}"})
    address = connector(server) if transport == "tcp" else f"ws://127.0.0.1:{port}"
    total, got, saved = 150, [], {}

    async def send():
        async with open_client(address, backoff_max_s=0.2) as anna:
            await log_in(anna, "anna")
            for n in range(total):
                sent = await anna.send("ben", str(n), timeout_s=60)
                assert sent.seq == n + 1

    async def receive(upto):
        async with open_client(address, state=State.from_dict(saved), backoff_max_s=0.2) as ben:
            await (ben.login("ben", PASSWORD, device_id="laptop", timeout_s=60) if ready.is_set() else log_in(ben, "ben"))
            ready.set()
            async for message in ben.messages():
                got.append(message.body)
                if len(got) in marks:
                    marks[len(got)].set()
                ben.ack(message)
                saved.update(json.loads(json.dumps(ben.state.to_dict())))
                if len(got) == upto:
                    return

    async def kill():
        for mark in (20, 60, 110):
            await marks[mark].wait()
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)

    saved.update(State().to_dict())
    ready = trio.Event()
    marks = {count: trio.Event() for count in (20, 60, 80, 110)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        nursery.start_soon(receive, 80)
        await ready.wait()
        nursery.start_soon(send)
        await marks[80].wait()
        nursery.start_soon(receive, total)
    assert got == [str(n) for n in range(total)]


async def test_example_of_the_how_to_runs_as_it_stands(server):
    """The forty lines of docs/howto/write-a-client.md: two runs, the second goes on behind the first."""
    page = Path(__file__).parents[2] / "docs" / "howto" / "write-a-client.md"
    host, port = server.address
    [example] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    async with open_client(connector(server)) as anna:
        await log_in(anna, "howto-anna")
        for answer in ("first", "second"):
            words = [sys.executable, "-c", example, f"{host}:{port}", "howto-ben", "howto-anna"]
            printed = []

            async def run(words=words, printed=printed):
                printed.append((await trio.run_process(words, capture_stdout=True)).stdout.decode())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                assert (await anext(anna.messages())).body == "hello from forty lines"
                await anna.send("howto-ben", answer)
            assert printed == [f"howto-anna: {answer}\n"]


async def test_device_that_was_away_gets_what_another_has_confirmed(server):
    """A conversation began meanwhile, and the phone has confirmed it: the laptop gets it, as does a new device."""
    url = "{}:{}".format(*server.address)
    laptop, phone, tablet = State(), State(), State()

    async def take(device, state, count):
        """What the device gets, confirmed."""
        async with open_client(url, state=state) as ben:
            await ben.login("away-ben", PASSWORD, device_id=device)
            messages = ben.messages()
            with trio.fail_after(30):
                bodies = [(await anext(messages)).body for _ in range(count)]
            return bodies

    async with open_client(url) as anna:
        for name in ("away-ben", "away-anna"):
            await anna.register(name, PASSWORD)
        await take("laptop", laptop, 0)
        await anna.login("away-anna", PASSWORD)
        for number in range(3):
            await anna.send("away-ben", f"{number}")
        assert await take("phone", phone, 3) == ["0", "1", "2"]
        assert await take("laptop", State.from_dict(laptop.to_dict()), 3) == ["0", "1", "2"]
        assert await take("tablet", tablet, 3) == ["0", "1", "2"]
        await anna.send("away-ben", "3")
        assert await take("phone", phone, 1) == ["3"]
