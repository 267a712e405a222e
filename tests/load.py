"""Clients for the tests under load: senders that resend what was not answered, receivers that come back."""

import threading
import time

from wire import MESSAGE, PATIENCE_S, PUSH_ACK, SEND, ClosedByServer, NothingCame, direct

#: What a connection that the server ends may raise.
GONE = (ClosedByServer, ConnectionError, NothingCame)


class Sender:
    """Keeps `window` messages in flight to several people, in turn; remembers what is not answered.

    `run` uses one connection until it ends or `stop` is set; the next `run` first resends what was not answered, under
    the same client_ids and in the same order, so that a sender's messages stay in its own order. A refusal (503) ends
    the run; with a window of one the message is sent again at once.
    """

    def __init__(self, history, name, people, window):
        self.history = history
        self.name = name
        self.people = people
        self.window = window
        self.count = 0
        self.unanswered = {}  # client_id -> to, in the order first sent
        self.refused = 0
        self.acked = 0
        self.errors = []

    def _post(self, client, client_id, to):
        return client.post(SEND, to=to, client_id=client_id, body=f"{client_id} of {self.name}")

    def _settle(self, client_id, answer):
        if answer["code"] == 0:
            to = self.unanswered.pop(client_id)
            conversation_id = direct(self.name, to)
            assert answer["conversation_id"] == conversation_id
            self.history.ack(conversation_id, self.name, client_id, answer["seq"], answer["message_id"])
            self.acked += 1
        elif answer["code"] == 503:
            self.refused += 1
        else:
            self.errors.append(answer)

    def run(self, client, stop):
        """Send until `stop` is set or the connection ends; an unexpected answer ends it too."""
        in_flight = {}
        try:
            for client_id, to in list(self.unanswered.items()):
                in_flight[self._post(client, client_id, to)] = client_id
            while in_flight or not stop.is_set():
                while len(in_flight) < self.window and not stop.is_set():
                    to = self.people[self.count % len(self.people)]
                    client_id = f"{self.name}-{self.count}"
                    self.count += 1
                    self.unanswered[client_id] = to
                    self.history.send(direct(self.name, to), self.name, client_id)
                    in_flight[self._post(client, client_id, to)] = client_id
                rid = next(iter(in_flight))
                answer = client.answer(rid)
                client_id = in_flight.pop(rid)
                self._settle(client_id, answer)
                if answer["code"] == 503 and self.window == 1:
                    in_flight[self._post(client, client_id, self.unanswered[client_id])] = client_id
                elif answer["code"] == 503:
                    # What follows a refusal would overtake it: collect the answers, send no more.
                    for left, client_id in list(in_flight.items()):
                        self._settle(client_id, client.answer(left))
                        del in_flight[left]
                    return
        except GONE:
            # Answers that had arrived before the end are answers.
            for rid, client_id in in_flight.items():
                if rid in client.responses:
                    self._settle(client_id, client.responses.pop(rid))
        except Exception as exc:
            self.errors.append(exc)
        finally:
            client.close()


class Receiver:
    """Reads pushes and confirms them now and then; checks nothing itself but fills the history."""

    def __init__(self, history, name, *, device_id, deliver):
        self.history = history
        self.name = name
        self.options = {"device_id": device_id, "deliver": deliver}
        self.seen = {}  # conversation_id -> the highest seq so far, over all connections
        self.holes = []
        self.errors = []

    def run(self, client):
        """Read until the connection ends."""
        run = self.history.run(f"{self.name}/{self.options['device_id']}")
        missed = self.options["deliver"] == "missed"
        count = 0
        try:
            while True:
                frame = client.pushes.popleft() if client.pushes else client.read_frame(PATIENCE_S)
                if frame.command != MESSAGE:
                    continue
                message = frame.body
                conversation_id, seq = message["conversation_id"], message["seq"]
                # A device with `missed` never meets a hole: within a connection, and from one to the next.
                before = run[conversation_id][-1]["seq"] if run[conversation_id] else self.seen.get(conversation_id, 0)
                if missed and seq > before + 1:
                    self.holes.append((conversation_id, before, seq))
                run[conversation_id].append(message)
                self.seen[conversation_id] = max(seq, self.seen.get(conversation_id, 0))
                count += 1
                if count % 16 == 0:
                    client.send(PUSH_ACK, {"acks": {key: part[-1]["seq"] for key, part in run.items()}})
        except (ClosedByServer, ConnectionError):
            pass
        except Exception as exc:
            self.errors.append(exc)
        finally:
            client.close()


def start(target, *args):
    """A thread, running."""
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def join(threads):
    """Wait for all the threads; a thread that does not end fails the test."""
    deadline = time.monotonic() + 3 * PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), "a client did not come to its end"
