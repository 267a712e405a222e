"""What the user does with conversations: find one, open it, page back, read, send, type; files."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from imserver.chat.errors import CannotDo
from imserver.chat.model import Chat, Line, direct_id, file_of, peer_of
from imserver.chat.saving import free_path
from imserver.chat.session import Session
from imserver.client import ClientError, Message, NotFound, message_type

PAGE: Final = 50
#: "Still typing" is told this often while keys are pressed; the others forget it a little later.
TYPING_EVERY_S: Final = 3.0
#: A received file may have so many bytes.
MAX_SAVE_BYTES: Final = 4 * 2**30
SEND_TIMEOUT_S: Final = 60.0
#: Messages of one conversation that are not with the server yet.
MAX_PENDING: Final = 200


class Doing:
    """The user's hands, on a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._next_typing_at = 0.0
        self._typing_in: Chat | None = None
        self._marked: dict[str, int] = {}  # how far the server was told that one has read
        self._lines: dict[str, trio.Lock] = {}  # one message of a conversation at a time

    # -------------------------------------------------------------- look

    async def find(self, name: str) -> Chat:
        """The conversation that the user means by a user id, by `#group` (a name or an id), or by a conversation id.

        Raises:
            CannotDo: there is no such user or group.
        """
        chats = self.session.chats
        if name.startswith(("#", "g:")):
            group_id = name.removeprefix("#").removeprefix("g:")
            named = [known for known, title in chats.group_names.items() if title == group_id]
            conversation_id = f"g:{named[0] if len(named) == 1 else group_id}"
            if conversation_id not in chats.by_id and conversation_id[2:] not in chats.group_names:
                raise CannotDo(f"you belong to no group {name}; /join {name} joins it")
            return chats.get(conversation_id)
        conversation_id = name if name.startswith("d:") else direct_id(chats.user_id, name)
        if conversation_id not in chats.by_id:
            peer = peer_of(conversation_id, chats.user_id)
            if not peer or not await self.session.client.get_users([peer]):
                raise CannotDo(f"there is no user {name}")
            chats.get(conversation_id)
            self.session.want_presence()
        return chats.get(conversation_id)

    async def open(self, chat: Chat) -> None:
        """Make a conversation the current one, and show its newest messages."""
        session = self.session
        self.stop_typing()
        session.chats.current = chat
        session.face.changed()
        if chat.is_opened:
            return
        chat.is_opened = True
        try:
            page = await session.client.pull(chat.conversation_id, limit=PAGE)
        except NotFound:  # nobody has written in it yet
            chat.is_complete = True
            return
        except BaseException:
            chat.is_opened = False
            raise
        for message in page.messages:
            chat.put(message)
        chat.is_complete = len(page.messages) < PAGE or chat.first_seq <= 1
        session.face.changed()
        await self._load_receipt(chat)

    async def _load_receipt(self, chat: Chat) -> None:
        """Learn whether the peer has read one's last message: that may have been while this client was away."""
        session = self.session
        own = [line.seq for line in chat.lines if line.message.from_ == session.user_id]
        if chat.is_group or not own or "receipts" in session.missing:
            return
        receipts = await session.optional("receipts", session.client.receipts(chat.conversation_id, own[-1]))
        peer = peer_of(chat.conversation_id, session.user_id)
        if receipts is not None and peer is not None and peer in receipts.read:
            session.chats.read(chat.conversation_id, peer, own[-1])
            session.face.changed()

    async def load_older(self, chat: Chat) -> list[Message]:
        """Fetch the page before what is shown; returns it, empty at the beginning."""
        if chat.is_complete or not chat.lines:
            return []
        page = await self.session.client.pull(chat.conversation_id, before_seq=chat.first_seq, limit=PAGE)
        chat.put_older(page.messages)
        chat.is_complete = not page.messages or chat.first_seq <= 1
        self.session.face.changed()
        return list(page.messages)

    async def seen(self, chat: Chat) -> None:
        """The user has the newest messages before the eyes."""
        session, seq = self.session, chat.last_seq
        if chat.unread == 0 or seq <= self._marked.get(chat.conversation_id, 0):
            return
        self._marked[chat.conversation_id] = seq
        try:
            unread = await session.client.mark_read(chat.conversation_id, seq)
        except ClientError as error:
            self._marked.pop(chat.conversation_id, None)
            session.face.say(f"not marked as read: {error}")
            return
        if chat.last_seq == seq:
            chat.unread = unread
        chat.read_seq = max(chat.read_seq, seq)
        session.face.changed()

    # -------------------------------------------------------------- send

    def compose(self, chat: Chat, body: Any, *, type: str = "text", reply_to: int | None = None) -> Line:
        """Put a message in line; it is on the screen at once. `deliver` sends it.

        Raises:
            CannotDo: too many wait.
        """
        if len(chat.pending) >= MAX_PENDING:
            raise CannotDo(f"{MAX_PENDING} messages wait here already; /retry, or wait for the connection")
        self._typing_in = None  # the message itself ends it
        client_id = f"chat-{secrets.token_hex(8)}"
        message = Message(chat.conversation_id, 0, 0, "", client_id, self.session.user_id, 0, type, body, reply_to=reply_to)
        line = Line(message, "sending")
        chat.pending.append(line)
        self.session.face.changed()
        return line

    async def deliver(self, chat: Chat, line: Line) -> bool:
        """Send what is in line, in its order, up to this one; returns whether the server has it."""
        async with self._lines.setdefault(chat.conversation_id, trio.Lock()):
            while line.state == "sending":
                await self._deliver_one(chat, next(one for one in chat.pending if one.state == "sending"))
        return line.state == "sent"

    async def send(self, chat: Chat, body: Any, *, type: str = "text", reply_to: int | None = None) -> bool:
        """Compose and deliver."""
        return await self.deliver(chat, self.compose(chat, body, type=type, reply_to=reply_to))

    async def retry(self, chat: Chat) -> int:
        """Send again what failed; returns how many have arrived. The same `client_id`: nothing arrives twice."""
        failed = [line for line in chat.pending if line.state == "failed"]
        for line in failed:
            line.state, line.note = "sending", ""
        return sum([await self.deliver(chat, line) for line in failed])

    async def _deliver_one(self, chat: Chat, line: Line) -> None:
        session, message = self.session, line.message
        try:
            sent = await session.client.send(
                peer_of(chat.conversation_id, session.user_id) or chat.conversation_id,
                message.body,
                type=message.type,
                client_id=message.client_id,
                reply_to=message.reply_to,
                timeout_s=SEND_TIMEOUT_S,
            )
        except ClientError as error:
            line.state, line.note = "failed", str(error)
        else:
            line.state = "sent"
            chat.pending.remove(line)
            session.chats.arrived(attrs.evolve(message, seq=sent.seq or 0, message_id=sent.message_id, sent_at=sent.sent_at))
        session.face.changed()

    # -------------------------------------------------------------- type

    def typed(self) -> None:
        """The user presses keys in the current conversation."""
        chat, now = self.session.chats.current, time.monotonic()
        if chat is None or "typing" in self.session.missing or (chat is self._typing_in and now < self._next_typing_at):
            return
        if self.session.client.typing(chat.conversation_id):
            self._typing_in, self._next_typing_at = chat, now + TYPING_EVERY_S

    def stop_typing(self) -> None:
        """The user has emptied the line, or left the conversation."""
        if self._typing_in is not None:
            self.session.client.typing(self._typing_in.conversation_id, False)
            self._typing_in = None

    # -------------------------------------------------------------- files

    async def send_file(self, chat: Chat, path: Path) -> bool:
        """Upload a file and send its message; returns whether the server has both."""
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            percent = 100 * done // total if total else 100
            if shown + 25 <= percent < 100:
                shown = percent
                self.session.face.say(f"{path.name}: {percent} %")

        file = await self.session.client.upload(path, progress=progress)
        return await self.send(chat, file.body, type=message_type(file.type))

    async def save(self, chat: Chat, seq: int | None, path: Path | None) -> Path:
        """Save a received file: that of message `seq`, or the newest.

        Raises:
            CannotDo: there is no file.
        """
        lines = [line for line in chat.lines if seq in (None, line.seq) and not line.message.recalled]
        files = [file for line in lines if (file := file_of(line.message)) is not None]
        if not files:
            raise CannotDo("there is no file here" if seq is None else f"message {seq} has no file, or is not loaded")
        path = await trio.to_thread.run_sync(_place, path or self.session.folder, files[-1].name)
        return await self.session.client.download(files[-1], path, max_bytes=MAX_SAVE_BYTES)


def _place(path: Path, name: str) -> Path:
    return free_path(path, name) if path.is_dir() else path
