"""What the measured span was like, in numbers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Container, Sequence
from typing import Any

from attrs import frozen

from imserver.bench.checks import Outcome
from imserver.bench.load import Mark, Pair


@frozen
class Latency:
    """In milliseconds. A percentile is the smallest value that so many are not above (nearest rank)."""

    p50: float
    p99: float
    max: float


@frozen
class Figures:
    """CPU times are of whole processes, user and system; the server's is None where its process is not known."""

    seconds: float
    delivered: int
    delivered_per_s: float
    latency_ms: Latency
    ack_ms: Latency
    server_cpu_us_per_message: float | None
    server_cpu_share: float | None
    load_cpu_us_per_message: float
    load_cpu_share: float


def figures_of(pairs: Sequence[Pair], outcomes: Sequence[Outcome], begin: Mark, end: Mark) -> Figures | None:
    """The figures of the span; None: nothing was delivered in it.

    Messages are counted by their arrival in the span; latencies are those of the messages that were sent in it, however
    late they came.
    """
    seconds, delivered = end.at_s - begin.at_s, end.delivered - begin.delivered
    latencies, acks = array("d"), array("d")
    for pair, outcome in zip(pairs, outcomes, strict=True):
        sent_at = pair.sender.sent_at
        refused = pair.sender.refused
        _add(latencies, sent_at, refused, outcome.pushed, pair.recipient.pushed_at, begin, end)
        _add(acks, sent_at, refused, outcome.acked, pair.sender.acked_at, begin, end)
    if not delivered or not latencies or not acks:
        return None
    load_cpu_s = end.load_cpu_s - begin.load_cpu_s
    is_known = begin.server_cpu_s is not None and end.server_cpu_s is not None
    server_cpu_s = end.server_cpu_s - begin.server_cpu_s if is_known else None  # type: ignore[operator]  # is_known
    return Figures(
        seconds=seconds,
        delivered=delivered,
        delivered_per_s=delivered / seconds,
        latency_ms=_summary(latencies),
        ack_ms=_summary(acks),
        server_cpu_us_per_message=None if server_cpu_s is None else 1e6 * server_cpu_s / delivered,
        server_cpu_share=None if server_cpu_s is None else server_cpu_s / seconds,
        load_cpu_us_per_message=1e6 * load_cpu_s / delivered,
        load_cpu_share=load_cpu_s / seconds,
    )


def _add(
    latencies: array[float],
    sent_at: Sequence[float],
    refused: Container[int],
    numbers: array[int],
    came_at: Sequence[float],
    begin: Mark,
    end: Mark,
) -> None:
    first, last, size = begin.at_s, end.at_s, len(sent_at)
    for number, at_s in zip(numbers, came_at, strict=True):
        # A number that was never sent is the verifier's business; a refusal is quick, and no ack.
        if number < size and first <= sent_at[number] < last and number not in refused:
            latencies.append(at_s - sent_at[number])


def _summary(latencies_s: array[float]) -> Latency:
    ordered = sorted(latencies_s)
    p50, p99 = (1000 * ordered[math.ceil(part * len(ordered)) - 1] for part in (0.50, 0.99))
    return Latency(p50, p99, 1000 * ordered[-1])


def as_text(figures: Figures) -> str:
    """For a person."""
    server = "unknown: the server is not this benchmark's own"
    if figures.server_cpu_us_per_message is not None:
        server = f"{figures.server_cpu_us_per_message:.1f} µs/message ({figures.server_cpu_share:.2f} of a core)"
    return "\n".join(
        [
            f"delivered    {figures.delivered_per_s:,.0f}/s ({figures.delivered:,} messages in {figures.seconds:.1f} s)",
            f"end to end   {_latency_text(figures.latency_ms)}",
            f"ack          {_latency_text(figures.ack_ms)}",
            f"server CPU   {server}",
            f"load CPU     {figures.load_cpu_us_per_message:.1f} µs/message ({figures.load_cpu_share:.2f} of a core)",
        ]
    )


def as_fields(figures: Figures) -> dict[str, Any]:
    """For JSON, rounded to what the clocks can tell."""
    return {
        "seconds": round(figures.seconds, 3),
        "delivered": figures.delivered,
        "delivered_per_s": round(figures.delivered_per_s, 1),
        "latency_ms": _latency_fields(figures.latency_ms),
        "ack_ms": _latency_fields(figures.ack_ms),
        "server_cpu_us_per_message": _rounded(figures.server_cpu_us_per_message),
        "server_cpu_share": _rounded(figures.server_cpu_share),
        "load_cpu_us_per_message": _rounded(figures.load_cpu_us_per_message),
        "load_cpu_share": _rounded(figures.load_cpu_share),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _latency_text(latency: Latency) -> str:
    return f"p50 {latency.p50:.2f} ms   p99 {latency.p99:.2f} ms   max {latency.max:.2f} ms"


def _latency_fields(latency: Latency) -> dict[str, float]:
    return {"p50": round(latency.p50, 3), "p99": round(latency.p99, 3), "max": round(latency.max, 3)}
