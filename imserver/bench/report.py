"""The figures of a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import attrs

from imserver.bench.pairs import Measured, Plan


@attrs.frozen
class Report:
    """Rates in messages a second, latencies in milliseconds, CPU in microseconds a message."""

    pairs: int
    in_flight: int
    seconds: float
    delivered: int
    delivered_per_s: float
    accepted_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    ack_p50_ms: float
    ack_p99_ms: float
    server_cpu_us_per_message: float | None
    load_cpu_us_per_message: float
    sampled: int
    verified: bool
    machine: str

    def text(self) -> str:
        """For people."""
        server = "not known" if self.server_cpu_us_per_message is None else f"{self.server_cpu_us_per_message:.1f} µs"
        return "\n".join(
            [
                f"{self.pairs} pairs, {self.in_flight} in flight each, {self.seconds:.1f} s on {self.machine}",
                f"delivered     {self.delivered_per_s:,.0f} messages/s ({self.delivered:,} in all)",
                f"end to end    p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms, max {self.max_ms:.2f} ms",
                f"acknowledged  p50 {self.ack_p50_ms:.2f} ms, p99 {self.ack_p99_ms:.2f} ms",
                f"CPU a message server {server}, load {self.load_cpu_us_per_message:.1f} µs",
                f"latencies of  {self.sampled:,} messages",
                "verified      each message was accepted, delivered once, in order, and is stored"
                if self.verified
                else "verified      NO",
            ]
        )


def make_report(plan: Plan, measured: Measured, server_cpu_s: float | None, *, verified: bool) -> Report:
    """Work the figures out."""
    delivered = max(1, measured.delivered)
    push, ack = sorted(measured.push_latencies_s), sorted(measured.ack_latencies_s)
    return Report(
        pairs=plan.pairs,
        in_flight=plan.window,
        seconds=round(measured.span_s, 3),
        delivered=measured.delivered,
        delivered_per_s=round(measured.delivered / measured.span_s, 1),
        accepted_per_s=round(measured.accepted / measured.span_s, 1),
        p50_ms=_percentile_ms(push, 0.50),
        p99_ms=_percentile_ms(push, 0.99),
        max_ms=_percentile_ms(push, 1.0),
        ack_p50_ms=_percentile_ms(ack, 0.50),
        ack_p99_ms=_percentile_ms(ack, 0.99),
        server_cpu_us_per_message=None if server_cpu_s is None else round(server_cpu_s / delivered * 1e6, 2),
        load_cpu_us_per_message=round(measured.cpu_load_s / delivered * 1e6, 2),
        sampled=len(push),
        verified=verified,
        machine=f"{os.cpu_count()} cores, {platform.python_implementation()} {platform.python_version()}",
    )


def _percentile_ms(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the (ascending) values does not exceed."""
    if not values:
        return 0.0
    index = min(len(values) - 1, max(0, -(-int(share * len(values) * 1000) // 1000) - 1))
    return round(values[index] * 1000, 3)
