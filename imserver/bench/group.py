"""`imserver bench group`: one message to very many members, and what others feel of it meanwhile.

The members stay silent but for one, who sends the next message when all have got the last one. The others are a run of
`imserver bench pairs` against the same server in a process of its own, once without the group's messages and once beside
them: what receives ten thousand pushes is too busy itself to tell when a message came.
"""

from __future__ import annotations

import json
import secrets
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import define, frozen

from imserver.bench.framing import FRAMINGS, Address
from imserver.bench.load import authenticated, receive_frames
from imserver.bench.process import OwnServer, own_server
from imserver.bench.run import read_secret
from imserver.bench.wire import MESSAGE, SEND, BenchFailed, frames_of, kind_of, pack, whole_frames

CREATE_GROUP, ADD_MEMBERS = 4001, 4005
_ADDED_AT_ONCE = 500
_READ_BYTES = 65536
_now = time.perf_counter


@frozen(kw_only=True)
class Plan:
    """What to measure; see `imserver bench group --help`."""

    members: int
    pairs: int
    seconds: float
    pause_s: float
    size: int = 100
    #: None: start a server.
    connect: Address | None = None
    secret_file: Path | None = None
    settings: Sequence[str] = ()
    stall_s: float = 30.0


@frozen(kw_only=True)
class Report:
    """Times in milliseconds. `alone` and `beside` are what `imserver bench pairs --json` has printed."""

    plan: Plan
    #: From just before the send to the last member's `recv`, a figure for each message.
    spreads_ms: Sequence[float]
    #: CPU seconds of the server in a second of the talk, the pairs' share included.
    server_cpu_share: float | None
    alone: dict[str, Any]
    beside: dict[str, Any]

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        spreads = sorted(self.spreads_ms)
        return {
            "members": self.plan.members,
            "size": self.plan.size,
            "messages": len(spreads),
            "spread_ms": {"p50": round(statistics.median(spreads), 1), "max": round(spreads[-1], 1)},
            "pushes_per_s": round(1000 * self.plan.members / statistics.median(spreads)),
            "server_cpu_share": None if self.server_cpu_share is None else round(self.server_cpu_share, 3),
            "pairs": self.plan.pairs,
            "alone": {name: self.alone[name] for name in ("delivered_per_s", "latency_ms")},
            "beside": {name: self.beside[name] for name in ("delivered_per_s", "latency_ms")},
        }

    def text(self) -> str:
        """For a person."""
        fields = self.fields()
        spread = fields["spread_ms"]
        share = fields["server_cpu_share"]
        cpu = (
            "unknown: the server is not this benchmark's own"
            if share is None
            else f"{share:.2f} of a core, the pairs' share included"
        )
        return "\n".join(
            [
                f"{fields['messages']} messages of {fields['size']} bytes, each got once by {fields['members']:,} members",
                f"to the last  p50 {spread['p50']:,.1f} ms   max {spread['max']:,.1f} ms"
                f" ({fields['pushes_per_s']:,} pushes/s)",
                f"server CPU   {cpu}",
                f"{fields['pairs']} pairs beside the group, 1 in flight each, end to end",
                f"  it silent    {_latency(fields['alone'])}",
                f"  it talking   {_latency(fields['beside'])}",
            ]
        )


def _latency(fields: dict[str, Any]) -> str:
    latency = fields["latency_ms"]
    return (
        f"p50 {latency['p50']:.2f} ms   p99 {latency['p99']:.2f} ms   max {latency['max']:.2f} ms"
        f"   {fields['delivered_per_s']:,.0f}/s"
    )


def measure(plan: Plan) -> Report:
    """Start a server if none is given, make the group, and measure.

    Raises:
        BenchFailed: the server refuses or is gone, or a member did not get a message, or got it twice.
    """
    with ExitStack() as stack:
        server: OwnServer | None = None
        if plan.connect is None:
            bound = f"plugins.group.max_members={max(plan.members, 1)}"
            server = stack.enter_context(own_server([bound, *plan.settings]))
            address, secret = server.wait_ready("tcp"), server.secret
        else:
            address, secret = plan.connect, read_secret(plan.secret_file)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imserver-bench-")))
        secret_file = folder / "secret"
        secret_file.touch(mode=0o600)
        secret_file.write_bytes(secret)
        run_id = secrets.token_hex(3)
        users = [f"bench-{run_id}-m{index:05d}" for index in range(plan.members)]
        sockets = stack.enter_context(authenticated(address, secret, users, patience_s=plan.stall_s))
        group = _Group(plan, dict(zip(users, sockets, strict=True)), run_id)
        group.make()
        with _pairs(plan, address, secret_file) as others:
            group.stay_silent(others)
        alone = _result_of(others)
        with _pairs(plan, address, secret_file) as others:
            cpu_before = None if server is None else server.cpu_s()
            spreads_s = group.talk(others)
            cpu_after = None if server is None else server.cpu_s()
        return Report(
            plan=plan,
            spreads_ms=[1000 * spread for spread in spreads_s],
            alone=alone,
            beside=_result_of(others),
            server_cpu_share=None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / group.talked_s,
        )


@contextmanager
def _pairs(plan: Plan, address: Address, secret_file: Path) -> Iterator[subprocess.Popen[str]]:
    """`imserver bench pairs` against the same server."""
    words = [sys.executable, "-m", "imserver", "bench", "pairs", "-p", str(plan.pairs), "-w", "1", "--json"]
    words += [
        "--seconds",
        str(plan.seconds),
        "--connect",
        f"{address.host}:{address.port}",
        "--secret-file",
        str(secret_file),
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    if process.returncode != 0:
        raise BenchFailed(
            f"the pairs beside the group failed with status {process.returncode}: {err.strip() or out.strip()}"
        )
    result: dict[str, Any] = json.loads(out)
    return result


@define
class _Member:
    user_id: str
    sock: socket.socket
    rest: bytes = b""
    got: int = 0


class _Group:
    """The members' side: one thread, one epoll."""

    def __init__(self, plan: Plan, sockets: dict[str, socket.socket], run_id: str) -> None:
        self._plan = plan
        self._run_id = run_id
        self._members = [_Member(user_id, sock) for user_id, sock in sockets.items()]
        self._by_descriptor = {member.sock.fileno(): member for member in self._members}
        self._epoll = select.epoll()
        self._conversation = ""
        #: The span of `talk`.
        self.talked_s = 0.0

    def make(self) -> None:
        """Create the group, add everybody, and take what is pushed of that."""
        owner = self._members[0]
        made = self._ask(owner, CREATE_GROUP, {"name": "bench", "group_id": f"bench-{self._run_id}", "join": "invite"})
        self._conversation = str(made["conversation_id"])
        others = [member.user_id for member in self._members[1:]]
        for start in range(0, len(others), _ADDED_AT_ONCE):
            part = others[start : start + _ADDED_AT_ONCE]
            added = self._ask(owner, ADD_MEMBERS, {"group_id": f"bench-{self._run_id}", "user_ids": part})
            if added["added"] != part:
                raise BenchFailed(f"not everybody was added to the group: {str(added['failed'])[:300]}")
        for descriptor in self._by_descriptor:
            self._epoll.register(descriptor, select.EPOLLIN)
        # Each has been told of those who came with it and after it.
        lots = -(-len(others) // _ADDED_AT_ONCE)
        deadline_s = _now() + self._plan.stall_s
        due = {member.user_id: lots - index // _ADDED_AT_ONCE for index, member in enumerate(self._members[1:])}
        while waiting := sum(member.got < due.get(member.user_id, 0) for member in self._members):
            if not self._take(0.1) and _now() > deadline_s:
                raise BenchFailed(f"{waiting} members had not been told of the group after {self._plan.stall_s:g} s")
        while self._take(0.5):
            continue
        for member in self._members:
            member.got = 0

    def _ask(self, member: _Member, command: int, fields: dict[str, Any]) -> dict[str, Any]:
        member.sock.settimeout(self._plan.stall_s)
        member.sock.sendall(pack(command, {"rid": 1, **fields}))
        while True:
            for found, body in receive_frames(member.sock, FRAMINGS["tcp"]):
                if found == command:
                    member.sock.setblocking(False)
                    if body.get("code") != 0:
                        raise BenchFailed(f"the server refused command {command}: {body}")
                    return body

    def stay_silent(self, others: subprocess.Popen[str]) -> None:
        """Until they have measured."""
        while others.poll() is None:
            self._take(0.2)

    def talk(self, others: subprocess.Popen[str]) -> list[float]:
        """One message after the other until the others have measured; how long each took to reach the last member."""
        spreads_s: list[float] = []
        began_s = _now()
        text = "x" * self._plan.size
        sender = self._members[0]
        while others.poll() is None:
            number = len(spreads_s) + 1
            fields = {"conversation_id": self._conversation, "client_id": f"{self._run_id}-{number}", "body": text}
            frame = pack(SEND, {"rid": number, **fields})
            sent_s = _now()
            sender.sock.sendall(frame)
            last_s = self._await_all(number)
            spreads_s.append(last_s - sent_s)
            self._take_until(last_s + self._plan.pause_s)
        self.talked_s = _now() - began_s
        self._take(0.5)
        wrong = [member.user_id for member in self._members if member.got != len(spreads_s)]
        if wrong:
            raise BenchFailed(f"{len(wrong)} members, {wrong[0]} for one, did not get each message once")
        return spreads_s

    def _await_all(self, number: int) -> float:
        """Until each member has this message, and the sender its answer; when the last came."""
        deadline_s = _now() + self._plan.stall_s
        while (missing := sum(member.got < number for member in self._members)) > 0:
            if not self._take(0.1) and _now() > deadline_s:
                raise BenchFailed(f"{missing} members had not got message {number} after {self._plan.stall_s:g} s")
        return _now()

    def _take_until(self, until_s: float) -> None:
        while (left_s := until_s - _now()) > 0:
            self._take(left_s)

    def _take(self, timeout_s: float) -> bool:
        """Read what there is; False: nothing came in the time."""
        events = self._epoll.poll(timeout_s)
        for descriptor, _ in events:
            member = self._by_descriptor[descriptor]
            data = member.sock.recv(_READ_BYTES)
            if not data:
                raise BenchFailed(f"the server closed the connection of {member.user_id}")
            data = member.rest + data
            end, count, is_plain = whole_frames(data, kind_of(MESSAGE))
            if not is_plain:
                # Of the sender the answer counts: its own device gets no push.
                count = sum(self._counts(member, command, body) for command, body in frames_of(data[:end]))
            member.got += count
            member.rest = data[end:]
        return bool(events)

    def _counts(self, member: _Member, command: int, body: dict[str, Any]) -> bool:
        if command != SEND:
            return command == MESSAGE
        if body.get("code") != 0:
            raise BenchFailed(f"the server refused a message of {member.user_id}: {body}")
        return True
