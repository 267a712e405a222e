"""Keeps the model true to the server: the list of conversations, messages, their changes, who types, reads and is there.

Both faces, the full screen and the lines, stand on this. What the user can do is in doing.py and in the commands.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from imserver.chat.model import TYPING_S, Chat, Chats, direct_id, peer_of
from imserver.client import (
    Client,
    ClientError,
    Event,
    EventsLost,
    FriendEvent,
    GroupEvent,
    Message,
    MessageChanged,
    NotFound,
    Presence,
    Read,
    ServerFault,
    Typing,
)

T = TypeVar("T")

SYNC_PAGE: Final = 200
GROUPS_PAGE: Final = 500
#: Presence is watched of the peers of this many conversations, the latest; a server allows 1,000.
MAX_WATCHED: Final = 200
#: Of a group, who are shown as typing.
MAX_TYPISTS: Final = 50
_TYPING: Final = 2008


class Face(Protocol):
    """What shows a session to a person."""

    def changed(self) -> None:
        """Something in the model is other than it was."""

    def say(self, text: str) -> None:
        """Tell the user something that is no message; the text is not clean yet."""

    def notice(self, chat: Chat, text: str) -> None:
        """Tell of something passing that the model shows as well: who types, who has read. Not clean yet."""

    def arrived(self, chat: Chat, message: Message) -> None:
        """A message came from somebody else, or from another device of one's own."""

    def loaded(self, chat: Chat, messages: list[Message]) -> None:
        """Older messages were asked for, and are in the model now."""

    def altered(self, chat: Chat, message: Message, change: str) -> None:
        """A message was recalled, edited or reacted to; this is its new state."""


class Session:
    """One logged-in user at one terminal.

    Args:
        folder: where received files go.
    """

    def __init__(self, client: Client, face: Face, folder: Path) -> None:
        assert client.user_id is not None, "a session is made after the login"
        self.client = client
        self.chats = Chats(client.user_id)
        self.face = face
        self.folder = folder
        self.is_connected = client.is_connected
        #: What this server does not have: `groups`, `presence`, `receipts`, `typing`.
        self.missing: set[str] = set()
        self._watched: set[str] = set()
        self._peers_wanted = trio.Event()

    @property
    def user_id(self) -> str:
        """Who is logged in."""
        return self.chats.user_id

    async def load(self) -> None:
        """Fetch the list of conversations, and the names of groups."""
        cursor = None
        while True:
            page = await self.client.sync(cursor, limit=SYNC_PAGE)
            for entry in page.conversations:
                self.chats.synced(entry)
            self.face.changed()
            if not page.more:
                break
            cursor = page.next_cursor
        cursor = None
        while True:
            answer = await self.optional("groups", self.client.groups.list_groups(limit=GROUPS_PAGE, cursor=cursor))
            groups, cursor = answer or ([], None)
            for group in groups:
                self.name_group(group.group_id, group.name)
            if cursor is None:
                return

    def name_group(self, group_id: str, name: str) -> None:
        """A group is called so."""
        self.chats.group_names[group_id] = name
        chat = self.chats.by_id.get(f"g:{group_id}")
        if chat is not None:
            chat.title = name
        self.face.changed()

    async def _learn_name(self, group_id: str) -> None:
        """A message may be here before the notice that one belongs to its group."""
        if group_id not in self.chats.group_names:
            try:
                self.name_group(group_id, (await self.client.groups.get(group_id)).name)
            except ClientError:
                self.name_group(group_id, group_id)  # left meanwhile, or asked in vain: its id serves as well

    async def optional(self, feature: str, asked: Awaitable[T]) -> T | None:
        """Wait for something that the user can do without; None where there is no answer."""
        try:
            return await asked
        except NotFound as error:
            if error.error == "unknown_command":
                self.missing.add(feature)
            return None
        except ClientError as error:
            self.face.say(f"{feature}: {error}")
            return None

    # -------------------------------------------------------------- follow

    async def follow_messages(self) -> None:
        """Take in messages, until the session ends."""
        async for message in self.client.messages():
            if message.seq:  # one without was not stored: signals between programs, nothing to read
                chat = self.chats.arrived(message)
                if chat.is_group:
                    await self._learn_name(chat.conversation_id[2:])
                self.face.arrived(chat, message)
                self.want_presence()
                self.face.changed()

    async def follow_events(self, events: AsyncIterator[Event]) -> None:
        """Take in everything else, until the session ends."""
        async for event in events:
            await self._event(event)
            self.face.changed()

    async def follow_connection(self) -> None:
        """Say when the connection goes and comes."""
        has_lost = False
        while True:
            await self.client.wait_connected()
            self.is_connected = True
            if has_lost:
                self.face.say("connected again")
            self.face.changed()
            self._watched.clear()
            self.want_presence()
            await self.client.wait_connected(False)
            self.is_connected = False
            has_lost = True
            self.face.say(f"the connection is lost ({self.client.last_failure}); it is tried again")
            self.face.changed()

    def want_presence(self) -> None:
        """A conversation may be new, or the server may have forgotten whose presence is wanted."""
        self._peers_wanted.set()

    async def follow_peers(self) -> None:
        """Learn who of the peers is there, of those conversations that are new; of all of them after a reconnect."""
        while True:
            await self._peers_wanted.wait()
            self._peers_wanted = trio.Event()
            latest = [chat.conversation_id for chat in self.chats.ordered() if not chat.is_group][:MAX_WATCHED]
            new = [name for name in latest if name not in self._watched]
            self._watched.update(new)
            peers = [peer for name in new if (peer := peer_of(name, self.user_id))]
            if peers and "presence" not in self.missing:
                for presence in await self.optional("presence", self.client.watch_presence(peers)) or ():
                    self._presence(presence)
                self.face.changed()

    async def _event(self, event: Event) -> None:
        match event:
            case MessageChanged():
                self.change(event)
            case Read():
                self._read(event)
            case Typing() if event.user_id != self.user_id:
                self._typing(event)
            case Presence():
                self._presence(event)
            case GroupEvent():
                await self._group_event(event)
            case FriendEvent() if event.by != self.user_id:
                self.face.say(_friend_text(event))
            case ServerFault(command=command, error="unknown_command") if command == _TYPING:
                self.missing.add("typing")
            case EventsLost():
                self.face.say(f"{event.count} notices were lost; what is shown of read marks may be behind")
            case _:
                pass  # others are for other programs

    def change(self, event: MessageChanged) -> None:
        """Apply a change; one's own come by this as well, since the server tells them to the others alone."""
        chat, message = self.chats.changed(event)
        if chat is not None and message is not None:
            self.face.altered(chat, message, event.change)

    def _read(self, event: Read) -> None:
        chat = self.chats.read(event.conversation_id, event.user_id, event.seq)
        if chat is not None and event.user_id != self.user_id:
            self.face.notice(chat, f"{event.user_id} has read up to #{event.seq}")

    def _typing(self, event: Typing) -> None:
        chat = self.chats.by_id.get(event.conversation_id)
        if chat is not None and not event.is_on:
            chat.typing.pop(event.user_id, None)
        elif chat is not None and (len(chat.typing) < MAX_TYPISTS or event.user_id in chat.typing):
            if event.user_id not in chat.typists(time.monotonic()):
                self.face.notice(chat, f"{event.user_id} types …")
            chat.typing[event.user_id] = time.monotonic() + TYPING_S

    def _presence(self, presence: Presence) -> None:
        chat = self.chats.by_id.get(direct_id(self.user_id, presence.user_id))
        if chat is not None:
            chat.is_online, chat.last_seen = presence.is_online, presence.last_seen

    async def _group_event(self, event: GroupEvent) -> None:
        name = event.fields.get("name")
        is_gone = self.user_id in event.user_ids and event.event in ("left", "removed")
        if is_gone or event.event == "dismissed":
            title = self.chats.title_of(f"g:{event.group_id}")
            self.chats.forget(f"g:{event.group_id}")
            if event.by != self.user_id:
                self.face.say(f"{event.by} has {'ended' if event.event == 'dismissed' else 'removed you from'} #{title}")
        elif event.event == "join_requested":
            title = self.chats.title_of(f"g:{event.group_id}")
            self.face.say(f"{event.by} asks to join #{title}: /admit {event.by}, or /refuse {event.by}")
        elif isinstance(name, str) and name:
            self.name_group(event.group_id, name)
        elif event.event == "joined" and self.user_id in event.user_ids:
            await self._learn_name(event.group_id)


def _friend_text(event: FriendEvent) -> str:
    match event.event:
        case "requested":
            words = f" ({event.message})" if event.message else ""
            return f"{event.user_id} asks for your friendship{words}: /accept {event.user_id}, or /decline {event.user_id}"
        case "accepted":
            return f"you and {event.user_id} are friends now"
        case "declined":
            return f"{event.user_id} has declined your request"
        case _:
            return f"{event.user_id} has ended the friendship"
