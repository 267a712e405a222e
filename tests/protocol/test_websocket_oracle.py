"""The server's WebSocket codec beside wsproto's: the same bytes are the same messages, and the same broken rules.

Where the two differ on purpose:

* wsproto refuses a data frame whose length takes more bytes than it needs; here it is taken, for it does no harm.
* wsproto takes the close codes 1012 and 1013, which are not in RFC 6455; only a server could mean them.
* wsproto judges a frame's place in its message when its payload comes, here on its header: so what is compared after an
  error is what whole frames gave. It has no bound on sizes either; here the limit is beyond what the tests send.
"""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websocket_rig import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
    decode,
    in_pieces,
)
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from imserver.protocol.websocket import FAILED, pack_close, pack_message

LONGER_THAN_NEEDED = "would have sufficed"
SERVERS_CODES = (1012, 1013)
#: These complete any header, and give it a byte of payload.
REST_OF_A_HEADER = bytes(13)


def wsproto_reads(pieces, *, is_client=False):
    """What wsproto makes of these pieces, in the form of our events; its complaint is the second value."""
    protocol = FrameProtocol(client=is_client, extensions=[])
    found, message = [], b""
    try:
        for piece in pieces:
            protocol.receive_bytes(bytes(piece))
            for frame in protocol.received_frames():
                if frame.opcode is Opcode.CLOSE:
                    code, reason = frame.payload
                    is_empty = code == CloseReason.NO_STATUS_RCVD
                    return [*found, (CLOSE, b"" if is_empty else struct.pack(">H", code) + reason.encode())], ""
                if frame.opcode in (Opcode.PING, Opcode.PONG):
                    found.append((int(frame.opcode), bytes(frame.payload)))
                    continue
                message += frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)
                if frame.message_finished:
                    found.append((int(frame.opcode), message))
                    message = b""
    except ParseFailed as exc:
        return [*found, (FAILED, int(exc.code))], str(exc)
    return found, ""


masks = st.binary(min_size=4, max_size=4)
payloads = st.one_of(st.binary(max_size=40), st.integers(120, 130).map(bytes), st.just(bytes(70_000)))
texts = st.one_of(st.text(max_size=40), st.integers(40, 45).map(lambda count: "€" * count))
controls = st.builds(client_frame, st.sampled_from([PING, PONG]), st.binary(max_size=125), mask=masks)
cuts = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 200)), max_size=30)
close_codes = st.one_of(
    st.sampled_from([999, 1000, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000]),
    st.integers(0, 65535).filter(lambda code: code not in SERVERS_CODES),
)
closes = st.builds(
    lambda code, reason: client_frame(CLOSE, struct.pack(">H", code) + reason),
    close_codes,
    st.one_of(st.text(max_size=20).map(str.encode), st.binary(max_size=20)),
)


@st.composite
def messages(draw):
    """One message as a client may send it: in any fragments, a text also cut inside a character, with controls between."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(texts).encode() if opcode == TEXT else draw(payloads)
    pieces = list(in_pieces(payload, draw(st.lists(st.integers(0, 9), max_size=5))))
    data = b""
    for index, piece in enumerate(pieces):
        is_last = index == len(pieces) - 1
        data += client_frame(CONTINUATION if index else opcode, piece, is_last=is_last, mask=draw(masks))
        if not is_last:
            data += b"".join(draw(st.lists(controls, max_size=2)))
    return data


any_frame = st.builds(
    client_frame,
    st.one_of(st.sampled_from([CONTINUATION, TEXT, BINARY, PING, PONG]), st.integers(0, 15)),
    st.one_of(st.text(max_size=12).map(str.encode), st.binary(max_size=12), st.integers(120, 130).map(bytes)),
    is_last=st.booleans(),
    reserved=st.sampled_from([0] * 12 + [1, 2, 4, 7]),
    mask=st.one_of(masks, masks, masks, masks, st.none()),
)


@given(st.lists(st.one_of(messages(), messages(), controls), max_size=8), st.one_of(st.just(b""), closes), cuts)
def test_what_keeps_the_rules_is_read_alike(sent, close, sizes):
    """Any messages in any fragments with pings between, cut anywhere, give the events that wsproto gives."""
    data = b"".join(sent) + close
    expected, _ = wsproto_reads([data])
    assert decode(in_pieces(data, sizes))[0] == expected
    assert wsproto_reads(in_pieces(data, sizes))[0] == expected


@given(st.lists(st.one_of(any_frame, any_frame, messages(), closes), max_size=10), cuts)
@example([client_frame(TEXT, b"\xe2\x82", is_last=False), client_frame(PING), client_frame(CONTINUATION, b"\xac")], [])
def test_what_breaks_the_rules_is_refused_alike(sent, sizes):
    """Whole frames of any kind in any order: what wsproto refuses is refused, with its close code, and no more."""
    data = b"".join(sent)
    expected, _ = wsproto_reads([data])
    assert decode(in_pieces(data, sizes))[0] == expected


noise = st.lists(st.one_of(messages(), any_frame, closes, st.binary(max_size=20)), max_size=6).map(b"".join)


@given(noise, st.integers(0, 400), cuts)
def test_any_bytes_are_refused_alike(data, kept, sizes):
    """Bytes that end anywhere: what wsproto refuses is refused with its code; until then the events are the same."""
    data = data[:kept]
    expected, complaint = wsproto_reads([data])
    found, _ = decode(in_pieces(data, sizes), limit=1 << 63)
    if LONGER_THAN_NEEDED in complaint:
        assert found[: len(expected) - 1] == expected[:-1]
    elif found != expected:
        # Refused on the header alone: wsproto waits for the payload, and says so when it has come.
        assert found == [*expected, (FAILED, 1002)]
        assert wsproto_reads([data, REST_OF_A_HEADER])[0] == found


@given(st.lists(st.tuples(st.sampled_from(["text", "binary", "ping", "pong"]), texts, st.booleans()), max_size=12), cuts)
def test_what_wsprotos_client_sends_is_read(sent, sizes):
    """Its messages, one after the other, some in two fragments, come out as they went in."""
    client = FrameProtocol(client=True, extensions=[])
    data, expected = b"", []
    for kind, text, is_cut in sent:
        payload = text.encode()
        if kind in ("ping", "pong"):
            payload = payload[:125]
            data += bytes(client.ping(payload) if kind == "ping" else client.pong(payload))
            expected.append((PING if kind == "ping" else PONG, payload))
            continue
        whole = text if kind == "text" else payload
        middle = len(whole) // 2
        if is_cut:
            data += bytes(client.send_data(whole[:middle], fin=False)) + bytes(client.send_data(whole[middle:]))
        else:
            data += bytes(client.send_data(whole))
        expected.append((TEXT if kind == "text" else BINARY, payload))
    assert decode(in_pieces(data, sizes))[0] == expected
    assert decode([bytes(client.close(1000, "bye"))])[0] == [(CLOSE, b"\x03\xe8bye")]


sendable = st.one_of(
    st.tuples(st.just(TEXT), texts.map(str.encode)),
    st.tuples(st.just(BINARY), payloads),
    st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
)
own_codes = st.one_of(st.sampled_from([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011]), st.integers(3000, 4999))


@given(st.lists(sendable, max_size=10), own_codes, st.text(max_size=200), cuts)
def test_what_the_server_sends_is_read_by_wsproto(sent, code, reason, sizes):
    """wsproto's client reads our messages, control frames and CLOSE, whose reason is ours or the beginning of it."""
    data = b"".join(pack_message(*message) for message in sent) + pack_close(code, reason)
    found, complaint = wsproto_reads(in_pieces(data, sizes), is_client=True)
    assert complaint == ""
    assert found[:-1] == sent
    opcode, payload = found[-1]
    assert (opcode, payload[:2]) == (CLOSE, struct.pack(">H", code))
    said = payload[2:].decode()
    assert reason.startswith(said)
    assert said == reason or len(payload) > 121  # nothing is cut off that would have fitted


@pytest.mark.parametrize("length", [b"\xfe\x00\x03", b"\xff" + struct.pack(">Q", 3)])
def test_a_length_in_more_bytes_than_it_needs(length):
    """A difference on purpose: wsproto refuses it, here it is taken."""
    frame = client_frame(BINARY, b"abc", length=length)
    assert LONGER_THAN_NEEDED in wsproto_reads([frame])[1]
    assert decode([frame])[0] == [(BINARY, b"abc")]


@pytest.mark.parametrize("code", SERVERS_CODES)
def test_close_codes_of_servers(code):
    """A difference on purpose: wsproto takes these two from a client, here they are refused."""
    frame = client_frame(CLOSE, struct.pack(">H", code))
    assert wsproto_reads([frame]) == ([(CLOSE, struct.pack(">H", code))], "")
    assert decode([frame])[0] == [(FAILED, 1002)]
