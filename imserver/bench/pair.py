"""One sender and one recipient: what they have sent and got.

In the measured span as little as possible is done for a message: ids and times are appended, and read only afterwards
(checks.py, figures.py). So the lists here grow with the run, by some 60 bytes a message.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Any

import msgpack

from imserver.bench.framing import CLOSE, PING, Framing, closed_with, pong
from imserver.bench.wire import (
    COUNTER_DIGITS,
    ERROR,
    GOAWAY,
    MESSAGE,
    RID_BASE,
    RIDS,
    SEND,
    SEQS,
    SUCCESS,
    BenchFailed,
    Naming,
    conversation_id,
    conversation_marker,
    first_frame,
    frames_of,
    kind_of,
)

#: One frame in so many is decoded as a whole and compared with what the search found.
SAMPLE_EVERY = 1000
#: How many different oddities of one connection are kept as text.
MAX_ODDITIES = 5

_RESPONSE_KIND = kind_of(SEND)
_PUSH_KIND = kind_of(MESSAGE)
_now = time.perf_counter


class Connection:
    """What both ends of a pair have in common: a socket, and the unfinished frame at the end of the last read."""

    __slots__ = (
        "_kind",
        "_tail",
        "_until_sample",
        "conversation",
        "framing",
        "marker",
        "naming",
        "odd_count",
        "oddities",
        "sock",
        "user_id",
    )

    def __init__(
        self,
        sock: socket.socket,
        framing: Framing,
        user_id: str,
        conversation: str,
        naming: Naming,
        index: int,
        kind: int,
    ) -> None:
        self.sock = sock
        self.framing = framing
        self.user_id = user_id
        self.conversation = conversation
        self.marker = conversation_marker(conversation)
        self.naming = naming
        #: Texts of what was not as it should be, the first few; `odd_count` counts all.
        self.oddities: list[str] = []
        self.odd_count = 0
        self._kind = kind
        self._tail = b""
        # Staggered, so that of many short connections some are sampled at once; the first one always.
        self._until_sample = index * 37 % SAMPLE_EVERY + 1

    @property
    def is_within_frame(self) -> bool:
        """Whether the last read ended inside of a frame."""
        return bool(self._tail)

    def note(self, text: str) -> None:
        """Remember that something is wrong; the run goes on."""
        self.odd_count += 1
        if len(self.oddities) < MAX_ODDITIES:
            self.oddities.append(f"{self.user_id}: {text}")

    def _cut(self, data: bytes) -> tuple[bytes, int, bool]:
        """Whole frames out of what came, their number, and whether all are of the usual kind."""
        if self._tail:
            data = self._tail + data
        end, count, is_plain = self.framing.whole(data, self._kind)
        if end == len(data):
            self._tail = b""
            return data, count, is_plain
        self._tail = data[end:]
        return data[:end], count, is_plain

    def _take_controls(self, chunk: bytes) -> None:
        """Deal with what is no frame: a ping, or the end of the WebSocket."""
        for opcode, payload in self.framing.controls(chunk):
            if opcode == PING:
                self._send_control(pong(payload))
            elif opcode == CLOSE:
                raise BenchFailed(f"the server closed the WebSocket of {self.user_id} {closed_with(payload)}")

    def _send_control(self, data: bytes) -> None:
        self.sock.send(data)  # a few bytes, on a socket that sends nothing else: the kernel has room

    def _is_sampled(self, count: int) -> bool:
        self._until_sample -= count
        if self._until_sample > 0:
            return False
        self._until_sample = SAMPLE_EVERY
        return True

    def _unexpected(self, command: int, body: dict[str, Any]) -> None:
        """A frame that is not what this connection waits for."""
        if command in (GOAWAY, ERROR):
            name = "GOAWAY" if command == GOAWAY else "ERROR"
            raise BenchFailed(f"the server sent {name} to {self.user_id}: {body}")
        self.note(f"a frame of command {command}, which nobody asked for: {str(body)[:200]}")


class Sender(Connection):
    """Keeps messages in flight.

    Attributes:
        sent_at: by counter: when `send` was called, in seconds of `time.perf_counter`.
        acked_rids: the `rid`s of the responses in the order of their arrival, four bytes each.
        acked_at: when each of these came.
        refused: by counter: the code and the text of responses that are no success.
        sampled_seqs: by counter: the `seq` of those responses that were decoded.
        is_sending: whether a response is followed by the next message.
    """

    __slots__ = ("_template", "acked_at", "acked_rids", "is_sending", "refused", "sampled_seqs", "sent_at", "unsent")

    def __init__(
        self, sock: socket.socket, framing: Framing, user_id: str, recipient: str, naming: Naming, index: int
    ) -> None:
        super().__init__(sock, framing, user_id, conversation_id(user_id, recipient), naming, index, _RESPONSE_KIND)
        frame = naming.template(recipient)
        header = framing.header(len(frame % (bytes(4), 0)))  # all frames are equally long
        self._template = header.replace(b"%", b"%%") + frame
        self.sent_at: list[float] = []
        self.acked_rids = bytearray()
        self.acked_at: list[float] = []
        self.refused: dict[int, tuple[int, str]] = {}
        self.sampled_seqs: dict[int, int] = {}
        self.is_sending = False
        #: What the kernel did not take at once; while there is any, nothing is added but behind it.
        self.unsent = b""

    @property
    def sent(self) -> int:
        """How many messages were sent."""
        return len(self.sent_at)

    @property
    def acked(self) -> int:
        """How many responses came, refusals among them."""
        return len(self.acked_at)

    def send(self, count: int) -> None:
        """Send the next messages, all in one call; look at `unsent` afterwards."""
        template, first = self._template, len(self.sent_at)
        if count == 1:
            frames = template % ((RID_BASE + first).to_bytes(4, "big"), first)
        else:
            frames = b"".join(
                [template % ((RID_BASE + number).to_bytes(4, "big"), number) for number in range(first, first + count)]
            )
        self.sent_at += [_now()] * count
        if self.unsent:
            self.unsent += frames
            return
        taken = self._send_now(frames)
        if taken < len(frames):
            self.unsent = frames[taken:]

    def flush(self) -> None:
        """Send what the kernel did not take before."""
        self.unsent = self.unsent[self._send_now(self.unsent) :]

    def _send_control(self, data: bytes) -> None:
        self.unsent += data
        self.flush()

    def _send_now(self, data: bytes) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def receive(self, data: bytes) -> None:
        """Take what the socket gave: responses. Sends as many messages as there are responses."""
        now = _now()
        chunk, count, is_plain = self._cut(data)
        if not count:
            self._take_controls(chunk)
            return
        rids = RIDS.findall(chunk)
        if is_plain and len(rids) == count and chunk.count(SUCCESS) == count and chunk.count(self.marker) == count:
            self.acked_rids += b"".join(rids)
            self.acked_at += [now] * count
            if self._is_sampled(count):
                self._compare(chunk, rids[0])
        else:
            count = self._decode(chunk, now)
            self._take_controls(chunk)
        if self.is_sending and count:
            self.send(count)

    def _compare(self, chunk: bytes, found: bytes) -> None:
        _, body = first_frame(self.framing.frames(chunk))
        rid = int.from_bytes(found, "big")
        if body.get("rid") != rid or body.get("code") != 0 or body.get("conversation_id") != self.conversation:
            self.note(f"the search found a success with rid {rid}, but the frame reads {body}")
        seq = body.get("seq")
        if isinstance(seq, int):
            self.sampled_seqs[rid - RID_BASE] = seq
        else:
            self.note(f"a response without an integer `seq`: {body}")

    def _decode(self, chunk: bytes, now: float) -> int:
        """The slow way, for everything that is not as usual; gives the number of responses."""
        count = 0
        for command, body in frames_of(self.framing.frames(chunk)):
            rid = body.get("rid")
            if command != SEND or not isinstance(rid, int):
                self._unexpected(command, body)
                continue
            if not RID_BASE <= rid < RID_BASE + self.sent:
                self.note(f"a response to rid {rid}, which was never sent")
                continue
            count += 1
            self.acked_rids += rid.to_bytes(4, "big")
            self.acked_at.append(now)
            code = body.get("code")
            if code != 0:
                self.refused[rid - RID_BASE] = (code if isinstance(code, int) else -1, str(body)[:300])
            elif body.get("conversation_id") != self.conversation or not isinstance(body.get("seq"), int):
                self.note(f"a success that does not name message and conversation: {body}")
            else:
                self.sampled_seqs[rid - RID_BASE] = body["seq"]
        return count


class Recipient(Connection):
    """Gets the pushes.

    Attributes:
        pushed_ids: the counters of the messages in the order of their arrival, as hex digits.
        pushed_seqs: their `seq`s, each as a MessagePack integer.
        pushed_at: when each of them came.
    """

    __slots__ = ("_find_ids", "_sender", "pushed_at", "pushed_ids", "pushed_seqs")

    def __init__(
        self,
        sock: socket.socket,
        framing: Framing,
        user_id: str,
        sender: str,
        naming: Naming,
        index: int,
        push_ids: re.Pattern[bytes],
    ) -> None:
        super().__init__(sock, framing, user_id, conversation_id(user_id, sender), naming, index, _PUSH_KIND)
        self._sender = sender
        self._find_ids: Callable[[bytes], list[bytes]] = push_ids.findall
        self.pushed_ids = bytearray()
        self.pushed_seqs = bytearray()
        self.pushed_at: list[float] = []

    @property
    def delivered(self) -> int:
        """How many messages were pushed, doubled ones among them."""
        return len(self.pushed_at)

    def receive(self, data: bytes) -> None:
        """Take what the socket gave: pushes."""
        now = _now()
        chunk, count, is_plain = self._cut(data)
        if not count:
            self._take_controls(chunk)
            return
        ids, seqs = self._find_ids(chunk), SEQS.findall(chunk)
        if is_plain and len(ids) == count and len(seqs) == count and chunk.count(self.marker) == count:
            self.pushed_ids += b"".join(ids)
            self.pushed_seqs += b"".join(seqs)
            self.pushed_at += [now] * count
            if self._is_sampled(count):
                self._compare(chunk, ids[0], seqs[0])
        else:
            self._decode(chunk, now)
            self._take_controls(chunk)

    def _compare(self, chunk: bytes, found_id: bytes, found_seq: bytes) -> None:
        _, body = first_frame(self.framing.frames(chunk))
        found = (self.naming.client_id(int(found_id, 16)), msgpack.unpackb(found_seq))
        if (body.get("client_id"), body.get("seq")) != found:
            self.note(f"the search found {found}, but the frame reads {body}")
        self._check(body)

    def _check(self, body: dict[str, Any]) -> None:
        expected = {"conversation_id": self.conversation, "from": self._sender, "type": "text", "body": self.naming.text}
        wrong = [name for name, value in expected.items() if body.get(name) != value]
        if wrong:
            self.note(f"a push with a wrong {', '.join(wrong)}: {str(body)[:300]}")

    def _decode(self, chunk: bytes, now: float) -> None:
        """The slow way, for everything that is not as usual."""
        for command, body in frames_of(self.framing.frames(chunk)):
            if command != MESSAGE:
                self._unexpected(command, body)
                continue
            counter, seq = self.naming.counter_of(body.get("client_id")), body.get("seq")
            if counter is None or not isinstance(seq, int) or seq < 0:
                self.note(f"a push that is none of this run's messages: {str(body)[:300]}")
                continue
            self._check(body)
            self.pushed_ids += f"{counter:0{COUNTER_DIGITS}x}".encode()
            self.pushed_seqs += msgpack.packb(seq)
            self.pushed_at.append(now)
