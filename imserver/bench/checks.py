"""Afterwards: was each message answered, delivered exactly once, in order of `seq` without a gap, and stored?"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgpack
from attrs import frozen

from imserver.bench.load import Pair, receive_frames
from imserver.bench.pair import Recipient, Sender
from imserver.bench.wire import COUNTER_DIGITS, PULL, RID_BASE, pack

#: Codes of an overloaded server: `--tolerate` takes them for an answer.
OVERLOAD_CODES = frozenset({429, 503})
_MAX_PAGE = 500
_PAGE_BYTES = 1 << 20  # pages of large messages are kept below the server's outbox limit
_OVERHEAD_BYTES = 400  # of a stored message beside its text
_NAMED = 5  # of many messages that went wrong, so many are named


@frozen
class Outcome:
    """What became of one pair's messages; the lists are in the order of arrival."""

    acked: array[int]
    pushed: array[int]
    seqs: list[int]


def outcome_of(pair: Pair) -> Outcome:
    """Decode what was collected in the run."""
    rids = _integers(bytes(pair.sender.acked_rids))
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(bytes(pair.recipient.pushed_seqs))
    return Outcome(
        acked=array("I", [rid - RID_BASE for rid in rids]),
        pushed=_integers(bytes.fromhex(pair.recipient.pushed_ids.decode("ascii"))),
        seqs=list(unpacker),
    )


def _integers(data: bytes) -> array[int]:
    """Unsigned 32-bit integers in network byte order."""
    assert COUNTER_DIGITS == 8, "two hex digits a byte"
    values = array("I")
    assert values.itemsize == 4, "C's unsigned int has 4 bytes on every system that has epoll"
    values.frombytes(data)
    if sys.byteorder == "little":
        values.byteswap()
    return values


def check_delivery(pairs: Sequence[Pair], outcomes: Sequence[Outcome], *, tolerate: bool) -> list[str]:
    """What is wrong with responses and pushes, a sentence each; empty: nothing is.

    Args:
        tolerate: take 429 and 503 for an answer; such a message must not be delivered.
    """
    problems: list[str] = []
    for pair, outcome in zip(pairs, outcomes, strict=True):
        problems += _connection_problems(pair)
        problems += _refusals(pair.sender, tolerate)
        problems += _ack_problems(pair.sender, outcome)
        problems += _push_problems(pair, outcome)
    return problems


def _connection_problems(pair: Pair) -> Iterable[str]:
    for end in (pair.sender, pair.recipient):
        yield from end.oddities
        if end.odd_count > len(end.oddities):
            yield f"{end.user_id}: and {end.odd_count - len(end.oddities)} more of this kind"


def _refusals(sender: Sender, tolerate: bool) -> Iterable[str]:
    refused = [text for code, text in sender.refused.values() if not (tolerate and code in OVERLOAD_CODES)]
    if refused:
        yield f"{sender.user_id}: {len(refused)} message(s) got no success; the first answer: {refused[0]}"


def _ack_problems(sender: Sender, outcome: Outcome) -> Iterable[str]:
    # Most runs end here: each answered once, though not always in the order sent.
    if len(outcome.acked) == sender.sent and len(set(outcome.acked)) == sender.sent:
        return
    times = Counter(outcome.acked)
    yield from _say(sender.user_id, "never answered", [n for n in range(sender.sent) if n not in times])
    yield from _say(sender.user_id, "answered more than once", [n for n, count in times.items() if count > 1])


def _push_problems(pair: Pair, outcome: Outcome) -> Iterable[str]:
    recipient, refused = pair.recipient.user_id, pair.sender.refused
    due = [number for number in range(pair.sender.sent) if number not in refused]
    # Sent on one connection to one conversation: sequenced in the order sent (wire protocol, section 2).
    if outcome.pushed.tolist() == due and outcome.seqs == list(range(1, len(due) + 1)):
        return
    times = Counter(outcome.pushed)
    yield from _say(recipient, "never delivered", [number for number in due if number not in times])
    yield from _say(recipient, "delivered more than once", [number for number, count in times.items() if count > 1])
    expected = set(due)
    yield from _say(recipient, "delivered though refused or never sent", [n for n in times if n not in expected])
    order = list(dict.fromkeys(outcome.pushed))
    if order != sorted(order):
        yield f"{recipient}: messages were delivered in another order than sent"
    seqs = list(dict.fromkeys(outcome.seqs))
    gap = next((place for place, seq in enumerate(seqs, start=1) if seq != place), None)
    if gap is not None:
        yield f"{recipient}: seq {seqs[gap - 1]} came where {gap} was due"
    if len(seqs) != len(order):
        yield f"{recipient}: {len(order)} messages came under {len(seqs)} different seqs"


def _say(user_id: str, what: str, numbers: Sequence[int]) -> Iterable[str]:
    if numbers:
        named = ", ".join(f"#{number}" for number in islice(numbers, _NAMED))
        more = ", …" if len(numbers) > _NAMED else ""
        yield f"{user_id}: {len(numbers)} message(s) {what}: {named}{more}"


# ---------------------------------------------------------------- the archive


def check_storage(pairs: Sequence[Pair], outcomes: Sequence[Outcome], *, patience_s: float) -> list[str]:
    """PULL every conversation from its first message to its last and compare with what was delivered.

    It uses the recipients' connections: a message that is pushed again even now is noticed.

    Raises:
        BenchFailed: the server does not answer.
    """
    problems: list[str] = []
    for pair, outcome in zip(pairs, outcomes, strict=True):
        if pair.recipient.is_within_frame:  # only after a run that was broken off
            problems.append(f"{pair.recipient.user_id}: a push came in part only; what is stored was not looked at")
            continue
        pair.recipient.sock.settimeout(patience_s)
        problems += _archive_problems(pair, outcome)
    return problems


def _archive_problems(pair: Pair, outcome: Outcome) -> Iterator[str]:
    recipient, naming = pair.recipient, pair.recipient.naming
    delivered = dict(zip(outcome.seqs, outcome.pushed.tolist(), strict=False))
    text = naming.text
    limit = max(1, min(_MAX_PAGE, _PAGE_BYTES // (len(text) + _OVERHEAD_BYTES)))
    last = 0
    while True:
        page = yield from _page(recipient, last, limit)
        if not page:
            break
        for message in page:
            last += 1
            seq, counter = message.get("seq"), naming.counter_of(message.get("client_id"))
            if seq != last:
                yield f"{recipient.conversation}: seq {seq} is stored where {last} is due"
                return
            if counter is None or delivered.get(last, counter) != counter:
                yield f"{recipient.conversation}: seq {last} is stored as another message than was delivered: {message}"
                return
            if message.get("body") != text or message.get("from") != pair.sender.user_id:
                yield f"{recipient.conversation}: seq {last} is stored with another text or sender: {str(message)[:300]}"
                return
            if pair.sender.sampled_seqs.get(counter, last) != last:
                yield f"{recipient.conversation}: #{counter} was answered with another seq than the {last} of its row"
                return
    due = pair.sender.sent - len(pair.sender.refused)
    if last != due:
        yield f"{recipient.conversation}: {last} messages are stored, but {due} were accepted"


def _page(recipient: Recipient, after_seq: int, limit: int) -> Generator[str, None, list[dict[str, Any]]]:
    """A page of the conversation; yields problems, returns the messages."""
    fields = {"rid": 1, "conversation_id": recipient.conversation, "after_seq": after_seq, "limit": limit}
    pull = pack(PULL, fields)
    recipient.sock.sendall(recipient.framing.header(len(pull)) + pull)
    answer: dict[str, object] | None = None
    while answer is None:
        for command, body in receive_frames(recipient.sock, recipient.framing):
            if command == PULL:
                answer = body
            else:
                yield f"{recipient.user_id}: a frame of command {command} came when all was over: {str(body)[:300]}"
    messages = answer.get("messages")
    if answer.get("code") != 0 or not isinstance(messages, list):
        yield f"{recipient.conversation}: PULL failed: {str(answer)[:300]}"
        return []
    return messages
