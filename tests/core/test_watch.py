"""How late a loop comes round: what is told and what is counted; and the figures that show it."""

import time

import structlog
from helpers import SAY, running

from imserver.figures import Figures
from imserver.metrics import Metrics
from imserver.plugin import Plugin, command
from imserver.watch import LAG_WINDOW_S, LoopWatch

BLOCK = 6201


class Named:
    """An endpoint, as far as the watch looks."""

    class command:
        name = "SEND"


def test_stalls_are_told_once_a_second():
    """One line a second at most, with how many there were and the last command; what is in time is none."""
    with structlog.testing.capture_logs() as log:
        watch = LoopWatch(structlog.get_logger())
        for now, late_s in ((10, 0.0), (11, 0.09), (12, 0.3), (12.2, 0.2), (12.4, 0.5), (13, 0.0), (13.1, 2.0)):
            watch.came(now, late_s, Named)
        watch.came(20, 1.0, None)
    assert {line["event"] for line in log} == {"loop_stalled"}
    assert [(line["seconds"], line["stalls"], line["last_command"]) for line in log] == [
        (0.3, 1, "SEND"),
        (2.0, 3, "SEND"),
        (1.0, 1, None),
    ]
    assert watch.stalls == 5


def test_the_lag_is_the_worst_of_a_minute():
    """What is further back is forgotten, and what is left is the worst since."""
    watch = LoopWatch(structlog.get_logger())
    assert watch.lag_s == 0
    for now, late_s in ((0, 0.05), (1, 0.09), (10, 0.04), (20, 0.02)):
        watch.came(now, late_s, None)
    assert watch.lag_s == 0.09
    watch.came(2 + LAG_WINDOW_S, 0.01, None)
    assert watch.lag_s == 0.04
    watch.came(90 + LAG_WINDOW_S, 0.0, None)
    assert watch.lag_s == 0


class Blocking(Plugin):
    """A handler that blocks its shard, which it must not."""

    name = "blocking"

    @command(BLOCK, name="BLOCK")
    def block(self, ctx, request):
        time.sleep(0.4)
        return {}


async def test_a_handler_that_blocks(tmp_path):
    """Its name is in the log, and the metrics show the lag."""
    with structlog.testing.capture_logs() as log:
        async with running(tmp_path, Blocking()) as rig:
            alice = await rig.login("alice")
            await alice.ok(SAY, to="bob")
            await rig.until(lambda: rig.shard.loop_watch.lag_s or rig.shard.loop_watch.stalls)
            await alice.ok(BLOCK)
            await rig.until(lambda: rig.shard.loop_watch.stalls)
            figures = Figures(rig.shards, rig.journal, rig.directory, rig.clock, rig.registry.plugins)
            (shard,) = figures.snapshot().shards
            assert shard.worst_lag_s > 0.2
            text = Metrics(figures).render()[0].decode()
            lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            assert float(lines['imserver_loop_lag_seconds{shard="0"}']) > 0.2
            assert float(lines['imserver_loop_stalls_total{shard="0"}']) >= 1
    assert "BLOCK" in [line["last_command"] for line in log if line["event"] == "loop_stalled"]
