"""The benchmark's search for ids in received bytes finds what decoding finds, however the bytes were split and ordered."""

from __future__ import annotations

import socket
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from imserver.bench.framing import Framing
from imserver.bench.pair import Recipient
from imserver.bench.wire import MESSAGE, Naming, conversation_id, pack

NAMING = Naming("abc123", "100% text")
SENDER, RECIPIENT = NAMING.users(3)
KEYS = ["conversation_id", "seq", "client_id", "from", "type", "body"]
SEQS = st.one_of(st.sampled_from([1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32]), st.integers(1, 2**40))
MESSAGES = st.lists(st.tuples(st.integers(0, 2**32 - 1), SEQS, st.permutations(KEYS)), min_size=1, max_size=30)


def push(counter: int, seq: int, keys: list[str]) -> bytes:
    """A push whose map has its keys in this order."""
    values: dict[str, Any] = {
        "conversation_id": conversation_id(SENDER, RECIPIENT),
        "seq": seq,
        "client_id": NAMING.client_id(counter),
        "from": SENDER,
        "type": "text",
        "body": NAMING.text,
    }
    return pack(MESSAGE, {key: values[key] for key in keys})


@given(messages=MESSAGES, sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=20))
def test_any_split_and_any_order_of_keys(messages: list[tuple[int, int, list[str]]], sizes: list[int]) -> None:
    """Every push is found once, in order, with its seq of whatever width."""
    stream = b"".join(push(*message) for message in messages)
    with socket.socket() as sock:
        recipient = Recipient(sock, Framing(), RECIPIENT, SENDER, NAMING, 0, NAMING.push_ids())
        turn = 0
        while stream:
            size = sizes[turn % len(sizes)]
            recipient.receive(stream[:size])
            stream, turn = stream[size:], turn + 1
    counters = [int(recipient.pushed_ids[at : at + 8], 16) for at in range(0, len(recipient.pushed_ids), 8)]
    unpacker = msgpack.Unpacker()
    unpacker.feed(bytes(recipient.pushed_seqs))
    assert list(zip(counters, unpacker, strict=True)) == [(counter, seq) for counter, seq, _ in messages]
    assert recipient.delivered == len(messages)
    assert not recipient.oddities
    assert not recipient.is_within_frame


def test_a_template_is_what_msgpack_packs() -> None:
    """A SEND made by the format is the frame of its fields, percent signs in the text included."""
    made = NAMING.template(RECIPIENT) % ((70_000).to_bytes(4, "big"), 4464)
    fields = {"to": RECIPIENT, "rid": 70_000, "client_id": NAMING.client_id(4464), "body": NAMING.text}
    assert made == pack(2001, fields)
