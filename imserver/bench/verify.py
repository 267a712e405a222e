"""Was every message that was sent delivered once, in order, and stored?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from imserver.bench import wire
from imserver.bench.pairs import PairsRun

_PAGE = 500
_FAULTS_SHOWN = 5


def sequence_faults(who: str, numbers: Iterable[int], count: int) -> list[str]:
    """What is wrong with a list that should be 1, 2, … count."""
    got = list(numbers)
    if got == list(range(1, count + 1)):
        return []
    faults = []
    lost = set(range(1, count + 1)) - set(got)
    if lost:
        faults.append(f"{who}: {len(lost)} of {count} messages missing, the first is {min(lost)}")
    if len(set(got)) != len(got):
        seen: set[int] = set()
        twice = next(number for number in got if number in seen or seen.add(number))  # type: ignore[func-returns-value]
        faults.append(f"{who}: {len(got) - len(set(got))} messages doubled, the first is {twice}")
    foreign = set(got) - set(range(1, count + 1))
    if foreign:
        faults.append(f"{who}: {len(foreign)} messages that were never sent, the first is {min(foreign)}")
    if not faults:
        at = next(index for index, (a, b) in enumerate(pairwise(got)) if b < a)
        faults.append(f"{who}: out of order, {got[at + 1]} came after {got[at]}")
    return faults


def delivery_faults(run: PairsRun) -> list[str]:
    """Each recipient got 1 … n once each, in order."""
    faults = []
    for pair in run.pairs:
        numbers = (int(counter) for chunk in pair.arrivals for counter in chunk)
        faults += sequence_faults(f"delivered to {run.plan.recipient(pair.index)}", numbers, pair.sent)
    return faults


def storage_faults(run: PairsRun) -> list[str]:
    """Each conversation, read back by PULL on a new connection, holds 1 … n with `seq` = 1 … n."""
    faults = []
    for pair in run.pairs:
        who = f"stored in {run.plan.conversation(pair.index)}"
        messages = _read_back(run, pair.index)
        if [message["seq"] for message in messages] != list(range(1, len(messages) + 1)):
            faults.append(f"{who}: seq is not 1 … {len(messages)} without a gap")
        faults += sequence_faults(who, (int(message["client_id"][2:]) for message in messages), pair.sent)
    return faults


def _read_back(run: PairsRun, index: int) -> list[dict[str, Any]]:
    (sock,) = run.open([run.plan.recipient(index)])
    messages: list[dict[str, Any]] = []
    with sock:
        while True:
            after = messages[-1]["seq"] if messages else 0
            fields = {
                "rid": 1,
                "conversation_id": run.plan.conversation(index),
                "after_seq": after,
                "limit": _PAGE,
            }
            sock.sendall(wire.frame(wire.PULL, fields))
            page: Any = run.one_answer(sock, wire.PULL, "PULL")["messages"]
            if not page:
                return messages
            messages += page


def summary(faults: list[str]) -> str:
    """The faults as one text, cut after a few."""
    shown = faults[:_FAULTS_SHOWN]
    if len(faults) > len(shown):
        shown.append(f"… and {len(faults) - len(shown)} more")
    return "\n".join(shown)
