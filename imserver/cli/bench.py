"""`imserver bench`: measure this server on this machine."""

from __future__ import annotations

import json
import secrets
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import attrs
import click

from imserver.bench.pairs import BenchError, Measured, PairsRun, Plan
from imserver.bench.report import make_report
from imserver.bench.server import Target, own_server
from imserver.bench.verify import delivery_faults, storage_faults, summary


@click.group()
def bench() -> None:
    """Measure the server on this machine, and verify what it did."""


@bench.command()
@click.option("-p", "--pairs", "pair_count", default=50, show_default=True, type=click.IntRange(1, 20_000))
@click.option("-w", "--window", default=1, show_default=True, type=click.IntRange(1, 1024), help="In flight, each pair.")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 3600), help="The measured span.")
@click.option("--warmup", "warmup_s", default=1.0, show_default=True, type=click.FloatRange(0, 600))
@click.option("--size", default=100, show_default=True, type=click.IntRange(1, 100_000), help="Bytes of text a message.")
@click.option("--connect", metavar="HOST:PORT", help="A server that runs already; needs --secret-file.")
@click.option("--secret-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of the server that is started.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pairs(
    pair_count: int,
    window: int,
    seconds: float,
    warmup_s: float,
    size: int,
    connect: str | None,
    secret_file: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Pairs of a sender and a recipient; each sender keeps WINDOW messages in flight.

    Prints what was delivered a second, latencies from the sender's send to the recipient's push, and CPU time a message;
    then checks that every message was accepted, delivered once, in order, and is stored. Exit status 1 if not.
    """
    target: AbstractContextManager[Target]
    if connect is None:
        target = own_server(overrides)
    else:
        host, _, port = connect.rpartition(":")
        if secret_file is None or not port.isdigit():
            raise click.UsageError("--connect takes HOST:PORT and needs --secret-file, the server's auth.secret_file")
        target = nullcontext(Target(host.strip("[]"), int(port), secret_file.read_bytes().strip()))
    try:
        with target as server:
            plan = Plan(
                pairs=pair_count,
                window=window,
                seconds=seconds,
                warmup_s=warmup_s,
                size=size,
                host=server.host,
                port=server.port,
                secret=server.secret,
                tag=f"bench-{secrets.token_hex(4)}",
            )
            measured, cpu_s, faults = _run(plan, server)
    except (BenchError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    report = make_report(plan, measured, cpu_s, verified=not faults)
    click.echo(json.dumps(attrs.asdict(report)) if as_json else report.text())
    if faults:
        raise click.ClickException(f"verification failed:\n{summary(faults)}")


def _run(plan: Plan, server: Target) -> tuple[Measured, float | None, list[str]]:
    run = PairsRun(plan)
    cpu: list[float | None] = []
    try:
        run.connect()
        measured = run.measure(lambda: cpu.append(server.cpu_s()), lambda: cpu.append(server.cpu_s()))
        run.drain()
        faults = delivery_faults(run) + storage_faults(run)
    finally:
        run.close()
    begin, end = cpu
    return measured, None if begin is None or end is None else end - begin, faults
