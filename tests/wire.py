"""A test client that knows the wire protocol and nothing of the server: blocking sockets, `msgpack`, `json`, `gzip`.

It is written from the protocol's page alone, so that it disagrees with the server wherever the server disagrees with
the page. Nothing here imports `imserver`.
"""

import base64
import collections
import gzip
import hashlib
import hmac
import itertools
import json
import socket
import struct
import time

import msgpack

HEADER = struct.Struct(">IHBB")
GZIP, JSON = 0x01, 0x02
#: How long any wait may take before the test fails: far above what a loaded machine needs, never a figure to meet.
PATIENCE_S = 30.0

HEARTBEAT, GOAWAY, ERROR, HELLO = 1, 2, 3, 4
REGISTER, LOGIN, AUTH, REFRESH, LOGOUT, GET_USER = 1001, 1002, 1003, 1004, 1005, 1006
UPDATE_PROFILE, CHANGE_PASSWORD, SEARCH_USERS, LIST_DEVICES, KICK_DEVICE = 1007, 1008, 1009, 1010, 1011
SEND, PULL, SYNC, MARK_READ, SEND_BATCH, CHANGES = 2001, 2002, 2003, 2004, 2011, 2014
MESSAGE, PUSH_ACK, READ, NOTIFY = 5001, 5002, 5004, 5009

Frame = collections.namedtuple("Frame", "command version flags body raw")

#: Every client that is open; the autouse fixture of conftest.py closes what a test leaves.
OPEN: "set[Client]" = set()


class ClosedByServer(Exception):
    """The server closed the connection while the client waited for a frame."""


class NothingCame(Exception):
    """No frame came within the time that the caller was willing to wait."""


def encode(command, body=None, *, flags=0, version=1):
    """One frame; `body` is a mapping, raw bytes, or None for the bare header."""
    if body is None:
        data = b""
    elif isinstance(body, bytes):
        data = body
    else:
        data = json.dumps(body).encode() if flags & JSON else msgpack.packb(body)
        if flags & GZIP:
            data = gzip.compress(data)
    return HEADER.pack(HEADER.size + len(data), command, version, flags) + data


def decode(flags, data):
    """The body of a frame as Python values; an empty body is the empty map."""
    if flags & GZIP:
        data = gzip.decompress(data)
    if not data:
        return {}
    return json.loads(data) if flags & JSON else msgpack.unpackb(data)


def direct(a, b):
    """The conversation id of two users: their ids in byte order."""
    return "d:" + ":".join(sorted([a, b], key=str.encode))


def sign(secret, claims, algorithm="HS256"):
    """A JWT made by hand, as an integrating system would with any library."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()) + b"." + part(json.dumps(claims).encode())
    signature = hmac.digest(secret, head, hashlib.sha256) if algorithm == "HS256" else b""
    return (head + b"." + part(signature)).decode()


class Client:
    """One connection. Responses are matched by `rid`; what comes unasked waits in `pushes` in the order of arrival."""

    def __init__(self, address, *, flags=0, timeout_s=PATIENCE_S, receive_buffer_bytes=None):
        self.address = address
        self.timeout_s = timeout_s
        self.flags = flags
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.rids = itertools.count(1)
        self.responses = {}
        self.response_frames = {}
        self.pushes = collections.deque()
        self.user = self.password = None
        self.account = {}
        OPEN.add(self)

    def close(self):
        self.socket.close()
        OPEN.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- writing

    def send_raw(self, data):
        self.socket.sendall(data)

    def send(self, command, body=None, *, flags=None):
        self.send_raw(encode(command, body, flags=self.flags if flags is None else flags))

    def post(self, command, /, **fields):
        """Send a request without waiting for its answer; gives the `rid` for `answer`."""
        rid = next(self.rids)
        self.send(command, {"rid": rid, **fields})
        return rid

    # --- reading

    def _fill(self, bytes_needed, deadline):
        while len(self.buffer) < bytes_needed:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NothingCame(f"no whole frame; {len(self.buffer)} bytes buffered, pushes: {list(self.pushes)[:5]}")
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(262144)
            except TimeoutError:
                continue
            except ConnectionError as exc:
                raise ClosedByServer(repr(exc)) from exc
            if not data:
                raise ClosedByServer(f"end of stream; pushes: {list(self.pushes)[-3:]}")
            self.buffer += data

    def read_frame(self, timeout_s=None):
        """The next frame, whatever it is."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        try:
            self._fill(HEADER.size, deadline)
            length, command, version, flags = HEADER.unpack_from(self.buffer)
            assert length >= HEADER.size, f"the server sent a length of {length}"
            self._fill(length, deadline)
        finally:
            if self.socket.fileno() >= 0:
                self.socket.settimeout(self.timeout_s)
        raw = bytes(self.buffer[HEADER.size : length])
        del self.buffer[:length]
        assert version == 1
        assert flags & ~(GZIP | JSON) == 0
        return Frame(command, version, flags, decode(flags, raw), raw)

    def _sort(self, frame):
        rid = frame.body.get("rid")
        if rid is None:
            self.pushes.append(frame)
        else:
            assert rid not in self.responses, f"two answers to rid {rid}"
            self.responses[rid] = frame.body
            self.response_frames[rid] = frame

    def answer(self, rid, timeout_s=None):
        """The body of the response to `rid`; pushes met on the way are kept."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while rid not in self.responses:
            self._sort(self.read_frame(max(0.0, deadline - time.monotonic())))
        return self.responses.pop(rid)

    def call(self, command, /, **fields):
        """A request and its answer, whatever the code."""
        rid = self.post(command, **fields)
        body = self.answer(rid)
        self.last_frame = self.response_frames.pop(rid)
        assert self.last_frame.command == command, f"{self.last_frame.command} answered a request of {command}"
        assert isinstance(body["code"], int), body
        if body["code"]:
            assert isinstance(body["error"], str), body
            assert body["error"] == body["error"].lower(), body
            assert body["message"], body
        return body

    def ok(self, command, /, **fields):
        """A request that must succeed; gives its answer."""
        body = self.call(command, **fields)
        assert body["code"] == 0, f"{command} {fields}: {body}"
        return body

    def fails(self, code, command, /, **fields):
        """A request that must fail with `code` (or one of several); gives its answer."""
        body = self.call(command, **fields)
        codes = code if isinstance(code, tuple) else (code,)
        assert body["code"] in codes, f"{command} {fields}: {body}"
        return body

    def push(self, command=MESSAGE, timeout_s=None):
        """The body of the next push of `command`; other pushes stay where they are."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            for frame in self.pushes:
                if frame.command == command:
                    self.pushes.remove(frame)
                    self.last_frame = frame
                    return frame.body
            self._sort(self.read_frame(max(0.0, deadline - time.monotonic())))

    def drain(self, quiet_s=0.3):
        """Read until nothing has come for `quiet_s`; gives all pushes met. For what must NOT come; no measurement."""
        while True:
            try:
                self._sort(self.read_frame(quiet_s))
            except NothingCame:
                found = list(self.pushes)
                self.pushes.clear()
                return found

    def read_to_end(self, timeout_s=None):
        """Read until the server closes; gives all the pushes met."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        try:
            while True:
                self._sort(self.read_frame(max(0.0, deadline - time.monotonic())))
        except ClosedByServer:
            return list(self.pushes)

    def goaway(self, timeout_s=None):
        """Wait for the end of the connection; gives the `error` of its GOAWAY, of which there must be one."""
        frames = [frame for frame in self.read_to_end(timeout_s) if frame.command == GOAWAY]
        assert frames, "closed without GOAWAY"
        assert len(frames) == 1, frames
        assert isinstance(frames[0].body["code"], int)
        assert frames[0].body["message"]
        return frames[0].body["error"]

    # --- the few requests that every test makes

    def login(self, user, password, **options):
        self.account = self.ok(LOGIN, user_id=user, password=password, **options)
        self.user, self.password = user, password
        return self.account

    def auth(self, token, **options):
        self.account = {"token": token, **self.ok(AUTH, token=token, **options)}
        self.user = self.account["user_id"]
        return self.account

    @property
    def token(self):
        return self.account["token"]

    @property
    def session_id(self):
        return self.account["session_id"]

    def text(self, to, body, client_id, **more):
        """Send a text to a user; gives the answer, which must be a success."""
        return self.ok(SEND, to=to, body=body, client_id=client_id, **more)

    def pull_all(self, conversation_id, limit=200):
        """The whole archive of a conversation by PULL with `after_seq`."""
        found, after = [], 0
        while True:
            page = self.ok(PULL, conversation_id=conversation_id, after_seq=after, limit=limit)["messages"]
            if not page:
                return found
            found += page
            after = page[-1]["seq"]

    def sync_all(self, cursor=None, limit=100):
        """All pages of SYNC; gives ({conversation_id: row}, the last cursor)."""
        rows = {}
        while True:
            fields = {} if cursor is None else {"cursor": cursor}
            page = self.ok(SYNC, limit=limit, **fields)
            for row in page["conversations"]:
                rows[row["conversation_id"]] = row
            cursor = page["next_cursor"]
            if not page["more"]:
                return rows, cursor

    def unread(self, conversation_id):
        """The unread count of one conversation as SYNC tells it."""
        return self.sync_all()[0][conversation_id]["unread"]
