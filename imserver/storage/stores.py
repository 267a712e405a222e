"""All that is read of the core's tables, by theme. What is written goes by the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.storage.conversations import ConversationStore
from imserver.storage.deliveries import DeliveryStore
from imserver.storage.messages import MessageStore
from imserver.storage.sync import SyncStore

if TYPE_CHECKING:
    from imserver.clock import Clock
    from imserver.storage.database import Database


class Stores:
    """One of each, on one database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.conversations = ConversationStore(database)
        self.messages = MessageStore(database, clock)
        self.sync = SyncStore(database, clock)
        self.deliveries = DeliveryStore(database, clock)
