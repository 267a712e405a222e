"""`imserver bench pairs` from beginning to end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import frozen

from imserver.bench.checks import check_delivery, check_storage, outcome_of
from imserver.bench.figures import Figures, as_fields, as_text, figures_of
from imserver.bench.framing import Address
from imserver.bench.load import Load, Pair, connected, state_of
from imserver.bench.process import OwnServer, own_server
from imserver.bench.wire import BenchFailed, Naming

_TEXT = "imserver measures what a message costs, and this is what it sends. "
_NAMES = {"tcp": "TCP", "ws": "WebSocket"}
_SHOWN = 20  # problems; the rest is counted


@frozen(kw_only=True)
class Plan:
    """What to measure; see `imserver bench pairs --help`."""

    pairs: int
    in_flight: int
    seconds: float
    warmup_s: float = 1.0
    size: int = 100
    #: `tcp` or `ws`; that of `connect`, if that is given.
    transport: str = "tcp"
    #: None: start a server.
    connect: Address | None = None
    secret_file: Path | None = None
    #: For a server of one's own, as `--set` takes them.
    settings: Sequence[str] = ()
    tolerate: bool = False
    stall_s: float = 10.0


@frozen(kw_only=True)
class Report:
    """How it went. `problems` is empty if every message was found where it belongs."""

    plan: Plan
    sent: int
    refused: dict[int, int]
    figures: Figures | None
    problems: Sequence[str]

    @property
    def is_verified(self) -> bool:
        """Whether nothing was lost, doubled, misplaced or refused."""
        return not self.problems

    def text(self) -> str:
        """For a person."""
        plan = self.plan
        lines = [
            f"{plan.pairs} pairs, {plan.in_flight} in flight each, {plan.size}-byte text, over {_NAMES[plan.transport]}",
            "no figures: the measured span was not completed, or empty" if self.figures is None else as_text(self.figures),
        ]
        if self.refused:
            lines.append("refused      " + ", ".join(f"{count:,} × {code}" for code, count in sorted(self.refused.items())))
        if self.is_verified:
            accepted = self.sent - sum(self.refused.values())
            lines.append(f"verified     {accepted:,} messages: answered, delivered once in order of seq, and stored")
        else:
            lines.append(f"VERIFICATION FAILED: {len(self.problems)} problem(s)")
            lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
            if len(self.problems) > _SHOWN:
                lines.append(f"  … and {len(self.problems) - _SHOWN} more")
        return "\n".join(lines)

    def fields(self) -> dict[str, Any]:
        """For JSON; without figures their keys are absent."""
        plan = self.plan
        return {
            "transport": plan.transport,
            "pairs": plan.pairs,
            "in_flight": plan.in_flight,
            "size": plan.size,
            "warmup_s": plan.warmup_s,
            "sent": self.sent,
            "refused": {str(code): count for code, count in sorted(self.refused.items())},
            **({} if self.figures is None else as_fields(self.figures)),
            "verified": self.is_verified,
            "problems": list(self.problems[:_SHOWN]),
            "problem_count": len(self.problems),
        }


def measure(plan: Plan) -> Report:
    """Start a server if none is given, load it, and verify what it did.

    Raises:
        BenchFailed: it did not come to sending; a failure on the way ends up in the report.
    """
    naming = Naming(secrets.token_hex(3), (_TEXT * (plan.size // len(_TEXT) + 1))[: plan.size])
    with ExitStack() as stack:
        server: OwnServer | None = None
        if plan.connect is None:
            server = stack.enter_context(own_server(plan.settings))
            address, secret = server.wait_ready(plan.transport), server.secret
        else:
            address, secret = plan.connect, read_secret(plan.secret_file)
        pairs = stack.enter_context(connected(address, secret, plan.pairs, naming, patience_s=plan.stall_s))
        return _drive(plan, pairs, server)


def read_secret(path: Path | None) -> bytes:
    """What a running server signs tokens with.

    Raises:
        BenchFailed: there is no such file, or it cannot be read.
    """
    if path is None:
        raise BenchFailed("to measure a running server its secret file is needed: it signs the users' tokens")
    try:
        return path.read_bytes().strip()
    except OSError as exc:
        raise BenchFailed(f"cannot read the secret file {path}: {exc.strerror}") from exc


def _drive(plan: Plan, pairs: list[Pair], server: OwnServer | None) -> Report:
    server_cpu: Callable[[], float | None] = (lambda: None) if server is None else server.cpu_s
    load = Load(pairs, in_flight=plan.in_flight, stall_s=plan.stall_s, server_cpu=server_cpu)
    problems = []
    try:
        load.run(warmup_s=plan.warmup_s, seconds=plan.seconds)
    except BenchFailed as exc:
        problems.append(f"the run was broken off: {exc}; {state_of(pairs)}")
    except KeyboardInterrupt:
        raise BenchFailed(f"interrupted: {state_of(pairs)}; nothing was verified") from None
    outcomes = [outcome_of(pair) for pair in pairs]
    figures = None
    if load.begin is not None and load.end is not None:
        figures = figures_of(pairs, outcomes, load.begin, load.end)
    problems += check_delivery(pairs, outcomes, tolerate=plan.tolerate)
    obituary = server.obituary() if problems and server is not None else None
    if obituary is not None:
        problems.insert(0, obituary)
    else:
        try:
            problems += check_storage(pairs, outcomes, patience_s=plan.stall_s)
        except BenchFailed as exc:
            problems.append(f"the stored messages could not be read: {exc}")
    refused: dict[int, int] = {}
    for pair in pairs:
        for code, _ in pair.sender.refused.values():
            refused[code] = refused.get(code, 0) + 1
    sent = sum(pair.sender.sent for pair in pairs)
    return Report(plan=plan, sent=sent, refused=refused, figures=figures, problems=problems)
