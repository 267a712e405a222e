"""Bodies: MessagePack, JSON and gzip, decoded straight into typed request classes (wire protocol, sections 1 and 2)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import attrs
import msgspec
from msgspec import Meta

from imserver.errors import InvalidBody, ProtocolError
from imserver.protocol.frame import FORM, GZIP, HEADER_BYTES, JSON, PLAIN, TEXT, pack_frame, pack_header

#: A server compresses only bodies above this, and only for a connection that asked for it.
COMPRESS_ABOVE_BYTES = 1024

#: `rid`: chosen by the client; 0 (or none) asks for no answer.
Rid = Annotated[int, Meta(ge=0, le=2**32 - 1)]

_EMPTY_MAP = {0: b"\x80", JSON: b"{}"}
_BODY_NESTING_MAX = 64  # arbitrary; deeper than any message is, shallower than any decoder's recursion limit

encode_msgpack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_encode_ordered: Callable[[Any], bytes] = msgspec.msgpack.Encoder(order="deterministic").encode
encode_json: Callable[[Any], bytes] = msgspec.json.Encoder().encode
decode_msgpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode


class _Untyped(msgspec.Struct):
    """What is wanted of a body that its own class refused: the `rid`, to answer by."""

    rid: Any = 0


_untyped_msgpack = msgspec.msgpack.Decoder(_Untyped).decode
_untyped_json = msgspec.json.Decoder(_Untyped).decode


def encode_content(content: Any) -> bytes:
    """A message's body as it is stored: equal maps are equal bytes, in whatever order a client has put their keys.

    Only keys that are all strings have an order; other maps are as they came.
    """
    try:
        return _encode_ordered(content)
    except TypeError:
        return encode_msgpack(content)


def wire_class(request: type | None) -> type:
    """The class that a frame's body is decoded into: the request's own fields and `rid`.

    Args:
        request: an attrs class or a `msgspec.Struct`; None stands for a request without fields.

    Returns a subclass of `request`, so that handlers and type checks see what they declared.

    Raises:
        TypeError: `request` is neither, or has a field called `rid` of its own.
    """
    if request is None:
        return msgspec.defstruct("EmptyRequest", [("rid", Rid, 0)])
    if isinstance(request, type) and issubclass(request, msgspec.Struct):
        if "rid" in request.__struct_fields__:
            raise TypeError(f"{request.__name__} has a field `rid`; the protocol owns that name")
        return msgspec.defstruct(request.__name__, [("rid", Rid, 0)], bases=(request,), kw_only=True)
    if not attrs.has(request):
        raise TypeError(f"{request!r} is neither an attrs class nor a msgspec.Struct")
    if any(field.name == "rid" for field in attrs.fields(request)):
        raise TypeError(f"{request.__name__} has a field `rid`; the protocol owns that name")
    return attrs.make_class(
        request.__name__,
        {"rid": attrs.field(default=0, type=Rid, kw_only=True)},
        bases=(request,),
        frozen=True,
        slots=True,
    )


class BodyDecoder:
    """Decodes the bodies of one command.

    Args:
        request: see `wire_class`.
        max_inflated_bytes: the bound on a gzip body's inflated size, kept while inflating.
    """

    __slots__ = ("_decoders", "_max_inflated_bytes")

    def __init__(self, request: type | None, max_inflated_bytes: int) -> None:
        wire = wire_class(request)
        self._decoders: dict[int, Callable[[bytes | memoryview], Any]] = {
            0: msgspec.msgpack.Decoder(wire).decode,
            JSON: msgspec.json.Decoder(wire).decode,
        }
        self._max_inflated_bytes = max_inflated_bytes

    def decode(self, body: bytes | memoryview, flags: int) -> Any:
        """The request in a frame's body; it has an attribute `rid` beside its own.

        Raises:
            InvalidBody: a map, but not this request's; `field` names the culprit and `rid_of` finds whom to answer.
            ProtocolError: no map at all, or no valid encoding.
        """
        if flags & GZIP:
            body = inflate(body, self._max_inflated_bytes)
        try:
            return self._decoders[flags & JSON](body or _EMPTY_MAP[flags & JSON])
        except msgspec.ValidationError as exc:
            raise _wrong_body(exc) from exc
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as exc:
            kind = "JSON object" if flags & JSON else "MessagePack map"
            raise ProtocolError(f"the body is no valid {kind}: {exc}") from exc


def rid_of(body: bytes | memoryview, flags: int, max_inflated_bytes: int) -> int:
    """The `rid` of a body that its request class refused, or 0 where there is none to be had."""
    try:
        if flags & GZIP:
            body = inflate(body, max_inflated_bytes)
        rid = (_untyped_json if flags & JSON else _untyped_msgpack)(body).rid
    except (msgspec.MsgspecError, ProtocolError, RecursionError, ValueError):
        return 0
    return rid if isinstance(rid, int) and not isinstance(rid, bool) and 0 < rid < 2**32 else 0


def inflate(body: bytes | memoryview, max_bytes: int) -> bytes:
    """Decompress a gzip body, never holding more than `max_bytes` of it.

    Raises:
        ProtocolError: not gzip, cut short, with trailing bytes (400), or larger than `max_bytes` inflated (413).
    """
    inflater = zlib.decompressobj(wbits=31)  # 31: gzip only
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as exc:
        raise ProtocolError(f"the body is flagged as gzip but is not: {exc}") from exc
    if len(plain) > max_bytes:
        raise ProtocolError(f"the inflated body is over the limit of {max_bytes} bytes", code=413, error="too_large")
    if not inflater.eof or inflater.unused_data:
        raise ProtocolError("the gzip body is cut short or has bytes behind its end")
    return plain


def encode_frame(command: int, fields: Any, flags: int = 0) -> bytes:
    """One whole frame with these fields.

    Args:
        fields: a mapping with string keys, an attrs instance or a `msgspec.Struct`.
        flags: JSON selects the encoding; TEXT goes with it and says how the frame travels. GZIP allows compression, which
            is used where it makes the body smaller.
    """
    if not flags:  # nearly always
        body = encode_msgpack(fields)
        return pack_header(HEADER_BYTES + len(body), command, PLAIN) + body
    body = encode_json(fields) if flags & JSON else encode_msgpack(fields)
    if flags & (GZIP | TEXT) == GZIP and len(body) > COMPRESS_ABOVE_BYTES:
        compressor = zlib.compressobj(level=1, wbits=31)
        packed = compressor.compress(body) + compressor.flush()
        if len(packed) < len(body):
            return pack_frame(command, packed, flags)
    return pack_frame(command, body, flags & FORM)


def fields_of(result: Any) -> Mapping[str, Any]:
    """A handler's result as a mapping: None is the empty one, attrs and Struct instances give their fields.

    Raises:
        TypeError: it is something else; the handler is wrong.
    """
    if result is None:
        return {}
    if isinstance(result, Mapping):
        return result
    if isinstance(result, msgspec.Struct) or attrs.has(type(result)):
        plain = msgspec.to_builtins(result, builtin_types=(bytes,))
        if isinstance(plain, dict):
            return plain
    raise TypeError(f"a handler returns a mapping, an attrs instance or None, not {type(result).__name__}")


def check_body(value: Any, depth: int = 0) -> None:
    """Refuse a message's `body` that could not be handed on in both encodings.

    Raises:
        InvalidBody: a map key that is no string, an extension type, a number over 64 bits, or nesting over 64 levels.
    """
    if isinstance(value, dict):
        _check_depth(depth)
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidBody("the keys of maps must be strings, so that the body exists in JSON too", field="body")
            check_body(item, depth + 1)
    elif isinstance(value, list):
        _check_depth(depth)
        for item in value:
            check_body(item, depth + 1)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidBody("integers have at most 64 bits, so that the body exists in MessagePack too", field="body")
    elif not (value is None or isinstance(value, (str, float, bytes))):
        raise InvalidBody("MessagePack extension types cannot be sent: they do not exist in JSON", field="body")


def _check_depth(depth: int) -> None:
    if depth > _BODY_NESTING_MAX:
        raise InvalidBody(f"the body is nested deeper than {_BODY_NESTING_MAX} levels", field="body")


_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*?)`$")
_MISSING = re.compile(r"missing required field `(.+?)`")


def _wrong_body(exc: msgspec.ValidationError) -> InvalidBody | ProtocolError:
    text = str(exc)
    if text.startswith("Expected `object`") and _PATH.search(text) is None:
        return ProtocolError(f"the body must be a map: {text}")
    return invalid_body(exc)


def invalid_body(exc: msgspec.ValidationError) -> InvalidBody:
    """The refusal that says which field of a request is wrong, out of msgspec's error."""
    text = str(exc)
    path = _PATH.search(text)
    missing = _MISSING.search(text)
    field = path.group(1) if path else ""
    if missing:
        field = f"{field}.{missing.group(1)}" if field else missing.group(1)
    # The field's own name leads: `user_ids[0]` is wrong in `user_ids`.
    name = re.split(r"[.\[]", field)[0] if field else None
    return InvalidBody(text[: path.start()] if path else text, field=name or None)
