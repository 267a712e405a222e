"""What happened, as the clients saw it, and the judgement whether a server may have done that.

A `History` is filled while the server is killed and restarted; `problems` compares it with the archive that the server
shows at the end. The rules are those of the protocol: once acked, stored exactly once under the acked `seq` and
`message_id`; `seq` dense; a sender's messages in the order sent; nothing pushed that is not stored; `seq` rising on
every connection of a receiver.
"""

import collections
import threading


class History:
    """What the clients saw. Safe to fill from many threads.

    Attributes:
        sent: {(conversation_id, sender): [client_id in the order first sent]}.
        acked: {(conversation_id, sender, client_id): (seq, message_id)}.
        runs: one (name, {conversation_id: [message]}) per connection of a receiver, in the order of arrival.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.sent = collections.defaultdict(list)
        self.acked = {}
        self.runs = []
        self.contradictions = []

    def send(self, conversation_id, sender, client_id):
        with self.lock:
            self.sent[conversation_id, sender].append(client_id)

    def ack(self, conversation_id, sender, client_id, seq, message_id):
        key, value = (conversation_id, sender, client_id), (seq, message_id)
        with self.lock:
            if self.acked.setdefault(key, value) != value:
                self.contradictions.append(f"{key} was acked as {self.acked[key]} and then as {value}")

    def run(self, name):
        """A new connection of a receiver; append each pushed message to what this gives, by conversation."""
        messages = collections.defaultdict(list)
        with self.lock:
            self.runs.append((name, messages))
        return messages


def _archive_problems(history, conversation_id, messages):
    seqs = [message["seq"] for message in messages]
    if seqs != list(range(1, len(seqs) + 1)):
        hole = next(n for n, seq in enumerate(seqs, 1) if seq != n)
        yield f"{conversation_id}: seq is not dense: {seqs[hole - 1]} in place {hole}"
    ids = collections.Counter(message["message_id"] for message in messages)
    for message_id, count in ids.items():
        if count > 1:
            yield f"{conversation_id}: message_id {message_id} is stored {count} times"
    keys = collections.Counter((message["from"], message["client_id"]) for message in messages)
    for key, count in keys.items():
        if count > 1:
            yield f"{conversation_id}: {key} is stored {count} times"
    for sender in {message["from"] for message in messages}:
        stored = [message["client_id"] for message in messages if message["from"] == sender]
        places = {client_id: n for n, client_id in enumerate(history.sent.get((conversation_id, sender), []))}
        if unknown := [client_id for client_id in stored if client_id not in places]:
            yield f"{conversation_id}: {sender} never sent {unknown[:3]}"
        order = [places[client_id] for client_id in stored if client_id in places]
        if order != sorted(order):
            place = next(n for n in range(1, len(order)) if order[n] < order[n - 1])
            yield f"{conversation_id}: messages of {sender} are out of order at {stored[place]}"


def problems(history, archive):
    """Everything that the server must not have done; an empty list is the pass.

    Args:
        history: what the clients saw.
        archive: {conversation_id: [message, ascending by seq]}, as pulled at the end.
    """
    found = list(history.contradictions)
    by_key, by_place = {}, {}
    for conversation_id, messages in archive.items():
        found += _archive_problems(history, conversation_id, messages)
        for message in messages:
            by_key[conversation_id, message["from"], message["client_id"]] = message
            by_place[conversation_id, message["seq"]] = message
    for (conversation_id, sender, client_id), (seq, message_id) in history.acked.items():
        message = by_key.get((conversation_id, sender, client_id))
        if message is None:
            found.append(f"{conversation_id}: {client_id} of {sender} was acked as {seq} and is lost")
        elif (message["seq"], message["message_id"]) != (seq, message_id):
            place = message["seq"]
            found.append(f"{conversation_id}: {client_id} of {sender} was acked as {seq}, is stored as {place}")
    for name, run in history.runs:
        for conversation_id, messages in run.items():
            last = 0
            for message in messages:
                if message["seq"] <= last:
                    found.append(f"{name}: {conversation_id} {message['seq']} was pushed after {last}")
                last = message["seq"]
                if by_place.get((conversation_id, message["seq"])) != message:
                    found.append(f"{name}: {conversation_id} {message['seq']} was pushed but is not what is stored")
    return found


def unacked(history):
    """The messages that were sent and never acked, as (conversation_id, sender, client_id)."""
    return [
        (conversation_id, sender, client_id)
        for (conversation_id, sender), client_ids in history.sent.items()
        for client_id in client_ids
        if (conversation_id, sender, client_id) not in history.acked
    ]
