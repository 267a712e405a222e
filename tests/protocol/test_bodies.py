"""Bodies: both encodings against other people's libraries, gzip, bombs, and errors that name the field."""

import gzip
import json
import math
import sys
import tracemalloc
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

import attrs
import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import decode as wire_decode

from imserver.errors import InvalidBody, ProtocolError
from imserver.protocol.body import (
    COMPRESS_ABOVE_BYTES,
    BodyDecoder,
    check_body,
    encode_frame,
    encode_json,
    encode_msgpack,
    fields_of,
    inflate,
    invalid_body,
    rid_of,
    wire_class,
)
from imserver.protocol.frame import GZIP, HEADER_BYTES, JSON, flags_of
from imserver.protocol.message import Message

MAX = 1 << 20
DEEP = 200_000


@attrs.frozen
class Item:
    """A nested class."""

    name: str
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1


@attrs.frozen
class Request:
    """A request with every kind of field."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=5, pattern=r"\A[a-z]+\Z")]
    amount: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    kind: Literal["a", "b"] = "a"
    items: Annotated[list[Item], msgspec.Meta(max_length=2)] = attrs.Factory(list)
    table: dict[str, Annotated[int, msgspec.Meta(ge=0)]] | None = None
    anything: Any = None


@attrs.frozen
class Anything:
    """A request that takes any body."""

    body: Any


class Plain(msgspec.Struct, kw_only=True):
    """A request as a Struct."""

    name: str
    amount: int = 3


ENCODERS = {0: msgpack.packb, JSON: lambda value: json.dumps(value).encode()}
both = pytest.mark.parametrize("flags", [0, JSON], ids=["msgpack", "json"])


def decoder(request=Request, max_inflated_bytes=MAX):
    """The decode function of a request class."""
    return BodyDecoder(request, max_inflated_bytes).decode


# ---------------------------------------------------------------- against msgpack and json

keys = st.text(max_size=8).filter(lambda key: not any("\ud800" <= char <= "\udfff" for char in key))
texts = keys
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
json_values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)), max_leaves=12
)
msgpack_values = st.recursive(
    st.one_of(leaves, st.binary(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


def same(one, other):
    """Equal, and of the same types all the way down (1 is not 1.0 and not True)."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@given(msgpack_values, st.integers(0, 2**32 - 1))
def test_msgpack_agrees_with_msgpack(value, rid):
    """What the `msgpack` library packs we read, and what we pack it reads."""
    request = decoder(Anything)(msgpack.packb({"rid": rid, "body": value}), 0)
    assert request.rid == rid
    assert same(request.body, value)
    assert same(msgpack.unpackb(encode_msgpack({"v": value})), {"v": value})


@given(json_values, st.integers(0, 2**32 - 1), st.booleans())
def test_json_agrees_with_json(value, rid, ascii_only):
    """What the `json` module writes we read, escaped or not, and what we write it reads."""
    text = json.dumps({"rid": rid, "body": value}, ensure_ascii=ascii_only)
    request = decoder(Anything)(text.encode(), JSON)
    assert request.rid == rid
    assert same(request.body, value)
    assert same(json.loads(encode_json({"v": value})), {"v": value})


@given(st.dictionaries(keys, json_values, max_size=6), st.integers(0, 65535), st.sampled_from([0, JSON, GZIP, GZIP | JSON]))
def test_frames_agree_with_the_test_client(fields, command, flags):
    """A whole frame is read back by a decoder that shares no code with it, compressed or not."""
    fields["padding"] = "p" * (COMPRESS_ABOVE_BYTES + 1)
    frame = encode_frame(command, fields, flags)
    assert int.from_bytes(frame[:4], "big") == len(frame)
    assert flags_of(frame) == flags
    assert same(wire_decode(flags_of(frame), frame[HEADER_BYTES:]), fields)


@both
def test_compression_where_it_helps_alone(flags):
    """Small bodies and those that do not get smaller are sent as they are, with the flag off."""
    small = encode_frame(1, {"text": "a" * (COMPRESS_ABOVE_BYTES - 20)}, flags | GZIP)
    assert flags_of(small) == flags
    noise = "".join(chr(0x4E00 + (index * index * 7919) % 20000) for index in range(600))
    packed = zlib.compress(noise.encode(), 1)
    assert len(packed) > 0.5 * len(noise.encode()), "this text was meant to compress badly"
    big = encode_frame(1, {"text": "a" * 5000}, flags | GZIP)
    assert flags_of(big) == flags | GZIP
    assert len(big) < 200
    assert flags_of(encode_frame(1, {"text": "a" * 5000}, flags)) == flags


@pytest.mark.parametrize("flags", [0, JSON])
@pytest.mark.parametrize("body", [b"", None])
def test_an_empty_body_is_the_empty_map(flags, body):
    """An empty body decodes like a map without entries, in either encoding."""
    data = ENCODERS[flags]({}) if body is None else body
    assert decoder(None)(data, flags).rid == 0
    with pytest.raises(InvalidBody) as caught:
        decoder()(data, flags)
    assert caught.value.field == "name"


# ---------------------------------------------------------------- what is no body at all

NOT_MAPS = {
    "an array": [1, 2],
    "a number": 7,
    "a string": "rid",
    "null": None,
    "true": True,
    "an empty array": [],
}


@both
@pytest.mark.parametrize("value", NOT_MAPS.values(), ids=list(NOT_MAPS))
@pytest.mark.parametrize("request_class", [Request, Plain, None, Anything])
def test_a_body_that_is_no_map(flags, value, request_class):
    """It breaks the framing rules: an ERROR push, not an answer; the connection goes on."""
    with pytest.raises(ProtocolError) as caught:
        decoder(request_class)(ENCODERS[flags](value), flags)
    assert (caught.value.code, caught.value.error, caught.value.fatal) == (400, "bad_request", False)
    assert rid_of(ENCODERS[flags](value), flags, MAX) == 0


@pytest.mark.parametrize(
    ("flags", "data"),
    [
        (0, b"\x81"),
        (0, b"\x81\xa4name"),
        (0, b"\xc1"),
        (0, b"\x81\xa4name\xa1\xff"),
        (0, b"\x81\xa4name\xdb\xff\xff\xff\xff"),
        (0, b"\xdf\xff\xff\xff\xff"),
        (0, msgpack.packb({"name": "a"}) + b"\0"),
        (JSON, b"{"),
        (JSON, b'{"name": "a"'),
        (JSON, b'{"name": "a"} x'),
        (JSON, b'{"name": "\xff"}'),
        (JSON, b'{"name": "\\ud800"}'),
        (JSON, b"{name: 1}"),
        (JSON, b"\xef\xbb\xbf{}"),
        (JSON, b"\x81\xa4name\xa1a"),
        (GZIP, b"not gzip"),
        (GZIP, zlib.compress(b"\x80")),
    ],
)
def test_invalid_encodings(flags, data):
    """Neither cut, nor overlong, nor wrongly encoded bodies get through."""
    with pytest.raises(ProtocolError) as caught:
        decoder()(data, flags)
    assert not caught.value.fatal
    assert rid_of(data, flags, MAX) == 0


@both
@pytest.mark.parametrize("opener", ["array", "map"])
@pytest.mark.parametrize("where", ["known field", "unknown field", "root"])
@pytest.mark.parametrize("request_class", [Anything, Request, None])
def test_nesting_bombs(flags, opener, where, request_class):
    """200,000 levels end in an error of ours, not in the C stack."""
    if flags:
        levels = b"[" * DEEP + b"]" * DEEP if opener == "array" else b'{"a":' * DEEP + b"1" + b"}" * DEEP
        key = {"known field": b"body", "unknown field": b"zzz"}.get(where, b"")
        data = b'{"' + key + b'":' + levels + b"}" if key else levels
    else:
        levels = b"\x91" * DEEP + b"\xc0" if opener == "array" else b"\x81\xa1a" * DEEP + b"\xc0"
        key = {"known field": b"\xa4body", "unknown field": b"\xa3zzz"}.get(where, b"")
        data = b"\x81" + key + levels if key else levels
    assert rid_of(data, flags, MAX) == 0
    try:
        decoder(request_class)(data, flags)
    except (InvalidBody, ProtocolError) as exc:
        assert len(str(exc)) < 500  # noqa: PT017 - either of two unrelated classes
    else:
        # From 3.14 on the size of the C stack is the bound: what is skipped takes so little of it that these levels pass.
        if not (flags and request_class is None and sys.version_info >= (3, 14)):
            pytest.fail("a bomb was taken for a request")


def test_a_message_body_is_bounded_in_depth():
    """Level 64 passes, level 65 does not; lists and maps alike."""

    def nested(levels, wrap):
        value = 1
        for _ in range(levels):
            value = wrap(value)
        return value

    for wrap in (lambda inner: [inner], lambda inner: {"a": inner}):
        check_body(nested(65, wrap))
        with pytest.raises(InvalidBody, match="64 levels"):
            check_body(nested(66, wrap))


@given(msgpack_values)
def test_check_body_takes_all_that_both_encodings_have(value):
    """Whatever passes can be written in both encodings."""
    check_body(value)
    encode_msgpack(value)
    encode_json(value)


@pytest.mark.parametrize(
    "value",
    [
        {1: 2},
        {"a": {b"b": 1}},
        [[{None: 1}]],
        msgspec.msgpack.Ext(5, b""),
        [msgspec.msgpack.decode(msgpack.packb(msgpack.Timestamp(1)))],
        2**64,
        -(2**63) - 1,
        {"a": [10**30]},
    ],
    ids=lambda value: str(value).partition(" object at ")[0],
)
def test_check_body_refuses_what_one_encoding_lacks(value):
    """Keys that are no strings, extension types, and integers over 64 bits (JSON has them, MessagePack does not)."""
    with pytest.raises(InvalidBody) as caught:
        check_body(value)
    assert caught.value.field == "body"


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 0, True, 1.5, b"\0", None, "", [], {}])
def test_check_body_takes_the_edges(value):
    """The largest integers of MessagePack, and the empty values."""
    check_body(value)
    encode_msgpack(value)


# ---------------------------------------------------------------- gzip


@given(st.binary(max_size=300))
def test_inflate_gives_back_what_gzip_took(data):
    """The `gzip` module is the oracle."""
    assert inflate(gzip.compress(data), 300) == data


def test_a_gzip_bomb_is_stopped_on_the_way():
    """A megabyte that would become a gigabyte is refused holding no more than the limit."""
    compressor = zlib.compressobj(9, wbits=31)
    chunk = b"\0" * (1 << 20)
    bomb = b"".join(compressor.compress(chunk) for _ in range(256)) + compressor.flush()
    assert len(bomb) < MAX
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            decoder()(bomb, GZIP)
        assert rid_of(bomb, GZIP, MAX) == 0
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (caught.value.code, caught.value.error) == (413, "too_large")
    assert peak_bytes < 8 * MAX


@pytest.mark.parametrize("size", [100, 101])
def test_the_inflated_limit_is_exact(size):
    """As long as the limit passes; a byte more is 413."""
    data = gzip.compress(b"x" * size)
    if size == 100:
        assert inflate(data, 100) == b"x" * 100
    else:
        with pytest.raises(ProtocolError) as caught:
            inflate(data, 100)
        assert caught.value.code == 413


WHOLE = gzip.compress(msgpack.packb({"name": "abc", "rid": 5}))


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_cut_gzip_body(length):
    """However little is missing, the trailer included."""
    with pytest.raises(ProtocolError) as caught:
        decoder()(WHOLE[:length], GZIP)
    assert caught.value.code == 400
    assert not caught.value.fatal


@pytest.mark.parametrize("tail", [b"\0", b"x" * 50, WHOLE])
def test_bytes_behind_the_gzip_body(tail):
    """Trailing bytes, even a second member, are refused: two readers could disagree about them."""
    with pytest.raises(ProtocolError):
        decoder()(WHOLE + tail, GZIP)
    assert rid_of(WHOLE + tail, GZIP, MAX) == 0


def test_a_corrupted_gzip_body():
    """The checksum is checked."""
    broken = bytearray(WHOLE)
    broken[-6] ^= 0xFF
    with pytest.raises(ProtocolError, match="gzip"):
        decoder()(bytes(broken), GZIP)


def test_gzip_around_json():
    """The two flags go together."""
    request = decoder()(gzip.compress(b'{"name":"abc","rid":7}'), GZIP | JSON)
    assert (request.name, request.rid) == ("abc", 7)


# ---------------------------------------------------------------- which field is wrong

WRONG = {
    "missing": ({}, "name"),
    "null": ({"name": None}, "name"),
    "wrong type": ({"name": 5}, "name"),
    "too short": ({"name": ""}, "name"),
    "too long": ({"name": "abcdef"}, "name"),
    "pattern": ({"name": "A"}, "name"),
    "too small": ({"name": "a", "amount": -1}, "amount"),
    "too large": ({"name": "a", "amount": 11}, "amount"),
    "a fraction": ({"name": "a", "amount": 1.5}, "amount"),
    "a huge number": ({"name": "a", "amount": 2**63}, "amount"),
    "no member": ({"name": "a", "kind": "c"}, "kind"),
    "no list": ({"name": "a", "items": {}}, "items"),
    "list too long": ({"name": "a", "items": [{"name": "x"}] * 3}, "items"),
    "bad item": ({"name": "a", "items": [{"name": "x"}, 4]}, "items"),
    "item misses a field": ({"name": "a", "items": [{}]}, "items"),
    "item's field": ({"name": "a", "items": [{"name": "x", "count": 0}]}, "items"),
    "no map": ({"name": "a", "table": []}, "table"),
    "map's value": ({"name": "a", "table": {"k": -1}}, "table"),
    "map's value's type": ({"name": "a", "table": {"k.l[0]": "v"}}, "table"),
    "rid negative": ({"name": "a", "rid": -1}, "rid"),
    "rid over 32 bits": ({"name": "a", "rid": 2**32}, "rid"),
    "rid a string": ({"name": "a", "rid": "1"}, "rid"),
    "rid null": ({"name": "a", "rid": None}, "rid"),
}


@both
@pytest.mark.parametrize("case", WRONG)
def test_the_error_names_the_field(flags, case):
    """Each kind of error names the field of the request that is wrong, and a readable reason without a path."""
    body, field = WRONG[case]
    with pytest.raises(InvalidBody) as caught:
        decoder()(ENCODERS[flags](body), flags)
    answer = caught.value.answer()
    assert (answer["code"], answer["error"], answer["field"]) == (400, "bad_request", field)
    assert "$" not in answer["message"]


def test_a_key_that_is_no_string():
    """A MessagePack map with a number for a key is a bad request, whatever the command."""
    with pytest.raises((InvalidBody, ProtocolError)):
        decoder(Anything)(msgpack.packb({1: 2, "body": 3}), 0)


def test_invalid_body_on_convert():
    """The same for bodies inside of bodies, where no frame was decoded."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"name": "a", "amount": "x"}, Request)
    refusal = invalid_body(caught.value)
    assert refusal.field == "amount"
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert([], Request)
    assert invalid_body(caught.value).field is None


@both
def test_unknown_fields_are_ignored(flags):
    """A newer client's extra fields do no harm."""
    request = decoder()(ENCODERS[flags]({"name": "a", "rid": 4, "later": {"x": [1]}}), flags)
    assert (request.name, request.rid) == ("a", 4)


# ---------------------------------------------------------------- rid


@both
@pytest.mark.parametrize(
    ("rid", "found"),
    [
        *[(1, 1), (2**32 - 1, 2**32 - 1), (0, 0), (-1, 0), (2**32, 0), (2**63, 0)],
        *[("1", 0), (None, 0), (True, 0), ([1], 0), (1.5, 0)],
    ],
)
def test_rid_of(flags, rid, found):
    """Only what is a rid by the wire protocol is answered to."""
    assert rid_of(ENCODERS[flags]({"name": 5, "rid": rid}), flags, MAX) == found


@given(st.binary(max_size=100), st.sampled_from([0, JSON, GZIP, GZIP | JSON]))
def test_any_bytes_as_a_body(data, flags):
    """They are a request, or refused by one of the two errors; `rid_of` answers for all of them."""
    with suppress(InvalidBody, ProtocolError):
        decoder()(data, flags)
    assert 0 <= rid_of(data, flags, MAX) < 2**32


# ---------------------------------------------------------------- request classes


@attrs.frozen
class Derived(Request):
    """A request that adds a field with a default to one that has a required one."""

    extra: int = 9


@attrs.define
class Mutable:
    """An attrs class that is not frozen."""

    name: str


@pytest.mark.parametrize("request_class", [Request, Derived, Plain])
@both
def test_wire_class_is_the_class_itself(flags, request_class):
    """Handlers get an instance of what they declared, with its defaults, and a rid that they need not declare."""
    request = decoder(request_class)(ENCODERS[flags]({"name": "abc", "rid": 3}), flags)
    assert isinstance(request, request_class)
    assert (request.name, request.rid) == ("abc", 3)
    assert request.amount == (3 if request_class is Plain else 0)
    assert decoder(request_class)(ENCODERS[flags]({"name": "abc"}), flags).rid == 0


def test_a_frozen_request_stays_frozen():
    """The wire class does not make a frozen request mutable, and takes the defaults anew each time."""
    first, second = (decoder(Derived)(msgpack.packb({"name": "abc"}), 0) for _ in range(2))
    assert first.extra == 9
    assert first.items == []
    assert first.items is not second.items
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        first.name = "x"


def test_the_request_of_none_has_a_rid_alone():
    """A command without a request class ignores what the body holds, but for the rid."""
    request = decoder(None)(msgpack.packb({"rid": 8, "other": 1}), 0)
    assert request.rid == 8
    with pytest.raises(InvalidBody):
        decoder(None)(msgpack.packb({"rid": "x"}), 0)


@attrs.frozen
class OwnRid:
    """It takes a name that is the protocol's."""

    rid: int = 0


class StructOwnRid(msgspec.Struct):
    """It takes a name that is the protocol's."""

    rid: int = 0


@pytest.mark.parametrize("wrong", [int, dict, "Request", 5, OwnRid, StructOwnRid, object])
def test_wrong_request_classes(wrong):
    """A plugin's mistake is told when it is loaded, not by a request."""
    with pytest.raises(TypeError):
        wire_class(wrong)


# ---------------------------------------------------------------- results


@attrs.frozen
class Result:
    """An attrs instance that a handler returns."""

    user_id: str
    data: bytes = b"\x01"


def test_fields_of_results():
    """Mappings pass as they are, attrs and Struct instances give their fields, None is empty."""
    assert fields_of(None) == {}
    assert fields_of({"a": 1}) == {"a": 1}
    assert fields_of(Result("u")) == {"user_id": "u", "data": b"\x01"}
    assert fields_of(Plain(name="n")) == {"name": "n", "amount": 3}
    assert isinstance(fields_of(Result("u")), Mapping)


@pytest.mark.parametrize("wrong", [1, "text", [1], (1, 2), object(), {1}])
def test_wrong_results(wrong):
    """Anything else is the handler's fault, and says so."""
    with pytest.raises(TypeError, match="a handler returns"):
        fields_of(wrong)


def test_a_message_on_the_wire():
    """The fields and names of wire protocol, section 5; what is absent is left out."""
    message = Message("d:a:b", 1, 2, "00", "c", "a", 3, "text", "hi")
    assert msgpack.unpackb(encode_msgpack(message)) == {
        "conversation_id": "d:a:b",
        "seq": 1,
        "rev": 2,
        "message_id": "00",
        "client_id": "c",
        "from": "a",
        "sent_at": 3,
        "type": "text",
        "body": "hi",
    }
