"""Four users ask, answer, part and block in any order; a model of a few lines tells every answer, push and list."""

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import SEND

FRIEND_REQUEST, FRIEND_ANSWER, LIST_FRIENDS, LIST_FRIEND_REQUESTS, DELETE_FRIEND = 3001, 3002, 3003, 3004, 3005
BLOCK, UNBLOCK, LIST_BLOCKED, SET_REMARK = 3006, 3007, 3008, 3009
FRIEND = 5007

USERS = 4
PAIR = st.permutations(range(USERS)).map(lambda order: tuple(order[:2]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["ask", "delete", "block", "unblock", "say"]), PAIR),
        st.tuples(st.sampled_from(["ask", "accept", "decline"]), PAIR),
        st.tuples(st.just("remark"), PAIR, st.sampled_from(["x", "y", ""])),
    ),
    max_size=40,
)
_numbers = itertools.count()


class Model:
    """What is known of four users.

    Attributes:
        friends: pairs, in both orders.
        remarks: (user, friend) -> text.
        requests: (sender, recipient) -> [state, name]; a name stands for the id that the server gives.
        blocks: (user, blocked).
        pushes: user -> (event, other, request's name).
    """

    def __init__(self):
        self.friends = set()
        self.remarks = {}
        self.requests = {}
        self.blocks = set()
        self.pushes = {user: [] for user in range(USERS)}
        self.names = itertools.count()

    def tell(self, user, event, other, name=None):
        self.pushes[user].append((event, other, name))

    def unite(self, a, b):
        self.friends |= {(a, b), (b, a)}

    def ask(self, me, other):
        """(code or error, the request's name)."""
        if (me, other) in self.friends:
            return "already_friends", None
        if (me, other) in self.blocks:
            return "conflict", None
        crossed = self.requests.get((other, me))
        if crossed is not None and crossed[0] == "pending":
            crossed[0] = "accepted"
            self.unite(me, other)
            self.tell(me, "accepted", other, crossed[1])
            self.tell(other, "accepted", me, crossed[1])
            return 0, crossed[1]
        known = self.requests.get((me, other))
        if known is None or known[0] != "pending":
            known = self.requests[me, other] = ["pending", next(self.names)]
            if (other, me) not in self.blocks:
                self.tell(other, "requested", me, known[1])
        return 0, known[1]

    def reply(self, me, sender, state):
        """The code or error of an answer to what the sender last asked."""
        request = self.requests.get((sender, me))
        if request is None or (me, sender) in self.blocks:
            return "not_found"
        if request[0] != "pending":
            return 0 if request[0] == state else "conflict"
        request[0] = state
        self.tell(sender, state, me, request[1])
        if state == "accepted":
            self.unite(me, sender)
        return 0

    def delete(self, me, other):
        if (me, other) not in self.friends:
            return "not_found"
        self.friends -= {(me, other), (other, me)}
        for pair in ((me, other), (other, me)):
            self.remarks.pop(pair, None)
            if self.requests.get(pair, [""])[0] == "accepted":
                del self.requests[pair]
        self.tell(other, "deleted", me)
        return 0

    def block(self, me, other):
        self.blocks.add((me, other))
        if self.requests.get((me, other), [""])[0] == "pending":
            del self.requests[me, other]
        return 0

    def remark(self, me, other, text):
        if (me, other) not in self.friends:
            return "not_found"
        self.remarks[me, other] = text
        return 0


class World:
    """The model beside the server; each step is done to both."""

    def __init__(self, server):
        prefix = f"model-{next(_numbers)}"
        self.clients = [server.integrated(f"{prefix}-{n}") for n in range(USERS)]
        self.ids = [client.user for client in self.clients]
        self.model = Model()
        self.request_ids = {}

    def check(self, answer, expected):
        """Whether the server answered as the model says: 0 or the name of an error."""
        assert (answer["error"] if answer["code"] else 0) == expected, answer

    def ask(self, me, other):
        answer = self.clients[me].call(FRIEND_REQUEST, user_id=self.ids[other])
        expected, name = self.model.ask(me, other)
        self.check(answer, expected)
        if expected == 0:
            assert self.request_ids.setdefault(name, answer["request_id"]) == answer["request_id"]

    def accept(self, me, sender):
        self.reply(me, sender, "accepted")

    def decline(self, me, sender):
        self.reply(me, sender, "declined")

    def reply(self, me, sender, state):
        request = self.model.requests.get((sender, me))
        request_id = "none" if request is None else self.request_ids[request[1]]
        answer = self.clients[me].call(FRIEND_ANSWER, request_id=request_id, accept=state == "accepted")
        self.check(answer, self.model.reply(me, sender, state))

    def delete(self, me, other):
        self.check(self.clients[me].call(DELETE_FRIEND, user_id=self.ids[other]), self.model.delete(me, other))

    def block(self, me, other):
        self.check(self.clients[me].call(BLOCK, user_id=self.ids[other]), self.model.block(me, other))

    def unblock(self, me, other):
        self.model.blocks.discard((me, other))
        self.check(self.clients[me].call(UNBLOCK, user_id=self.ids[other]), 0)

    def remark(self, me, other, text):
        answer = self.clients[me].call(SET_REMARK, user_id=self.ids[other], remark=text)
        self.check(answer, self.model.remark(me, other, text))

    def say(self, me, other):
        answer = self.clients[me].call(SEND, to=self.ids[other], client_id=f"c-{next(_numbers)}", body="x", store=False)
        self.check(answer, "blocked" if (other, me) in self.model.blocks else 0)

    def compare(self):
        """All lists and pushes, and who may write to whom."""
        model, ids = self.model, self.ids
        for me, client in enumerate(self.clients):
            friends = {entry["user_id"]: entry for entry in client.ok(LIST_FRIENDS)["friends"]}
            assert set(friends) == {ids[b] for a, b in model.friends if a == me}
            for other in range(USERS):
                if ids[other] in friends:
                    assert friends[ids[other]].get("remark", "") == model.remarks.get((me, other), "")
                    assert friends[ids[other]]["online"] == ((other, me) not in model.blocks)
            blocked = [user["user_id"] for user in client.ok(LIST_BLOCKED)["users"]]
            assert blocked == sorted(ids[b] for a, b in model.blocks if a == me)
            for direction in ("in", "out"):
                found = client.ok(LIST_FRIEND_REQUESTS, direction=direction, state="all")["requests"]
                listed = {(entry["request_id"], entry["user_id"], entry["state"]) for entry in found}
                assert listed == {
                    (self.request_ids[name], ids[sender if direction == "in" else recipient], state)
                    for (sender, recipient), (state, name) in model.requests.items()
                    if me == (recipient if direction == "in" else sender)
                    and (direction == "out" or (me, sender) not in model.blocks)
                }
            for other in range(USERS):
                self.say(me, other)
            expected = [
                (event, ids[other], None if name is None else self.request_ids[name])
                for event, other, name in model.pushes[me]
            ]
            pushes = [client.push(FRIEND) for _ in expected]
            told = [(push["event"], push["user_id"], push.get("request_id")) for push in pushes]
            assert [frame for frame in client.pushes if frame.command == FRIEND] == []
            # Of different users' doings the order is nobody's promise.
            assert sorted(told, key=repr) == sorted(expected, key=repr)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_order(sharded_server, steps):
    """After any steps the server is where the model is, and has answered and told what the model says."""
    world = World(sharded_server)
    try:
        for name, pair, *more in steps:
            getattr(world, name)(*pair, *more)
        world.compare()
    finally:
        for client in world.clients:
            client.close()
