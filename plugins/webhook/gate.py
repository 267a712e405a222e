"""Asking before a message is accepted: `before_send` cannot wait, so the question is the loader of what is not in memory.

The hook asks for a verdict on exactly this message; the handler is run again when there is one. A verdict is kept for a
minute: a client that sends the same message again, because its answer was lost, gets the same one.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import trio
from attrs import define, frozen

from imserver.plugin import ImError, Meta, NotLoaded, PermissionDenied, Struct, Unavailable, UserId, check_body
from imserver_plugins.webhook.client import Client, PostFailed
from imserver_plugins.webhook.signing import signed_headers
from imserver_plugins.webhook.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imserver.plugin import AppContext, Draft
    from imserver_plugins.webhook.settings import BeforeSend

#: Verdicts are remembered so long, and so many of them.
KEPT_S: Final = 60.0
MAX_KEPT: Final = 10_000
#: When so many questions in a row had no answer, none is asked for a while: each would cost its sender the time limit.
FAILURES_TO_REST: Final = 5
REST_S: Final = 5.0

#: A receiver has this much of its time at least, however long the question has waited for its turn.
_LEAST_S: Final = 0.05
_MAX_EMOJI_CHARS: Final = 32


class _Reply(Struct, forbid_unknown_fields=True):
    """What the receiver may answer."""

    action: Literal["allow", "refuse", "change"] = "allow"
    message: Annotated[str, Meta(max_length=500)] | None = None
    error: Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,63}\Z")] | None = None
    body: Any = msgspec.UNSET
    type: Annotated[str, Meta(min_length=1, max_length=32)] | msgspec.UnsetType = msgspec.UNSET
    mentions: Annotated[list[UserId], Meta(max_length=500)] | msgspec.UnsetType | None = msgspec.UNSET


_decode_reply = msgspec.json.Decoder(_Reply).decode


@frozen
class Verdict:
    """What becomes of a message. `reply` None: there was no answer, and the policy decides."""

    reply: _Reply | None
    until_s: float


@define
class _Standing:
    """How the receiver is doing, in all shards; a count that is off by one does no harm."""

    failures: int = 0
    rests_until_s: float = 0.0


class Gate:
    """The receiver that is asked."""

    def __init__(self, settings: BeforeSend, keys: Sequence[bytes], client: Client) -> None:
        self._settings = settings
        self._keys = keys
        self._client = client
        self._standing = _Standing()
        self._slots = Slots(settings.concurrency)
        self._kept: dict[bytes, Verdict] = {}  # the oldest first
        self._lock = threading.Lock()

    def check(self, ctx: AppContext, draft: Draft) -> None:
        """Let the message pass, change it, or refuse it.

        Raises:
            ImError: it is refused, or (`on_failure = "refuse"`) there was no answer.
            NotLoaded: for the router.
        """
        if _is_no_message(draft) or (self._settings.types and draft.type not in self._settings.types):
            return
        key = _key(draft)
        verdict = self._kept.get(key)
        if verdict is None or verdict.until_s < ctx.clock.monotonic():
            # A copy: the draft is made anew for the next run, and other hooks may change this one.
            asked = msgspec.structs.replace(draft)
            raise NotLoaded(lambda: self._ask(ctx, key, asked), ("webhook.before_send", key))
        _apply(self._settings, verdict, draft)

    async def _ask(self, ctx: AppContext, key: bytes, draft: Draft) -> None:
        reply: _Reply | None = None
        if self._standing.rests_until_s <= ctx.clock.monotonic():
            ends_s = trio.current_time() + self._settings.timeout_s
            with trio.move_on_at(ends_s) as scope:
                await self._slots.take()
            if not scope.cancelled_caught:
                try:
                    reply = await self._question(ctx, draft, max(_LEAST_S, ends_s - trio.current_time()))
                finally:
                    self._slots.give_back()
        # The next one without an answer asks again: only the handler that waits now, for others' questions too if it sends
        # several messages, is to find this.
        kept_s = KEPT_S if reply is not None else self._settings.timeout_s + 1.0
        self._keep(key, Verdict(reply, ctx.clock.monotonic() + kept_s))

    def _keep(self, key: bytes, verdict: Verdict) -> None:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = verdict
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    async def _question(self, ctx: AppContext, draft: Draft, timeout_s: float) -> _Reply | None:
        settings, standing = self._settings, self._standing
        question = {
            "id": f"q-{secrets.token_hex(12)}",
            "event": "before_send",
            "server": ctx.config.server.name,
            "message": {
                "conversation_id": draft.conversation_id,
                "from": draft.sender,
                "client_id": draft.client_id,
                "type": draft.type,
                "body": draft.body,
                "reply_to": draft.reply_to,
                "mentions": draft.mentions,
            },
        }
        body = msgspec.json.encode(question)
        headers = signed_headers(self._keys, body, ctx.clock.now_ms())
        try:
            answer = await self._client.post(settings.url, headers, body, timeout_s=timeout_s)
            if not 200 <= answer.status < 300 or not answer.is_whole:
                raise PostFailed(f"HTTP {answer.status}" if answer.is_whole else "the answer is too long")
            reply = _decode_reply(answer.body) if answer.body else _Reply()
            if reply.action == "change":
                _check_change(reply, draft)
        except (PostFailed, msgspec.DecodeError, UnicodeDecodeError, ImError, RecursionError) as exc:
            standing.failures += 1
            if standing.failures >= FAILURES_TO_REST:
                standing.rests_until_s = ctx.clock.monotonic() + REST_S
            if standing.failures & (standing.failures - 1) == 0:
                ctx.log.warning(
                    "webhook_before_send_failed", reason=str(exc), failures=standing.failures, policy=settings.on_failure
                )
            return None
        standing.failures = 0
        return reply


def _is_no_message(draft: Draft) -> bool:
    """What the hooks of TYPING and REACT see. A message that calls itself so, but says more than those can, is one."""
    if draft.type == "typing":
        return draft.client_id == "typing" and draft.body is None and not draft.mentions
    if draft.type == "reaction" and draft.client_id == "reaction" and not draft.mentions:
        return isinstance(draft.body, str) and len(draft.body) <= _MAX_EMOJI_CHARS
    return False


def _check_change(reply: _Reply, draft: Draft) -> None:
    """A changed message must be one that its sender could have sent.

    Raises:
        PostFailed: it is none.
        InvalidBody: its body is none.
    """
    kind = draft.type if reply.type is msgspec.UNSET else reply.type
    body = draft.body if reply.body is msgspec.UNSET else reply.body
    if kind in ("system", "typing", "reaction") or (kind == "text" and not isinstance(body, str)):
        raise PostFailed(f"its change makes no message of the type {kind}")
    check_body(body)


def _key(draft: Draft) -> bytes:
    """Of this message: its sender's name for it, and all that is asked about."""
    said = (draft.type, draft.body, draft.reply_to, draft.mentions)
    named = (draft.conversation_id, draft.sender, draft.client_id, *said)
    return hashlib.blake2b(msgspec.msgpack.encode(named), digest_size=16).digest()


def _apply(settings: BeforeSend, verdict: Verdict, draft: Draft) -> None:
    reply = verdict.reply
    if reply is None:
        if settings.on_failure == "refuse":
            raise Unavailable("this message cannot be checked just now; try again", error="check_unavailable")
        return
    if reply.action == "refuse":
        text = reply.message or "this message is not allowed here"
        if reply.error is not None:
            raise PermissionDenied(text, error=reply.error)
        raise PermissionDenied(text, error="message_refused")
    if reply.action == "change":
        if reply.body is not msgspec.UNSET:
            draft.body = reply.body
        if not isinstance(reply.type, msgspec.UnsetType):
            draft.type = reply.type
        if not isinstance(reply.mentions, msgspec.UnsetType):
            draft.mentions = reply.mentions
