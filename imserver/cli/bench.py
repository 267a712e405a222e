"""`imserver bench`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import click


@click.group()
def bench() -> None:
    """Measure a server."""


class _Address(click.ParamType[tuple[str | None, str, int, str]]):
    """HOST:PORT or ws://HOST:PORT/PATH as (transport or None, host, port, path)."""

    name = "ADDRESS"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, str, int, str]:
        if isinstance(value, tuple):
            return value
        scheme, separator, rest = str(value).rpartition("://")
        if scheme in ("wss", "tls", "https"):
            self.fail(f"{value!r}: the load speaks no TLS; measure the listener without it", param, ctx)
        if scheme not in (("tcp", "ws") if separator else ("",)):
            self.fail(f"{value!r}: expected HOST:PORT, tcp://HOST:PORT or ws://HOST:PORT/ws", param, ctx)
        place, slash, path = rest.partition("/")
        host, colon, port = place.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536 or (path and scheme != "ws"):
            self.fail(f"{value!r}: expected HOST:PORT, for example 127.0.0.1:9000 or ws://127.0.0.1:8080/ws", param, ctx)
        return scheme or None, host.removeprefix("[").removesuffix("]"), int(port), slash + path if path else "/ws"


@bench.command()
@click.option(
    "-p", "--pairs", type=click.IntRange(1, 30_000), default=50, show_default=True, help="Senders, each with a recipient."
)
@click.option(
    "-w",
    "--in-flight",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Unanswered messages of each sender.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="The measured span.")
@click.option("--warmup", type=click.FloatRange(0, 3600), default=1.0, show_default=True, help="Seconds of load before it.")
@click.option("--size", type=click.IntRange(1, 65536), default=100, show_default=True, help="Bytes of text in a message.")
@click.option(
    "--transport",
    type=click.Choice(["tcp", "ws"]),
    help="What the load speaks: frames over TCP, or WebSocket.  [default: tcp]",
)
@click.option(
    "--connect",
    type=_Address(),
    metavar="ADDRESS",
    help="Measure this running server instead of one's own: HOST:PORT, or ws://HOST:PORT/ws.",
)
@click.option("--secret-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The running server's.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of one's own server. May be repeated."
)
@click.option("--tolerate", is_flag=True, help="Take 429 and 503 for an answer; they are counted.")
@click.option(
    "--stall",
    type=click.FloatRange(0.1, 600),
    default=10.0,
    show_default=True,
    help="Seconds without any progress after which the run fails.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def pairs(
    ctx: click.Context,
    pairs: int,
    in_flight: int,
    seconds: float,
    warmup: float,
    size: int,
    transport: str | None,
    connect: tuple[str | None, str, int, str] | None,
    secret_file: Path | None,
    settings: tuple[str, ...],
    tolerate: bool,
    stall: float,
    as_json: bool,
) -> None:
    """Direct messages between pairs of users: throughput, latency, CPU, and whether every message arrived.

    Without --connect it starts a server of its own on a temporary folder (below $TMPDIR), with the default settings and
    no limit on the rate, and stops it at the end.

    Exit status: 0; 1 if a message was lost, doubled, out of order, refused or not stored, or the server failed; 2 for wrong
    usage.
    """
    if (connect is None) != (secret_file is None):
        raise click.UsageError("--connect and --secret-file go together: the secret signs the tokens of the users")
    if connect is not None and settings:
        raise click.UsageError("--set is for a server of one's own: a server that runs has its settings")
    from imserver.bench.framing import Address
    from imserver.bench.run import Plan, measure

    if connect is not None:
        spoken, host, port, path = connect
        if spoken and transport and spoken != transport:
            raise click.UsageError(f"--connect {spoken}://… and --transport {transport} contradict each other")
        address = Address(spoken or transport or "tcp", host, port, path)
        transport = address.transport
    else:
        address = None

    # So that the server is stopped and its folder removed.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    plan = Plan(
        pairs=pairs,
        in_flight=in_flight,
        seconds=seconds,
        warmup_s=warmup,
        size=size,
        transport=transport or "tcp",
        connect=address,
        secret_file=secret_file,
        settings=settings,
        tolerate=tolerate,
        stall_s=stall,
    )
    report = measure(plan)
    click.echo(json.dumps(report.fields(), ensure_ascii=False) if as_json else report.text())
    if as_json and not report.is_verified:
        click.echo(f"VERIFICATION FAILED: {report.problems[0]}", err=True)
    ctx.exit(0 if report.is_verified else 1)


@bench.command()
@click.option(
    "-m", "--members", type=click.IntRange(2, 100_000), default=10_000, show_default=True, help="Of the group, all online."
)
@click.option(
    "-p",
    "--pairs",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Who chat beside it, 1 in flight each.",
)
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=5.0, show_default=True, help="Of each measurement.")
@click.option(
    "--pause",
    type=click.FloatRange(0, 60),
    default=0.5,
    show_default=True,
    help="Seconds between two messages of the group.",
)
@click.option("--size", type=click.IntRange(1, 65536), default=100, show_default=True, help="Bytes of text in a message.")
@click.option("--connect", type=_Address(), metavar="HOST:PORT", help="Measure this running server instead of one's own.")
@click.option("--secret-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The running server's.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of one's own server. May be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def group(
    ctx: click.Context,
    members: int,
    pairs: int,
    seconds: float,
    pause: float,
    size: int,
    connect: tuple[str | None, str, int, str] | None,
    secret_file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Messages to one large group: how soon the last member has each, and what direct messages feel of it meanwhile.

    Without --connect it starts a server of its own, as `bench pairs` does. Exit status: 0; 1 if a member did not get each
    message once, or the server failed; 2 for wrong usage.
    """
    if (connect is None) != (secret_file is None):
        raise click.UsageError("--connect and --secret-file go together: the secret signs the tokens of the users")
    if connect is not None and (settings or connect[0] == "ws"):
        raise click.UsageError("--connect takes HOST:PORT of the TCP listener, and no --set")
    from imserver.bench.framing import Address
    from imserver.bench.group import Plan, measure

    signal.signal(signal.SIGTERM, _exit_on_signal)
    plan = Plan(
        members=members,
        pairs=pairs,
        seconds=seconds,
        pause_s=pause,
        size=size,
        connect=None if connect is None else Address("tcp", connect[1], connect[2]),
        secret_file=secret_file,
        settings=settings,
    )
    report = measure(plan)
    click.echo(json.dumps(report.fields(), ensure_ascii=False) if as_json else report.text())


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
