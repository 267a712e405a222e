"""One HTTP POST: the name is looked up once, every address it has is checked, and one of those is connected to.

No redirects, no proxies, no cookies; the answer is read up to a bound, and all of it has one deadline. A connection serves
one request: events come in batches, so there is little to win by keeping it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import h11
import trio
from attrs import frozen

from imserver_plugins.webhook.guard import Network, Place, Refused, check_address, place_of

MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_HEAD_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 16 * 1024
_MAX_REASON_CHARS: Final = 200
#: Addresses of one name that are tried, and interim answers (1xx) that are skipped.
_MAX_ADDRESSES: Final = 4
_MAX_INTERIM: Final = 8


class PostFailed(Exception):
    """There was no answer; the message says why."""


@frozen
class Answer:
    """What the receiver said. `body` is cut at `MAX_ANSWER_BYTES`: then `is_whole` is False."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool


@frozen
class Client:
    """Posts to checked addresses."""

    schemes: Sequence[str]
    allowed_networks: Sequence[Network]
    tls: ssl.SSLContext

    @classmethod
    def make(cls, schemes: Sequence[str], allowed_networks: Sequence[Network], ca_file: Path | None) -> Client:
        """A client that trusts the system's certificates, and those in `ca_file`; blocks.

        Raises:
            OSError: the file cannot be read, or has no certificates (`ssl.SSLError`).
        """
        tls = ssl.create_default_context()
        if ca_file is not None:
            tls.load_verify_locations(ca_file)
        return cls(schemes, allowed_networks, tls)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Answer:
        """Post a body of JSON.

        Raises:
            PostFailed: no connection, no answer in time, an answer that is no HTTP, or a place that is not allowed.
        """
        try:
            place = place_of(url, self.schemes)
            with trio.fail_after(timeout_s):
                stream = await self._connect(place)
                try:
                    return await _exchange(stream, place, headers, body)
                finally:
                    await trio.aclose_forcefully(stream)
        except Refused as exc:
            raise PostFailed(f"refused: {exc}") from exc
        except trio.TooSlowError as exc:
            raise PostFailed(f"no answer within {timeout_s:g} s") from exc
        except (OSError, trio.BrokenResourceError) as exc:
            raise PostFailed(f"{type(exc).__name__}: {exc.__cause__ or exc}") from exc
        except h11.RemoteProtocolError as exc:
            raise PostFailed(f"the answer is no HTTP/1.1: {str(exc)[:_MAX_REASON_CHARS]}") from exc

    async def _connect(self, place: Place) -> trio.abc.Stream:
        found = await trio.socket.getaddrinfo(place.host, place.port, type=trio.socket.SOCK_STREAM)
        for *_, address in found:
            # All of them, also those that are not tried: a name that leads inside is nobody's honest receiver.
            check_address(str(address[0]), self.allowed_networks)
        failure: OSError | None = None
        for family, kind, protocol, _, address in found[:_MAX_ADDRESSES]:
            sock = trio.socket.socket(family, kind, protocol)
            try:
                await sock.connect(address)
                check_address(str(sock.getpeername()[0]), self.allowed_networks)
            except OSError as exc:
                sock.close()
                failure = exc
            except BaseException:
                sock.close()
                raise
            else:
                plain = trio.SocketStream(sock)
                if not place.is_tls:
                    return plain
                stream = trio.SSLStream(plain, self.tls, server_hostname=place.host, https_compatible=True)
                try:
                    await stream.do_handshake()
                except BaseException:
                    await trio.aclose_forcefully(stream)
                    raise
                return stream
        raise failure or OSError("the name has no address")


async def _exchange(stream: trio.abc.Stream, place: Place, headers: Mapping[str, str], body: bytes) -> Answer:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    head = h11.Request(
        method="POST",
        target=place.path,
        headers=[
            ("Host", place.authority),
            ("Content-Length", str(len(body))),
            ("Content-Type", "application/json"),
            ("User-Agent", "imserver-webhook"),
            ("Connection", "close"),
            *headers.items(),
        ],
    )
    out = connection.send(head) or b""
    out += connection.send(h11.Data(data=body)) or b""
    out += connection.send(h11.EndOfMessage()) or b""
    received: Answer | Exception = PostFailed("no answer")
    async with trio.open_nursery() as nursery:
        # A receiver may answer, and stop reading, before it has all.
        nursery.start_soon(_send, stream, out)
        try:
            received = await _receive(stream, connection)
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as exc:
            received = exc
        nursery.cancel_scope.cancel()
    if isinstance(received, Exception):
        raise received
    return received


async def _send(stream: trio.abc.Stream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        # Whoever closes early may have answered: the reader sees that, or the end.
        return


async def _receive(stream: trio.abc.Stream, connection: h11.Connection) -> Answer:
    head: h11.Response | None = None
    body = bytearray()
    interim = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > _MAX_INTERIM:
                raise h11.RemoteProtocolError("too many interim answers")
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_ANSWER_BYTES:
                return _answer(head, bytes(body[:MAX_ANSWER_BYTES]), is_whole=False)
        elif isinstance(event, h11.EndOfMessage):
            return _answer(head, bytes(body), is_whole=True)
        else:
            raise h11.RemoteProtocolError("the connection ended before the answer")


def _answer(head: h11.Response | None, body: bytes, *, is_whole: bool) -> Answer:
    if head is None:
        raise h11.RemoteProtocolError("a body without a head")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Answer(head.status_code, headers, body, is_whole)
