"""Two users on four devices do things in any order; a model of a few lines tells what each answer and push must be."""

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import CHANGES, JSON, MARK_READ, MESSAGE, PULL, READ, SEND, SEND_BATCH, SYNC, direct

DEVICE = st.integers(0, 3)
KEY = st.integers(0, 5)
CONTENT = st.sampled_from([("text", "a"), ("text", "b"), ("custom", "a"), ("custom", {"n": [1, None, "ä"]})])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), DEVICE, KEY, CONTENT),
        st.tuples(st.just("fleeting"), DEVICE, CONTENT),
        st.tuples(st.just("batch"), DEVICE, st.lists(st.tuples(KEY, CONTENT), min_size=1, max_size=4)),
        st.tuples(st.just("mark"), DEVICE, st.floats(0, 1)),
        st.tuples(st.just("reconnect"), DEVICE),
    ),
    max_size=30,
)
_numbers = itertools.count()


class Model:
    """What two users' conversation must look like.

    Attributes:
        stored: (sender, key, type, body), in the order of seq.
        read: user -> read_seq.
        pushes: device -> what it must have been pushed, as (command, …) tuples.
    """

    def __init__(self, users):
        self.users = users
        self.stored = []
        self.read = dict.fromkeys(users, 0)
        self.pushes = {device: [] for device in range(4)}

    def unread(self, user):
        return sum(1 for sender, *_ in self.stored[self.read[user] :] if sender != user)

    def push(self, what, except_device):
        for device, pushes in self.pushes.items():
            if device != except_device:
                pushes.append(what)

    def send(self, device, key, content):
        """The (code, seq, duplicate) that a send must give."""
        user = self.users[device % 2]
        for seq, (sender, known_key, *known) in enumerate(self.stored, 1):
            if (sender, known_key) == (user, key):
                return (0, seq, True) if tuple(known) == content else (409, None, False)
        self.stored.append((user, key, *content))
        seq = self.read[user] = len(self.stored)
        self.push((MESSAGE, seq, user, *content), device)
        return 0, seq, False


def told(answer):
    """An answer to SEND as `Model.send` has it."""
    return answer["code"], answer.get("seq"), answer.get("duplicate", False)


def heard(frame):
    """A push as the model has it."""
    body = frame.body
    if frame.command == READ:
        return READ, body["user_id"], body["seq"]
    return frame.command, body.get("seq"), body["from"], body["type"], body["body"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_any_order_of_things(sharded_server, operations):
    """Each answer, each device's pushes in their order, the archive, the changes and the unread counts."""
    number = next(_numbers)
    users = [f"model-{number}-{name}" for name in "ab"]
    conversation = direct(*users)

    def connect(device):
        return sharded_server.integrated(users[device % 2], flags=JSON if device == 2 else 0)

    devices = [connect(device) for device in range(4)]
    model = Model(users)

    def fields(key, content):
        return {"conversation_id": conversation, "client_id": f"k{key}", "type": content[0], "body": content[1]}

    for name, device, *arguments in operations:
        client, user = devices[device], users[device % 2]
        if name == "send":
            assert told(client.call(SEND, **fields(*arguments))) == model.send(device, *arguments)
        elif name == "fleeting":
            (content,) = arguments
            client.ok(SEND, store=False, **fields("fleeting", content))
            model.push((MESSAGE, None, user, *content), device)
        elif name == "batch":
            results = client.ok(SEND_BATCH, messages=[fields(*pair) for pair in arguments[0]])["results"]
            assert [told(result) for result in results] == [model.send(device, *pair) for pair in arguments[0]]
        elif name == "mark" and model.stored:
            seq = 1 + int(arguments[0] * (len(model.stored) - 1))
            if seq > model.read[user]:
                model.read[user] = seq
                model.push((READ, user, seq), device)
            assert client.ok(MARK_READ, conversation_id=conversation, seq=seq)["unread"] == model.unread(user)
        elif name == "reconnect":
            barrier(devices, model, conversation)
            client.close()
            devices[device] = connect(device)
    barrier(devices, model, conversation)
    for device, client in enumerate(devices):
        user = users[device % 2]
        (row,) = client.ok(SYNC)["conversations"]
        assert (row["last_seq"], row["unread"]) == (len(model.stored), model.unread(user))
        assert row["read_seq"] == model.read[user]
        messages = client.ok(PULL, conversation_id=conversation, limit=500)["messages"]
        assert [message["seq"] for message in messages] == list(range(1, len(model.stored) + 1))
        assert [(message["from"], message["type"], message["body"]) for message in messages] == [
            (sender, *content) for sender, _, *content in model.stored
        ]
        assert client.ok(CHANGES, conversation_id=conversation, since_rev=0, limit=500)["messages"] == messages
        client.close()


def barrier(devices, model, conversation):
    """One more message from each side, so that every device has heard what it will hear; then compare all of it."""
    for device in (0, 1):
        key, content = f"barrier-{len(model.stored)}", ("text", "barrier")
        expected = model.send(device, key, content)
        answer = devices[device].call(SEND, conversation_id=conversation, client_id=key, type="text", body="barrier")
        assert told(answer) == expected
    for device, client in enumerate(devices):
        while len(client.pushes) < len(model.pushes[device]):
            client._sort(client.read_frame())
        assert [heard(frame) for frame in client.pushes] == model.pushes[device]
        client.pushes.clear()
        model.pushes[device].clear()
